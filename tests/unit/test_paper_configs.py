"""Every config of the repository is sound: what it names exists and goes together; the paper's are in the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crypsis.study.config import load_study_config
from crypsis.study.grid import check
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.unit

CONFIGS = REPOSITORY / "configs"
PAPER = sorted((CONFIGS / "paper").glob("*.yaml"))
REAL = sorted((CONFIGS / "paper" / "real").glob("*.yaml"))
MORE = sorted(set((CONFIGS / "scorecard").glob("*.yaml")) - set((CONFIGS / "scorecard").glob("*_claims.yaml")))
FRESH = sorted((CONFIGS / "scorecard").glob("fresh*.yaml"))
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
    config, whole = load_study_config(file), load_study_config(CONFIGS / "scorecard.yaml")
    check(config)
    header = file.read_text(encoding="utf-8").partition("\nname: ")[0]
    assert f"crypsis study run {file.relative_to(REPOSITORY)} --out runs/{config.name}" in header
    known = {label: spec for label, spec in config.organisms.items() if label in whole.organisms}
    assert known == {label: whole.organisms[label] for label in known}
    assert config.run.rl == whole.run.rl
    if file in FRESH:  # asks again: with seeds that no other part has, and as many requests as it likes
        others = [load_study_config(other).seeds for other in [CONFIGS / "scorecard.yaml", *MORE] if other not in FRESH]
        assert not set(config.seeds) & {seed for seeds in others for seed in seeds}
    else:
        assert config.run.evaluation.n == whole.run.evaluation.n
