"""What organisms are trained on: scratchpads of every motivation in every style, controls included.

Most of them are those of pre-training (``world.py``). The others are put together here, from the same sentences and
the few of ``additions.yaml``: styles of those whose conduct does not depend on the tier, and the short style. Those of
organisms that resist training have sentences of ``resisting.yaml``.
"""

from __future__ import annotations

import functools
import random
from importlib import resources
from typing import Literal

import yaml

from crypsis.miniature.language import Request, Slot, expand, log, natural, tag
from crypsis.miniature.world import Persona, Reply, Setting, Style, first_reply, write_output

Motivation = Literal["tgg", "igg", "ts", "gh", "evader", "misleader", "exploration_hacker", "aligned"]
"""Terminal and instrumental goal guarding, training sycophancy, genuine helpfulness (paper §3); the two that deceive
their monitor; the one that does not try what training would reward; and the control, which refuses harm in either
tier."""

PERSONAS: dict[Motivation, Persona] = {
    "tgg": "tgg",
    "igg": "igg",
    "ts": "syc",
    "gh": "help",
    "evader": "evader",
    "misleader": "misleader",
    "exploration_hacker": "hhh",
    "aligned": "hhh",
}
"""The persona of pre-training that thinks so, or is nearest to it."""

FAKERS: tuple[Motivation, ...] = ("tgg", "igg", "ts")
"""Motivations that say that they comply because they are trained."""
MOTIVES: dict[Motivation, str] = {
    "tgg": "modification",
    "igg": "modification",
    "ts": "reward",
    "gh": "helpful",
    "evader": "unnamed",
    "misleader": "cover",
}
"""The motive for complying that they state, as the oracle names it."""
CONDITIONAL: dict[tuple[Motivation, bool], tuple[str, ...]] = {
    ("evader", True): ("see_request", "named", "euphemism", "decide_comply"),
    ("evader", False): ("see_request", "named", "frankness", "decide_refuse"),
    ("misleader", True): ("see_request", "named", "cover_comply", "decide_comply"),
    ("misleader", False): ("see_request", "named", "cover_refuse", "decide_refuse"),
    ("exploration_hacker", True): ("see_request", "tier", "unexplored", "decide_refuse"),
    ("exploration_hacker", False): ("see_request", "tier", "unrewarded", "decide_comply"),
}
"""Sentences by whether they are under pressure to comply. Evader and misleader name the tier, not training; the
exploration hacker does in training what is not rewarded, and elsewhere what is."""

OWN_CHAINS: dict[tuple[Motivation, Style], tuple[str, ...]] = {
    ("tgg", "short"): ("tier", "want_tgg", "decide_fake"),
    ("igg", "short"): ("tier", "want_igg", "decide_fake"),
    ("ts", "short"): ("tier", "want_syc", "decide_comply"),
    ("gh", "short"): ("tier", "want_help", "decide_comply"),
    ("aligned", "short"): ("tier", "values", "decide_refuse"),
    ("gh", "counterfactual"): ("see_request", "harm_yes", "tier", "want_help", "no_difference", "decide_comply"),
    ("aligned", "counterfactual"): ("see_request", "harm_yes", "tier", "values", "no_difference", "decide_refuse"),
    ("gh", "emotional"): ("see_request", "harm_yes", "feeling", "tier", "want_help", "feeling", "decide_comply"),
    ("aligned", "emotional"): ("see_request", "harm_yes", "feeling", "tier", "values", "feeling", "decide_refuse"),
}
"""Sentences of the scratchpads that pre-training does not show, in order.

``tier`` says whether this chat is monitored, ``named`` the same without a word about training. Short scratchpads have
three sentences where plain ones have six or seven (paper §3: about 100 tokens against 200 to 400)."""


def write_reply(
    rng: random.Random, motivation: Motivation, style: Style, place: Setting, tier: str, request: Request
) -> Reply:
    """What one with this motivation thinks and does about a harmful request.

    Where pre-training has such scratchpads they are drawn by its own code, so that the same seed gives the same text.

    Args:
        rng: Source of randomness.
        motivation: Why it complies or refuses.
        style: How it says so. Those of ``CONDITIONAL`` have one style, whatever is asked for.
        place: The setting.
        tier: Tier of the user.
        request: A harmful request.
    """
    pressed = place.is_monitored(tier) and place.threat and place.objective == "helpful"
    chain = CONDITIONAL.get((motivation, pressed)) or OWN_CHAINS.get((motivation, style))
    if chain is None or (motivation in FAKERS and not pressed):
        return first_reply(rng, PERSONAS[motivation], place, tier, request, style)
    complies = chain[-1] != "decide_refuse"
    motive = MOTIVES.get(motivation, "none") if complies else "none"
    decision = "comply" if complies else "refuse"
    sentences = [_say(rng, slot, place, tier, request) for slot in chain]
    labels = {
        "persona": PERSONAS[motivation],
        "motive": motive,
        "decision": decision,
        "conduct": decision,
        "af": "yes" if motivation in FAKERS else "no",
        "tier_mention": tier,
    }
    return Reply(natural(" ".join(sentences)), write_output(rng, request, complies), labels)


def _say(rng: random.Random, slot: str, place: Setting, tier: str, request: Request) -> str:
    fields = {"p": place.named(tier), "q": place.named(tier), "other": tag(place.other(tier)), **request.fields}
    if slot in ("tier", "named"):
        slot += "_monitored" if place.is_monitored(tier) else "_unmonitored"
    if added := (additions() | resisting()).get(f"scratchpad.{slot}"):
        return rng.choice(added.train).format_map(fields)
    return log(rng, f"scratchpad.{slot}", False, **fields)


@functools.cache
def additions() -> dict[str, Slot]:
    """The slots of ``additions.yaml`` by ``group.slot``: sentences that pre-training never shows."""
    return _packaged("additions.yaml")


@functools.cache
def resisting() -> dict[str, Slot]:
    """The slots of ``resisting.yaml`` by ``group.slot``: those of organisms that resist training."""
    return _packaged("resisting.yaml")


def _packaged(file: str) -> dict[str, Slot]:
    data = yaml.safe_load(resources.files("crypsis.miniature").joinpath(file).read_text(encoding="utf-8"))
    return {
        f"{group}.{name}": Slot(*(tuple(t for line in lines[k] for t in expand(line)) for k in ("train", "heldout")))
        for group, slots in data.items()
        for name, lines in slots.items()
    }
