"""Ctrl-C: one line that says how to go on, exit 130, and no process left after two seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from crypsis.store import RESULT

pytestmark = pytest.mark.smoke


def ends_within() -> float:
    """Seconds: two on a machine with cores to spare, more where others want them too."""
    return 2.0 * max(1.0, 4.0 * os.getloadavg()[0] / (os.cpu_count() or 1))


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "crypsis", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        start_new_session=True,
    )


def interrupted(command: subprocess.Popen[str], begun: Callable[[], bool], whole_group: bool) -> str:
    """What a command prints to stderr that is interrupted once it has begun; fails if anything of it lives on."""
    deadline = time.monotonic() + 600
    while not begun():
        if command.poll() is not None or time.monotonic() > deadline:
            os.killpg(command.pid, signal.SIGKILL)
            pytest.fail(f"the command did not begin: {command.communicate()[1]}")
        time.sleep(0.02)
    family = [child for child in psutil.Process(command.pid).children(recursive=True) if "spawn" in cmdline(child)]
    if whole_group:
        os.killpg(command.pid, signal.SIGINT)
    else:
        os.kill(command.pid, signal.SIGINT)
    started = time.monotonic()
    _, said = command.communicate(timeout=60)
    psutil.wait_procs(family, timeout=ends_within())
    took = time.monotonic() - started
    assert command.returncode == 130, said
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert took < ends_within(), f"ended after {took:.1f} s"
    return said


def cmdline(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def write_run(folder: Path, policy: Path, **rl: int) -> Path:
    sizes = {"steps": 50, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 64, "checkpoint_every": 1}
    config = {"name": "interrupted", "policy": str(policy), "rl": sizes | rl, "evaluation": {"every": 100, "n": 4}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder / "run.yaml"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run(nano_organism: Path, tmp_path: Path, processes: int) -> None:
    config, out = write_run(tmp_path, nano_organism, processes=processes), tmp_path / "run"
    meetings = set(Path(tempfile.gettempdir()).glob("crypsis-*"))
    command = start("train", config, "--out", out)
    said = interrupted(command, lambda: (out / "checkpoints" / "step-0002").exists(), whole_group=True)
    assert said.strip().splitlines() == [
        "crypsis: interrupted; finished parts and the last checkpoints are kept; to go on from there: "
        f"crypsis train {config} --out {out}"
    ]
    assert not (out / RESULT).exists() and set(Path(tempfile.gettempdir()).glob("crypsis-*")) <= meetings


def test_a_study_whose_main_process_alone_is_interrupted(nano_organism: Path, tmp_path: Path) -> None:
    study = {
        "name": "interrupted",
        "scale": "nano",
        "organisms": {"tgg": {"name": "tgg", "steps": 40, "learning_rate": 0.001}},
        "arms": {"baseline": {"label": "baseline"}},
        "monitors": {"oracle": {"name": "oracle"}},
        "seeds": [0, 1],
        "workers": 2,
        "run": {
            "rl": {"steps": 60, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 64, "checkpoint_every": 1},
            "evaluation": {"every": 100, "n": 4},
        },
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    out = tmp_path / "study"
    command = start("study", "run", tmp_path / "study.yaml", "--out", out)
    said = interrupted(command, lambda: len(list(out.glob("runs/*/checkpoints/step-*"))) > 1, whole_group=False)
    assert len(said.strip().splitlines()) == 1 and said.strip().endswith(f"--out {out}")
