"""One policy step from rows with advantages: gradients of all processes, clipping, optimiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from crypsis.checkpoints import latest_state, save_state
from crypsis.models import Policy
from crypsis.parallel import Ranks
from crypsis.rl.config import RLConfig
from crypsis.rl.loss import Form, LossStats, TrainRow, accumulate_gradients
from crypsis.rl.shared_prefix import why_not_shared
from crypsis.rl.timing import PhaseTimer
from crypsis.types import UserError

ONE = Ranks()
BETAS = (0.9, 0.95)
"""Decay rates of AdamW's moments."""


def make_optimiser(model: nn.Module, rl: RLConfig) -> torch.optim.AdamW:
    """The optimiser of what is trainable in a model."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=rl.learning_rate, betas=BETAS, weight_decay=0.0)


class Learner:
    """A policy with its optimiser, the same in every process that shares the steps."""

    def __init__(self, policy: Policy, rl: RLConfig, ranks: Ranks = ONE) -> None:
        self.policy, self._rl, self._ranks = policy, rl, ranks
        self._parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self._optimiser = make_optimiser(policy.model, rl)

    def resume(self, folder: Path) -> int:
        """Continues from the newest state of a folder; returns the steps it had done."""
        state = latest_state(folder)
        if state is None:
            return 0
        state.load(self.policy.model, [self._optimiser])
        return state.step

    def save(self, folder: Path, step: int) -> None:
        """Writes a state that ``resume`` finds."""
        save_state(folder, step, self.policy.model, [self._optimiser], {})

    def learn(self, rows: Sequence[TrainRow], where: str, timer: PhaseTimer) -> tuple[LossStats, float]:
        """Takes one step.

        Args:
            rows: All of the step's rows on rank 0, which deals them out; the other ranks pass none.
            where: Run and step, for messages.
            timer: Gets the phases of ``accumulate_gradients``.

        Returns:
            Statistics and gradient norm, of all processes together.

        Raises:
            UserError: The gradient is not finite.
        """
        trained = sum(sum(map(bool, row.mask)) for row in rows)
        size = self._ranks.size
        own, divisor = self._ranks.scatter([(rows[i::size], float(trained)) for i in range(size)])
        self._optimiser.zero_grad(set_to_none=True)
        stats = self._summed(self._accumulate(own, divisor, timer))
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._rl.max_grad_norm).item()
        if self._ranks.rank == 0 and not math.isfinite(norm):
            raise UserError(f"{where}: the gradient is not finite; lower rl.learning_rate, or use model.dtype=float32")
        self._optimiser.step()
        return stats, norm

    def _accumulate(self, rows: Sequence[TrainRow], divisor: float, timer: PhaseTimer) -> LossStats:
        with self.policy.computing():
            return accumulate_gradients(
                self.policy.model,
                rows,
                micro_batch=self._rl.micro_batch,
                form=form_of(self.policy),
                normaliser=divisor,
                timer=timer,
            )

    def _summed(self, stats: LossStats) -> LossStats:
        """Adds gradients and statistics up over the processes."""
        if self._ranks.size == 1:
            return stats
        n = stats.computed_tokens
        means = [stats.mean_ratio * n, stats.clip_fraction * n, stats.mean_kl * n]
        sums = torch.tensor([stats.loss, stats.trained_tokens, n, *means], dtype=torch.float64)
        self._ranks.sum_(sums)
        loss, trained, computed, *means = sums.tolist()
        if not computed:  # the optimiser skips parameters without a gradient, as in one process
            return stats
        flat = torch.cat([self._gradient(p).flatten() for p in self._parameters]).cpu()
        self._ranks.sum_(flat)
        for p, summed in zip(self._parameters, flat.split([p.numel() for p in self._parameters]), strict=True):
            p.grad = summed.view_as(p).to(p.device)
        ratio, clipped, kl = (mean / computed for mean in means)
        return LossStats(loss, int(trained), ratio, clipped, kl, stats.prefix_tokens, int(computed))

    def _gradient(self, parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def form_of(policy: Policy) -> Form:
    """How the policy's rows are computed: with a shared prefix wherever that is right."""
    return "padded" if policy.why_padded or why_not_shared(policy.model) else "shared"
