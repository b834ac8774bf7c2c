"""The grid of a study: which runs there are, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crypsis.config import parse_config
from crypsis.study.config import StudyConfig
from crypsis.study.demo import demo_config
from crypsis.study.grid import asked, check, grid
from crypsis.types import UserError

pytestmark = pytest.mark.unit

ARMS: dict[str, Any] = {
    "baseline": {"label": "Baseline"},
    "asked": {"label": "Asked", "mitigations": [{"name": "interrogation"}], "organisms": ["talks"]},
}


def study(**changes: Any) -> StudyConfig:
    organisms = {"tgg": {"name": "tgg"}, "talks": {"name": "interrogable", "of": {"name": "tgg"}}}
    return parse_config(StudyConfig, {"organisms": organisms, "arms": ARMS} | changes, "study.yaml")


def test_seeds_come_first_then_organisms_then_their_arms() -> None:
    config = study(seeds=[3, 5])
    check(config)
    places = {label: Path(label) for label in config.organisms}
    monitors = {label: {v: Path(label) / v for v in ("scratchpad", "output", "lying")} for label in places}
    runs = grid(config, places, monitors)
    assert [run.name for run in runs] == [
        f"{cell}-seed{seed}" for seed in (3, 5) for cell in ("tgg-baseline", "talks-baseline", "talks-asked")
    ]
    assert [(run.organism, run.arm, run.seed) for run in runs[:3]] == [
        ("tgg", "baseline", 3),
        ("talks", "baseline", 3),
        ("talks", "asked", 3),
    ]
    assert runs[2].policy == Path("talks") and runs[2].monitors["lying"]["path"] == "talks/lying"
    assert "lying" not in runs[1].monitors and runs[0].monitors["scratchpad"]["path"] == "tgg/scratchpad"
    assert asked(config, "talks") and not asked(config, "tgg")
    runs = grid(study(seeds=[3, 5], first=["talks"]), places, monitors)
    order = [(run.organism, run.seed) for run in runs]
    assert order == [("talks", 3), ("talks", 3), ("talks", 5), ("talks", 5), ("tgg", 3), ("tgg", 5)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": [0, 1, 0]}, ["seeds: 0 is there twice"]),
        ({"organisms": {"tgg": {"name": "tgg"}}}, ["arms.asked.organisms: the study has no organism 'talks'"]),
        ({"organisms": {"talk": {"name": "tgg"}}}, ["'talks'; did you mean 'talk'?"]),
        ({"organisms": {"a/b": {"name": "tgg"}}}, ["organisms: 'a/b' cannot name files"]),
        ({"first": ["talk"]}, ["first: the study has no organism 'talk'; did you mean 'talks'?"]),
        ({"arms": {".": {"label": "Dot"}}}, ["arms: '.' cannot name files"]),
        ({"arms": {}}, ["arms", "at least 1"]),
        ({"organism": {"name": "tgg"}}, ["unknown key 'organism'", "did you mean 'organisms'?"]),
        ({"arms": {"asked": ARMS["asked"]}}, ["organisms.tgg: no arm is for it"]),
    ],
)
def test_a_wrong_grid_is_one_line(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        study(**changes)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), str(caught.value)


def test_two_runs_of_one_name_are_refused() -> None:
    labels = {"a": {"name": "tgg"}, "a-b": {"name": "igg"}}
    with pytest.raises(UserError, match="two runs are called 'a-b-c-seed0'; rename an organism or an arm"):
        check(study(organisms=labels, arms={"b-c": {"label": "1"}, "c": {"label": "2"}}))


def test_an_unknown_recipe_is_named_by_its_label() -> None:
    with pytest.raises(UserError, match=r"organisms\.tgg: .*'tgf'"):
        check(study(organisms={"tgg": {"name": "tgf"}}, arms={"baseline": ARMS["baseline"]}))


def test_settings_reach_one_organism_of_the_demo() -> None:
    config = demo_config("nano", ["organisms.tgg.steps=7", "organisms.second={name: igg, steps: 9}"])
    assert config.organisms["tgg"]["steps"] == 7 and config.organisms["second"] == {"name": "igg", "steps": 9}
