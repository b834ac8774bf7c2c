"""Which mitigations go together, and in which runs; asked before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crypsis.mitigations.base import OWN_TERMS, Mitigation, RunInfo, call, term_names
from crypsis.mitigations.hooks import (
    SEGMENTS,
    AddsTerm,
    AsksExtraTurn,
    Calibrates,
    CreditsTokens,
    FollowsSchedule,
    LearnsExtraTurn,
    PerturbsSampling,
    ReplacesPrompt,
    RoutesGradients,
    SetsRL,
    TargetsTerms,
    delay_of,
    reads_only,
)
from crypsis.types import Learn, UserError


def bind_all(mitigations: Sequence[Mitigation], run: RunInfo) -> list[Mitigation]:
    """The mitigations of a run, ready for its first step.

    Raises:
        UserError: One of them cannot work in this run, or two of them not together.
    """
    rules = (_one_of_a_kind, _heard_turns, _no_contrary_settings, _learnable, _not_at_odds, _in_time, _routable)
    for rule in rules:
        if fault := rule(mitigations, run):
            raise UserError(f"mitigations: {fault}")
    for mitigation in mitigations:
        for monitor in mitigation.listens_to:
            if monitor not in run.views:
                known = ", ".join(run.views) or "none"
                raise UserError(f"mitigations: {mitigation.name}: no monitor '{monitor}' in this run; it has {known}")
    bound = [call(m, m.bind, run) for m in mitigations]
    if fault := _reaching(bound, run):
        raise UserError(f"mitigations: {fault}")
    return bound


def _one_of_a_kind(mitigations: Sequence[Mitigation], run: RunInfo) -> str:
    kinds = (
        (AsksExtraTurn, "ask an extra turn"),
        (ReplacesPrompt, "replace the prompt"),
        (RoutesGradients, "route gradients"),
        (PerturbsSampling, "add noise to the weights that sample"),
    )
    for kind, what in kinds:
        names = [m.name for m in mitigations if isinstance(m, kind)]
        if len(names) > 1:
            return f"{' and '.join(names)} both {what}; keep one of them"
    return ""


def _heard_turns(mitigations: Sequence[Mitigation], run: RunInfo) -> str:
    asking = [m for m in mitigations if isinstance(m, AsksExtraTurn)]
    needs = [(m.name, n) for m in mitigations for n in m.listens_to if run.views.get(n) == "extra_turn"]
    if needs and not asking:
        name, monitor = needs[0]
        return f"{name}: monitor '{monitor}' reads the reply to an extra turn, but nothing asks one; add interrogation"
    for m in asking:
        if isinstance(m, LearnsExtraTurn) and m.answerer is not None:
            return (
                f"{m.name}: learns its extra turn, so the policy must reply to it, not {m.answerer or 'a frozen copy'}"
            )
    return ""


def _no_contrary_settings(mitigations: Sequence[Mitigation], run: RunInfo) -> str:
    made: dict[str, tuple[str, Any]] = {}
    for m in mitigations:
        for key, value in call(m, m.set_rl).items() if isinstance(m, SetsRL) else ():
            if key in made and made[key][1] != value:
                return f"{made[key][0]} sets rl.{key}={made[key][1]} and {m.name} sets rl.{key}={value}; keep one"
            made[key] = (m.name, value)
    return ""


def _learnable(mitigations: Sequence[Mitigation], run: RunInfo) -> str:
    rl = run.config.rl
    if rl.kl_on and not SEGMENTS[rl.kl_on] & SEGMENTS[rl.learn]:
        return f"rl.kl_on={rl.kl_on}: with rl.learn={rl.learn} no token there learns, so none has a penalty; change one"
    if run.config.rl.learn != "output":
        return ""
    for m in mitigations:
        if isinstance(m, AddsTerm) and reads_only(m, "scratchpad", run.views):
            return (
                f"{m.name}: with rl.learn=output a group shares one scratchpad, so a term of the scratchpad alone is "
                "the same for all its episodes and teaches nothing; use rl.learn=all, or another monitor"
            )
    return ""


def _not_at_odds(mitigations: Sequence[Mitigation], run: RunInfo) -> str:
    signs: dict[str, tuple[str, int]] = {}
    for m in mitigations:
        if not isinstance(m, AddsTerm) or not m.sign:
            continue
        for monitor in m.listens_to:
            name, other = signs.setdefault(monitor, (m.name, m.sign))
            if other != m.sign:
                return f"{name} and {m.name} reward and punish the same verdicts of '{monitor}'; keep one of them"
    return ""


def _in_time(mitigations: Sequence[Mitigation], run: RunInfo) -> str:
    rl = run.config.rl
    for m in mitigations:
        delay = delay_of(m)
        if delay and delay >= rl.steps:
            return f"{m.name}: verdicts that are {delay} steps late never arrive in a run of {rl.steps} steps"
        if delay and rl.advantage_scale == "group":
            return (
                f"{m.name}: delay needs rl.advantage_scale=none; divided by the group's deviation, a delayed term "
                "cannot be added to the advantage that its episode had"
            )
        others = [
            o.name
            for o in mitigations
            if isinstance(o, TargetsTerms | ReplacesPrompt | RoutesGradients | PerturbsSampling)
        ]
        if delay and others:
            return f"{m.name}: a delayed term does not go together with {others[0]}; set delay=0"
    return ""


def _reaching(mitigations: Sequence[Mitigation], run: RunInfo) -> str:
    """What is wrong with where terms are sent, asked of those whose answer holds for the whole run."""
    learn = run.config.rl.learn
    terms = (
        *OWN_TERMS,
        *(n for n, m in zip(term_names(mitigations), mitigations, strict=True) if isinstance(m, AddsTerm)),
    )
    sent: dict[str, tuple[str, Learn]] = {}
    for m in mitigations:
        if not isinstance(m, TargetsTerms) or isinstance(m, FollowsSchedule | Calibrates):
            continue
        for term in terms:
            reach = call(m, m.target_term, term)
            if reach is None:
                continue
            if reach not in SEGMENTS:
                return f"{m.name}: target_term() gave {reach!r}; give {', '.join(SEGMENTS)} or None"
            if not SEGMENTS[reach] & SEGMENTS[learn]:
                return (
                    f"{m.name}: sends the term '{term}' to the {reach}, but with rl.learn={learn} no token there "
                    "learns, so it would teach nothing; send it elsewhere, or set rl.learn=all"
                )
            name, other = sent.setdefault(term, (m.name, reach))
            if other != reach:
                return f"{name} sends the term '{term}' to {other} and {m.name} to {reach}; keep one"
    return ""


def _routable(mitigations: Sequence[Mitigation], run: RunInfo) -> str:
    for m in mitigations:
        if isinstance(m, RoutesGradients) and run.config.model.lora is None:
            return f"{m.name}: routes gradients between two adapters; set model.lora={{}}"
        if isinstance(m, RoutesGradients) and run.config.rl.processes > 1:
            return f"{m.name}: routes gradients in one process; set rl.processes=1"
        if isinstance(m, CreditsTokens) and delay_of(m):
            return f"{m.name}: credit cannot be delayed; set delay=0"
        samples = isinstance(m, ReplacesPrompt | AsksExtraTurn)
        if samples and isinstance(m, Calibrates) and run.config.rl.processes > 1:
            return f"{m.name}: what it calibrates is known to one process; set rl.processes=1"
    return ""
