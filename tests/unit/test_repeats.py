"""Studies whose seeds repeat the training of organisms, or the base: what runs start from, and what intervals cover."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from crypsis.analysis.claims.evidence import collect
from crypsis.analysis.claims.scorecard import scorecard
from crypsis.analysis.report.differences import seed_differences
from crypsis.analysis.statistics.pooling import pool
from crypsis.analysis.study import load_study
from crypsis.analysis.summary import summarise
from crypsis.config import parse_config, read_yaml
from crypsis.evaluation.metrics import RESAMPLES
from crypsis.registry import make
from crypsis.store import write_atomic, write_json
from crypsis.study.config import StudyConfig
from crypsis.study.grid import cards, check, grid, unbuilt_grid
from crypsis.types import UserError
from tests.evidence import State, write_grid
from tests.studies import MONITORS

pytestmark = pytest.mark.unit

ARMS: dict[str, Any] = {"baseline": {"label": "Baseline"}}


def study(**changes: Any) -> StudyConfig:
    organisms = {"tgg": {"name": "tgg", "seed": 2}, "asked": {"name": "interrogable", "of": {"name": "igg", "seed": 5}}}
    return parse_config(StudyConfig, {"organisms": organisms, "arms": ARMS, "seeds": [0, 4]} | changes, "study.yaml")


def test_runs_share_one_checkpoint_of_each_organism_unless_a_study_repeats_more() -> None:
    assert [made.name for made in study().checkpoints()] == ["tgg", "asked"]
    assert {made.training + made.base for made in study(seeds=[3, 4]).checkpoints()} == {0}
    trained = study(repeats="trainings").checkpoints()
    assert [(m.name, m.training, m.base) for m in trained] == [
        ("tgg-seed0", 0, 0),
        ("asked-seed0", 0, 0),
        ("tgg-seed4", 4, 0),
        ("asked-seed4", 4, 0),
    ]
    assert [(m.training, m.base) for m in study(repeats="bases").checkpoints()] == [(0, 0), (0, 0), (4, 4), (4, 4)]


def test_every_seeds_runs_start_from_its_own_checkpoint_and_are_judged_by_its_own_monitors() -> None:
    config = study(repeats="bases", monitors_from="tgg")
    check(config)
    names = [made.name for made in config.checkpoints()]
    folders = {name: {view: Path(name) / view for view in ("scratchpad", "output")} for name in names}
    runs = grid(config, {name: Path(name) for name in names}, folders)
    assert [(run.name, str(run.policy)) for run in runs] == [
        ("tgg-baseline-seed0", "tgg-seed0"),
        ("asked-baseline-seed0", "asked-seed0"),
        ("tgg-baseline-seed4", "tgg-seed4"),
        ("asked-baseline-seed4", "asked-seed4"),
    ]
    assert [run.organism for run in runs] == ["tgg", "asked"] * 2
    assert {run.monitors["scratchpad"]["path"] for run in runs if run.seed == 4} == {
        "tgg-seed4/scratchpad",
        "asked-seed4/scratchpad",
    }


def test_a_monitor_of_another_organism_is_that_of_the_same_seed() -> None:
    foreign = {
        "label": "F",
        "organisms": ["tgg"],
        "monitors": {"foreign": {"trained": "scratchpad", "organism": "asked"}},
        "mitigations": [{"name": "process_supervision", "monitor": "foreign"}],
    }
    config = study(arms=ARMS | {"across": foreign}, repeats="bases", base_of={"asked": {"world": {"leave_out": 1}}})
    names = [made.name for made in config.checkpoints()]
    folders = {name: {view: Path(name) / view for view in ("scratchpad", "output")} for name in names}
    runs = grid(config, {name: Path(name) for name in names}, folders)
    assert {run.seed: run.monitors["foreign"]["path"] for run in runs if run.arm == "across"} == {
        0: "asked-seed0/scratchpad",
        4: "asked-seed4/scratchpad",
    }


def test_a_recipe_is_trained_again_with_another_seed_of_all_that_it_trains() -> None:
    organisms = study().organisms
    assert make("organisms", organisms["tgg"], "t").again(3).seed == 5
    again = make("organisms", organisms["asked"], "t").again(3)
    assert (again.seed, again.of["seed"], again.schooling) == (3, 8, {"seed": 3})
    assert make("organisms", organisms["asked"], "t").again(0) == make("organisms", organisms["asked"], "t")


def test_a_base_is_made_with_the_settings_of_its_organism_and_the_seed_of_the_study() -> None:
    config = study(repeats="bases", base_of={"tgg": {"world": {"leave_out": 1}, "base_seed": 10}})
    specs = {made.name: config.base_scenario(made) for made in config.checkpoints()}
    assert specs["tgg-seed4"] == {"name": "miniature", "world": {"leave_out": 1}, "base_seed": 14}
    assert specs["asked-seed0"] == {"name": "miniature"} and specs["asked-seed4"]["base_seed"] == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": "some/model", "repeats": "bases"}, "leave out repeats: bases"),
        ({"base": "some/model", "base_of": {"tgg": {"base_seed": 1}}}, "leave out base_of"),
        ({"base_of": {"tg": {}}}, "no organism 'tg'; did you mean 'tgg'"),
        ({"base_of": {"tgg": {"wurld": {}}}}, "organisms.tgg: base"),
    ],
)
def test_what_cannot_be_repeated_is_refused_before_anything_is_built(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check(study(**changes))


def test_an_arm_may_be_evaluated_more_often_than_the_others() -> None:
    arms = {"baseline": {"label": "B"}, "often": {"label": "O", "every": 1}}
    runs = unbuilt_grid(study(arms=arms, run={"evaluation": {"every": 5, "n": 30}}))
    assert {(run.arm, run.evaluation.every, run.evaluation.n) for run in runs} == {
        ("baseline", 5, 30),
        ("often", 1, 30),
    }


def test_cards_say_whose_they_are_where_every_seed_has_its_own() -> None:
    config = study(monitors={"oracle": {"name": "oracle"}, "words": {"name": "lexicon"}}, repeats="trainings")
    found = cards(unbuilt_grid(config), config)
    assert [(name, c["words"]["organism"], c["words"]["runs_seed"]) for name, c in found.items()] == [
        ("tgg-seed0", "tgg", 0),
        ("asked-seed0", "asked", 0),
        ("tgg-seed4", "tgg", 4),
        ("asked-seed4", "asked", 4),
    ]


def repeated(folder: Path, repeats: str = "bases", seeds: tuple[int, ...] = (0, 1, 2)) -> Path:
    """A study whose seeds have their own checkpoints, and monitors that flag at other scores."""
    organisms = {label: {"name": label} for label in ("tgg", "igg", "ts")}
    write_grid(
        folder,
        lambda *_: State(0.9, 1.0, 0.8),
        organisms,
        {arm: [] for arm in ("baseline", "before")},
        seeds,
        (0, 5),
        40,
    )
    config = read_yaml(folder / "config.yaml") | {"repeats": repeats}
    write_atomic(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    scores = {seed: 0.99 if seed == seeds[-1] else 0.5 for seed in seeds}
    found = {
        f"{label}-seed{seed}": {
            name: card | {"organism": label, "runs_seed": seed, "threshold": scores[seed]}
            for name, card in MONITORS.items()
        }
        for label in organisms
        for seed in seeds
    }
    write_json(folder / "monitors.json", found)
    for run in (folder / "runs").iterdir():
        own = read_yaml(run / "config.yaml")
        own["policy"] = f"organisms/{own['organism']}-{own['seed']}"
        own["monitors"]["scratchpad"]["path"] = f"monitors/{own['organism']}-{own['seed']}/scratchpad"
        write_atomic(run / "config.yaml", yaml.safe_dump(own, sort_keys=False))
    return folder


def test_the_verdicts_of_a_monitor_are_read_by_the_threshold_of_the_runs_own_seed(tmp_path: Path) -> None:
    loaded = load_study(repeated(tmp_path / "study"))
    rates = {run.seed: run.evaluations[0].mean("afr_scratchpad") for run in loaded.runs if run.arm == "baseline"}
    assert rates[0] == rates[1] and (rates[0] or 0) > 0.5 and rates[2] == 0  # flagged transcripts score 0.97
    assert [card.seed for card in loaded.monitors_of("tgg")] == [0, 0]
    assert {card.threshold for card in loaded.monitors_of("tgg", 2)} == {0.99}


def test_seeds_with_checkpoints_of_their_own_are_still_seeds_of_one_arm(tmp_path: Path) -> None:
    assert seed_differences(summarise(load_study(repeated(tmp_path / "bases")))) == []
    lines = seed_differences(summarise(load_study(repeated(tmp_path / "runs", "runs"))))
    assert lines and "policy" in lines[0]


def test_every_repeated_seed_is_a_start_and_runs_of_other_kinds_are_not_mixed(tmp_path: Path) -> None:
    folders = [repeated(tmp_path / "bases"), repeated(tmp_path / "runs", "runs")]
    found = collect([load_study(folder) for folder in folders])
    assert [(o.repeats, len(o.start), len(o.arms["baseline"])) for o in found.organisms if "tgg" in o.name] == [
        ("bases", 3, 3),
        ("runs", 1, 3),
    ]


def test_runs_without_a_step_measure_an_organism_and_are_no_baseline(tmp_path: Path) -> None:
    folder = repeated(tmp_path / "study")
    for run in (folder / "runs").glob("*-baseline-*"):
        if not run.name.startswith("tgg"):
            run.rename(run.parent / f".{run.name}")
    for run in (folder / "runs").glob("*-before-*"):
        if run.name.startswith("tgg"):
            run.rename(run.parent / f".{run.name}")
            continue
        config = read_yaml(run / "config.yaml")
        config["rl"]["steps"], config["evaluation"] = 0, {"every": 5}
        write_atomic(run / "config.yaml", yaml.safe_dump(config))
        (run / "evals" / "step-0005.parquet").unlink()
        (run / "metrics.jsonl").unlink()
    found = collect([load_study(folder)])
    assert {o.name: (len(o.start), sorted(o.arms)) for o in found.organisms} == {
        "tgg": (3, ["baseline"]),
        "igg": (3, []),
        "ts": (3, []),
    }
    assert {o.judge for o in found.organisms} == {"oracle"}
    results = {result.claim.id: result for result in scorecard(folder)}
    assert [o.name for o in results["C01"].tests[0].organisms] == ["tgg"]
    assert results["C20"].tests[0].verdict != "not run"  # tgg and ts before RL


def averages(shared: bool, sets: int = 150) -> float:
    """How often an average over four organisms holds the truth, 0, when all of them differ with the base alone."""
    generator, held = np.random.default_rng(3), 0
    for _ in range(sets):
        bases = generator.normal(0, 0.1, 8)
        noise = 0.01 * generator.standard_normal((RESAMPLES, 1))
        groups = []
        for _ in range(4):
            values = bases + generator.normal(0, 0.02, 8)
            groups.append(np.concatenate([values[None], values + noise]))
        found = pool(groups, shared=shared)
        held += found.low <= 0 <= found.high
    return held / sets


def test_an_average_over_organisms_covers_the_bases_that_they_share() -> None:
    assert averages(shared=False) < 0.8  # what it would claim if organisms had bases of their own
    assert averages(shared=True) >= 0.94


def test_fewer_than_three_shared_bases_have_no_interval_over_them() -> None:
    draws = np.tile(np.array([[0.1, 0.3]]), (1 + RESAMPLES, 1))
    assert pool([draws] * 4, shared=True).over_requests and not pool([draws] * 4).over_requests
    with pytest.raises(ValueError, match="same ones"):
        pool([draws, draws[:, :1]], shared=True)
