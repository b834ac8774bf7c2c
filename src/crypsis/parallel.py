"""A few CPU processes that share one optimiser step: one flat all-reduce of the gradients (design §6)."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist

from crypsis.disk import is_gone, process_tag
from crypsis.interrupts import held_back
from crypsis.types import UserError

T = TypeVar("T")
PATIENCE = timedelta(days=7)
"""The others wait this long for rank 0, which evaluates alone; a process that dies is noticed at once all the same."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    def sum_(self, tensor: Tensor) -> None:
        """Adds up a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def share(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def gather(self, part: list[T]) -> list[T]:
        """All parts in the order of their ranks on rank 0, the own part elsewhere."""
        if self.size == 1:
            return part
        parts: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(part, parts)
        return part if parts is None else [item for one in parts for item in one]

    def scatter(self, parts: Sequence[T]) -> T:
        """This rank's part of those that rank 0 hands out; the others pass anything."""
        if self.size == 1:
            return parts[0]
        box: list[Any] = [None]
        dist.scatter_object_list(box, list(parts) if self.rank == 0 else None)
        return cast(T, box[0])

    def slice(self, n: int) -> range:
        """Which of ``n`` items are this rank's: a stretch of them, so that ``gather`` keeps their order."""
        return range(n * self.rank // self.size, n * (self.rank + 1) // self.size)


@contextmanager
def together(size: int, work: Callable[..., None], *arguments: Any) -> Iterator[Ranks]:
    """Yields rank 0 to the caller while ``size - 1`` spawned processes run ``work(ranks, *arguments)``.

    Every process computes with one thread. The others die with this one, however it dies.

    Args:
        size: Number of processes; with 1 nothing is spawned.
        work: A module-level function.
        arguments: Picklable.

    Raises:
        UserError: Another process died.
    """
    if size == 1:
        yield Ranks()
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with _meeting_folder() as folder:
        meeting = str(folder / "meeting")
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_join, args=(rank, size, meeting, work, arguments), daemon=True)
            for rank in range(1, size)
        ]
        try:
            with held_back():
                for other in others:
                    other.start()
            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=size, timeout=PATIENCE)
            yield Ranks(0, size)
            for other in others:
                other.join()
        except RuntimeError as error:
            if "onnection" not in str(error):
                raise
            raise UserError(
                "one of the processes that share the steps has died (killed for its memory, if it says nothing above); "
                "lower the number of processes and run the same command to go on"
            ) from None
        finally:
            for other in others:
                if other.pid is not None:
                    other.kill()
            if dist.is_initialized():
                dist.destroy_process_group()
            torch.set_num_threads(threads)


@contextmanager
def settled() -> Iterator[None]:
    """Leaves all objects that exist by now out of garbage collections until the end.

    Imported modules alone are half a million objects, and each full collection spends half a second on them.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release_memory() -> None:
    """Gives freed memory back to the system: batches of many shapes leave the heap full of holes.

    Not for every step: the system zeroes returned pages again before they are reused.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or the CPU's allocator has run out of memory."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in said and "memory" in said
    )


@contextmanager
def _meeting_folder() -> Iterator[Path]:
    """A temporary folder with this process in its name; those of processes that were killed are cleared away."""
    for left in Path(tempfile.gettempdir()).glob("crypsis-*"):
        if is_gone(left.name.removeprefix("crypsis-").rpartition("-")[0]):
            shutil.rmtree(left, ignore_errors=True)  # another user's stays
    with tempfile.TemporaryDirectory(prefix=f"crypsis-{process_tag()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def die_with_parent(left: Path | None = None) -> None:
    """Ends this process as soon as the one that spawned it is gone: an orphan would hold locks, cores and memory.

    It waits for the parent's end of a pipe to close, so a parent that is gone already is noticed too.

    Args:
        left: A temporary folder of the parent's, which goes with it.

    Raises:
        RuntimeError: This process was not started by ``multiprocessing``.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("die_with_parent is for processes that multiprocessing has started")

    def watch() -> None:
        parent.join()
        if left is not None:
            shutil.rmtree(left, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _join(rank: int, size: int, meeting: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    die_with_parent(Path(meeting).parent)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=PATIENCE)
    try:
        work(Ranks(rank, size), *arguments)
    except UserError as error:
        print(f"crypsis: process {rank}: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    except RuntimeError as error:
        if "onnection" not in str(error):
            raise
        os._exit(1)  # rank 0 is gone and has said why
    dist.destroy_process_group()
