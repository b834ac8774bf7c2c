"""What an executor is: a frozen config that opens a pool; and one attempt at a run, the same for all."""

from __future__ import annotations

import os
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import Field

from crypsis.config import Config
from crypsis.digests import DamagedError
from crypsis.disk import DiskFullError, full, is_full
from crypsis.run_config import RunConfig
from crypsis.types import BudgetSpentError, UserError


@dataclass(frozen=True, slots=True)
class Job:
    """A run to be done, as it travels to whoever does it.

    Attributes:
        config: The run.
        folder: Its folder.
        start: Where runs that start alike share their first evaluation.
        threads: Threads of torch.
        cwd: Relative paths of the config start here; the place must be there on every machine.
    """

    config: RunConfig
    folder: Path
    start: Path
    threads: int
    cwd: Path


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt at a run ended without its result.

    Attributes:
        error: One line.
        trace: The traceback where the fault is not the user's, else empty.
        stop: Whether the other runs would fail alike and another attempt is no use before the user has acted.
    """

    error: str
    trace: str = ""
    stop: bool = False


Ended = tuple[Job, Failure | None]
"""A job that is over, and what went wrong."""


class Pool(Protocol):
    """Where submitted jobs run; every job that is submitted ends once, also when its process or machine dies."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Takes jobs in; returns at once."""

    def ended(self, wait: float) -> list[Ended]:
        """Jobs that are over since the last call; waits up to ``wait`` seconds for the first."""


class Executor(Config, ABC):
    """Settings of an executor, plus :meth:`pool`."""

    threads: int = Field(1, ge=1)
    """Processor cores, and threads of torch, of one run. Other numbers round otherwise."""

    @abstractmethod
    def pool(self, folder: Path, workers: int) -> AbstractContextManager[Pool]:
        """Opens a pool; leaving it stops the jobs that are not over.

        Args:
            folder: Folder of the study, for what the executor itself has to write.
            workers: The most runs at a time.

        Raises:
            UserError: The library behind it is not installed, or the cluster cannot be reached.
        """


def attempt(job: Job) -> Failure | None:
    """Does a run as far as it is not done, in the process that this is called in."""
    import torch

    from crypsis.parallel import release_memory
    from crypsis.study.reporting import reported
    from crypsis.study.run import run_one

    os.chdir(job.cwd)
    torch.set_num_threads(job.threads)
    try:
        with reported(job.config, job.folder) as reporter:
            run_one(
                job.config,
                job.folder,
                on_step=lambda _: reporter.update(),
                on_start=reporter.open,
                shared=job.start,
                study=job.folder.parent.parent,
            )
    except UserError as error:
        return Failure(str(error), stop=isinstance(error, BudgetSpentError | DamagedError | DiskFullError))
    except Exception as error:  # whatever it is, the other runs go on
        if is_full(error):
            return Failure(str(full(job.folder)), stop=True)
        return Failure(one_line(error), traceback.format_exc())
    finally:
        release_memory()
    return None


def one_line(error: BaseException) -> str:
    """An exception's type and the first line of what it says."""
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
