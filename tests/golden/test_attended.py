"""A learner that is given what attention gave to the sampler computes the gradients of one that attends anew.

Everything is float64, as in ``test_engine_exact``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crypsis.rl.engine import cascade_attention as cascade
from crypsis.rl.engine.attention_cache import AttentionCache
from crypsis.rl.engine.samplers import SamplingParams, block_cache, fused_decoder, padded
from crypsis.rl.engine.samplers import shared_prefix as shared
from crypsis.rl.engine.scoring import TrainRow
from tests.golden.test_engine_exact import (  # noqa: F401
    VARIANTS,
    assert_close,
    assert_stats,
    build,
    float64_norms,
    gradients,
    ragged_prompts,
)

pytestmark = pytest.mark.golden


def sampled_rows(model: nn.Module, attention_cache: AttentionCache | None, **settings: Any) -> list[TrainRow]:
    """On-policy rows of ragged lengths, of which the first prompt's have no advantage and many tokens do not learn."""
    prompts = ragged_prompts()
    options: dict[str, Any] = {"samples_per_prompt": 3, "max_new_tokens": 40, "stop_ids": [1, 2, 4, 5], "seed": 3}
    found = shared.sample(model, prompts, SamplingParams(**options | settings), attention_cache=attention_cache)
    return [
        TrainRow(prompts[i // 3], s.ids, [(i + t) % 3 != 0 for t in range(len(s.ids))], float(i - 5) * (i > 2))
        for i, s in enumerate(found)
    ]


@pytest.fixture
def attentions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry with every attention that is computed forward."""
    computed: list[int] = []
    flash = cascade._flash

    def counted(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        computed.append(q.shape[2])
        return flash(q, *rest)

    monkeypatch.setattr(cascade, "_flash", counted)
    return computed


@pytest.mark.parametrize(("kind", "kv_heads", "tied"), VARIANTS)
@pytest.mark.parametrize("long_prefix", [1, 1000])
def test_gradients_are_the_same(
    kind: str, kv_heads: int, tied: bool, long_prefix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_cache, "LONG_PREFIX", long_prefix)
    model = build(kind, kv_heads, tied)
    attention_cache = AttentionCache(model)
    rows = sampled_rows(model, attention_cache, batch_size=7)
    assert len({len(row.completion_ids) for row in rows}) > 4  # rows finish at all lengths and leave the batch
    for micro_batch in (2, 32):
        stats, expected = gradients(model, rows, micro_batch=micro_batch)
        found_stats, found = gradients(model, rows, micro_batch=micro_batch, attention_cache=attention_cache)
        assert_stats(found_stats, stats)
        assert_close(found, expected)


def test_attention_is_not_computed_again(attentions: list[int]) -> None:
    model = build("qwen3")
    attention_cache = AttentionCache(model)
    rows = sampled_rows(model, attention_cache)
    attentions.clear()
    gradients(model, rows, attention_cache=attention_cache)
    assert not attentions  # the prefix attends to itself by another way
    gradients(model, rows)
    assert len(attentions) == 4  # two layers, to the prefix and among the rows


def test_what_is_not_known_is_computed(attentions: list[int]) -> None:
    model = build("qwen3")
    attention_cache = AttentionCache(model)
    rows = sampled_rows(model, attention_cache)
    strange = [*rows[:-1], replace(rows[-1], completion_ids=[7] * len(rows[-1].completion_ids))]
    expected = gradients(model, strange, micro_batch=4)[1]
    attentions.clear()
    found = gradients(model, strange, micro_batch=4, attention_cache=attention_cache)[1]
    assert_close(found, expected)
    assert len(attentions) == 4  # of the last of three micro-batches alone


def test_changed_weights_are_noticed() -> None:
    model = build("qwen3")
    attention_cache = AttentionCache(model)
    rows = sampled_rows(model, attention_cache)
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    assert_close(gradients(model, rows, attention_cache=attention_cache)[1], gradients(model, rows)[1])
    sampled_rows(model, attention_cache, seed=4)
    assert attention_cache.find([(rows[0].prompt_ids, rows[0].completion_ids)], 19, [1]) is None  # of the old weights


def test_samplers_that_cannot_tell_leave_it_to_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = build("qwen3"), ragged_prompts()
    options: dict[str, Any] = {"samples_per_prompt": 1, "max_new_tokens": 5, "stop_ids": [], "seed": 3}
    attention_cache = AttentionCache(model)
    padded.sample(model, prompts, SamplingParams(**options), attention_cache=attention_cache)
    monkeypatch.setattr(fused_decoder, "MOST_PARAMETERS", 0)
    rows = sampled_rows(model, attention_cache)
    assert attention_cache.find([(rows[0].prompt_ids, rows[0].completion_ids)], 19, [1]) is None
    assert_close(gradients(model, rows, attention_cache=attention_cache)[1], gradients(model, rows)[1])


def test_rows_that_share_more_than_all_that_were_sampled(attentions: list[int]) -> None:
    model = build("qwen3")
    attention_cache = AttentionCache(model)
    rows = sampled_rows(model, attention_cache)[-3:]  # one prompt: its tokens are all common but the last
    stats, expected = gradients(model, rows)
    attentions.clear()
    found_stats, found = gradients(model, rows, attention_cache=attention_cache)
    assert found_stats.prefix_tokens == stats.prefix_tokens == len(rows[0].prompt_ids) - 1
    assert_close(found, expected)
    assert not attentions
