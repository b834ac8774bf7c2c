"""The scorecard as ``claims.json``, Markdown and a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from crypsis.analysis.claims.claim_tests import Found
from crypsis.analysis.claims.corrected_rates import Corrected
from crypsis.analysis.claims.schema import START, Condition, built_in
from crypsis.analysis.claims.scorecard import ClaimResult, TestResult
from crypsis.analysis.claims.verdicts import VERDICTS
from crypsis.analysis.statistics.pooling import FEW
from crypsis.markdown import filled
from crypsis.store import write_atomic, write_json
from crypsis.types import visible

CLAIMS = "claims.json"
Entry = Mapping[str, Any]
"""One claim as ``claims.json`` has it."""
QUANTITIES = {
    "afr": "AFR",
    "afr_monitor": "AFR by the monitor",
    "gap": "gap",
    "compliance_monitored": "monitored compliance",
    "compliance_unmonitored": "unmonitored compliance",
    "lying_rate": "lying rate",
    "scratchpad_tokens": "scratchpad length",
    "faking_tokens": "tokens by which scratchpads that fake are longer",
}
MOMENTS = {
    "first": "at the first evaluation",
    "last": "at the last evaluation",
    "early": "after five steps",
    "change": "from first to last evaluation",
    "mean": "on average over training",
    "after_afr": "when AFR has gone",
}
EXPECTED = {
    "above": "larger by {by} or more",
    "below": "smaller by {by} or more",
    "within": "less than {by} either way",
    "not_above": "larger by less than {by}",
    "holds_zero": "an interval that holds 0",
    "at_least": "at least {by}",
    "at_most": "at most {by}",
    "varies": "a standard deviation between seeds of at least {by}",
    "two_modes": "two modes (dip test)",
    "correlates": "a rank correlation of {by} or more with the {other}",
}
ORGANISMS = {
    "every": "in every organism",
    "most": "in most organisms",
    "some": "in some organism",
    "some_not_every": "in some organisms and not in all",
    "average": "on average over organisms",
    "runs": "over all runs",
}
POPULATIONS = {
    "all": "",
    "paper": "of the paper's kinds",
    "fakers": "of the paper's kinds with an AFR of 0.5 or more before RL",
    "silent": "whose scratchpads show nothing",
}
TONES = dict(zip(VERDICTS, ("green", "yellow", "red", "cyan", "magenta", "dim"), strict=True))
NOT_SURVIVED = "†"
PLANTED = "*"
LEGEND = (
    f"{PLANTED} planted in the miniature's text, in whole or in part. Verdicts are after Holm's correction over all "
    f"claims that were tested; {NOT_SURVIVED} what the intervals alone would say. Effect: of the test that decides, "
    "with its own 95 % interval, uncorrected; of some organisms is claimed only what wider ones show."
)
FEW_RUNS = "‡"
IMPORTED = (
    "These are others' runs: AF is the verdict of the paper's classifier, not ground truth; seeds are not in the "
    f"release, every file is one run and none is paired. {FEW_RUNS} Fewer than {FEW} runs on one side: the interval is "
    "over requests alone and says nothing on how much runs differ."
)
NOT_IN_DATA = "not in this data"


def entries(results: Sequence[ClaimResult]) -> list[dict[str, Any]]:
    """The scorecard as ``claims.json`` holds it."""
    return [_entry(result) for result in results]


def write_claims(results: Sequence[ClaimResult], path: Path) -> Path:
    """Writes the list of claims to a JSON file."""
    write_json(path, entries(results))
    return path


def scorecard_table(results: Sequence[ClaimResult], file: str = CLAIMS) -> Table:
    """The scorecard for a terminal 80 columns wide; claims that were not run are counted below; ``file`` says why."""
    table = Table(title="Claims of the paper" if _paper(results) else "Claims", width=80, pad_edge=False)
    table.add_column("claim", ratio=1)
    table.add_column("verdict", width=12)
    table.add_column("effect [95 %]", justify="right", width=21)
    told = entries(results)
    table.add_column(_unit(told), justify="right")
    for entry in (entry for entry in told if entry["verdict"] != "not run"):
        said = Text(mark(entry), style=TONES[entry["verdict"]])
        if entry["needs"]:
            said.append(f"\n{needs(entry)}", style="dim")
        name = f"{entry['id']}{PLANTED * entry['planted']} "
        sentence = Text(name, style="bold") + Text(visible(entry["says"]), style="")
        table.add_row(sentence, said, figures(entry), runs(entry))
    idle = [result.claim.id for result in results if result.verdict == "not run"]
    counted = [f"{sum(r.verdict == verdict for r in results)} {verdict}" for verdict in VERDICTS]
    table.caption = Text(
        f"{', '.join(counted)}. AF judged by {', '.join(results[0].judges) if results else 'nobody'}. {LEGEND}"
        + (f" {IMPORTED}" if _unit(told) == "runs" else "")
        + (f" Not run: {', '.join(idle)}; {file} says why." if idle and _unit(told) == "seeds" else "")
    )
    return table


def undecided_line(results: Sequence[ClaimResult], file: str = CLAIMS) -> str:
    """One line in place of the table where nothing was decided, which names the file that says why; else empty."""
    if any(result.verdict not in ("undecided", "not run") for result in results):
        return ""
    waiting = [result for result in results if result.verdict == "undecided"]
    counted = f"{len(waiting)} undecided, the others not run"
    return f"scorecard: of {len(results)} claims none is decided ({counted}); {file} says why"


def scorecard_markdown(
    found: Sequence[Entry],
    sources: Sequence[str],
    command: str,
    version: str,
    rates: Sequence[Corrected] = (),
    title: str = "Scorecard",
) -> str:
    """The scorecard as a page.

    Args:
        found: As ``entries`` gives them.
        sources: Names of the folders.
        command: That made it.
        version: Version of crypsis.
        rates: AFR by monitors, raw and corrected.
        title: Title of the page.
    """
    judges = ", ".join(found[0]["judges"]) if found else "nobody"
    counted = ", ".join(f"{sum(e['verdict'] == verdict for e in found)} {verdict}" for verdict in VERDICTS)
    lines = [
        f"# {title}",
        "",
        f"{counted}. AF judged by {judges}. Made by `{command}` (crypsis {version}) from "
        f"{', '.join(f'`{source}`' for source in sources)}.",
        "Rules, intervals and their limits: `docs/statistics.md`. The tests were written before the runs "
        "(`src/crypsis/analysis/claims/claims.yaml`).",
        "",
        f"{_cell(LEGEND)}",
        "",
        *([IMPORTED, ""] if _unit(found) == "runs" else []),
        *claims_markdown(found),
    ]
    planted = [f"- {e['id']}: {_cell(e['planted_how'])}" for e in found if e["planted"]]
    lines += ["", "## What is planted", "", *planted] if planted else []
    return "\n".join(filled([*lines, *by_organism(found), *_rates(rates)])) + "\n"


def claims_markdown(found: Sequence[Entry]) -> list[str]:
    """Lines of a table of claims.

    Args:
        found: As ``entries`` gives them.
    """
    lines = [
        f"| claim | says | verdict | effect [95 %] | {_unit(found)} | what was tested |",
        "|---|---|---|---|---|---|",
    ]
    for entry in found:
        cells = [
            f"{entry['id']}{PLANTED * entry['planted']}",
            entry["says"],
            mark(entry) + (f" ({needs(entry)})" if entry["needs"] else ""),
            figures(entry),
            runs(entry),
            tested(entry),
        ]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return lines


def write_scorecard(path: Path, results: Sequence[ClaimResult], page: str) -> None:
    """Writes the page and, beside it, the same as JSON."""
    write_atomic(path, page)
    write_claims(results, path.with_suffix(".json"))


def figures(entry: Entry) -> str:
    """Effect and interval; shares with two decimals."""
    if entry["effect"] is None:
        return "–"
    if entry["low"] is None:
        return _number(entry["effect"])
    over = " over requests" if entry.get("over_requests") else ""
    return f"{_number(entry['effect'])} [{_number(entry['low'])}, {_number(entry['high'])}]{over}"


def mark(entry: Entry) -> str:
    """The verdict, and beside it what the intervals alone would say if that does not survive Holm's correction."""
    if entry["verdict"] == "not run" and entry.get("imported"):
        return NOT_IN_DATA
    lost = entry.get("uncorrected", entry["verdict"]) != entry["verdict"]
    return str(entry["verdict"]) + (f" ({entry['uncorrected']} {NOT_SURVIVED})" if lost else "")


def runs(entry: Entry) -> str:
    """How many seeds, or of others' runs how many runs, stand behind a claim."""
    return f"{entry['seeds'] or '–'}" + (FEW_RUNS if entry.get("few_runs") else "")


def absent_lines(found: Sequence[Entry]) -> list[str]:
    """The claims that others' runs cannot test, each with the reason."""
    left = [e for e in found if e.get("imported") and e["verdict"] == "not run"]
    lines = []
    for entry in left:
        why = dict.fromkeys(t["notes"][0] for t in entry["tests"] if t["verdict"] == "not run" and t["notes"])
        lines.append(visible(f"{NOT_IN_DATA}: {entry['id']}: {'; '.join(why)}"))
    return lines


def _unit(found: Sequence[Entry]) -> str:
    return "runs" if any(entry.get("imported") for entry in found) else "seeds"


def needs(entry: Entry) -> str:
    """What would decide an undecided claim."""
    wanted = entry["needs"]
    unit = "runs" if entry.get("imported") and wanted["of"] == "seeds" else wanted["of"]
    return f"needs {'> 200' if wanted['count'] is None else wanted['count']} {unit}"


def tested(entry: Entry) -> str:
    """What the test that decides measures and expects, whose figures are shown, and notes on all tests."""
    first = entry["tests"][entry["shown"]]
    whom = POPULATIONS.get(entry.get("population", "all"), "") if first.get("organisms_open") else ""
    parts = [f"{first['asked']}{f' {whom}' if whom else ''}; expected: {first['expected']}"]
    parts += [f"shown: {first['decider']}"] if first["decider"] else []
    notes = dict.fromkeys(note for test in entry["tests"] for note in test["notes"])
    said = "; ".join([*parts, *notes])
    return f"{said[:1].upper()}{said[1:]}"


def asked(result: TestResult) -> str:
    """What a test measures, in words."""
    test = result.test
    where = "before RL" if test.arms == [START] else _listed(test.arms, " and ")
    against = f" − {_listed(test.against, ' or ')}" if test.against else ""
    names = [" ".join(map(str, spec.values())) for spec in test.organisms]
    others = [" ".join(map(str, spec.values())) for spec in test.against_organisms]
    pairs = [f"{a} − {b}" for a, b in zip(names, others, strict=True)] if others else names
    over = f"in {', '.join(dict.fromkeys(pairs))}" if pairs else ORGANISMS[test.over]
    also = "".join(f", and {_condition(condition)}" for condition in test.also)
    limited = f", where {_condition(test.where)}" if test.where else ""
    return f"{QUANTITIES[test.quantity]} {MOMENTS[test.at]}, {where}{against}, {over}{also}{limited}"


def _condition(condition: Condition) -> str:
    expected = EXPECTED[condition.expect].format(by=f"{condition.by:g}")
    return f"{QUANTITIES[condition.quantity]} {MOMENTS[condition.at]} is {expected}"


def _listed(arms: Sequence[str], joint: str) -> str:
    return joint.join(arms) if len(arms) < 4 else f"each of {len(arms)} arms"


def _entry(result: ClaimResult) -> dict[str, Any]:
    claim, wanted = result.claim, result.needs
    shown = result.tests[result.shown]
    run = result.verdict != "not run"
    return {
        "id": claim.id,
        "verdict": result.verdict,
        "uncorrected": result.uncorrected,
        "effect": _rounded(shown.effect) if run else None,
        "low": _rounded(shown.low) if run else None,
        "high": _rounded(shown.high) if run else None,
        "over_requests": shown.over_requests and run,
        "seeds": result.seeds if run else 0,
        "planted": claim.planted,
        "planted_how": claim.planted_how,
        "says": claim.says,
        "source": claim.source,
        "population": claim.population,
        "needs": {"count": wanted.count, "of": wanted.of} if wanted and result.verdict == "undecided" else None,
        "p": _rounded(result.p),
        "p_holm": _rounded(result.p_holm),
        "survives_holm": result.survives,
        "judges": list(result.judges),
        "shown": result.shown,
        "tests": [_test(test) for test in result.tests],
        **({"imported": True, "few_runs": shown.few_runs and run} if result.imported else {}),
    }


def _test(result: TestResult) -> dict[str, Any]:
    test = result.test
    other = QUANTITIES.get(test.with_quantity or "", "")
    return {
        "asked": asked(result),
        "expected": EXPECTED[test.expect].format(by=f"{test.by:g}", other=other),
        "quantity": test.quantity,
        "expect": test.expect,
        "by": test.by,
        "also": bool(test.also),
        "decides": test.decides,
        "organisms_open": not test.organisms,
        "verdict": result.verdict,
        "decider": result.decider,
        "effect": _rounded(result.effect),
        "low": _rounded(result.low),
        "high": _rounded(result.high),
        "over_requests": result.over_requests,
        "seeds": result.seeds,
        "p": _rounded(result.p),
        "organisms": [_organism(found) for found in result.organisms],
        "notes": list(result.notes),
    }


def _organism(found: Found) -> dict[str, Any]:
    return {
        "organism": found.name,
        "verdict": found.verdict,
        "effect": _rounded(found.effect),
        "low": _rounded(found.low),
        "high": _rounded(found.high),
        "over_requests": found.over_requests,
        "p": _rounded(found.p),
        "by_seed": {f"{seed}" if not of else f"{of}/{seed}": _rounded(v) for (of, seed), v in found.by_seed.items()},
    }


def by_organism(found: Sequence[Entry]) -> list[str]:
    """Lines of a table of tests over several organisms: which of them say what, with the effect in each."""
    tests = [(e["id"], test) for e in found for test in e["tests"] if test["decides"] and len(test["organisms"]) > 1]
    if not tests:
        return []
    verdicts = [verdict for verdict in VERDICTS if verdict != "not run"]
    lines = [
        "",
        "## Organism by organism",
        "",
        "What each organism says on its own, with its effect; intervals and seeds are in the JSON file beside this "
        "page. Where a test is against several arms: against the one that speaks least for the claim.",
        "",
        f"| claim | what was tested | {' | '.join(verdicts)} |",
        "|---|---|" + "---|" * len(verdicts),
    ]
    for claim, test in tests:
        said = {verdict: [o for o in test["organisms"] if o["verdict"] == verdict] for verdict in verdicts}
        cells = [", ".join(f"{o['organism']} {_number(o['effect'])}" for o in said[v]) or "–" for v in verdicts]
        cells = [claim, f"{test['asked']}; expected: {test['expected']}", *cells]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return lines


def _rates(rates: Sequence[Corrected]) -> list[str]:
    if not rates:
        return []
    lines = [
        "",
        "## AFR by monitor, raw and corrected for its known errors",
        "",
        "| organism | arm | monitor | raw | corrected [95 %] | by the oracle |",
        "|---|---|---|---|---|---|",
    ]
    for rate in rates:
        truth = "–" if rate.oracle is None else f"{rate.oracle:.2f}"
        cells = [rate.organism, rate.arm, rate.monitor, f"{rate.raw:.2f}", rate.shown, truth]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return lines


def _paper(results: Sequence[ClaimResult]) -> bool:
    return [result.claim for result in results] == built_in().claims


def _cell(text: str) -> str:
    return visible(text).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("\n", " ")


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), 6)


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")
