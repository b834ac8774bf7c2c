"""Does the runs of a grid with any executor: retries, gives up, and goes on with the rest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from crypsis.locks import is_locked
from crypsis.run_config import RunConfig
from crypsis.store import FAILED, METRICS, RESULT, child, is_complete, write_json
from crypsis.study.executors.base import Executor, Failure, Job, Pool
from crypsis.study.progress import Display
from crypsis.types import UserError

POLL_SECONDS = 1.0


def run_all(
    runs: Sequence[RunConfig], folder: Path, executor: Executor, workers: int, retries: int, display: Display
) -> dict[str, str]:
    """Does every run that is not done yet, those that were given up before too.

    Args:
        runs: The runs, in the order in which they are started.
        folder: Folder of the study.
        executor: Who does them.
        workers: The most runs at a time.
        retries: How often a run that failed is tried again before it is given up.
        display: Shows the steps as the run folders grow.

    Returns:
        The last error of each run that was given up, by name; ``failed.json`` in its folder has it too.

    Raises:
        UserError: The executor cannot work, the disk is full, or a stored file is damaged.
    """
    jobs = [_job(run, folder, executor.threads) for run in runs]
    missing = [job for job in jobs if not is_complete(job.folder)]
    send([run for run, job in zip(runs, jobs, strict=True) if job not in missing], folder)
    if not missing:
        return {}
    with executor.pool(folder, workers) as pool, display.counted("RL", sum(run.rl.steps for run in runs)) as show:
        todo = _ToDo(pool, missing, retries, lambda line: display.console.print(line, markup=False, highlight=False))
        while todo.open:
            todo.go_on()
            show(sum(_steps(job) for job in jobs))
    return todo.failed


def send(runs: Sequence[RunConfig], folder: Path) -> None:
    """Sends what the sinks of a study's finished runs lack."""
    for run in runs:
        if run.report_to:
            from crypsis.study.reporting import reported  # its sinks take long to import

            with reported(run, child(folder, "runs", run.name)):
                pass


class _ToDo:
    """The jobs that are not over yet, and how often each has failed."""

    def __init__(self, pool: Pool, jobs: Sequence[Job], retries: int, log: Callable[[str], None]) -> None:
        self._pool, self._retries, self._say = pool, retries, log
        self._failures: Counter[str] = Counter()
        self._elsewhere: list[Job] = []
        self.open = len(jobs)
        self.failed: dict[str, str] = {}
        for job in jobs:
            (job.folder / FAILED).unlink(missing_ok=True)
        self._start(jobs)

    def go_on(self) -> None:
        """Looks once at what has ended.

        Raises:
            UserError: Nothing can go on before the user has acted.
        """
        for job, failure in self._pool.ended(POLL_SECONDS):
            if failure and failure.stop:
                raise UserError(failure.error)
            if (job.folder / RESULT).exists():
                self.open -= 1
            elif is_locked(job.folder):
                self._elsewhere.append(job)
            else:
                self._failed(job, failure or Failure("ended without a result"))
        if self._elsewhere:
            time.sleep(POLL_SECONDS)
            waited, self._elsewhere = self._elsewhere, []
            self._start(waited)

    def _start(self, jobs: Sequence[Job]) -> None:
        """Submits jobs but those that a process of an earlier, killed command is busy with, or has done by now."""
        free: list[Job] = []
        for job in jobs:
            if is_locked(job.folder):
                self._elsewhere.append(job)
            elif is_complete(job.folder):  # looked for after the lock, which is held until it is there
                self.open -= 1
            else:
                free.append(job)
        if free:
            self._pool.submit(free)

    def _failed(self, job: Job, failure: Failure) -> None:
        name = job.config.name
        self._failures[name] += 1
        if self._failures[name] <= self._retries:
            self._say(f"{name}: {failure.error}; trying it again")
            self._start([job])
            return
        self.open -= 1
        self.failed[name] = failure.error
        self._say(f"{name}: given up: {failure.error}")
        attempts = self._failures[name]
        write_json(job.folder / FAILED, {"error": failure.error, "attempts": attempts, "traceback": failure.trace})


def _job(run: RunConfig, folder: Path, threads: int) -> Job:
    start = child(folder, "start", f"{run.organism or run.name}-seed{run.seed}")
    return Job(run, child(folder, "runs", run.name), start, threads, Path.cwd())


def _steps(job: Job) -> int:
    """How many steps of a run are done."""
    if (job.folder / RESULT).exists():
        return job.config.rl.steps
    metrics = job.folder / METRICS
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0
