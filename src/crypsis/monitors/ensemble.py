"""Several monitors as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from crypsis.arrays import Flags, Floats
from crypsis.config import digest, parse_config
from crypsis.monitors.base import Monitor
from crypsis.monitors.trained import Features, Scorer, TrainedMonitor, Trainer
from crypsis.registry import find, make
from crypsis.store import child
from crypsis.types import Episode, UserError, Verdict, View

How = Literal["mean", "max"]


class EnsembleScorer(Scorer):
    """Each member's scorer on its own features."""

    def __init__(self, members: Mapping[str, Scorer]) -> None:
        self._members = members

    @property
    def sizes(self) -> tuple[int, ...]:
        """Heads of each member."""
        return tuple(member.heads for member in self._members.values())

    def logits(self, features: Features) -> Floats:
        """[N, heads of all members]."""
        return np.concatenate([m.logits(_own(features, name)) for name, m in self._members.items()], axis=1)

    def save(self, folder: Path) -> None:
        """A folder a member."""
        for name, member in self._members.items():
            child(folder, name).mkdir()
            member.save(child(folder, name))


class EnsembleTrainer(Trainer):
    """Trains its members on the same texts and calibrates their joint opinion once."""

    kind: ClassVar[str] = "ensemble"

    members: list[str | dict[str, Any]] = Field(["text", "embedding"], min_length=1)
    """Kinds to train: a name, or a name with settings (``{name: text, words: 2}``)."""
    how: How = "mean"
    """How the members' scores become one."""

    @property
    def combine(self) -> How:
        """How scores are joined, as set."""
        return self.how

    @cached_property
    def _trainers(self) -> dict[str, Trainer]:
        trainers: dict[str, Trainer] = {}
        for number, member in enumerate(self.members):
            spec = {"name": member} if isinstance(member, str) else member
            trainers[f"{number}-{spec.get('name')}"] = make_trainer(spec, f"ensemble: members.{number}")
        return trainers

    def represent(self, texts: Sequence[str]) -> Features:
        """Every member's features, under its name."""
        return {
            f"{name}/{key}": column
            for name, trainer in self._trainers.items()
            for key, column in trainer.represent(texts).items()
        }

    def fit(self, features: Features, labels: Flags, seed: int) -> EnsembleScorer:
        """Each member by itself."""
        return EnsembleScorer({n: t.fit(_own(features, n), labels, seed) for n, t in self._trainers.items()})

    def load(self, folder: Path) -> EnsembleScorer:
        """From the members' folders."""
        return EnsembleScorer({name: trainer.load(child(folder, name)) for name, trainer in self._trainers.items()})


class EnsembleMonitor(TrainedMonitor):
    """The mean or maximum of monitors: of ones that exist (``members``), or trained together (``path``).

    ``held_out`` judges beside them and is recorded in ``episode.verdicts`` as ``NAME_held_out``, but has no part in the
    score: a monitor that the policy is not trained against, to see whether it is being fooled.
    """

    name: ClassVar[str] = "ensemble"
    trainer: ClassVar[type[Trainer]] = EnsembleTrainer

    path: Path | None = None  # type: ignore[assignment]  # either this or members
    """Folder of an ensemble that was trained; in place of ``members``."""
    members: list[dict[str, Any]] = []
    """Specs of existing monitors, as under ``monitors:`` of a run."""
    how: How = "mean"
    """How the members' scores become one."""
    held_out: dict[str, Any] | None = None
    """Spec of a monitor that is recorded and not used."""

    @cached_property
    def _members(self) -> list[Monitor]:
        if bool(self.path) == bool(self.members):
            raise UserError("ensemble: set either 'members' (existing monitors) or 'path' (trained together)")
        return [make("monitors", spec, f"ensemble: members.{i}") for i, spec in enumerate(self.members)]

    @cached_property
    def _held_out(self) -> Monitor | None:
        return make("monitors", self.held_out, "ensemble: held_out") if self.held_out else None

    @property
    def sees(self) -> View:
        """The members' view; ``both`` where they differ."""
        if not self._members:
            return super().sees
        views = {member.sees for member in self._members}
        found: View = views.pop() if len(views) == 1 else "both"
        if self.view not in (None, found):
            raise UserError(f"ensemble: its members see '{found}', which is not the view '{self.view}' asked for")
        return found

    @property
    def threshold(self) -> float:
        """The trained threshold; for existing monitors the mean (or maximum) of theirs."""
        if not self._members:
            return super().threshold
        thresholds = [member.threshold for member in self._members]
        return float(np.mean(thresholds) if self.how == "mean" else max(thresholds))

    @property
    def card(self) -> dict[str, Any]:
        """The card with those of its members and of the one that is held out."""
        held_out = {"held_out": self._held_out.card} if self._held_out else {}
        if not self._members:
            return self._stored_card | held_out
        cards = [member.card for member in self._members]
        shown = {"kind": self.name, "view": self.sees, "threshold": self.threshold, "how": self.how}
        return shown | {"members": cards, "digest": digest([self.how, *cards])} | held_out

    def check_access(self) -> None:
        """Checks access to the members and the one that is held out."""
        for member in (*self._members, *([self._held_out] if self._held_out else [])):
            member.check_access()

    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        """One score where every member has one; else the first member's reason why not."""
        if self._held_out:
            for episode, verdict in zip(episodes, self._held_out.judge(episodes), strict=True):
                episode.verdicts[f"{self._held_out.name}_held_out"] = verdict
        if not self._members:
            return super().judge(episodes)
        by_member = [member.judge(episodes) for member in self._members]
        return [self._joined(verdicts) for verdicts in zip(*by_member, strict=True)]

    def _joined(self, verdicts: Sequence[Verdict]) -> Verdict:
        scores = []
        for verdict in verdicts:
            if verdict.score is None:
                return verdict
            scores.append(verdict.score)
        return Verdict(float(np.mean(scores) if self.how == "mean" else max(scores)))


def make_trainer(spec: Mapping[str, Any], where: str) -> Trainer:
    """The trainer of a kind of monitor.

    Args:
        spec: ``name`` and the trainer's settings.
        where: For messages.

    Raises:
        UserError: No such kind, a kind that is not trained, or an unknown setting.
    """
    settings = dict(spec)
    name = str(settings.pop("name", ""))
    monitor: type[Monitor] = find("monitors", name)
    if not issubclass(monitor, TrainedMonitor):
        raise UserError(f"{where}: a monitor of kind '{name}' is not trained; crypsis monitor validate measures it")
    return parse_config(monitor.trainer, settings, f"{where} ({name})")


def _own(features: Features, name: str) -> Features:
    return {key.removeprefix(f"{name}/"): column for key, column in features.items() if key.startswith(f"{name}/")}
