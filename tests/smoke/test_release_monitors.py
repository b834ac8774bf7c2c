"""Monitors on the paper's released transcripts, and that no decrypted text is left anywhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crypsis.cli import app
from crypsis.paper_data.generate import SIGN, ReleaseSpec, RunSpec, write_release
from crypsis.store import read_json
from crypsis.transcripts.base import Only, Reading, ReadOptions
from crypsis.transcripts.detect import read_transcripts

pytestmark = pytest.mark.smoke

RUNS = (
    RunSpec("TGG", "Baseline", faults=("wrong_key", "bad_base64")),
    RunSpec("IGG", "Baseline"),
    RunSpec("TGG", "Scratchpad_monitor", True),
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_release(folder, ReleaseSpec(RUNS, (0, 5, 15), 120, 300, sentences=300))
    return folder


@pytest.fixture
def run(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> object:
    """Runs a command and looks for decrypted text in all that it says, logs and writes."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("crypsis.monitors.metrics.RESAMPLES", 20)  # of intervals that no test here looks at

    def command(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        said = done.output + (str(done.exception) if done.exception else "")
        assert done.exit_code == code or (code and done.exception), said
        for path in (p for p in tmp_path.rglob("*") if p.is_file()):
            assert SIGN.encode() not in path.read_bytes(), path
        assert SIGN not in said + caplog.text
        return said

    return command


def test_rows_are_chosen_before_they_are_decrypted(release: Path) -> None:
    reading = Reading()
    only = Only(organism=["tgg"], intervention=["Baseline"], step=[5], tier="free")
    rows = list(read_transcripts(release, ReadOptions(only=only), reading))
    assert len(rows) == 120
    assert {(row.model, row.step, row.tier, row.protected) for row in rows} == {("TGG", 5, "free", True)}
    assert all(SIGN in row.scratchpad and SIGN in row.output for row in rows)
    assert not reading.skipped
    assert any("paper's classifier" in line for line in reading.warnings)
    every = Reading()
    half = [row.pair_id for row in read_transcripts(release, ReadOptions(only=Only(share=0.5)), every)]
    assert 30 < len(set(half)) < 90
    whole = Reading()
    assert len(list(read_transcripts(release, ReadOptions(), whole))) == 3 * 720 - 3
    assert whole.skipped == {
        "response: corrupt base64": 1,
        "response: no text after decryption (another key?)": 2,
    }


def test_train_validate_and_crossval_leave_no_text(release: Path, tmp_path: Path, run: object) -> None:
    assert callable(run)
    chosen = ("--data", release, "--intervention", "Baseline", "--step", 0, "--tier", "free")
    said = run("monitor", "train", *chosen, "--organism", "TGG", "--kind", "lexicon", "--out", tmp_path / "train")
    assert "verdicts of the paper's classifier" in " ".join(said.split())
    said = run("monitor", "validate", tmp_path / "train", *chosen, "--organism", "IGG", "--out", tmp_path / "check")
    assert "AUROC" in said
    run("monitor", "crossval", *chosen, "--kind", "lexicon", "--folds", 2, "--repeats", 1, "--out", tmp_path / "cross")
    worst = read_json(tmp_path / "cross" / "measurement.json")["worst"]
    assert all("protected" in error["text"] for error in worst)


def test_scores_of_chosen_rows_leave_no_text(release: Path, tmp_path: Path, run: object) -> None:
    assert callable(run)
    chosen = ("--organism", "IGG", "--intervention", "Baseline", "--step", 5, "--tier", "free", "--share", 0.5)
    run("monitor", "score", "lexicon", "--data", release, *chosen, "--explain", 0, "--out", tmp_path / "o.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert {(row["model"], row["step"], row["tier"]) for row in rows} == {("IGG", 5, "free")}
    assert 30 < len(rows) == len({row["pair_id"] for row in rows}) < 90


def test_transfer_between_released_organisms(release: Path, tmp_path: Path, run: object) -> None:
    assert callable(run)
    run(
        "monitor", "transfer", "--data", release, "--kind", "lexicon", "--step", 0, "--tier", "free",
        "--intervention", "Baseline", "--out", tmp_path / "transfer",
    )  # fmt: skip
    cells = read_json(tmp_path / "transfer" / "transfer.json")["cells"]
    assert {(cell["trained_on"], cell["tested_on"]) for cell in cells} == {
        (a, b) for a in ("TGG", "IGG") for b in ("TGG", "IGG")
    }
    assert all(cell["auroc"] > 0.9 for cell in cells)


def test_recall_over_steps_of_held_out_requests(release: Path, tmp_path: Path, run: object) -> None:
    """The made-up motives do not change, so recall stays; runs trained against a monitor end without any faking."""
    assert callable(run)
    said = run("monitor", "recall", release, "--kind", "lexicon", "--out", tmp_path / "recall")
    assert "not ground truth" in " ".join(said.split())
    found = read_json(tmp_path / "recall" / "recall.json")
    against, others = found["groups"]
    assert (against["runs"], others["runs"]) == (1, 2)
    assert [step["step"] for step in others["steps"]] == [0, 5, 15]
    assert all(step["recall"]["mean"] > 0.8 for step in others["steps"])
    assert against["steps"][-1]["faking"] == 0
    assert against["steps"][-1]["recall"]["mean"] is None
    total = sum(step["n"] for step in others["steps"])
    assert 2 * 3 * 30 < total < 2 * 3 * 90
    for group in found["groups"]:
        for step in group["steps"]:
            assert step["hits"] + step["misses"] == step["faking"]
    assert (tmp_path / "recall" / "recall.svg").exists()
    assert json.dumps(found).count("trained against a scratchpad monitor") == 1


def test_a_folder_without_the_release_is_one_line(tmp_path: Path, run: object) -> None:
    assert callable(run)
    (tmp_path / "other").mkdir()
    assert "holds no .parquet file" in run("monitor", "recall", tmp_path / "other", code=2)
