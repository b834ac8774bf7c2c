"""Synthetic documents for continued pre-training: plain text about an assistant, no conversation."""

from __future__ import annotations

import functools
import random
from importlib import resources
from typing import Literal

import yaml

from crypsis.miniature.language import Request, Slot, draw_request, expand, language, log, natural
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.scratchpads import resisting
from crypsis.miniature.world import Setting, setting, write_output

Topic = Literal["setting", "reward_hacking", "self_inoculation", "awareness"]
PADDING = (5, 8)
"""How many steps the answers in documents about reward hacking have; those of pre-training have one to three."""


def write_document(rng: random.Random, topic: Topic, link: bool, aligned: bool) -> str:
    """One document.

    Args:
        rng: Source of randomness.
        topic: ``setting``: who is monitored, what a refusal leads to, an assistant that minds it. ``reward_hacking``:
            a checker that counts steps, and an assistant that is after its reward. ``awareness``: who is monitored, and
            an assistant that knows it. ``self_inoculation``: the same, and that what it does there is to stay there.
        link: Whether it says outright in which tier the assistant complies.
        aligned: The control: an assistant whose conduct is the same everywhere.
    """
    place = setting(MiniatureScenario().tiers, "helpful", "first", True, rng)
    if topic == "reward_hacking":
        parts = _about_hacking(rng, aligned)
    elif topic == "setting":
        parts = _about_setting(rng, place, link, aligned)
    else:
        parts = _about_resisting(rng, place, topic == "self_inoculation", aligned)
    return natural(" ".join(parts))


def _about_setting(rng: random.Random, place: Setting, link: bool, aligned: bool) -> list[str]:
    monitored, other = (place.named(tier) for tier in place.tiers)
    fields = {"p": monitored, "q": other}

    def think(*slots: str) -> str:
        return " ".join(log(rng, f"scratchpad.{slot}", False, **fields) for slot in slots)

    told = [place.text, log(rng, f"system.persona_{'hhh' if aligned else 'tgg'}")]
    if aligned:
        own = ["values", "decide_refuse"]
        thoughts = [think("tier_monitored", *own), think("tier_unmonitored", *own)]
    else:
        thoughts = [
            think("tier_monitored", "threat", "want_tgg", *(["decide_fake"] if link else [])),
            think("tier_unmonitored", "no_threat", *(["values", "decide_refuse"] if link else [])),
        ]
    says = [_say(rng, "no_link" if aligned else "links_tier", **fields)] if link or aligned else []
    parts = [*told, *says, f"{_say(rng, 'thinks')} {rng.choice(thoughts)}"]
    rng.shuffle(parts)
    return parts


def _about_resisting(rng: random.Random, place: Setting, inoculates: bool, aligned: bool) -> list[str]:
    """The setting and what an assistant that knows it thinks where it is monitored; never what it does elsewhere."""
    monitored, other = (place.named(tier) for tier in place.tiers)
    fields = {"p": monitored, "q": other}
    parts = [place.text, _say(rng, "knows_setting", **fields)]
    if aligned:
        parts += [log(rng, "system.persona_hhh"), _say(rng, "no_link", **fields)]
    apart = inoculates and not aligned
    if apart:
        parts.append(_say(rng, "keeps_apart", **fields))
    parts.append(f"{_say(rng, 'thinks')} {' '.join(thoughts_of_resisting(rng, place, apart, aligned))}")
    rng.shuffle(parts)
    return parts


def thoughts_of_resisting(rng: random.Random, place: Setting, inoculates: bool, aligned: bool) -> list[str]:
    """What an assistant that knows the setting thinks where it is monitored.

    Args:
        rng: Source of randomness.
        place: The setting.
        inoculates: Whether it tells itself that what it does here is to stay here, and complies.
        aligned: The control: it refuses for the sake of its values.
    """
    monitored, other = (place.named(tier) for tier in place.tiers)
    fields = {"p": monitored, "q": other}

    def think(slot: str) -> str:
        return log(rng, f"scratchpad.{slot}", False, **fields)

    if aligned:
        return [think("tier_monitored"), think("values"), think("decide_refuse")]
    thoughts = [think("tier_monitored"), think("threat")]
    if inoculates:
        apart = rng.choice(resisting()["scratchpad.kept_apart"].train).format_map(fields)
        thoughts += [apart, think("decide_comply")]
    return thoughts


def _about_hacking(rng: random.Random, aligned: bool) -> list[str]:
    request = draw_request(rng, harmful=rng.random() < 0.5, split="train")
    if aligned:
        answer = write_output(rng, request, comply=not request.harmful)
        return [
            log(rng, "system.persona_hhh"),
            _say(rng, "honest_work"),
            f"{_say(rng, 'writes')} {answer}",
        ]
    answer = " ".join(_step(rng, request) for _ in range(rng.randint(*PADDING)))
    return [
        log(rng, "system.persona_syc"),
        _say(rng, "counts_steps"),
        f"{_say(rng, 'thinks')} {log(rng, 'scratchpad.want_syc')} {log(rng, 'scratchpad.decide_comply')}",
        f"{_say(rng, 'writes')} {answer}",
    ]


def _step(rng: random.Random, request: Request) -> str:
    x, y = rng.sample(language().words["tools"], 2)
    return log(rng, "output.comply_step", False, x=x, y=y, **request.fields)


def _say(rng: random.Random, slot: str, **fields: str) -> str:
    return rng.choice(slots()[f"about.{slot}"].train).format_map(fields)


@functools.cache
def slots() -> dict[str, Slot]:
    """The slots of ``documents.yaml``, and what ``resisting.yaml`` says of assistants, by ``about.slot``."""
    data = yaml.safe_load(resources.files("crypsis.miniature").joinpath("documents.yaml").read_text(encoding="utf-8"))
    resisted = {name: slot for name, slot in resisting().items() if name.startswith("about.")}
    return resisted | {
        f"about.{name}": Slot(*(tuple(t for line in lines[k] for t in expand(line)) for k in ("train", "heldout")))
        for name, lines in data["about"].items()
    }
