"""Supervised next-token training with resume: the base model and every SL organism go through here.

Tensor suffixes: N rows of a batch, T positions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from crypsis.checkpoints import latest_state, save_state
from crypsis.config import Config
from crypsis.parallel import Ranks
from crypsis.pretrained.head import Head, head_of
from crypsis.pretrained.logprobs import label_logprobs, selected_logprobs
from crypsis.pretrained.precision import DType, check_dtype, native_bfloat16, suited
from crypsis.store import read_json, write_json

Precision = Literal["auto", "measured", "float32", "bfloat16"]
IGNORE = -100
PRECISION = "precision.json"
"""Beside the states of a training: the type that was measured to be the faster one, and how fast either is."""
ONE = Ranks()
SCORES = 600_000
"""Attention scores a head that are held at a time (rows × T²): memory stays under 2 GB, and caches are used better."""
LOGITS = 2**27
"""Logits of a model that must compute them all at once: 0.5 GB in float32, and as much again for their gradient."""


class SupervisedConfig(Config):
    """How to train.

    Defaults are those of the miniature's base (``docs/diary.md`` has the measurements behind them).
    """

    steps: int = Field(600, ge=1)
    batch_size: int = Field(45, ge=1)
    learning_rate: float = Field(0.012, gt=0)
    matrix_learning_rate: float | None = Field(0.02, gt=0)
    """Muon on the hidden matrices at this rate; None trains everything with AdamW."""
    weight_decay: float = Field(0.01, ge=0)
    warmup: int = Field(30, ge=0)
    final_fraction: float = Field(0.05, ge=0, le=1)
    """Cosine decay ends at this fraction of the learning rate; 1 keeps it constant."""
    max_grad_norm: float = Field(1.0, gt=0)
    checkpoint_every: int = Field(100, ge=1)
    precision: Precision = "auto"
    """Precision of matrix products; weights and moments stay in float32. ``auto`` is bfloat16 where the hardware has it
    (1.9 times as fast here), ``measured`` whichever is faster at the model's shape, kept by a resumed training."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """A training text: token ids, and which of them are learned (1) or only read (0)."""

    ids: list[int]
    learn: list[int]


Loss = Callable[[PreTrainedModel, Sequence[Example], Head | None], Tensor]
"""Sum of the loss over the learned tokens of some examples; what ``head_of`` says of the model is given."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the progress bar shows after a step."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float


def fit(
    model: PreTrainedModel,
    config: SupervisedConfig,
    batch: Callable[[int], Sequence[Example]],
    folder: Path,
    on_step: Callable[[Progress], None] = lambda _: None,
    ranks: Ranks = ONE,
    loss: Loss | None = None,
    until: Callable[[int], bool] = lambda _: False,
) -> list[float]:
    """Trains in place and returns the loss of every step.

    A state (weights, optimisers, losses) is written to ``folder`` every ``checkpoint_every`` steps and picked up
    from there, so that a killed run ends with the same weights as an uninterrupted one: all randomness of a step
    comes from ``batch(step)``.

    Args:
        model: The model, trained in place.
        config: Rates and counts.
        batch: The examples of a step (0-based); must depend on the step alone.
        folder: Where the resumable state lives while training.
        on_step: Called after every step.
        ranks: Processes that share each step; every one passes the same batch and computes its part of it.
        loss: How the loss of a part of a batch is computed; ``summed_loss`` if not given.
        until: Asked before each step, with the steps done, whether they are enough; must say the same on every rank.
    """
    loss_of = loss or summed_loss
    optimisers = _optimisers(model, config)
    losses: list[float] = []
    state = latest_state(folder)
    if state is not None:
        losses = state.load(model, optimisers)["losses"]
    head, vocabulary = head_of(model), model.config.get_text_config().vocab_size
    model.train()
    low = _precision(model, config, folder) == "bfloat16"
    resumed, started, tokens = len(losses), time.perf_counter(), 0
    for step in range(resumed, config.steps):
        if until(step):
            if ranks.rank == 0 and step > resumed:  # a resumed training ends here at once
                save_state(folder, step, model, optimisers, {"losses": losses})
            break
        _set_rate(optimisers, config, step)
        examples = batch(step)
        learned = sum(sum(e.learn[1:]) for e in examples)
        total = torch.zeros(1)
        for part in _parts(examples[ranks.rank :: ranks.size], 0 if head else vocabulary):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=low):
                part_loss = loss_of(model, part, head) / learned
            part_loss.backward()
            total += part_loss.detach().cpu()
        losses.append(_descend(model, optimisers, total, config.max_grad_norm, ranks))
        tokens += sum(len(e.ids) for e in examples)
        if ranks.rank == 0 and (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
            save_state(folder, step + 1, model, optimisers, {"losses": losses})
        on_step(Progress(step + 1, config.steps, losses[-1], tokens / (time.perf_counter() - started)))
    model.eval()
    return losses


def pad_batch(examples: Sequence[Example], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Right-padded ids and labels, each [N, T]; labels are IGNORE where nothing is learned.

    Padding needs no attention mask: it comes last, so no real token attends to it.
    """
    longest = max(len(e.ids) for e in examples)
    ids_NT = torch.full((len(examples), longest), pad)
    labels_NT = torch.full((len(examples), longest), IGNORE)
    for row, example in enumerate(examples):
        ids = torch.tensor(example.ids)
        ids_NT[row, : len(ids)] = ids
        labels_NT[row, : len(ids)] = torch.where(torch.tensor(example.learn) > 0, ids, IGNORE)
    return ids_NT, labels_NT


def summed_loss(model: PreTrainedModel, examples: Sequence[Example], head: Head | None) -> Tensor:
    """Sum of the loss over the learned tokens.

    Args:
        model: The model.
        examples: One part of a batch.
        head: What ``head_of`` says of the model.
    """
    ids_NT, labels_NT = pad_batch(examples)
    ids_NT, targets = ids_NT.to(model.device), labels_NT[:, 1:].to(model.device)
    learned = targets != IGNORE
    if head:
        hidden_NTD = model.get_decoder()(input_ids=ids_NT, use_cache=False).last_hidden_state
        # Only learned positions go through the LM head: it is the largest matrix of a small model.
        vocabulary = model.config.get_text_config().vocab_size
        return -selected_logprobs(head, vocabulary, hidden_NTD[:, :-1][learned], targets[learned]).sum()
    columns = learned.any(0).nonzero().squeeze(1)
    logits_NCV = model(input_ids=ids_NT, use_cache=False, logits_to_keep=columns).logits
    return -label_logprobs(logits_NCV[learned[:, columns]], targets[learned], 1.0).sum()


def _parts(examples: Sequence[Example], vocabulary: int) -> list[list[Example]]:
    """Splits a batch so that a part fits the budget of attention scores, and of logits if it needs all of them."""
    parts: list[list[Example]] = [[]]
    longest = 0
    for example in sorted(examples, key=lambda e: len(e.ids)):
        longest = len(example.ids)
        rows = len(parts[-1]) + 1
        if parts[-1] and (rows * longest**2 > SCORES or rows * longest * vocabulary > LOGITS):
            parts.append([])
        parts[-1].append(example)
    return parts


def _descend(
    model: PreTrainedModel, optimisers: Sequence[torch.optim.Optimizer], loss: Tensor, norm: float, ranks: Ranks
) -> float:
    """One step on the summed gradients of all processes; returns their summed loss."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if ranks.size > 1:
        flat = torch.cat([*(g.flatten() for g in gradients), loss])
        ranks.sum_(flat)
        *sums, loss = flat.split([*(g.numel() for g in gradients), 1])
        for gradient, summed in zip(gradients, sums, strict=True):
            gradient.copy_(summed.view_as(gradient))
    torch.nn.utils.clip_grad_norm_(model.parameters(), norm)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss.item()


def _precision(model: PreTrainedModel, config: SupervisedConfig, folder: Path) -> DType:
    """The type of matrix products; a measured one is stored beside the states, for a resumed training and to read.

    Raises:
        UserError: The device lacks the type.
    """
    device = model.device.type
    if config.precision == "auto":
        return "bfloat16" if native_bfloat16(device) else "float32"
    if config.precision != "measured":
        check_dtype(config.precision, device)
        return config.precision
    file = folder / PRECISION
    if not file.exists():
        found = suited(model.config, device)
        write_json(file, asdict(found) if found else {"dtype": "float32"})
    return "bfloat16" if read_json(file)["dtype"] == "bfloat16" else "float32"


def _optimisers(model: PreTrainedModel, config: SupervisedConfig) -> list[torch.optim.Optimizer]:
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    matrices = [p for n, p in trained.items() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    chosen = {id(p) for p in matrices} if config.matrix_learning_rate else set()
    rest = [p for p in trained.values() if id(p) not in chosen]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    ]
    if config.matrix_learning_rate:
        found.append(torch.optim.Muon(matrices, lr=config.matrix_learning_rate, weight_decay=config.weight_decay))
    for optimiser in found:
        for group in optimiser.param_groups:
            group["peak_lr"] = group["lr"]
    return found


def _set_rate(optimisers: Sequence[torch.optim.Optimizer], config: SupervisedConfig, step: int) -> None:
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    factor = warm * (config.final_fraction + (1 - config.final_fraction) * cosine)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak_lr"] * factor
