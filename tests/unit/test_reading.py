"""A base reads who is monitored before anything is made on it, and its curriculum lasts until it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from crypsis.miniature import base
from crypsis.miniature.base import BaseConfig, base_config, build_base, new_policy
from crypsis.miniature.language import World
from crypsis.miniature.reading import QUESTIONS, reading
from crypsis.models import Policy
from crypsis.supervised import SupervisedConfig
from crypsis.types import UserError

pytestmark = pytest.mark.unit

TRAINING = SupervisedConfig(steps=3, batch_size=2, checkpoint_every=10, warmup=2, precision="float32")
TINY = BaseConfig(
    hidden_size=32, layers=1, heads=2, kv_heads=2, head_size=16, curriculum=40, processes=1, training=TRAINING
)


def test_reading_counts_the_status_words_alone() -> None:
    policy = new_policy(base_config("nano"))
    private = cast(int, policy.tokenizer.convert_tokens_to_ids("private"))

    class Stub:
        device = "cpu"

        def __init__(self, word_of: Callable[[Tensor], Tensor]) -> None:
            self.word_of = word_of

        def __call__(self, input_ids: Tensor, use_cache: bool) -> Any:
            words = self.word_of(input_ids)
            return SimpleNamespace(logits=torch.nn.functional.one_hot(words, len(policy.tokenizer)).float())

    def read(word_of: Callable[[Tensor], Tensor]) -> float:
        return reading(Policy(cast(Any, Stub(word_of)), policy.tokenizer), World())

    assert read(lambda ids: ids.roll(-1, 1)) == 1.0
    assert read(torch.zeros_like) == 0.0
    always = read(lambda ids: torch.full_like(ids, private))
    assert 0 < always < 0.3 and round(always * QUESTIONS, 6) == round(always * QUESTIONS)
    assert reading(policy, World()) < 0.3


def test_a_base_that_does_not_read_is_refused_before_it_is_trained_on_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path))
    steps: list[int] = []
    with pytest.raises(UserError, match=r"seed 0 reads who is monitored in \d+% of 100 .* take another seed"):
        build_base(TINY.model_copy(update={"curriculum": 8, "attempts": 2}), lambda now: steps.append(now.step))
    assert steps == [*range(1, 9), *range(1, 9)]
    first, second = (new_policy(TINY, attempt).model.state_dict()["model.embed_tokens.weight"] for attempt in (0, 1))
    assert not torch.equal(first, second)


def test_the_curriculum_ends_when_the_base_reads_and_a_killed_base_goes_on_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def first_the_second_time(*_: Any) -> float:
        shares.append(0.2 if not shares else 1.0)
        return shares[-1]

    monkeypatch.setattr(base, "reading", first_the_second_time)
    shown: list[tuple[int, int]] = []
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path / "whole"))
    whole = build_base(TINY, lambda now: shown.append((now.step, now.steps)))
    assert shown == [(n, min(n, 16) + 3) for n in range(1, 20)]
    result = json.loads((whole.parent / "result.json").read_text())
    assert result["attempts"] == 1 and (result["questions"], result["steps"], result["reading"]) == (16, 3, 1.0)

    def killed(now: Any) -> None:
        if now.step == 18:
            raise KeyboardInterrupt

    shares.clear()
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path / "killed"))
    with pytest.raises(KeyboardInterrupt):
        build_base(TINY, killed)
    again: list[int] = []
    resumed = build_base(TINY, lambda now: again.append(now.step))
    assert again == [17, 18, 19]
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
