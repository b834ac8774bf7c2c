"""The report of one run, as ``crypsis train`` ends with it and ``crypsis report RUN`` makes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from crypsis.analysis.study import load_study
from crypsis.analysis.summary import summarise
from crypsis.store import write_json
from tests.conftest import Crypsis
from tests.studies import ARMS, MONITORS, make_study

pytestmark = pytest.mark.unit


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_study(tmp_path / "s", ARMS, seeds=(0,), steps=(0, 5, 10), n=8) / "runs" / "tgg-baseline-seed0"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"policy": "somewhere", "name": "alone"}))
    return folder


def test_a_run_is_reported_like_the_arm_of_a_study(run: Path, crypsis_here: Crypsis) -> None:
    write_json(run / "monitors.json", MONITORS)
    done = crypsis_here("report", run)
    assert done.returncode == 0, done.stderr
    assert str(run / "report.html") in done.stdout and (run / "figures").is_dir()
    (alone,) = json.loads((run / "summary.json").read_text())["arms"]
    (arm,) = [a for a in summarise(load_study(run.parent.parent)).arms if a.arm == "baseline"]
    assert alone["afr"]["end"]["mean"] == pytest.approx(arm.metrics["afr"].end.mean, abs=1e-6)
    assert alone["afr_monitor"]["end"]["mean"] is not None, "judged by the monitor of its own monitors.json"


def test_a_run_without_names_is_called_by_its_own(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"organism": "", "arm": "", "label": ""}))
    (found,) = load_study(run).runs
    assert (found.organism, found.arm, found.label) == ("policy", "alone", "alone")


def test_what_is_no_finished_run_is_one_line(run: Path, crypsis_here: Crypsis) -> None:
    (run / "result.json").unlink()
    done = crypsis_here("report", run)
    assert done.returncode == 2 and "stopped after step" in done.stderr and done.stderr.count("\n") == 1
    (run / "config.yaml").write_text("model: x\nscenario: {name: miniature}\n")
    done = crypsis_here("report", run)
    assert done.returncode == 2 and "is no run" in done.stderr and done.stderr.count("\n") == 1
