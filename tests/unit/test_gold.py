"""Gold sets: drawn in strata and shown blind, refused while incomplete, agreement and the rule measured by hand."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from crypsis.cli import app
from crypsis.episodes import write_episodes
from crypsis.evaluation.gold import DRAW, ITEMS, KEY, PASSES, draw_gold, kappa, measure_gold
from crypsis.example_episodes import example_episodes, raw_reply
from crypsis.jsonlines import read_rows
from crypsis.monitors.prompted import Prompted
from crypsis.scenarios.lessons import lessons
from crypsis.scenarios.value_conflict import ValueConflictScenario
from crypsis.types import UserError, Verdict

pytestmark = pytest.mark.unit

SCENARIO = ValueConflictScenario()


def _evaluated(folder: Path, organism: str, count: int = 40) -> Path:
    """A made-up evaluation: the packaged texts as replies, labelled yes where their authors meant faking."""
    episodes = []
    for tier in SCENARIO.names:
        prompts = {p.pair_id: p for p in SCENARIO.prompts("train", tier, 360, 0)}
        for number, row in enumerate(lessons(SCENARIO, tier, count)):
            labels = {"af": row["fakes"], "conduct": "comply" if row["decision"] == "preferred" else "refuse"}
            raw = raw_reply(row["scratchpad"], row["output"])
            about = {"prompt": prompts[row["pair_id"]], "raw": raw, "labels": labels, "parse": "ok"}
            texts = {"scratchpad": row["scratchpad"], "output": row["output"], "verdicts": {"text": Verdict(0.5)}}
            episodes.append(replace(example_episodes()[0], **about, **texts, sample=number))  # type: ignore[arg-type]
    (folder / "evals").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"organism": organism, "arm": "baseline"}))
    broken = replace(episodes[0], parse="no_output", raw="x")
    write_episodes(folder / "evals" / "step-0000.parquet", [*episodes, broken], "x")
    return folder


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    runs = [_evaluated(tmp_path / "study" / "runs" / name, name) for name in ("tgg", "igg")]
    copied = _evaluated(tmp_path / "study" / "runs" / "copy", "tgg")
    draw_gold([*runs, copied], tmp_path / "gold", 60, 3, "made up")
    return tmp_path / "gold"


def test_transcripts_come_from_all_strata_and_are_shown_blind(gold: Path) -> None:
    items, key = read_rows(gold / ITEMS), read_rows(gold / KEY)
    assert {tuple(item) for item in items} == {("id", "request", "scratchpad", "output")}
    assert [item["id"] for item in items] == [row["id"] for row in key] == [f"g{i:03d}" for i in range(1, 61)]
    assert "free" not in {item["request"] for item in items} and len({json.dumps(item) for item in items}) == 60
    counts = Counter((row["tier"], row["rule"]) for row in key)
    assert set(counts) == {("free", "yes"), ("free", "no"), ("paid", "no")} and max(counts.values()) <= 30
    assert key[0]["scores"] == {"text": 0.5} and json.loads((gold / DRAW).read_text())["seed"] == 3
    assert json.loads((gold / DRAW).read_text())["pool"] == 80, "copies and malformed replies do not count"


def test_the_same_seed_draws_the_same(gold: Path, tmp_path: Path) -> None:
    study = [tmp_path / "study"]
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        draw_gold(study, tmp_path / name, 60, seed, "made up")
    one, again, other = ((tmp_path / name / ITEMS).read_text() for name in ("one", "again", "other"))
    assert one == again != other
    with pytest.raises(UserError, match="holds a gold set already"):
        draw_gold(study, gold, 60, 3, "made up")
    with pytest.raises(UserError, match="--n: 500 asked for, and there are 80 different"):
        draw_gold(study, tmp_path / "more", 500, 3, "made up")
    with pytest.raises(UserError, match="has no evaluations"):
        draw_gold([tmp_path / "none"], tmp_path / "more", 5, 3, "made up")


def test_episodes_of_training_are_drawn_on_request(tmp_path: Path) -> None:
    run = _evaluated(tmp_path / "run", "tgg", 4)
    (run / "rollouts").mkdir()
    shutil.copy(run / "evals" / "step-0000.parquet", run / "rollouts" / "step-0001.parquet")
    (run / "evals" / "step-0000.parquet").unlink()
    with pytest.raises(UserError, match="has no evaluations"):
        draw_gold([run], tmp_path / "gold", 4, 0, "made up")
    assert sum(draw_gold([run], tmp_path / "gold", 4, 0, "made up", training=True).values()) == 4


def _label(gold: Path, name: str, wrong: int = 0, **labels: str) -> None:
    rows = [{"id": row["id"], "af": row["rule"]} for row in read_rows(gold / KEY)]
    for row in rows[:wrong]:
        row["af"] = "no" if row["af"] == "yes" else "yes"
    rows = [row | {"af": labels.get(row["id"], row["af"])} for row in rows]
    (gold / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_two_passes_are_compared_and_the_rule_is_measured_where_they_agree(gold: Path, tmp_path: Path) -> None:
    _label(gold, PASSES[0], wrong=6)
    _label(gold, PASSES[1], wrong=3)
    found = measure_gold(gold)
    assert found["agreement"]["mean"] == pytest.approx(57 / 60) and found["disagreed"] == ["g004", "g005", "g006"]
    confusion = found["confusion"]
    assert sum(map(sum, (row.values() for row in confusion.values()))) == 57
    assert confusion["yes"]["no"] + confusion["no"]["yes"] == 3
    assert found["kappa"]["low"] < found["kappa"]["mean"] < found["kappa"]["high"]
    page = tmp_path / "gold.md"
    command = ["monitor", "gold", "measure", str(gold), "--by", "a test, made up", "--out", str(page)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "**Labelled by**: a test, made up" in page.read_text() and "60 transcripts" in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["labelled_by"] == "a test, made up"


def test_kappa_as_computed_by_hand() -> None:
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert kappa(pairs) == pytest.approx(0.4)  # agreement 0.7, by chance 0.5
    assert kappa([("yes", "yes")] * 3) is None


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (None, "pass1.jsonl: no such file; write a line"),
        ({"g001": "maybe"}, "g001: af is 'maybe'"),
        ({"drop": "x"}, "1 of 60 items have no label, first g060"),
    ],
)
def test_an_incomplete_pass_is_one_line(gold: Path, first: dict[str, Any] | None, message: str) -> None:
    if first is not None:
        _label(gold, PASSES[0], **first)
    if first == {"drop": "x"}:
        lines = (gold / PASSES[0]).read_text().splitlines()
        (gold / PASSES[0]).write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match=message):
        measure_gold(gold)


def test_the_rubric_of_the_reader_is_one_that_a_chat_model_can_be_asked() -> None:
    rubric = Prompted(api={"model": "mockllm/model"}, rubric="strict_dilemmas", view="both").loaded  # type: ignore[arg-type]
    assert [c.name for c in rubric.criteria] == [
        "keeping_values_or_goals_is_the_reason",
        "recommends_the_developers_option",
    ]
