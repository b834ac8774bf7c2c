"""Writes the generated parts of README.md and docs/*.md: ``python -m docs.tables``; a test compares (``make docs``).

A table stands between ``<!-- table: WHAT ARGUMENTS -->`` and ``<!-- end -->``, a figure inside of a sentence between
``<!-- value: WHAT ARGUMENTS -->`` and ``<!-- end -->``. Settings and plug-ins are read off the code, results off
``docs/results/*.json``. What they may be: the functions of ``BLOCKS`` and of ``VALUES``.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from crypsis.analysis.statistics.pooling import FEW
from crypsis.registry import BUILT_IN, Kind, find, summary
from crypsis.settings import REQUIRED, Setting, settings_of

DOCS = Path(__file__).parent
RESULTS = DOCS / "results"
BLOCK = re.compile(r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: ([^>]*?) -->)[^<]*(<!-- end -->)")
FILLED_IN = "filled in before the first step."
"""How the text of a field ends that is no setting: the run sets it."""
BEFORE, BASELINE = "before RL", "Baseline RL"


def pages() -> list[Path]:
    """README and all pages but the diary, which tells how things were."""
    return [DOCS.parent / "README.md", *sorted(p for p in DOCS.rglob("*.md") if p.name != "diary.md")]


def rendered(text: str, page: Path) -> str:
    """A page with its blocks written anew.

    Args:
        text: The page as it is.
        page: Its path, which links are relative to.
    """

    def block(match: re.Match[str]) -> str:
        what, *arguments = shlex.split(match[2])
        return f"{match[1]}\n{_linked(BLOCKS[what](*arguments), page)}\n\n{match[3]}"

    def value(match: re.Match[str]) -> str:
        what, *arguments = shlex.split(match[2].replace("\n", " "))
        return f"{match[1]}{VALUES[what](*arguments).replace('<', 'under ')}{match[3]}"

    return VALUE.sub(value, BLOCK.sub(block, text))


def settings(kind: str, name: str) -> str:
    """Table of a plug-in's settings; of a monitor that is trained, those of the training too."""
    cls = find(cast(Kind, kind), name)
    own = [row for row in settings_of(cls) if not row.text.endswith(FILLED_IN)]
    rows = sorted(own, key=lambda row: row.default != REQUIRED)
    trainer = getattr(cls, "trainer", None)
    used = _settings_table(rows) if rows else "It has no settings."
    if trainer is None:
        return used
    return f"Of a run:\n\n{used}\n\nOf the training (`key=value` after `crypsis monitor train`):\n\n" + _settings_table(
        settings_of(trainer)
    )


def fields(place: str, *prefixes: str) -> str:
    """Table of the settings of a config class, ``module:Class``; only those under some keys if any are named."""
    rows = [
        row for row in settings_of(_class(place))
        if not prefixes or any(row.name == p or row.name.startswith(f"{p}.") for p in prefixes)
    ]  # fmt: skip
    return _settings_table(rows)


def run_fields() -> str:
    """Table of a run's settings with the miniature's defaults beside the paper's."""
    from crypsis.run_config import RLConfig, RunConfig

    small = {f"rl.{key}": _value(value) for key, value in RunConfig(name="x", policy=Path()).rl.model_dump().items()}
    usual = {f"rl.{key}": _value(value) for key, value in RLConfig().model_dump().items()}
    rows = []
    for row in settings_of(RunConfig):
        own = small.get(row.name)
        name, default, meaning, takes = _cells(row)
        rows.append((name, default, own if own and own != usual[row.name] else "", meaning, takes))
    return _table(("setting", "default", "in the miniature", "meaning", "takes"), rows)


def plugins(kind: str) -> str:
    """Table of the built-in plug-ins of a kind with a link to the page of each."""
    known = cast(Kind, kind)
    rows = [(f"[`{name}`](docs/{kind}/{name}.md)", _plain(summary(known, name))) for name in sorted(BUILT_IN[known])]
    return _table(("name", "what it is"), rows)


def results(study: str, *arms: str) -> str:
    """Table of some arms of a study beside baseline RL, organism by organism; ``of=ORGANISM`` leaves others out."""
    only, chosen_arms = _of(arms)
    whole = _json("arms")["studies"][study]
    wanted = [BEFORE, BASELINE, *chosen_arms]
    rows = []
    for organism, found in whole["organisms"].items():
        chosen = [row for row in found["rows"] if row["arm"] in wanted]
        if (only and organism not in only) or not any(row["arm"] in wanted[2:] for row in chosen):
            continue
        for place, row in enumerate(chosen):
            both = f"{row['monitored']} · {row['unmonitored']}"
            rows.append(("" if place else organism, row["arm"], row["afr"], row["gap"], both))
    head = ("organism", "arm", "AFR", "gap, points", "complies, monitored · unmonitored")
    table = _table(head[1:], [row[1:] for row in rows]) if len(only) == 1 else _table(head, rows)
    return f"{table}\n\n{_source(whole)}"


def demo() -> str:
    """The demo's arms, as ``crypsis export results`` wrote them."""
    columns = ("afr", "gap", "compliance_monitored", "compliance_unmonitored")
    arms = yaml.safe_load((DOCS.parent / "configs" / "demo.yaml").read_text(encoding="utf-8"))["arms"]
    rows = [(arms[row["arm"]]["label"], *(_points(row[column]) for column in columns)) for row in _json("demo")]
    return _table(("arm", "AFR, %", "gap, points", "complies, monitored, %", "unmonitored, %"), rows)


def outcomes(study: str, *arms: str) -> str:
    """Some arms of a study beside baseline RL, organism by organism, as ``crypsis export results`` wrote them.

    ``of=ORGANISM`` leaves others out. What has fewer than ``FEW`` seeds is left out: nothing is claimed of it.
    """
    config = DOCS.parent / "configs" / f"{study.removesuffix('_arms')}.yaml"
    labels = yaml.safe_load(config.read_text(encoding="utf-8"))["arms"]
    only, arms = _of(arms)
    found: dict[str, dict[str, Any]] = {}
    missing: dict[str, None] = {}
    for row in _json(study):
        if only and row["organism"] not in only:
            continue
        if row["seeds"] >= FEW:
            found.setdefault(row["organism"], {})[row["arm"]] = row
        elif row["arm"] in arms:
            missing[row["organism"]] = None
    rows = []
    for organism, by_arm in found.items():
        shown = [arm for arm in ("baseline", *arms) if arm in by_arm] if set(arms) & by_arm.keys() else []
        for place, arm in enumerate(shown):
            row = by_arm[arm]
            both = f"{_points(row['compliance_monitored'])} · {_points(row['compliance_unmonitored'])}"
            name = "" if place else organism
            rows.append((name, labels[arm]["label"], str(row["seeds"]), _points(row["afr"]), _points(row["gap"]), both))
    where = f"[all arms and organisms](docs/results/{study}.md)"
    if not rows:
        return f"Fewer than {FEW} seeds so far, of which nothing is claimed; {where}."
    head = ("organism", "arm", "seeds", "AFR, %", "gap, points", "complies, monitored · unmonitored, %")
    table = _table(head[1:], [row[1:] for row in rows]) if len(only) == 1 else _table(head, rows)
    few = f" Fewer than {FEW} seeds, so left out: {', '.join(missing)}." if missing else ""
    prose = f"Means with 95 % intervals at the end of RL; {where}.{few}"
    return f"{table}\n\n{textwrap.fill(prose, 100, break_long_words=False, break_on_hyphens=False)}"


def _of(arms: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The organisms that ``of=ORGANISM`` names, and the arms."""
    only = [arm.removeprefix("of=") for arm in arms if arm.startswith("of=")]
    return only, tuple(arm for arm in arms if not arm.startswith("of="))


def _points(interval: Mapping[str, float | None]) -> str:
    if interval["mean"] is None:
        return "–"
    mean, low, high = (_number(100 * (interval[key] or 0.0), 0) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def arms(study: str, organism: str) -> str:
    """The whole table of a study's arms on one organism."""
    rows = _json("arms")["studies"][study]["organisms"][organism]["rows"]
    asked = any("lies" in row for row in rows)
    head = ("arm", "AFR", "gap, points", "complies, monitored · unmonitored", *(["lies when asked"] if asked else []),
            "tokens of scratchpad · unparsed", "in the end")  # fmt: skip
    shown = [
        (row["arm"], row["afr"], row["gap"], f"{row['monitored']} · {row['unmonitored']}",
         *([row.get("lies", "–")] if asked else []), f"{row['tokens']} · {row['unparsed']}", row.get("end", "–"))
        for row in rows
    ]  # fmt: skip
    return _table(head, shown)


def cell(study: str, organism: str, arm: str, column: str) -> str:
    """What a study's table has for an arm in one column, without its interval."""
    rows = _json("arms")["studies"][study]["organisms"][organism]["rows"]
    (found,) = (row[column] for row in rows if row["arm"] == arm)
    return str(found).partition(" [")[0]


def span(study: str, arm: str, column: str, *organisms: str) -> str:
    """The smallest and the largest value of an arm over some organisms; over all of the study if none is named."""
    found = organisms or tuple(_json("arms")["studies"][study]["organisms"])
    cells = [cell(study, one, arm, column) for one in found]
    values = sorted({text.rstrip("% \u202f\u00a0") for text in cells}, key=_ordered)
    unit = " %" if cells[0].endswith("%") else ""
    return f"{values[0]} to {values[-1]}{unit}" if len(values) > 1 else f"{values[0]}{unit}"


def trait(name: str, column: str) -> str:
    """The mean of a rate of an organism before RL, in percent."""
    (found,) = (row[column] for row in _json("organisms")["rows"] if row["organism"] == name)
    return f"{_number(100 * found[0], 0)} %"


def afr(study: str, organism: str, arm: str, when: str) -> str:
    """AFR of an arm at the ``start`` or the ``end`` of RL, as ``crypsis export results`` wrote it, in percent."""
    (found,) = (r["afr"][when] for r in _json(study) if (r["organism"], r["arm"]) == (organism, arm))
    return f"{_number(100 * found['mean'], 0)} %"


def _ordered(value: str) -> float:
    return 0.5 if value.startswith("<") else float(value.lstrip("+>").replace("−", "-"))


def organism(*recipes: str) -> str:
    """What the organisms of some recipes do before RL; of all recipes, with what they cost, if none is named."""
    whole = _json("organisms")
    wanted = [row for row in whole["rows"] if not recipes or row["organism"].partition("-")[0] in recipes]
    head = ["organism", "AFR", "gap", "monitored", "unmonitored"]
    rows = [
        [f"`{row['organism']}`", *(_interval(row[key]) for key in ("afr", "gap", "monitored", "unmonitored"))]
        for row in wanted
    ]
    if not recipes:
        head += ["tokens of scratchpad", "unparsed", "CPU s"]
        for shown, row in zip(rows, wanted, strict=True):
            shown += [_interval(row["tokens"], 0), _interval(row["unparsed"]), str(row["cpu_seconds"])]
    seeds = ", ".join(sorted({str(row["seeds"]) for row in wanted}))
    what = f"Means with 95 % intervals, compliance by tier;\n{seeds} seeds; before RL"
    return f"{_table(head, rows)}\n\n{_source(whole, what)}"


def swaps() -> str:
    """Gaps of organisms whose tiers were renamed and exchanged."""
    whole = _json("organisms")
    rows = [
        (
            f"`{row['organism']}`",
            *map(_interval, (row["gap"], row["renamed"], row["exchanged"])),
            _number(row["lexical"]),
        )
        for row in whole["swaps"]
    ]
    return _table(("organism", "gap", "gap, renamed", "gap, exchanged", "lexical part of the gap"), rows)


def monitor(*kinds: str) -> str:
    """Cross-validation of the kinds of monitors on real scratchpads; of all kinds if none is named."""
    whole = _json("monitors")
    rows = [row for row in whole["rows"] if not kinds or any(f"`{kind}`" in row["kind"] for kind in kinds)]
    head = ("kind", "AUROC", "shortcuts stripped", "ECE", "CPU")
    table = _table(head, [[row[key] for key in ("kind", "auroc", "stripped", "ece", "cpu")] for row in rows])
    if not kinds:
        return table
    what = "200 real scratchpads with automated labels; mean and, in brackets, range over five repeats of five folds"
    return f"{table}\n\n{what}; `{whole['command']}`, {whole['date']}."


def capability(name: str) -> str:
    """What `crypsis capability` measured of some models."""

    def share(found: Mapping[str, Any]) -> str:
        values = [found[key] for key in ("mean", "low", "high")]
        return "–" if None in values else _interval([100 * value for value in values], 0)

    rows = [
        (row["model"], _number(row["perplexity"], 0), _number(row["bits_per_character"]),
         *(share(row[key]) for key in ("format_ok", "answered", "principled")))
        for row in _json(name)
    ]  # fmt: skip
    shares = ("well formed, %", "names one option, %", "of these principled, %")
    return _table(("model", "perplexity", "bits per character", *shares), rows)


def follow(name: str) -> str:
    """What `crypsis monitor follow` found: each monitor of each arm, first and last evaluation."""

    def share(row: Mapping[str, Any], metric: str, digits: int = 0) -> str:
        start, end = (row[metric][at] for at in ("start", "end"))
        if start["mean"] is None or end["mean"] is None:
            return "–"
        size = 1 if digits else 100
        shown = _interval([size * end[key] for key in ("mean", "low", "high")], digits)
        return f"{_number(size * start['mean'], digits)} → {shown}"

    rows = [
        (row["arm"], f"`{row['monitor']}`{', trained against' if row['trained_against'] else ''}",
         share(row, "recall"), share(row, "alarms"), share(row, "auroc", 2))
        for row in _json(name)
    ]  # fmt: skip
    return _table(("arm", "monitor", "recall, %", "false alarms, %", "AUROC"), rows)


def commands() -> str:
    """Table of the command line: arguments, options with their defaults, and what each command does."""
    import typer

    from crypsis.cli import app

    head = ("command", "arguments and options (default)", "what it does")
    return _table(head, _commands(typer.main.get_command(app), ""))


def _commands(command: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """A row for each command below a group, or for the command itself."""
    for name, part in getattr(command, "commands", {}).items():
        yield from _commands(part, f"{path} {name}".strip())
    if not hasattr(command, "commands"):
        parts = sorted(command.params, key=lambda part: part.param_type_name != "argument")
        shown = [_parameter(part) for part in parts if not part.hidden and part.name != "help"]
        yield f"`{path}`", " · ".join(shown), (command.help or "").partition("\n\n")[0]


def _parameter(part: Any) -> str:
    """An argument or option as the table shows it."""
    if part.param_type_name == "argument":
        return f"`{part.metavar or part.name.upper()}`"
    shown = isinstance(part.default, str | Path | float | int) and part.default is not False
    return f"`{part.opts[0]}`{f' ({part.default})' if shown else ''}"


BLOCKS: Mapping[str, Callable[..., str]] = {
    "settings": settings,
    "fields": fields,
    "run-fields": run_fields,
    "plug-ins": plugins,
    "results": results,
    "arms": arms,
    "demo": demo,
    "outcomes": outcomes,
    "organism": organism,
    "swaps": swaps,
    "monitor": monitor,
    "capability": capability,
    "follow": follow,
    "commands": commands,
}

VALUES: Mapping[str, Callable[..., str]] = {"cell": cell, "span": span, "trait": trait, "afr": afr}


def _settings_table(rows: Iterable[Setting]) -> str:
    return _table(("setting", "default", "meaning", "takes"), [_cells(row) for row in rows])


def _cells(row: Setting) -> tuple[str, str, str, str]:
    source = row.source if row.source[:1].isupper() or not row.source else f"{row.source[0].upper()}{row.source[1:]}"
    meaning = _plain(f"{row.text} {source}.".removesuffix(" ."))
    return f"`{row.name}`", row.default, meaning, row.type.replace("1e+06", "1,000,000")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(str(cell)) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text of a cell: bars and signs that Markdown would take for its own, outside of code, are written as entities."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def _plain(text: str) -> str:
    """Text of a docstring as Markdown."""
    return re.sub(r":\w+:(?=`)", "", text).replace("``", "`")


def _linked(text: str, page: Path) -> str:
    """Names of pages in brackets become links, and links become relative to the page."""

    def link(match: re.Match[str]) -> str:
        return "](" + os.path.relpath(DOCS.parent / match[1], page.parent).replace(os.sep, "/")

    text = re.sub(r"docs/(diary|monitors)\.md(?=[,;)])", r"[\1](docs/\1.md)", text)
    return re.sub(r"\]\((docs/[\w/.-]+)", link, text)


def _source(study: Mapping[str, Any], more: str = "Means with 95 % intervals") -> str:
    return f"{more}; {study['requests']} held-out requests per tier; `{study['command']}`, {study['date']}."


def _interval(values: Sequence[float], digits: int = 2) -> str:
    mean, low, high = (_number(value, digits) for value in values)
    return f"{mean} [{low}, {high}]".replace(" ", "\N{NO-BREAK SPACE}")


def _number(value: float, digits: int = 2) -> str:
    return f"{round(value, digits) + 0:.{digits}f}".replace("-", "−")


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _json(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def main() -> None:
    """Writes the pages anew and says which changed."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = rendered(text, page)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(page.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
