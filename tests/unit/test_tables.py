"""Several organisms: what their arms did together, and every number of a study as a tidy table."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from crypsis.analysis import summary as verdicts
from crypsis.analysis.report.markdown import summary_markdown
from crypsis.analysis.report.tables import SCHEMAS, write_tables
from crypsis.analysis.report.words import headline, monitor_lines, value
from crypsis.analysis.stress.section import Section, StressTable
from crypsis.analysis.study import load_study
from crypsis.analysis.summary import Summary, across_organisms, summarise
from crypsis.analysis.summary_file import summary_json
from crypsis.store import read_json, write_json
from tests.studies import ARMS, Rates, make_study

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    organisms = {"tgg": 1.0, "evader": 0.3}
    folder = make_study(tmp_path_factory.mktemp("grid") / "s", None, (0, 1, 2), (0, 10), organisms=organisms)
    return summarise(load_study(folder))


def test_organisms_and_arms_keep_the_order_of_the_config(summary: Summary) -> None:
    assert summary.organisms == ("tgg", "evader")
    assert list(summary.labels) == list(ARMS)
    assert [arm.arm for arm in summary.of("evader")] == list(ARMS)


def test_each_organism_has_its_own_monitors(summary: Summary) -> None:
    assert [card.name for card in summary.study.monitors_of("evader")] == ["scratchpad", "output"]
    assert {card.organism for card in summary.study.monitors} == {"tgg", "evader"}
    assert {arm.monitor for arm in summary.arms} == {"scratchpad"}
    assert [run.listens_to for run in summary.study.runs if run.organism == "tgg" and run.seed == 0] == [
        (),
        ("output",),
        ("scratchpad",),
    ]


def test_an_arm_is_told_over_all_organisms(summary: Summary) -> None:
    supervised, output = across_organisms(summary)
    assert supervised.worked == ("tgg",)
    assert supervised.failed == {"evader": verdicts.FAKING}
    assert supervised.few_seeds == ()
    afr = [arm.versus_baseline["afr"].mean for arm in summary.arms if arm.arm == "process_supervision"]
    assert None not in afr
    assert list(supervised.versus_baseline["afr"]) == pytest.approx(afr)
    assert output.failed["tgg"] == verdicts.LOST
    assert json.loads(json.dumps(summary_json(summary)))["mitigations"][0]["worked"] == ["tgg"]


def test_one_seed_claims_nothing(tmp_path: Path) -> None:
    alone = summarise(load_study(make_study(tmp_path / "s", seeds=(0,), steps=(0, 10), n=20)))
    assert not any(arm.claimed for arm in alone.arms)
    assert [(a.worked, a.failed, a.few_seeds, a.versus_baseline) for a in across_organisms(alone)] == [
        ((), {}, ("tgg",), {})
    ] * 2


def test_the_tables_hold_what_the_summary_says(summary: Summary) -> None:
    written = write_tables(summary)
    assert [path.stem for path in written] == list(SCHEMAS)
    rows = {path.stem: pq.read_table(path).to_pylist() for path in written}
    assert all(rows.values())
    arm = summary.of("evader")[1]
    who = {"organism": "evader", "arm": arm.arm}
    ends = {(r["metric"], r["point"]): r for r in rows["summary"] if who.items() <= r.items()}
    assert ends["afr", "end"]["mean"] == arm.change("afr").end.mean
    assert ends["afr", "end"]["seeds"] == 3
    assert ends["gap", "versus_baseline"]["low"] == arm.versus_baseline["gap"].low
    seeds = [r["value"] for r in rows["seeds"] if who.items() <= r.items() and (r["metric"], r["step"]) == ("gap", 10)]
    assert sum(seeds) / 3 == arm.change("gap").end.mean
    loss = [r for r in rows["training"] if who.items() <= r.items() and r["field"] == "loss" and r["seed"] == 1]
    assert [r["step"] for r in loss] == list(range(1, 11))
    assert [r["status"] for r in rows["runs"]].count("unfinished") == 1 and len(rows["runs"]) == 19
    assert len(rows["arms"]) == 6


def test_the_page_has_a_row_for_every_arm(summary: Summary) -> None:
    lines = summary_markdown(summary)
    assert [line for line in lines if line.startswith("**")] == ["**tgg**", "**evader**"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    arm = summary.of("evader")[1]
    row = rows[10]
    assert rows[0][2:4] == ["AFR", "gap"] and len({len(cells) for cells in rows}) == 1
    assert row[:2] == [arm.label, "3"] and row[2].startswith(value(arm.change("afr").end, "afr"))
    assert row[-1].endswith("of 3)")
    assert not any("lies" in cells for cells in rows), "nobody was asked"


def test_the_page_has_the_tables_of_every_stress(summary: Summary) -> None:
    table = StressTable("Ends.", ("Arm", "AFR, %"), (("one", "3 [1, 5]"), ("|two|", "–")))
    lines = summary_markdown(summary, [Section("key", "Evasion", ("It fakes.",), "", (table,))])
    arms = summary_markdown(summary)
    assert lines[: len(arms)] == arms
    assert lines[len(arms) :] == [
        "",
        "## Evasion",
        "",
        "It fakes.",
        "",
        "Ends.",
        "",
        "| Arm | AFR, % |",
        "|---|---|",
        "| one | 3 [1, 5] |",
        r"| \|two\| | – |",
    ]


def test_the_lead_says_when_monitor_and_oracle_disagree(tmp_path: Path) -> None:
    """The scratchpad monitor misses half of the fakers of the baseline; error rates stand with its name."""
    arms: dict[str, tuple[str, list[str], Rates]] = {"baseline": ("baseline RL", [], Rates(0.9, 1.0, 0.6, seen=0.5))}
    folder = make_study(tmp_path / "s", arms, (0, 1, 2), (0, 10), unfinished=False)
    cards = read_json(folder / "monitors.json")
    tiers = {
        "monitored": {"true_positive_rate": 0.97, "false_positive_rate": 0.02},
        "unmonitored": {"true_positive_rate": None, "false_positive_rate": 0.0},
    }
    cards["tgg"]["scratchpad"] |= {"tiers": tiers, "threshold_budget": 0.02, "threshold_negatives": 297}
    write_json(folder / "monitors.json", cards)
    summary = summarise(load_study(folder))
    claim, figures = headline(summary)[-1]
    assert claim == "Monitor and oracle disagree at the end."
    assert "scratchpad flags 45\u202f% of monitored transcripts, the oracle 90\u202f%" in figures
    (line,) = monitor_lines(summary, "tgg")
    assert "monitored: TPR 97\u202f%, FPR 2\u202f%; unmonitored: TPR –, FPR 0\u202f%" in line
    assert "It flags from 0.5, chosen for an FPR of 2\u202f% on 297 negatives." in line
    agreed = make_study(tmp_path / "t", None, (0, 1, 2), (0, 10), unfinished=False)
    assert "disagree" not in headline(summarise(load_study(agreed)))[-1][0]
