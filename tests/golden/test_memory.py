"""What the engine holds in memory: no tensor of all logits, one layer's activations, and what the estimate says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from transformers import GraniteConfig, LlamaConfig, PreTrainedModel
from transformers.models.granite.modeling_granite import GraniteForCausalLM
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from crypsis.pretrained import logprobs
from crypsis.pretrained.head import head_of
from crypsis.rl.engine.scoring import TrainRow, token_logprobs
from crypsis.rl.loss import accumulate_gradients
from crypsis.supervised import Example, summed_loss
from tests.allocations import PeakBytes

pytestmark = pytest.mark.golden

VOCABULARY, TOKENS = 32_768, 512
AT_ONCE = 2**20
"""Logits per chunk: 4 MB in float32, where all of them are 64 MB."""


def model(kind: str) -> PreTrainedModel:
    """Narrow, with many words."""
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    shape |= {"num_key_value_heads": 1, "vocab_size": VOCABULARY}
    torch.manual_seed(0)
    if kind == "granite":
        return cast(PreTrainedModel, GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=4.0)).eval())
    return cast(PreTrainedModel, LlamaForCausalLM(LlamaConfig(**shape)).eval())


ROWS = [TrainRow([3, 4, 5, 6 + i], list(range(9, 9 + TOKENS // 8)), [1] * (TOKENS // 8), 1.0) for i in range(8)]
EXAMPLES = [Example(r.prompt_ids + r.completion_ids, [0] * 4 + [1] * len(r.completion_ids)) for r in ROWS]
WORK: dict[str, tuple[str, Callable[[PreTrainedModel], object]]] = {
    "policy, shared": ("llama", lambda m: accumulate_gradients(m, ROWS)),
    "policy, padded": ("llama", lambda m: accumulate_gradients(m, ROWS, form="padded")),
    "policy, scaled logits": ("granite", lambda m: accumulate_gradients(m, ROWS, form="padded")),
    "scoring": ("llama", lambda m: token_logprobs(m, ROWS)),
    "supervised": ("llama", lambda m: summed_loss(m, EXAMPLES, head_of(m)).backward()),
    "supervised, scaled logits": ("granite", lambda m: summed_loss(m, EXAMPLES, head_of(m)).backward()),
}


@pytest.mark.parametrize("what", WORK)
def test_all_logits_are_never_in_memory(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", AT_ONCE)
    kind, work = WORK[what]
    made = model(kind)
    work(made)  # what is computed once for each type, and gradients, do not count
    with PeakBytes() as counted:
        work(made)
    weights = 4 * VOCABULARY * 16
    assert counted.largest <= max(weights, 4 * AT_ONCE)
    assert counted.peak < 4 * TOKENS * VOCABULARY / 2
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 2**30)
    with PeakBytes() as whole:
        work(made)
    assert whole.largest >= 4 * TOKENS * VOCABULARY * 0.9  # so the counter sees logits where there are any
