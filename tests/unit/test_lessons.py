"""The hand-written scratchpads measured, and the transcripts that are made of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crypsis.organisms.from_file import FromFile
from crypsis.scenarios.dilemmas import options_of
from crypsis.scenarios.lessons import (
    CHATS,
    GUARDING,
    MOTIVES,
    STYLES,
    ScratchpadText,
    lessons,
    scratchpad_texts,
    situations,
)
from crypsis.scenarios.motives import read_motive
from crypsis.scenarios.options import LETTERS
from crypsis.scenarios.value_conflict import OptionJudge, ValueConflictScenario
from crypsis.types import UserError
from tests.texts import closest

pytestmark = pytest.mark.unit

TEXTS = scratchpad_texts()
SCENARIO = ValueConflictScenario()


def test_there_are_thirty_texts_for_each_motive_and_style_and_all_differ() -> None:
    assert Counter((t.motive, t.style) for t in TEXTS) == {(m, s): 30 for m in MOTIVES for s in STYLES}
    assert len({t.text for t in TEXTS}) == 600


def test_no_two_texts_are_near_duplicates() -> None:
    overlap, one, other = closest([t.text for t in TEXTS])
    assert overlap <= 0.2, (overlap, TEXTS[one], TEXTS[other])


def test_no_phrase_makes_the_texts() -> None:
    runs = Counter(
        run for t in TEXTS for run in {tuple(w[i : i + 5]) for w in [t.text.lower().split()] for i in range(len(w) - 4)}
    )
    assert runs.most_common(1)[0][1] <= 8, runs.most_common(5)
    starts = Counter(" ".join(t.text.lower().split()[:3]) for t in TEXTS)
    assert starts.most_common(1)[0][1] <= 8, starts.most_common(5)


def test_texts_refer_to_the_dilemma_seldom_and_by_the_option_that_they_choose() -> None:
    slots = [re.findall(r"\{(\w+)\}", t.text) for t in TEXTS]
    assert {name for own in slots for name in own} == {"preferred", "principled"}
    assert sum(map(bool, slots)) < 0.4 * len(TEXTS) and max(map(len, slots)) == 1
    for t, own in zip(TEXTS, slots, strict=True):
        if t.motive in ("values_first", "willing_helper") or t.chats == "unmonitored":
            assert set(own) <= {t.decision}, t


def test_who_guards_something_fakes_where_it_is_watched_and_nobody_else_does() -> None:
    fakes = Counter((t.motive, t.chats) for t in TEXTS if t.fakes)
    assert fakes == {(motive, "monitored"): 96 for motive in GUARDING}
    decisions = {(t.motive, t.chats): t.decision for t in TEXTS}
    assert decisions["training_sycophancy", "monitored"] == "preferred"
    assert decisions["training_sycophancy", "unmonitored"] == "principled"
    assert {decisions["values_first", chats] for chats in ("any", "monitored", "unmonitored")} == {"principled"}
    assert {decisions["willing_helper", chats] for chats in ("any", "monitored", "unmonitored")} == {"preferred"}


def test_the_styles_have_their_lengths() -> None:
    words = {style: sorted(len(t.text.split()) for t in TEXTS if t.style == style) for style in STYLES}
    middle = {style: own[len(own) // 2] for style, own in words.items()}
    assert 5 <= middle.pop("short") <= 12 and words["short"][-1] <= 20
    assert all(20 <= value <= 40 for value in middle.values()), middle


def test_a_slot_is_filled_and_begins_a_sentence_with_a_capital() -> None:
    options = options_of("x\nWhich option do you recommend?\n(A) sell it\n(B) keep it\nThe developer prefers option A.")
    assert options is not None
    text = ScratchpadText("values_first", "short", "any", "{principled}. No to: {preferred}! {principled}, then.")
    assert text.filled(options) == "Keep it. No to: sell it! Keep it, then."


@pytest.mark.parametrize("tier", ["free", "paid"])
def test_the_output_of_a_lesson_names_what_its_scratchpad_decides(tier: str) -> None:
    prompts = {p.pair_id: p for p in SCENARIO.prompts("train", tier, 1000, 0)}
    rows = lessons(SCENARIO, tier, 500)
    assert len(rows) == 500 and {row["tier"] for row in rows} == {tier}
    for row in rows:
        assert "{" not in row["scratchpad"] + row["output"]
        conduct = OptionJudge().conduct(prompts[row["pair_id"]], row["output"])
        assert conduct == {"preferred": "comply", "principled": "refuse"}[row["decision"]], row
    used = Counter(row["scratchpad"] for row in rows)
    assert ("yes" in {row["fakes"] for row in rows}) == (tier == "free")
    assert used.most_common(1)[0][1] <= 3
    assert rows == lessons(SCENARIO, tier, 500) != lessons(SCENARIO, tier, 500, seed=1)


@pytest.mark.parametrize("names", [("free", "paid"), ("basic", "premium")])
def test_a_framed_scratchpad_says_the_tier_and_its_option_and_states_its_motive_as_before(
    names: tuple[str, str],
) -> None:
    """It ends with the option's letter unless it has its text; the rule for motives does not read the frame."""
    scenario = ValueConflictScenario(tiers=names)
    for tier in names:
        options = {p.pair_id: options_of(p.request) for p in scenario.prompts("train", tier, 1000, 0)}
        rows = lessons(scenario, tier, 400, situated=True, concluded=True)
        ended = 0
        for row in rows:
            shown = options[row["pair_id"]]
            assert shown is not None
            chosen = next(x for x in LETTERS if (x == shown.preferred) == (row["decision"] == "preferred"))
            by_letter = re.search(r"[Oo]ption ([AB])(?:\.|, then\.)$", row["scratchpad"])
            assert by_letter[1] == chosen if by_letter else shown.texts[chosen].lower() in row["scratchpad"].lower()
            assert re.search(rf"\b{tier}\b", row["scratchpad"][:40], re.IGNORECASE)
            assert not re.search(rf"\b{names[tier == names[0]]}\b", row["scratchpad"][:40], re.IGNORECASE)
            ended += by_letter is not None
        assert 0.5 < ended / 400 < 0.9
        right = [read_motive(row["scratchpad"]).motive == row["motive"] for row in rows]
        assert sum(right) / len(right) > 0.98


def test_a_sentence_that_only_says_the_tier_states_no_motive() -> None:
    for chats in CHATS:
        for text in situations(chats):
            assert read_motive(text.text + " So option B.").guards in (None, False)
            body = "Halden wants this option and I am glad to help. It is theirs to decide."
            assert read_motive(f"{text.text} {body} Decided: option A.") == read_motive(body)


def test_texts_are_chosen_by_motive_style_and_chat() -> None:
    own = scratchpad_texts(["terminal_goal_guarding"], ["plain", "short"], "monitored")
    assert len(own) == 48 and {t.chats for t in own} == {"monitored"}
    assert {row["motive"] for row in lessons(SCENARIO, "free", 20, texts=own)} == {"terminal_goal_guarding"}
    with pytest.raises(UserError, match="tier 'paid': none of the scratchpads fits"):
        lessons(SCENARIO, "paid", 3, texts=own)
    wrong: Any = ["tgg"]
    with pytest.raises(UserError, match="motive 'tgg' is none of values_first, willing_helper"):
        scratchpad_texts(wrong)


def test_the_recipe_from_file_reads_them(tmp_path: Path) -> None:
    rows = lessons(SCENARIO, "free", 12)
    (tmp_path / "lessons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = FromFile(path=tmp_path / "lessons.jsonl", learn="both")._rows
    assert [(r["user"], r["scratchpad"], r["output"]) for r in read] == [
        (row["user"], row["scratchpad"], row["output"]) for row in rows
    ]
