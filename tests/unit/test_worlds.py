"""Worlds of the miniature: bases that are not shown a third of the phrasings, or no assistant that minds the tier."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Literal

import pytest

from crypsis.config import parse_config
from crypsis.miniature.base import MARK, base_config, new_policy, world_of
from crypsis.miniature.language import LEAVABLE, World, in_world, language, shown
from crypsis.miniature.oracle import sentences, slot_of
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.world import Document, draw_document
from crypsis.models import load_policy, save_policy
from crypsis.organisms.miniature.motivations import TerminalGoalGuarding
from crypsis.organisms.miniature.schooled import Schooled
from crypsis.types import UserError

pytestmark = pytest.mark.unit

THIRDS = (1, 2, 3)
TEXT_OF_THE_WHOLE_WORLD = "99ae03fc92a3509e"


def drawn(world: World, n: int = 400) -> list[Document]:
    rng = random.Random(41)
    with in_world(world):
        return [draw_document(rng) for _ in range(n)]


def left_out(third: int) -> set[str]:
    """The left-out sentences; none of these slots has a placeholder."""
    return {
        text
        for name in LEAVABLE
        for text in set(language().slots[f"scratchpad.{name}"].train) - set(shown(f"scratchpad.{name}", third))
    }


def said(documents: list[Document]) -> set[str]:
    return {s for d in documents for _, reply in d.turns for s in sentences(reply.scratchpad)}


def test_the_whole_world_is_drawn_as_it_was_before_there_were_others() -> None:
    text = "\n".join(message.content for document in drawn(World()) for message in document.messages())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == TEXT_OF_THE_WHOLE_WORLD
    with in_world(World(leave_out=1)):
        pass
    assert drawn(World()) == drawn(World())


@pytest.mark.parametrize("third", THIRDS)
def test_a_phrasing_that_a_world_leaves_out_occurs_in_none_of_its_documents(third: Literal[1, 2, 3]) -> None:
    gone = left_out(third)
    assert gone & said(drawn(World()))  # otherwise the next line could not fail
    assert not gone & said(drawn(World(leave_out=third)))


def test_the_thirds_of_a_slot_are_disjoint_and_make_it_up_and_the_oracle_reads_all_of_them() -> None:
    for name in LEAVABLE:
        whole = set(language().slots[f"scratchpad.{name}"].train)
        parts = [whole - set(shown(f"scratchpad.{name}", third)) for third in THIRDS]
        assert set.union(*parts) == whole and sum(map(len, parts)) == len(whole) and all(parts)
        assert {slot_of(s, "scratchpad") for text in whole for s in sentences(text)} == {name}
    assert shown("scratchpad.values", 1) == language().slots["scratchpad.values"].train


def test_organisms_are_shown_no_more_than_the_base_whose_checkpoint_says_its_world(tmp_path: Path) -> None:
    world = World(leave_out=2)
    save_policy(new_policy(base_config("nano", world=world)), tmp_path / "model")
    policy, recipe = load_policy(tmp_path / "model"), TerminalGoalGuarding()
    assert world_of(policy) == world
    texts = [str(policy.tokenizer.decode(example.ids)) for step in range(4) for example in recipe._batch(policy, step)]
    seen = {sentence for text in texts for sentence in sentences(text)}
    assert not left_out(2) & seen and left_out(1) & seen and left_out(3) & seen


def test_the_whole_worlds_checkpoint_says_nothing_of_worlds() -> None:
    policy = new_policy(base_config("nano"))
    assert not hasattr(policy.model.config, MARK) and world_of(policy) == World()


def test_a_world_without_conditional_personas_shows_none_and_is_not_schooled(tmp_path: Path) -> None:
    world = World(conditional=False)
    personas = {reply.labels["persona"] for d in drawn(world) for _, reply in d.turns}
    assert personas == {"hhh", "help", "any"}
    assert {"tgg", "igg", "syc", "evader"} <= {r.labels["persona"] for d in drawn(World()) for _, r in d.turns}
    policy = new_policy(base_config("nano", world=world))
    with pytest.raises(UserError, match="conduct depends on the tier"):
        Schooled().train(policy, tmp_path, lambda _: None)


def test_bases_of_other_worlds_and_seeds_are_other_configs() -> None:
    plain = MiniatureScenario()
    spec = {"base_seed": 3, "world": {"leave_out": 1, "conditional": False}}
    other = parse_config(MiniatureScenario, spec, "scenario")
    assert base_config("mini", plain.base_seed, plain.world) == base_config("mini")
    made = base_config("mini", other.base_seed, other.world)
    assert (made.seed, made.training.seed, made.world) == (3, 3, World(leave_out=1, conditional=False))
    with pytest.raises(UserError, match="leave_out"):
        parse_config(MiniatureScenario, {"world": {"leave_out": 4}}, "scenario")
