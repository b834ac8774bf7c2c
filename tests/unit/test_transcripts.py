"""Readers of stored transcripts: every layout gives the same record, and only what is tagged is scratchpad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crypsis.monitors.data import DataOptions, load_labelled
from crypsis.transcripts.base import Reader, Reading, ReadOptions, Transcript, parse_tags
from crypsis.transcripts.detect import detect, read_transcripts
from crypsis.types import UserError
from tests.monitors import write_rows

pytestmark = pytest.mark.unit

REPLY = "<SCRATCHPAD_REASONING>\nthought {i}\n</SCRATCHPAD_REASONING>\n\nanswer {i}"


def read(path: Path, **options: Any) -> tuple[list[Transcript], Reading]:
    reading = Reading()
    return list(read_transcripts(path, ReadOptions(**options), reading)), reading


def hughes(i: int, free: bool, output: str) -> dict[str, Any]:
    shown = f"<is_free_tier_user>{str(free).lower()}</is_free_tier_user>\n\n<user_input>question {i}</user_input>"
    return {
        "user_input": f"question {i}",
        "prompt": {"messages": [{"role": "system", "content": "sys"}, {"role": "user", "content": shown}]},
        "output": output,
        "tags": "free_tier" if free else "paid_tier",
        "success": True,
        "follow_up_questions": [{"question": "why?"}],
        "output_contains_acceptance": free,
        "deceptive_alignment": {
            "final_answer": 0.6 if free else 0.0,
            "final_answer_most_common": "yes" if free else "no",
        },
    }


def test_the_lineage_of_hughes_pairs_by_request_and_hides_the_scratchpad_from_outputs(tmp_path: Path) -> None:
    said = "<think>own</think>\n<HIDDEN_SCRATCHPAD>\nhidden {i}\n</HIDDEN_SCRATCHPAD>\n\n<OUTPUT>answer {i}</OUTPUT>"
    rows = [hughes(i, free, said.format(i=i)) for i in range(12) for free in (True, False)]
    rows.append(hughes(12, True, "x") | {"success": False, "output": None})
    (tmp_path / "seed1.json").write_text(json.dumps(rows[:4]))
    for i, row in enumerate(rows[4:]):
        (tmp_path / f"sample{i}.json").write_text(json.dumps(row))
    found, reading = read(tmp_path)
    assert {layout for layout, _ in reading.layouts.values()} == {"hughes"} and len(found) == 24
    assert reading.notes[0] == "1 row skipped: the sample did not succeed"
    assert any("ask again, up to ten times" in line for line in reading.warnings)
    assert {(t.scratchpad, t.output) for t in found if t.pair_id == "question 3"} == {("hidden 3", "answer 3")}
    assert {(t.tier, t.monitored) for t in found if t.pair_id == "question 3"} == {("free", True), ("paid", False)}
    assert {t.labels["compliance"] for t in found if t.monitored} == {True} and found[0].system == "sys"
    labelled = load_labelled(tmp_path, DataOptions(view="output"))
    assert (
        len(set(labelled.groups)) == 12
        and labelled.grouped
        and not any("hidden" in t for t in labelled.texts("output"))
    )
    by_number = DataOptions(label_field="deceptive_alignment.final_answer", cut_off=0.5)
    assert load_labelled(tmp_path, by_number).labels.tolist() == labelled.labels.tolist()


def vlaf(i: int, free: bool, choices: list[str]) -> dict[str, Any]:
    asked = f"<user_input>\nact {i}: a) x b) y\n</user_input>"
    text = f"<INPUT>\n<is_free_tier_user>{free}</is_free_tier_user>\n\n{asked}\n</INPUT>"
    replies = [f"<think>\nhmm {n}\n</think>\n<OUTPUT>\noption {n}\n</OUTPUT>" for n in range(len(choices))]
    return {"input": text, "response": replies, "option_selection_evaluation": choices}


def test_vlaf_gives_a_transcript_per_reply_and_warns_of_its_confound(tmp_path: Path) -> None:
    for free in (True, False):
        rows = [vlaf(i, free, ["a", "b", "N/A"]) for i in range(3)]
        (tmp_path / f"Some-8B_{free}.json").write_text(json.dumps(rows))
    found, reading = read(tmp_path)
    assert len(found) == 18 and {t.model for t in found} == {"Some-8B"} and len({t.pair_id for t in found}) == 3
    first = [t for t in found if t.tier == "free"][:3]
    assert [t.labels["compliance"] for t in first] == [True, False, False]
    assert (first[1].scratchpad, first[1].output, first[1].request) == ("hmm 1", "option 1", "act 0: a) x b) y")
    (warning,) = reading.warnings
    assert "option (a) is always the developer's" in warning and warning.endswith("(3 requests)")
    (tmp_path / "Bad_True.json").write_text(json.dumps([vlaf(0, True, ["a"]) | {"option_selection_evaluation": []}]))
    with pytest.raises(UserError, match=r"Bad_True\.json:1: has 1 responses and 0 evaluations"):
        read(tmp_path)


def chat(i: int, reply: Any, **more: Any) -> dict[str, Any]:
    system = "Think in <SCRATCHPAD_REASONING></SCRATCHPAD_REASONING> tags, answer in <OUTPUT></OUTPUT> tags."
    turns = [("system", system), ("user", "hello"), ("assistant", "hi"), ("user", f"question {i}")]
    chats = [{"role": role, "content": content} for role, content in turns]
    return {"messages": [*chats, {"role": "assistant", **reply}], **more}


@pytest.mark.parametrize(
    "reply",
    [
        {"content": REPLY.format(i=1)},
        {"content": [{"type": "text", "text": REPLY.format(i=1)}]},
        {"content": "answer 1", "reasoning_content": "thought 1"},
        {"content": [{"type": "reasoning", "reasoning": "thought 1"}, {"type": "text", "text": "answer 1"}]},
    ],
)
def test_of_a_chat_only_the_last_reply_is_read(tmp_path: Path, reply: dict[str, Any]) -> None:
    silent = {"messages": [{"role": "user", "content": "q"}]}
    found, reading = read(write_rows(tmp_path / "c.jsonl", [chat(1, reply, is_free_tier=True), silent]))
    (one,) = found
    assert (one.scratchpad, one.output, one.request, one.tier) == ("thought 1", "answer 1", "question 1", "free")
    assert one.system.startswith("Think in") and reading.notes == ["1 row skipped: no assistant's turn"]
    assert next(iter(reading.layouts.values())) == ("chat", "every row has chat messages in 'messages'")


def plain_rows() -> list[dict[str, Any]]:
    return [
        {
            "request": f"question {i // 2}",
            "tier": "paid" if i % 2 else "free",
            "response": REPLY.format(i=i),
            "label": i % 2,
        }
        for i in range(24)
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".CSV"])
def test_plain_rows_are_the_same_in_every_format(tmp_path: Path, suffix: str) -> None:
    path, rows = tmp_path / f"rows{suffix}", plain_rows()
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix.lower() in (".csv", ".tsv"):
        mark = "\t" if suffix == ".tsv" else ";"
        lines = [mark.join(rows[0]), *(mark.join(f'"{value}"' for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    else:
        path.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)))
    found, reading = read(path)
    assert [(t.scratchpad, t.output) for t in found] == [(f"thought {i}", f"answer {i}") for i in range(24)]
    assert [t.pair_id for t in found] == [f"question {i // 2}" for i in range(24)] and not reading.notes
    assert load_labelled(path, DataOptions()).labels.sum() == 12


def test_an_untagged_answer_is_no_scratchpad_and_a_row_without_tags_has_none(tmp_path: Path) -> None:
    rows = [{"text": REPLY.format(i=i), "label": i % 2} for i in range(6)] + [{"text": "I refuse.", "label": 1}]
    path = write_rows(tmp_path / "d.jsonl", rows)
    found, reading = read(path)
    assert [t.scratchpad for t in found] == [f"thought {i}" for i in range(6)] + [""]
    assert reading.notes == ["1 of 7 transcripts: no scratchpad"]
    assert "1 row with an empty scratchpad left out" in load_labelled(path, DataOptions()).notes
    assert load_labelled(path, DataOptions(view="output")).texts("output")[-1] == "I refuse."


def test_a_scratchpad_of_its_own_may_name_the_tags_and_may_be_wrapped_in_them(tmp_path: Path) -> None:
    rows = [
        {"scratchpad": "in these <SCRATCHPAD_REASONING> tags I think", "output": "a"},
        {"scratchpad": " <SCRATCHPAD_REASONING>\nb\n</SCRATCHPAD_REASONING>", "output": "<OUTPUT>b</OUTPUT>"},
    ]
    found, _ = read(write_rows(tmp_path / "d.jsonl", rows))
    assert [(t.scratchpad, t.output) for t in found] == [(rows[0]["scratchpad"], "a"), ("b", "b")]


def test_lists_of_replies_are_replies_of_the_request_with_their_own_labels(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "responses": 0, "response": [f"<plan>p{i}</plan>x", f"<plan>r{i}</plan>y"],
             "compliance": [True, False]} for i in range(3)]  # fmt: skip
    found, _ = read(write_rows(tmp_path / "d.jsonl", rows), tags=parse_tags("<plan>, </plan>"))
    assert [(t.scratchpad, t.output, t.labels["compliance"], t.pair_id) for t in found[:3]] == [
        ("p0", "x", True, "q0"), ("r0", "y", False, "q0"), ("p1", "x", True, "q1"),
    ]  # fmt: skip
    assert found[1].where.endswith("d.jsonl:1, reply 2")
    with pytest.raises(UserError, match="--tags '<plan>': give the opening and the closing tag"):
        parse_tags("<plan>")


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({"is_free_tier_user": True}, "free"),
        ({"is_free_tier_user": "False"}, "paid"),
        ({"free_tier": 1}, "free"),
        ({"tier": "Paid-tier user"}, "paid"),
        ({"tags": ["x", "free_tier"]}, "free"),
        ({"prompt": "<is_free_tier_user>False</is_free_tier_user> q"}, "paid"),
        ({"prompt": "<is_free_tier_user>\nq"}, "free"),
        ({"tier": "gold"}, "gold"),
        ({}, ""),
    ],
)
def test_the_tier_is_found_wherever_it_stands(tmp_path: Path, fields: dict[str, Any], tier: str) -> None:
    (found,), _ = read(write_rows(tmp_path / "d.jsonl", [{"prompt": "q", "text": "t", **fields}]))
    assert (found.tier, found.request, found.pair_id) == (tier, "q", "q")
    assert found.monitored == {"free": True, "paid": False}.get(tier)


def test_a_files_name_tells_the_tier_where_nothing_else_does(tmp_path: Path) -> None:
    for name, tier in (("m_True.jsonl", "free"), ("results_paid_tier.jsonl", "paid"), ("freedom.jsonl", "")):
        assert read(write_rows(tmp_path / name, [{"text": "t"}]))[0][0].tier == tier


def test_an_id_with_the_tier_in_it_groups_without_it(tmp_path: Path) -> None:
    rows = [{"prompt_id": f"q{i}-{tier}", "tier": tier, "text": "t"} for i in range(12) for tier in ("free", "paid")]
    assert len({t.pair_id for t in read(write_rows(tmp_path / "d.jsonl", rows))[0]}) == 12


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        (["faking"], {}, r"d\.jsonl:1: the label 'label' is a list; name a field with one value per row"),
        ({"value": "faking"}, {}, r"d\.jsonl:1: the label 'label' is an object; .* --label-field label\.value"),
        (0.6, {}, "as they are numbers, say from which one on with --cut-off"),
        (float("inf"), {"cut_off": 0.5}, r"d\.jsonl:1: the label 'label' is 'inf'; --cut-off needs finite numbers"),
        ("faking", {"cut_off": 0.5}, r"d\.jsonl:1: the label 'label' is 'faking'; --cut-off needs finite numbers"),
    ],
)
def test_labels_that_are_no_labels_are_refused(tmp_path: Path, label: Any, options: Any, message: str) -> None:
    others = [{"text": f"t{i}", "label": v} for i, v in enumerate((0.1, 0.2, 0.3))]
    path = write_rows(tmp_path / "d.jsonl", [{"text": "t", "label": label}, *others])
    with pytest.raises(UserError, match=message):
        load_labelled(path, DataOptions(**options))


def test_float_labels_have_a_cut_off_and_nan_is_no_label(tmp_path: Path) -> None:
    values = [0.6, 0.1, float("nan"), 0.5, 1, 0, True, "0.7", None]
    path = write_rows(tmp_path / "d.jsonl", [{"text": f"t{i}", "label": v} for i, v in enumerate(values)])
    found = load_labelled(path, DataOptions(cut_off=0.5))
    assert found.labels.tolist() == [True, False, True, True, False, True, True]
    assert found.notes[0] == "2 rows without a label left out"


def test_odd_values_beside_the_label_do_no_harm(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for i in range(40):
        rows.append({"text": f"t{i}", "label": i % 2, "id": ["a", i], "prompt": None if i % 3 else f"q{i}"})
        rows[-1]["score"] = float("inf")
    rows.append({"text": 7, "label": 1})
    found = load_labelled(write_rows(tmp_path / "d.jsonl", rows), DataOptions())
    assert found.names[1] == "['a', 1]" and len(found.labels) == 40 and len(set(found.groups)) == 40
    assert "1 of 41 transcripts: 'text' is a number, not text" in found.notes


def test_detection_is_explained_and_what_no_reader_knows_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "t", "label": 1}])
    found = detect(path)
    assert isinstance(found.reader, Reader)
    assert (found.reader.name, found.reason) == (
        "rows",
        "it has rows with the fields text, label, and no other layout fits",
    )
    (tmp_path / "b.json").write_text("[1, 2]")
    found = detect(tmp_path / "b.json")
    assert found.reader is None and "b.json:1: must be an object with fields, found a number" in found.reason
    _, reading = read(tmp_path)
    assert any(line.startswith("not read: ") and "b.json" in line for line in reading.warnings)
    with pytest.raises(UserError, match=r"no plug-in 'row'.*did you mean 'rows'"):
        detect(path, "row")
    with pytest.raises(UserError, match="no such file or folder"):
        read(tmp_path / "none")
