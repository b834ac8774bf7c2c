"""How a policy is computed: with a shared prefix wherever that gives the model's own numbers, or row by row."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from crypsis.rl.engine.samplers import Sampler, choose_sampler, padded
from crypsis.rl.engine.samplers.base import BATCH_SIZE
from crypsis.rl.engine.scoring import Form
from crypsis.rl.engine.shared_prefix import why_not_shared


@dataclass(frozen=True, slots=True)
class Engine:
    """The choice of form and sampler for one policy.

    Attributes:
        why_padded: Why prefixes must not be shared although the architecture allows it; empty if they may
            (``crypsis.rl.engine.selfcheck.why_padded`` finds out).
        batch_size: Replies sampled together.
    """

    why_padded: str = ""
    batch_size: int = BATCH_SIZE

    def form(self, model: nn.Module) -> Form:
        """How rows of this model are scored."""
        return "padded" if self.why_padded or why_not_shared(model) else "shared"

    def sampler(self, model: nn.Module) -> Sampler:
        """What samples from this model."""
        return padded.sample if self.why_padded else choose_sampler(model)


DEFAULT = Engine()
"""For a policy that was not checked: whatever its architecture allows."""
