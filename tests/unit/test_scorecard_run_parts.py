"""The two halves of ``crypsis scorecard run`` without a model: a study with checkpoints by seed, and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from crypsis.analysis.claims.schema import built_in
from crypsis.cli import studies
from crypsis.config import parse_config
from crypsis.organisms.base import Organism
from crypsis.registry import make
from crypsis.run_config import RunConfig
from crypsis.store import read_json
from crypsis.study import pipeline
from crypsis.study.config import StudyConfig
from crypsis.study.progress import Display
from tests.conftest import Crypsis
from tests.evidence import State, write_grid

pytestmark = pytest.mark.unit

STUDY: dict[str, Any] = {
    "name": "tiny",
    "seeds": [0, 3],
    "repeats": "bases",
    "organisms": {"tgg": {"name": "tgg"}},
    "monitors": {"oracle": {"name": "oracle"}, "words": {"name": "lexicon"}},
    "arms": {"baseline": {"label": "Baseline RL"}},
}


def test_a_study_builds_every_seeds_checkpoint_on_its_own_base_and_starts_its_runs_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenarios: list[dict[str, Any]] = []
    built: dict[str, tuple[int, str]] = {}
    started: list[tuple[int, str]] = []

    class Scenario:
        def __init__(self, spec: dict[str, Any]) -> None:
            self.spec = spec

        def base_model(self, scale: str, on_step: object) -> Path:
            scenarios.append(self.spec)
            return tmp_path / f"base{self.spec.get('base_seed', 0)}"

    def build_all(recipes: dict[str, tuple[Organism, Path]], workers: int, show: Any) -> dict[str, Path]:
        built.update({name: (recipe.model_dump()["seed"], base.name) for name, (recipe, base) in recipes.items()})
        folders = {name: tmp_path / "organisms" / name for name in recipes}
        for folder in folders.values():
            folder.mkdir(parents=True)
            (folder / "weights").write_text(folder.name)
        return folders

    def run_all(runs: list[RunConfig], *_: object) -> dict[str, str]:
        started.extend((run.seed, run.policy.name) for run in runs)
        return {}

    monkeypatch.setattr(
        pipeline, "make", lambda kind, spec, where: Scenario(spec) if kind == "scenarios" else make(kind, spec, where)
    )
    for name, value in (("build_all", build_all), ("run_all", run_all), ("measured_card", lambda *_: None)):
        monkeypatch.setattr(pipeline, name, value)
    config = parse_config(StudyConfig, STUDY, "study.yaml")
    folder = pipeline.run_study(config, tmp_path / "study", "resume", Display(Console(quiet=True)))
    assert [spec.get("base_seed", 0) for spec in scenarios] == [0, 3]
    assert built == {"tgg-seed0": (0, "base0"), "tgg-seed3": (3, "base3")}
    assert started == [(0, "tgg-seed0"), (3, "tgg-seed3")]
    assert {name: card["words"]["runs_seed"] for name, card in read_json(folder / "monitors.json").items()} == {
        "tgg-seed0": 0,
        "tgg-seed3": 3,
    }


def test_the_page_has_five_columns_and_the_json_what_the_issue_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crypsis_here: Crypsis
) -> None:
    config, page = tmp_path / "study.yaml", tmp_path / "page.md"
    config.write_text(yaml.safe_dump(STUDY))
    out = write_grid(
        tmp_path / "run", lambda *_: State(0.9, 1.0, 0.5), {"tgg": {"name": "tgg"}}, {"baseline": []}, n=30
    )
    monkeypatch.setattr(studies, "run_and_report", lambda *_: None)
    entry = {"id": "C02", "verdict": "absent", "effect": 0.01, "low": -0.02, "high": 0.04, "seeds": 3, "planted": False}
    (tmp_path / "scorecard_real.json").write_text(json.dumps([entry]))
    done = crypsis_here("scorecard", "run", config, "--out", out, "--page", page)
    assert done.returncode == 0, done.stderr
    found = {e["id"]: e for e in json.loads(page.with_suffix(".json").read_text())}
    assert list(found) == [claim.id for claim in built_in().claims]
    keys = {"id", "verdict", "effect", "low", "high", "seeds", "organisms", "planted", "holm"}
    assert all(keys <= entry.keys() for entry in found.values())
    assert (found["C02"]["seeds"], found["C02"]["organisms"], found["C02"]["real_model"]) == (4, 1, "absent")
    assert found["C02"]["paper_runs"] == "crypsis scorecard runs/paper --only C02"
    assert found["C19"]["paper_runs"] is None and found["S01"]["paper_runs"] is None
    rows = [line for line in page.read_text().splitlines() if line.startswith("| C02 |")]
    assert "absent, 0.01 [−0.02, 0.04]; 3 seeds" in rows[0] and rows[0].count(" | ") == 4
