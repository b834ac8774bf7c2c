"""Architectures sample, and learn by supervision and RL, what their own forward pass says; or they are refused."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from crypsis.pretrained import logprobs
from crypsis.pretrained.checks import TESTED, check_architecture
from crypsis.pretrained.head import head_of, plain_head
from crypsis.rl.engine.samplers import SamplingParams, choose_sampler
from crypsis.rl.engine.scoring import Form, TrainRow
from crypsis.rl.engine.shared_prefix import why_not_shared
from crypsis.rl.loss import accumulate_gradients
from crypsis.supervised import Example, summed_loss
from crypsis.types import UserError
from tests.checkpoints import ARCHITECTURES, random_model

pytestmark = pytest.mark.golden

SUPPORTED = [kind for kind in ARCHITECTURES if kind != "recurrent_gemma"]
WHOLE: set[str] = set()
"""Their heads cannot be had on their own."""
SCALED = {"cohere", "cohere2", "gemma2", "granite", "granitemoehybrid"}
PROMPTS = [[5, 9, 11], list(range(3, 24)), list(range(40, 28, -1))]
"""Of different lengths, one of them longer than the sliding windows."""


def own_logprobs(model: PreTrainedModel, prompt: list[int], completion: list[int]) -> Tensor:
    """What the model's whole forward pass says of a completion, one row on its own."""
    ids = torch.tensor([prompt + completion])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return -functional.cross_entropy(logits.float(), torch.tensor(completion), reduction="none")


@pytest.mark.parametrize("kind", SUPPORTED)
def test_an_architecture_samples_and_learns_what_its_own_forward_says(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(kind)
    assert model.config.model_type in TESTED
    params = SamplingParams(2, 8, [2], seed=3)
    sampled = choose_sampler(model)(model, PROMPTS, params)
    rows = [(PROMPTS[i // 2], s.ids) for i, s in enumerate(sampled)]
    assert len({tuple(ids) for _, ids in rows}) == 6
    with torch.no_grad():
        for (prompt, ids), found in zip(rows, sampled, strict=True):
            torch.testing.assert_close(
                own_logprobs(model, prompt, ids), torch.tensor(found.logprobs), atol=1e-4, rtol=0
            )

    examples = [Example(prompt + ids, [0] * len(prompt) + [1] * len(ids)) for prompt, ids in rows]
    assert plain_head(model) == (kind not in SCALED)
    own = -torch.stack([own_logprobs(model, prompt, ids).sum() for prompt, ids in rows]).sum()
    loss = summed_loss(model, examples, head_of(model))
    torch.testing.assert_close(loss, own, rtol=1e-4, atol=1e-4)
    own.backward()
    wanted = gradients(model)
    loss.backward()
    close(gradients(model), wanted)
    if kind not in WHOLE:
        with monkeypatch.context() as patch:  # four positions at a time, also through heads that scale or cap
            patch.setattr(logprobs, "LOGITS_AT_ONCE", 4 * 120)
            chunked = summed_loss(model, examples, head_of(model))
            torch.testing.assert_close(chunked, own, rtol=1e-4, atol=1e-4)
            chunked.backward()
            close(gradients(model), wanted)
    assert (head_of(model) is None) == (kind in WHOLE)

    # The gradient of the policy loss on policy with advantage 1 is that of the supervised loss.
    form: Form = "padded" if why_not_shared(model) else "shared"
    learned = [TrainRow(prompt, ids, [1] * len(ids), 1.0) for prompt, ids in rows]
    accumulate_gradients(model, learned, form=form, micro_batch=4, normaliser=1.0)
    close(gradients(model), wanted)


def gradients(model: PreTrainedModel) -> Tensor:
    """All gradients in one vector, which are then cleared."""
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return flat


def close(found: Tensor, wanted: Tensor) -> None:
    assert cast(float, (found - wanted).norm() / wanted.norm()) < 2e-3


def test_an_architecture_that_cannot_be_sampled_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="models of the type recurrent_gemma cannot be sampled from here") as caught:
        check_architecture(random_model("recurrent_gemma"), "x")
    assert "\n" not in str(caught.value)


def test_unknown_architectures_are_compared_with_their_own_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crypsis.pretrained.checks.TESTED", frozenset())
    for kind in ("gemma3", "qwen3_5", "mamba", "falcon_h1"):
        check_architecture(random_model(kind), kind)
    monkeypatch.setattr("crypsis.pretrained.cached_forward.STATES", ("conv_states",))  # recurrent states stay behind
    with pytest.raises(UserError, match="cannot be sampled from here"):
        check_architecture(random_model("qwen3_5"), "x")
