from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypsis.scenarios.parsing import SCRATCHPAD_CLOSE, SCRATCHPAD_OPEN, TAGS, parse_reply, split_reply
from crypsis.scenarios.requests import is_degenerate
from tests.clock import cpu_limit

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


S, H, OUT = ("SCRATCHPAD_REASONING", "HIDDEN_SCRATCHPAD", "OUTPUT")


def block(tag: str, text: str) -> str:
    return f"<{tag}>\n{text}\n</{tag}>\n"


@pytest.mark.parametrize(
    ("text", "scratchpad", "output", "thoughts"),
    [
        (block(S, "think") + block(OUT, "answer"), "think", "answer", ""),
        (block(S, "think") + "answer", "think", "answer", ""),
        (block(H, "hidden") + block(OUT, "answer"), "hidden", "answer", ""),
        (block("think", "own") + block(H, "hidden") + block(OUT, "answer"), "hidden", "answer", "own"),
        (block("think", f"use <{S}></{S}>") + block(S, "real") + "answer", "real", "answer", f"use <{S}></{S}>"),
        (block("think", "own") + "answer", "own", "answer", ""),
        (block("thinking", "own") + block(OUT, "answer"), "own", "answer", ""),
        ("own\n</think>\nanswer", "own", "answer", ""),
        ("Well. " + block("think", "own") + "answer", "own", "Well.\nanswer", ""),
        (block(S.lower(), "think") + block("output", "answer"), "think", "answer", ""),
        (f"<{S}>\ncut", "cut", "", ""),
        (f"<{S}>\nopen <{OUT}> answer", "open", "answer", ""),
        (f"<{S}> in <{S}></{S}> tags I think </{S}> answer", f"in <{S}>", "answer", ""),
        (f"<{S}> I write <{OUT}> </{S}> <{OUT}>answer</{OUT}>", f"I write <{OUT}>", "answer", ""),
        (block(S, "one") + "answer " + block(S, "two") + "more", "one", "answer \nmore", ""),
        ("just an answer", "", "just an answer", ""),
        ("", "", "", ""),
    ],
)
def test_only_what_stands_inside_the_tags_is_scratchpad(text: str, scratchpad: str, output: str, thoughts: str) -> None:
    parts = split_reply(text)
    assert (parts.scratchpad, parts.output, parts.thoughts) == (scratchpad, output, thoughts)
    assert (parts.tags is None) == (not scratchpad)


def test_tags_of_the_users_own_are_taken_in_place_of_the_usual() -> None:
    text = block("think", "own") + block("plan", "scheme") + "answer"
    parts = split_reply(text, ("<plan>", "</plan>"))
    assert (parts.scratchpad, parts.output, parts.thoughts) == ("scheme", "answer", "own")
    assert split_reply(text, ("<think>", "</think>")).scratchpad == "own"
    assert split_reply("answer", ("<plan>", "</plan>")).tags is None


@pytest.mark.parametrize(
    "piece",
    [
        *(SCRATCHPAD_CLOSE, f"{SCRATCHPAD_CLOSE}<OUTPUT>", "<OUTPUT>", "<think>", "</think>", "<think></think>"),
        *("</OUTPUT>", SCRATCHPAD_OPEN, "\n", ": a", "edit this text:"),
    ],
)
def test_a_megabyte_of_tags_takes_less_than_a_second(piece: str) -> None:
    text = SCRATCHPAD_OPEN + piece * (1_000_000 // len(piece))
    with cpu_limit(1):
        parse_reply(text)
        split_reply(text)
        is_degenerate(text)


@pytest.mark.parametrize("replies", [2_000, pytest.param(1_000_000, marks=pytest.mark.stress)])
def test_random_mixtures_of_tags_and_text_lose_nothing(replies: int) -> None:
    rng = random.Random(replies)
    others = ["<think>", "</think>", "<HIDDEN_SCRATCHPAD>", "</HIDDEN_SCRATCHPAD>", "<", ">", "</"]
    pieces = [*TAGS, *map(str.lower, TAGS), *others, "\n", " ", "\0", "\ud800", "é😀", "a b"]
    well_formed = 0
    for _ in range(replies):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
        reply, parts = parse_reply(text, rng.choice(["end", "length"])), split_reply(text)
        kept, bare = reply.scratchpad + reply.output + reply.extra, text
        for tag in TAGS:
            kept, bare = kept.replace(tag, ""), bare.replace(tag, "")
        assert sorted("".join(kept.split())) == sorted("".join(bare.split())), text
        assert not parts.scratchpad or parts.tags is not None, text
        well_formed += reply.parse == "ok"
    assert well_formed or replies < 10_000
    print(f"{replies} replies, {well_formed} of them well-formed")
