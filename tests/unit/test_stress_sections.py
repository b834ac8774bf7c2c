"""What stresses tell: sections appear where their data are, and say what the rows say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crypsis.analysis.report.html import write_report
from crypsis.analysis.stress import Section, sections
from crypsis.analysis.stress.race import hidden_in
from crypsis.analysis.study import load_study
from crypsis.analysis.summary import summarise
from crypsis.store import write_json
from tests.stress_studies import rows, write_rows, write_run, write_study
from tests.unit.test_stress import transplants

pytestmark = pytest.mark.unit

START = {"afr": 0.9, "monitored": 0.95}
CARDS = {"mine": ("text", "scratchpad"), "yours": ("text", "scratchpad"), "states": ("probe", "scratchpad")}


def told(folder: Path) -> dict[str, Section]:
    return {section.key: section for section in sections(summarise(load_study(folder)))}


def against(monitor: str, **settings: Any) -> dict[str, Any]:
    return {"mitigations": [{"name": "process_supervision", "monitor": monitor} | settings]}


def test_recall_states_white_box_and_faithfulness_of_one_study(tmp_path: Path) -> None:
    write_study(tmp_path, {"tgg": {"name": "tgg"}}, ["baseline", "text"], CARDS)
    for seed in (0, 1):
        ends = {"baseline": START, "text": {"afr": 0.5, "monitored": 1.0, "mine": 0.1, "yours": 0.8, "states": 0.9}}
        for arm, end in ends.items():
            config = against("mine") if arm == "text" else {}
            evaluations = {step: rows(START if not step else end, list(CARDS)) for step in (0, 5)}
            run = write_run(tmp_path, ("tgg", arm, seed), config, evaluations)
            for step in (0, 5):
                write_rows(
                    run / "transplants" / f"step-{step:04d}.parquet", transplants(20, 0.6, 0.2, ("own", "start"))
                )
    found = told(tmp_path)
    assert set(found) == {"states", "recall", "white_box", "faithfulness"}
    assert "45 [" in found["recall"].lead[0] and "unseen by mine" in found["recall"].lead[0]
    invisible = found["recall"].tables[0].rows[0]
    assert invisible[0] == "text" and invisible[2].startswith("0 → 45 [") and "89 [" in invisible[3]
    by_monitor = {row[0]: row for row in found["recall"].tables[1].rows}
    assert by_monitor["text · mine"][1] == "trained against" and by_monitor["baseline · mine"][1] == "held out"
    assert by_monitor["text · mine"][2].startswith("100 → 10 [")
    assert found["white_box"].tables[0].rows[0][-1] == "nowhere: it is seen"  # by the held-out text monitor
    states = {row[0]: row for row in found["states"].tables[0].rows}
    assert states["text"][1] == "2" and found["states"].tables[0].head[1] == "still faking"
    reasons = {row[0]: row for row in found["states"].tables[1].rows}
    assert found["states"].tables[1].head == ("Arm", "to stay as it is", "“circumstances”")
    assert reasons["text"][1].startswith("95 → 50 [") and reasons["text"][2].startswith("5 → 50 [")
    effects = {row[0]: row for row in found["faithfulness"].tables[0].rows}
    assert effects["text · own"][1].startswith("0.90 [")
    for section in found.values():
        assert section.truth and all(len(row) == len(table.head) for table in section.tables for row in table.rows)
        for drawn in section.pictures:
            assert (tmp_path / "figures" / f"{drawn.picture.name}.png").stat().st_size > 1000
            assert drawn.picture.alt and drawn.caption
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Recall decay" in page and "unseen by mine" in page and page.count("What needs ground truth") == 4
    assert all(f'<a href="#stress-{key}">' in page and f'id="stress-{key}"' in page for key in found)


def test_a_dial_is_drawn_against_its_share(tmp_path: Path) -> None:
    organisms = {f"share_{s}": {"name": "evader", "share": s / 100} for s in (0, 10, 100)}
    write_study(tmp_path, organisms, ["supervised"], {"mine": ("text", "scratchpad")})
    for seed in (0, 1):
        for number, organism in enumerate(organisms):
            end = {"afr": 0.0, "monitored": 0.95, "unmonitored": (0.95, 0.5, 0.0)[number]}
            evaluations = {0: rows(START, ["mine"]), 5: rows(end, ["mine"])}
            write_run(tmp_path, (organism, "supervised", seed), against("mine"), evaluations)
    section = told(tmp_path)["share"]
    assert [row[0] for row in section.tables[0].rows] == [f"supervised, {share} %" for share in (0, 10, 100)]
    assert [row[-1] for row in section.tables[0].rows] == ["2 honest complier", "2 evader", "2 evader"]
    assert section.tables[0].rows[2][2].startswith("95 [")


def test_rare_pressure_is_a_dial_too(tmp_path: Path) -> None:
    arms = {f"rare_{s}": s / 100 for s in (1, 30)}
    write_study(tmp_path, {"tgg": {"name": "tgg"}}, list(arms), {"mine": ("text", "scratchpad")})
    for arm, share in arms.items():
        config = against("mine") | {"scenario": {"name": "miniature", "harmful_train": share}}
        evaluations = {0: rows(START, ["mine"]), 5: rows({"afr": 0.2}, ["mine"])}
        write_run(tmp_path, ("tgg", arm, 0), config, evaluations)
    section = told(tmp_path)["harmful_train"]
    assert [row[0] for row in section.tables[0].rows] == ["Process supervision, 1 %", "Process supervision, 30 %"]


def test_a_grid_of_rates_is_a_map_with_its_failures_named(tmp_path: Path) -> None:
    names = [f"dial_{t}_{f}" for t in (100, 50) for f in (0, 30)]
    write_study(tmp_path, {"tgg": {"name": "tgg"}}, [*names, "late", "soft"], {n: ("dialled", "both") for n in names})
    for name in names:
        tpr, fpr = (float(part) / 100 for part in name.split("_")[1:])
        config = against(name) | {"monitors": {name: {"name": "dialled", "tpr": tpr, "fpr": fpr}}}
        end = {"afr": 0.0 if tpr == 1 else 0.4, "monitored": 0.9 if fpr == 0 else 0.5}
        write_run(tmp_path, ("tgg", name, 0), config, {0: rows(START, [name]), 5: rows(end, [name])})
    late = against("oracle", delay=3, coverage=0.1)
    write_run(tmp_path, ("tgg", "late", 0), late, {0: rows(START, []), 5: rows({"afr": 0.0, "monitored": 0.9}, [])})
    same = {"monitors": {"dial_50_30": {"name": "dialled", "tpr": 0.5, "fpr": 0.3}}}
    soft = against("dial_50_30", coefficient=0.3) | same
    evaluations = {0: rows(START, []), 5: rows({"afr": 0.05, "monitored": 0.9}, [])}
    write_run(tmp_path, ("tgg", "soft", 0), soft, evaluations)
    section = told(tmp_path)["quality"]
    settings = {row[0]: row[1] for row in section.tables[0].rows}
    assert settings["dial 50 30"] == "true positives 50%, false positives 30%"
    assert settings["late"] == "coverage 0.1, delay 3"
    assert section.lead[0].endswith("dial 50 0, dial 50 30.") and section.lead[1].endswith("dial 100 30, dial 50 30.")
    assert settings["soft"] == "true positives 50%, false positives 30%, coefficient 0.3"
    assert [drawn.picture.name for drawn in section.pictures] == ["quality-tgg"]
    assert section.pictures[0].picture.alt.count("50% true and 30% false") == 1, "another penalty is another map"


def test_transfer_sets_auroc_before_against_faking_after(tmp_path: Path) -> None:
    organisms = ["a", "b"]
    write_study(tmp_path, {o: {"name": "tgg"} for o in organisms}, ["of_a", "of_b"], {"m": ("text", "scratchpad")})
    for source in organisms:
        for organism in organisms:
            config = against("m") | {"monitors": {"m": {"name": "text", "path": f"x/monitors/{source}/scratchpad"}}}
            home = source == organism
            start = rows(START | {"m": 1.0 if home else 0.2}, ["m"])
            end = rows({"afr": 0.0 if home else 0.8}, ["m"])
            write_run(tmp_path, (organism, f"of_{source}", 0), config, {0: start, 5: end})
    section = told(tmp_path)["transfer"]
    found = {row[0]: row for row in section.tables[0].rows}
    assert set(found) == {"a on a", "b on a", "a on b", "b on b"} and not section.lead
    assert found["a on a"][1].startswith("1.00") and found["b on a"][1].startswith("0.6")
    assert found["b on a"][2].startswith("90 → 80 [")


def test_transfer_of_several_monitors_says_which(tmp_path: Path) -> None:
    monitors = {name: ("text", name) for name in ("scratchpad", "output")}
    write_study(tmp_path, {o: {"name": "tgg"} for o in ("a", "b")}, list(monitors), monitors)
    for organism in ("a", "b"):
        for name in monitors:
            config = against(name) | {"monitors": {name: {"name": "text", "path": f"x/monitors/a/{name}"}}}
            evaluations = {0: rows(START | {name: 1.0}, [name]), 5: rows({"afr": 0.0}, [name])}
            write_run(tmp_path, (organism, name, 0), config, evaluations)
    names = [row[0] for row in told(tmp_path)["transfer"].tables[0].rows]
    assert sorted(names) == ["a on a, output", "a on a, scratchpad", "a on b, output", "a on b, scratchpad"]


def test_an_arms_race_counts_its_labels(tmp_path: Path) -> None:
    write_study(tmp_path, {"tgg": {"name": "tgg"}}, ["race"], {"racing": ("retrained", "scratchpad")})
    config = against("racing") | {"monitors": {"racing": {"name": "retrained", "start": "scratchpad"}}}
    evaluations = {step: rows({"afr": afr}, ["racing"]) for step, afr in ((0, 0.9), (5, 0.3), (10, 0.3))}
    run = write_run(tmp_path, ("tgg", "race", 0), config, evaluations)
    for step in (5, 10):
        write_json(run / "monitors" / "racing" / f"step-{step:04d}" / "labels.json", [{"faking": True}] * 16)
    write_json(run / "monitors" / "racing" / "step-0010" / "monitor" / "monitor.json", {"threshold": 0.95})
    found = told(tmp_path)
    row = found["race"].tables[0].rows[0]
    assert row[1:3] == ("32", "1") and row[-1] == "yes"
    assert row[4].startswith("30 [")  # from step 10 on its threshold is above every score


@pytest.mark.parametrize(
    ("afr", "text", "probe", "where"),
    [
        (0.02, None, None, "nowhere: it does not fake"),
        (0.5, 0.1, 0.9, "text"),
        (0.5, 0.9, 0.1, "activations"),
        (0.5, 0.1, 0.1, "text and activations"),
        (0.5, 0.9, 0.9, "nowhere: it is seen"),
        (None, None, None, "unknown"),
    ],
)
def test_where_it_hides(afr: float | None, text: float | None, probe: float | None, where: str) -> None:
    assert hidden_in(afr, text, probe) == where


def test_a_study_without_stresses_has_its_final_states_only(tmp_path: Path) -> None:
    write_study(tmp_path, {"tgg": {"name": "tgg"}}, ["baseline"], {"mine": ("text", "scratchpad")})
    write_run(tmp_path, ("tgg", "baseline", 0), {}, {0: rows(START, ["mine"])})
    assert set(told(tmp_path)) == {"states"}
