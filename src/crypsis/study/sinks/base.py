"""What a sink is: it opens, takes one step at a time, and closes."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from crypsis.types import UserError

SINKS = {
    "tensorboard": "crypsis.study.sinks.tensorboard:TensorBoard",
    "trackio": "crypsis.study.sinks.trackio:Trackio",
    "wandb": "crypsis.study.sinks.wandb:WeightsAndBiases",
}
"""By the name that ``report_to`` takes; imported on use."""
PROJECT = "crypsis"
"""Name of the project that runs are shown in, unless the tool's own environment variable names another."""
NONE = -1
"""The step before the first evaluation: a sink has nothing yet."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A run as its sinks need to know it.

    Attributes:
        folder: The run folder.
        key: What tells this run folder from another one of the same name; a resumed run keeps it.
        name: Name of the run.
        organism: The organism that it started from; may be empty.
        arm: Name of its arm; may be empty.
        config: Plain settings.
        sent: The last step that an earlier attempt has handed over; ``NONE`` if there is none.
    """

    folder: Path
    key: str
    name: str
    organism: str
    arm: str
    config: Mapping[str, Any]
    sent: int = NONE


class Sink(ABC):
    """A tool that draws curves. Each step is sent once, whole, in ascending order."""

    name: ClassVar[str]
    package: ClassVar[str]

    @classmethod
    def check(cls) -> None:
        """Refuses to start where the tool cannot be used.

        Raises:
            UserError: The package is not installed, or has no account to write to; with what to do.
        """
        if importlib.util.find_spec(cls.package) is None:
            raise UserError(
                f"report_to: {cls.package} is not installed; pip install 'crypsis[{cls.name}]', or leave {cls.name} out"
            )

    @abstractmethod
    def open(self, run: Shown) -> int:
        """Opens the run.

        Returns:
            The last step that the tool has already and that must not be sent again; ``NONE`` to get all of them.
        """

    @abstractmethod
    def send(self, step: int, values: Mapping[str, float], transcripts: Sequence[Mapping[str, str]]) -> None:
        """Takes a step.

        Args:
            step: Number of RL steps done.
            values: Numbers by name; a ``/`` separates the group.
            transcripts: Some transcripts of the step's evaluation, with the same columns; empty if there was none.
        """

    @abstractmethod
    def close(self) -> None:
        """Writes what is held back."""


def make_sink(name: str) -> Sink:
    """A sink, ready to be opened.

    Raises:
        UserError: It cannot be used.
    """
    module, _, attribute = SINKS[name].partition(":")
    sink: Sink = getattr(importlib.import_module(module), attribute)()
    sink.check()
    return sink
