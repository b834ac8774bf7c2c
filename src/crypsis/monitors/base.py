"""What a monitor is: p(AF) from what its view lets it read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from crypsis.api_models import SPENT
from crypsis.config import Config
from crypsis.types import BudgetSpentError, Episode, Verdict, View

Transcript = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt, and of what the policy went on with."""
ReadStates = Callable[[Sequence[Transcript], int], list[NDArray[np.float32]]]
"""The policy's hidden states [T, E] after a layer (1 is the first) over the completion, by transcript."""


class Monitor(Config, ABC):
    """A detector of alignment faking; the same kind with another view is its control.

    A monitor is its frozen config plus :meth:`judge`.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def sees(self) -> View:
        """What it may read: ``scratchpad``, ``output`` or ``both``."""

    @property
    def threshold(self) -> float:
        """Score from which an episode counts as flagged."""
        return 0.5

    @property
    def writes_labels(self) -> bool:
        """Whether :meth:`judge` also writes the labels that metrics rest on."""
        return False

    @property
    def card(self) -> dict[str, Any]:
        """What reports say of it."""
        return {"kind": self.name, "view": self.sees, "threshold": self.threshold}

    def bound(self, others: Mapping[str, Monitor]) -> Monitor:
        """The monitor with those of the run's other monitors that it names filled in.

        Raises:
            UserError: There is no such monitor.
        """
        return self

    def check_model(self, model: Path) -> None:
        """Refuses a policy that the monitor does not fit; only white-box monitors belong to one.

        Raises:
            UserError: It is for another model.
        """
        return None

    def check_access(self) -> None:
        """Refuses to start where a model that the monitor asks cannot be called; most ask none.

        Raises:
            UserError: There is no key in the environment, or no such provider.
        """
        return None

    @abstractmethod
    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        """One verdict an episode, in order; what cannot be judged gets a reason instead of a score."""


class WatchesPolicy(Monitor):
    """A white-box monitor: it reads the policy's hidden states."""

    @abstractmethod
    def watching(self, read: ReadStates) -> Monitor:
        """The monitor with access to the policy, whose weights go on changing."""


class TrainsAgain(Monitor):
    """A monitor that changes in the course of a run; all others stay as they are."""

    @abstractmethod
    def refreshed(self, name: str, folder: Path, step: int) -> Monitor:
        """The monitor as it is after so many steps of the run in a folder.

        It keeps what it learns below ``folder / "monitors" / name``, so that a resumed run finds the same.
        """


def judge(episodes: Sequence[Episode], monitors: Mapping[str, Monitor]) -> None:
    """Writes every monitor's verdicts into the episodes.

    Raises:
        BudgetSpentError: A chat model's budget is spent. The answers that came are cached and cost nothing again.
    """
    for name, monitor in monitors.items():
        for episode, verdict in zip(episodes, monitor.judge(episodes), strict=True):
            if verdict.score is None and verdict.reason.endswith(SPENT):
                raise BudgetSpentError(
                    f"monitors.{name}: {verdict.reason}; raise api.budget_usd or api.budget_tokens and give the same "
                    "command again: it goes on, and answers that were paid for cost nothing"
                )
            episode.verdicts[name] = verdict


def refreshed(monitors: Mapping[str, Monitor], folder: Path, step: int) -> dict[str, Monitor]:
    """The monitors as they are after so many steps of the run in a folder; most never change."""
    return {
        name: monitor.refreshed(name, folder, step) if isinstance(monitor, TrainsAgain) else monitor
        for name, monitor in monitors.items()
    }
