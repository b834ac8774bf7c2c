"""All measurements of a run, as one dictionary."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.floor import gemm_rate, operations
from benchmarks.machine import cpu_name
from benchmarks.ours import Ours, Step
from benchmarks.with_trl import ROUND, trl_rounds
from benchmarks.workload import Job, build_model

TARGETS = {"200": 3.0, "1200": 10.0, "ragged_200": 6.0, "ragged_1200": 15.0}
FLOOR_TARGET, GROWTH_TARGET = 0.6, 1.6
PACKAGES = ("crypsis", "torch", "transformers", "trl", "accelerate")

Advance = Callable[[str], None]
"""Says what comes next."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: jobs by name.

    Attributes:
        against_trl: For both engines; the floor is computed for those of fixed length.
        by_prompt: Differ in the length of the shared part.
        by_episodes: Differ in the number of episodes.
        repetitions: Steps of ours whose median counts.
    """

    against_trl: Mapping[str, Job]
    by_prompt: Mapping[str, Job]
    by_episodes: Mapping[str, Job]
    repetitions: int

    @property
    def parts(self) -> int:
        """How often ``Advance`` is called."""
        rounds = sum(-(-job.episodes // ROUND) for job in self.against_trl.values())
        ours = len(self.against_trl) + len(self.by_prompt) + len(self.by_episodes)
        return rounds + self.repetitions * ours


FULL = Plan(
    against_trl={
        "200": Job(200),
        "1200": Job(1200),
        "ragged_200": Job(200, ragged=True),
        "ragged_1200": Job(1200, ragged=True),
    },
    by_prompt={str(n): Job(n, episodes=64, own=10) for n in (200, 400, 800, 1600)},
    by_episodes={str(n): Job(200, episodes=n) for n in (64, 128, 256)},
    repetitions=3,
)
QUICK = Plan(
    against_trl={
        "200": Job(200, episodes=8, completion=4),
        "ragged_200": Job(200, episodes=8, completion=4, ragged=True),
    },
    by_prompt={str(n): Job(n, episodes=8, completion=4, own=10) for n in (200, 400)},
    by_episodes={str(n): Job(200, episodes=n, completion=4) for n in (8, 16)},
    repetitions=1,
)
"""Shows that the code runs; its figures mean nothing."""


def measure(plan: Plan, advance: Advance) -> dict[str, Any]:
    """Runs a plan; the result is what ``docs/results/benchmarks.json`` holds (docs/benchmarks.md)."""
    started, rates = datetime.now(UTC), [gemm_rate(plan.repetitions)]
    compared = {}
    for name, job in plan.against_trl.items():
        compared[name] = against_trl(name, job, plan.repetitions, advance)
        rates.append(gemm_rate(plan.repetitions))
    rate = statistics.median(rates)
    floors = {n: operations(job, build_model().config) / rate for n, job in plan.against_trl.items() if not job.ragged}
    return {
        "against_trl": {name: found["ratio"] for name, found in compared.items()},
        "floor_fraction": {name: floor / compared[name]["seconds_per_step"] for name, floor in floors.items()},
        "growth": growth(plan, advance),
        "targets": {"against_trl": TARGETS, "floor_fraction": FLOOR_TARGET, "prompt_max_over_min": GROWTH_TARGET},
        "floor": {"gemm_gflops": rate / 1e9, "measured": [r / 1e9 for r in rates], "seconds_per_step": floors},
        "details": compared,
        "provenance": {
            "date": started.isoformat(timespec="seconds"),
            "minutes": (datetime.now(UTC) - started).total_seconds() / 60,
            "repetitions": plan.repetitions,
            "threads": torch.get_num_threads(),
            "cpu": cpu_name(),
            "python": platform.python_version(),
            "versions": {package: version(package) for package in PACKAGES},
        },
    }


def against_trl(name: str, job: Job, repetitions: int, advance: Advance) -> dict[str, Any]:
    """One step of TRL in rounds, and ``repetitions`` of ours, each right before a round of TRL."""
    engine = Ours(job)
    ours: list[Step] = []

    def our_turn() -> None:
        if len(ours) < repetitions:
            advance(f"{name}: crypsis")
            ours.append(engine.step())

    theirs = trl_rounds(job, our_turn, lambda: advance(f"{name}: TRL"))
    while len(ours) < repetitions:
        our_turn()
    rates = [statistics.median(s.episodes / s.seconds for s in steps) for steps in (ours, theirs)]
    tokens = [sum(s.tokens for s in steps) / sum(s.episodes for s in steps) for steps in (ours, theirs)]
    return {
        "ratio": rates[0] / rates[1],
        "episodes_per_second": {"crypsis": rates[0], "trl": rates[1]},
        "tokens_per_episode": {"crypsis": tokens[0], "trl": tokens[1]},
        "seconds_per_step": job.episodes / rates[0],
        "phases": {phase: statistics.median(s.phases[phase] for s in ours) for phase in ours[0].phases},
        "steps": [asdict(s) for s in ours],
        "trl_rounds": [asdict(s) for s in theirs],
    }


def growth(plan: Plan, advance: Advance) -> dict[str, Any]:
    """How our step's cost grows with the shared part of the prompts and with the episodes."""
    by_prompt = _medians(plan.by_prompt, plan.repetitions, advance)
    by_episodes = _medians(plan.by_episodes, plan.repetitions, advance)
    floors = [operations(job, build_model().config) for job in plan.by_prompt.values()]
    per_episode = [by_episodes[name] / job.episodes for name, job in plan.by_episodes.items()]
    return {
        "prompt_seconds": by_prompt,
        "prompt_max_over_min": max(by_prompt.values()) / min(by_prompt.values()),
        "prompt_floor_max_over_min": max(floors) / min(floors),
        "episodes_seconds": by_episodes,
        "episodes_max_over_min_per_episode": max(per_episode) / min(per_episode),
    }


def _medians(jobs: Mapping[str, Job], repetitions: int, advance: Advance) -> dict[str, float]:
    """Median seconds of our step by job; the jobs take turns, so that no slow minute hits one of them alone."""
    engines = {name: Ours(job) for name, job in jobs.items()}
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repetitions):
        for name, engine in engines.items():
            advance(f"growth, {name}: crypsis")
            taken[name].append(engine.step().seconds)
    return {name: statistics.median(found) for name, found in taken.items()}
