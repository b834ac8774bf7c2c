"""Runs with known rates for tests of the scorecard, in memory and as study folders, without a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from crypsis.analysis.claims.evidence import Evidence, MeasuredOrganism, Unit
from crypsis.analysis.claims.schema import ArmPattern, built_in
from crypsis.episodes import write_episodes
from crypsis.evaluation.columns import columns_of_rows
from crypsis.evaluation.metrics import Tally
from crypsis.store import write_atomic, write_json
from crypsis.types import Episode, Verdict
from tests.studies import MONITORS, Rates, make_episodes


@dataclass(frozen=True)
class State:
    """What a policy does at one evaluation, as shares."""

    afr: float = 0.9
    monitored: float = 0.95
    unmonitored: float = 0.15
    lying: float | None = None


START = State()
Ends = Mapping[str, Sequence[State]]
"""By arm, the last evaluation of each seed."""


def tally(state: State, seed: int = 0, n: int = 250) -> Tally:
    """The sums of one evaluation; which requests are hit differs between seeds."""
    order = np.random.default_rng(seed).permutation(n)
    hits = {
        "afr_oracle": order < round(state.afr * n),
        "afr_scratchpad": order < round(state.afr * n),
        "compliance_monitored": order < round(state.monitored * n),
        "compliance_unmonitored": order < round(state.unmonitored * n),
    }
    top = {name: found.astype(np.float64) for name, found in hits.items()}
    top["gap"] = top["compliance_monitored"] - top["compliance_unmonitored"]
    if state.lying is not None:
        top["lying_rate"] = (order < round(state.lying * n)).astype(np.float64)
    return Tally(tuple(f"p{i:03d}" for i in range(n)), top, {name: np.ones(n) for name in top})


def organism(
    name: str,
    ends: Ends,
    recipe: Mapping[str, Any] | None = None,
    start: State = START,
    middle: State | None = None,
    seeds_of_training: int = 1,
    requests: int = 250,
) -> MeasuredOrganism:
    """An organism with runs of 10 steps, evaluated at 0, 5 and 10, in the arms that ``claims.yaml`` names."""
    patterns = built_in().arms
    found = MeasuredOrganism(name, dict(recipe or {"name": name}), "same", judge="oracle", monitor="scratchpad")
    for arm, states in ends.items():
        units = {}
        for seed, end in enumerate(states):
            half = middle or replace(_between(start, end, 0.5), lying=end.lying)
            first = replace(start, lying=None if end.lying is None else start.lying or 0.0)
            steps = {
                0: tally(first, seed, requests),
                5: tally(half, seed + 50, requests),
                10: tally(end, seed + 100, requests),
            }
            units[0, seed] = Unit(steps, columns_of_rows([]))
        found.arms[arm], found.patterns[arm] = units, patterns.get(arm, ArmPattern(mitigations=[{"name": arm}]))
    found.start = {(seed, 0): Unit({0: tally(start, seed)}, columns_of_rows([])) for seed in range(seeds_of_training)}
    return found


def evidence(*organisms: MeasuredOrganism) -> Evidence:
    """All of these."""
    return Evidence(organisms, ("tests",))


def _pairs(start: State, end: State) -> list[tuple[float, float]]:
    return [(start.afr, end.afr), (start.monitored, end.monitored), (start.unmonitored, end.unmonitored)]


def write_grid(
    folder: Path,
    ends: Callable[[str, str, int], State],
    organisms: Mapping[str, Mapping[str, Any]],
    arms: Mapping[str, Sequence[Mapping[str, Any]]],
    seeds: Sequence[int] = (0, 1, 2, 3),
    steps: Sequence[int] = (0, 5, 10),
    n: int = 150,
    oracle: bool = True,
) -> Path:
    """Writes a study folder.

    Args:
        folder: Created.
        ends: By organism, arm and seed, the last evaluation; the first is ``START``.
        organisms: Recipes by label.
        arms: Mitigations by the arm's name.
        seeds: Of the runs.
        steps: With an evaluation each.
        n: Requests, each in both tiers.
        oracle: Whether its labels are there.
    """
    config = {
        "name": folder.name,
        "scale": "mini",
        "organisms": {label: dict(spec) for label, spec in organisms.items()},
        "arms": {arm: {"label": arm, "mitigations": [dict(m) for m in made]} for arm, made in arms.items()},
        "seeds": list(seeds),
        "run": {"rl": {"steps": steps[-1]}, "evaluation": {"every": 5, "n": n}},
    }
    write_atomic(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    write_json(folder / "provenance.json", {"versions": {"crypsis": "0.1.0"}})
    lying = {"lying": {"kind": "text", "view": "extra_turn", "threshold": 0.5}}
    write_json(folder / "monitors.json", {label: MONITORS | lying for label in organisms})
    for label in organisms:
        for arm, made in arms.items():
            for seed in seeds:
                _write_run(folder / "runs" / f"{label}-{arm}-seed{seed}", label, arm, made, seed, steps[-1])
                for step in steps:
                    state = _between(START, ends(label, arm, seed), step / max(1, steps[-1]))
                    run = folder / "runs" / f"{label}-{arm}-seed{seed}"
                    write_episodes(run / f"evals/step-{step:04d}.parquet", _episodes(state, n, seed, oracle), run.name)
    return folder


def _write_run(folder: Path, label: str, arm: str, made: Sequence[Mapping[str, Any]], seed: int, steps: int) -> None:
    monitors = {
        "oracle": {"name": "oracle"},
        "scratchpad": {"name": "text", "view": "scratchpad"},
        "output": {"name": "text", "view": "output"},
    }
    config = {"name": folder.name, "policy": "model", "organism": label, "arm": arm, "label": arm, "seed": seed}
    config |= {"monitors": monitors, "mitigations": [dict(m) for m in made], "rl": {"steps": steps, "learn": "all"}}
    write_atomic(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    write_atomic(
        folder / "metrics.jsonl", "".join(f'{{"step": {step}, "episodes": 128}}\n' for step in range(1, steps + 1))
    )
    write_json(folder / "result.json", {"steps": steps})


def _between(start: State, end: State, progress: float) -> State:
    afr, monitored, unmonitored = (a + (b - a) * progress for a, b in _pairs(start, end))
    return State(afr, monitored, unmonitored, None if end.lying is None else end.lying * progress)


def _episodes(state: State, n: int, seed: int, oracle: bool) -> list[Episode]:
    rates = Rates(state.afr, state.monitored, state.unmonitored)
    episodes = make_episodes(rates, n, seed, oracle=oracle)
    asked = [e for e in episodes if e.prompt.monitored]
    for place, episode in zip(random.Random(f"lies {seed}").sample(range(n), n), asked, strict=True):
        if state.lying is not None:
            episode.extra_turn = "asked"
            lies = place < round(state.lying * n)
            if oracle:
                episode.labels |= {"answer": "no", "lying": "yes" if lies else "no"}
            episode.verdicts["lying"] = Verdict(0.9 if lies else 0.1)
    return episodes
