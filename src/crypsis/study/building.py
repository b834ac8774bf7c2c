"""Builds the checkpoints of a study whose seeds have their own, several at a time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from pathlib import Path

import torch

from crypsis.interrupts import held_back
from crypsis.organisms.base import Organism
from crypsis.parallel import die_with_parent, release_memory
from crypsis.study.executors.local import end_workers
from crypsis.study.organism import build


def build_all(
    recipes: Mapping[str, tuple[Organism, Path]], workers: int, show: Callable[[int], None]
) -> dict[str, Path]:
    """Trains checkpoints, or finds them in the cache; each in a process with one thread.

    Args:
        recipes: Recipe and base by name of the checkpoint. What several of them need is made once: who wants it too
            waits.
        workers: The most at a time.
        show: Called with the number that are done.

    Returns:
        Checkpoint folder by name.

    Raises:
        UserError: A recipe cannot be built; the others that are under way are given up.
    """
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        with held_back():
            jobs = {pool.submit(_one, *made): name for name, made in recipes.items()}
        pending = set(jobs)
        while pending:
            done, pending = wait(pending, timeout=1.0, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
            show(len(jobs) - len(pending))
        return {name: job.result() for job, name in jobs.items()}
    finally:
        end_workers(pool)


def _one(recipe: Organism, base: Path) -> Path:
    try:
        return build(recipe, base)
    finally:
        release_memory()


def _start_worker() -> None:
    torch.set_num_threads(1)
    die_with_parent()
