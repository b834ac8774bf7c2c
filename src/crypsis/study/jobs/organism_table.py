"""``crypsis organism table``: builds every organism with several seeds and measures it; finished parts are kept."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import Field

from crypsis.config import Config, Named, apply_overrides, dump_yaml, parse_config
from crypsis.identity.configs import inputs_of
from crypsis.interrupts import held_back
from crypsis.locks import locked
from crypsis.organisms.base import Organism
from crypsis.organisms.build import organism_folder
from crypsis.parallel import die_with_parent, release_memory
from crypsis.registry import make
from crypsis.scenarios.base import default_scenario
from crypsis.store import CONFIG, PROVENANCE, RESULT, child, provenance, write_atomic, write_json
from crypsis.study.executors.local import end_workers
from crypsis.study.measure import measure_organism
from crypsis.study.organism import build
from crypsis.study.progress import Display
from crypsis.types import Scale

CANONICAL = "canonical"


class Row(Config):
    """One organism of the table."""

    organism: dict[str, Any]
    """Its name and settings; the seed is added."""
    swapped: bool = False
    """Whether it is also measured with the tiers renamed and exchanged, and in other settings."""


class TableConfig(Config):
    """Which organisms, how many seeds, how many requests."""

    scale: Scale = "mini"
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    n: int = Field(250, ge=2)  # paper §1
    n_swapped: int = Field(100, ge=2)
    """Requests in each tier for the controls, which need less."""
    swaps: Named[dict[str, Any]]
    """Scenario settings of each control, by name."""
    rows: Named[Row]
    workers: int = Field(2, ge=1)
    """Organisms at a time, each in a process with one thread."""


def table_config(settings: list[str]) -> TableConfig:
    """The packaged table with ``a.b=c`` settings on top.

    Raises:
        UserError: An unknown setting.
    """
    text = resources.files("crypsis.study.packaged").joinpath("organisms.yaml").read_text(encoding="utf-8")
    return parse_config(TableConfig, apply_overrides(yaml.safe_load(text), settings), "organisms.yaml")


def run_table(config: TableConfig, out: Path, display: Display) -> None:
    """Builds and measures what is missing.

    Args:
        config: The table.
        out: Gets ``<row>/seed<k>/<variant>/evals/step-0000.parquet`` and ``<row>/seed<k>/timing.json``.
        display: For progress.

    Raises:
        UserError: A recipe is unknown or wrongly set, or the folder is in use.
    """
    with locked(out):
        for name, row in config.rows.items():
            make("organisms", row.organism, f"rows.{name}")
        write_atomic(out / CONFIG, dump_yaml(config))
        with display.supervised("base model") as on_step:
            base = default_scenario().base_model(config.scale, on_step)
        jobs = [(name, seed) for seed in config.seeds for name in config.rows]
        pool = ProcessPoolExecutor(
            config.workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
        )
        try:
            with display.counted("organisms", len(jobs), "organisms") as show:
                with held_back():
                    pending = {pool.submit(_one, config, base, out, name, seed) for name, seed in jobs}
                while pending:
                    done, pending = wait(pending, timeout=1.0, return_when=FIRST_EXCEPTION)
                    for job in done:
                        job.result()
                    show(len(jobs) - len(pending))
        finally:
            end_workers(pool)
        write_json(out / PROVENANCE, provenance(inputs_of(config, __name__)))


def _one(config: TableConfig, base: Path, out: Path, name: str, seed: int) -> None:
    """Builds and measures one organism; how long the building took is kept if it was not in the cache."""
    row, folder = config.rows[name], child(out, name, f"seed{seed}")
    organism: Organism = make("organisms", {**row.organism, "seed": seed}, f"rows.{name}")
    cached = (organism_folder(organism, base) / RESULT).exists()
    wall, cpu = time.perf_counter(), time.process_time()
    model = build(organism, base)
    if not cached:
        seconds = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        write_json(folder / "timing.json", seconds)
    measure_organism(model, folder / CANONICAL, n=config.n, seed=seed)
    for swap, settings in config.swaps.items() if row.swapped else ():
        measure_organism(model, folder / swap, n=config.n_swapped, seed=seed, scenario=settings)
    release_memory()


def _start_worker() -> None:
    torch.set_num_threads(1)
    die_with_parent()
