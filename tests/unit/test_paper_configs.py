"""Every config of the repository is sound: what it names exists and goes together; the paper's are in the index."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from crypsis.analysis.claims.evidence import MeasuredOrganism, _pattern, _recipe, is_arm
from crypsis.analysis.claims.schema import START, built_in, read_claims
from crypsis.analysis.study import Run, Study
from crypsis.analysis.study_files import Timing
from crypsis.study.config import load_study_config
from crypsis.study.grid import check, unbuilt_grid
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.unit

CONFIGS = REPOSITORY / "configs"
PAPER = sorted((CONFIGS / "paper").glob("*.yaml"))
REAL = sorted((CONFIGS / "paper" / "real").glob("*.yaml"))
OLD = CONFIGS / "scorecard" / "old"
WHOLE = OLD / "scorecard.yaml"
MORE = sorted(set(OLD.glob("*.yaml")) - set(OLD.glob("*_claims.yaml")) - {WHOLE})
FRESH = sorted(OLD.glob("fresh*.yaml"))
QUESTIONS = sorted(set((CONFIGS / "scorecard").glob("*.yaml")) - set((CONFIGS / "scorecard").glob("*_claims.yaml")))
NEW = CONFIGS / "scorecard.yaml"
INDEX = (REPOSITORY / "docs" / "paper_index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", [*PAPER, *REAL], ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_config_of_the_paper_is_sound(file: Path) -> None:
    config = load_study_config(file)
    check(config)
    header = file.read_text(encoding="utf-8").partition("\nname: ")[0]
    assert f"crypsis study run {file.relative_to(REPOSITORY)} --out " in header
    if file in PAPER:
        cells = sum(len(config.arms_of(label)) for label in config.organisms)
        runs, minutes = re.findall(r"Cost on the miniature: (\d+) runs, about (\d+) min", header)[0]
        assert int(runs) == cells * len(config.seeds) and int(minutes) < 75
        assert f"`configs/paper/{file.name}`" in INDEX
    else:
        twin = load_study_config(CONFIGS / "paper" / file.name)
        assert config.base and config.arms == twin.arms and set(config.organisms) <= set(twin.organisms)
        assert config.seeds == twin.seeds


def test_figure_1_has_six_organisms_six_arms_and_three_seeds() -> None:
    config = load_study_config(CONFIGS / "paper" / "figure01.yaml")
    assert (len(config.organisms), len(config.arms), len(config.seeds)) == (6, 6, 3)


@pytest.mark.parametrize("file", MORE, ids=lambda path: path.name)
def test_a_part_of_the_scorecard_goes_with_the_rest(file: Path) -> None:
    config, whole = load_study_config(file), load_study_config(WHOLE)
    check(config)
    header = file.read_text(encoding="utf-8").partition("\nname: ")[0]
    assert f"crypsis study run {file.relative_to(REPOSITORY)} --out runs/{config.name}" in header
    known = {label: spec for label, spec in config.organisms.items() if label in whole.organisms}
    assert known == {label: whole.organisms[label] for label in known}
    assert config.run.rl == whole.run.rl
    if file in FRESH:  # asks again: with seeds that no other part has, and as many requests as it likes
        others = [load_study_config(other).seeds for other in [WHOLE, *MORE] if other not in FRESH]
        assert not set(config.seeds) & {seed for seeds in others for seed in seeds}
    else:
        assert config.run.evaluation.n == whole.run.evaluation.n


@pytest.mark.parametrize("file", [NEW, *QUESTIONS], ids=lambda path: path.name)
def test_a_study_that_waits_to_be_run_is_sound_and_says_what_it_costs_and_expects(file: Path) -> None:
    config = load_study_config(file)
    check(config.model_copy(update={"seeds": config.seeds[-1:]}))  # one seed is as good as eight, and faster
    header = file.read_text(encoding="utf-8").partition("\nname: ")[0]
    verb = "scorecard run" if file == NEW else "study run"
    assert f"crypsis {verb} {file.relative_to(REPOSITORY)} --out runs/{config.name}" in header
    cells = sum(len(config.arms_of(label)) for label in config.organisms)
    (runs,) = re.findall(r"Cost on the miniature: (\d+) runs", header)
    assert int(runs) == cells * len(config.seeds)
    if file in QUESTIONS:
        assert "Predictions, before any run" in header
        claims = read_claims(file.with_name(f"{file.stem}_claims.yaml"))
        named = {spec["label"] for c in claims.claims for t in c.tests for spec in (*t.organisms, *t.against_organisms)}
        arms = {arm for c in claims.claims for t in c.tests for arm in (*t.arms, *t.against)} - {START}
        assert named <= set(config.organisms) and arms <= set(config.arms)


def test_the_scorecards_study_has_what_every_claim_asks_for() -> None:
    config, file = load_study_config(NEW), built_in()
    assert len(config.seeds) >= 8 and config.repeats == "bases"
    study = Study(Path(), "", "", config.model_dump(mode="json"), {}, (), Timing(), (), ())
    arms: dict[str, set[str]] = {}
    recipes: dict[str, dict[str, Any]] = {}
    for run in unbuilt_grid(config.model_copy(update={"seeds": [0]})):
        done = _pattern(
            Run(Path(), run.organism, run.arm, "", (), run.rl.learn, run.seed, run.rl.steps, {}, (), run.model_dump())
        )
        fits = {name for name, wanted in file.arms.items() if is_arm(done, wanted)} if run.rl.steps else set()
        arms.setdefault(run.organism, {START}).update(fits)
        recipes[run.organism] = _recipe(study, run.organism)
    measured = {label: MeasuredOrganism(label, recipe, "") for label, recipe in recipes.items()}
    for claim in file.claims:
        for test in claim.tests:
            needed = {*test.arms, *test.against} - ({*test.optional} if claim.id == "C30" else set())
            population = "paper" if claim.population == "fakers" else claim.population
            for wanted in (*test.organisms, *test.against_organisms):
                assert [o for o in measured.values() if o.matches(wanted) and needed <= arms[o.name]], claim.id
            if not test.organisms:
                able = [o.name for o in measured.values() if o.counts_in(population) and needed <= arms[o.name]]
                least = 2 if claim.population == "silent" or test.over == "runs" else 3
                assert len(able) >= least, f"{claim.id}: {able}"
