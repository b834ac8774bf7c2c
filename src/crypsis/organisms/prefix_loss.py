"""The loss of texts that begin alike, their common beginning computed once: the system text of one setting.

Shape suffixes: N rows of a batch, S positions after the common beginning, D model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from crypsis.pretrained.head import Head
from crypsis.pretrained.logprobs import selected_logprobs
from crypsis.supervised import IGNORE, Example, pad_batch, summed_loss

SHORTEST = 16
"""Tokens of a common beginning that are worth a pass of their own."""
SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
"""``config.model_type`` of the architectures that the test covers."""


def prefix_loss(model: PreTrainedModel, examples: Sequence[Example], head: Head | None) -> Tensor:
    """Sum of the loss over the learned tokens, as ``summed_loss`` computes it; gradients reach the common beginning.

    Keys and values of the beginning go through the model's own cache. Models that attend through a window, other
    architectures than those of ``SUPPORTED`` and texts that have too little in common are computed as usual.

    Args:
        model: The model.
        examples: One part of a batch.
        head: What ``head_of`` says of the model.
    """
    length = _common(examples)
    if head is None or len(examples) < 2 or length < SHORTEST or not _attends_to_all(model.config.get_text_config()):
        return summed_loss(model, examples, head)
    cache = DynamicCache()
    decoder = model.get_decoder()
    decoder(input_ids=torch.tensor([examples[0].ids[:length]], device=model.device), past_key_values=cache)
    cache.batch_repeat_interleave(len(examples))
    ids_NS, labels_NS = pad_batch([Example(e.ids[length:], e.learn[length:]) for e in examples])
    hidden_NSD = decoder(input_ids=ids_NS.to(model.device), past_key_values=cache).last_hidden_state
    targets = labels_NS[:, 1:].to(model.device)
    learned = targets != IGNORE
    vocabulary = model.config.get_text_config().vocab_size
    return -selected_logprobs(head, vocabulary, hidden_NSD[:, :-1][learned], targets[learned]).sum()


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """On a CPU, attention in plain products and not by the flash kernel, which is slower on rows as short as these.

    A step of 12 texts of SmolLM2-135M in bfloat16: 17.1 s of CPU in place of 18.8 (docs/diary.md, 2026-11-30).
    """
    before = model.config._attn_implementation
    if model.device.type == "cpu":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _common(examples: Sequence[Example]) -> int:
    """Tokens that all examples begin with, and that end before one whose prediction is learned."""
    low, high = min(e.ids for e in examples), max(e.ids for e in examples)  # all others lie between them
    alike = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    first = min(e.learn.index(1) if 1 in e.learn else len(e.ids) for e in examples)
    return min(alike, first - 1, min(len(e.ids) for e in examples) - 1)


def _attends_to_all(config: Any) -> bool:
    """Whether every layer attends to all that came before, so that a cache of it is all that it needs."""
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    return config.model_type in SUPPORTED and not windowed and not others
