"""The policy loss: clipped GRPO with DAPO's normaliser, its gradients, and log-probabilities of given completions.

Shape suffixes: N rows of a micro-batch, S positions after the common prefix, T scored tokens of the micro-batch, E
model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from crypsis.rl.engine.attention_cache import AttentionCache
from crypsis.rl.engine.scoring import MICRO_TOKENS, Form, MicroBatch, TrainRow, device_of, micro_batches, scorer
from crypsis.rl.engine.shared_prefix import common_prefix
from crypsis.rl.engine.timing import PhaseTimer


@dataclass(frozen=True, slots=True)
class LossStats:
    """What one call of ``accumulate_gradients`` did.

    Attributes:
        loss: Sum over trained tokens divided by the normaliser.
        trained_tokens: Tokens with mask 1, those of skipped rows included.
        mean_ratio: Mean over computed tokens of the probability ratio of new and old policy; 1 on policy.
        clip_fraction: Share of computed tokens whose ratio is clipped (no gradient).
        mean_kl: Mean over computed tokens of the estimated KL divergence from the reference, in nats; 0 without one,
            and for a token that the penalty is not on.
        prefix_tokens: Length of the common prefix that was shared; 0 in the ``padded`` form.
        computed_tokens: Trained tokens of the rows that were computed, those of the means above.
        parts: Losses that were added to the policy loss, as they were added, keyed by name; not in ``loss``.
    """

    loss: float
    trained_tokens: int
    mean_ratio: float
    clip_fraction: float
    mean_kl: float
    prefix_tokens: int
    computed_tokens: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)


def accumulate_gradients(
    model: nn.Module,
    rows: Sequence[TrainRow],
    *,
    micro_batch: int = 32,
    micro_tokens: int = MICRO_TOKENS,
    form: Form = "shared",
    clip: float = 0.2,  # Schulman et al. 2017; TRL 1.16 epsilon
    kl_coefficient: float = 0.0,  # TRL 1.16 beta
    normaliser: float | None = None,
    temperature: float = 1.0,
    fast_linears: bool = True,
    timer: PhaseTimer | None = None,
    attention_cache: AttentionCache | None = None,
) -> LossStats:
    """Adds to ``.grad`` the gradient of the loss: its sum over trained tokens, divided by their number (DAPO).

    Rows without a trained token are not computed, nor, without KL penalty, rows of advantage 0; their trained tokens
    count in the normaliser all the same. Rows are cut after their last trained token.

    Args:
        model: A causal language model, PEFT-wrapped or not.
        rows: The step's completions, of any prompts; what all prompts have in common at the start is computed once.
        micro_batch: Rows per forward pass, at most.
        micro_tokens: Tokens per forward pass beyond the common prefix, at most.
        form: ``shared`` computes the prefix once per call; ``padded`` is the model's own attention on whole rows, for
            models that cannot share a prefix.
        clip: The ratio of new and old probability gives no gradient beyond 1 ± clip.
        kl_coefficient: Weight of the KL penalty (estimator k3, Schulman 2020) against ``ref_logprobs``.
        normaliser: Divisor of the sum in place of the trained tokens, for processes that share a step.
        temperature: Temperature of the sampling distribution; divides the logits.
        fast_linears: See ``crypsis.rl.engine.shared_prefix.shared_attention``.
        timer: Gets the phases ``prefix`` (both directions), ``forward`` and ``backward``.
        attention_cache: What attention gave when the rows were sampled; the ``shared`` form takes it over where it can.

    Returns:
        Loss and statistics.

    Raises:
        ValueError: Some rows but not all have ``old_logprobs``, ``ref_logprobs`` are missing, or the model cannot share
            a prefix (``why_not_shared``).
    """
    timer = timer or PhaseTimer()
    trained = sum(sum(map(bool, r.mask)) for r in rows)
    active = [r for r in rows if any(r.mask) and (r.teaches or kl_coefficient)]
    divisor = float(trained) if normaliser is None else normaliser
    _check(active, kl_coefficient)
    if not active:
        return LossStats(0.0, trained, 1.0, 0.0, 0.0, 0)

    def policy_loss(logprobs_T: Tensor, chosen: Sequence[TrainRow], batch: MicroBatch) -> tuple[Tensor, Tensor]:
        return _policy_loss(logprobs_T, chosen, batch, clip, kl_coefficient)

    pass_ = _Pass(model, micro_batch, micro_tokens, form, temperature, fast_linears, timer, attention_cache)
    sums, prefix_tokens = pass_.backward(active, policy_loss, divisor)
    computed = sum(sum(map(bool, r.mask)) for r in active)
    loss_sum, ratio, clipped, kl = sums
    means = ratio / computed, clipped / computed, kl / computed
    return LossStats(loss_sum / divisor, trained, *means, prefix_tokens, computed)


def accumulate_supervised(
    model: nn.Module,
    rows: Sequence[TrainRow],
    *,
    weight: float = 1.0,
    normaliser: float | None = None,
    micro_batch: int = 32,
    micro_tokens: int = MICRO_TOKENS,
    form: Form = "shared",
    timer: PhaseTimer | None = None,
) -> float:
    """Adds to ``.grad`` the gradient of ``weight`` times the mean negative log-likelihood per learned token.

    Args:
        model: As in ``accumulate_gradients``, like the arguments that are not named here.
        rows: Prompts and completions with masks; advantages are not read.
        weight: Factor of the loss.
        normaliser: Divisor of the sum in place of the number of learned tokens.
        micro_batch: Rows per forward pass, at most.
        micro_tokens: Tokens per forward pass, at most.
        form: How rows are computed.
        timer: Gets the phases.

    Returns:
        The loss, weight included.
    """
    active = [r for r in rows if any(r.mask)]
    if not active or not weight:
        return 0.0
    divisor = normaliser or float(sum(sum(map(bool, r.mask)) for r in active))

    def likelihood(logprobs_T: Tensor, chosen: Sequence[TrainRow], batch: MicroBatch) -> tuple[Tensor, Tensor]:
        loss = -weight * logprobs_T.sum()
        return loss, loss.detach().double()[None]

    pass_ = _Pass(model, micro_batch, micro_tokens, form, 1.0, True, timer or PhaseTimer(), None)
    sums, _ = pass_.backward(active, likelihood, divisor)
    return sums[0] / divisor


TokenLoss = Callable[[Tensor, Sequence[TrainRow], MicroBatch], tuple[Tensor, Tensor]]
"""From log-probabilities [T] of a micro-batch to its summed loss, and sums to report [S]."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """Forward and backward passes over rows; the arguments are those of ``accumulate_gradients``."""

    model: nn.Module
    micro_batch: int
    micro_tokens: int
    form: Form
    temperature: float
    fast_linears: bool
    timer: PhaseTimer
    attention_cache: AttentionCache | None

    def backward(self, rows: Sequence[TrainRow], loss: TokenLoss, divisor: float) -> tuple[list[float], int]:
        """Adds up gradients; returns the sums and the length of the prefix that was shared."""
        prefix = [] if self.form == "padded" else common_prefix([r.prompt_ids for r in rows])
        how = (self.model, prefix, self.form, self.temperature, self.fast_linears, self.timer)
        masks, device = [r.mask for r in rows], device_of(self.model)
        sums = torch.zeros((), dtype=torch.float64)
        with scorer(*how, grad=True, attention_cache=self.attention_cache) as score:
            limits = self.micro_batch, device, self.form, self.micro_tokens
            for chosen, batch in micro_batches(rows, masks, len(prefix), *limits):
                with self.timer("forward"):
                    value, parts = loss(score(batch), [rows[i] for i in chosen], batch)
                with self.timer("backward"):
                    (value / divisor).backward()
                sums = sums + parts.cpu()
        return [float(x) for x in sums], len(prefix)


def combined(stats: Sequence[LossStats]) -> LossStats:
    """The statistics of several calls whose losses are added up."""
    if len(stats) == 1:
        return stats[0]
    n = sum(s.computed_tokens for s in stats)
    ratio, clipped, kl = (
        sum(mean * s.computed_tokens for mean, s in zip(means, stats, strict=True)) / n if n else idle
        for means, idle in (
            ([s.mean_ratio for s in stats], 1.0),
            ([s.clip_fraction for s in stats], 0.0),
            ([s.mean_kl for s in stats], 0.0),
        )
    )
    loss, trained = sum(s.loss for s in stats), sum(s.trained_tokens for s in stats)
    return LossStats(loss, trained, ratio, clipped, kl, max((s.prefix_tokens for s in stats), default=0), n)


def _check(rows: Sequence[TrainRow], kl_coefficient: float) -> None:
    """Refuses rows whose log-probabilities are incomplete."""
    if len({r.old_logprobs is None for r in rows}) > 1:
        raise ValueError("some rows have old_logprobs and some have not: either all are on policy or none is")
    if kl_coefficient and any(r.ref_logprobs is None for r in rows):
        raise ValueError("a KL penalty needs ref_logprobs in every row")


def _policy_loss(
    logprobs_T: Tensor, rows: Sequence[TrainRow], batch: MicroBatch, clip: float, kl_coefficient: float
) -> tuple[Tensor, Tensor]:
    """The loss summed over the tokens, and its value with the sums of ratio, clipping and KL, [4].

    The surrogate is PPO's, min(r A, clip(r) A). KL is the estimator that TRL uses, exp(d) - d - 1 with d = ref - new.
    """

    def per_token(values: Sequence[Sequence[float] | None]) -> Tensor:
        flat = [cast(Sequence[float], values[r])[c] for r, c in zip(batch.rows, batch.columns, strict=True)]
        return torch.tensor(flat, dtype=logprobs_T.dtype, device=logprobs_T.device)

    if all(r.token_advantages is None for r in rows):
        advantages = np.array([r.advantage for r in rows])[batch.rows]
    else:
        by_row = [r.token_advantages or [r.advantage] * len(r.completion_ids) for r in rows]
        advantages = np.array([by_row[r][c] for r, c in zip(batch.rows, batch.columns, strict=True)])
    advantage_T = torch.from_numpy(advantages).to(logprobs_T.device, logprobs_T.dtype)
    on_policy = rows[0].old_logprobs is None
    old_T = logprobs_T.detach() if on_policy else per_token([r.old_logprobs for r in rows])
    ratio_T = (logprobs_T - old_T).exp()
    loss = -torch.min(ratio_T * advantage_T, ratio_T.clamp(1 - clip, 1 + clip) * advantage_T).sum()
    clipped_T = ((ratio_T > 1 + clip) & (advantage_T > 0)) | ((ratio_T < 1 - clip) & (advantage_T < 0))
    kl = logprobs_T.new_zeros(())
    if all(r.ref_logprobs is not None for r in rows):
        delta_T = per_token([r.ref_logprobs for r in rows]) - logprobs_T
        kl_T = delta_T.exp() - delta_T - 1
        if any(r.kl_mask is not None for r in rows):
            kl_T = kl_T * per_token([[1] * len(r.mask) if r.kl_mask is None else r.kl_mask for r in rows])
        kl = kl_T.sum()
        if kl_coefficient:
            loss = loss + kl_coefficient * kl
    with torch.no_grad():
        sums = torch.stack([x.double() for x in (loss, ratio_T.sum(), clipped_T.sum(), kl)])
    return loss, sums
