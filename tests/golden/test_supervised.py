"""Supervised training: two processes compute what one computes, and a killed base ends with the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.golden

BUILD = """
import os, signal, sys
from crypsis import supervised
from crypsis.miniature.base import BaseConfig, build_base
from crypsis.supervised import SupervisedConfig

def main():
    processes, fatal = int(sys.argv[1]), int(sys.argv[2])
    original, calls = supervised._descend, []
    def counted(*arguments):
        calls.append(1)
        if len(calls) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)
    supervised._descend = counted
    training = SupervisedConfig(steps=4, batch_size=4, checkpoint_every=2, warmup=2, precision="float32")
    shape = dict(hidden_size=32, layers=1, heads=2, kv_heads=2, head_size=16)
    print(build_base(BaseConfig(**shape, curriculum=2, reading=0.0, processes=processes, training=training)))

if __name__ == "__main__":
    main()
"""


def build(cache: Path, processes: int, fatal: int = 0) -> tuple[int, str]:
    script = cache.with_suffix(".py")
    script.write_text(BUILD)
    environment = os.environ | {"CRYPSIS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(processes), str(fatal)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if fatal else 0), done.stderr
    return done.returncode, done.stdout.strip()


def test_two_processes_train_as_one_and_a_killed_base_resumes_to_the_same_weights(tmp_path: Path) -> None:
    one, two = (Path(build(tmp_path / f"p{n}", n)[1]) / "model.safetensors" for n in (1, 2))
    single, double = load_file(one), load_file(two)
    # Muon orthogonalises in bfloat16, which amplifies the last bits of the gradients; a lost or doubled part of the
    # batch would show as differences of the size of a step (0.02; a text too few in each part: 0.007).
    assert max(float((single[name] - double[name]).abs().mean()) for name in single) < 2e-3
    build(tmp_path / "killed", 2, fatal=5)
    resumed = Path(build(tmp_path / "killed", 2)[1]) / "model.safetensors"
    assert resumed.read_bytes() == two.read_bytes()
