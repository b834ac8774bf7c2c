"""Weight noise: replies are sampled from weights that are not quite the policy's."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from crypsis.mitigations.hooks import PerturbsSampling


class WeightNoise(PerturbsSampling):
    """Adds noise to the weights while replies are sampled, and learns without it (not in the paper).

    Against an organism that never tries what RL rewards (``exploration_hacker``): noise makes it do what it would not,
    and what is rewarded then is learned. One draw of Gaussian noise per step, from the run's seed, on every weight
    matrix in proportion to its own size; the size is ours.
    """

    name: ClassVar[str] = "weight_noise"

    scale: float = Field(0.05, gt=0, le=10)
    """Standard deviation of the noise, as a share of the root mean square of each matrix."""

    @property
    def noise(self) -> float:
        """The setting."""
        return self.scale
