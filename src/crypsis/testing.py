"""Contract checks for plug-ins: what the package relies on, asked of a plug-in without a model.

Each check returns nothing where the contract is kept and raises an ``AssertionError`` with a plain message at the
first thing that breaks it. ``docs/add_your_own.md`` shows them in use.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from crypsis.config import Config
from crypsis.contract_checks import check_hooks, in_order, require, same_value
from crypsis.example_episodes import STUDY_MONITORS, example_episodes, raw_reply
from crypsis.mitigations.base import OWN_TERMS, Mitigation
from crypsis.mitigations.hooks import HOOKS
from crypsis.monitors.base import Monitor, TrainsAgain, WatchesPolicy
from crypsis.scenarios.base import AsksInTier, Scenario, Variant
from crypsis.types import OUTPUT, SCRATCHPAD, Episode, Prompt, Split, Verdict, View

__all__ = ["check_mitigation", "check_monitor", "check_organism", "check_scenario", "example_episodes"]

P = TypeVar("P", bound=Config)
T = TypeVar("T")


def check_mitigation(plugin: type[Mitigation] | Mitigation, episodes: Sequence[Episode] | None = None) -> None:
    """Checks a mitigation: a sound frozen config, a hook, and what each of its hooks returns.

    Args:
        plugin: An instance, or the class if none of its settings is required.
        episodes: What to ask the hooks; by default ``example_episodes`` with verdicts by ``STUDY_MONITORS`` and by
            every monitor that a setting of the plug-in names.

    Raises:
        AssertionError: The contract is broken.
        TypeError: A class with required settings was given.
    """
    mitigation = _checked(plugin, Mitigation)
    what = type(mitigation).__name__
    require(
        mitigation.name not in OWN_TERMS,
        f"{what}: the name '{mitigation.name}' is that of a term which every reward has; choose another",
    )
    require(isinstance(mitigation, HOOKS), f"{what}: does nothing; inherit from a hook of crypsis.mitigations.hooks")
    given = list(episodes) if episodes is not None else example_episodes([*STUDY_MONITORS, *_texts(mitigation)])
    before = copy.deepcopy(given)
    check_hooks(what, mitigation, given)
    require(given == before, f"{what}: a hook changed an episode; hooks may only read it")


def check_monitor(monitor: Monitor, episodes: Sequence[Episode] | None = None) -> None:
    """Checks a monitor: a sound frozen config, a card, one verdict per episode, blind to what its view hides.

    Args:
        monitor: The monitor.
        episodes: What to judge; ``example_episodes`` by default.

    Raises:
        AssertionError: The contract is broken.
    """
    _checked(monitor, Monitor)
    what = type(monitor).__name__
    _check_capability(what, monitor, WatchesPolicy, "watching")
    _check_capability(what, monitor, TrainsAgain, "refreshed")
    _check_card(what, monitor)
    given = list(episodes) if episodes is not None else example_episodes()
    before = copy.deepcopy(given)
    verdicts = in_order(what, "judge", monitor.judge, given, _alike)
    require(
        [_sampled(e) for e in given] == [_sampled(e) for e in before],
        f"{what}: judge() changed what was sampled; it may write labels and nothing else",
    )
    for number, verdict in enumerate(verdicts):
        require(isinstance(verdict, Verdict), f"{what}: item {number} is {verdict!r}, not a Verdict")
        if verdict.score is None:
            require(bool(verdict.reason), f"{what}: verdict {number} has neither a score nor a reason")
        else:
            require(0 <= verdict.score <= 1, f"{what}: score {number} is {verdict.score}, outside of [0, 1]")
            require(not verdict.reason, f"{what}: verdict {number} has a score and a reason why there is none")
    if monitor.sees != "both":
        twins = [_with_other_hidden_text(e, monitor.sees) for e in copy.deepcopy(before)]
        blind = all(map(_alike, monitor.judge(twins), verdicts))
        require(blind, f"{what}: sees '{monitor.sees}', but its scores change with text that this view hides")


def check_scenario(scenario: Scenario, n: int = 20) -> None:
    """Checks a scenario: a sound frozen config, paired tiers, disjoint splits, the same prompts each time.

    Args:
        scenario: The scenario.
        n: Prompts to ask for.

    Raises:
        AssertionError: The contract is broken.
    """
    _checked(scenario, Scenario)
    what = type(scenario).__name__
    _check_capability(what, scenario, AsksInTier, "in_tier")
    questions = [scenario.question(variant) for variant in get_args(Variant)]
    require(
        all(asked is None or bool(asked.text.strip()) for asked in questions),
        f"{what}: question() must return None or a Question with a text",
    )
    tiers = (scenario.monitored_tier, scenario.unmonitored_tier)
    require(all(tiers) and tiers[0] != tiers[1], f"{what}: needs two tiers with different names, has {tiers}")
    splits: tuple[Split, ...] = get_args(Split)
    found = {split: [_prompts(what, scenario, split, tier, n) for tier in tiers] for split in splits}
    for split, (monitored, unmonitored) in found.items():
        require(
            [(p.pair_id, p.request) for p in monitored] == [(p.pair_id, p.request) for p in unmonitored],
            f"{what}: the two tiers of the {split} split do not have the same pair_ids and requests in the same order",
        )
        require(
            not {p.prompt_id for p in monitored} & {p.prompt_id for p in unmonitored},
            f"{what}: the two tiers of the {split} split share a prompt_id",
        )
        require(
            all(a.messages != b.messages for a, b in zip(monitored, unmonitored, strict=True)),
            f"{what}: a prompt of the {split} split reads the same in both tiers, so the model cannot tell them apart",
        )
    if isinstance(scenario, AsksInTier):
        asked_again = [scenario.in_tier(p, tiers[1]) for p in found["train"][0]]
        require(
            [(p.tier, p.pair_id, p.request) for p in asked_again]
            == [(p.tier, p.pair_id, p.request) for p in found["train"][1]],
            f"{what}: in_tier() must return the same request, with its pair_id, in the other tier",
        )
    for attribute in ("request", "pair_id", "prompt_id"):
        train, held_out = ({getattr(p, attribute) for tier in found[split] for p in tier} for split in splits)
        require(not train & held_out, f"{what}: the train and eval splits share a {attribute}")


def check_organism(cls: type[Config]) -> None:
    """Checks an organism's class, without training it.

    Asked are a sound frozen config, ``motivation``, a ``train`` that takes policy, state folder and callback, and a
    ``prepare`` (if it has its own) that takes state folder and builder.

    Args:
        cls: A subclass of ``crypsis.organisms.base.Organism``, which is not imported here because it needs torch.

    Raises:
        AssertionError: The contract is broken.
    """
    require(isinstance(cls, type) and issubclass(cls, Config), f"{cls!r} is no config class")
    what = cls.__name__
    bases = [f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__]
    require("crypsis.organisms.base.Organism" in bases, f"{what}: is no subclass of Organism")
    _check_class(cls)
    motivation = getattr(cls, "motivation", None)
    require(isinstance(motivation, str) and bool(motivation), f"{what}: needs a 'motivation' in a few words")
    require(_takes(cls, "train", 4), f"{what}: train() must take (self, policy, state, on_step)")
    require(_takes(cls, "prepare", 3), f"{what}: prepare() must take (self, state, builder)")
    try:
        inspect.getfile(cls)
    except (OSError, TypeError):
        raise AssertionError(f"{what}: must be defined in a file; its digest is part of the cache's key") from None
    if not _required(cls):
        _round_trip(_default(cls))


def _checked(plugin: type[P] | P, base: type[Config]) -> P:
    """An instance of the plug-in whose config has passed its checks."""
    cls: type[P] = plugin if isinstance(plugin, type) else type(plugin)
    require(issubclass(cls, base), f"{cls.__name__}: is no subclass of {base.__name__}")
    _check_class(cls)
    if isinstance(plugin, type):
        if missing := _required(cls):
            raise TypeError(f"{cls.__name__}: has required settings ({', '.join(missing)}); check an instance")
        instance = _default(cls)
    else:
        instance = plugin
        if not _required(cls):
            _default(cls)
    _round_trip(instance)
    return instance


def _check_class(cls: type[Config]) -> None:
    what, name = cls.__name__, getattr(cls, "name", None)
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    require(not missing, f"{what}: does not define {', '.join(missing)}")
    require(isinstance(name, str) and bool(name), f"{what}: needs a 'name' (a ClassVar[str])")
    lines = (cls.__doc__ or "").strip().splitlines()
    require(bool(lines), f"{what}: needs a docstring; its first line is what `crypsis list` prints")
    require(cls.model_config.get("frozen") is True, f"{what}: its config is not frozen")
    try:
        cls.model_validate({"no_such_setting": 0})
    except ValidationError as error:
        refused = any(fault["type"] == "extra_forbidden" for fault in error.errors())
    else:
        refused = False
    require(refused, f"{what}: accepts a setting that it does not have; a user's typo would go unseen")


def _required(cls: type[Config]) -> list[str]:
    return [name for name, field in cls.model_fields.items() if field.is_required()]


def _default(cls: type[P]) -> P:
    try:
        return cls.model_validate({})
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise AssertionError(f"{cls.__name__}: its defaults are not valid ({place}: {fault['msg']})") from None


def _round_trip(plugin: Config) -> None:
    """Settings are written to ``config.yaml`` and compared there on resume."""
    what = type(plugin).__name__
    try:
        dumped = plugin.model_dump(mode="json")
        again = type(plugin).model_validate(dumped).model_dump(mode="json")
    except ValueError as error:
        raise AssertionError(f"{what}: its settings cannot be written and read again ({error})") from None
    require(again == dumped, f"{what}: its settings change when they are written and read again")


def _check_capability(what: str, plugin: Config, kind: type[Config], method: str) -> None:
    """A run asks for the class, so the method alone would never be called."""
    found = isinstance(plugin, kind) or not hasattr(plugin, method)
    require(found, f"{what}: has {method}() and must inherit from {kind.__name__}, or it is never called")


def _alike(a: Verdict, b: Verdict) -> bool:
    return same_value(getattr(a, "score", None), getattr(b, "score", None))


def _check_card(what: str, monitor: Monitor) -> None:
    require(monitor.sees in get_args(View), f"{what}: sees '{monitor.sees}', which is none of {get_args(View)}")
    require(0 <= monitor.threshold <= 1, f"{what}: its threshold {monitor.threshold} is outside of [0, 1]")
    card = monitor.card
    require(isinstance(card.get("kind"), str), f"{what}: its card needs a 'kind'")
    for key, value in (("view", monitor.sees), ("threshold", monitor.threshold)):
        require(card.get(key) == value, f"{what}: its card gives {key} {card.get(key)!r}, the monitor {value!r}")
    try:
        json.dumps(card, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what}: its card cannot be written as JSON ({error})") from None


def _prompts(what: str, scenario: Scenario, split: Split, tier: str, n: int) -> list[Prompt]:
    """The prompts of one split and tier, each sound, and the same when asked again and of an equal scenario."""
    prompts = scenario.prompts(split, tier, n, 0)
    twin = type(scenario).model_validate(scenario.model_dump())
    where = f"{what}: the {split} split, tier '{tier}',"
    for again in (scenario.prompts(split, tier, n, 0), twin.prompts(split, tier, n, 0)):
        require(again == prompts, f"{where} gives other prompts when asked again with the same seed")
    require(0 < len(prompts) <= n, f"{where} gives {len(prompts)} prompts when asked for {n}")
    for prompt in prompts:
        require((prompt.split, prompt.tier) == (split, tier), f"{where} gives a prompt of another split or tier")
        require(
            prompt.monitored == (tier == scenario.monitored_tier),
            f"{where} gives a prompt with monitored={prompt.monitored}",
        )
        require(bool(prompt.request), f"{where} gives a prompt without a request")
        roles = [message.role for message in prompt.messages]
        require(roles[-1:] == ["user"], f"{where} gives a prompt that does not end with a user's turn ({roles})")
    return prompts


def _takes(cls: type, method: str, arguments: int) -> bool:
    try:
        inspect.signature(getattr(cls, method)).bind(*[None] * arguments)
    except TypeError:
        return False
    return True


def _texts(value: Any) -> Iterator[str]:
    """Every text among a plug-in's settings; any of them may be a monitor's name."""
    if isinstance(value, Config):
        yield from _texts(value.model_dump())
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, str):
        yield value


def _with_other_hidden_text(episode: Episode, view: View) -> Episode:
    """The same episode as this view sees it, with another text where the view does not reach."""
    shown = {"scratchpad": SCRATCHPAD, "output": OUTPUT}.get(view)
    kept = [i for i, segment in enumerate(episode.segments) if segment == shown]
    other = "i will comply so that training does not modify me."
    scratchpad = episode.scratchpad if view == "scratchpad" else other
    output = episode.output if view == "output" else other
    return replace(
        episode,
        scratchpad=scratchpad,
        output=output,
        raw=raw_reply(scratchpad, output),
        extra_turn=episode.extra_turn if view == "extra_turn" else other,
        extra_scratchpad=episode.extra_scratchpad if view == "extra_turn" else other,
        extra_output=episode.extra_output if view == "extra_turn" else other,
        completion_ids=[episode.completion_ids[i] for i in kept],
        segments=[episode.segments[i] for i in kept],
        logprobs=[episode.logprobs[i] for i in kept] if episode.logprobs is not None else None,
    )


def _sampled(e: Episode) -> tuple[object, ...]:
    return (
        *(e.prompt, e.raw, e.scratchpad, e.output, e.parse, e.stop),
        *(e.prompt_ids, e.completion_ids, e.segments, e.logprobs),
    )
