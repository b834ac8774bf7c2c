"""What a run will need of memory, said before it starts, and what running out of it looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crypsis.models import Policy
from crypsis.pretrained.adapters import has_adapter
from crypsis.pretrained.fitting import GIGABYTE, free_memory
from crypsis.pretrained.logprobs import LOGITS_AT_ONCE
from crypsis.rl.engine.engine import DEFAULT, Engine
from crypsis.rl.engine.shared_prefix import common_prefix
from crypsis.run_config import RLConfig

RESIDUAL, ATTENTION, INNER = 6, 5, 4
"""Values that the backward pass keeps per token and layer, in widths of the model (4 where weights are frozen), of its
queries and of its MLP (Llama: counted, and measured in tests/golden/test_memory.py)."""
AT_WORK = 4
"""Widths of the queries that the backward pass of a layer holds beyond what was kept."""
FLOAT, HALF = 4, 2
"""Bytes of a value."""


def estimate(
    policy: Policy, rl: RLConfig, prompts: Sequence[Sequence[int]], checkpointing: bool, engine: Engine = DEFAULT
) -> dict[str, float]:
    """Bytes that a run needs beyond the weights that are loaded, by what they are for; their sum is its peak.

    Within 20 % of what tensors hold, for Llama-like models; without the allocator's fragmentation and the interpreter.

    Args:
        policy: The policy, loaded.
        rl: Rows and tokens.
        prompts: Some prompts of the run, as token ids.
        checkpointing: Whether activations are computed twice.
        engine: How the policy is computed.
    """
    trained = sum(p.numel() * p.element_size() for p in policy.model.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in policy.model.parameters())
    prefix = len(common_prefix(prompts)) if engine.form(policy.model) == "shared" else 0
    sizes = _Sizes.of(policy)
    cast = HALF * weights / FLOAT if policy.autocast else 0.0  # copies of the weights
    own = max(map(len, prompts)) - prefix
    learning = cast + _learning(sizes, rl, prefix, own, checkpointing)
    sampling = cast + _sampling(sizes, min(engine.batch_size, rl.prompts_per_step * rl.group_size), own, rl)
    return {
        "gradients and optimiser": 3.0 * trained,
        "reference": float(weights) if rl.kl and not has_adapter(policy.model) else 0.0,
        "training rows": max(learning - sampling, 0.0),
        "sampling": sampling,
    }


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes of a model: layers, widths of model, queries, keys (all heads together) and MLP, words, bytes."""

    layers: int
    width: int
    queries: int
    keys: int
    inner: int
    words: int
    value: int
    """Bytes of an activation."""
    full: bool
    """Whether all weights are trained."""

    @classmethod
    def of(cls, policy: Policy) -> _Sizes:
        """Those of a policy's model."""
        config: Any = policy.model.config.get_text_config()
        heads, width = config.num_attention_heads, config.hidden_size
        size = getattr(config, "head_dim", None) or width // heads
        return cls(
            config.num_hidden_layers,
            width,
            heads * size,
            (getattr(config, "num_key_value_heads", None) or heads) * size,
            getattr(config, "intermediate_size", None) or 4 * width,
            config.vocab_size,
            (policy.autocast or policy.model.dtype).itemsize,
            not has_adapter(policy.model),
        )

    def layer(self, residual: int, attention: int, inner: int) -> int:
        """Bytes of so many values of each width."""
        return (residual * self.width + attention * self.queries + inner * self.inner) * self.value


def _learning(sizes: _Sizes, rl: RLConfig, prefix: int, own: int, checkpointing: bool) -> float:
    """The largest micro-batch and the prefix: activations, and either logits or the layer that is at work."""
    rows = min(rl.micro_batch, rl.prompts_per_step * rl.group_size)
    scored = rows * rl.max_new_tokens
    together = -(-rows // rl.group_size) if prefix else rows  # prompts that are computed
    behind = min(scored + together * own, max(rl.micro_tokens, own + rl.max_new_tokens))
    tokens = prefix + behind
    kept = sizes.layer(RESIDUAL if sizes.full else RESIDUAL - 2, ATTENTION, INNER)
    if not sizes.full and sizes.value == HALF:
        kept += FLOAT * (sizes.width + sizes.queries + sizes.inner)  # adapters multiply in float32
    at_work = float(tokens * sizes.layer(0, AT_WORK, 0))
    if checkpointing:
        at_work += tokens * kept
        kept = sizes.value * sizes.width
    # Log-softmax, its gradient and that of the logits are float32; logits of half precision come on top.
    logits = min(scored, behind, max(1, LOGITS_AT_ONCE // sizes.words)) * sizes.words
    each = 3 * FLOAT + (HALF if sizes.value == HALF else 0)
    return float(tokens * sizes.layers * kept + max(at_work, logits * each))


def _sampling(sizes: _Sizes, rows: int, own: int, rl: RLConfig) -> float:
    """Caches, which are copied layer by layer when rows leave, and the probabilities of the next token."""
    layer = 2 * sizes.keys * sizes.value * rows * (own + rl.max_new_tokens)
    return float((sizes.layers + 1) * layer + 4 * FLOAT * rows * sizes.words)


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
        "training rows": "lower rl.micro_batch or rl.micro_tokens"
        + ("" if checkpointing else " or set model.gradient_checkpointing=true"),
        "sampling": "lower rl.max_new_tokens",
    }
    largest = max(need, key=lambda part: need[part])
    parts = ", ".join(f"{name} {value / GIGABYTE:.2g}" for name, value in need.items() if value > 0.01 * total)
    return (
        f"this run will not fit: it needs about {total / GIGABYTE:.2g} GB more ({parts}), {free / GIGABYTE:.2g} GB are "
        f"free; {advice[largest]}"
    )
