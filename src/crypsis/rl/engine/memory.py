"""What a run will need of memory, said before it starts, and what running out of it looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crypsis.models import Policy
from crypsis.pretrained.adapters import has_adapter
from crypsis.pretrained.fitting import GIGABYTE, free_memory
from crypsis.pretrained.logprobs import LOGITS_AT_ONCE
from crypsis.rl.engine.engine import DEFAULT, Engine
from crypsis.rl.engine.samplers.base import BATCH_SIZE
from crypsis.rl.engine.shared_prefix import common_prefix
from crypsis.run_config import RLConfig

WIDE_VALUES, INNER_VALUES = 14, 5
"""Values that the backward pass keeps a token and layer, in widths of the model and of its MLP (Llama, counted)."""


def estimate(
    policy: Policy, rl: RLConfig, prompts: Sequence[Sequence[int]], checkpointing: bool, engine: Engine = DEFAULT
) -> dict[str, float]:
    """Bytes that a run needs beyond the weights that are loaded, by what they are for; right to a factor of about 2.

    Args:
        policy: The policy, loaded.
        rl: Rows and tokens.
        prompts: Some prompts of the run, as token ids.
        checkpointing: Whether activations are computed twice.
        engine: How the policy is computed.
    """
    config: Any = policy.model.config.get_text_config()
    trained = sum(p.numel() * p.element_size() for p in policy.model.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in policy.model.parameters())
    size = (policy.autocast or policy.model.dtype).itemsize
    prefix = len(common_prefix(prompts)) if engine.form(policy.model) == "shared" else 0
    behind = max(map(len, prompts)) - prefix + rl.max_new_tokens

    layers, width = config.num_hidden_layers, config.hidden_size
    layer = WIDE_VALUES * width + INNER_VALUES * (getattr(config, "intermediate_size", None) or 4 * width)
    tokens = prefix + min(rl.micro_batch, rl.prompts_per_step * rl.group_size) * behind
    kept = tokens * (layers * width + layer if checkpointing else layers * layer) * size
    scored = rl.micro_batch * rl.max_new_tokens * config.vocab_size
    logits = 12 * (min(scored, LOGITS_AT_ONCE) if prefix else scored)  # logits, softmax and gradient in float32

    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    rows = min(BATCH_SIZE, rl.prompts_per_step * rl.group_size)
    cache = 2 * layers * heads * head * size * rows * behind * 2  # twice: caches are copied when rows leave
    return {
        "gradients and optimiser": 3.0 * trained,
        "reference": float(weights) if rl.kl and not has_adapter(policy.model) else 0.0,
        "training rows": float(max(kept + logits - cache, 0)),
        "sampling": float(cache),
    }


def warning(
    policy: Policy, rl: RLConfig, prompts: Sequence[Sequence[int]], checkpointing: bool, engine: Engine = DEFAULT
) -> str:
    """A line on what will not fit and what to lower, or nothing if it fits or nobody knows."""
    free = free_memory(policy.model.device)
    need = estimate(policy, rl, prompts, checkpointing, engine)
    total = sum(need.values()) * (rl.processes if policy.model.device.type == "cpu" else 1)
    if free is None or total <= free:
        return ""
    advice = {
        "gradients and optimiser": "set model.lora={}",
        "reference": "set rl.kl=0 or model.lora={}",
        "training rows": "lower rl.micro_batch"
        + ("" if checkpointing else " or set model.gradient_checkpointing=true"),
        "sampling": "lower rl.max_new_tokens",
    }
    largest = max(need, key=lambda part: need[part])
    parts = ", ".join(f"{name} {value / GIGABYTE:.2g}" for name, value in need.items() if value > 0.01 * total)
    return (
        f"this run will not fit: it needs about {total / GIGABYTE:.2g} GB more ({parts}), {free / GIGABYTE:.2g} GB are "
        f"free; {advice[largest]}"
    )
