"""What one GPU does, in one command of at most 8 minutes: ``python -m benchmarks.gpu`` (``make gpu``).

Each part is a process with a time limit of its own, and its figures are written as soon as it has them, so that a part
that fails or takes too long costs nothing else. ``--rehearse`` runs all parts on the CPU with tiny shapes.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.shapes import QWEN3_4B, TINY, Size, grpo_step, learner_of, random_policy, step_operations
from crypsis.rl.engine.engine import DEFAULT, Engine
from crypsis.rl.engine.samplers import SamplingParams
from crypsis.rl.engine.samplers import shared_prefix as shared
from crypsis.rl.engine.scoring import TrainRow, token_logprobs
from crypsis.rl.loss import accumulate_gradients
from crypsis.store import write_json

PEAKS = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12}
"""Dense bfloat16 operations per second as the maker states them, by what a GPU's name contains."""
PADDED = Engine(why_padded="for comparison")
SHAPE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8}
EXACT: dict[str, Any] = SHAPE | {"num_key_value_heads": 2, "head_dim": 32, "vocab_size": 4096}
BARS = {"float32": 1e-3, "bfloat16": 0.2}
"""Largest difference of a log-probability between two ways to compute it, in nats."""


def exactness(rehearse: bool) -> dict[str, Any]:
    """Log-probabilities and gradients: shared against padded, and bfloat16 against float32."""
    device, shape = place(), TINY if rehearse else EXACT
    size = Size(16, 40, 30, 8) if rehearse else Size(64, 300, 260, 64)
    found: dict[str, Any] = {}
    for lora in (False, True):
        gradients = {}
        full = random_policy(shape, torch.float32, device, lora, qwen=True)
        prompts = size.prompts(1, shape["vocab_size"])
        sampled = shared.sample(full.model, prompts, SamplingParams(8, size.new, [], seed=1))
        rows = [
            TrainRow(prompts[i // 8], s.ids, [1] * len(s.ids), 1.0 - i % 3) for i, s in enumerate(sampled)
        ]  # fmt: skip
        for dtype in (torch.float32, torch.bfloat16):
            policy = random_policy(shape, dtype, device, lora, qwen=True)
            name = f"{'lora' if lora else 'full'}_{str(dtype).removeprefix('torch.')}"
            with policy.computing():
                one, other = (torch.tensor(token_logprobs(policy.model, rows, form=f)) for f in ("shared", "padded"))
                accumulate_gradients(policy.model, rows)
            trained = [p.grad for p in policy.model.parameters() if p.grad is not None]
            gradients[dtype] = torch.cat([g.flatten().double().cpu() for g in trained])
            error = (one - other).abs().max().item()
            bar = BARS[str(dtype).removeprefix("torch.")]
            found[name] = {"shared_against_padded_nats": error, "bar": bar, "passed": error < bar}
        a, b = gradients[torch.bfloat16], gradients[torch.float32]
        distance = ((a - b).norm() / b.norm()).item()
        found[f"{'lora' if lora else 'full'}_gradient_distance"] = {
            "relative": distance, "bar": 0.05, "passed": distance < 0.05,
        }  # fmt: skip
    return found


def step(rehearse: bool, engine: Engine, episodes: int) -> dict[str, Any]:
    """Steps of LoRA in bfloat16: the second one counts."""
    device, shape = place(), TINY if rehearse else QWEN3_4B
    size = Size(16, 40, 30, 8) if rehearse else Size(episodes, 1230, 1168, 500)
    policy = random_policy(shape, torch.bfloat16, device, lora=True, qwen=True)
    learner = learner_of(policy, size, engine)
    small = Size(16, size.prompt, size.shared, min(size.new, 16))
    grpo_step(policy, learner, small, 1, engine)  # kernels are chosen and memory is taken
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found = grpo_step(policy, learner, size, 2, engine)
    operations = step_operations(size, shape, frozen=True)
    peak = next((rate for name, rate in PEAKS.items() if device == "cuda" and name in device_name()), None)
    found |= {"episodes": size.episodes, "operations": operations, "memory_gb": memory_gb()}
    seconds = {phase: found[f"{phase}_seconds"] for phase in operations}
    found["operations_per_second"] = {phase: operations[phase] / seconds[phase] for phase in operations}
    found["of_peak"] = peak and {phase: rate / peak for phase, rate in found["operations_per_second"].items()}
    return found


def vllm(rehearse: bool) -> dict[str, Any]:
    """New tokens per second of vLLM with its prefix cache, where it is installed."""
    if importlib.util.find_spec("vllm") is None:
        return {"skipped": "vllm is not installed"}
    import tempfile

    engine: Any = importlib.import_module("vllm")  # no dependency, so a type checker does not find it

    shape, size = (TINY, Size(16, 40, 30, 8)) if rehearse else (QWEN3_4B, Size(1024, 1230, 1168, 500))
    with tempfile.TemporaryDirectory() as folder:
        random_policy(shape, torch.bfloat16, "cpu", qwen=True).model.bfloat16().save_pretrained(folder)
        model = engine.LLM(
            folder, skip_tokenizer_init=True, dtype="bfloat16", enable_prefix_caching=True, max_model_len=2048
        )
        prompts = [{"prompt_token_ids": p} for p in size.prompts(2, shape["vocab_size"])]
        params = engine.SamplingParams(n=8, max_tokens=size.new, ignore_eos=True, detokenize=False)
        started = time.perf_counter()
        out = model.generate(prompts, params)
        seconds = time.perf_counter() - started
    tokens = sum(len(completion.token_ids) for request in out for completion in request.outputs)
    return {"new_tokens": tokens, "seconds": seconds, "new_tokens_per_second": tokens / seconds}


PARTS: dict[str, tuple[int, Callable[[bool], dict[str, Any]]]] = {
    "exactness": (60, exactness),
    "step_shared": (200, lambda rehearse: step(rehearse, DEFAULT, 1024)),
    "step_padded": (120, lambda rehearse: step(rehearse, PADDED, 64)),
    "vllm": (90, vllm),
}
"""Seconds that a part may take, and what it does. Rows that are computed whole are measured on 64 episodes."""


def place() -> str:
    """The device that is measured."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def memory_gb() -> float | None:
    """The most that tensors held on the GPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


def main(
    rehearse: Annotated[bool, typer.Option(help="Tiny shapes on the CPU: shows that all parts run.")] = False,
    out: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("benchmarks/gpu.json"),
    only: Annotated[str, typer.Option(help="One part, in this process.")] = "",
) -> None:
    """Measures one GPU; without one it says so and ends, unless it rehearses."""
    if only:
        torch.set_num_threads(1 if rehearse else torch.get_num_threads())
        print(json.dumps(PARTS[only][1](rehearse)))
        return
    if not torch.cuda.is_available() and not rehearse:
        raise SystemExit("no GPU that torch can use; --rehearse runs tiny shapes on the CPU")
    provenance = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "device": device_name()}
    results: dict[str, Any] = {"rehearsal": rehearse, "provenance": provenance | {"torch": torch.__version__}}
    for name, (limit, _) in PARTS.items():
        results[name] = run_part(name, limit, rehearse)
        write_json(out, results)
        print(f"{name}: {json.dumps(results[name])[:300]}", flush=True)
    print(f"written to {out}")
    failed = [name for name in PARTS if "error" in results[name]]
    if failed or not all(check["passed"] for check in results["exactness"].values()):
        raise SystemExit(f"failed: {', '.join(failed) or 'exactness'}")


def run_part(name: str, limit: int, rehearse: bool) -> dict[str, Any]:
    """The figures of a part, or why there are none."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", name, *(["--rehearse"] if rehearse else [])]
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if rehearse else {})
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {limit} seconds"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found | ({} if name == "exactness" else {"part_seconds": time.perf_counter() - started})


if __name__ == "__main__":
    typer.run(main)
