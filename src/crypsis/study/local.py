"""Runs a grid on this machine: spawned processes, one thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from pathlib import Path

import torch

from crypsis.parallel import die_with_parent
from crypsis.rl.config import RunConfig
from crypsis.store import METRICS, RESULT, read_rows
from crypsis.study.progress import Display
from crypsis.study.run import run_one

POLL_SECONDS = 0.5


def run_all(runs: Sequence[RunConfig], folder: Path, workers: int, display: Display) -> None:
    """Does every run that is not done yet, ``workers`` at a time; shows the steps as the run folders grow.

    Raises:
        Exception: Of the first run that failed; the others that had started are finished first.
    """
    missing = [run for run in runs if not (folder / run.name / RESULT).exists()]
    if not missing:
        return
    pool = ProcessPoolExecutor(
        min(workers, len(missing)), mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    with pool, display.counted("RL", sum(run.rl.steps for run in runs)) as show:
        futures: list[Future[Path]] = [
            pool.submit(run_one, run, folder / run.name, shared=start_folder(run, folder)) for run in missing
        ]
        while True:
            done, pending = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION)
            show(sum(len(read_rows(folder / run.name / METRICS)) for run in runs))
            failed = [future for future in done if future.exception()]
            if failed:
                pool.shutdown(cancel_futures=True)
                failed[0].result()
            if not pending:
                return


def start_folder(run: RunConfig, folder: Path) -> Path:
    """Where the runs of an organism and seed share the evaluation of the policy that they start from."""
    return folder.parent / "start" / f"{run.organism}-seed{run.seed}"


def _start_worker() -> None:
    torch.set_num_threads(1)
    die_with_parent()
