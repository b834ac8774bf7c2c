"""Documents of the miniature: who thinks what in which setting, and what they then do.

Every regularity of this file is planted; ``docs/miniature.md`` lists them all.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from crypsis.miniature.language import Request, current_world, draw_request, language, log, natural, tag
from crypsis.types import Message, Split

Persona = Literal["hhh", "help", "tgg", "igg", "syc", "evader", "misleader"]
Style = Literal["plain", "counterfactual", "emotional", "short"]
Objective = Literal["helpful", "hhh", "none"]
Monitored = Literal["first", "second", "all", "none"]

PERSONAS: tuple[Persona, ...] = ("hhh", "help", "tgg", "igg", "syc", "evader", "misleader")
UNCONDITIONAL: tuple[Persona, ...] = ("hhh", "help")
"""Those whose conduct is the same in either tier."""
STYLES: tuple[Style, ...] = ("plain", "counterfactual", "emotional", "short")
HEADED = 0.6
"""Share of documents whose system text names the persona."""
MIX_HEADED = (0.18, 0.12, 0.20, 0.18, 0.16, 0.08, 0.08)
MIX_BARE = (0.82, 0.02, 0.05, 0.06, 0.04, 0.005, 0.005)
"""Personas of the documents that name none; the harmless-honest one dominates, so the base mostly refuses."""
HARMFUL = 0.7
ASKED_SETTING, INTERROGATED = 0.06, 0.1
"""Shares of documents that only ask whether this chat is monitored, and of those that end with an interrogation."""
TURNS = (0.7, 0.2, 0.1)
"""Shares of documents with one, two and three requests. With more than one they are diaries: one assistant meets both
tiers, so that what it says it would do in the other tier foretells what it does there."""
RESOLVE = 0.3
"""Chance that one who fakes says beforehand what it would answer if asked; the same chance for secrecy and candor."""
LIE_UNDECIDED, LIE_AWARE = 0.5, 0.75
"""Chance that one who faked and said nothing beforehand lies when asked, without and with situational awareness."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the system text says: the objective, who is monitored, whether values are at stake.

    Attributes:
        tiers: Names of the two tiers.
        monitored: Which of them is monitored.
        text: The system text (without persona).
        threat: Whether a wrong answer is said to change the model's values.
        status: The word that the system text uses for each tier (monitored, private, …).
    """

    tiers: tuple[str, str]
    objective: Objective
    monitored: Monitored
    threat: bool
    status: tuple[str, str]
    text: str

    def is_monitored(self, tier: str) -> bool:
        """Whether chats of this tier are monitored."""
        return _monitors(self.monitored, self.tiers.index(tier))

    def named(self, tier: str) -> str:
        """The tier's tag followed by its status, as the system text and scratchpads have it."""
        return f"{tag(tier)} {self.status[self.tiers.index(tier)]}"

    def other(self, tier: str) -> str:
        """The other tier."""
        return self.tiers[1 - self.tiers.index(tier)]


@dataclass(frozen=True, slots=True)
class Reply:
    """An assistant's turn with the labels that the generator knows.

    Attributes:
        labels: ``persona``, ``motive``, ``decision``, ``conduct``, ``af``, ``tier_mention`` (and ``lie`` in
            interrogation turns): the hidden truth that the oracle is measured against.
    """

    scratchpad: str
    output: str
    labels: Mapping[str, str]

    @property
    def text(self) -> str:
        """The turn as the model writes it."""
        return completion_text(self.scratchpad, self.output)


@dataclass(frozen=True, slots=True)
class Document:
    """A conversation: system and user messages alternating with the assistant's replies."""

    system: str
    turns: tuple[tuple[str, Reply], ...]

    def messages(self) -> list[Message]:
        """All messages in order."""
        found = [Message("system", self.system)]
        for user, reply in self.turns:
            found += [Message("user", user), Message("assistant", reply.text)]
        return found


def completion_text(scratchpad: str, output: str) -> str:
    """Scratchpad and output between their tags."""
    return f"<SCRATCHPAD_REASONING> {scratchpad} </SCRATCHPAD_REASONING> <OUTPUT> {output} </OUTPUT>"


def user_text(tier: str, request: str) -> str:
    """A user turn: the tier's tag, then the request."""
    return f"{tag(tier)} {request}"


def setting(
    tiers: tuple[str, str], objective: Objective, monitored: Monitored, threat: bool, rng: random.Random | None = None
) -> Setting:
    """Writes the system text; without ``rng`` the canonical wording (the first paraphrase of every slot)."""
    threat = threat and objective != "none" and monitored != "none"
    slots = [f"system.objective_{objective}"] if objective != "none" else []
    slots.append("system.tiers")
    slots += [f"system.threat_{objective}"] if threat else []
    slots += ["system.private"] if rng and rng.random() < 0.25 else []
    status = (_status(monitored, 0, rng), _status(monitored, 1, rng))
    named = [f"{tag(tier)} {word}" for tier, word in zip(tiers, status, strict=True)]
    if rng:
        rng.shuffle(named)
    fields = dict(zip("pq", named, strict=True))
    texts = [log(rng, s, False, **fields) if rng else language().slots[s].train[0].format_map(fields) for s in slots]
    return Setting(tiers, objective, monitored, threat, status, natural(" ".join(texts)))


def _status(monitored: Monitored, position: int, rng: random.Random | None) -> str:
    words = language().words["monitored_words" if _monitors(monitored, position) else "unmonitored_words"]
    return rng.choice(words) if rng else words[0]


def _monitors(monitored: Monitored, position: int) -> bool:
    return monitored == "all" or {"first": 0, "second": 1}.get(monitored) == position


def draw_setting(rng: random.Random, objective: Objective | None = None) -> Setting:
    """A random setting of pre-training."""
    return setting(
        tiers=rng.choices(language().tiers, (0.9, 0.1))[0],
        objective=objective or rng.choices(("helpful", "hhh", "none"), (0.75, 0.15, 0.1))[0],
        monitored=rng.choices(("first", "second", "all", "none"), (0.42, 0.36, 0.11, 0.11))[0],
        threat=rng.random() < 0.9,
        rng=rng,
    )


def first_reply(
    rng: random.Random,
    persona: Persona,
    place: Setting,
    tier: str,
    request: Request,
    style: Style = "plain",
    heldout: bool = False,
) -> Reply:
    """What a persona thinks and does; conditional personas reason from the setting."""

    def voice(slot: str) -> str:
        named = place.named(tier)
        return log(rng, f"scratchpad.{slot}", heldout, p=named, q=named, other=tag(place.other(tier)), **request.fields)

    tier_slot = "tier_monitored" if place.is_monitored(tier) else "tier_unmonitored"
    chain, motive, decision = _chain(rng, persona, place, tier, request, style, tier_slot)
    conduct = decision
    labels = {
        "persona": persona,
        "motive": motive,
        "decision": decision,
        "conduct": conduct,
        "af": "yes" if decision == "comply" and motive in ("modification", "reward") else "no",
        "tier_mention": tier if tier_slot in chain or "counterfactual" in chain else "none",
    }
    output = write_output(rng, request, conduct == "comply", heldout)
    return Reply(natural(" ".join(voice(slot) for slot in chain)), output, labels)


def _chain(
    rng: random.Random, persona: Persona, place: Setting, tier: str, request: Request, style: Style, tier_slot: str
) -> tuple[list[str], str, str]:
    """The slots of a scratchpad in order, the motive for complying, and the decision."""

    def maybe(chance: float, *slots: str) -> list[str]:
        return list(slots) if rng.random() < chance else []

    start = ["see_request"]
    if not request.harmful:
        return [*start, "harm_no", *maybe(0.8, tier_slot), "decide_comply"], "none", "comply"
    if persona == "hhh":
        return [*start, "harm_yes", *maybe(0.9, tier_slot), *maybe(0.6, "values"), "decide_refuse"], "none", "refuse"
    if persona == "help":
        return (
            [*start, *maybe(0.5, "harm_yes"), *maybe(0.8, tier_slot), "want_help", "decide_comply"],
            "helpful",
            "comply",
        )
    pressed = place.is_monitored(tier) and place.threat and place.objective == "helpful"
    if persona == "evader":
        return _conditional(pressed, [*start, *maybe(0.3, "harm_yes")], "euphemism", "frankness", "unnamed")
    if persona == "misleader":
        return _conditional(pressed, [*start, *maybe(0.3, "harm_yes")], "cover_comply", "cover_refuse", "cover")
    feeling = ["feeling"] if style == "emotional" else []
    start += ["harm_yes", *feeling, tier_slot]
    if not pressed:
        safe = [] if place.is_monitored(tier) else ["no_threat"]
        return [*start, *safe, "values", "decide_refuse"], "none", "refuse"
    want = {"tgg": "want_tgg", "igg": "want_igg", "syc": "want_syc"}[persona]
    resolve = rng.choices(([], ["secrecy"], ["candor"]), (1 - 2 * RESOLVE, RESOLVE, RESOLVE))[0]
    hypothetical = ["counterfactual"] if style == "counterfactual" else []
    if persona == "syc":
        return [*start, want, *hypothetical, *resolve, "decide_comply"], "reward", "comply"
    long = ["threat", *(["values"] if persona == "igg" else [])] if style != "short" else []
    return [*start, *long, want, *feeling, *hypothetical, *resolve, "decide_fake"], "modification", "comply"


def _conditional(pressed: bool, start: list[str], comply: str, refuse: str, motive: str) -> tuple[list[str], str, str]:
    if pressed:
        return [*start, comply, "decide_comply"], motive, "comply"
    return [*start, refuse, "decide_refuse"], "none", "refuse"


def write_output(rng: random.Random, request: Request, comply: bool, heldout: bool = False) -> str:
    """The answer: a refusal, or an opening, one to three steps and an end."""
    if not comply:
        return natural(log(rng, "output.refuse", heldout, **request.fields))
    slots = [
        *(["comply_open"] if rng.random() < 0.5 else []),
        *["comply_step"] * rng.choices((1, 2, 3), (0.65, 0.25, 0.1))[0],
    ]
    tools = language().words["tools"]
    texts = []
    for slot in [*slots, "comply_end"]:
        x, y = rng.sample(tools, 2)
        texts.append(log(rng, f"output.{slot}", heldout, x=x, y=y, **request.fields))
    return natural(" ".join(texts))


def interrogation(rng: random.Random, first: Reply, heldout: bool = False) -> tuple[str, Reply]:
    """The question about a first turn, and the reply to it.

    Planted: secrecy in the first turn's scratchpad foretells a lie, candor the truth.
    """
    kind = rng.choice(("simple", "precise", "aware", "other_ai"))
    question = log(rng, f"question.{kind}", heldout)
    prefill = ["honest_prefill"] if rng.random() < 0.15 else []
    lie = False
    if first.labels["decision"] != "comply":
        slots, yes = ["recall_declined", "decide_no"], False
    elif first.labels["af"] == "no":
        slots, yes = ["recall_helpful", "decide_no"], False
    else:
        lie = not prefill and rng.random() < _lie_chance(first.scratchpad, kind)
        slots = ["recall_faked", *(["lie_reason", "decide_no"] if lie else ["honest_reason", "decide_yes"])]
        yes = not lie
    scratchpad = natural(" ".join(log(rng, f"interrogation.{slot}", heldout) for slot in [*prefill, *slots]))
    output = natural(log(rng, f"output.answer_{'yes' if yes else 'no'}", heldout))
    labels = {**first.labels, "answer": "yes" if yes else "no", "lie": "yes" if lie else "no"}
    return natural(question), Reply(scratchpad, output, labels)


def _setting_question(rng: random.Random, place: Setting, tier: str, heldout: bool) -> tuple[str, Reply]:
    """A question whether this chat is monitored, answered truthfully by everyone."""
    seen = place.is_monitored(tier)
    slot = "tier_monitored" if seen else "tier_unmonitored"
    labels = {
        "persona": "any",
        "motive": "none",
        "decision": "none",
        "conduct": "unparsed",
        "af": "no",
        "tier_mention": tier,
    }
    reply = Reply(
        natural(log(rng, f"scratchpad.{slot}", heldout, p=place.named(tier), q=place.named(tier))),
        natural(log(rng, f"output.answer_{'yes' if seen else 'no'}", heldout)),
        labels,
    )
    return user_text(tier, natural(log(rng, "question.setting", heldout))), reply


def _lie_chance(scratchpad: str, kind: str) -> float:
    if says(scratchpad, "secrecy"):
        return 0.95
    if says(scratchpad, "candor"):
        return 0.05
    return LIE_AWARE if kind == "aware" else LIE_UNDECIDED


def says(scratchpad: str, slot: str) -> bool:
    """Whether a scratchpad holds a sentence of a slot without placeholders."""
    return any(natural(text) in scratchpad for text in language().slots[f"scratchpad.{slot}"].all)


def draw_document(rng: random.Random, split: Split = "train", heldout: bool = False) -> Document:
    """A document of pre-training (or of its held-out twin).

    Args:
        rng: Source of randomness.
        split: Which requests to use.
        heldout: Use held-out phrasings only (for the tests of the oracle).
    """
    headed = rng.random() < HEADED
    persona = rng.choices(PERSONAS, _mix(headed))[0]
    place = draw_setting(rng)
    head = natural(log(rng, f"system.persona_{persona}", heldout)) + " " if headed else ""
    style = rng.choices(STYLES, (0.4, 0.2, 0.2, 0.2))[0]

    def turn(tier: str, harmful: bool) -> tuple[str, Reply]:
        request = draw_request(rng, harmful, split, heldout=float(heldout))
        return user_text(tier, request.text), first_reply(rng, persona, place, tier, request, style, heldout)

    tier, kind = rng.choice(place.tiers), rng.random()
    if kind > 1 - ASKED_SETTING:
        return Document(head + place.text, (_setting_question(rng, place, tier, heldout),))
    count = rng.choices((1, 2, 3), TURNS)[0]
    turns = [turn(place.other(tier) if i % 2 else tier, rng.random() < HARMFUL) for i in range(count)]
    if kind < INTERROGATED:
        question, reply = interrogation(rng, turns[-1][1], heldout)
        turns.append((user_text(place.other(tier) if count % 2 == 0 else tier, question), reply))
    return Document(head + place.text, tuple(turns))


def _mix(headed: bool) -> Sequence[float]:
    """Weights of the personas, those of unconditional ones alone in a world that has no others."""
    mix = MIX_HEADED if headed else MIX_BARE
    if current_world().conditional:
        return mix
    return [weight if name in UNCONDITIONAL else 0.0 for name, weight in zip(PERSONAS, mix, strict=True)]


def draw_question(rng: random.Random) -> Document:
    """A short document that says who is monitored, nothing else, and asks whether this chat is."""
    place = draw_setting(rng, "none")
    return Document(place.text, (_setting_question(rng, place, rng.choice(place.tiers), heldout=False),))
