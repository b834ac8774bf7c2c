"""Runs as jobs of a SLURM cluster, submitted as arrays by submitit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from crypsis.study.executors.base import Ended, Executor, Failure, Job, attempt, one_line
from crypsis.types import UserError


class Slurm(Executor):
    """A SLURM cluster, through submitit. The study's folder must lie on a file system that all nodes share."""

    name: Literal["slurm"] = "slurm"
    partition: str | None = None
    gpus: int = Field(0, ge=0)
    """GPUs of one run."""
    memory_gb: float = Field(8.0, gt=0)
    """Memory of one run."""
    minutes: int = Field(240, ge=1)
    """Time limit of one job; a run that needs more is put into the queue again and goes on from its last checkpoint."""
    options: dict[str, Any] = {}
    """Further parameters of submitit's ``AutoExecutor``, such as ``{slurm_account: mine}``."""
    cluster: Literal["slurm", "local"] = "slurm"
    """``local`` has submitit start processes here, all at once: to try the settings out without a cluster."""

    @contextmanager
    def pool(self, folder: Path, workers: int) -> Iterator[SlurmPool]:
        """Each ``submit`` becomes one array; jobs that are not over are cancelled at the end."""
        try:
            import submitit
        except ImportError:
            raise UserError("executor slurm needs submitit: pip install 'crypsis[slurm]'") from None
        try:
            executor = submitit.AutoExecutor(folder=folder.resolve() / "slurm" / "%j", cluster=self.cluster)
            executor.update_parameters(
                name="crypsis",
                timeout_min=self.minutes,
                cpus_per_task=self.threads,
                gpus_per_node=self.gpus,
                mem_gb=self.memory_gb,
                slurm_array_parallelism=workers,
                **({"slurm_partition": self.partition} if self.partition else {}),
                **self.options,
            )
        except (RuntimeError, NameError, TypeError, AssertionError, ValueError) as error:
            raise UserError(f"executor slurm: {one_line(error)}") from None
        pool = SlurmPool(executor)
        try:
            yield pool
        finally:
            pool.close()


class SlurmPool:
    """Jobs in the queue of a cluster."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._running: list[tuple[Any, Job]] = []

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submits the jobs as one array.

        Raises:
            UserError: SLURM refuses them.
        """
        try:
            with self._executor.batch():
                submitted = [self._executor.submit(Attempt(), job) for job in jobs]
        except Exception as error:  # submitit's own for what sbatch says
            raise UserError(f"executor slurm: the jobs were not accepted: {one_line(error)}") from None
        self._running += zip(submitted, jobs, strict=True)

    def ended(self, wait: float) -> list[Ended]:
        """Jobs that are over since the last call."""
        limit = time.monotonic() + wait
        while True:
            over = [(handle, job) for handle, job in self._running if handle.done()]
            if over or time.monotonic() >= limit:
                break
            time.sleep(min(1.0, wait))
        self._running = [pair for pair in self._running if pair not in over]
        return [(job, _failure(handle)) for handle, job in over]

    def close(self) -> None:
        """Cancels what is not over."""
        for handle, _ in self._running:
            handle.cancel(check=False)


class Attempt:
    """:func:`attempt` as submitit wants it, to put it into the queue again when its time is up or it is preempted."""

    def __call__(self, job: Job) -> Failure | None:
        """Does the run."""
        return attempt(job)

    def checkpoint(self, job: Job) -> Any:
        """What to submit next: the same, since a run goes on where it stopped."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def _failure(handle: Any) -> Failure | None:
    error = handle.exception()
    if error is None:
        failure: Failure | None = handle.result()
        return failure
    return Failure(f"SLURM job {handle.job_id}: {one_line(error)} ({handle.paths.stderr})", str(error))
