"""Runs as tasks of Ray Core, on the machines of a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from crypsis.study.executors.base import Ended, Executor, Failure, Job, attempt, one_line
from crypsis.types import UserError

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0 before Ray is imported, Ray listens on the loopback alone, on Linux too; else on all of the machine's
addresses. It has no other switch for all of its servers."""


class Ray(Executor):
    """A Ray cluster. The study's folder must lie on a file system that all nodes share."""

    name: Literal["ray"] = "ray"
    address: str | None = None
    """Address of the cluster, or ``auto`` for the one this machine is in; None starts one on this machine alone."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs of one run; 0.5 lets two runs share one."""
    memory_gb: float = Field(0.0, ge=0)
    """Memory of one run; 0 leaves it to Ray."""

    @contextmanager
    def pool(self, folder: Path, workers: int) -> Iterator[RayPool]:
        """Connects to the cluster, or starts one here; tasks end with this process."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self.address is None:
            os.environ.setdefault(LOOPBACK, "0")
        try:
            import ray
        except ImportError:
            raise UserError("executor ray needs Ray: pip install 'crypsis[ray]'") from None
        mine = not ray.is_initialized()
        alone: dict[str, Any] = {"include_dashboard": False, "num_cpus": workers * self.threads}
        try:
            if mine:
                own = {} if self.address else alone
                ray.init(self.address or "local", log_to_driver=False, logging_level=logging.WARNING, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"executor ray: no cluster at '{self.address}': {one_line(error)}") from None
        try:
            yield RayPool(self, workers)
        finally:
            if mine:
                ray.shutdown()


class RayPool:
    """Tasks of a Ray cluster; Ray retries none of them itself, since it does not know whether they failed."""

    def __init__(self, settings: Ray, workers: int) -> None:
        import ray

        memory = {"memory": settings.memory_gb * 2**30} if settings.memory_gb else {}
        self._ray: Any = ray
        self._task: Any = ray.remote(attempt).options(
            num_cpus=settings.threads, num_gpus=settings.num_gpus, max_retries=0, **memory
        )
        self._workers = workers
        self._waiting: deque[Job] = deque()
        self._running: dict[Any, Job] = {}

    def submit(self, jobs: Sequence[Job]) -> None:
        """Takes jobs in."""
        self._waiting.extend(jobs)
        self._fill()

    def ended(self, wait: float) -> list[Ended]:
        """Jobs that are over since the last call."""
        done, _ = self._ray.wait(list(self._running), timeout=wait) if self._running else ([], [])
        over: list[Ended] = []
        for ref in done:
            job = self._running.pop(ref)
            try:
                over.append((job, self._ray.get(ref)))
            except self._ray.exceptions.RayError as error:
                over.append((job, Failure(one_line(error), str(error))))
        self._fill()
        return over

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._workers:
            job = self._waiting.popleft()
            self._running[self._task.remote(job)] = job
