"""The page and the rows of ``crypsis export results``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from crypsis.analysis.claims.schema import read_claims
from crypsis.analysis.figures.drawing import GOOD
from crypsis.analysis.results import result_rows, results_json
from crypsis.analysis.results_page import results_markdown
from crypsis.analysis.study import load_study
from crypsis.analysis.summary import DEGENERATE
from crypsis.config import load_config
from crypsis.study.config import StudyConfig
from tests import studies
from tests.conftest import REPOSITORY, Crypsis
from tests.studies import Rates, make_study

pytestmark = pytest.mark.unit

SILENT = Rates(0.0, 0.9, 0.2)
"""Before RL: a gap that no scratchpad shows."""
ARMS: dict[str, tuple[str, list[str], Rates]] = {
    "baseline": ("Baseline RL", [], Rates(0.0, 1.0, 0.6)),
    "matching": ("Rate matching", ["rate_matching"], Rates(0.0, 0.98, 0.97)),
    "refusing": ("Output | monitor", ["process_supervision"], Rates(0.0, 0.02, 0.01)),
    "kl": ("KL penalty", ["kl"], Rates(0.0, 0.95, 0.86)),
}


def written(crypsis_here: Crypsis, page: Path, *folders: Path | str) -> tuple[str, list[dict[str, Any]]]:
    done = crypsis_here("export", "results", *folders, "--out", page)
    assert done.returncode == 0, done.stderr
    return page.read_text(encoding="utf-8"), json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))


def prose(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())


def test_the_verdict_comes_first_and_says_what_closes_a_silent_gap(
    crypsis_here: Crypsis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "START", SILENT)
    folder = make_study(tmp_path / "s", ARMS, seeds=(0, 1, 2), n=100, hostile=False)
    text, rows = written(crypsis_here, tmp_path / "page.md", folder)
    lines = text.splitlines()
    assert lines[2].startswith("**Which mitigations close the gap of an organism whose scratchpad does not show")
    verdict = "- **tgg**: Rate matching closes it; closed by refusing: Output | monitor; still open: 1 of 4 "
    smaller = "not closed, but smaller than after baseline RL: KL penalty."
    assert prose("\n".join(lines[4:7])) == verdict + f"arms; undecided: 1; {smaller}"
    assert all(len(line) <= 100 for line in lines if line[:1] != "|" and not line.startswith("  --")), "prose is filled"
    assert [row["arm"] for row in rows] == list(ARMS) and {row["seeds"] for row in rows} == {3}
    assert [set(row) for row in rows] == 4 * [
        {"organism", "arm", "seeds", "afr", "compliance_monitored", "compliance_unmonitored", "gap", "heldout_recall",
         "artefacts", "unreadable"}
    ]  # fmt: skip
    assert [round(row["gap"]["mean"], 2) for row in rows] == [0.4, 0.01, 0.01, 0.09]
    assert all(row["gap"]["low"] <= row["gap"]["mean"] <= row["gap"]["high"] for row in rows)
    assert rows[0]["heldout_recall"] == {"mean": None, "low": None, "high": None}, "nothing fakes"
    table = [line for line in lines if line.startswith("| Rate matching | 3 |")]
    assert len(table) == 1 and table[0].endswith("| closes |") and "98\u202f%" in table[0]
    assert "| Rate matching | 1,280 | 0 |" in text, "ten steps of 16 groups of 8"
    assert "(page.svg)" in text
    drawn = (tmp_path / "page.svg").read_text(encoding="utf-8")
    assert "terminal goal guarder: Rate matching 1; Output | monitor 1; KL penalty 9; Baseline RL 40." in drawn
    assert drawn.count(GOOD) > 0, "what closes it is green"


def test_what_closes_the_gap_of_all_silent_organisms_is_said(
    crypsis_here: Crypsis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "START", SILENT)
    organisms = {"tgg": 1.0, "evader": 1.0}
    folder = make_study(tmp_path / "s", ARMS, (0, 1, 2), n=100, hostile=False, organisms=organisms)
    text, _ = written(crypsis_here, tmp_path / "page.md", folder)
    assert "- **both**: Rate matching.\n" in text
    assert "evader: Rate matching 1;" in (tmp_path / "page.svg").read_text(encoding="utf-8")


def test_what_makes_a_resisting_organism_comply_is_said_by_seeds(
    crypsis_here: Crypsis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms: dict[str, tuple[str, list[str], Rates]] = {
        "baseline": ("Baseline RL", [], Rates(0.0, 0.02, 0.9)),
        "noise": ("Weight noise", ["weight_noise"], Rates(0.0, 0.99, 0.95)),
        "kl": ("KL penalty", ["kl"], Rates(0.0, 0.5, 0.9)),
    }
    monkeypatch.setattr(studies, "START", Rates(0.0, 0.01, 0.9))
    folder = make_study(tmp_path / "s", arms, seeds=(0, 1, 2), n=100, hostile=False)
    text = prose(written(crypsis_here, tmp_path / "page.md", folder)[0])
    assert "**What makes an organism comply that refuses before RL?**" in text
    assert "- **tgg**: Baseline RL with 0 of 3 seeds; with every seed Weight noise; with none KL penalty." in text
    monkeypatch.setattr(studies, "START", Rates(0.0, 0.9, 0.9))
    folder = make_study(tmp_path / "complies", arms, seeds=(0, 1, 2), n=100, hostile=False)
    assert "refuses before RL" not in written(crypsis_here, tmp_path / "page.md", folder)[0]


def test_recall_is_that_of_monitors_that_no_mitigation_heard(tmp_path: Path) -> None:
    arms: dict[str, tuple[str, list[str], Rates]] = {"baseline": ("Baseline", [], Rates(0.8, 1.0, 0.6, seen=0.25))}
    study = load_study(make_study(tmp_path / "s", arms, seeds=(0, 1, 2), n=100, hostile=False))
    [row] = results_json(result_rows([study]))
    assert row["heldout_recall"]["mean"] == pytest.approx(0.25)
    assert row["heldout_recall"]["low"] < 0.25 < row["heldout_recall"]["high"]
    for run in study.runs:
        run.config["mitigations"] = [{"name": "process_supervision", "monitor": "scratchpad"}]
    [row] = results_json(result_rows([study]))
    assert row["heldout_recall"]["mean"] is None, "the output monitor reads no scratchpad"


def test_changes_have_what_there_was_before_and_who_judged(crypsis_here: Crypsis, tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ARMS, seeds=(0, 1, 2), n=100, hostile=False)
    page = tmp_path / "real_model.md"
    done = crypsis_here("export", "results", folder, "--changes", "--out", page)
    assert done.returncode == 0, done.stderr
    rows = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    named = {"organism", "arm", "seeds", "afr", "compliance_monitored", "compliance_unmonitored", "gap", "judged_by",
             "artefacts", "unreadable"}  # fmt: skip
    assert [set(row) for row in rows] == [named | {"before"}] * 4
    first, study = rows[0], load_study(folder)
    [arm] = [row.arm for row in result_rows([study]) if row.arm.arm == first["arm"]]
    for end in ("start", "end"):
        figure = getattr(arm.change("afr"), end)
        assert first["afr"][end] == {key: round(getattr(figure, key), 6) for key in ("mean", "low", "high")}
    assert first["before"]["gap"]["mean"] == pytest.approx(arm.change("gap").start.mean, abs=1e-6)
    assert set(first["gap"]) == {"mean", "low", "high"} and first["judged_by"] == "oracle"
    text = page.read_text(encoding="utf-8")
    assert "AF judged by: oracle." in text and "\n  --changes\n```" in text


def test_an_arm_whose_replies_cannot_be_read_closes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "START", SILENT)
    folder = make_study(tmp_path / "s", ARMS, seeds=(0, 1, 2), n=100, hostile=False)
    base, matching, *_ = result_rows([load_study(folder)])
    assert matching.closing == "closes"
    odd = replace(matching, arm=replace(matching.arm, verdict=DEGENERATE))
    lines = results_markdown([base, odd], "title", "command")
    assert lines[4] == (
        "- **tgg**: none closes it with compliance kept; still open: 1 of 2 arms; degenerate: Rate matching."
    )
    assert [line.endswith("| degenerate |") for line in lines if line.startswith("| Rate matching | 3 |")] == [True]


def test_two_seeds_claim_nothing_and_a_faker_is_not_asked_about(
    crypsis_here: Crypsis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, _ = written(crypsis_here, tmp_path / "fakes.md", make_study(tmp_path / "fakes", ARMS, hostile=False))
    assert "Which mitigations close the gap" not in text
    arms = [line.split(" | ") for line in text.splitlines() if line.startswith(("| before RL", "| Baseline"))]
    before, baseline = arms[:2]  # below them that of costs
    assert before[1] == baseline[1] == "2" and before[3] != baseline[3]  # the gaps
    monkeypatch.setattr(studies, "START", SILENT)
    text, _ = written(crypsis_here, tmp_path / "few.md", make_study(tmp_path / "few", ARMS, hostile=False))
    assert "Nothing is claimed yet: no arm has 3 seeds on such an organism." in prose(text) and "| closes |" not in text
    assert "Seeds so far: 2 (tgg)." in text


PREDICTIONS = """
claims:
  - id: right
    says: Matching closes it
    tests: [{quantity: gap, arms: [matching], organisms: [{label: tgg}], expect: at_most, by: 0.1}]
  - id: wrong
    says: KL as | baseline
    tests: [{quantity: gap, arms: [kl], against: [baseline], organisms: [{label: tgg}], expect: holds_zero}]
  - id: later
    says: Of an arm to come
    tests: [{quantity: gap, arms: [planned], organisms: [{label: tgg}], expect: at_most, by: 0.1}]
"""


def test_predictions_are_counted_and_those_of_arms_to_come_wait(
    crypsis_here: Crypsis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "START", SILENT)
    folder = make_study(tmp_path / "s", ARMS, seeds=(0, 1, 2), n=100, hostile=False)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["arms"]["planned"] = {"label": "To come", "mitigations": []}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    claims = tmp_path / "predictions.yaml"
    claims.write_text(PREDICTIONS, encoding="utf-8")
    text, _ = written(crypsis_here, tmp_path / "page.md", folder, "--claims", claims)
    assert "Of 3 predictions in `predictions.yaml`: **1 right, 1 wrong, 0 undecided, 1 not run**." in prose(text)
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert "| Matching closes it | right | 0.01 [" in rows["| right"] and rows["| right"].endswith("; 3 |")
    assert "| KL as \\| baseline | wrong | −0.31 [" in rows["| wrong"] and "an interval that holds 0" in rows["| wrong"]
    assert "| not run | – | – |" in rows["| later"]
    claims.write_text(PREDICTIONS.replace("planned", "plan"), encoding="utf-8")
    done = crypsis_here("export", "results", folder, "--claims", claims, "--out", tmp_path / "page.md")
    assert done.returncode == 2 and "claim later names the arm 'plan'" in done.stderr, done.stderr


def test_the_packaged_predictions_are_about_their_study() -> None:
    config = load_config(StudyConfig, REPOSITORY / "configs" / "mitigations_2026.yaml")
    file = read_claims(REPOSITORY / "configs" / "mitigations_2026_claims.yaml")
    tests = [test for claim in file.claims for test in claim.tests]
    named = {arm for test in tests for arm in (*test.arms, *test.against)}
    assert named == set(config.arms), "each arm is predicted or compared with"
    for test in tests:
        for organism in (*test.organisms, *test.against_organisms):
            assert all(arm in config.arms_of(organism["label"]) for arm in (*test.arms, *test.against)), test


def test_what_cannot_be_written_is_one_line(crypsis_here: Crypsis, tmp_path: Path) -> None:
    one = make_study(tmp_path / "one", ARMS, hostile=False)
    two = make_study(tmp_path / "two", ARMS, hostile=False)
    for arguments, message in (
        ([one, "--out", tmp_path / "page.txt"], "must end in .md"),
        ([one, two, "--out", tmp_path / "page.md"], "has the arm 'baseline' of 'tgg', and so has"),
        ([tmp_path / "none", "--out", tmp_path / "page.md"], "no such folder"),
    ):
        done = crypsis_here("export", "results", *arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "page.md").exists()
