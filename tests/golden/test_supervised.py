"""Supervised training: two processes compute what one computes, and a killed base ends with the same weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import forked

pytestmark = pytest.mark.golden


def build(processes: str, fatal: str) -> None:
    """Trains a tiny base into the cache; killed in that descent, from 1."""
    from crypsis import supervised
    from crypsis.miniature.base import BaseConfig, build_base
    from crypsis.supervised import SupervisedConfig

    original, left = supervised._descend, int(fatal)

    def counted(*arguments: object) -> object:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)  # type: ignore[arg-type]

    supervised._descend = counted  # type: ignore[assignment]
    training = SupervisedConfig(steps=6, batch_size=4, checkpoint_every=2, warmup=2, precision="float32")
    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 2, "head_size": 16}
    config = {**shape, "curriculum": 2, "processes": int(processes), "training": training}
    with forked.helpers():
        print(build_base(BaseConfig.model_validate(config)))


def weights(cache: Path, processes: int, fatal: int = 0) -> Path:
    done = forked.function(build, str(processes), str(fatal), env={"CRYPSIS_CACHE": str(cache)})
    assert done.returncode == (-signal.SIGKILL if fatal else 0), done.stderr
    return Path(done.stdout.strip()) / "model.safetensors"


def test_two_processes_train_as_one_and_a_killed_base_resumes_to_the_same_weights(tmp_path: Path) -> None:
    one, two = (weights(tmp_path / f"p{n}", n) for n in (1, 2))
    single, double = load_file(one), load_file(two)
    # Muon orthogonalises in bfloat16, which amplifies the last bits of the gradients; a lost or doubled part of the
    # batch would show as differences of the size of a step (0.02).
    assert max(float((single[name] - double[name]).abs().mean()) for name in single) < 5e-4
    weights(tmp_path / "killed", 2, fatal=5)
    resumed = weights(tmp_path / "killed", 2)
    assert resumed.read_bytes() == two.read_bytes()
