"""``crypsis model``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crypsis.cli.console import make_console

app = typer.Typer(help="Bring models of your own.", no_args_is_help=True)


@app.callback()
def model() -> None:
    """Bring models of your own."""


@app.command("import")
def model_import(
    source: Annotated[
        str, typer.Argument(help="smollm2, gemma3-270m, a .gguf file, or a checkpoint or adapter folder or hub id.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write; models/NAME by default.")] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="A Jinja chat template, for models that have none.")
    ] = None,
) -> None:
    """Write an ordinary checkpoint with tokenizer, chat template and a card that names licence and source."""
    from crypsis.study.jobs.import_model import import_model

    folder = import_model(source, out or Path("models") / Path(source).stem, chat_template)
    make_console().print(f"checkpoint: {folder}", soft_wrap=True, markup=False, highlight=False)
