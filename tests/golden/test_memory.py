"""What the engine holds in memory: no tensor of all logits, one layer's activations, and what the estimate says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from transformers import GraniteConfig, LlamaConfig, PreTrainedModel
from transformers.models.granite.modeling_granite import GraniteForCausalLM
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from crypsis.model_config import LoraConfig
from crypsis.models import Policy, _checkpoint_activations
from crypsis.pretrained import logprobs
from crypsis.pretrained.adapters import with_lora
from crypsis.pretrained.head import head_of
from crypsis.rl.engine import memory
from crypsis.rl.engine.engine import DEFAULT
from crypsis.rl.engine.samplers import SamplingParams
from crypsis.rl.engine.scoring import TrainRow, token_logprobs
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.learner import Learner
from crypsis.rl.loss import accumulate_gradients
from crypsis.run_config import RLConfig
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


LORA = LoraConfig(r=4, alpha=8)


def policy_of(lora: bool, checkpointing: bool, low: bool) -> Policy:
    """A random model with activations that outweigh its weights."""
    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 4, "head_dim": 32}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024}
    torch.manual_seed(0)
    made = cast(PreTrainedModel, LlamaForCausalLM(LlamaConfig(**shape)).eval())
    if lora:
        made = with_lora((made.bfloat16() if low else made).requires_grad_(False), "x", LORA)
    if checkpointing:
        _checkpoint_activations(made, "x")
    return Policy(made, cast(Any, None), autocast=torch.bfloat16 if low and not lora else None)


@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_estimate_is_within_a_fifth_of_what_tensors_hold(lora: bool, checkpointing: bool, low: bool) -> None:
    policy = policy_of(lora, checkpointing, low)
    rl = RLConfig(prompts_per_step=2, group_size=8, max_new_tokens=48)
    start = list(range(5, 105))
    prompts = [[*start, *range(200 + i, 208 + i)] for i in range(2)]
    expected = sum(memory.estimate(policy, rl, prompts, checkpointing).values())
    learner = Learner(policy, rl)
    with PeakBytes() as counted:
        for step in range(2):  # moments are there from the second one on
            params = SamplingParams(8, 48, [], seed=step)
            with policy.computing():
                sampled = DEFAULT.sampler(policy.model)(policy.model, prompts, params)
            rows = [TrainRow(prompts[i // 8], s.ids, [1] * len(s.ids), 1.0 - i % 2 * 2) for i, s in enumerate(sampled)]
            learner.learn(rows, "test", PhaseTimer())
    print(f"{expected / 1e6:.1f} MB estimated, {counted.peak / 1e6:.1f} measured")
    assert expected == pytest.approx(counted.peak, rel=0.2)
