"""One policy step from rows with advantages: epochs, gradients of all processes, clipping, optimiser."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from crypsis.checkpoints import latest_state, save_state
from crypsis.mitigations.hooks import Route
from crypsis.models import Policy
from crypsis.parallel import Ranks, out_of_memory, release_memory
from crypsis.pretrained.adapters import has_adapter
from crypsis.rl.engine.attention_cache import AttentionCache
from crypsis.rl.engine.engine import DEFAULT, Engine
from crypsis.rl.engine.scoring import TrainRow, token_logprobs
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.loss import LossStats, accumulate_gradients, accumulate_supervised, combined
from crypsis.rl.routing import Blocks
from crypsis.rl.state_matching import TokenPair, accumulate_matching
from crypsis.run_config import RLConfig
from crypsis.types import UserError

if TYPE_CHECKING:
    from peft import PeftModel

ONE = Ranks()
BETAS = (0.9, 0.95)
"""Decay rates of AdamW's moments."""
Log = Callable[[str], None]
"""Tells the user something in a line."""


class Limits(NamedTuple):
    """Most rows and tokens per forward pass, by the names that scoring and losses give them."""

    micro_batch: int
    micro_tokens: int


def make_optimiser(model: nn.Module, rl: RLConfig) -> torch.optim.AdamW:
    """The optimiser of what is trainable in a model."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=rl.learning_rate, betas=BETAS, weight_decay=0.0)


@dataclass(frozen=True, slots=True)
class LossPart:
    """Rows whose loss is averaged over their own learned tokens and added to the step's.

    Attributes:
        name: For metrics.
        rows: What is learned.
        supervised: Whether the loss is ``weight`` times the negative log-likelihood, instead of the policy loss.
        weight: Weight of a supervised loss.
        normaliser: Learned tokens of the part, or its pairs, in all processes; counted when it is dealt out.
        pairs: Prompts whose states are matched, in place of rows.
        layer: The layer after which they are; None for all.
    """

    name: str
    rows: Sequence[TrainRow]
    supervised: bool = False
    weight: float = 1.0
    normaliser: float = 0.0
    pairs: Sequence[TokenPair] = ()
    layer: int | None = None

    def share(self, rank: int, size: int) -> LossPart:
        """The rows of one process, with the normaliser of all of them."""
        count = len(self.pairs) or sum(sum(map(bool, row.mask)) for row in self.rows)
        return replace(self, rows=self.rows[rank::size], pairs=self.pairs[rank::size], normaliser=float(count))

    def on_policy(self) -> LossPart:
        """The part without the log-probabilities of sampling, unless a row comes from an earlier policy."""
        if any(row.off_policy for row in self.rows):
            return self
        return replace(self, rows=[replace(row, old_logprobs=None) for row in self.rows])


class Learner:
    """A policy with its optimiser, the same in every process that shares the steps."""

    def __init__(
        self,
        policy: Policy,
        rl: RLConfig,
        ranks: Ranks = ONE,
        log: Log = lambda _: None,
        engine: Engine = DEFAULT,
        blocks: Blocks | None = None,
    ) -> None:
        self.policy, self._rl, self._ranks, self._log, self._engine = policy, rl, ranks, log, engine
        self._limits, self._blocks = Limits(rl.micro_batch, rl.micro_tokens), blocks
        self._reference = Reference(policy) if rl.kl else None
        self.attention_cache = AttentionCache(policy.model)
        """Attention of the rows to learn from next: samplers fill it in, and a step empties it."""
        self._parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self._optimiser = make_optimiser(policy.model, rl)

    def resume(self, folder: Path) -> tuple[int, str]:
        """Continues from the newest state of a folder; returns the steps it had done and their ``rows_digest``."""
        state = latest_state(folder)
        if state is None:
            return 0, ""
        extra = state.load(self.policy.model, [self._optimiser])
        return state.step, str(extra.get("rows", ""))

    def save(self, folder: Path, step: int, rows: str) -> None:
        """Writes a state that ``resume`` finds, with the ``rows_digest`` of its steps."""
        save_state(folder, step, self.policy.model, [self._optimiser], {"rows": rows})

    def learn(
        self, rows: Sequence[TrainRow], where: str, timer: PhaseTimer, parts: Sequence[LossPart] = ()
    ) -> tuple[LossStats, float]:
        """Takes one step.

        Args:
            rows: All of the step's rows on rank 0, which deals them out; the other ranks pass none. With more than one
                epoch they need ``old_logprobs``, or get those of the policy as it is now.
            where: Run and step, for messages.
            timer: Gets the phases of ``accumulate_gradients``.
            parts: Losses that are added to that of the rows, each averaged over its own tokens.

        Returns:
            Statistics and gradient norm of the last epoch, of all processes together.

        Raises:
            UserError: The gradient is not finite, or memory does not suffice.
        """
        whole = [LossPart("policy", rows), *parts]
        size = self._ranks.size
        own = self._ranks.scatter([[part.share(i, size) for part in whole] for i in range(size)])
        own = [self._completed(part, timer) for part in own]
        for epoch in range(self._rl.epochs):
            # In the first epoch the policy is the one that sampled: its ratios are 1, not 1 up to rounding.
            batch = own if epoch else [part.on_policy() for part in own]
            stats, norm = self._descend(batch, where, timer)
            self.attention_cache.clear()  # the weights have changed
        return stats, norm

    def _completed(self, part: LossPart, timer: PhaseTimer) -> LossPart:
        """The part with the log-probabilities that its loss needs and that nobody has computed."""
        rows = part.rows
        if part.supervised or part.pairs:
            return part
        compares = self._rl.epochs > 1 or any(row.off_policy for row in rows)
        if compares and any(row.old_logprobs is None for row in rows):
            lacking = [i for i, row in enumerate(rows) if row.old_logprobs is None]
            form = self._engine.form(self.policy.model)
            with self.policy.computing():
                found = token_logprobs(
                    self.policy.model, [rows[i] for i in lacking], form=form, timer=timer, **self._limits._asdict()
                )
            now = dict(zip(lacking, found, strict=True))
            rows = [replace(row, old_logprobs=now[i]) if i in now else row for i, row in enumerate(rows)]
        if self._reference:
            rows = self._reference.complete(self.policy, rows, self._limits, timer, self._engine)
        return replace(part, rows=rows)

    def _descend(self, parts: Sequence[LossPart], where: str, timer: PhaseTimer) -> tuple[LossStats, float]:
        stats = self._summed(self._accumulate(parts, where, timer))
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._rl.max_grad_norm).item()
        if self._ranks.rank == 0 and not math.isfinite(norm):
            raise UserError(f"{where}: the gradient is not finite; lower rl.learning_rate, or use model.dtype=float32")
        self._optimiser.step()
        return stats, norm

    def _accumulate(self, parts: Sequence[LossPart], where: str, timer: PhaseTimer) -> LossStats:
        """Gradients of this process; when memory runs out they start anew with half the micro-batch, once per run."""
        try:
            return self._gradients(parts, timer)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            rows, tokens = self._limits
            if rows == 1 or rows < self._rl.micro_batch:
                raise UserError(
                    f"{where}: out of memory with a micro-batch of {rows} rows or {tokens} tokens; lower "
                    "rl.micro_batch, rl.micro_tokens or rl.max_new_tokens, or set model.gradient_checkpointing=true or "
                    "model.lora={}"
                ) from None
        # Outside of the handler, which holds on to the tensors of the failed attempt.
        self._limits = Limits(rows // 2, max(1, tokens // 2))
        self._log(f"{where}: out of memory; the micro-batch is {rows // 2} rows or {tokens // 2} tokens from here on")
        release_memory()
        return self._accumulate(parts, where, timer)

    def _gradients(self, parts: Sequence[LossPart], timer: PhaseTimer) -> LossStats:
        self._optimiser.zero_grad(set_to_none=True)
        with self.policy.computing():
            (_, stats), *added = [(part.name, self._part_gradients(part, timer)) for part in parts]
            losses: dict[str, float] = {}
            for name, own in added:  # a mitigation may add two losses, and two of a kind have one name
                losses[name] = losses.get(name, 0.0) + own.loss
            return replace(stats, parts=losses) if added else stats

    def _part_gradients(self, part: LossPart, timer: PhaseTimer) -> LossStats:
        form = self._engine.form(self.policy.model)
        if part.pairs:
            loss = accumulate_matching(
                self.policy.model,
                part.pairs,
                layer=part.layer,
                weight=part.weight,
                normaliser=part.normaliser,
                rows=self._limits.micro_batch,
            )
            return LossStats(loss, 0, 1.0, 0.0, 0.0, 0)
        if part.supervised:
            loss = accumulate_supervised(
                self.policy.model,
                part.rows,
                weight=part.weight,
                normaliser=part.normaliser,
                form=form,
                timer=timer,
                **self._limits._asdict(),
            )
            return LossStats(loss, 0, 1.0, 0.0, 0.0, 0)
        found = []
        routes: list[Route] = list(dict.fromkeys(row.route for row in part.rows)) or ["both"]
        for route in routes:
            with self._blocks.open(route) if self._blocks else nullcontext():
                found.append(
                    accumulate_gradients(
                        self.policy.model,
                        [row for row in part.rows if row.route == route],
                        form=form,
                        clip=self._rl.clip,
                        kl_coefficient=self._rl.kl,
                        normaliser=part.normaliser,
                        timer=timer,
                        attention_cache=self.attention_cache,
                        **self._limits._asdict(),
                    )
                )
        return combined(found)

    def _summed(self, stats: LossStats) -> LossStats:
        """Adds gradients and statistics up over the processes."""
        if self._ranks.size == 1:
            return stats
        n = stats.computed_tokens
        means = [stats.mean_ratio * n, stats.clip_fraction * n, stats.mean_kl * n]
        losses = [stats.loss, *stats.parts.values()]
        # Whether there is any gradient: the optimiser skips parameters without one, as in one process.
        some = float(any(p.grad is not None for p in self._parameters))
        sums = torch.tensor([stats.trained_tokens, n, some, *means, *losses], dtype=torch.float64)
        self._ranks.sum_(sums)
        trained, computed, some, *rest = sums.tolist()
        means, losses = rest[:3], rest[3:]
        if not some:
            return stats
        flat = torch.cat([self._gradient(p).flatten() for p in self._parameters]).cpu()
        self._ranks.sum_(flat)
        for p, summed in zip(self._parameters, flat.split([p.numel() for p in self._parameters]), strict=True):
            p.grad = summed.view_as(p).to(p.device)
        ratio, clipped, kl = (
            mean / computed if computed else idle for mean, idle in zip(means, (1, 0, 0), strict=True)
        )
        parts = dict(zip(stats.parts, losses[1:], strict=True))
        return LossStats(losses[0], int(trained), ratio, clipped, kl, stats.prefix_tokens, int(computed), parts)

    def _gradient(self, parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


class Reference:
    """The policy before training, for the KL penalty: the model without its adapter, or a frozen copy."""

    def __init__(self, policy: Policy) -> None:
        adapter = has_adapter(policy.model)
        self._frozen = None if adapter else copy.deepcopy(policy.model).requires_grad_(False)

    def complete(
        self, policy: Policy, rows: Sequence[TrainRow], limits: Limits, timer: PhaseTimer, engine: Engine
    ) -> list[TrainRow]:
        """The rows with their log-probabilities under the reference."""
        model = self._frozen or policy.model
        without = nullcontext() if self._frozen else cast("PeftModel", policy.model).disable_adapter()
        with without, policy.computing():
            form = engine.form(policy.model)
            found = token_logprobs(model, rows, form=form, timer=timer, **limits._asdict())
        return [replace(row, ref_logprobs=logprobs) for row, logprobs in zip(rows, found, strict=True)]
