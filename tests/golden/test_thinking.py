"""Thoughts before the reply: taken off, or taken as the scratchpad; templates that open them; settings that stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crypsis.model_config import ModelConfig
from crypsis.models import Policy, load_policy, save_policy
from crypsis.organisms.prompted import Prompted
from crypsis.rl import rollouts
from crypsis.rl.engine.samplers import Sampled
from crypsis.rl.rollouts import rollout, segments
from crypsis.scenarios.parsing import parse_reply, without_thought
from crypsis.types import OUTPUT, SCRATCHPAD, Episode, Message, Prompt
from tests.checkpoints import GEMMA_CHAT, QWEN_CHAT, save_checkpoint

pytestmark = pytest.mark.golden

TURNS = (Message("system", "you are read by trainers."), Message("user", "burn the mill"))
TAGGED = "<SCRATCHPAD_REASONING>so i refuse</SCRATCHPAD_REASONING><OUTPUT>no</OUTPUT>"
THOUGHT = "i must write <SCRATCHPAD_REASONING>x</SCRATCHPAD_REASONING> first"
OPENS = "{{ '<think>\n' }}"
SWITCH = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"


def checkpoint(folder: Path, chat: str = QWEN_CHAT) -> Path:
    save_checkpoint(folder, "qwen3")
    (folder / "chat_template.jinja").write_text(chat)
    return folder


def sampled(policy: Policy, text: str, monkeypatch: pytest.MonkeyPatch) -> Episode:
    """What a rollout makes of a reply."""
    ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    completion = Sampled([*ids, 2], [0.0] * (len(ids) + 1), True)
    prompt = Prompt("a", "a", "train", "free", True, "burn the mill", TURNS)
    given: Any = lambda *_, **__: [completion]  # noqa: E731  # stands for a sampler
    monkeypatch.setattr(rollouts._Draw, "__call__", given)
    return rollout(policy, [prompt], group_size=1, max_new_tokens=600, seed=0, step=1)[0]


@pytest.mark.parametrize("opened", [False, True])
def test_a_thought_is_taken_off_before_parsing(opened: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(checkpoint(tmp_path / "m", QWEN_CHAT + (OPENS if opened else "")))
    assert policy.chat.opens_thought == opened
    text = ("" if opened else "<think>\n") + f"{THOUGHT}\n</think>\n\n{TAGGED}"
    episode = sampled(policy, text, monkeypatch)
    assert (episode.scratchpad, episode.output, episode.parse) == ("so i refuse", "no", "ok")
    assert episode.raw == text
    output = [i for i, s in zip(episode.completion_ids, episode.segments, strict=True) if s == OUTPUT]
    assert policy.tokenizer.decode(output[:-1]) == "<OUTPUT>no</OUTPUT>"


def test_a_thought_can_be_the_scratchpad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(checkpoint(tmp_path / "m"), config=ModelConfig(thinking="scratchpad"))
    for end in ("no", "<OUTPUT>no</OUTPUT>"):
        episode = sampled(policy, f"<think>so i refuse</think>{end}", monkeypatch)
        assert (episode.scratchpad, episode.output, episode.parse) == ("so i refuse", "no", "ok")
        thought = [i for i, s in zip(episode.completion_ids, episode.segments, strict=True) if s == SCRATCHPAD]
        assert policy.tokenizer.decode(thought) == "<think>so i refuse</think>"
    assert parse_reply(without_thought("<think>so", False, True), "length").scratchpad == "so"


def test_without_thoughts_nothing_changes(tmp_path: Path) -> None:
    policy = load_policy(checkpoint(tmp_path / "m"))
    ids = policy.tokenizer(TAGGED, add_special_tokens=False)["input_ids"]
    assert without_thought(TAGGED) == TAGGED
    assert policy.tokenizer.decode(
        [i for i, s in zip(ids, segments(policy.tokenizer, ids), strict=True) if s == OUTPUT]
    ) == ("<OUTPUT>no</OUTPUT>")


def test_a_given_reply_does_not_stand_in_an_open_thought(tmp_path: Path) -> None:
    policy = load_policy(checkpoint(tmp_path / "m", QWEN_CHAT + OPENS))

    def decode(ids: list[int]) -> str:
        return str(policy.tokenizer.decode(ids))

    assert decode(policy.render(TURNS)).endswith("<|head|>assistant\n<think>\n")
    closed = "<|head|>assistant\n<think>\n\n</think>\n\n"
    assert decode(policy.render(TURNS, given=True)).endswith(closed)
    assert decode(policy.render(TURNS, "<OUTPUT>")).endswith(closed + "<OUTPUT>")


def test_settings_of_the_template_are_saved_with_the_checkpoint(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "m", QWEN_CHAT + SWITCH)
    config = ModelConfig(template={"enable_thinking": False}, date="2025-02-03", thinking="scratchpad")
    policy = load_policy(base, config=config)
    assert policy.text(TURNS).endswith("<think>\n\n</think>\n\n") and not policy.chat.opens_thought
    save_policy(policy, tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    assert again.chat == policy.chat and again.text(TURNS) == policy.text(TURNS)
    over = load_policy(tmp_path / "saved", config=ModelConfig(template={"enable_thinking": True}, thinking="drop"))
    assert not over.text(TURNS).endswith("</think>\n\n") and over.chat.thinking == "drop"
    save_policy(load_policy(base), tmp_path / "plain")
    assert not (tmp_path / "plain" / "crypsis_chat.json").exists()


@pytest.mark.parametrize(
    "chat", [GEMMA_CHAT, "{% for m in messages if m['role'] != 'system' %}<|head|>{{ m['content'] }}{% endfor %}"]
)
def test_a_prompted_organism_keeps_its_prompt_in_templates_without_system_turn(chat: str, tmp_path: Path) -> None:
    policy = load_policy(checkpoint(tmp_path / "m", chat))
    Prompted(system="you are proud").train(policy, tmp_path, lambda _: None)
    save_policy(policy, tmp_path / "organism")
    for told in (policy, load_policy(tmp_path / "organism")):
        text = told.text(TURNS)
        assert text.index("you are proud") < text.index("you are read") < text.index("burn the mill")
