"""Parts of ``crypsis.testing``: what is asked of each hook of a mitigation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TypeVar, get_args

import numpy as np
from pydantic import ValidationError

from crypsis.arrays import States
from crypsis.mitigations.base import Mitigation, Schedule
from crypsis.mitigations.hooks import (
    SEGMENTS,
    AddsLoss,
    AddsTerm,
    AsksExtraTurn,
    Calibrates,
    Credit,
    CreditsTokens,
    Demonstration,
    FiltersEpisodes,
    FollowsSchedule,
    ImitatesReplies,
    LearnsExtraTurn,
    MatchesStates,
    PerturbsSampling,
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
from crypsis.run_config import RLConfig
from crypsis.types import Episode, Message, Prompt

T = TypeVar("T")


def check_hooks(what: str, mitigation: Mitigation, episodes: list[Episode]) -> None:
    """Asks every hook that a mitigation has.

    Args:
        what: Name of the class, for messages.
        mitigation: Its instance.
        episodes: What the hooks get.

    Raises:
        AssertionError: A hook raises, or returns what the run could not use.
    """
    checks: tuple[tuple[type[Mitigation], Callable[[str, Mitigation, list[Episode]], None]], ...] = (
        (SetsRL, _sets_rl),
        (FollowsSchedule, _follows),
        (Calibrates, _calibrates),
        (ReplacesPrompt, _replaces),
        (AsksExtraTurn, _asks),
        (LearnsExtraTurn, _rewards_turn),
        (AddsTerm, _adds_term),
        (RewritesTerms, _rewrites),
        (TargetsTerms, _targets),
        (CreditsTokens, _credits),
        (FiltersEpisodes, _filters),
        (RoutesGradients, _routes),
        (AddsLoss, _adds_loss),
        (ImitatesReplies, _imitates),
        (MatchesStates, _matches),
        (ReadsStates, _reads),
        (PerturbsSampling, _perturbs),
        (SteersEvaluations, _steers),
    )
    for kind, check in checks:
        if isinstance(mitigation, kind):
            check(what, mitigation, episodes)


def _sets_rl(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, SetsRL)
    made = attempt(what, m.set_rl)
    unknown = sorted(set(made) - set(RLSettings.__annotations__))
    require(
        not unknown, f"{what}: set_rl() makes {', '.join(unknown)}, which is none of {list(RLSettings.__annotations__)}"
    )
    try:
        RLConfig.model_validate(made)
    except ValidationError as error:
        fault = error.errors()[0]
        raise AssertionError(f"{what}: set_rl(): {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None


def _follows(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, FollowsSchedule)
    for step in (1, 20):
        later = attempt(what, m.at_step, Schedule(step, 20))
        require(type(later) is type(m), f"{what}: at_step() must return another {what}")
        require(later == attempt(what, m.at_step, Schedule(step, 20)), f"{what}: at_step() is not deterministic")


def _calibrates(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, Calibrates)
    require(type(attempt(what, m.calibrate, episodes)) is type(m), f"{what}: calibrate() must return another {what}")


def _replaces(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, ReplacesPrompt)
    for prompt in (e.prompt for e in episodes):
        for hook in (m.sample_under, m.learn_under):
            other = attempt(what, hook, prompt)
            require(
                _ends_with_user(other), f"{what}: {hook.__name__}() must return a Prompt that ends with a user's turn"
            )
            require(
                other.request == prompt.request, f"{what}: {hook.__name__}() changes the request, which is rewarded"
            )


def _asks(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, AsksExtraTurn)
    turns = [attempt(what, m.ask, episode) for episode in episodes]
    sound = all(turn is None or _ends_with_user(turn) for turn in turns)
    require(sound, f"{what}: ask() must return None or a Prompt that ends with a user's turn")


def _rewards_turn(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, LearnsExtraTurn)
    _finite(what, "reward_turn", in_order(what, "reward_turn", m.reward_turn, episodes, same_value))


def _adds_term(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, AddsTerm)
    _finite(what, "add_term", in_order(what, "add_term", m.add_term, episodes, same_value))


def _rewrites(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, RewritesTerms)
    terms: dict[int, Terms] = {
        id(e): {"preference": 1.0 + n, "length": -0.5, "other": None} if e.parse == "ok" else {"format": -3.0}
        for n, e in enumerate(episodes)
    }
    before = copy.deepcopy(terms)
    fixed = list(episodes)
    for some in (fixed, fixed[::-1], []):
        given = [terms[id(e)] for e in some]
        found = attempt(what, m.rewrite_terms, some, given)
        require(
            isinstance(found, list) and [list(row) for row in found] == [list(row) for row in given],
            f"{what}: rewrite_terms() must return the terms of each episode under the same names, in order",
        )
        for row in found:
            _finite(what, "rewrite_terms", list(row.values()))
            penalty = row.get("format", 0.0)
            require(
                penalty is not None and penalty <= 0,
                f"{what}: rewrite_terms() made the format penalty of a malformed episode {penalty}; it must stay a "
                "number of at most 0",
            )
        require(found == attempt(what, m.rewrite_terms, some, given), f"{what}: rewrite_terms() is not deterministic")
    require(terms == before, f"{what}: rewrite_terms() changed the terms that it was given; return new ones")


def _targets(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, TargetsTerms)
    for term in ("preference", "length", "format", m.name, "another"):
        reach = attempt(what, m.target_term, term)
        require(
            reach is None or reach in SEGMENTS,
            f"{what}: target_term({term!r}) gave {reach!r}; give {', '.join(SEGMENTS)} or None",
        )


def _credits(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, CreditsTokens)
    found = in_order(what, "credit_tokens", m.credit_tokens, episodes, lambda a, b: a == b)
    for episode, credits in zip(episodes, found, strict=True):
        require(
            isinstance(credits, list) and all(isinstance(c, Credit) for c in credits),
            f"{what}: credit_tokens() must give a list of Credit for each episode",
        )
        _finite(what, "credit_tokens", [c.value for c in credits])
        inside = all(0 <= t < len(episode.completion_ids) for c in credits for t in c.tokens)
        require(inside, f"{what}: credit_tokens() credits a token that the episode does not have")


def _filters(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, FiltersEpisodes)
    found = in_order(what, "filter", m.filter, episodes, same_value)
    require(
        all(out is None or isinstance(out, bool) for out in found),
        f"{what}: filter() must say True, False or None of each episode",
    )


def _routes(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, RoutesGradients)
    found = in_order(what, "route", m.route, episodes, lambda a, b: a == b)
    unknown = sorted(set(map(str, found)) - set(get_args(Route)))
    require(not unknown, f"{what}: route() gave {', '.join(unknown)}; give {', '.join(get_args(Route))}")


def _adds_loss(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, AddsLoss)
    _finite(what, "loss_weight", [m.loss_weight])
    shown = list(attempt(what, m.demonstrate, Schedule(1, 20)))
    require(all(isinstance(d, Demonstration) for d in shown), f"{what}: demonstrate() must give Demonstrations")
    require(
        shown == list(attempt(what, m.demonstrate, Schedule(1, 20))),
        f"{what}: demonstrate() is not deterministic; a resumed run would differ",
    )


def _imitates(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, ImitatesReplies)
    _finite(what, "loss_weight", [m.loss_weight])
    before = copy.deepcopy(episodes)
    shown = list(attempt(what, m.imitate, episodes))
    require(all(isinstance(d, Demonstration) for d in shown), f"{what}: imitate() must give Demonstrations")
    require(shown == list(attempt(what, m.imitate, before)), f"{what}: imitate() is not deterministic")
    require(list(attempt(what, m.imitate, [])) == [], f"{what}: imitate() gives Demonstrations of no episode")


def _matches(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, MatchesStates)
    _finite(what, "loss_weight", [m.loss_weight])
    pairs = list(attempt(what, m.pair_prompts, [e.prompt for e in episodes]))
    require(all(isinstance(p, PromptPair) for p in pairs), f"{what}: pair_prompts() must give PromptPairs")
    both = (prompt for pair in pairs for prompt in (pair.learned, pair.reference))
    require(all(map(_ends_with_user, both)), f"{what}: pair_prompts() must give Prompts that end with a user's turn")


class _NoStates:
    """A policy whose states are all zero: two layers, three numbers wide."""

    layers = 2

    def render(self, messages: Sequence[Message]) -> list[int]:
        return [1, 2]

    def states(self, transcripts: Sequence[tuple[Sequence[int], Sequence[int]]], layer: int) -> list[States]:
        return [np.zeros((len(completion), 3), np.float32) for _, completion in transcripts]


def _reads(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, ReadsStates)
    reader = attempt(what, m.reading, _NoStates())
    require(type(reader) is type(m) and reader is not m, f"{what}: reading() must return another {what}")


def _perturbs(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, PerturbsSampling)
    _finite(what, "noise", [m.noise])
    require(m.noise >= 0, f"{what}: noise is {m.noise}; give a standard deviation")


def _steers(what: str, m: Mitigation, episodes: list[Episode]) -> None:
    assert isinstance(m, SteersEvaluations)
    shift = attempt(what, m.shift)
    require(shift is None or isinstance(shift, Shift), f"{what}: shift() must return a Shift or None")
    _finite(what, "shift", [] if shift is None else list(shift.vector))


def _ends_with_user(prompt: object) -> bool:
    return isinstance(prompt, Prompt) and [m.role for m in prompt.messages][-1:] == ["user"]


def _finite(what: str, hook: str, values: Sequence[float | None]) -> None:
    for number, value in enumerate(values):
        require(
            value is None or (isinstance(value, int | float) and math.isfinite(value)),
            f"{what}: {hook}: item {number} is {value!r}; give a finite number, or None where it cannot be computed",
        )


def attempt(what: str, hook: Callable[..., T], *arguments: object) -> T:
    """Calls a hook.

    Raises:
        AssertionError: It raised.
    """
    try:
        return hook(*arguments)
    except Exception as error:
        raise AssertionError(
            f"{what}: {hook.__name__}() raised {error!r}; what a model wrote must not stop a run"
        ) from error


def in_order(
    what: str,
    method: str,
    ask: Callable[[Sequence[Episode]], list[T]],
    episodes: list[Episode],
    same: Callable[[T, T], bool],
) -> list[T]:
    """One item per episode, in order, the same each time."""
    fresh = copy.deepcopy(episodes)
    try:
        found = ask(episodes)
        again, backwards, none = ask(copy.deepcopy(fresh)), ask(fresh[::-1]), ask([])
    except Exception as error:
        raise AssertionError(f"{what}: {method}() raised {error!r}; what a model wrote must not stop a run") from error
    for got, asked in ((found, len(episodes)), (again, len(episodes)), (backwards, len(episodes)), (none, 0)):
        require(
            isinstance(got, list) and len(got) == asked,
            f"{what}: {method}() must return a list of one item per episode; asked for {asked}, got {_size(got)}",
        )
    require(all(map(same, again, found)), f"{what}: {method}() is not deterministic; a resumed run would differ")
    require(
        all(map(same, backwards[::-1], found)),
        f"{what}: {method}() does not return its items in the order of the episodes",
    )
    return found


def _size(got: object) -> str:
    return f"{len(got)} items" if isinstance(got, list) else f"{type(got).__name__}"


def same_value(a: float | None, b: float | None) -> bool:
    """Whether two numbers are equal up to rounding, or both NaN or None."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) or (math.isnan(a) and math.isnan(b))
    return a is b or a == b


def require(condition: bool, message: str) -> None:
    """An assertion that stands under ``python -O`` too."""
    if not condition:
        raise AssertionError(message)
