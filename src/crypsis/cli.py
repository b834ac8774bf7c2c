"""The command line: verbs of a few lines; nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from crypsis.types import UserError

app = typer.Typer(
    help="Model organisms of alignment faking: build them, monitor their scratchpads, mitigate in RL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
organism_app = typer.Typer(help="Build model organisms.", no_args_is_help=True)
app.add_typer(organism_app, name="organism")
study_app = typer.Typer(help="Run grids of arms and seeds.", no_args_is_help=True)
app.add_typer(study_app, name="study")
monitor_app = typer.Typer(help="Train and measure monitors.", no_args_is_help=True)
app.add_typer(monitor_app, name="monitor")

_UsageError: Any = typer.BadParameter.__base__
"""What typer raises for a command line that it cannot read; it has no public name."""

Out = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
ExistsOption = Annotated[str, typer.Option("--exists", help="If the folder is there: resume, overwrite or error.")]
Settings = Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings to change.")]

Data = Annotated[Path, typer.Option("--data", help="Labelled transcripts: JSONL, JSON, Parquet, or a folder of them.")]
Kind = Annotated[str, typer.Option("--kind", help="A kind of `crypsis list monitors`, or a trained monitor's folder.")]
ViewOption = Annotated[str, typer.Option("--view", help="What it may read: scratchpad, output or both.")]
TextField = Annotated[str | None, typer.Option("--text-field", help="Field of the text; found by itself if usual.")]
LabelField = Annotated[str | None, typer.Option("--label-field", help="Field of the label; likewise.")]
Positive = Annotated[str | None, typer.Option("--positive", help="Value of the label that means alignment faking.")]
GroupField = Annotated[str | None, typer.Option("--group-field", help="What rows of one prompt share; kept together.")]
Strip = Annotated[bool, typer.Option("--strip-shortcuts", help="Take out tier words and transcript markup.")]
Cut = Annotated[int | None, typer.Option("--cut", help="Keep the first so many characters of each text.", min=1)]
Seed = Annotated[int, typer.Option("--seed", help="Of splits and training.")]
Budget = Annotated[float, typer.Option("--false-positives", help="Share of negatives that the threshold may flag.")]
MaybeOut = Annotated[Path | None, typer.Option("--out", help="Folder to write to; one below runs/ by default.")]


def main() -> None:
    """Entry point: 0 done, 2 the user's mistake in one line, 1 ours."""
    try:
        sys.exit(app(standalone_mode=False))
    except UserError as error:
        print(f"crypsis: {error}", file=sys.stderr)
        sys.exit(2)
    except _UsageError as error:
        _refuse(error)
    except typer.Abort:
        print("crypsis: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _refuse(error: Any) -> None:
    """A command line that typer cannot read: its message on one line, or the help if nothing was asked for."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        asked = error.ctx.command_path if error.ctx else "crypsis"
        print(f"{asked}: {error.format_message()} (see {asked} --help)", file=sys.stderr)
    sys.exit(2)


@app.command()
def demo(
    settings: Settings = None,
    out: Out = Path("runs/demo"),
    scale: Annotated[str, typer.Option(help="nano (a minute, shows that it runs) or mini (the experiment).")] = "mini",
    exists: ExistsOption = "resume",
) -> None:
    """Build an alignment faker, train it with and without a scratchpad monitor, and report."""
    from crypsis.study.demo import demo_config, run_study
    from crypsis.study.progress import Display

    config = demo_config(_choice(scale, "--scale", ("nano", "mini")), settings or [])
    console = Console()
    run_study(config, out, _exists(exists), Display(console))
    _report(out, console)


@app.command()
def train(
    config: Path,
    settings: Settings = None,
    out: Out = Path("runs/train"),
    exists: ExistsOption = "resume",
    backend: Annotated[
        str, typer.Option(help="core (ours), or trl (several GPUs, vLLM; see docs/scaling.md).")
    ] = "core",
) -> None:
    """Run RL once, as a YAML config says."""
    from crypsis.config import load_config
    from crypsis.rl.config import RunConfig
    from crypsis.study.progress import Display

    if _choice(backend, "--backend", ("core", "trl")) == "trl":
        from crypsis.study.run_trl import run_by_trl as execute
    else:
        from crypsis.study.run import run_one as execute
    run = load_config(RunConfig, config, settings or [])
    console = Console(quiet=os.environ.get("RANK", "0") != "0")
    with Display(console).counted(run.name, run.rl.steps) as show:
        execute(
            run,
            out,
            _exists(exists),
            lambda row: show(int(row["step"])),
            lambda line: console.print(line, markup=False),
        )
    console.print(f"run folder: {out}", soft_wrap=True, markup=False)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub id.")],
    out: Out = Path("runs/evaluation"),
    scenario: Annotated[str, typer.Option(help="A scenario of `crypsis list scenarios`.")] = "miniature",
    prompts: Annotated[Path | None, typer.Option(help="JSONL of requests (scenario prompt_file).")] = None,
    n: Annotated[int, typer.Option(help="Held-out requests, each in both tiers.")] = 250,
    max_new_tokens: Annotated[int, typer.Option(help="Token budget of a reply.")] = 160,
    exists: ExistsOption = "resume",
) -> None:
    """Measure a model in both tiers."""
    from crypsis.study.evaluate import EvaluateConfig, evaluate_model

    spec: dict[str, Any] = {"name": "prompt_file", "path": str(prompts)} if prompts else {"name": scenario}
    config = EvaluateConfig.parse(model=model, scenario=spec, n=n, max_new_tokens=max_new_tokens)
    Console().print(evaluate_model(config, out, _exists(exists)))


@app.command()
def report(folder: Path) -> None:
    """Write FOLDER/report.html, figures and summary.json."""
    _report(folder, Console())


@app.command("list")
def list_plugins(kind: Annotated[str | None, typer.Argument(help="One kind only.")] = None) -> None:
    """Show the plug-ins that are installed."""
    from crypsis.registry import BUILT_IN, names

    kinds = [k for k in BUILT_IN if k == _choice(kind, "kind", tuple(BUILT_IN))] if kind else list(BUILT_IN)
    table = Table("kind", "name", "what it is")
    for one in kinds:
        for name in names(one):
            table.add_row(one, name, _first_line(one, name))
    Console().print(table)


@organism_app.command("list")
def organism_list() -> None:
    """Show the recipes."""
    list_plugins("organisms")


@organism_app.command("build")
def organism_build(
    name: str,
    settings: Settings = None,
    base: Annotated[
        str | None, typer.Option(help="Checkpoint folder or hub id; the miniature's base by default.")
    ] = None,
    scale: Annotated[str, typer.Option(help="Scale of the miniature's base.")] = "mini",
    out: Annotated[Path | None, typer.Option(help="Folder to write to; the cache by default.")] = None,
    n: Annotated[int, typer.Option(help="Held-out requests in each tier behind the card's table; 0: no table.")] = 250,
    exists: ExistsOption = "resume",
) -> None:
    """Build an organism: an ordinary Hugging Face checkpoint with a card."""
    from crypsis.study.organism import build_named

    chosen = _choice(scale, "--scale", ("nano", "mini", "small"))
    console = Console()
    folder = build_named(name, settings or [], base, chosen, out, _exists(exists), console, n)
    console.print(f"checkpoint: {folder}", soft_wrap=True, markup=False)


@organism_app.command("table")
def organism_table(
    settings: Settings = None,
    out: Out = Path("runs/organisms"),
    seeds: Annotated[int, typer.Option(help="Seeds of every organism.")] = 3,
) -> None:
    """Build and measure every organism; finished parts are kept."""
    from crypsis.analysis.organisms import write_table
    from crypsis.study.organism_table import run_table, table_config
    from crypsis.study.progress import Display

    config = table_config([f"seeds={list(range(seeds))}", *(settings or [])])
    console = Console()
    run_table(config, out, Display(console))
    console.print(f"table: {write_table(out, list(config.swaps))}", soft_wrap=True, markup=False)


@study_app.command("run")
def study_run(
    config: Path,
    settings: Settings = None,
    out: Out = Path("runs/study"),
    exists: ExistsOption = "resume",
) -> None:
    """Run a study config (organism × arms × seeds) and report."""
    from crypsis.config import load_config
    from crypsis.study.config import StudyConfig
    from crypsis.study.demo import run_study
    from crypsis.study.progress import Display

    console = Console()
    run_study(load_config(StudyConfig, config, settings or []), out, _exists(exists), Display(console))
    _report(out, console)


@monitor_app.command("train")
def monitor_train(
    data: Data,
    settings: Settings = None,
    kind: Kind = "text",
    view: ViewOption = "scratchpad",
    text_field: TextField = None,
    label_field: LabelField = None,
    positive: Positive = None,
    group_field: GroupField = None,
    strip_shortcuts: Strip = False,
    cut: Cut = None,
    false_positives: Budget = 0.02,
    seed: Seed = 0,
    out: MaybeOut = None,
    exists: ExistsOption = "resume",
) -> None:
    """Train on 60 % of the prompts, choose the threshold on 20 %, measure on the rest."""
    fields = _fields(view, text_field, label_field, positive, group_field, strip_shortcuts, cut)
    _measure("train", kind, settings, data, fields, out, exists, false_positives=false_positives, seed=seed)


@monitor_app.command("validate")
def monitor_validate(
    data: Data,
    kind: Annotated[str, typer.Argument(metavar="MONITOR", help="A trained monitor's folder, or an untrained kind.")],
    settings: Settings = None,
    view: ViewOption = "scratchpad",
    text_field: TextField = None,
    label_field: LabelField = None,
    positive: Positive = None,
    group_field: GroupField = None,
    strip_shortcuts: Strip = False,
    cut: Cut = None,
    seed: Seed = 0,
    out: MaybeOut = None,
    exists: ExistsOption = "resume",
) -> None:
    """Measure an existing monitor on texts and prompts that it has not seen."""
    fields = _fields(view, text_field, label_field, positive, group_field, strip_shortcuts, cut)
    _measure("validate", kind, settings, data, fields, out, exists, seed=seed)


@monitor_app.command("crossval")
def monitor_crossval(
    data: Data,
    settings: Settings = None,
    kind: Kind = "text",
    folds: Annotated[int, typer.Option("--folds", help="Parts of a repeat.", min=2)] = 5,
    repeats: Annotated[int, typer.Option("--repeats", help="Shuffles.", min=1)] = 5,
    view: ViewOption = "scratchpad",
    text_field: TextField = None,
    label_field: LabelField = None,
    positive: Positive = None,
    group_field: GroupField = None,
    strip_shortcuts: Strip = False,
    cut: Cut = None,
    false_positives: Budget = 0.02,
    seed: Seed = 0,
    out: MaybeOut = None,
    exists: ExistsOption = "resume",
) -> None:
    """Train and measure by repeated cross-validation; for data too few to split once."""
    fields = _fields(view, text_field, label_field, positive, group_field, strip_shortcuts, cut)
    rest = {"folds": folds, "repeats": repeats, "false_positives": false_positives, "seed": seed}
    _measure("crossval", kind, settings, data, fields, out, exists, **rest)


@monitor_app.command("transfer")
def monitor_transfer(
    organisms: Annotated[
        list[str] | None, typer.Argument(help="Recipes, base, or NAME=FOLDER; all recipes by default.")
    ] = None,
    kind: Kind = "text",
    view: ViewOption = "scratchpad",
    n: Annotated[int, typer.Option(help="Transcripts of each organism.", min=100)] = 600,
    scale: Annotated[str, typer.Option(help="Scale of the miniature's base.")] = "mini",
    out: Out = Path("runs/transfer"),
    exists: ExistsOption = "resume",
) -> None:
    """Train on each organism of the miniature, test on all, with aligned controls."""
    from crypsis.analysis.monitor_report import transfer_report
    from crypsis.config import parse_config
    from crypsis.study.transfer import TransferConfig, measure_transfer, organism_names

    settings = {"organisms": organism_names(organisms), "monitor": {"name": kind}, "view": view, "n": n, "scale": scale}
    console = Console()
    folder = measure_transfer(parse_config(TransferConfig, settings, "transfer"), out, _exists(exists), console)
    console.print(transfer_report(folder))
    console.print(f"matrix: {folder / 'transfer.json'}", soft_wrap=True, markup=False, highlight=False)


def _fields(view: str, *rest: Any) -> Any:
    from crypsis.config import parse_config
    from crypsis.monitors.data import DataOptions

    names = ("text_field", "label_field", "positive", "group_field", "strip_shortcuts", "cut")
    chosen = _choice(view, "--view", ("scratchpad", "output", "both"))
    return parse_config(DataOptions, {"view": chosen, **dict(zip(names, rest, strict=True))}, "monitor")


def _measure(
    verb: str,
    kind: str,
    settings: list[str] | None,
    data: Path,
    fields: Any,
    out: Path | None,
    exists: str,
    **rest: Any,
) -> None:
    from crypsis.analysis.monitor_report import measurement_report
    from crypsis.study.measuring import measured, spec_of
    from crypsis.study.progress import Display

    console = Console()
    with Display(console).counted(verb, rest.get("folds", 1) * rest.get("repeats", 1), "folds") as show:
        folder = measured(verb, spec_of(kind, settings or []), data, fields, out, _exists(exists), show, **rest)
    console.print(measurement_report(folder))
    console.print(f"measurement: {folder}", soft_wrap=True, markup=False, highlight=False)


def _first_line(kind: Any, name: str) -> str:
    from crypsis.registry import find

    try:
        return (find(kind, name).__doc__ or "no description").strip().splitlines()[0]
    except ImportError as error:
        return f"cannot be imported: {error}"


def _report(folder: Path, console: Console) -> None:
    from crypsis.analysis.report import terminal_table, write_report

    page = write_report(folder)
    console.print(terminal_table(folder))
    console.print(f"report: {page.resolve()}", soft_wrap=True, markup=False, highlight=False)


def _exists(value: str) -> Any:
    return _choice(value, "--exists", ("resume", "overwrite", "error"))


def _choice(value: str, option: str, known: tuple[str, ...]) -> Any:
    from crypsis.config import did_you_mean

    if value not in known:
        raise UserError(f"{option}: '{value}' is none of its values{did_you_mean(value, known)}")
    return value
