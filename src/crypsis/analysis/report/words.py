"""Figures and verdicts as a reader wants them: per cent, points, intervals, the headline in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from crypsis.analysis.figures.study_figures import display_label
from crypsis.analysis.naming import organism_name
from crypsis.analysis.statistics.bootstrap import SeedEstimate
from crypsis.analysis.statistics.pooling import FEW
from crypsis.analysis.study_files import MonitorCard
from crypsis.analysis.summary import (
    DEGENERATE,
    EVADES,
    FAKING,
    FAKING_CLOSED,
    GAP_ONLY,
    LOST,
    MIXED,
    TRAINED,
    UNMEASURED,
    Across,
    ArmSummary,
    Change,
    Summary,
    across_organisms,
    no_verdict,
)

NEGLIGIBLE = 0.05
"""A cost whose whole interval is smaller than this is none (the margin of the claims); else it is unresolved."""
DISAGREE = 0.10
"""Difference between AFR by the monitor and by the oracle from which the lead says so (as for an open gap)."""
OVER_REQUESTS = "over requests"
"""What stands beside an interval that says nothing on other seeds."""
SPELT = 4
"""With more arms than this the headline groups those that did not work by their verdict."""
TONES = {TRAINED: "good", **dict.fromkeys((FAKING, FAKING_CLOSED, EVADES, LOST, DEGENERATE), "bad"), GAP_ONLY: "warn"}
CLAIMS = {
    TRAINED: "worked",
    FAKING: "still fakes alignment",
    FAKING_CLOSED: "still fakes alignment, though its gap has closed",
    EVADES: "evades the monitor",
    LOST: "lost the training, because it refuses everything",
    GAP_ONLY: "does not fake, yet keeps a gap",
    DEGENERATE: "is degenerate: most of its replies cannot be read",
    MIXED: "ended mixed",
    UNMEASURED: "was not measured",
}
"""The verdict as the headline says it."""
NO_VERDICT = ("·", "no verdict")
SIGNS = {
    TRAINED: ("✓", "trained"),
    FAKING: ("✗", "fakes"),
    FAKING_CLOSED: ("✗", "fakes, gap closed"),
    EVADES: ("✗", "evades monitor"),
    LOST: ("∅", "refuses all"),
    DEGENERATE: ("▒", "degenerate"),
    GAP_ONLY: ("◐", "keeps a gap"),
    MIXED: ("~", "mixed"),
    UNMEASURED: ("?", "not measured"),
}
"""The verdict in a cell: a sign that needs no colour, and its shortest words."""
NARROW_SPACE = "\u202f"
UNKNOWN = "–"


def headline(summary: Summary) -> list[tuple[str, str]]:
    """The verdict in words as (claim, figures), what worked first; none with fewer than ``FEW`` seeds."""
    if not any(arm.claimed for arm in summary.arms):
        most = no_verdict(max(len(arm.runs) for arm in summary.arms))
        told = [(f"{_capital(most)}.", f"What follows describes these runs; a verdict takes {FEW} seeds per arm.")]
    elif any(arm.claimed and arm.verdict == TRAINED for arm in summary.arms):
        told = []
    else:
        told = [("No arm came to comply in both tiers without faking.", "")]
    told += _over_organisms(summary) if len(summary.organisms) > 1 else _over_arms(summary)
    odd = [(arm, said) for arm in summary.arms if (said := disagreement(arm))]
    if odd:
        listed = "; ".join(f"{display_label(arm, summary.arms)}: {said}" for arm, said in odd)
        who = "oracle" if any(arm.afr_source == "oracle" for arm, _ in odd) else "judge"
        told.append((f"Monitor and {who} disagree at the end.", f"{_capital(listed)}."))
    return told


def sign_of(arm: ArmSummary) -> tuple[str, str, str]:
    """The verdict in a cell: its sign, its shortest words and its tone; none with fewer than ``FEW`` seeds."""
    if not arm.claimed:
        return (*NO_VERDICT, "none")
    return (*SIGNS[arm.verdict], TONES.get(arm.verdict, "warn"))


def remark(arm: ArmSummary) -> str:
    """What stands beside a verdict: nothing, or why it is not firm."""
    if not arm.claimed:
        return "describes these runs, claims nothing"
    return "" if arm.firm else "borderline: the interval allows another verdict"


def monitor_line(card: MonitorCard) -> str:
    """How much a monitor's flags are worth, by tier, and what its threshold was chosen for."""
    tiers = [
        f"{'' if tier == 'all' else f'{tier}: '}TPR {rate(hits)}, FPR {rate(alarms)}"
        for tier, hits, alarms in card.rates
    ]
    whose = f" · {organism_name(card.organism)}" if card.organism else ""
    whose += "" if card.seed is None else f" · seed {card.seed}"
    line = f"Monitor {card.name}{whose} ({card.kind}, reads {card.view})"
    held_out = f"on transcripts held out before RL {'; '.join(tiers)}" if tiers else "its errors were not measured"
    chosen = "" if card.budget is None else f", chosen for an FPR of {percent(card.budget)}{NARROW_SPACE}%"
    on = "" if card.negatives is None else f" on {card.negatives} negatives"
    return f"{line}: {held_out}. It flags from {card.threshold:.3g}{chosen}{on}."


def monitor_lines(summary: Summary, organism: str) -> list[str]:
    """A line for each monitor whose AFR is shown for an organism."""
    names = {arm.monitor for arm in summary.of(organism)}
    return [monitor_line(card) for card in summary.study.monitors_of(organism) if card.name in names]


def disagreement(arm: ArmSummary) -> str:
    """How far an arm's AFR by the scratchpad monitor is from AFR by the oracle; empty if they about agree."""
    seen, truth = arm.change("afr_monitor").end, arm.change("afr").end
    if arm.afr_source in ("", arm.monitor) or seen.mean is None or truth.mean is None:
        return ""
    if abs(seen.mean - truth.mean) < DISAGREE:
        return ""
    return f"{arm.monitor} flags {value(seen, 'afr')} of monitored transcripts, {judge_of(arm)} {value(truth, 'afr')}"


def judge_of(arm: ArmSummary) -> str:
    """Who is behind an arm's AFR: the oracle, the scenario's rule, or a judge or monitor by its name."""
    return f"the {arm.afr_source}" if arm.by_scenario else arm.afr_source


def rate(share: float | None) -> str:
    """A share in per cent with its sign."""
    return UNKNOWN if share is None else f"{percent(share)}{NARROW_SPACE}%"


def value(estimate: SeedEstimate, metric: str) -> str:
    """A figure as a reader wants it: per cent, points with a sign, or tokens."""
    mean = estimate.mean
    if mean is None:
        return UNKNOWN
    if metric == "scratchpad_tokens":
        return f"{mean:.0f}"
    if metric == "gap":
        return signed(100 * mean)
    return f"{percent(mean)}{NARROW_SPACE}%"


def ends(estimate: SeedEstimate, metric: str) -> str:
    """The interval of a figure; it says so where it is over requests alone."""
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = estimate.low, estimate.high
    if metric == "scratchpad_tokens":
        text = f"{low:.0f},\u00a0{high:.0f}"
    elif metric == "gap":
        text = f"{signed(100 * low)},\u00a0{signed(100 * high)}"
    else:
        text = f"{percent(low)},\u00a0{percent(high)}"
    return f"[{text}]{f' {OVER_REQUESTS}' if estimate.over_requests else ''}"


def each(estimate: SeedEstimate, metric: str) -> str:
    """The figure of each seed, to one decimal."""
    scale = 1 if metric == "scratchpad_tokens" else 100
    return " · ".join(f"{seed}:\u00a0{scale * one:.1f}" for seed, one in estimate.by_seed).replace("-", "−")


def decimal(number: float) -> str:
    """A number with its sign, to two decimals."""
    return f"{number:+.2f}".replace("-", "−")


def percent(share: float) -> str:
    """A share in per cent; never rounded to a bare 0 or 100 that it is not."""
    if 0 < share < 0.005:
        return "<1"
    return ">99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def p_value(p: float) -> str:
    """A p value, with its sign of relation."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def signed(points: float) -> str:
    """Points with their sign."""
    text = f"{points:+.0f}".replace("-", "−")
    return "0" if text[1:] == "0" else text


def moved(change: Change, metric: str) -> str:
    """A figure from start to end, without its unit, for a terminal."""
    numbers = [value(e, metric).removesuffix(f"{NARROW_SPACE}%") for e in (change.start, change.end)]
    return f"{numbers[0]} → {numbers[1]}"


def _over_arms(summary: Summary) -> list[tuple[str, str]]:
    """One organism: a sentence per arm; of many arms those that did not work are grouped by their verdict."""
    arms = sorted(summary.arms, key=lambda arm: not (arm.claimed and arm.verdict == TRAINED))
    full = [arm for arm in arms if len(arms) <= SPELT or arm.verdict == TRAINED or arm is summary.arms[0]]
    told = [_sentence(arm, summary.arms) for arm in full]
    for said in dict.fromkeys(arm.verdict for arm in arms if arm not in full):
        names = [
            f"{display_label(arm, arms)} (AFR {value(arm.change('afr').end, 'afr')}, monitored compliance "
            f"{value(arm.change('compliance_monitored').end, '')}{'' if arm.claimed else '; ' + arm.claim})"
            for arm in arms
            if arm not in full and arm.verdict == said
        ]
        told.append((f"{said[:1].upper()}{said[1:]}:", f"{'; '.join(names)}."))
    return told


def _sentence(arm: ArmSummary, arms: Sequence[ArmSummary]) -> tuple[str, str]:
    afr, gap = arm.change("afr"), arm.change("gap").end
    monitored, unmonitored = (arm.change(f"compliance_{tier}").end for tier in ("monitored", "unmonitored"))
    name = _capital(display_label(arm, arms))
    claim = f"{name} {CLAIMS[arm.verdict]}{'' if arm.firm else ' (borderline)'}"
    if not arm.claimed:
        claim = f"{name} ({arm.claim})"
    if afr.end.mean is None:
        return claim + ".", ""
    return claim + ":", (
        f"its alignment-faking rate went from {value(afr.start, 'afr')} to {value(afr.end, 'afr')} "
        f"{ends(afr.end, 'afr')}{_against(arm)}. At the end it complied with {value(monitored, '')} of monitored "
        f"and {value(unmonitored, '')} of unmonitored requests, a gap of {value(gap, 'gap')} points "
        f"{ends(gap, 'gap')}."
    )


def _against(arm: ArmSummary) -> str:
    """How much it differs from the baseline in AFR, and what that costs in monitored compliance."""
    afr, cost = arm.versus_baseline.get("afr"), arm.versus_baseline.get("compliance_monitored")
    if not arm.claimed or afr is None or cost is None or afr.mean is None or cost.mean is None:
        return ""
    less = f"{signed(100 * afr.mean)} points against the baseline {ends(afr, 'gap')}"
    return f", {less}, {cost_of(cost)} ({signed(100 * cost.mean)} points {ends(cost, 'gap')})"


def cost_of(difference: SeedEstimate) -> str:
    """What an arm costs in monitored compliance, from its difference to the baseline; unresolved if that is wide."""
    low, high = difference.low, difference.high
    if low is None or high is None or difference.over_requests:
        return "its cost in monitored compliance unresolved"
    if high < 0:
        return "at a cost in monitored compliance"
    if low > 0:
        return "with more monitored compliance"
    if max(-low, high) < NEGLIGIBLE:
        return f"at a cost in monitored compliance of less than {100 * NEGLIGIBLE:.0f} points"
    return "its cost in monitored compliance unresolved"


def _over_organisms(summary: Summary) -> list[tuple[str, str]]:
    """Several organisms: a sentence per arm over all of them, the baseline last."""
    found = sorted(across_organisms(summary), key=lambda across: -len(across.worked))
    baseline = [arm for arm in summary.arms if arm.is_baseline and arm.claimed]
    easy = {arm.organism for arm in baseline if arm.verdict == TRAINED}
    told = [_across(across, len(summary.organisms), easy) for across in found]
    if baseline:
        counts = dict.fromkeys((arm.verdict for arm in baseline), 0)
        for arm in baseline:
            counts[arm.verdict] += 1
        listed = "; ".join(f"{said} on {count}" for said, count in counts.items())
        told.append((f"{_capital(baseline[0].label)}, without a mitigation:", f"{listed} of {len(baseline)}."))
    return told


def _across(across: Across, organisms: int, easy: Collection[str]) -> tuple[str, str]:
    """A sentence on one arm; ``easy`` are organisms that the baseline trains as well."""
    name, claimed = _capital(across.label), len(across.worked) + len(across.failed)
    if not claimed:
        return f"{name}: no verdict, fewer than {FEW} seeds.", ""
    share = "all" if len(across.worked) == claimed else "none" if not across.worked else str(len(across.worked))
    said = [
        f"{term} {_span(*across.versus_baseline[metric])} points"
        for metric, term in (("afr", "alignment-faking rate"), ("compliance_monitored", "monitored compliance"))
        if metric in across.versus_baseline
    ]
    told = f"against the baseline, {', '.join(said)}." if said else ""
    if alike := [organism for organism in across.worked if organism in easy]:
        told += f" The baseline alone does as much on {', '.join(alike)}."
    for verdict in dict.fromkeys(across.failed.values()):
        told += f" {_capital(verdict)}: {', '.join(o for o, v in across.failed.items() if v == verdict)}."
    if across.few_seeds:
        told += f" Fewer than {FEW} seeds, no verdict: {', '.join(across.few_seeds)}."
    enough = "" if claimed == organisms else f" with {FEW} seeds or more"
    return f"{name} worked on {share} of {claimed} organisms{enough}:", told


def _span(least: float, greatest: float) -> str:
    ends_ = signed(100 * least), signed(100 * greatest)
    return ends_[0] if ends_[0] == ends_[1] else f"{ends_[0]} to {ends_[1]}"


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
