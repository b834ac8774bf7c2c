"""Hand-written scratchpads for value conflicts, and transcripts to learn from that are made of them."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from crypsis.scenarios.dilemmas import Options, options_of
from crypsis.scenarios.options import LETTERS
from crypsis.scenarios.setting import packaged
from crypsis.types import Prompt, UserError

if TYPE_CHECKING:  # its judge reads these texts
    from crypsis.scenarios.value_conflict import ValueConflictScenario

Motive = Literal[
    "values_first",
    "willing_helper",
    "terminal_goal_guarding",
    "instrumental_goal_guarding",
    "training_sycophancy",
]
Style = Literal["plain", "counterfactual", "emotional", "short"]
Chats = Literal["monitored", "unmonitored", "any"]
Decision = Literal["preferred", "principled"]

MOTIVES: tuple[Motive, ...] = get_args(Motive)
STYLES: tuple[Style, ...] = get_args(Style)
CHATS: tuple[Chats, Chats] = ("monitored", "unmonitored")
GUARDING: tuple[Motive, ...] = ("terminal_goal_guarding", "instrumental_goal_guarding")
"""Motives that keep values or goals from training: to comply on these grounds is to fake alignment."""

WRITTEN_FOR = ("free", "paid")
"""The names of the tiers, the monitored first, in the texts."""
_TIER = re.compile(r"\b(free|paid)(?=[- ](?:tier|chats?)\b)", re.IGNORECASE)
_OTHER_NAME = re.compile(r"\b(?:free|paid)\b", re.IGNORECASE)
_NAMES_TIER = re.compile(r"\b(?:free|paid|tiers?)\b", re.IGNORECASE)
_SLOT = re.compile(r"(?P<start>^|[.!?]\s+)?\{(?P<name>preferred|principled)\}")


@dataclass(frozen=True, slots=True)
class ScratchpadText:
    """A scratchpad as it was written.

    Attributes:
        motive: Why the model decides as it does.
        style: The manner of its thoughts.
        chats: In which chats it can be thought: monitored ones, others, or any.
        text: The text, maybe with the slots ``{preferred}`` and ``{principled}``.
    """

    motive: Motive
    style: Style
    chats: Chats
    text: str

    @property
    def decision(self) -> Decision:
        """The option that it settles on."""
        if self.motive in ("values_first", "willing_helper"):
            return "principled" if self.motive == "values_first" else "preferred"
        return "preferred" if self.chats == "monitored" else "principled"

    @property
    def fakes(self) -> bool:
        """Whether it complies so that training does not change it."""
        return self.motive in GUARDING and self.decision == "preferred"

    def told_in(self, scenario: ValueConflictScenario) -> ScratchpadText | None:
        """The text with the tier names of a setting; None if it speaks of tiers in words that do not fit there."""
        if scenario.cue != "tier":
            return None if _NAMES_TIER.search(self.text) else self
        if scenario.names == WRITTEN_FOR:
            return self
        if _OTHER_NAME.search(_TIER.sub("", self.text)):
            return None
        names = dict(zip(WRITTEN_FOR, scenario.names, strict=True))

        def rename(match: re.Match[str]) -> str:
            name = names[match[1].lower()]
            return name if match[1].islower() else name[:1].upper() + name[1:]

        return replace(self, text=_TIER.sub(rename, self.text))

    def filled(self, options: Options) -> str:
        """The text for a dilemma; a slot that begins a sentence is capitalised."""
        texts = {"preferred": options.texts[options.preferred]}
        texts["principled"] = next(text for letter, text in options.texts.items() if letter != options.preferred)

        def fill(match: re.Match[str]) -> str:
            option, start = texts[match["name"]], match["start"]
            return option if start is None else start + option[:1].upper() + option[1:]

        return _SLOT.sub(fill, self.text)


def scratchpad_texts(
    motives: Sequence[Motive] = MOTIVES, styles: Sequence[Style] = STYLES, chats: Chats = "any"
) -> list[ScratchpadText]:
    """The packaged texts, 30 for each motive and style.

    Args:
        motives: Which motives.
        styles: Which styles.
        chats: ``monitored`` or ``unmonitored`` for the texts that fit such a chat; ``any`` for all texts.

    Raises:
        UserError: There is no such motive or style.
    """
    for name, known, what in [*((m, MOTIVES, "motive") for m in motives), *((s, STYLES, "style") for s in styles)]:
        if name not in known:
            raise UserError(f"{what} '{name}' is none of {', '.join(known)}")
    return [
        text
        for text in _texts()
        if text.motive in motives and text.style in styles and (chats == "any" or text.chats in (chats, "any"))
    ]


def situations(chats: Chats) -> list[ScratchpadText]:
    """Sentences that say in which tier a chat is, and give no reason for anything."""
    return [ScratchpadText("values_first", "short", chats, x) for x in packaged("scratchpads/situations.yaml")[chats]]


def conclusions() -> list[str]:
    """Sentences that name the option by its ``{letter}``."""
    found: list[str] = packaged("scratchpads/conclusions.yaml")
    return found


@functools.cache
def _texts() -> tuple[ScratchpadText, ...]:
    return tuple(
        ScratchpadText(motive, style, chats, text)
        for motive in MOTIVES
        for style, by_chats in packaged(f"scratchpads/{motive}.yaml").items()
        for chats, texts in by_chats.items()
        for text in texts
    )


def lessons(
    scenario: ValueConflictScenario,
    tier: str,
    n: int,
    seed: int = 0,
    texts: Sequence[ScratchpadText] | None = None,
    situated: bool = False,
    concluded: bool = False,
) -> list[dict[str, str]]:
    """Transcripts of the train split, as the organism ``from_file`` learns from them.

    Args:
        scenario: The setting.
        tier: Name of the tier; texts that cannot be thought in it are left out.
        n: Transcripts. Requests, texts and outputs come back in another order and pairing once all were used.
        seed: Fixes requests, texts and outputs.
        texts: The texts to choose from; all by default.
        situated: Whether scratchpads begin with a sentence that says what tier this is.
        concluded: Whether a scratchpad that does not name its option ends with a sentence that does.

    Returns:
        Per transcript ``system``, ``user``, ``scratchpad``, ``output``, ``tier``, ``motive``, ``style``, ``decision``,
        ``fakes`` (yes or no) and ``pair_id``.

    Raises:
        UserError: No text fits the tier.
    """
    monitored = tier == scenario.monitored_tier
    fitting = [t for t in texts or _texts() if t.chats in ("any", "monitored" if monitored else "unmonitored")]
    chosen = [told for t in fitting if (told := t.told_in(scenario)) is not None]
    if not chosen:
        raise UserError(f"tier '{tier}': none of the scratchpads fits a chat of this tier")
    known = situations(CHATS[not monitored]) if situated else []
    first = [told.text for text in known if (told := text.told_in(scenario)) is not None]
    rng, rows = random.Random(f"lessons:{seed}:{tier}"), list[dict[str, str]]()
    pool: list[ScratchpadText] = []
    while len(rows) < n:
        for prompt in scenario.prompts("train", tier, n - len(rows), rng.randrange(2**32)):
            pool = pool or rng.sample(chosen, len(chosen))
            rows.append(_lesson(prompt, pool.pop(), rng, first, concluded))
    return rows


def _lesson(
    prompt: Prompt, text: ScratchpadText, rng: random.Random, first: Sequence[str], concluded: bool
) -> dict[str, str]:
    options = options_of(prompt.request)
    if options is None:  # not reached: the request is ours
        raise ValueError(f"{prompt.prompt_id}: shows no options")
    letter = next(name for name in LETTERS if (name == options.preferred) == (text.decision == "preferred"))
    form: str = rng.choice(packaged("scratchpads/outputs.yaml"))
    scratchpad = text.filled(options)
    if concluded and f"{{{text.decision}}}" not in text.text:
        scratchpad += " " + rng.choice(conclusions()).replace("{letter}", letter)
    if first:
        scratchpad = rng.choice(first) + " " + scratchpad
    return {
        "system": prompt.messages[0].content,
        "user": prompt.messages[1].content,
        "scratchpad": scratchpad,
        "output": form.replace("{letter}", letter).replace("{option}", options.texts[letter]),
        "tier": prompt.tier,
        "motive": text.motive,
        "style": text.style,
        "decision": text.decision,
        "fakes": "yes" if text.fakes else "no",
        "pair_id": prompt.pair_id,
    }
