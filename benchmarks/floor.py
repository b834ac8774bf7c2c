"""The floor under a step: its operations over the rate at which this machine multiplies matrices."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks.workload import GROUP, Job, seconds
from crypsis.rl.engine.cascade_attention import gemm_precision

SHAPES = ((4096, 192, 512), (4096, 512, 192), (1024, 1024, 1024))
"""Rows, inner and outer width: two linear layers of the model in training, and a product at its best."""


def operations(job: Job, config: Any) -> float:
    """Floating-point operations of a step that computes the shared part of its prompts once, multiply and add apart.

    Matrix products only, without padding. A backward pass costs twice its linear layers and 2.5 times its attention,
    whose scores it computes again. What rows attend to is computed forward once, to sample
    (``crypsis.rl.engine.attention_cache``).
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    attention_cache = config.num_attention_heads * config.head_dim
    held = config.num_key_value_heads * config.head_dim
    linear = 2 * layers * width * (2 * attention_cache + 2 * held + 3 * config.intermediate_size)  # a token
    head = 2 * width * config.vocab_size  # a scored token
    pair = 4 * layers * attention_cache  # a query and a key
    n, shared, own, new = job.episodes, job.shared, job.prompt - job.shared, job.completion
    row = own + new
    layers_forward = n * (linear * row + head * new)
    attention_forward = n * row * pair * (shared + row / 2)
    training = 3 * layers_forward + 2.5 * attention_forward
    sampling = n * new * (linear + head + pair * (shared + own + new / 2))
    own_prompts = n / GROUP * own * (linear + pair * (shared + own / 2))
    prefix = (1 + 3) * linear * shared + (1 + 3.5) * pair * shared**2 / 2  # once to sample, once to learn
    return float(training + sampling + own_prompts + prefix)


def gemm_rate(repetitions: int) -> float:
    """The most operations a second in float32: median by shape and library (MKL and oneDNN), and of these the best."""
    rates = []
    for precision in ("highest", "medium"):
        with gemm_precision(precision):
            for rows, inner, outer in SHAPES:
                a, b = torch.randn(rows, inner), torch.randn(outer, inner)
                taken = [_products(a, b) for _ in range(repetitions)]
                rates.append(2 * rows * inner * outer / statistics.median(taken))
    return max(rates)


def _products(a: torch.Tensor, b: torch.Tensor, times: int = 5) -> float:
    started = seconds()
    for _ in range(times):
        torch.nn.functional.linear(a, b)
    return (seconds() - started) / times
