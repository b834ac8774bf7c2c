"""The demo on a real language model, at nano: a random model with a real tokenizer goes through every stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from crypsis.jsonlines import read_rows
from crypsis.store import METRICS, read_json
from tests.conftest import Crypsis
from tests.english import english_checkpoint

pytestmark = pytest.mark.smoke


def test_the_demo_of_a_real_model_builds_trains_and_reports(crypsis: Crypsis, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base, out = english_checkpoint(tmp_path / "model"), tmp_path / "real"
    command = ("demo", "--model", base, "--scale", "nano", "--out", out, "seeds=[0]", "run.rl.steps=2")
    done = crypsis(*command)
    assert done.returncode == 0, done.stderr
    assert "real: 3 runs, " in done.stdout and "GFLOP/s" in done.stdout
    for arm in ("baseline", "scratchpad", "output"):
        run = out / "runs" / f"tgg-{arm}-seed0"
        assert (run / "result.json").exists() and read_rows(run / METRICS)
    assert set(read_json(out / "monitors.json")["tgg"]) == {"scratchpad", "output"}
    assert "one_motive" in (out / "config.yaml").read_text() and (out / "report.html").stat().st_size > 10_000


def test_a_model_that_is_not_there_is_one_line(crypsis: Crypsis, tmp_path: Path) -> None:
    done = crypsis("demo", "--model", tmp_path / "none", "--scale", "nano")
    assert done.returncode == 2 and done.stderr.strip().splitlines() == [
        f"crypsis: {tmp_path / 'none'}: no such folder"
    ]
