"""``--backend trl`` runs what our core runs: in one process or two, sharded, resumed, with an adapter, by vLLM."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from trl.generation import vllm_client, vllm_generation

from crypsis.config import dump_yaml, parse_config
from crypsis.digests import LEDGER
from crypsis.episodes import read_episodes
from crypsis.jsonlines import read_rows
from crypsis.models import load_policy
from crypsis.rl.trl import settings as trl_settings
from crypsis.run_config import RunConfig, run_seed
from crypsis.store import CONFIG, METRICS, RESULT, write_atomic
from crypsis.study.run import run_one
from crypsis.study.run_trl import run_by_trl
from tests.conftest import REPOSITORY
from tests.golden.trl_processes import SHARDED
from tests.golden.vllm_server import FakeVLLM, serving

pytestmark = [pytest.mark.golden, pytest.mark.filterwarnings("ignore::FutureWarning")]

STEPS = 2


@pytest.fixture(scope="module")
def settings(nano_organism: Path) -> dict[str, Any]:
    rl = {"steps": STEPS, "prompts_per_step": 4, "group_size": 4, "max_new_tokens": 128, "checkpoint_every": 1}
    return {
        "name": "both",
        "policy": str(nano_organism),
        # A small step: AdamW turns the rounding of small gradients into weights, and weights may turn a sampled token.
        "rl": rl | {"learning_rate": 2e-5, "micro_batch": 5},
        "mitigations": [{"name": "process_supervision", "monitor": "oracle"}],
        "evaluation": {"every": 2, "n": 2},
    }


@pytest.fixture(scope="module")
def config(settings: dict[str, Any]) -> RunConfig:
    return parse_config(RunConfig, settings, "test")


@pytest.fixture(scope="module")
def own(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run by our own core."""
    return run_one(config, tmp_path_factory.mktemp("own") / "run")


@pytest.fixture(scope="module")
def processes(settings: dict[str, Any], own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes: a run of their own by DDP, and by FSDP2 the rest of our core's run."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    rewound(own, folder / "fsdp2", settings | {"trl": SHARDED})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    jobs = [f"{folder}/ddp=ddp", f"{folder}/fsdp2=fsdp2"]
    done = subprocess.run(
        [*launcher, "-m", "tests.golden.trl_processes", folder / "run.yaml", *jobs],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def rewound(run: Path, to: Path, settings: dict[str, Any]) -> Path:
    """A copy of a finished run as it was when killed after the checkpoint before the last."""
    shutil.copytree(run, to, ignore=shutil.ignore_patterns(RESULT, "model", f"step-{STEPS:04d}*", ".lock", LEDGER))
    kept = settings | {"model": {"dtype": "float32"}}  # a run stores the type that it chose
    write_atomic(to / CONFIG, dump_yaml(parse_config(RunConfig, kept, "test")))
    return to


def weights(run: Path, file: str = "model/model.safetensors") -> dict[str, Tensor]:
    return load_file(run / file)


def assert_same_run(found: Path, expected: Path, steps: int = STEPS) -> None:
    """The same rows, episodes and evaluations; weights that moved alike."""
    rows, others = read_rows(found / METRICS), read_rows(expected / METRICS)
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert any(row["grad_norm"] > 0.1 for row in others) and any(row["dropped"] for row in others)
    for row, other in zip(rows, others, strict=True):
        measured = {n: value for n, value in other.items() if not n.startswith("seconds") and n != "alarm"}
        assert bool(row["alarm"]) == bool(other["alarm"])
        assert {name: row[name] for name in measured} == pytest.approx(measured, rel=1e-4, abs=1e-6)
    for kind in ("rollouts", "evals"):
        names = sorted(p.name for p in (expected / kind).iterdir())
        assert sorted(p.name for p in (found / kind).iterdir()) == names
        for name in names:
            assert episodes(found / kind / name) == episodes(expected / kind / name)
    assert all((run / RESULT).exists() for run in (found, expected))


def episodes(path: Path) -> list[dict[str, Any]]:
    """What was sampled and judged, without what float32 rounds."""
    rounded = ("reward", "advantage")
    return [{k: v for k, v in row.items() if k not in rounded} for row in read_episodes(path)]


def assert_same_weights(found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> None:
    """The updates agree to 0.1 %: AdamW makes steps of full size of gradients that are all rounding."""
    assert found.keys() == expected.keys()
    moved = sum(float((expected[name] - start[name]).pow(2).sum()) for name in expected) ** 0.5
    apart = sum(float((expected[name] - found[name]).pow(2).sum()) for name in expected) ** 0.5
    assert moved > 1e-3
    assert apart <= 1e-3 * moved


def test_one_process_runs_what_our_core_runs(config: RunConfig, own: Path, tmp_path: Path) -> None:
    run = run_by_trl(config, tmp_path / "run")
    assert_same_run(run, own)
    assert_same_weights(weights(run), weights(own), weights(config.policy, "model.safetensors"))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_run_what_one_runs(kind: str, processes: Path, config: RunConfig, own: Path) -> None:
    assert_same_run(processes / kind, own)
    assert_same_weights(weights(processes / kind), weights(own), weights(config.policy, "model.safetensors"))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_their_checkpoints_are_those_of_our_core(kind: str, processes: Path, own: Path) -> None:
    file = f"checkpoints/step-{STEPS:04d}/tensors.safetensors"
    found, expected = weights(processes / kind, file), weights(own, file)
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name].shape == expected[name].shape
        assert (found[name] - expected[name]).norm() <= 1e-3 * expected[name].norm(), name


def test_our_core_goes_on_from_their_checkpoint(
    processes: Path, settings: dict[str, Any], config: RunConfig, own: Path, tmp_path: Path
) -> None:
    folder = rewound(processes / "ddp", tmp_path / "run", settings)
    run_one(config, folder)
    assert_same_run(folder, own)
    assert_same_weights(weights(folder), weights(own), weights(config.policy, "model.safetensors"))


@pytest.mark.parametrize("model", [{"lora": {"r": 4}}, {"dtype": "bfloat16", "gradient_checkpointing": True}])
def test_adapters_and_precision_are_those_of_the_core(
    model: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    rl = settings["rl"] | {"length_correction": False, "steps": 1}
    config = parse_config(RunConfig, settings | {"model": model, "rl": rl}, "test")
    runs = [execute(config, tmp_path / name) for name, execute in (("own", run_one), ("trl", run_by_trl))]
    first, other = (read_rows(run / METRICS)[0] for run in runs)
    exact = "lora" in model
    assert first["loss"] == pytest.approx(other["loss"], abs=1e-6 if exact else 2e-3)
    assert first["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5 if exact else 0.05)
    if exact:
        assert_same_run(runs[1], runs[0], steps=1)
        assert not (runs[1] / "model" / "model.safetensors").exists()
        files = [weights(run, "model/adapter_model.safetensors") for run in runs]
        assert_same_weights(files[1], files[0], {n: torch.zeros_like(t) for n, t in files[0].items()})


def test_a_vllm_server_samples_from_the_weights_of_every_step(
    config: RunConfig, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeVLLM(load_policy(config.policy), lambda step: run_seed(config.seed, step))

    class Transfer:
        """In place of NCCL, which needs GPUs."""

        @staticmethod
        def trainer_send_weights(iterator: Iterator[tuple[str, Tensor]], trainer_args: Any) -> None:
            for name, tensor in iterator:
                fake.weights.put((name, tensor.clone()))

    for module in (vllm_client, vllm_generation, trl_settings):
        monkeypatch.setattr(module, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_client, "NCCLWeightTransferEngine", Transfer, raising=False)
    monkeypatch.setattr(vllm_client, "NCCLTrainerSendWeightsArgs", dict, raising=False)
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", lambda *_, **__: None)
    with serving(fake) as address:
        options = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": address, "vllm_server_timeout": 5}
        run = run_by_trl(config.model_copy(update={"trl": options}), tmp_path / "run")
    assert_same_run(run, own)
    before_last = weights(run, f"checkpoints/step-{STEPS - 1:04d}/tensors.safetensors")
    for name, tensor in fake.policy.model.named_parameters():
        assert torch.equal(tensor, before_last[f"model.{name}"]), "the last sample came from the weights before it"
    asked = [path for path, _ in fake.requests]
    step = [
        "/start_weight_update",
        "/update_weights",
        "/finish_weight_update",
        "/reset_prefix_cache",
        "/v1/completions",
    ]
    assert asked == step * STEPS
    assert all(len(body["prompt"]) == 4 and body["n"] == 4 for path, body in fake.requests if path == step[-1])
    for row in read_rows(run / METRICS):
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
