"""The page of ``crypsis scorecard run``: what the paper says, and how to see it in its runs, the miniature and a model.

The paper's own runs are not shown: the reader makes them from the release with the command beside the claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crypsis.analysis.claims.schema import Claim
from crypsis.analysis.claims.scorecard import NOT_IMPORTED, ClaimResult
from crypsis.analysis.claims.scorecard_output import Entry, by_organism, claims_markdown, entries, figures, mark, needs
from crypsis.analysis.claims.verdicts import VERDICTS
from crypsis.analysis.study import REPEATS, Study
from crypsis.markdown import filled
from crypsis.store import read_json
from crypsis.types import UserError, visible

NOT_RUN = "not run"
OURS = "ours"
"""Source of a claim that is not the paper's."""
RELEASE = "crypsis scorecard runs/paper --only {id}"
FETCH = """\
```sh
# not run here: needs the network
crypsis data fetch alignment-faking-rl --out data/paper
crypsis study import data/paper --out runs/paper
```"""


def scorecard_json(results: Sequence[ClaimResult], real: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """The list of claims as ``crypsis scorecard --out`` writes it, and more.

    Args:
        results: The miniature's.
        real: Entries of a real model's scorecard by id.

    Returns:
        Also with ``organisms`` (how many took part), ``holm`` (p after the correction), ``paper_runs`` (the command
        that tests it on the release) and ``real_model`` (the verdict there).
    """
    more = []
    for result, entry in zip(results, entries(results), strict=True):
        organisms = len(result.tests[result.shown].organisms)
        other = real.get(entry["id"])
        more.append(
            entry
            | {"organisms": organisms, "holm": entry["p_holm"], "paper_runs": release_command(result.claim)}
            | {"real_model": other["verdict"] if other else NOT_RUN}
        )
    return more


def release_command(claim: Claim) -> str | None:
    """The command that tests a claim on the paper's own runs; None if it is not the paper's, or these cannot tell."""
    deciding = [test for test in claim.tests if test.decides]
    missing = any(q in NOT_IMPORTED for test in deciding for q in (test.quantity, test.with_quantity))
    return None if claim.source == OURS or missing else RELEASE.format(id=claim.id)


def real_entries(path: Path | None) -> dict[str, Entry]:
    """The scorecard of a real model by id; empty if there is none.

    Args:
        path: A file as ``crypsis scorecard --out`` writes it.

    Raises:
        UserError: The file holds no list of claims.
    """
    if path is None or not path.exists():
        return {}
    found = read_json(path)
    found = found.get("claims") if isinstance(found, Mapping) else found
    keys = {"id", "verdict", "effect", "low", "high"}
    if not isinstance(found, list) or not all(isinstance(e, Mapping) and keys <= e.keys() for e in found):
        raise UserError(
            f"{path}: holds no scorecard; `crypsis scorecard FOLDER --out FILE.md` writes one beside FILE.md"
        )
    return {str(entry["id"]): entry for entry in found}


def scorecard_page(
    results: Sequence[ClaimResult], study: Study, command: str, real: Mapping[str, Entry], planned: int
) -> str:
    """The page.

    Args:
        results: The miniature's.
        study: Their study.
        command: That made the page.
        real: Entries of a real model's scorecard by id.
        planned: How many runs the study has when it is finished.
    """
    found = scorecard_json(results, real)
    counted = ", ".join(f"{sum(e['verdict'] == verdict for e in found)} {verdict}" for verdict in VERDICTS)
    judges = ", ".join(found[0]["judges"]) if found else "nobody"
    seeds = sorted({run.seed for run in study.runs})
    short = planned > len(study.runs)
    lines = [
        "# Scorecard",
        "",
        *([f"> **Not finished**: {len(study.runs)} of {planned} runs.", ""] if short else []),
        f"In the miniature: {counted}. {len(study.runs)} runs, {len(seeds)} seeds; AF judged by {visible(judges)}. "
        f"Made by `{visible(command)}` (crypsis {visible(study.version)}). {REPEATS.get(study.repeats, '')}".rstrip(),
        "",
        "Verdicts are after Holm's correction over all claims that were tested; in brackets with † what the interval "
        "alone says. Effects have uncorrected 95 % intervals; claims on some organism are decided by wider ones. "
        "\\* planted in the miniature's text, "
        "in whole or in part. Rules: `docs/statistics.md`; populations and number of seeds: `docs/scorecard.md`.",
        "",
        "| claim | the paper's statement | the paper's own runs | miniature | real small model |",
        "|---|---|---|---|---|",
    ]
    lines += [_row(entry, real.get(entry["id"])) for entry in found]
    lines += [
        "",
        "## The paper's own runs",
        "",
        "The release holds verdicts by the paper's classifier. These commands fetch and import it; then the command "
        "beside a claim tests it. – where the claim is ours, or the release lacks the quantity.",
        "",
        FETCH,
        "",
        "## What was tested",
        "",
        *claims_markdown(found),
    ]
    planted = [f"- {e['id']}: {visible(e['planted_how'])}" for e in found if e["planted"]]
    lines += ["", "## What is planted", "", *planted] if planted else []
    return "\n".join(filled([*lines, *by_organism(found)])) + "\n"


def _row(entry: Entry, real: Entry | None) -> str:
    says = entry["says"] if entry["source"] != OURS else f"(ours) {entry['says']}"
    release = f"`{entry['paper_runs']}`" if entry["paper_runs"] else "–"
    star = "\\*" if entry["planted"] else ""
    cells = [f"{entry['id']}{star}", _cell(says), release, _found(entry)]
    return "| " + " | ".join([*cells, _found(real) if real else NOT_RUN]) + " |"


def _found(entry: Entry) -> str:
    """Verdict, effect with interval, seeds, and what an undecided claim needs."""
    if entry["verdict"] == NOT_RUN:
        return NOT_RUN
    wanted = f"; {needs(entry)}" if entry.get("needs") else ""
    seeds = entry.get("seeds") or "–"
    return _cell(f"{mark(entry)}, {figures(entry)}; {seeds} seed{'s' * (seeds != 1)}{wanted}")


def _cell(text: str) -> str:
    return visible(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
