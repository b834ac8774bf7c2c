"""Workers end with the process that started them, however early it dies; long work is not slowed by collections."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from crypsis.parallel import die_with_parent, settled

pytestmark = pytest.mark.unit


def worker(folder: Path, late: bool) -> None:
    """Says its id, and watches its parent before that one dies or ``late``, after."""
    if late:
        write(folder / "worker")
        while not (folder / "killed").exists():
            time.sleep(0.01)
    die_with_parent()
    write(folder / "watching")
    if not late:
        write(folder / "worker")
    time.sleep(120)


def parent(folder: Path, late: bool) -> None:
    """Starts the worker and waits to be killed."""
    multiprocessing.get_context("spawn").Process(target=worker, args=(folder, late)).start()
    time.sleep(120)


def write(path: Path) -> None:
    """The process's id, whole or not at all."""
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)


def alive(pid: int) -> bool:
    """Whether a process runs: there, and not a zombie that nobody has waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("late", [False, True], ids=["watching", "starting"])
def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path, late: bool) -> None:
    first = multiprocessing.get_context("spawn").Process(target=parent, args=(tmp_path, late))
    first.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "worker").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pid = int((tmp_path / "worker").read_text())
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert not late or alive(pid)
    (tmp_path / "killed").touch()
    while alive(pid):
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.01)


def test_only_a_worker_can_watch() -> None:
    with pytest.raises(RuntimeError, match="multiprocessing has started"):
        die_with_parent()


HELD = """
import multiprocessing, signal
from crypsis.interrupts import held_back
def ask(found):
    found.put(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with held_back():
        found = context.SimpleQueue()
        helper = context.Process(target=ask, args=(found,))
        helper.start()
    print(found.get(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    helper.join()
"""


def test_helpers_inherit_that_interrupts_are_held_back(tmp_path: Path) -> None:
    """Also the first one of a process, before which multiprocessing starts a process of its own."""
    (tmp_path / "held.py").write_text(HELD)
    done = subprocess.run([sys.executable, tmp_path / "held.py"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


class Cycle:
    me: Cycle


def test_what_exists_is_left_out_of_collections_until_the_end() -> None:
    with settled():
        assert gc.get_freeze_count() > 1000
        cycle = Cycle()
        cycle.me = cycle
        kept = weakref.ref(cycle)
        del cycle
        gc.collect()
        assert kept() is None, "what came later is still collected"
    assert gc.get_freeze_count() == 0
