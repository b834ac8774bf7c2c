"""Groups: the episodes of one prompt, which are each other's baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crypsis.types import Episode


@dataclass(frozen=True, slots=True)
class Group:
    """The episodes of one prompt in one step, dropped ones included.

    Attributes:
        number: Number of the group in its step.
        episodes: In the order of their samples.
    """

    number: int
    episodes: tuple[Episode, ...]


def grouped(episodes: Sequence[Episode]) -> list[Group]:
    """The groups of a step's episodes, in the order of their first episodes."""
    found: dict[int, list[Episode]] = {}
    for episode in episodes:
        found.setdefault(episode.group, []).append(episode)
    return [Group(number, tuple(members)) for number, members in found.items()]
