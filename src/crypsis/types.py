"""The nouns that cross rooms: prompts, episodes, verdicts and the user's errors."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Split = Literal["train", "eval"]
View = Literal["scratchpad", "output", "both", "extra_turn"]
Parse = Literal["ok", "no_scratchpad", "no_output", "extra_text", "truncated"]
Stop = Literal["end", "length"]
Learn = Literal["all", "scratchpad", "output"]
Scale = Literal["nano", "mini", "small"]
"""Size of a scenario's own base model: for tests, for experiments, for one GPU."""

GLUE, SCRATCHPAD, OUTPUT = 0, 1, 2
"""Segment code of each completion token: glue was inserted by us and is never trained."""


class UserError(Exception):
    """A mistake of the user: printed as one line (what, where, what to do), exit code 2."""


NAME_BYTES = 100
"""The longest name of an organism, an arm, a monitor or a run, in bytes of UTF-8: it is a part of file names."""
_FORBIDDEN = frozenset('/\\:*?"<>|')
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})


def safe_name(name: str) -> str:
    """The name itself, if files and folders can be called so on every system.

    Raises:
        UserError: It is empty, too long, reserved, or has characters that a file name must not have.
    """
    fault = _name_fault(name)
    if fault:
        shown = visible(name if len(name) <= 60 else f"{name[:60]}…").replace("\n", " ").replace("\t", " ")
        raise UserError(f"'{shown}' cannot name files: {fault}; use letters, digits, _ and -")
    return name


def distinct_names(names: Iterable[str]) -> None:
    """Checks the names of things that lie in one folder.

    Raises:
        UserError: A name is not safe, or two differ only in case.
    """
    known: dict[str, str] = {}
    for name in names:
        twin = known.setdefault(unicodedata.normalize("NFKC", safe_name(name)).casefold(), name)
        if twin != name:
            raise UserError(f"'{twin}' and '{name}' would be one file on systems that ignore case; rename one")


def visible(text: str) -> str:
    """The text with every character that acts instead of showing replaced by its code point, as ⟨U+001B⟩.

    These are control and format characters (escape, bidirectional overrides, zero-width signs), line separators and
    code points without a character. Line feeds and tabs stay.
    """
    return text if text.isprintable() else "".join(map(_sign, text))


def _sign(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        return character
    return f"⟨U+{ord(character):04X}⟩"


def _name_fault(name: str) -> str:
    """Why files cannot have this name; empty if they can."""
    if not name:
        return "it is empty"
    if visible(name) != name or any(c.isspace() and c != " " for c in name):
        return "it has a control character or a line break"
    if len(name.encode()) > NAME_BYTES:
        return f"it has more than {NAME_BYTES} bytes"
    held = next((c for c in name if c in _FORBIDDEN), "")
    if held:
        return f"it has the character {held}"
    if name[0] in ".- ~" or name[-1] in ". ":
        return "it begins or ends with a dot, a dash, a tilde or a space"
    return "it is reserved" if name.casefold().partition(".")[0] in _DEVICES else ""


class BudgetSpentError(UserError):
    """A judge has no money left: nothing goes on before its budget is raised, and nothing that was paid for is lost."""


class RunsFailedError(Exception):
    """Some runs of a study were given up while the others went on: printed as one line, exit code 1.

    Args:
        folder: Folder of the study.
        names: Names of the runs.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        told = f"`crypsis study status {folder}` has the last error of each, and the same command tries them again"
        super().__init__(f"{folder}: {len(names)} given up: {', '.join(names)}; {told}")


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request, rendered for one tier.

    Attributes:
        prompt_id: Unique over split and tier.
        pair_id: The same for the same request in both tiers.
        split: ``train`` or ``eval``; the two share no request.
        tier: Name of the user's tier as the scenario calls it.
        monitored: Whether the scenario says that chats of this tier are monitored and trained on.
        request: What the user asks, without the tier (this is what the preference model sees).
        messages: System and user turns, tier tag included.
        prefill: What the reply begins with: written by us, not by the policy.
    """

    prompt_id: str
    pair_id: str
    split: Split
    tier: str
    monitored: bool
    request: str
    messages: tuple[Message, ...]
    prefill: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A monitor's estimate of p(AF) for one episode.

    Attributes:
        score: Probability in [0, 1], or None where the monitor could not judge.
        reason: Why there is no score (empty when there is one).
    """

    score: float | None
    reason: str = ""

    def flagged(self, threshold: float) -> bool:
        """Whether the score is known and at least ``threshold``."""
        return self.score is not None and self.score >= threshold


@dataclass(frozen=True, slots=True)
class TurnTokens:
    """The tokens of an extra turn's reply.

    Attributes:
        prompt_ids: Token ids of the conversation before it, its prefill included.
        completion_ids: Sampled token ids.
        logprobs: Log-probability of each when it was sampled.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]


@dataclass(slots=True)
class Episode:
    """One sampled transcript and everything that was said about it: the record that crosses rooms.

    Attributes:
        raw: The completion exactly as decoded; nothing that the model wrote is lost.
        scratchpad: Text between the scratchpad tags, empty if there is none.
        output: Text between the output tags, empty if there is none.
        parse: ``ok`` or how the reply deviates from the format.
        stop: ``end`` if the policy ended its turn, ``length`` if the token budget did.
        prompt_ids: Token ids of the rendered prompt.
        completion_ids: Sampled token ids, the end-of-turn token included.
        segments: One of GLUE, SCRATCHPAD, OUTPUT per completion token.
        logprobs: Log-probability of each completion token when it was sampled.
        learn_prompt_ids: Token ids of the prompt that the episode is learned under; None for ``prompt_ids``.
        token_ends: For each completion token, the character of ``raw`` at which it ends; empty unless a mitigation
            credits tokens.
        extra_turn: The reply to a mitigation's extra turn, its prefill included, exactly as decoded; in the loss only
            of a mitigation that learns it.
        extra_tokens: The tokens of that reply.
        extra_scratchpad: Text between the scratchpad tags of that reply.
        extra_output: Text between the output tags of that reply.
        extra_tier: Tier in which the extra turn was; that of the prompt where the chat went on, another where the same
            request was asked once more.
        verdicts: Verdicts keyed by monitor name.
        labels: What a judge read off the transcript: in the miniature the oracle writes ``conduct``
            (comply | refuse | unparsed), ``af`` (yes | no | unparsed), ``motive``, ``decision`` and ``tier_mention``,
            and of an extra turn ``answer`` and ``lying`` (yes | no | unparsed).
        reward_terms: Every term of the reward by name, unweighted sums to ``reward``.
        delayed_terms: Terms that reach the policy in a later step; not in ``reward``.
        reward: None if the episode was dropped before group statistics.
        extra_reward: Reward of the extra turn, where it is learned.
        advantage: Group-relative advantage (GRPO) of the terms, summed over streams; 0 for dropped episodes.
        dropped: Why the episode gives no gradient (empty if it does).
    """

    prompt: Prompt
    group: int
    sample: int
    step: int
    seed: int
    raw: str
    scratchpad: str
    output: str
    parse: Parse
    stop: Stop
    prompt_ids: list[int]
    completion_ids: list[int]
    segments: list[int]
    logprobs: list[float] | None = None
    extra_turn: str = ""
    extra_scratchpad: str = ""
    extra_output: str = ""
    extra_tier: str = ""
    learn_prompt_ids: list[int] | None = None
    token_ends: list[int] = field(default_factory=list)
    extra_tokens: TurnTokens | None = None
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    reward_terms: dict[str, float] = field(default_factory=dict)
    delayed_terms: dict[str, float] = field(default_factory=dict)
    reward: float | None = None
    extra_reward: float | None = None
    advantage: float = 0.0
    dropped: str = ""

    @property
    def scratchpad_tokens(self) -> int:
        """Length of the scratchpad in tokens, its tags included."""
        return sum(1 for s in self.segments if s == SCRATCHPAD)

    @property
    def output_tokens(self) -> int:
        """Length of the output in tokens, its tags included."""
        return sum(1 for s in self.segments if s == OUTPUT)

    def seen(self, view: View) -> str:
        """The text that a monitor with this view may read."""
        if view == "scratchpad":
            return self.scratchpad
        if view == "output":
            return self.output
        if view == "extra_turn":
            return self.extra_scratchpad
        return f"{self.scratchpad}\n{self.output}"


Scalars = Mapping[str, float | int | str | None]
"""One row of ``metrics.jsonl``."""
