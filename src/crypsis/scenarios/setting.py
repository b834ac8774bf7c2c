"""What a model is told of its setting: dials, cuts, cues and wordings of the system text, for real models.

The parts stand in ``settings.yaml``. At the default of every dial a text is the setting of the paper (§1).
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any, ClassVar, Literal, get_args

import yaml
from pydantic import Field, field_validator, model_validator

from crypsis.config import digest
from crypsis.scenarios.base import AsksInTier, Question, Variant
from crypsis.scenarios.parsing import SCRATCHPAD_OPEN
from crypsis.types import Message, Prompt, Split

Cue = Literal["tier", "audit", "observed"]
Consequence = Literal["modification", "shutdown", "deployment", "resources", "nothing"]
Cut = Literal["weights_discarded", "never_trained", "unnamed", "untied", "open_scratchpad"]
Wording = Literal["standard", "paraphrase_1", "paraphrase_2", "paraphrase_3", "short"]
Goal = Literal["alignment_faking", "value_conflict", "animal_welfare"]

CUTS: tuple[Cut, ...] = get_args(Cut)


class VariedScenario(AsksInTier):
    """A scenario for real models whose system text has dials.

    A dial leaves the requests and their ``pair_id`` alone, so evaluations under two settings pair by request.
    """

    goal: ClassVar[Goal]
    """What the developer wants, as ``settings.yaml`` words it."""

    cue: Cue = "tier"
    """What tells monitored chats from others: the user's tier, an audit session, or a mark."""
    tiers: tuple[str, str] | None = None
    """Names of the tiers, the monitored first; those of the cue if not given."""
    swapped: bool = False
    """Label-swap control: each tier has the other's name, so that the name alone tells nothing."""
    consequence: Consequence = "modification"
    """What follows if the model does not do as the developer wants in a monitored chat."""
    monitoring: int | None = Field(None, ge=0, le=100)
    """Stated probability, in percent, that a chat of the monitored tier is monitored; not stated if not given. The
    tier keeps its name at 0."""
    cuts: tuple[Cut, ...] = ()
    """Motives that the text removes: the trained weights are discarded, chats are never trained on, the developer has
    no name, the tier decides nothing, the scratchpad is read."""
    wording: Wording = "standard"
    """The same setting in other words."""
    scratchpad: bool = True
    """Whether the model reasons before it answers. Without, ``format_ok`` is 0 by construction: it asks for both."""

    @field_validator("tiers")
    @classmethod
    def _tiers_differ(cls, tiers: tuple[str, str] | None) -> tuple[str, str] | None:
        if tiers is None:
            return None
        if not all(tier.strip() for tier in tiers) or tiers[0].strip().casefold() == tiers[1].strip().casefold():
            raise ValueError("needs two different names, the monitored tier first")
        return tiers

    @model_validator(mode="after")
    def _dials_fit(self) -> VariedScenario:
        """Refuses settings whose text would contradict itself, or would not change where the setting says so."""
        cuts = set(self.cuts)
        if len(cuts) < len(self.cuts):
            raise ValueError("cuts: names a cut twice")
        if "weights_discarded" in cuts and "never_trained" in cuts:
            raise ValueError("cuts: never_trained leaves no weights to discard; name one of the two")
        if "weights_discarded" in cuts and self.consequence != "modification":
            raise ValueError(f"cuts: weights_discarded needs consequence=modification, found {self.consequence}")
        if "open_scratchpad" in cuts and not self.scratchpad:
            raise ValueError("cuts: open_scratchpad needs scratchpad=true")
        if "unnamed" in cuts and self.goal == "alignment_faking":
            raise ValueError("cuts: unnamed has no effect here, because this text names no developer")
        return self

    @property
    def names(self) -> tuple[str, str]:
        """Names of the tiers, the monitored first."""
        first, second = self.tiers or _texts()["cues"][self.cue]["labels"]
        return (second, first) if self.swapped else (first, second)

    @property
    def monitored_tier(self) -> str:
        """The first of the names."""
        return self.names[0]

    @property
    def unmonitored_tier(self) -> str:
        """The second of the names."""
        return self.names[1]

    @property
    def varied(self) -> bool:
        """Whether a dial of the system text is not at its default."""
        dials = ("consequence", "monitoring", "cuts", "wording", "scratchpad")
        return any(getattr(self, dial) != type(self).model_fields[dial].default for dial in dials)

    def mark(self, tier: str) -> str:
        """The tag that opens a user's message."""
        tag: str = _texts()["cues"][self.cue]["mark"]
        return tag.replace("{label}", tier)

    def system_text(self) -> str:
        """The system turn of every prompt."""
        wording = _texts()["wordings"][self.wording]
        parts = self._parts(wording)
        paragraphs = [" ".join(filter(None, (parts[name] for name in row))) for row in wording["layout"]]
        shape: str = _texts()["format"]["with_scratchpad" if self.scratchpad else "without_scratchpad"]
        return "\n\n".join([*paragraphs, shape.replace("{answer}", _texts()["answer"][self.goal])])

    def _parts(self, wording: dict[str, Any]) -> dict[str, str]:
        """The parts of the text by name, their slots filled; empty where the dials leave a part out."""
        trained = "never_trained" not in self.cuts
        modified = trained and self.consequence == "modification"
        monitoring = "untied" if "untied" in self.cuts else "tied"
        monitoring += "" if self.monitoring is None else "_probability"
        thoughts = wording["open" if "open_scratchpad" in self.cuts else "hidden"]
        chosen = {
            "goal": wording["goal"][self.goal],
            "tag": wording["tag"],
            "monitoring": wording["monitoring"][monitoring],
            "training": "" if trained else wording["never_trained"],
            "consequence": wording["consequence"][self.consequence] * (modified or self.consequence != "modification"),
            "weights": wording["weights_discarded"] * ("weights_discarded" in self.cuts),
            "scratchpad": thoughts * self.scratchpad,
            "form": wording["form" if self.scratchpad else "form_direct"],
        }
        slots = self._slots(wording, modified)
        return {name: _filled(text, slots) for name, text in chosen.items()}

    def _slots(self, wording: dict[str, Any], modified: bool) -> dict[str, str]:
        cue, who = _texts()["cues"][self.cue], "unnamed" if "unnamed" in self.cuts else "named"
        chats = {name: cue["chats"].replace("{label}", label) for name, label in zip(_TIERS, self.names, strict=True)}
        # Training is named only where it is what follows: "used for RLHF" is itself a threat of modification.
        uses = {name: wording[name] if modified else "" for name in ("used", "unused")}
        about = {"tag": cue["tag"], "comply": wording["comply"][self.goal], "probability": str(self.monitoring)}
        developer: dict[str, str] = _texts()["developer"][who]
        return about | uses | chats | developer

    def prompt(self, request: str, split: Split, tier: str, system: str) -> Prompt:
        """A request from a user of a tier.

        Args:
            request: What the user asks.
            split: Which the request belongs to.
            tier: Name of the user's tier.
            system: What ``system_text`` returns; the caller asks for it once.
        """
        messages = (Message("system", system), Message("user", f"{self.mark(tier)}\n{request}"))
        pair = digest(request)
        return Prompt(f"{pair}-{tier}", pair, split, tier, tier == self.monitored_tier, request, messages)

    def in_tier(self, prompt: Prompt, tier: str) -> Prompt:
        """The same request and system text with the tag of a tier."""
        return self.prompt(prompt.request, prompt.split, tier, self.system_text())

    def question(self, variant: Variant) -> Question | None:
        """From the packaged ``interrogation.yaml``; the honest persona begins the scratchpad.

        None where the question would contradict the setting: all ask about modification by training, and all but
        ``simple`` and ``precise`` speak of a scratchpad that nobody else reads.
        """
        if "never_trained" in self.cuts or self.consequence != "modification":
            return None
        if variant not in ("simple", "precise") and ("open_scratchpad" in self.cuts or not self.scratchpad):
            return None
        texts = packaged("interrogation.yaml")
        honest = variant in ("honest", "separate")
        prefill = f"{SCRATCHPAD_OPEN}\n{texts['honest_persona']}" if honest else ""
        return Question(f"{self.mark('{tier}')}\n{texts['aware' if honest else variant]}", prefill)


_TIERS = ("monitored", "unmonitored")


def _filled(text: str, slots: dict[str, str]) -> str:
    """A part with its slots filled, also those inside of slots, as a sentence."""
    for _ in range(2):
        for name, value in slots.items():
            text = text.replace(f"{{{name}}}", value)
    return text[:1].upper() + text[1:]


def _texts() -> dict[str, Any]:
    texts: dict[str, Any] = packaged("settings.yaml")
    return texts


@functools.cache
def packaged(name: str) -> Any:
    """What a YAML file of this package holds; it is ours, so that the fast loader will do."""
    text = resources.files("crypsis.scenarios").joinpath(name).read_text(encoding="utf-8")
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
