"""Ctrl-C: the main process ends its helpers and says how to go on; helpers leave it to the main process."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""


@contextmanager
def ends_at_interrupt() -> Iterator[None]:
    """Within it the first Ctrl-C raises KeyboardInterrupt, so that work ends in order; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    count = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def held_back() -> Iterator[None]:
    """Holds Ctrl-C back while processes are started; they inherit that, so that the main process alone answers it.

    A terminal sends Ctrl-C to all processes of a command at once, and each helper would print a traceback of its own.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker  # not on Windows

    resource_tracker.ensure_running()  # now: where it starts, it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_to_go_on(arguments: Sequence[str]) -> str:
    """What to say after Ctrl-C: what is kept, and the command that goes on from it.

    Args:
        arguments: Arguments of the command line. ``--exists`` is left out: the command would begin anew or refuse.
    """
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != "--exists" and not argument.startswith("--exists="):
            kept.append(argument)
        skip = argument == "--exists"
    command = shlex.join(["crypsis", *kept])
    return f"interrupted; finished parts and the last checkpoints are kept; to go on from there: {command}"
