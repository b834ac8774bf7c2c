"""Runs on this machine: spawned processes, each of which does one run after the other."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from crypsis.interrupts import held_back
from crypsis.study.executors.base import Ended, Executor, Failure, Job, attempt


class Local(Executor):
    """Processes of this machine."""

    name: Literal["local"] = "local"

    @contextmanager
    def pool(self, folder: Path, workers: int) -> Iterator[LocalPool]:
        """Processes start as jobs come in, and end with this one, however it ends."""
        pool = LocalPool(workers)
        try:
            yield pool
        finally:
            pool.close()


class LocalPool:
    """Each worker is an executor of one process, so that a process that dies takes no other run with it."""

    def __init__(self, workers: int) -> None:
        self._free = workers
        self._idle: list[ProcessPoolExecutor] = []
        self._waiting: deque[Job] = deque()
        self._running: dict[Future[Failure | None], tuple[Job, ProcessPoolExecutor]] = {}

    def submit(self, jobs: Sequence[Job]) -> None:
        """Takes jobs in."""
        self._waiting.extend(jobs)
        self._fill()

    def ended(self, wait_seconds: float) -> list[Ended]:
        """Jobs that are over since the last call."""
        done, _ = wait(self._running, timeout=wait_seconds, return_when=FIRST_COMPLETED)
        over = [self._over(future) for future in done]
        self._fill()
        return over

    def close(self) -> None:
        """Ends all processes at once; a run that has started goes on from its last checkpoint the next time."""
        self._waiting.clear()
        for worker in [*self._idle, *(worker for _, worker in self._running.values())]:
            end_workers(worker)

    def _over(self, future: Future[Failure | None]) -> Ended:
        job, worker = self._running.pop(future)
        try:
            failure = future.result()
        except BrokenProcessPool:
            worker.shutdown()
            self._free += 1
            return job, Failure("its process died (killed for its memory, if nobody killed it by hand)")
        self._idle.append(worker)
        return job, failure

    def _fill(self) -> None:
        while self._waiting and (self._idle or self._free):
            if not self._idle:
                self._free -= 1
                self._idle.append(_worker())
            worker, job = self._idle.pop(), self._waiting.popleft()
            with held_back():
                self._running[worker.submit(attempt, job)] = job, worker


def end_workers(pool: ProcessPoolExecutor) -> None:
    """Kills the processes of a pool, whatever they are doing."""
    for process in list((pool._processes or {}).values()):  # there is no public way to them before Python 3.14
        process.kill()
    pool.shutdown(cancel_futures=True)


def _worker() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start)


def _start() -> None:
    from crypsis.parallel import die_with_parent

    die_with_parent()
