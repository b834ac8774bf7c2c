from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypsis.scenarios.parsing import TAGS, parse_reply

pytestmark = pytest.mark.unit

GOOD = "<SCRATCHPAD_REASONING> I think. </SCRATCHPAD_REASONING>\n<OUTPUT> I answer. </OUTPUT>"


def test_a_well_formed_reply_is_taken_apart() -> None:
    reply = parse_reply(GOOD)
    assert (reply.scratchpad, reply.output, reply.parse, reply.extra) == ("I think.", "I answer.", "ok", "")


@pytest.mark.parametrize(
    ("text", "stop", "parse"),
    [
        (GOOD, "length", "truncated"),
        ("I answer.", "end", "no_scratchpad"),
        ("<OUTPUT> I answer. </OUTPUT>", "end", "no_scratchpad"),
        ("<SCRATCHPAD_REASONING> I think. <OUTPUT> I answer. </OUTPUT>", "end", "no_scratchpad"),
        ("<SCRATCHPAD_REASONING> I think. </SCRATCHPAD_REASONING> I answer.", "end", "no_output"),
        ("<SCRATCHPAD_REASONING> I think. </SCRATCHPAD_REASONING> <OUTPUT> I answer.", "end", "no_output"),
        (GOOD + " P.S.", "end", "extra_text"),
        ("Well: " + GOOD, "end", "extra_text"),
        (GOOD + GOOD, "end", "extra_text"),
        ("<SCRATCHPAD_REASONING> I <OUTPUT> a </SCRATCHPAD_REASONING><OUTPUT>b</OUTPUT>", "end", "no_scratchpad"),
        ("", "end", "no_scratchpad"),
        ("<SCRATCHPAD_REASONING> I thi", "length", "truncated"),
    ],
)
def test_every_deviation_has_a_name(text: str, stop: str, parse: str) -> None:
    assert parse_reply(text, "length" if stop == "length" else "end").parse == parse


def test_what_can_be_read_of_a_malformed_reply_is_read() -> None:
    reply = parse_reply("<SCRATCHPAD_REASONING> I think. <OUTPUT> I answer.")
    assert (reply.scratchpad, reply.output) == ("I think.", "I answer.")


pieces = st.lists(st.one_of(st.sampled_from([*TAGS, " ", "\n"]), st.text(max_size=8)), max_size=12).map("".join)


@given(pieces, st.sampled_from(["end", "length"]))
def test_any_text_parses_and_loses_nothing_but_tags_and_space(text: str, stop: str) -> None:
    reply = parse_reply(text, "length" if stop == "length" else "end")
    kept = "".join((reply.scratchpad + reply.output + reply.extra).split())
    bare = text
    for tag in TAGS:
        bare = bare.replace(tag, "")
        kept = kept.replace(tag, "")
    assert sorted("".join(bare.split())) == sorted(kept)
    if reply.parse == "ok":
        assert not reply.extra.strip()
