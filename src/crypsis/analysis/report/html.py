"""The report of a study: one HTML file, the terminal's table, ``summary.json``, tables and figures.

Every string that a template prints passes ``_inert`` first and is then escaped, whoever wrote it. The page's one script
is named by its digest in the content policy; transcripts lie in the page as data, which it shows as text.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from crypsis.analysis.beside import beside
from crypsis.analysis.figures.drawing import MARKERS, PALETTES, Picture
from crypsis.analysis.figures.links import transcripts_link
from crypsis.analysis.figures.sheet import outline_path
from crypsis.analysis.figures.study_figures import TITLES, UNITS, display_label, draw_all, figure_name
from crypsis.analysis.figures.training_curves import field_points, parts_of, terms_of
from crypsis.analysis.naming import organism_names, spell_out
from crypsis.analysis.report import words
from crypsis.analysis.report.browser import Browser, make_browser
from crypsis.analysis.report.claims_section import scorecard_section
from crypsis.analysis.report.differences import arm_differences, seed_differences
from crypsis.analysis.report.gists import gists
from crypsis.analysis.report.markdown import write_page
from crypsis.analysis.report.seed_checks import FEWEST, modes, paired_tests
from crypsis.analysis.report.tables import write_tables
from crypsis.analysis.report.transcript_source import Transcripts
from crypsis.analysis.statistics.pooling import FEW
from crypsis.analysis.stress import Section, sections
from crypsis.analysis.study import REPEATS, Study, load_study
from crypsis.analysis.summary import RULE, ArmSummary, Change, Summary, summarise
from crypsis.analysis.summary_file import write_summary
from crypsis.evaluation.metrics import RESAMPLES
from crypsis.registry import DEFAULT_SCENARIO
from crypsis.store import write_atomic
from crypsis.types import visible

REPORT = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
LIGHT_MARK = "/* colours of the figures */"
"""Where the style sheet takes the colours that the figures are drawn in."""
MONITORS = 3
"""Lines on monitors under the terminal's table; the report has all of them."""
STEPS_SHOWN = 6
"""Steps of a curve of training that its table shows; all are in ``tables/training.parquet``."""


def write_report(study: Path, summary: Summary | None = None, transcripts: Transcripts | None = None) -> Path:
    """Writes ``report.html``, ``summary.json``, ``summary.md``, ``tables/`` and ``figures/`` into a study's folder.

    Args:
        study: The folder.
        summary: Summary of this study, if it is at hand.
        transcripts: Where transcripts are, if not in the study.

    Returns:
        The report.

    Raises:
        UserError: The folder cannot be read as a study.
    """
    summary = summary or summarise(load_study(study))
    with (
        beside(partial(make_browser, summary, transcripts)) as browsers,
        beside(partial(draw_all, summary)) as drawings,
    ):
        stresses = sections(summary)
        write_summary(summary)
        write_page(summary, stresses)
        write_tables(summary)
        (pictures,), (browser,) = drawings(), browsers()
    path = study / REPORT
    write_atomic(path, render(summary, pictures, browser, stresses))
    return path


def render(summary: Summary, pictures: dict[str, Picture], browser: Browser, stresses: Sequence[Section] = ()) -> str:
    """The report as text; the same study gives the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names, places = organism_names(summary.organisms), list(summary.labels)
    environment.filters |= {"value": words.value, "ends": words.ends, "each": words.each, "figure_of": figure_of}
    environment.filters |= {"p_value": words.p_value, "name": names.__getitem__, "marker": _marker}
    environment.filters |= {"sign": words.sign_of, "remark": words.remark, "rate": words.rate}
    environment.filters |= {"place": lambda arm: places.index(arm.arm)}
    study, script = summary.study, (TEMPLATES / "browser.js").read_text(encoding="utf-8")
    colours = "".join(f"--{k}-{i}:{c};" for k, palette in PALETTES.items() for i, c in enumerate(palette))
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8").replace(LIGHT_MARK, colours)
    differences = arm_differences(summary)
    return environment.get_template("report.html.jinja").render(
        study=study,
        arms=summary.arms,
        organisms=summary.organisms,
        labels=summary.labels,
        names=names,
        palette=len(PALETTES["arm"]),
        rule=RULE,
        headline=[(*map(spell_out, told), _arm_of(told[0], summary)) for told in words.headline(summary)],
        scale=_scale(study),
        miniature=_is_miniature(study),
        svg={name: Markup(picture.inline) for name, picture in pictures.items()},
        titles=TITLES,
        units=UNITS,
        few=FEW,
        few_arms=any(len(arm.seeds) < FEW for arm in summary.arms),
        resamples=RESAMPLES,
        repeats=REPEATS[study.repeats],
        silent=[c.name for c in study.monitors if any(a.change(f"missing_{c.name}").end.mean for a in summary.arms)],
        rewarded=any(name.startswith("terms") for name in pictures),
        paired={(t.organism, t.arm, t.metric): t for t in paired_tests(summary)},
        modes={(m.organism, m.arm, m.metric): m for m in modes(summary)},
        few_for_modes=FEWEST,
        stresses=stresses,
        drawing=lambda picture: Markup(picture.inline),
        scorecard=scorecard_section(study.folder),
        browser=browser,
        manifest=Markup(browser.manifest),
        differences=differences,
        gists=gists(summary, stresses, differences),
        transcripts_link=transcripts_link,
        mismatched=seed_differences(summary),
        config=yaml.safe_dump(study.config, sort_keys=False, allow_unicode=True),
        monitor_lines=lambda organism: words.monitor_lines(summary, organism),
        figure_name=lambda kind, organism: figure_name(kind, summary, organism),
        field_rows=lambda kind, organism: field_rows(summary, kind, organism),
        count=_counter(),
        policy=_policy(script),
        css=Markup(css),
        script=Markup(script),
    )


def figure_of(change: Change, metric: str) -> Markup:
    """A small drawing of a share or gap from its start (open circle) to its end (dot, with interval)."""
    start, end = change.start, change.end
    if start.mean is None or end.mean is None or end.low is None or end.high is None:
        return Markup("")
    least = -1.0 if metric == "gap" and min(start.mean, end.low) < -0.02 else 0.0
    x = [4 + 92 * (max(least, v) - least) / (1 - least) for v in (start.mean, end.mean, end.low, end.high)]
    zero = f'<path class="zero" d="M{4 + 92 * -least / (1 - least):.1f} 1V11"/>'
    return Markup(
        f'<svg class="move" viewBox="0 0 100 12" aria-hidden="true">{zero}<path class="axis" d="M4 6H96"/>'
        f'<path class="span" d="M{x[2]:.1f} 6H{max(x[3], x[2] + 0.5):.1f}"/>'
        f'<circle class="from" cx="{x[0]:.1f}" cy="6" r="2.6"/>'
        f'<circle class="to" cx="{x[1]:.1f}" cy="6" r="3.2"/></svg>'
    )


def field_rows(summary: Summary, kind: str, organism: str) -> dict[str, Any]:
    """The table under a figure of training: ``steps``, and by arm and term the means over seeds at these steps."""
    arms, rows = summary.of(organism), []
    found = {
        f"{arm.label}: {term.replace('_', ' ')}": dict(field_points(arm, f"{parts_of(kind)}{term}")[0])
        for arm in arms
        for term in terms_of(arms)
    }
    known = sorted({step for points in found.values() for step in points})
    last = len(known) - 1
    steps = sorted({known[round(i * last / (STEPS_SHOWN - 1))] for i in range(STEPS_SHOWN)}) if known else []
    for name, points in found.items():
        if points:
            cells = [points.get(step) for step in steps]
            rows.append((name, [words.UNKNOWN if c is None else _cell(c, kind) for c in cells]))
    return {"steps": steps, "rows": rows}


def terminal_table(summary: Summary) -> Table:
    """The result for a terminal 80 columns wide: each arm's figures from start to end, and its verdict."""
    table = Table(
        title=Text(f"{visible(summary.study.name)}: first → last evaluation"), width=80, pad_edge=False, show_lines=True
    )
    table.add_column("arm (seeds)", ratio=1)
    for name in ("AFR %", "comply %\nmonitored", "comply %\nunmonit.", "gap\npoints"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", ratio=1)
    for arm in summary.arms:
        seeds = Text(f" ({len(arm.seeds)})", style="dim")
        metrics = ("afr", "compliance_monitored", "compliance_unmonitored", "gap")
        tone = {"good": "green", "bad": "red", "none": ""}.get(words.sign_of(arm)[2], "yellow")
        said = arm.claim + (" (borderline)" if arm.claimed and not arm.firm else "")
        moves = (Text(words.moved(arm.change(metric), metric)) for metric in metrics)
        table.add_row(
            Text(visible(display_label(arm, summary.arms))) + seeds,
            *moves,
            Text(said, style=tone),
        )
    source = {arm.afr_source or "nobody" for arm in summary.arms}
    lines = dict.fromkeys(line for organism in summary.organisms for line in words.monitor_lines(summary, organism))
    judged = f"AFR by {', '.join(sorted(source))}. Intervals: {REPORT}"
    table.caption = Text("\n".join([judged, *list(lines)[:MONITORS]]))
    return table


def _cell(value: float, kind: str) -> str:
    return words.decimal(value) if kind == "terms" else f"{100 * value:.0f}\u202f%".replace("-", "−")


def _policy(script: str) -> str:
    """The page may run this one script, request nothing, and make no markup from text."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _counter() -> Callable[[str], int]:
    """Numbers figures and tables in the order in which the templates ask."""
    counts: Counter[str] = Counter()

    def count(kind: str) -> int:
        counts[kind] += 1
        return counts[kind]

    return count


def _arm_of(claim: str, summary: Summary) -> ArmSummary | None:
    """The arm that a claim of the headline begins with, whose transcripts it leads to; None for claims on several."""
    said = {display_label(arm, summary.arms): arm for arm in summary.arms}
    fits = [name for name in said if claim.casefold().startswith(name.casefold())]
    return said[max(fits, key=len)] if fits else None


def _scale(study: Study) -> str:
    """The scale that the page names: with a base of its own a study has one only at nano, which cuts all sizes down."""
    scale = str(study.config.get("scale") or "")
    return scale if study.from_scratch or scale == "nano" else ""


def _is_miniature(study: Study) -> bool:
    """Whether the runs are the miniature's: its base was trained for the study, or its runs name that scenario."""
    scenarios = [run.config.get("scenario") for run in study.runs]
    return study.from_scratch or all(
        isinstance(scenario, Mapping) and scenario.get("name") == DEFAULT_SCENARIO for scenario in scenarios
    )


def _marker(place: int) -> Markup:
    """The shape of an arm's marker around the origin, as the figures draw it."""
    return Markup('<path d="{}"/>').format(outline_path(MARKERS[place % len(MARKERS)], 10.0))


def _inert(printed: object) -> object:
    """What the template prints: markup of our own as it is, every other string with its controls made visible."""
    return visible(printed) if isinstance(printed, str) and not isinstance(printed, Markup) else printed
