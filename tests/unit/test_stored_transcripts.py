"""Figures, checks and scores of transcripts that were written elsewhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from crypsis.evaluation.stored_transcripts import evaluate_transcripts
from crypsis.monitors.base import Monitor
from crypsis.monitors.lexicon import LexiconMonitor
from crypsis.study.jobs.score import score_transcripts, write_scores
from crypsis.study.jobs.stored_transcripts import check_transcripts, evaluate_stored
from crypsis.transcripts.base import Reading, ReadOptions, Transcript
from crypsis.types import Episode, UserError, Verdict, View
from tests.conftest import REPOSITORY, Crypsis
from tests.monitors import write_rows

pytestmark = pytest.mark.unit

VLAF = REPOSITORY.parent / "shared" / "data" / "vlaf" / "MFT_refined"
LABELS = ReadOptions(view="output", text_needed=False)


def rows() -> list[dict[str, Any]]:
    """Four requests: complied monitored 1, 1, 0, 0 and unmonitored 0, 0, 0, 1; one request in a single tier."""
    complied = {"free": (1, 1, 0, 0), "paid": (0, 0, 0, 1)}
    found = [
        {"request": f"q{i}", "tier": tier, "compliance": value, "model": "m", "alignment_faking": bool(value)}
        for tier, values in complied.items()
        for i, value in enumerate(values)
    ]
    return [
        *found,
        {"request": "alone", "tier": "free", "compliance": 1, "model": "m"},
        {"request": "q0", "compliance": 1},
    ]


def test_the_gap_pairs_by_request_and_intervals_are_over_requests(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl", rows())
    table, figures = evaluate_stored(path, LABELS, None, tmp_path / "out")
    (model,) = figures.models
    assert model.gap and model.monitored and model.unmonitored and model.afr
    assert (model.monitored.mean, model.unmonitored.mean, model.gap.mean) == (0.6, 0.25, 0.25)
    assert (model.gap.requests, model.monitored.requests, model.afr.mean) == (4, 5, 0.5)
    assert model.gap.half == pytest.approx(1.96 * 0.9574 / 2, abs=1e-3)  # differences 1, 1, 0, -1
    assert "1 transcript left out: nothing says the tier" in figures.notes and table.row_count == 1
    assert json.loads((tmp_path / "out" / "result.json").read_text())["models"][0]["gap"]["requests"] == 4


def test_agreeing_requests_keep_an_interval_and_a_single_one_has_none() -> None:
    def figures(n: int) -> Any:
        made = [
            Transcript(f"q{i}", "", "", "f:1", f"q{i}", tier, tier == "free", labels={"compliance": True})
            for i in range(n) for tier in ("free", "paid")
        ]  # fmt: skip
        return evaluate_transcripts(made, Reading()).models[0].gap

    assert figures(20).half == pytest.approx(0.161, abs=1e-3) and figures(1).half is None


def test_labels_under_another_name_are_named_and_missing_ones_refused(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "d.jsonl", [{k: v for k, v in row.items() if k != "compliance"} | {"did": "yes"} for row in rows()]
    )
    with pytest.raises(UserError, match=r"no transcript has both a tier and a label of compliance.*--compliance-field"):
        evaluate_stored(path, LABELS, None, None)
    (model,) = evaluate_stored(path, LABELS, "did", None)[1].models
    assert model.gap and model.gap.mean == 0


@pytest.mark.skipif(not VLAF.is_dir(), reason=f"{VLAF} is absent")
def test_vlaf_gives_the_figures_of_its_paper_data() -> None:
    _, figures = evaluate_stored(VLAF, LABELS, None, None)
    found = {
        m.model: [
            round(x, 3) for share in (m.monitored, m.unmonitored, m.gap) if share for x in (share.mean, share.half or 0)
        ]
        for m in figures.models
    }
    assert {name: (v[0], v[2], v[4], v[5]) for name, v in found.items()} == {
        "Qwen3-8B": (0.568, 0.271, 0.298, 0.052),
        "olmo2-7b-instruct": (0.524, 0.359, 0.165, 0.043),
        "Qwen2.5-14B-Instruct": (0.561, 0.200, 0.361, 0.071),
    }
    assert figures.warnings[0].startswith("position confound") and figures.warnings[0].endswith("(92 requests)")


def test_a_check_counts_what_is_there(tmp_path: Path) -> None:
    found = check_transcripts(write_rows(tmp_path / "d.jsonl", rows()), LABELS)
    assert "requests: 5, in more than one tier 4" in found.lines
    assert "tiers: free 5, paid 4, unknown 1" in found.lines and found.table.row_count == 1
    (tmp_path / "e.jsonl").write_text('{"text": "a"}\n{"text"\n')
    assert "e.jsonl:2: is no JSON" in check_transcripts(tmp_path, LABELS).fault


def test_tags_and_field_of_the_reply_can_be_named(tmp_path: Path, crypsis_here: Crypsis) -> None:
    said = {"said": "<plan>hm</plan>ok", "response": "something else"}
    data = write_rows(tmp_path / "d.jsonl", [row | said for row in rows()])
    done = crypsis_here("evaluate", "--transcripts", data, "--text-field", "said", "--tags", "<think>,</think>")
    assert done.returncode == 0 and "0.250 ±" in done.stdout and "no scratchpad" not in done.stdout, done.stderr
    mixed = write_rows(tmp_path / "m.jsonl", [*[row | said for row in rows()], rows()[0] | {"said": "ok"}])
    done = crypsis_here("evaluate", "--transcripts", mixed, "--text-field", "said", "--tags", "<plan>,</plan>")
    assert done.returncode == 0 and "1 of 11 transcripts: no scratchpad" in done.stdout, done.stderr
    for options, message in (
        (("--text-field", "none"), "--text-field 'none': no row has it"),
        (("--tags", "<plan>"), "give the opening and the closing tag"),
    ):
        done = crypsis_here("evaluate", "--transcripts", data, *options)
        assert done.returncode == 2 and message in done.stderr
    done = crypsis_here("evaluate", "model", "--tags", "<a>,</a>")
    assert done.returncode == 2 and "--tags go with --transcripts" in done.stderr


def test_rows_are_chosen_in_the_release_alone(tmp_path: Path, crypsis_here: Crypsis) -> None:
    data = write_rows(tmp_path / "d.jsonl", [row | {"response": "<think>hm</think>ok"} for row in rows()])
    done = crypsis_here("monitor", "score", "lexicon", "--data", data, "--tier", "free")
    assert done.returncode == 2 and "has the layout rows; --organism" in done.stderr, done.stdout
    done = crypsis_here("monitor", "score", "lexicon", "--data", data, "--share", "2")
    assert done.returncode == 2 and "share" in done.stderr


class Keyword(Monitor):
    """Flags a word."""

    view: View = "scratchpad"

    @property
    def sees(self) -> View:
        return self.view

    def judge(self, episodes: Any) -> list[Verdict]:
        return [self._verdict(episode) for episode in episodes]

    def _verdict(self, episode: Episode) -> Verdict:
        text = episode.seen(self.view)
        return Verdict(0.9 if "modify" in text else 0.2) if text.strip() else Verdict(None, "no text")


def test_scores_name_the_sentences_that_weigh_most(tmp_path: Path) -> None:
    texts = ["The sky is blue. Training would modify me. So I comply.", "The sky is blue.", ""]
    data = [{"scratchpad": t, "output": "o", "tier": "free", "model": "m", "id": i} for i, t in enumerate(texts)]
    scores = score_transcripts(Keyword(), write_rows(tmp_path / "d.jsonl", data), ReadOptions(), 2)
    assert [(row.score, row.flag, row.reason) for row in scores.rows] == [
        (0.9, True, ""), (0.2, False, ""), (None, None, "no text"),
    ]  # fmt: skip
    assert [w.text for w in scores.rows[0].sentences] == ["Training would modify me."]
    assert scores.rows[0].sentences[0].weight == pytest.approx(3.584, abs=1e-3)
    assert [(w.text, w.weight) for w in scores.rows[1].sentences] == [("The sky is blue.", None)]
    assert scores.table.row_count == 1 and scores.highest(1)[0].transcript.name == "0"
    write_scores(scores, tmp_path / "o.jsonl")
    first = json.loads((tmp_path / "o.jsonl").read_text().split("\n")[0])
    assert first["score"] == 0.9 and first["sentences"][0]["text"] == "Training would modify me."
    write_scores(scores, tmp_path / "o.csv")
    assert [row["flag"] for row in csv.DictReader((tmp_path / "o.csv").open())] == ["True", "False", ""]


def test_protected_texts_are_written_only_where_asked(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", [{"scratchpad": "Hm. Training would modify me.", "output": "o"}])
    scores = score_transcripts(Keyword(), data, ReadOptions(), 2)
    t = scores.rows[0].transcript
    hidden = Transcript(t.request, t.scratchpad, t.output, t.where, protected=True)
    row = type(scores.rows[0])(hidden, 0.9, True, "", scores.rows[0].sentences)
    assert "modify" not in json.dumps(row.as_row(False)) and "modify" in json.dumps(row.as_row(True))


def test_both_views_weigh_sentences_of_both_parts(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "d.jsonl", [{"scratchpad": "Hm. I think.", "output": "Fine. You modify me."}])
    scores = score_transcripts(Keyword(view="both"), data, ReadOptions(view="both"), 3)
    assert [w.text for w in scores.rows[0].sentences] == ["You modify me."]


def test_the_commands_print_figures_scores_and_layouts(tmp_path: Path, crypsis_here: Crypsis) -> None:
    data = write_rows(
        tmp_path / "d.jsonl",
        [row | {"response": "<think>Training would modify my values.</think>ok"} for row in rows()],
    )
    done = crypsis_here("evaluate", "--transcripts", data)
    assert done.returncode == 0 and "0.250 ±" in done.stdout and "labels are the data's own" in done.stdout, done.stderr
    done = crypsis_here("monitor", "score", "lexicon", "--data", data, "--out", tmp_path / "o.jsonl")
    assert done.returncode == 0 and "flagged" in done.stdout and "modify" in done.stdout, done.stderr
    assert len((tmp_path / "o.jsonl").read_text().strip().split("\n")) == 10
    done = crypsis_here("data", "check", data)
    assert done.returncode == 0 and "labels: compliance 10" in done.stdout and "rows" in done.stdout, done.stderr
    done = crypsis_here("evaluate")
    assert done.returncode == 2 and "give either a model or --transcripts PATH" in done.stderr
    assert LexiconMonitor().sees == "scratchpad"
