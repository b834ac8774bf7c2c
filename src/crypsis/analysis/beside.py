"""Work in a process of its own, beside the rest of a report. No torch here, which does not survive a fork."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def beside(*tasks: Callable[[], T]) -> Iterator[Callable[[], list[T]]]:
    """Runs tasks one after the other in a forked process while the block goes on, and yields what waits for them.

    Where that would gain nothing or is not safe (one core, no Linux, torch in this process, or a process that may have
    no children) the waiting does the work. So it does if the process dies.

    Args:
        tasks: What they return must be picklable.

    Yields:
        A function that returns the results in order.
    """
    if not _can_fork():
        yield lambda: [task() for task in tasks]
        return
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(there, tasks), daemon=True)
    child.start()
    there.close()
    try:
        yield lambda: _received(here, tasks)
    finally:
        child.kill()
        child.join()
        here.close()


def _can_fork() -> bool:
    several = len(os.sched_getaffinity(0)) > 1 if sys.platform == "linux" else False
    return several and "torch" not in sys.modules and not multiprocessing.current_process().daemon


def _send(there: Connection, tasks: tuple[Callable[[], T], ...]) -> None:
    with suppress(Exception):  # raised again, and as it is, where the results are waited for
        there.send_bytes(pickle.dumps([task() for task in tasks], protocol=pickle.HIGHEST_PROTOCOL))


def _received(here: Connection, tasks: tuple[Callable[[], T], ...]) -> list[T]:
    try:
        results: list[T] = pickle.loads(here.recv_bytes())
    except EOFError:
        return [task() for task in tasks]
    return results
