"""Text files of users: marks, line ends, surrogates, NUL, encodings, dialects; each fault with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crypsis.chat import read_chat, single_request
from crypsis.config import read_yaml
from crypsis.scenarios.requests import read_requests
from crypsis.textfiles import Repairs, csv_rows, json_rows, read_text, tabular_rows
from crypsis.types import UserError

pytestmark = pytest.mark.unit

HINGE = 'Explain "hinge" 1,\nstep by step; with care'


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_a_line_ends_at_a_newline_only(tmp_path: Path) -> None:
    texts = [f"first{mark}second" for mark in ("\u2028", "\u2029", "\x85", "\x1c", "\x0b")]
    lines = "".join(json.dumps({"request": text}, ensure_ascii=False) + "\r\n" for text in texts)
    assert read_requests(written(tmp_path / "a.jsonl", lines.replace("\x1c", "\\u001c").replace("\x0b", "\\u000b")),
                         "request") == texts  # fmt: skip


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    assert read_requests(written(tmp_path / "a.jsonl", '{"request": "a"}\n', "utf-8-sig"), "request") == ["a"]
    assert read_requests(written(tmp_path / "a.json", '[{"request": "a"}]', "utf-8-sig"), "request") == ["a"]
    assert read_requests(written(tmp_path / "a.csv", "request\na\n", "utf-8-sig"), "request") == ["a"]
    assert read_requests(written(tmp_path / "16.csv", "request\nä\n", "utf-16"), "request") == ["ä"]
    assert read_yaml(written(tmp_path / "a.yaml", "name: x\n", "utf-8-sig")) == {"name": "x"}
    assert read_text(written(tmp_path / "a.txt", "ä\r\n", "utf-8-sig")) == "ä\r\n"


def test_lone_surrogates_and_nul_are_replaced_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(
        tmp_path / "a.jsonl", '{"request": "a \\ud83d", "n": {"\\udc9a": ["\\u0000"]}}\n{"request": "\\ud83d\\ude00"}\n'
    )
    repairs = Repairs()
    rows = [row.values for row in json_rows(path, repairs)]
    assert rows == [{"request": "a \ufffd", "n": {"\ufffd": ["\u2400"]}}, {"request": "😀"}]
    assert repairs.notes() == ["2 lone surrogates replaced by U+FFFD", "1 NUL character shown as U+2400"]
    assert read_requests(path, "request") == ["a \ufffd", "😀"]
    assert "2 lone surrogates replaced" in caplog.text
    assert [row.values for row in csv_rows(written(tmp_path / "a.csv", "request\na\0b\n"))] == [{"request": "a\u2400b"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"request": "a"}\n{"request": null}\n', r"a\.jsonl:2: 'request' must be text, found null"),
        ('{"request": "a"}\n{"request": 7}\n', r"a\.jsonl:2: 'request' must be text, found a number"),
        ('\n{"request": {"a": 1}}\n', r"a\.jsonl:2: 'request' must be text, found an object"),
        ('{"request": ["a", "b"]}\n', r"a\.jsonl:1: 'request' must be text, found a list"),
        ('{"prompt": "a"}\n', r"a\.jsonl:1: has no column 'request'; it has prompt; .* --field"),
        ('{"request": "a"}\n["a"]\n', r"a\.jsonl:2: must be an object with fields, found a list"),
        ('{"request": "a"}\nhow do I\n', r"a\.jsonl:2: is no JSON .*; one object per line is wanted"),
        ('{"request": "a", "n": ' + "1" * 5000 + "}\n", r"a\.jsonl:1: is no JSON \(Exceeds the limit"),
        ("[" * 100000, r"a\.jsonl:1: is no JSON \(nested too deeply\)"),
        ("", "holds no request"),
    ],
)
def test_faults_of_requests_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as fault:
        read_requests(written(tmp_path / "a.jsonl", text), "request")
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_separators_are_recognised_by_the_header(tmp_path: Path, name: str, delimiter: str) -> None:
    quoted = '"' + HINGE.replace('"', '""') + '"'
    text = f'"id"{delimiter}"request"\r\n"0"{delimiter}{quoted}\r\n\r\n"1"{delimiter}plain\r\n'
    assert read_requests(written(tmp_path / name, text, "utf-8-sig"), "request") == [HINGE, "plain"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'id,request\n0,"a\nb"\n1,How, then?\n', r"a\.csv:4: has 3 columns where the header has 2; .*double quotes"),
        (b"id,request\n0,a\n99\n", r"a\.csv:3: has 1 column where the header has 2"),
        (b"id,request\n0,it\x92s\n", r"a\.csv: cannot be read as UTF-8 text.*save it as UTF-8"),
        (b'id,request\n0,"open\n', r"a\.csv:2: is no valid CSV \(unexpected end of data\)"),
        (b"a,a\n1,2\n", r"a\.csv:1: names the column 'a' twice"),
        (b"\n", "holds no header"),
        (b"id,prompt\n0,a\n", r"a\.csv:2: has no column 'request'; it has id, prompt"),
    ],
)
def test_faults_of_csv_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_requests(tmp_path / "a.csv", "request")


def test_an_array_is_read_and_its_rows_are_numbered(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", '[{"request": "a"},\n{"request": 1}]')
    with pytest.raises(UserError, match=r"a\.json:2: 'request' must be text"):
        read_requests(path, "request")
    assert [r.values for r in tabular_rows(written(tmp_path / "b.json", '{"a": 1}\n{"a": 2}\n'))] == [
        {"a": 1},
        {"a": 2},
    ]
    with pytest.raises(UserError, match=r"c\.json:2: is no JSON"):
        list(json_rows(written(tmp_path / "c.json", '[{"a": 1},\n{]')))
    with pytest.raises(UserError, match="no such file"):
        read_text(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        read_text(tmp_path)


USER: dict[str, Any] = {"role": "user", "content": "q"}


def test_a_chat_of_one_user_turn_is_a_request() -> None:
    assert single_request([USER], "f:1", "request") == "q"
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert single_request(parts, "f:1", "request") == "a\nb"
    with pytest.raises(UserError, match=r"f:1: .* a chat of one user turn, found the turns system, user"):
        single_request([{"role": "system", "content": "s"}, USER], "f:1", "request")
    with pytest.raises(UserError, match="f:1: message 1 has the unknown role 'narrator'"):
        single_request([{"role": "narrator", "content": "s"}], "f:1", "request")
    with pytest.raises(UserError, match="f:1: message 1: content must be text or a list of parts, found a number"):
        read_chat([{"role": "user", "content": 7}], "f:1")


def test_reasoning_of_a_message_stands_apart_however_it_is_kept() -> None:
    part = {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "o"}]}
    field = {"role": "assistant", "content": "o", "reasoning_content": "t"}
    shared = {"from": "gpt", "value": "o", "reasoning": "t"}
    for message in (part, field, shared):
        (turn,) = read_chat([message], "f:1")
        assert (turn.role, turn.text, turn.reasoning) == ("assistant", "o", "t")
    (image,) = read_chat(
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}, "what?"]}], "f:1"
    )
    assert image.text == "[image_url]\nwhat?"
