"""What TRL's trainer cannot do, refused before anything is written."""

from __future__ import annotations

from crypsis.mitigations.base import Mitigation
from crypsis.mitigations.hooks import (
    AddsLoss,
    AsksExtraTurn,
    CreditsTokens,
    ImitatesReplies,
    LearnsExtraTurn,
    MatchesStates,
    PerturbsSampling,
    ReadsStates,
    ReplacesPrompt,
    RoutesGradients,
    SteersEvaluations,
    TargetsTerms,
    delay_of,
)
from crypsis.models import Policy
from crypsis.monitors.base import TrainsAgain, WatchesPolicy
from crypsis.rl.context import RunContext
from crypsis.run_config import RunConfig
from crypsis.types import UserError


def refuse(policy: Policy, config: RunConfig, context: RunContext) -> None:
    """Refuses, before anything is written, what only the loaded run shows.

    Raises:
        UserError: TRL would take another reference model, a monitor needs hidden states, or vLLM would have to sample
            an extra turn.
    """
    named = str(policy.model.config.name_or_path)
    if config.rl.kl and named != str(config.policy):
        raise UserError(
            f"rl.kl: --backend trl loads the reference from {named}, which is not the policy {config.policy} "
            "(an adapter merged in memory); save it merged, set rl.kl=0, or take --backend core"
        )
    asking = [m.name for m in context.mitigations if isinstance(m, AsksExtraTurn)]
    white = [name for name, m in context.monitors.items() if isinstance(m, WatchesPolicy)]
    if white:
        raise UserError(f"monitors.{white[0]}: reads the policy's hidden states, which needs --backend core")
    if asking and config.trl.get("use_vllm"):
        raise UserError(f"mitigations: vLLM does not sample the extra turn of '{asking[0]}'; leave trl.use_vllm out")
    for mitigation in context.mitigations:
        if what := _needs_core(mitigation):
            raise UserError(f"mitigations: {mitigation.name}: {what} needs --backend core")
    changing = [n for n, m in context.monitors.items() if isinstance(m, TrainsAgain)]
    if changing:
        raise UserError(f"monitors.{changing[0]}: a monitor that is trained again during the run needs --backend core")


def _needs_core(mitigation: Mitigation) -> str:
    """What a mitigation does that TRL's trainer cannot: one advantage per row and one loss are all it has."""
    kinds: dict[type[Mitigation], str] = {
        TargetsTerms: "a term that reaches some tokens only",
        CreditsTokens: "credit by token",
        ReplacesPrompt: "learning under another prompt",
        LearnsExtraTurn: "an extra turn in the loss",
        RoutesGradients: "gradient routing",
        AddsLoss: "a loss of its own",
        ImitatesReplies: "a loss of its own",
        MatchesStates: "a loss of its own",
        ReadsStates: "reading the policy's hidden states",
        PerturbsSampling: "noise on the weights that sample",
        SteersEvaluations: "steering evaluations",
    }
    found = [what for kind, what in kinds.items() if isinstance(mitigation, kind)]
    return "a delay" if delay_of(mitigation) else next(iter(found), "")
