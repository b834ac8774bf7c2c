"""``crypsis …`` in a process of its own, forked from one that has imported everything: the same, without the seconds
that Python takes to import torch.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.forked_imports"])


def crypsis(*arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command and returns what it printed."""
    return _run(_command, arguments, env)


def killed(place: str, count: int, *arguments: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Runs a command and kills it (SIGKILL) in the n-th call of one function.

    Args:
        place: ``MODULE:FUNCTION``.
        count: Which call, from 1.
        arguments: The command's.
        env: Set on top of this process's environment.
    """
    done = _run(_killed, [place, str(count), *arguments], env)
    assert done.returncode == -signal.SIGKILL, done.stderr


def _run(
    work: Callable[..., None], arguments: Sequence[str | Path], env: Mapping[str, str] | None
) -> subprocess.CompletedProcess[str]:
    words = [*map(str, arguments)]
    environment = os.environ | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"} | dict(env or {})
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch, "out"), Path(scratch, "err")
        process = FORKS.Process(target=_begun, args=(work, words, dict(environment), os.getcwd(), out, err))
        process.start()
        process.join()
        code, said = process.exitcode, [file.read_text("utf-8") if file.exists() else "" for file in (out, err)]
    return subprocess.CompletedProcess(["crypsis", *words], 1 if code is None else code, *said)


def _begun(work: Callable[..., None], words: list[str], env: dict[str, str], folder: str, out: Path, err: Path) -> None:
    """The forked process: as if it had been started with this environment, folder and these streams."""
    for number, file in ((1, out), (2, err)):
        stream = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [place for place in env.get("PYTHONPATH", "").split(os.pathsep) if place and place not in sys.path]
    os.chdir(folder)
    work(*words)


def _command(*words: str) -> None:
    sys.argv = ["crypsis", *words]
    importlib.import_module("crypsis.cli").main()


def _killed(place: str, count: str, *words: str) -> None:
    module_name, _, function_name = place.partition(":")
    module = importlib.import_module(module_name)
    original, left = getattr(module, function_name), int(count)

    def fatal(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(module, function_name, fatal)
    _command(*words)
