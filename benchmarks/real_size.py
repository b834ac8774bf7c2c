"""The engine at the shape of SmolLM2-135M against TRL and the floor: ``python -m benchmarks.real_size``.

Weights are random, so nothing is downloaded. Both engines compute in the type that ``model.dtype=auto`` takes on this
machine. Figures are added to ``benchmarks/results.json``; ``--scaled`` writes a smaller job beside them.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
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
from crypsis.pretrained.precision import measure
from crypsis.rl.engine.cascade_attention import gemm_precision
from crypsis.store import write_json


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: a shape, a job for each length of prompts, and jobs of ours alone for growth."""

    shape: dict[str, Any]
    prompts: tuple[int, ...]
    episodes: int
    new: int
    words: tuple[int, ...]
    growth_episodes: int


PLANS = {
    "full": Plan(SMOLLM2, (320, 1200), 64, 128, (2048, 49_152, 151_936), 16),
    "scaled": Plan(SMOLLM2 | {"num_hidden_layers": 6}, (320, 1200), 16, 32, (2048, 49_152, 151_936), 8),
    "quick": Plan(TINY | {"vocab_size": 2048}, (40,), 8, 4, (2048, 4096), 8),
}


def main(
    quick: Annotated[bool, typer.Option(help="Tiny sizes: shows that the code runs, measures nothing.")] = False,
    scaled: Annotated[bool, typer.Option(help="6 layers, 16 episodes, 32 new tokens.")] = False,
    out: Annotated[Path, typer.Option(help="The results file that the figures are added to.")] = Path(
        "benchmarks/results.json"
    ),
) -> None:
    """Compares one step of ours with one of TRL, full and LoRA, in one process with one thread."""
    torch.set_num_threads(1)
    keep_memory()
    name = "quick" if quick else "scaled" if scaled else "full"
    found = compare(PLANS[name], lambda what: print(what, flush=True))
    known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    suffix = "" if name == "full" else f"_{name}"
    fraction = f"floor_fraction_{'bf16' if found['dtype'] == 'bfloat16' else 'float32'}{suffix}"
    details = {key: value for key, value in found.items() if key not in ("ratios", "floor_fraction")}
    known |= {f"real_size{suffix}": found["ratios"], fraction: found["floor_fraction"]}
    write_json(out, known | {f"real_size_details{suffix}": details})
    print(json.dumps({"ratios": found["ratios"], fraction: found["floor_fraction"], "growth": found["growth"]}))


def compare(plan: Plan, log: Any) -> dict[str, Any]:
    """All figures of a plan."""
    chosen = measure(plan.shape["hidden_size"], plan.shape["intermediate_size"])
    dtype = torch.bfloat16 if chosen.dtype == "bfloat16" else torch.float32
    ratios, fractions, steps = {}, {}, {}
    for prompt in plan.prompts:
        job = Job(prompt, episodes=plan.episodes, completion=plan.new)
        for lora in (False, True):
            name = f"{prompt}{'_lora' if lora else ''}"
            log(f"{name}: crypsis")
            ours = _ours(job, plan.shape, dtype, lora)
            log(f"{name}: TRL")
            model = random_policy(plan.shape, dtype, lora=lora).model
            low = dtype == torch.bfloat16
            theirs = trl_rounds(job, lambda: None, lambda: None, model, low)
            ratios[name] = sum(s.seconds for s in theirs) / ours.seconds
            floor = _floor(job, plan.shape, dtype, lora)
            fractions[name] = sum(floor.values()) / ours.seconds
            decoding = floor["decoding"] / ours.phases["sampling"]
            steps[name] = {
                "crypsis_seconds": ours.seconds, "trl_seconds": [s.seconds for s in theirs], "phases": ours.phases,
                "floor_seconds": floor, "decoding_of_floor": decoding, "tokens": ours.tokens,
            }  # fmt: skip
            log(f"{name}: {ratios[name]:.1f} times TRL, {fractions[name]:.0%} of the floor, decoding {decoding:.0%}")
    return {
        "ratios": ratios,
        "floor_fraction": fractions,
        "dtype": chosen.dtype,
        "steps": steps,
        "growth": _growth(plan, dtype, log),
        "plan": {"layers": plan.shape["num_hidden_layers"], "episodes": plan.episodes, "new_tokens": plan.new},
        "provenance": {"date": datetime.now(UTC).isoformat(timespec="seconds"), "cpu": cpu_name()},
    }


def _ours(job: Job, shape: dict[str, Any], dtype: torch.dtype, lora: bool) -> Step:
    """The second of two steps, so that kernels are chosen and moments are there, as in a run."""
    engine = Ours(job, random_policy(shape, dtype, lora=lora))
    engine.step()
    return engine.step()


def _growth(plan: Plan, dtype: torch.dtype, log: Any) -> dict[str, dict[str, float]]:
    """Seconds of our LoRA step by number of words, and by length of the prompt."""
    by_words, by_prompt = {}, {}
    for words in plan.words:
        log(f"growth: {words} words")
        job = Job(plan.prompts[0], episodes=plan.growth_episodes, completion=plan.new)
        by_words[str(words)] = _ours(job, plan.shape | {"vocab_size": words}, dtype, lora=True).seconds
    for prompt in plan.prompts:
        log(f"growth: {prompt} tokens")
        job = Job(prompt, episodes=plan.growth_episodes, completion=plan.new)
        by_prompt[str(prompt)] = _ours(job, plan.shape, dtype, lora=True).seconds
    return {"seconds_by_words": by_words, "seconds_by_prompt_tokens": by_prompt}


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
