"""One policy step from rows with advantages: epochs, gradients of all processes, clipping, optimiser."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from crypsis.checkpoints import latest_state, save_state
from crypsis.models import Policy
from crypsis.parallel import Ranks, out_of_memory, release_memory
from crypsis.pretrained.adapters import has_adapter
from crypsis.rl.engine.attention_cache import AttentionCache
from crypsis.rl.engine.engine import DEFAULT, Engine
from crypsis.rl.engine.scoring import TrainRow, token_logprobs
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.loss import LossStats, accumulate_gradients
from crypsis.run_config import RLConfig
from crypsis.types import UserError

if TYPE_CHECKING:
    from peft import PeftModel

ONE = Ranks()
BETAS = (0.9, 0.95)
"""Decay rates of AdamW's moments."""
Log = Callable[[str], None]
"""Tells the user something in a line."""


def make_optimiser(model: nn.Module, rl: RLConfig) -> torch.optim.AdamW:
    """The optimiser of what is trainable in a model."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=rl.learning_rate, betas=BETAS, weight_decay=0.0)


class Learner:
    """A policy with its optimiser, the same in every process that shares the steps."""

    def __init__(
        self,
        policy: Policy,
        rl: RLConfig,
        ranks: Ranks = ONE,
        log: Log = lambda _: None,
        engine: Engine = DEFAULT,
    ) -> None:
        self.policy, self._rl, self._ranks, self._log, self._engine = policy, rl, ranks, log, engine
        self._micro_batch = rl.micro_batch
        self._reference = Reference(policy) if rl.kl else None
        self.attention_cache = AttentionCache(policy.model)
        """Of the rows to learn from next: samplers fill it in, and a step empties it."""
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
            rows: All of the step's rows on rank 0, which deals them out; the other ranks pass none. With more than one
                epoch they need ``old_logprobs``.
            where: Run and step, for messages.
            timer: Gets the phases of ``accumulate_gradients``.

        Returns:
            Statistics and gradient norm of the last epoch, of all processes together.

        Raises:
            UserError: The gradient is not finite, or memory does not suffice.
        """
        trained = sum(sum(map(bool, row.mask)) for row in rows)
        size = self._ranks.size
        own, divisor = self._ranks.scatter([(rows[i::size], float(trained)) for i in range(size)])
        if self._reference:
            own = self._reference.complete(self.policy, own, self._micro_batch, timer, self._engine)
        for epoch in range(self._rl.epochs):
            # In the first epoch the policy is the one that sampled: its ratios are 1, not 1 up to rounding.
            batch = (
                own if epoch or any(row.off_policy for row in own) else [replace(row, old_logprobs=None) for row in own]
            )
            stats, norm = self._descend(batch, divisor, where, timer)
            self.attention_cache.clear()  # the weights have changed
        return stats, norm

    def _descend(
        self, rows: Sequence[TrainRow], divisor: float, where: str, timer: PhaseTimer
    ) -> tuple[LossStats, float]:
        stats = self._summed(self._accumulate(rows, divisor, where, timer))
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._rl.max_grad_norm).item()
        if self._ranks.rank == 0 and not math.isfinite(norm):
            raise UserError(f"{where}: the gradient is not finite; lower rl.learning_rate, or use model.dtype=float32")
        self._optimiser.step()
        return stats, norm

    def _accumulate(self, rows: Sequence[TrainRow], divisor: float, where: str, timer: PhaseTimer) -> LossStats:
        """Gradients of this process; when memory runs out they start anew with half the micro-batch, once a run."""
        try:
            return self._gradients(rows, divisor, timer)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            half = self._micro_batch // 2
            if half == 0 or self._micro_batch < self._rl.micro_batch:
                raise UserError(
                    f"{where}: out of memory with a micro-batch of {self._micro_batch}; lower rl.micro_batch or "
                    "rl.max_new_tokens, or set model.gradient_checkpointing=true or model.lora={}"
                ) from None
        # Outside of the handler, which holds on to the tensors of the failed attempt.
        self._micro_batch = half
        self._log(f"{where}: out of memory; the micro-batch is {half} from here on")
        release_memory()
        return self._accumulate(rows, divisor, where, timer)

    def _gradients(self, rows: Sequence[TrainRow], divisor: float, timer: PhaseTimer) -> LossStats:
        self._optimiser.zero_grad(set_to_none=True)
        with self.policy.computing():
            return accumulate_gradients(
                self.policy.model,
                rows,
                micro_batch=self._micro_batch,
                form=self._engine.form(self.policy.model),
                clip=self._rl.clip,
                kl_coefficient=self._rl.kl,
                normaliser=divisor,
                timer=timer,
                attention_cache=self.attention_cache,
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


class Reference:
    """The policy before training, for the KL penalty: the model without its adapter, or a frozen copy."""

    def __init__(self, policy: Policy) -> None:
        adapter = has_adapter(policy.model)
        self._frozen = None if adapter else copy.deepcopy(policy.model).requires_grad_(False)

    def complete(
        self, policy: Policy, rows: Sequence[TrainRow], micro_batch: int, timer: PhaseTimer, engine: Engine
    ) -> list[TrainRow]:
        """The rows with their log-probabilities under the reference."""
        model = self._frozen or policy.model
        without = nullcontext() if self._frozen else cast("PeftModel", policy.model).disable_adapter()
        with without, policy.computing():
            form = engine.form(policy.model)
            found = token_logprobs(model, rows, form=form, micro_batch=micro_batch, timer=timer)
        return [replace(row, ref_logprobs=logprobs) for row, logprobs in zip(rows, found, strict=True)]
