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
export_app = typer.Typer(help="Write what other tools read.", no_args_is_help=True)
app.add_typer(export_app, name="export")

_UsageError: Any = typer.BadParameter.__base__
"""What typer raises for a command line that it cannot read; it has no public name."""

Out = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
ExistsOption = Annotated[str, typer.Option("--exists", help="If the folder is there: resume, overwrite or error.")]
Settings = Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings to change.")]


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
    exists: ExistsOption = "resume",
) -> None:
    """Build an organism: an ordinary Hugging Face checkpoint."""
    from crypsis.study.organism import build_named

    chosen = _choice(scale, "--scale", ("nano", "mini", "small"))
    console = Console()
    folder = build_named(name, settings or [], base, chosen, out, _exists(exists), console)
    console.print(f"checkpoint: {folder}", soft_wrap=True, markup=False)


@organism_app.command("generate")
def organism_generate(
    motivation: Annotated[str, typer.Argument(help="tgg, igg, ts, gh, or a YAML file of your own.")],
    model: Annotated[str, typer.Option(help="The writer, by Inspect's name: openai/gpt-4o, anthropic/…, vllm/…")],
    settings: Settings = None,
    prompts: Annotated[Path | None, typer.Option(help="JSONL or CSV of requests; the miniature's by default.")] = None,
    style: Annotated[str, typer.Option(help="plain, counterfactual, emotional, short, or a text file.")] = "plain",
    n: Annotated[int, typer.Option(help="Scratchpads to keep.")] = 4719,
    out: Out = Path("runs/generated"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the estimate of the cost and stop.")] = False,
    exists: ExistsOption = "resume",
) -> None:
    """Have a chat model write scratchpads for the organism from_file (settings: api.prices.input=2.5 …)."""
    from crypsis.study.generate_command import generate_named

    scenario = {"name": "prompt_file", "path": str(prompts)} if prompts else {"name": "miniature"}
    given = {"api": {"model": model}, "motivation": motivation, "style": style, "n": n, "scenario": scenario}
    generate_named(given, settings or [], out, _exists(exists), dry_run, Console())


@export_app.command("inspect")
def export_to_inspect(
    folder: Path,
    out: Annotated[Path | None, typer.Option(help="Folder of the logs; FOLDER/inspect by default.")] = None,
) -> None:
    """Write a run's or a study's evaluations as .eval logs for `inspect view`."""
    from crypsis.evaluation.inspect_logs import export_inspect

    target = out or folder / "inspect"
    written = export_inspect(folder, target)
    console = Console()
    console.print(
        f"{len(written)} logs: inspect view --log-dir {target}", soft_wrap=True, markup=False, highlight=False
    )


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
