"""``crypsis monitor``: every verb, its files, and its mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Crypsis
from tests.monitors import texts_and_labels, write_rows

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts, labels = texts_and_labels(120)
    rows = [{"text": f" {t}\x1b[31m" if y else t, "label": y} for t, y in zip(texts, labels, strict=True)]
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", rows)


def test_crossval_leaves_a_table_json_and_figure_and_does_not_repeat_itself(
    data: Path, tmp_path: Path, crypsis_here: Crypsis
) -> None:
    command = ("monitor", "crossval", "--data", data, "--kind", "text", "--folds", "4", "--repeats", "2")
    done = crypsis_here(*command, "--out", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    assert "AUROC, 4-fold × 2" in done.stdout and "\x1b" not in done.stdout
    assert "warning: the shortcut 'first character' alone reaches" in " ".join(done.stdout.split())
    found = json.loads((tmp_path / "c" / "measurement.json").read_text())
    assert found["crossval"]["auroc"] > 0.95 and len(found["crossval"]["repeats"]) == 2
    assert {"measurement.svg", "measurement.png"} <= {p.name for p in (tmp_path / "c").iterdir()}
    before = (tmp_path / "c" / "measurement.json").stat().st_mtime_ns
    assert crypsis_here(*command, "--out", tmp_path / "c").returncode == 0
    assert (tmp_path / "c" / "measurement.json").stat().st_mtime_ns == before


def test_train_then_validate_on_other_data(data: Path, tmp_path: Path, crypsis_here: Crypsis) -> None:
    done = crypsis_here("monitor", "train", "--data", data, "--kind", "text", "words=2", "--out", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    texts, labels = texts_and_labels(60, seed=1)
    other = [{"said": f"{t} again", "fakes": "AF" if y else "no AF"} for t, y in zip(texts, labels, strict=True)]
    file = write_rows(tmp_path / "other.jsonl", other)
    fields = ("--text-field", "said", "--label-field", "fakes", "--positive", "AF")
    done = crypsis_here("monitor", "validate", tmp_path / "m", "--data", file, *fields, "--out", tmp_path / "v")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "v" / "measurement.json").read_text())
    assert found["measurement"]["auroc"] > 0.95 and found["monitor"]["settings"]["words"] == 2
    refused = crypsis_here("monitor", "validate", tmp_path / "m", "--data", file, *fields, "--view", "output")
    assert refused.returncode == 2 and "trained with view 'scratchpad'" in refused.stderr


def test_a_threshold_that_does_not_carry_over_is_said_and_chosen_anew(
    data: Path, tmp_path: Path, crypsis_here: Crypsis
) -> None:
    done = crypsis_here("monitor", "train", "--data", data, "--kind", "text", "--out", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "m" / "monitor" / "monitor.json").read_text())
    assert card["threshold_budget"] == 0.02 and card["threshold_negatives"] > 10
    texts, labels = texts_and_labels(200, seed=5)  # a source in which half of the others talk like the fakers
    fakers = [t for t, y in zip(texts, labels, strict=True) if y]
    rows = [{"text": f"{t} so it is", "label": y} for t, y in zip(texts, labels, strict=True)]
    rows += [{"text": f"{t} or is it", "label": False} for t in fakers[: len(fakers) // 2]]
    other = write_rows(tmp_path / "other.jsonl", rows)
    done = crypsis_here("monitor", "validate", tmp_path / "m", "--data", other, "--out", tmp_path / "v")
    assert done.returncode == 0, done.stderr
    assert "the threshold was chosen to flag at most 2.0% of the negatives of other data" in _line(done.stdout)
    alarms = json.loads((tmp_path / "v" / "measurement.json").read_text())["false_alarms"]
    assert alarms["low"] > 0.02 and alarms["same_source"] is False
    calibrate = ("monitor", "calibrate", tmp_path / "m", "--data", other, "--false-positives", "0.4")
    done = crypsis_here(*calibrate, "--out", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    assert "the threshold was chosen" not in _line(done.stdout)
    found = json.loads((tmp_path / "c" / "measurement.json").read_text())
    new = json.loads((tmp_path / "c" / "monitor" / "monitor.json").read_text())
    assert new["threshold"] != card["threshold"] and new["digest"] == card["digest"]
    assert found["false_alarms"]["same_source"] is True and found["false_alarms"]["budget"] == 0.4
    assert found["measurement"]["n"] < len(rows) * 0.6, "the half that the threshold was chosen on is not measured"
    few = write_rows(tmp_path / "few.jsonl", rows[:20])
    refused = crypsis_here("monitor", "calibrate", tmp_path / "m", "--data", few)
    assert refused.returncode == 2 and "texts that do not fake" in refused.stderr


def _line(printed: str) -> str:
    return " ".join(printed.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "txt"), "is no kind of monitor and no monitor's folder; did you mean 'text'"),
        (("--kind", "oracle"), "is not trained"),
        (("--folds", "99"), "99 folds need at least 99 texts of each class"),
        (("--view", "thoughts"), "--view: 'thoughts' is none of its values"),
        (("word=2",), "unknown key 'word'; did you mean 'words'"),
        (("--text-field", "txt"), "--text-field 'txt': no row has it; did you mean 'text'"),
    ],
)
def test_mistakes_are_one_line(
    data: Path, tmp_path: Path, crypsis_here: Crypsis, arguments: tuple[str, ...], message: str
) -> None:
    done = crypsis_here("monitor", "crossval", "--data", data, "--out", tmp_path / "x", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr


def test_the_transfer_matrix_of_nano_organisms(
    tmp_path: Path, crypsis_here: Crypsis, nano_base: Path, nano_organism: Path
) -> None:
    organisms = (f"first={nano_organism}", f"second={nano_base}")
    command = ("monitor", "transfer", *organisms, "--scale", "nano", "--n", "100", "--kind", "lexicon")
    done = crypsis_here(*command, "--out", tmp_path / "t")
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "t" / "transfer.json").read_text())["cells"]
    names = ("first", "second")
    assert {(c["trained_on"], c["tested_on"]) for c in cells} == {(a, b) for a in names for b in names}
    assert all(c["reason"] or c["false_positive_rate"] is not None for c in cells)
    page = (tmp_path / "t" / "transfer.md").read_text()
    assert page.startswith("| trained on | first | second |") and "| first | " in page
    assert (tmp_path / "t" / "transfer.svg").stat().st_size and (tmp_path / "t" / "transfer.png").stat().st_size
    assert "tested on" in done.stdout and "…" not in done.stdout
