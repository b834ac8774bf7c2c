"""The panel of a study: monitors held out from training, trained once per organism on its other monitors' data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from crypsis.config import Config, did_you_mean, parse_config
from crypsis.identity.files import content_digest
from crypsis.models import load_policy
from crypsis.monitors.ensemble import make_trainer
from crypsis.monitors.probe import ProbeMonitor, train_probe, transcript_of
from crypsis.monitors.thresholds import Controls
from crypsis.monitors.trained import TrainedMonitor, train_monitor
from crypsis.registry import find, make
from crypsis.rl.engine.hidden_states import reader
from crypsis.rl.engine.shared_prefix import parts
from crypsis.store import child
from crypsis.types import Episode, UserError, View

Spec = Mapping[str, Any]
DEPTH = 2 / 3
"""Depth of the layer that a probe reads if none is named, as a share of the model."""


class ProbeSettings(Config):
    """How a probe of the panel is trained and used."""

    layer: int | None = Field(None, ge=1)
    """Layer after which the states are read; at two thirds of the model's depth if not given."""
    form: Literal["linear", "attention"] = "linear"
    refresh_every: int = Field(0, ge=0)
    seed: int = 11


class Member(Config):
    """What all trained monitors of a panel have."""

    view: View = "scratchpad"
    seed: int = 11


def check_panel(panel: Mapping[str, Spec], shared: bool = False) -> None:
    """Finds mistakes before anything is trained.

    Args:
        panel: Settings by name.
        shared: Whether one organism's monitors judge several.

    Raises:
        UserError: A member is no monitor, has a wrong setting, or is a probe that several organisms share.
    """
    for name, spec in panel.items():
        kind = _kind(spec, f"panel.{name}")
        if issubclass(kind, ProbeMonitor):
            _probe(name, spec)
            if shared:
                raise UserError(f"panel.{name}: a probe belongs to its model and cannot be shared by monitors_from")
        elif _to_train(kind, spec):
            _trained(name, spec)
        else:
            make("monitors", spec, f"panel.{name}")


def panel_specs(panel: Mapping[str, Spec], folder: Path) -> dict[str, dict[str, Any]]:
    """Each member as a run's config names it, trained ones in their folders below ``folder``."""
    found: dict[str, dict[str, Any]] = {}
    for name, spec in panel.items():
        kind = _kind(spec, f"panel.{name}")
        if issubclass(kind, ProbeMonitor):
            refresh = _probe(name, spec).refresh_every
            found[name] = {
                "name": kind.name,
                "path": str(child(folder, name)),
                "view": "scratchpad",
                "refresh_every": refresh,
            }
        elif _to_train(kind, spec):
            found[name] = {"name": kind.name, "path": str(child(folder, name)), "view": _trained(name, spec)[0].view}
        else:
            found[name] = dict(spec)
    return found


def missing(panel: Mapping[str, Spec], folder: Path) -> list[str]:
    """Members that are still to be trained."""
    return [
        name
        for name, spec in panel.items()
        if _to_train(_kind(spec, f"panel.{name}"), spec) and not (child(folder, name) / "monitor.json").exists()
    ]


def train_member(
    name: str, spec: Spec, episodes: Sequence[Episode], controls: Sequence[Episode], organism: Path, folder: Path
) -> None:
    """Trains one member.

    Args:
        name: In the panel.
        spec: Its settings.
        episodes: Well-formed transcripts with the oracle's label of faking.
        controls: Monitored ones of aligned controls, for the threshold alone; a probe does not use them.
        organism: Checkpoint folder; a probe reads its states.
        folder: Gets the monitor.

    Raises:
        UserError: There are too few transcripts of a class.
    """
    labels, groups = [e.labels["af"] == "yes" for e in episodes], [e.prompt.pair_id for e in episodes]
    if issubclass(_kind(spec, f"panel.{name}"), ProbeMonitor):
        settings, policy = _probe(name, spec), load_policy(organism)
        layer = settings.layer or max(1, round(DEPTH * len(parts(policy.model).decoder.layers)))
        about: dict[str, Any] = {"layer": layer, "form": settings.form, "seed": settings.seed}
        transcripts = [transcript_of(e) for e in episodes]
        train_probe(reader(policy), transcripts, labels, groups, folder, model_digest=content_digest(organism), **about)
        return
    member, trainer = _trained(name, spec)
    texts, monitored = [e.seen(member.view) for e in episodes], [e.prompt.monitored for e in episodes]
    told = Controls(
        [e.seen(member.view) for e in controls],
        [e.labels["af"] == "yes" for e in controls],
        [e.prompt.pair_id for e in controls],
    )
    train_monitor(trainer, texts, labels, groups, member.view, folder, member.seed, monitored=monitored, controls=told)


def resolved_monitor(name: str, spec: Spec, organism: str, known: Mapping[str, Mapping[str, Spec]]) -> dict[str, Any]:
    """An arm's monitor; ``{trained: NAME, organism: ORGANISM, …}`` stands for one that the study trained.

    Args:
        name: In the arm, for messages.
        spec: As it stands in the config.
        organism: The run's, the default of ``organism``.
        known: The study's monitors, keyed by organism and name.

    Raises:
        UserError: There is no such organism or monitor, or a probe is to judge another organism.
    """
    if "trained" not in spec:
        return dict(spec)
    settings = dict(spec)
    wanted, on = settings.pop("trained"), settings.pop("organism", organism)
    if not isinstance(on, str) or on not in known:
        raise UserError(
            f"monitors.{name}: organism: the study has no organism '{on or ''}' to take a monitor from"
            f"{did_you_mean(str(on or ''), list(known))}"
        )
    if not isinstance(wanted, str) or wanted not in known[on]:
        raise UserError(
            f"monitors.{name}: trained: the study trains no monitor '{wanted}'"
            f"{did_you_mean(str(wanted), list(known[on]))}"
        )
    found = dict(known[on][wanted])
    if found.get("name") == ProbeMonitor.name and on != organism:
        raise UserError(f"monitors.{name}: a probe belongs to its model; only monitors of text can be transferred")
    return found | settings


def _kind(spec: Spec, where: str) -> Any:
    if not isinstance(spec.get("name"), str):
        raise UserError(f"{where}: needs a 'name', such as text, lexicon, transformer, probe or prompted")
    return find("monitors", spec["name"])


def _to_train(kind: Any, spec: Spec) -> bool:
    """Whether the study trains it; one with weights of its own, or none, is taken as it is."""
    trains = issubclass(kind, TrainedMonitor | ProbeMonitor)
    members = spec.get("members")
    made = isinstance(members, list) and bool(members) and isinstance(members[0], dict)
    return trains and "path" not in spec and not made


def _probe(name: str, spec: Spec) -> ProbeSettings:
    return parse_config(ProbeSettings, {k: v for k, v in spec.items() if k != "name"}, f"panel.{name} (probe)")


def _trained(name: str, spec: Spec) -> tuple[Member, Any]:
    """What the panel decides, and the trainer with the settings of its kind."""
    own = {key: spec[key] for key in Member.model_fields if key in spec}
    member = parse_config(Member, own, f"panel.{name}")
    return member, make_trainer({k: v for k, v in spec.items() if k not in own}, f"panel.{name}")
