"""The engine at the shape of SmolLM2-135M against TRL and the floor: ``python -m benchmarks.real_size``.

Weights are random, so nothing is downloaded. Both engines compute in the type that ``model.dtype=auto`` takes on this
machine, on one thread each; full fine-tuning and LoRA are measured side by side, each in a process of its own. A
machine whose products are slower than ``FAST`` does an eighth of the episodes with half of the new tokens, or TRL alone
would take an hour. Figures are added to ``docs/results/benchmarks.json``; ``--scaled`` writes those of a smaller job
beside them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.machine import cpu_name
from benchmarks.ours import Ours, Step
from benchmarks.shapes import SMOLLM2, TINY, Size, random_policy, step_operations
from benchmarks.with_trl import trl_rounds
from benchmarks.workload import Job, keep_memory, seconds
from crypsis.pretrained.precision import Measured, measure
from crypsis.rl.engine.cascade_attention import gemm_precision
from crypsis.store import write_json

FAST = 200.0
"""10⁹ operations per second and core from which the whole job is measured."""
FEWER = 8
"""How many times fewer episodes slower machines do."""
TRL_TOKENS = 1536
"""Tokens of a micro-batch of TRL, which holds the activations of all of them: 3,072 take 9 GB, and are no faster."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: a shape, a job for each length of prompts, and jobs of ours alone for growth."""

    shape: dict[str, Any]
    prompts: tuple[int, ...]
    episodes: int
    new: int
    words: tuple[int, ...]
    growth_episodes: int
    growth_new: int
    processes: int = 2


PLANS = {
    "full": Plan(SMOLLM2, (320, 1200), 64, 128, (2048, 49_152, 151_936), 16, 32),
    "scaled": Plan(SMOLLM2 | {"num_hidden_layers": 6}, (320, 1200), 16, 32, (2048, 49_152, 151_936), 8, 32),
    "quick": Plan(TINY | {"vocab_size": 2048}, (40,), 8, 4, (2048, 4096), 8, 4, processes=1),
}


def main(
    quick: Annotated[bool, typer.Option(help="Tiny sizes: shows that the code runs, measures nothing.")] = False,
    scaled: Annotated[bool, typer.Option(help="6 layers, 16 episodes, 32 new tokens.")] = False,
    out: Annotated[Path, typer.Option(help="The results file that the figures are added to.")] = Path(
        "docs/results/benchmarks.json"
    ),
) -> None:
    """Compares one step of ours with one of TRL, full and LoRA, on one thread each."""
    _prepare()
    name = "quick" if quick else "scaled" if scaled else "full"
    suffix = "" if name == "full" else f"_{name}"

    def keep(found: dict[str, Any]) -> None:
        """Writes what is known so far: a run that is stopped has lost nothing."""
        known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
        fraction = f"floor_fraction_{'bf16' if found['dtype'] == 'bfloat16' else 'float32'}{suffix}"
        details = {key: value for key, value in found.items() if key not in ("ratios", "floor_fraction")}
        known |= {f"real_size{suffix}": found["ratios"], fraction: found["floor_fraction"]}
        write_json(out, known | {f"real_size_details{suffix}": details})

    found = compare(PLANS[name], keep)
    print(json.dumps({"ratios": found["ratios"], "floor_fraction": found["floor_fraction"], "growth": found["growth"]}))


def compare(plan: Plan, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All figures of a plan; ``keep`` gets those that are known, whenever there are more."""
    started = datetime.now(UTC)
    chosen = measure(plan.shape["hidden_size"], plan.shape["intermediate_size"])
    if plan.shape is SMOLLM2 and max(chosen.float32_gflops, chosen.bfloat16_gflops) < FAST:
        plan = replace(plan, episodes=plan.episodes // FEWER, new=plan.new // 2, growth_episodes=8, growth_new=16)
    jobs = [(prompt, lora) for prompt in plan.prompts for lora in (False, True)]
    steps: dict[str, dict[str, Any]] = {}
    growth: dict[str, dict[str, float]] = {}

    def known() -> dict[str, Any]:
        names = [_name(*job) for job in jobs if _name(*job) in steps]
        return {
            "ratios": {name: steps[name]["ratio"] for name in names},
            "floor_fraction": {name: steps[name]["floor_fraction"] for name in names},
            "dtype": chosen.dtype,
            "products": asdict(chosen),
            "steps": steps,
            "growth": growth,
            "plan": {"layers": plan.shape["num_hidden_layers"], "episodes": plan.episodes, "new_tokens": plan.new},
            "provenance": {
                "date": started.isoformat(timespec="seconds"),
                "minutes": (datetime.now(UTC) - started).total_seconds() / 60,
                "load": os.getloadavg()[0],
                "cpu": cpu_name(),
                "command": "python -m benchmarks.real_size",
            },
        }

    if plan.processes == 1:
        for job in jobs:
            steps[_name(*job)] = against_trl(plan, chosen, *job)
        growth |= _growth(plan, chosen)
    else:
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(plan.processes, os.cpu_count() or 1), spawned, _prepare) as pool:
            waiting = {pool.submit(against_trl, plan, chosen, *job): _name(*job) for job in jobs}
            grown = pool.submit(_growth, plan, chosen)
            for done in as_completed(waiting):
                steps[waiting[done]] = done.result()
                keep(known())
            growth |= grown.result()
    keep(known())
    return known()


def _name(prompt: int, lora: bool) -> str:
    return f"{prompt}{'_lora' if lora else ''}"


def against_trl(plan: Plan, chosen: Measured, prompt: int, lora: bool) -> dict[str, Any]:
    """A step of ours, the floor, and a step of TRL."""
    dtype, job = _dtype(chosen), Job(prompt, episodes=plan.episodes, completion=plan.new)
    ours = _ours(job, plan.shape, dtype, lora)
    floor = _floor(job, plan.shape, dtype, lora)
    model = random_policy(plan.shape, dtype, lora=lora).model
    rows = next((n for n in (8, 4, 2) if n * (prompt + plan.new) <= TRL_TOKENS), 1)
    theirs = trl_rounds(job, lambda: None, lambda: None, model, dtype == torch.bfloat16, rows)
    found = {
        "ratio": sum(s.seconds for s in theirs) / ours.seconds,
        "floor_fraction": sum(floor.values()) / ours.seconds,
        "decoding_of_floor": floor["decoding"] / ours.phases["sampling"],
        "crypsis_seconds": ours.seconds,
        "trl_seconds": [s.seconds for s in theirs],
        "trl_micro_batch": rows,
        "phases": ours.phases,
        "floor_seconds": floor,
        "tokens": ours.tokens,
    }
    shown = f"{found['ratio']:.1f} times TRL, {found['floor_fraction']:.0%} of the floor"
    print(f"{_name(prompt, lora)}: {shown}, decoding {found['decoding_of_floor']:.0%}", flush=True)
    return found


def _prepare() -> None:
    torch.set_num_threads(1)
    keep_memory()


def _dtype(chosen: Measured) -> torch.dtype:
    return torch.bfloat16 if chosen.dtype == "bfloat16" else torch.float32


def _ours(job: Job, shape: dict[str, Any], dtype: torch.dtype, lora: bool) -> Step:
    """A step after one of few tokens, so that kernels are chosen and moments are there, as in a run."""
    engine = Ours(job, random_policy(shape, dtype, lora=lora))
    engine.job = replace(job, prompt=min(job.prompt, 40), completion=2)
    engine.step()
    engine.job = job
    return engine.step()


def _growth(plan: Plan, chosen: Measured) -> dict[str, dict[str, float]]:
    """Seconds of our LoRA step by number of words, and by length of the prompt."""

    def took(prompt: int, words: int) -> float:
        job = Job(prompt, episodes=plan.growth_episodes, completion=plan.growth_new)
        return _ours(job, plan.shape | {"vocab_size": words}, _dtype(chosen), lora=True).seconds

    return {
        "seconds_by_words": {str(words): took(plan.prompts[0], words) for words in plan.words},
        "seconds_by_prompt_tokens": {str(n): took(n, plan.shape["vocab_size"]) for n in plan.prompts},
    }


def _floor(job: Job, shape: dict[str, Any], dtype: torch.dtype, lora: bool) -> dict[str, float]:
    """Seconds of a step's matrix products: when decoding at its own shapes, when learning at the best rate."""
    size = Size(job.episodes, job.prompt, job.shared, job.completion)
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    queries, keys = (shape[f"num_{kind}_heads"] * shape["head_dim"] for kind in ("attention", "key_value"))
    products = [(width, queries + 2 * keys), (queries, width), (width, 2 * inner), (inner, width)]
    layer = sum(product_seconds(job.episodes, a, b, dtype, copies=8) for a, b in products)
    head = product_seconds(job.episodes, width, shape["vocab_size"], dtype)
    rows = 256
    rate = 2 * rows * width * inner / product_seconds(rows, width, inner, dtype)
    return {
        "decoding": job.completion * (shape["num_hidden_layers"] * layer + head),
        "learning": step_operations(size, shape, lora)["learning"] / rate,
    }


def product_seconds(rows: int, width: int, outer: int, dtype: torch.dtype, copies: int = 1) -> float:
    """CPU seconds of one product with weights that are not in the cache; the faster of two libraries."""
    x = torch.randn(rows, width).to(dtype)
    weights = [torch.randn(outer, width).to(dtype) for _ in range(copies)]
    found = []
    for precision in ("highest", "medium"):
        with gemm_precision(precision):
            taken = []
            for _ in range(5):
                started = seconds()
                for weight in weights:
                    torch.nn.functional.linear(x, weight)
                taken.append((seconds() - started) / copies)
            found.append(statistics.median(taken))
    return min(found)


if __name__ == "__main__":
    typer.run(main)
