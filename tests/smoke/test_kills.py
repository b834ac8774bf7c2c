"""Killed at many random moments, a chain of the same command ends with the numbers of an undisturbed run."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest
import yaml

from crypsis.jsonlines import read_rows
from crypsis.store import METRICS, RESULT
from tests.conftest import Crypsis
from tests.damage import numbers
from tests.smoke.at_work import work
from tests.smoke.test_interrupt import cmdline

pytestmark = [pytest.mark.smoke, pytest.mark.stress]

FORKS = multiprocessing.get_context("forkserver")
"""Each killed process is forked from one that has imported everything and done nothing."""
FORKS.set_forkserver_preload(["tests.smoke.at_work"])
KILLS = 100
"""At least so many in all."""
LONGEST = 200
"""Kills of a chain, which fails if it is not done by then."""


@pytest.fixture(scope="module")
def config(nano_organism: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "run.yaml"
    rl = {"steps": 12, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 64, "checkpoint_every": 1}
    run = {"name": "killed", "policy": str(nano_organism), "rl": rl, "evaluation": {"every": 3, "n": 6}}
    file.write_text(yaml.safe_dump(run))
    return file


@pytest.fixture(scope="module")
def straight(config: Path, tmp_path_factory: pytest.TempPathFactory, crypsis_here: Crypsis) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    done = crypsis_here("train", config, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_hundred_random_kills(config: Path, straight: Path, tmp_path: Path, crypsis_here: Crypsis) -> None:
    """The moment of each kill is drawn between the start of work in the folder and that of some steps."""
    rng, kills, chains = random.Random(20), 0, 0
    while kills < KILLS:
        out = tmp_path / f"chain{chains}"
        for _ in range(LONGEST):
            if (out / RESULT).exists():
                break
            kills += killed_once(["train", str(config), "--out", str(out)], out, rng)
        assert (out / RESULT).exists()
        assert numbers(out) == numbers(straight)
        assert not [path for path in out.rglob("*.tmp")], "half-written files are cleared away"
        assert crypsis_here("check", out).returncode == 0
        chains += 1
    print(f"{kills} kills in {chains} chains, all identical")


def killed_once(arguments: list[str], out: Path, rng: random.Random) -> bool:
    """Starts a command and kills it after a random time of work; False if it was done first."""
    command = FORKS.Process(target=work, args=(arguments,))
    begun, rows = out / ".begun", len(read_rows(out / METRICS))
    begun.unlink(missing_ok=True)
    command.start()
    while not begun.exists():
        if not command.is_alive():
            return done(command)
        time.sleep(0.005)
    pace = max((row["seconds_total"] for row in read_rows(out / METRICS)), default=0.3)
    command.join(rng.uniform(0.0, 6.0 * pace * (1 + (rows == 0))))
    if not command.is_alive():
        return done(command)
    family = [c for c in psutil.Process(command.pid).children(recursive=True) if "spawn" in cmdline(c)]
    command.kill()
    command.join()
    psutil.wait_procs(family, timeout=30)
    return True


def done(command: ForkServerProcess) -> bool:
    assert command.exitcode == 0
    return False
