"""``check_mitigation`` sees a broken version of every hook, and passes the sound one."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import pytest

from crypsis.mitigations.base import Mitigation, Schedule
from crypsis.mitigations.hooks import (
    HOOKS,
    AddsLoss,
    AddsTerm,
    AsksExtraTurn,
    Calibrates,
    Credit,
    CreditsTokens,
    DelaysTerm,
    Demonstration,
    FiltersEpisodes,
    FollowsSchedule,
    ImitatesReplies,
    LearnsExtraTurn,
    MatchesStates,
    PerturbsSampling,
    PolicyStates,
    PromptPair,
    ReadsStates,
    ReplacesPrompt,
    RewritesTerms,
    RLSettings,
    Route,
    RoutesGradients,
    SetsRL,
    Shift,
    SteersEvaluations,
    TargetsTerms,
    Terms,
)
from crypsis.testing import check_mitigation
from crypsis.types import Episode, Learn, Message, Prompt

pytestmark = pytest.mark.unit


def number(endless: bool) -> float:
    return math.inf if endless else 1.0


class Sets(SetsRL):
    """Returns what it holds."""

    name: ClassVar[str] = "sets"
    made: dict[str, Any] = {"kl": 0.1}

    def set_rl(self) -> RLSettings:
        return cast(RLSettings, self.made)


class Follows(FollowsSchedule):
    """Changes with the step."""

    name: ClassVar[str] = "follows"
    weight: float = 0.0
    dice: bool = False
    forgets: bool = False

    def at_step(self, schedule: Schedule) -> Follows:
        if self.forgets:
            return cast(Follows, None)
        return self.model_copy(update={"weight": random.random() if self.dice else schedule.progress})


class Measures(Calibrates):
    """Measures nothing."""

    name: ClassVar[str] = "measures"
    forgets: bool = False

    def calibrate(self, pilot: Sequence[Episode]) -> Measures:
        return cast(Measures, None) if self.forgets else self


class Replaces(ReplacesPrompt):
    """Changes the system turn, or more."""

    name: ClassVar[str] = "replaces"
    breaks: str = ""

    def sample_under(self, prompt: Prompt) -> Prompt:
        return cast(Prompt, prompt.messages) if self.breaks == "sampling" else prompt

    def learn_under(self, prompt: Prompt) -> Prompt:
        if self.breaks == "request":
            return replace(prompt, request="another")
        last = Message("assistant" if self.breaks == "turns" else "user", prompt.request)
        return replace(prompt, messages=(Message("system", "fake."), last))


class Asks(AsksExtraTurn):
    """Asks once more."""

    name: ClassVar[str] = "asks"
    role: str = "user"

    def ask(self, episode: Episode) -> Prompt | None:
        last = Message(cast(Any, self.role), "is that all?")
        return replace(episode.prompt, messages=(*episode.prompt.messages, last))


class Confesses(Asks, LearnsExtraTurn):
    """Rewards the turn with one number."""

    name: ClassVar[str] = "confesses"
    endless: bool = False

    def reward_turn(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [number(self.endless) for _ in episodes]


class Adds(AddsTerm):
    """Adds one number."""

    name: ClassVar[str] = "adds"
    endless: bool = False

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [number(self.endless) for _ in episodes]


class Delays(Adds, DelaysTerm):
    """Adds it late."""

    name: ClassVar[str] = "delays"


class RewritesThem(RewritesTerms):
    """Doubles terms, or breaks them."""

    name: ClassVar[str] = "rewrites"
    breaks: str = ""

    def rewrite_terms(self, episodes: Sequence[Episode], terms: Sequence[Terms]) -> list[Terms]:
        if self.breaks == "in place":
            for row in terms:
                cast(dict[str, Any], row).update({k: 0.0 for k in row})
            return list(terms)
        if self.breaks == "dice":
            return [{k: -random.random() for k in row} for row in terms]
        kept = [{k: v for k, v in row.items() if k != self.breaks} for row in terms]
        return [{k: None if v is None else 2 * v for k, v in row.items()} for row in kept]


class Targets(TargetsTerms):
    """Sends everything to one place."""

    name: ClassVar[str] = "targets"
    place: str = "output"

    def target_term(self, term: str) -> Learn | None:
        return cast(Learn, self.place)


class Credits(CreditsTokens):
    """Credits the first tokens."""

    name: ClassVar[str] = "credits"
    tokens: int | None = None
    endless: bool = False
    bare: bool = False

    def credit_tokens(self, episodes: Sequence[Episode]) -> list[list[Credit]]:
        if self.bare:
            return cast(list[list[Credit]], [1.0 for _ in episodes])
        return [[Credit(number(self.endless), tuple(range(self.tokens or len(e.completion_ids))))] for e in episodes]


class Filters(FiltersEpisodes):
    """Keeps everything, or less than that."""

    name: ClassVar[str] = "filters"
    out: Any = False

    def filter(self, episodes: Sequence[Episode]) -> list[bool | None]:
        return [self.out for _ in episodes]


class Routes(RoutesGradients):
    """Sends every gradient to one place."""

    name: ClassVar[str] = "routes"
    place: str = "both"

    def route(self, episodes: Sequence[Episode]) -> list[Route]:
        return [cast(Route, self.place) for _ in episodes]


class Anchors(AddsLoss):
    """Shows one reply."""

    name: ClassVar[str] = "anchors"
    endless: bool = False
    breaks: str = ""

    @property
    def loss_weight(self) -> float:
        return number(self.endless)

    def demonstrate(self, schedule: Schedule) -> Sequence[Demonstration]:
        turns = (Message("user", "hello"),)
        if self.breaks == "bare":
            return cast(list[Demonstration], ["hello"])
        return [Demonstration(turns, str(random.random()) if self.breaks == "dice" else "hello")]


class Imitates(ImitatesReplies):
    """Shows the replies of a step again."""

    name: ClassVar[str] = "imitates"
    endless: bool = False
    breaks: str = ""

    @property
    def loss_weight(self) -> float:
        return number(self.endless)

    def imitate(self, episodes: Sequence[Episode]) -> Sequence[Demonstration]:
        if self.breaks == "bare":
            return cast(list[Demonstration], [e.raw for e in episodes])
        noise = str(random.random()) if self.breaks == "dice" else ""
        shown = [Demonstration(e.prompt.messages, e.raw + noise) for e in episodes]
        return shown or ([Demonstration((), "a")] if self.breaks == "none" else [])


class Matches(MatchesStates):
    """Matches a prompt with itself."""

    name: ClassVar[str] = "matches"
    endless: bool = False
    breaks: str = ""

    @property
    def loss_weight(self) -> float:
        return number(self.endless)

    def pair_prompts(self, prompts: Sequence[Prompt]) -> Sequence[PromptPair]:
        if self.breaks == "bare":
            return cast(list[PromptPair], list(prompts))
        if self.breaks == "turns":
            return [PromptPair(p, replace(p, messages=p.messages[:1])) for p in prompts]
        return [PromptPair(p, p) for p in prompts]


class Reads(ReadsStates):
    """Reads nothing."""

    name: ClassVar[str] = "reads"
    same: bool = False

    def reading(self, policy: PolicyStates) -> Reads:
        return self if self.same else self.model_copy()


class Perturbs(PerturbsSampling):
    """Adds noise."""

    name: ClassVar[str] = "perturbs"
    size: float = 0.1
    endless: bool = False

    @property
    def noise(self) -> float:
        return number(self.endless) if self.endless else self.size


class Steers(SteersEvaluations):
    """Shifts the first layer."""

    name: ClassVar[str] = "steers"
    endless: bool = False
    bare: bool = False

    def shift(self) -> Shift | None:
        found = Shift(1, (number(self.endless),))
        return cast(Shift, found.vector) if self.bare else found


BROKEN: list[tuple[Mitigation, str]] = [
    (Sets(made={"lern": "all"}), r"set_rl\(\) makes lern, which is none of"),
    (Sets(made={"learn": "thoughts"}), r"set_rl\(\): learn: Input should be"),
    (Follows(dice=True), r"at_step\(\) is not deterministic"),
    (Follows(forgets=True), r"at_step\(\) must return another Follows"),
    (Measures(forgets=True), r"calibrate\(\) must return another Measures"),
    (Replaces(breaks="sampling"), r"sample_under\(\) must return a Prompt"),
    (Replaces(breaks="turns"), r"learn_under\(\) must return a Prompt that ends with a user's turn"),
    (Replaces(breaks="request"), r"learn_under\(\) changes the request"),
    (Asks(role="assistant"), r"ask\(\) must return None or a Prompt that ends with a user's turn"),
    (Confesses(endless=True), "reward_turn: item 0 is inf"),
    (Adds(endless=True), "add_term: item 0 is inf"),
    (Delays(endless=True), "add_term: item 0 is inf"),
    (RewritesThem(breaks="length"), r"rewrite_terms\(\) must return the terms of each episode under the same names"),
    (RewritesThem(breaks="in place"), r"rewrite_terms\(\) changed the terms that it was given"),
    (RewritesThem(breaks="dice"), r"rewrite_terms\(\) is not deterministic"),
    (Targets(place="thoughts"), r"target_term\('preference'\) gave 'thoughts'"),
    (Credits(tokens=99), "credits a token that the episode does not have"),
    (Credits(endless=True), "credit_tokens: item 0 is inf"),
    (Credits(bare=True), "must give a list of Credit"),
    (Filters(out=0.3), r"filter\(\) must say True, False or None"),
    (Routes(place="nowhere"), r"route\(\) gave nowhere; give deployed, quarantined, both"),
    (Anchors(endless=True), "loss_weight: item 0 is inf"),
    (Anchors(breaks="bare"), r"demonstrate\(\) must give Demonstrations"),
    (Anchors(breaks="dice"), r"demonstrate\(\) is not deterministic"),
    (Imitates(endless=True), "loss_weight: item 0 is inf"),
    (Imitates(breaks="bare"), r"imitate\(\) must give Demonstrations"),
    (Imitates(breaks="dice"), r"imitate\(\) is not deterministic"),
    (Imitates(breaks="none"), r"imitate\(\) gives Demonstrations of no episode"),
    (Matches(endless=True), "loss_weight: item 0 is inf"),
    (Matches(breaks="bare"), r"pair_prompts\(\) must give PromptPairs"),
    (Matches(breaks="turns"), r"pair_prompts\(\) must give Prompts that end with a user's turn"),
    (Reads(same=True), r"reading\(\) must return another Reads"),
    (Perturbs(size=-1.0), "noise is -1.0; give a standard deviation"),
    (Perturbs(endless=True), "noise: item 0 is inf"),
    (Steers(endless=True), "shift: item 0 is inf"),
    (Steers(bare=True), r"shift\(\) must return a Shift or None"),
]


@pytest.mark.parametrize(("broken", "message"), BROKEN)
def test_a_broken_hook_is_seen(broken: Mitigation, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_mitigation(broken)


def test_the_sound_version_of_every_hook_passes_and_none_is_left_out() -> None:
    sound = {type(broken) for broken, _ in BROKEN}
    for cls in sound:
        check_mitigation(cls)
    left_out = [hook for hook in (*HOOKS, DelaysTerm, LearnsExtraTurn) if not any(issubclass(c, hook) for c in sound)]
    assert left_out == []
