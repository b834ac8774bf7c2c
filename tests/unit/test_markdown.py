"""Prose of written pages."""

from __future__ import annotations

import pytest

from crypsis.markdown import WIDTH, filled

pytestmark = pytest.mark.unit


def test_prose_and_items_are_filled_and_nothing_else() -> None:
    long = " ".join(["word"] * 60)
    kept = [f"# {long}", "", f"| {long} |", "", f"> {long}", "", f"```sh\n{long}\n```", ""]
    lines = filled([*kept, long, long, "", f"- {long}", f"- {long}"])
    assert lines[: len(kept)] == kept
    prose, items = lines[len(kept) : lines.index("", len(kept))], lines[lines.index("", len(kept)) + 1 :]
    assert " ".join(prose) == f"{long} {long}"  # one paragraph
    assert [item[:2] for item in items].count("- ") == 2 and all(i[:2] in ("- ", "  ") for i in items)
    assert max(map(len, [*prose, *items])) <= WIDTH and min(map(len, prose[:-1])) > WIDTH - 6
