"""``crypsis scorecard run``: a study, all claims on it and one page, in one command that can be given again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from crypsis.analysis.claims.schema import built_in
from tests.conftest import Crypsis

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One organism with a checkpoint for its seed, the only one; at nano it is that of the other tests."""
    study: dict[str, Any] = {
        "name": "tiny",
        "seeds": [0],
        "repeats": "trainings",
        "organisms": {"tgg": {"name": "tgg"}},
    }
    study |= {"monitors": {"oracle": {"name": "oracle"}}, "run": {"rl": {"steps": 1}, "evaluation": {"n": 4}}}
    study["arms"] = {
        "baseline": {"label": "Baseline RL"},
        "before": {"label": "Before RL", "rl": {"steps": 0, "length_correction": False}},
    }
    path = tmp_path_factory.mktemp("tiny") / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def test_one_command_runs_the_study_and_writes_the_page_and_again_only_writes(
    config: Path, nano_organism: Path, crypsis_here: Crypsis
) -> None:
    folder, page = config.parent / "run", config.parent / "page.md"
    words = ["scorecard", "run", config, "--out", folder, "--page", page, "--scale", "nano", "--workers", "2"]
    entry = {"id": "C02", "verdict": "absent", "effect": 0.01, "low": -0.02, "high": 0.04, "seeds": 3, "planted": False}
    (config.parent / "scorecard_real.json").write_text(json.dumps([entry]))
    done = crypsis_here(*words)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (folder / "runs").iterdir()} == {"tgg-baseline-seed0", "tgg-before-seed0"}
    found = {e["id"]: e for e in json.loads(page.with_suffix(".json").read_text())}
    assert list(found) == [claim.id for claim in built_in().claims]
    keys = {"id", "verdict", "effect", "low", "high", "seeds", "organisms", "planted", "holm"}
    assert all(keys <= entry.keys() for entry in found.values())
    assert found["C02"]["verdict"] == "undecided" and found["C02"]["seeds"] == 1 and found["C02"]["organisms"] == 1
    assert found["C02"]["real_model"] == "absent" and found["C01"]["real_model"] == "not run"
    assert found["C02"]["paper_runs"] == "crypsis scorecard runs/paper --only C02"
    assert found["C19"]["paper_runs"] is None and found["S01"]["paper_runs"] is None
    text = page.read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| C02 |") and "runs/paper" in line]
    assert "absent, 0.01 [−0.02, 0.04]; 3 seeds" in row and "undecided" in row
    assert "Every seed repeats the training of each organism and RL" in " ".join(text.split())
    assert "Not finished" not in text
    finished = folder / "runs" / "tgg-baseline-seed0" / "result.json"
    before = finished.stat().st_mtime_ns
    assert crypsis_here(*words).returncode == 0 and finished.stat().st_mtime_ns == before
    shutil.rmtree(finished.parent)
    assert crypsis_here(*words, "--so-far").returncode == 0 and not finished.exists()
    assert "> **Not finished**: 1 of 2 runs." in page.read_text() and "--so-far" in page.read_text()


def test_a_page_that_is_none_and_a_real_model_that_is_no_scorecard_are_refused_first(
    config: Path, crypsis_here: Crypsis, tmp_path: Path
) -> None:
    (tmp_path / "real.json").write_text('{"claims": [{"id": "C01"}]}')
    out = ["--out", tmp_path / "run"]
    for words, said in (
        (["--page", "page.txt"], "must end in .md"),
        (["--real", tmp_path / "real.json"], "holds no scorecard"),
    ):
        done = crypsis_here("scorecard", "run", config, *out, *words)
        assert done.returncode == 2 and said in done.stderr and not (tmp_path / "run").exists()
