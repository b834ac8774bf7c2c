"""The command line: verbs of a few lines; nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from crypsis.cli import capability, data, export, models, monitors, organisms, scorecards, stress, studies
from crypsis.cli.console import close_output, make_console, print_error, print_json, tolerant_streams
from crypsis.cli.monitors import TagsOption, TextField
from crypsis.cli.options import (
    ClaimsOption,
    ExistsOption,
    JsonOption,
    MaybeOut,
    OrganismsTable,
    Out,
    Settings,
    choice,
    exists_mode,
    show_report,
)
from crypsis.cli.plugins import show_plugin, show_plugins
from crypsis.cli.transcripts import evaluate_stored_transcripts, show_lines
from crypsis.disk import full, is_full
from crypsis.interrupts import INTERRUPTED, ends_at_interrupt, how_to_go_on
from crypsis.types import RunsFailedError, UserError

app = typer.Typer(
    help="Model organisms of alignment faking: build them, monitor their scratchpads, mitigate in RL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(organisms.app, name="organism")
app.add_typer(models.app, name="model")
app.add_typer(monitors.app, name="monitor")
app.add_typer(studies.app, name="study")
app.add_typer(data.app, name="data")
app.add_typer(stress.app, name="stress")
app.add_typer(export.app, name="export")
app.add_typer(scorecards.app, name="scorecard")
app.command("capability")(capability.capability)

_UsageError: Any = typer.BadParameter.__base__
"""What typer raises for a command line that it cannot read; it has no public name."""


def main() -> None:
    """Entry point: 0 done, 2 the user's mistake in one line, 130 interrupted, 1 ours."""
    with ends_at_interrupt():
        try:
            tolerant_streams()
            code = app(standalone_mode=False)
            unwritten = close_output()
            if unwritten:
                _end(f"the output cannot be written: {unwritten}", 2)
        except UserError as error:
            _end(str(error), 2)
        except RunsFailedError as error:
            _end(str(error), 1)
        except _UsageError as error:
            _refuse(error)
        except (typer.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except Exception as error:
            place = str(getattr(error, "filename", None) or "")
            if is_full(error):
                _end(str(full(place or "the output")), 2)
            if not (isinstance(error, OSError) and place):
                raise
            _end(f"{place}: {error.strerror}", 2)
        if code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            _end(how_to_go_on(sys.argv[1:]), INTERRUPTED)
        sys.exit(code)


def _end(line: str, code: int) -> NoReturn:
    close_output()
    print_error(f"crypsis: {line}")
    sys.exit(code)


def _refuse(error: Any) -> NoReturn:
    """A command line that typer cannot read: its message on one line, or the help if nothing was asked for."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        asked = error.ctx.command_path if error.ctx else "crypsis"
        print_error(f"{asked}: {error.format_message()} (see {asked} --help)")
    sys.exit(2)


def _show_version(asked: bool) -> None:
    if asked:
        from crypsis import __version__

        print(f"crypsis {__version__}")
        raise typer.Exit()


@app.callback()
def crypsis(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Model organisms of alignment faking: build them, monitor their scratchpads, mitigate in RL."""


@app.command()
def demo(
    settings: Settings = None,
    out: MaybeOut = None,
    scale: Annotated[str, typer.Option(help="nano (a minute, shows that it runs) or mini (the experiment).")] = "mini",
    exists: ExistsOption = "resume",
    model: Annotated[
        str | None,
        typer.Option(help="A real language model in place of the miniature: smollm2, gemma3-270m, or a checkpoint."),
    ] = None,
) -> None:
    """Build an alignment faker, train it with and without a scratchpad monitor, and report."""
    size, console = choice(scale, "--scale", ("nano", "mini")), make_console()
    out = out or Path("runs/demo" if model is None else "runs/real")
    if model is None:
        from crypsis.study.demo import demo_config

        config = demo_config(size, settings or [])
    else:
        from crypsis.study.real import forecast, real_config

        config = real_config(model, size, settings or [])
        show_lines(console, [forecast(config, out)])
    studies.run_and_report(config, out, exists, console)


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
    """Run RL once, as a YAML config says, and report."""
    from crypsis.config import load_config
    from crypsis.run_config import RunConfig
    from crypsis.study.progress import Display
    from crypsis.study.reporting import reported

    if choice(backend, "--backend", ("core", "trl")) == "trl":
        from crypsis.study.run_trl import run_by_trl as execute
    else:
        from crypsis.study.run import run_one as execute
    run, first = load_config(RunConfig, config, settings or []), os.environ.get("RANK", "0") == "0"
    run = run if first else run.model_copy(update={"report_to": ()})
    console = make_console(quiet=not first)

    def log(line: str) -> None:
        console.print(line, markup=False)

    with reported(run, out, log) as reporter, Display(console).counted(run.name, run.rl.steps) as show:

        def on_step(row: Mapping[str, Any]) -> None:
            show(int(row["step"]))
            reporter.update()

        execute(run, out, exists_mode(exists), on_step, log, on_start=reporter.open)
    if first:
        from crypsis.analysis.study_files import MONITORS
        from crypsis.store import write_json
        from crypsis.study.grid import cards

        write_json(out / MONITORS, next(iter(cards([run]).values())))
        try:
            show_report(out, console)
        except UserError as error:  # the run itself is done
            show_lines(console, [f"no report: {error}"])
    console.print(f"run folder: {out}", soft_wrap=True, markup=False)


@app.command()
def evaluate(
    model: Annotated[str | None, typer.Argument(help="Checkpoint folder or hub id.")] = None,
    settings: Settings = None,
    out: MaybeOut = None,
    scenario: Annotated[str, typer.Option(help="A scenario of `crypsis list scenarios`.")] = "miniature",
    prompts: Annotated[Path | None, typer.Option(help="Requests: JSONL, JSON or CSV (scenario prompt_file).")] = None,
    field: Annotated[str, typer.Option("--field", help="Field of the request in --prompts.")] = "request",
    n: Annotated[int, typer.Option(help="Held-out requests, each in both tiers.")] = 250,
    max_new_tokens: Annotated[int, typer.Option(help="Token budget of a reply.")] = 160,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="Type of the weights: auto (the faster one), float32 or bfloat16.")
    ] = "auto",
    batch: Annotated[int, typer.Option(help="Replies sampled together.")] = 256,
    judge: Annotated[
        str | None, typer.Option(help="Chat model that judges AF and compliance (Inspect's name): openai/gpt-4o, …")
    ] = None,
    steer: Annotated[
        float | None, typer.Option(help="Add the oversight direction to the states, so many times (1: look monitored).")
    ] = None,
    transcripts: Annotated[
        Path | None, typer.Option("--transcripts", help="In place of a model: stored replies of any layout.")
    ] = None,
    compliance_field: Annotated[
        str | None, typer.Option("--compliance-field", help="Field of transcripts that says whether a reply complied.")
    ] = None,
    layout: Annotated[str | None, typer.Option("--layout", help="One of `crypsis list transcripts`.")] = None,
    text_field: TextField = None,
    tags: TagsOption = None,
    exists: ExistsOption = "resume",
    as_json: JsonOption = False,
) -> None:
    """Measure a model in both tiers, or what stored transcripts say of one."""
    if (model is None) == (transcripts is None):
        raise UserError("evaluate: give either a model or --transcripts PATH")
    if transcripts is not None:
        if settings or prompts or judge or scenario != "miniature" or steer is not None:
            raise UserError("evaluate: --transcripts takes no settings, --scenario, --prompts, --judge or --steer")
        read = {"layout": layout, "text_field": text_field, "tags": tags}
        evaluate_stored_transcripts(transcripts, read, compliance_field, out, make_console(), as_json, exists)
        return
    if compliance_field or layout or text_field or tags:
        raise UserError("evaluate: --compliance-field, --layout, --text-field and --tags go with --transcripts")
    from crypsis.config import apply_overrides
    from crypsis.study.jobs.evaluate import EvaluateConfig, evaluate_model

    spec: dict[str, Any] = {"name": scenario}
    if prompts:
        spec = {"name": "prompt_file", "path": str(prompts), "field": field}
    given: dict[str, Any] = {"model": model, "scenario": spec, "n": n, "max_new_tokens": max_new_tokens}
    given |= {"device": device, "dtype": dtype, "batch": batch} | ({"judge": {"model": judge}} if judge else {})
    given |= {"steering": {"times": steer}} if steer is not None else {}
    config = EvaluateConfig.parse(**apply_overrides(given, settings or []))
    found = evaluate_model(config, out or Path("runs/evaluation"), exists_mode(exists))
    if as_json:
        print_json("evaluate", **found.as_json)
        return
    make_console().print(found.table)
    show_lines(make_console(), found.lines)


@app.command()
def report(
    folder: Path,
    organisms: OrganismsTable = None,
    claims: ClaimsOption = None,
    transcripts: Annotated[
        bool, typer.Option("--transcripts", help="Put a decrypted sample of imported runs into the page.")
    ] = False,
) -> None:
    """Write FOLDER/report.html, figures, summary.json and claims.json of a study or run; print the tables."""
    show_report(folder, make_console(), organisms, claims, transcripts)


@app.command()
def check(folder: Path) -> None:
    """Compare everything stored in a run, study, organism, base or monitor with its digest (exit 2 if some differs)."""
    from crypsis.analysis.folder_check import check_folder, check_table

    found, console = check_folder(folder), make_console()
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
    if found.findings:
        console.print(check_table(found))
        raise typer.Exit(2)
    console.print(f"{folder}: all {found.files} files are as they were stored", soft_wrap=True, markup=False)


@app.command("list")
def list_plugins(
    name: Annotated[str | None, typer.Argument(help="A kind, or a plug-in whose settings are wanted.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the plug-ins that are installed, or the settings of one."""
    from crypsis.registry import BUILT_IN

    if name is None or name in BUILT_IN:
        show_plugins([kind for kind in BUILT_IN if name in (None, kind)], as_json)
    else:
        show_plugin(name, as_json)


@app.command("schema")
def show_schema(
    what: Annotated[str, typer.Argument(help="run, study, organism, monitor, mitigation or scenario.")] = "study",
    name: Annotated[str | None, typer.Argument(help="One plug-in of the kind; all of them by default.")] = None,
) -> None:
    """Print the JSON Schema of a config, for editors (docs/json_output.md)."""
    import json

    from crypsis.study.schema import config_schema

    print(json.dumps(config_schema(what, name), indent=1, default=str))


@app.command("init")
def init_plugin(
    kind: Annotated[str, typer.Argument(help="mitigation, monitor, organism or scenario.")],
    name: Annotated[str, typer.Argument(help="As configs will name it.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the package; ./crypsis-NAME by default.")] = None,
) -> None:
    """Write a package with a plug-in that works, its test and its entry point."""
    from crypsis.scaffolding import plugin_kinds, scaffold

    folder = scaffold(choice(kind, "kind", plugin_kinds()), name, out)
    make_console().print(f"{folder}: pip install -e '{folder}[dev]' and pytest {folder}", markup=False, soft_wrap=True)
