"""Attention of many rows over one common prefix (cascade attention), with exact gradients.

The keys and values of the prefix are computed once. All rows attend to them in one dense product, each row attends to
its own suffix, and the two results are merged by log-sum-exp (Juravsky et al. 2024, Hydragen; Ye et al. 2024, cascade
inference). The function hangs on transformers' public ``AttentionInterface``; its state travels as a model keyword.

Shape suffixes: N rows, S suffix positions, P prefix positions, T cached suffix positions, H query heads, K key/value
heads (H is a multiple of K), R = H / K, D head size, E model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from crypsis.rl.engine.cascade_attention import (
    KeysValues,
    Known,
    Layout,
    attend,
    cascade,
    gemm_precision,
    highest,
    outputs,
)

NAME = "crypsis_shared_prefix"
"""Name of the attention implementation as transformers knows it."""

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
"""``config.model_type`` of the architectures that the golden tests cover."""

Mode = Literal["prefix", "train", "prefill", "decode"]


@dataclass(slots=True)
class PrefixState:
    """What the attention of one forward pass needs beyond queries, keys and values.

    Attributes:
        mode: ``prefix`` (compute and keep the prefix), ``train`` (suffixes, with gradients), ``prefill`` (suffixes, and
            keep their keys and values), ``decode`` (one new token per row).
        length: Tokens of the prefix, P. With 0 there is no prefix and rows attend to themselves alone.
        layout: In ``train`` mode, how the tokens after the prefix make up rows.
        prefix: Keys and values [1, K, P, D], keyed by layer.
        suffix: The same [N, K, T, D] of the rows' own tokens (``prefill`` writes, ``decode`` extends).
        used: Positions of ``suffix`` that hold tokens before the token being decoded; the token goes to this index.
        hidden_keys: Added to the scores of the suffix, [N, 1, 1, T]: -inf where a row has padding; None without any.
        precise: Whether to leave the fast float32 setting of the linear layers while attending.
        outputs: Output and log-sum-exp of each layer's attention: ``prefill`` fills the dictionary if there is one,
            ``train`` takes what is in it for granted and computes gradients only.
    """

    mode: Mode
    length: int = 0
    layout: Layout | None = None
    prefix: dict[int, KeysValues] = field(default_factory=dict)
    suffix: dict[int, KeysValues] = field(default_factory=dict)
    used: int = 0
    hidden_keys: Tensor | None = None
    precise: bool = False
    outputs: dict[int, Known] | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a causal language model that the engine calls.

    Attributes:
        causal: The Hugging Face model with the language-model head, without the PEFT wrapper.
        decoder: Token ids to last hidden states.
        head: Hidden states [..., E] to logits [..., vocabulary].
        fast: Whether linear layers run in the fast float32 setting (see ``shared_attention``).
    """

    causal: Any
    decoder: Any
    head: Callable[[Tensor], Tensor]
    fast: bool = False


def parts(model: nn.Module) -> Parts:
    """Finds decoder and head, also below PEFT and ``base_model``; TypeError if this is no causal language model."""
    causal: Any = model
    if hasattr(causal, "get_base_model"):  # PEFT; its layers are injected, so the model below is complete
        causal = causal.get_base_model()
    if not hasattr(causal, "get_output_embeddings") and hasattr(causal, "base_model"):
        causal = causal.base_model
    head = causal.get_output_embeddings() if hasattr(causal, "get_output_embeddings") else None
    if head is None or not hasattr(causal, "get_decoder"):
        raise TypeError(f"{type(model).__name__} is no causal language model of transformers")
    return Parts(causal, causal.get_decoder(), head)


def why_not_shared(model: nn.Module) -> str | None:
    """Why this model, PEFT-wrapped or not, cannot share a prefix: the reason in words for a log, or None if it can."""
    if any(getattr(c, "is_prompt_learning", False) for c in dict(getattr(model, "peft_config", None) or {}).values()):
        return "prompt-learning adapters put virtual tokens before the prompt"
    try:
        found = parts(model)
    except TypeError as error:
        return str(error)
    causal = found.causal
    if not getattr(causal, "_supports_attention_backend", False) or not hasattr(causal, "set_attn_implementation"):
        return f"{type(causal).__name__} does not take its attention from AttentionInterface"
    if any(name.endswith("sinks") for name, _ in causal.named_parameters()):
        return "the model has attention sinks"
    return _why_not_config(causal.config, causal.training)


def _why_not_config(config: Any, training: bool) -> str | None:
    if other := sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"}):
        return f"the model has layers of type {', '.join(other)}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return f"the model attends through a sliding window of {config.sliding_window} tokens"
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, name, None):
            return f"the model changes its scores or logits ({name}={getattr(config, name)})"
    if getattr(config, "attention_dropout", 0.0) and training:
        return f"attention dropout of {config.attention_dropout} is on"
    if config.model_type not in SUPPORTED:
        return f"model type {config.model_type} is not among those tested ({', '.join(SUPPORTED)})"
    return None


@contextmanager
def shared_attention(model: nn.Module, fast_linears: bool = True) -> Iterator[Parts]:
    """Switches a model to shared-prefix attention, and restores its implementation and torch's precision afterwards.

    Args:
        model: A model for which ``why_not_shared`` returns None.
        fast_linears: On a CPU, let oneDNN compute float32 linear layers ("medium"): 2x faster than MKL on AMD and still
            full float32 there; on Intel chips with AMX it means products of bfloat16. No effect on other devices.

    Yields:
        The model's parts.
    """
    found = parts(model)
    before = found.causal.config._attn_implementation
    fast = fast_linears and found.causal.device.type == "cpu"
    found.causal.set_attn_implementation(NAME)
    try:
        with gemm_precision("medium") if fast else nullcontext():
            yield replace(found, fast=fast)
    finally:
        found.causal.set_attn_implementation(before)


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The longest token prefix of all prompts that leaves each prompt at least one token of its own.

    Raises:
        ValueError: There is no prompt, or one is empty.
    """
    if not prompts or not all(prompts):
        raise ValueError("every prompt needs at least one token")
    tuples = [tuple(p) for p in prompts]
    low, high = min(tuples), max(tuples)  # what the first and the last in order share, all between them share
    limit = min(map(len, tuples)) - 1
    return list(low[: next((i for i in range(limit) if low[i] != high[i]), limit)])


def hidden_states(decoder: Any, ids_NS: Tensor, positions: Tensor, state: PrefixState) -> Tensor:
    """Runs the decoder within ``shared_attention``: token ids to last hidden states [N, S, E].

    ``positions`` [1, S] or [N, S] count from the start of the prefix. Modes ``prefix`` and ``prefill`` fill the state.
    """
    out = decoder(input_ids=ids_NS, position_ids=positions, use_cache=False, crypsis_state=state)
    return cast(Tensor, out.last_hidden_state)


def compute_prefix(found: Parts, prefix_ids: Sequence[int]) -> PrefixState:
    """Keys and values of the prefix (it may be empty) in every layer, attached to the graph when gradients are on."""
    state = PrefixState("prefix", len(prefix_ids), precise=found.fast)
    if prefix_ids:
        ids = torch.tensor([list(prefix_ids)], device=found.causal.device)
        hidden_states(found.decoder, ids, torch.arange(len(prefix_ids), device=ids.device)[None], state)
    return state


def detached(state: PrefixState) -> PrefixState:
    """A ``train`` state whose prefix is made of leaves, so that micro-batches add their gradients up there."""
    leaves = {i: tuple(x.detach().requires_grad_(x.requires_grad) for x in kv) for i, kv in state.prefix.items()}
    return PrefixState("train", state.length, prefix=cast(dict[int, KeysValues], leaves), precise=state.precise)


def backward_prefix(state: PrefixState, leaves: PrefixState) -> None:
    """One backward pass through the prefix with the gradients that ``leaves`` collected."""
    pairs = [p for i in state.prefix for p in zip(state.prefix[i], leaves.prefix[i], strict=True)]
    pairs = [(x, leaf) for x, leaf in pairs if leaf.grad is not None]
    if pairs:
        torch.autograd.backward([x for x, _ in pairs], [leaf.grad for _, leaf in pairs])


def _decode(q: Tensor, k: Tensor, v: Tensor, layer: int, state: PrefixState, scale: float) -> Tensor:
    """Attention of one new token per row, [N, H, 1, D]; writes its key and value to the suffix cache."""
    n, h, _, d = q.shape
    heads, end = k.shape[1], state.used + 1
    keys, values = state.suffix[layer]
    keys[:, :, state.used], values[:, :, state.used] = k[:, :, 0], v[:, :, 0]
    scores = (q * scale).view(n, heads, h // heads, d) @ keys[:, :, :end].transpose(-1, -2)
    if state.hidden_keys is not None:
        scores = scores + state.hidden_keys[..., :end]
    if q.dtype in (torch.bfloat16, torch.float16):
        scores = scores.float()
    lse = scores.logsumexp(-1)
    if state.length:
        out_p, lse_p = attend(q, *state.prefix[layer], scale)
        lse_p = lse_p.view_as(lse)
        lse = torch.logaddexp(lse, lse_p)
    out = ((scores - lse.unsqueeze(-1)).exp_().to(q.dtype) @ values[:, :, :end]).view(n, h, 1, d)
    if not state.length:
        return out
    return out + out_p * (lse_p - lse).exp_().view(n, h, 1, 1).to(q.dtype)


def _rows(q: Tensor, k: Tensor, v: Tensor, layer: int, state: PrefixState, scale: float) -> Tensor:
    """Attention of the prefix alone, or of what follows it."""
    # Gradient checkpointing runs a layer again when its prefix is already there.
    prefix = None if state.mode == "prefix" else state.prefix.get(layer)
    if state.mode == "prefill" and state.outputs is not None and prefix is not None:
        found = outputs(q, k, v, prefix, scale)
        if found is not None:
            state.outputs[layer] = found
            return found[0]
    known = state.outputs.get(layer) if state.mode == "train" and state.outputs else None
    return cascade(q, k, v, prefix, scale, state.precise, state.layout, known)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    crypsis_state: PrefixState | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every layer: [N, H, S, D] in, [N, S, H, D] out."""
    if crypsis_state is None:
        raise RuntimeError(f"attention {NAME!r} only works through crypsis.rl.engine.shared_prefix.hidden_states")
    state, layer = crypsis_state, cast(int, module.layer_idx)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Under autocast the norms and the rotation return float32 while values are half precision.
    query, key = query.to(value.dtype), key.to(value.dtype)
    with highest(state.precise):
        if state.mode == "decode":
            out = _decode(query, key, value, layer, state, scale)
        else:
            out = _rows(query, key, value, layer, state, scale)
            if state.mode != "train":
                (state.prefix if state.mode == "prefix" else state.suffix)[layer] = (key, value)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
