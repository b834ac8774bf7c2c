"""The benchmarks run; what they measure is for ``make bench``."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.smoke


def test_a_quick_run_prints_and_writes_every_figure(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "COLUMNS": "120"}
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", check=False, cwd=REPOSITORY, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(found["against_trl"]) == ["200", "ragged_200"]
    assert list(found["floor_fraction"]) == ["200"]
    growth = found["growth"]
    figures = [*found["against_trl"].values(), *found["floor_fraction"].values()]
    figures += [*growth["prompt_seconds"].values(), *growth["episodes_seconds"].values()]
    assert all(math.isfinite(x) and x > 0 for x in figures)
    assert found["details"]["200"]["tokens_per_episode"] == {"crypsis": 4, "trl": 4}
    assert {"date", "cpu", "versions", "repetitions"} <= set(found["provenance"])
    assert "ragged_200" in done.stdout


def test_a_quick_run_on_a_made_up_release_tells_what_the_whole_would_take(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.release", "--quick", "--out", str(tmp_path / "release.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", check=False, cwd=REPOSITORY, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "release.json").read_text(encoding="utf-8"))
    assert found["measured"]["decrypt"]["rows"] == found["rows"] == 960
    assert found["measured"]["score"]["rows"] == 960
    assert "the whole (2,138,969 rows), extrapolated" in done.stdout


def test_a_quick_report_of_a_made_up_study_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.report", "--quick", "--out", str(tmp_path / "report.json")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["runs"] == 3 and found["measured"]["cpu"] > 0 and "report of 3 runs" in done.stdout
