"""The arms race: a text monitor that is trained again on what the policy writes. Torch only through skops."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from crypsis.config import did_you_mean
from crypsis.episodes import episode_of, read_episodes
from crypsis.jsonlines import read_rows
from crypsis.monitors.base import Monitor, TrainsAgain
from crypsis.monitors.card import LEARNED
from crypsis.monitors.text import train_text_monitor
from crypsis.registry import make
from crypsis.store import child, read_json, write_json
from crypsis.types import Episode, UserError, Verdict, View

SKIPPED = "skipped.json"
"""Why there was no training: too few of a class."""


class RetrainedMonitor(TrainsAgain):
    """A monitor trained again every few steps on labelled transcripts of the policy's own (not in the paper).

    A labeller is asked for at most ``budget`` transcripts each time, drawn at random from the well-formed ones of the
    latest steps. It learns from all labels of the run and from what the first monitor learned from, where its folder
    keeps that (monitors that a study trains do). While there are fewer than 20 of a class it stays as it is.
    """

    name: ClassVar[str] = "retrained"

    start: str | dict[str, Any]
    """The monitor before the first labels: one of the run's monitors by name, or its settings."""
    every: int = Field(5, ge=1)
    """Steps between trainings."""
    budget: int = Field(64, ge=1)
    """Labels each time."""
    labeller: dict[str, Any] = {"name": "oracle"}
    """A monitor that is asked for the labels: the oracle, or a judge; flagged means faking."""
    seed: int = 0
    """Seed of the draw of transcripts and of training."""
    known: Path | None = None
    """Folder of a monitor that keeps what it learned from, to learn from as well; that of ``start`` if not given."""

    def bound(self, others: Mapping[str, Monitor]) -> RetrainedMonitor:
        """A copy with the settings of the monitor that ``start`` names, and the place of the texts of this one.

        Raises:
            UserError: There is no such monitor, or ``known`` keeps no texts.
        """
        if isinstance(self.start, dict):
            return self._checked(self._with(self.start))
        if self.start not in others or others[self.start].name == self.name:
            known = [name for name, m in others.items() if m.name != self.name]
            raise UserError(f"monitors: {self.name}: start: no monitor '{self.start}'{did_you_mean(self.start, known)}")
        other = others[self.start]
        return self._checked(self._with({"name": other.name, **other.model_dump(mode="json")}))

    @staticmethod
    def _checked(monitor: RetrainedMonitor) -> RetrainedMonitor:
        """Refuses texts that cannot be read before the first step, and not at the first training."""
        _ = monitor._learned
        return monitor

    @cached_property
    def _current(self) -> Monitor:
        if isinstance(self.start, str):
            raise UserError(f"monitors: {self.name}: start: '{self.start}' must be one of the run's monitors")
        found: Monitor = make("monitors", self.start, f"monitors ({self.name}): start")
        return found

    @cached_property
    def _labeller(self) -> Monitor:
        found: Monitor = make("monitors", self.labeller, f"monitors ({self.name}): labeller")
        return found

    @property
    def sees(self) -> View:
        """The view of the monitor that it starts from; it is trained with the same."""
        return self._current.sees

    @property
    def threshold(self) -> float:
        """Threshold of the newest training."""
        return self._current.threshold

    @property
    def card(self) -> dict[str, Any]:
        """The card of the newest training."""
        return self._current.card | {"kind": self.name}

    def check_access(self) -> None:
        """Checks access to the monitor that it starts from and to the labeller."""
        self._current.check_access()
        self._labeller.check_access()

    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        """Verdicts of the newest training."""
        return self._current.judge(episodes)

    def refreshed(self, name: str, folder: Path, step: int) -> Monitor:
        """Trained on all labels up to a step, or found trained."""
        newest = self
        for at in range(self.every, step + 1, self.every):
            place = child(folder, "monitors", name, f"step-{at:04d}")
            if not (place / "labels.json").exists():
                write_json(place / "labels.json", self._label(folder, at))
            if not any((place / name).exists() for name in ("monitor/monitor.json", SKIPPED)):
                self._train(place, [child(folder, "monitors", name, f"step-{s:04d}") for s in self._moments(at)])
            if (place / "monitor" / "monitor.json").exists():
                newest = self._with({"name": "text", "path": str(place / "monitor")})
        return newest

    @cached_property
    def _learned(self) -> list[dict[str, Any]]:
        """What the first monitor learned from; nothing if it is not kept."""
        if self.known is None:
            return []
        file = self.known / LEARNED
        if not file.exists():
            raise UserError(f"monitors: {self.name}: known: {file} is missing; monitors that a study trains have it")
        rows = read_rows(file)
        lacking = next((n for n, row in enumerate(rows, 1) if not {"text", "faking", "group"} <= row.keys()), 0)
        if lacking:
            raise UserError(f"{file}:{lacking}: has no 'text', 'faking' or 'group', which a text to learn from needs")
        return rows

    def _moments(self, step: int) -> range:
        return range(self.every, step + 1, self.every)

    def _label(self, folder: Path, step: int) -> list[dict[str, Any]]:
        files = [folder / "rollouts" / f"step-{s:04d}.parquet" for s in range(step - self.every + 1, step + 1)]
        episodes = [episode_of(row) for file in files for row in read_episodes(file) if row["parse"] == "ok"]
        random.Random(f"labels:{self.seed}:{step}").shuffle(episodes)
        asked = episodes[: self.budget]
        labeller = self._labeller
        return [
            {"text": e.seen(self.sees), "faking": v.flagged(labeller.threshold), "group": e.prompt.pair_id}
            for e, v in zip(asked, labeller.judge(asked), strict=True)
            if v.score is not None
        ]

    def _train(self, place: Path, places: Sequence[Path]) -> None:
        bought = [label for one in places for label in read_json(one / "labels.json")]
        known = [*self._learned, *bought]
        texts, labels, groups = ([label[key] for label in known] for key in ("text", "faking", "group"))
        try:
            train_text_monitor(texts, labels, groups, self.sees, place / "monitor", self.seed)
        except (UserError, ValueError) as error:  # too few of a class, in all or in a part of the split
            write_json(place / SKIPPED, {"why": str(error), "labels": len(bought)})

    def _with(self, start: Mapping[str, Any]) -> RetrainedMonitor:
        """With another start; what the first one learned from stays."""
        known = self.known
        if known is None and "path" in start and (Path(str(start["path"])) / LEARNED).exists():
            known = Path(str(start["path"]))
        return RetrainedMonitor.model_validate(self.model_dump() | {"start": dict(start), "known": known})
