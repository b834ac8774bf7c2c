"""A few CPU processes that share one optimiser step: one flat all-reduce of the gradients (design §6)."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

WATCH_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    def sum_(self, tensor: Tensor) -> None:
        """Adds up a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)


@contextmanager
def together(size: int, work: Callable[..., None], *arguments: Any) -> Iterator[Ranks]:
    """Yields rank 0 to the caller while ``size - 1`` spawned processes run ``work(ranks, *arguments)``.

    Every process computes with one thread. The others die with this one, however it dies.

    Args:
        size: Number of processes; with 1 nothing is spawned.
        work: A module-level function.
        arguments: Picklable.
    """
    if size == 1:
        yield Ranks()
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_join, args=(rank, size, meeting, work, arguments), daemon=True)
            for rank in range(1, size)
        ]
        for other in others:
            other.start()
        try:
            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=size)
            yield Ranks(0, size)
            for other in others:
                other.join()
        finally:
            for other in others:
                other.kill()
            if dist.is_initialized():
                dist.destroy_process_group()
            torch.set_num_threads(threads)


def release_memory() -> None:
    """Gives freed memory back to the system: batches of many shapes leave the heap full of holes."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def die_with_parent() -> None:
    """Ends this process soon after its parent: an orphan would hold locks and cores."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _join(rank: int, size: int, meeting: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    die_with_parent()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        work(Ranks(rank, size), *arguments)
    except RuntimeError as error:
        if "Connection" not in str(error):
            raise
        os._exit(1)  # rank 0 is gone and has said why
    dist.destroy_process_group()
