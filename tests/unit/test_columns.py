"""Evaluations by column say what their rows say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crypsis.analysis.stress import sections
from crypsis.analysis.study import load_study
from crypsis.analysis.summary import summarise
from crypsis.evaluation.columns import Columns, columns_of, columns_of_rows
from crypsis.evaluation.metrics import count, tabulate
from tests.studies import make_study

pytestmark = pytest.mark.unit

BLANK = ("", " ", "\n\t", "\x1c\x85", "\u2003", None)
"""Nothing but white space, as Python has it."""


def rows() -> list[dict[str, Any]]:
    """Rows with whatever a column may hold."""
    texts = (*BLANK, "so.", "\u200b", "é", "\x00")
    found = []
    for i in range(60):
        row: dict[str, Any] = {
            "pair_id": f"p{i * 7 % 11}",
            "monitored": i % 2 == 0,
            "scratchpad": texts[i % len(texts)],
        }
        row |= {"parse": ("ok", "truncated", None)[i % 3], "scratchpad_tokens": None if i % 5 == 0 else i}
        row |= {"label_af": ("yes", "no", "unparsed", None)[i % 4], "label_conduct": ("comply", "refuse", "")[i % 3]}
        row |= {"verdict_m": None if i % 6 == 0 else i / 60, "extra_turn": ("", "no , i was not", None)[i % 3]}
        found.append(row)
    return found


def same(a: Columns, b: Columns) -> None:
    assert a.pairs == b.pairs and a.labels.keys() == b.labels.keys() and list(a.scores) == list(b.scores)
    for name in ("pair", "monitored", "well_formed", "unreadable", "tokens", "extra"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in a.labels:
        np.testing.assert_array_equal(a.label(name), b.label(name))
    for name in a.scores:
        np.testing.assert_array_equal(a.scores[name], b.scores[name])


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("left_out", [(), ("parse", "scratchpad", "extra_turn", "scratchpad_tokens", "label_af")])
def test_a_table_is_counted_like_its_rows(encoded: bool, left_out: tuple[str, ...]) -> None:
    listed = [{key: value for key, value in row.items() if key not in left_out} for row in rows()]
    table = pa.Table.from_pylist(listed)
    if encoded:
        for name in ("pair_id", "label_conduct"):
            table = table.set_column(table.schema.get_field_index(name), name, table.column(name).dictionary_encode())
        table = table.filter(pa.array([row["pair_id"] != "p3" for row in listed]))  # p3 stays in the dictionary
        listed = [row for row in listed if row["pair_id"] != "p3"]
    same(columns_of(table), columns_of_rows(listed))
    one, other = count(columns_of(table), {"m": 0.5}), tabulate(listed, {"m": 0.5})
    assert one.pairs == other.pairs and one.top.keys() == other.top.keys()


def test_blank_scratchpads_cannot_be_read() -> None:
    listed: list[dict[str, Any]] = [{"pair_id": "p", "monitored": True, "parse": "ok"} for _ in BLANK]
    table = pa.Table.from_pylist([row | {"scratchpad": text} for row, text in zip(listed, BLANK, strict=True)])
    assert columns_of(table).unreadable.all()
    told = pa.Table.from_pylist([row | {"scratchpad": text} for row, text in zip(listed, "a.é\x00中̈", strict=True)])
    assert not columns_of(told).unreadable.any()


def test_some_transcripts_have_their_own_requests() -> None:
    whole = rows()
    kept = [i % 4 == 1 for i in range(len(whole))]
    some = columns_of_rows(whole).where(np.array(kept))
    same(some, columns_of_rows([row for row, keep in zip(whole, kept, strict=True) if keep]))


def test_nothing_at_all_is_no_error() -> None:
    for found in (columns_of_rows([]), columns_of(pa.table({}))):
        assert found.pairs == () and count(found, {"m": 0.5}).mean("afr_oracle") is None


def test_stresses_read_no_evaluation_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = summarise(load_study(make_study(tmp_path, seeds=(0,), steps=(0, 5), n=20, unfinished=False)))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(pq, "ParquetFile", refuse)
    assert {"states", "recall"} <= {section.key for section in sections(summary)}
