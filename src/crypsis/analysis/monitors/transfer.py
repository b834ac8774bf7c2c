"""The transfer matrix of a monitor for the terminal, as Markdown and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from crypsis.analysis.figures.drawing import INK, MUTED, TINT, canvas, saved
from crypsis.analysis.report.words import percent
from crypsis.store import read_json, write_atomic
from crypsis.types import visible

TRANSFER = "transfer.json"
"""The file that ``crypsis.study.jobs.transfer`` writes, which needs torch."""
QUANTITIES = {"AUROC, %": ("auroc", 0.5), "True positives at the threshold, %": ("true_positive_rate", 0.0)}
"""What the tables and maps show, and where the colours begin."""
TransferRow = Mapping[str, Any]


class Matrix:
    """Cells by the organism trained on and the one tested on; organisms that could not be trained on apart."""

    def __init__(self, cells: Sequence[TransferRow]) -> None:
        self.tested = list(dict.fromkeys(cell["tested_on"] for cell in cells))
        self.trained = list(dict.fromkeys(cell["trained_on"] for cell in cells if not cell["reason"]))
        self.reasons = list(dict.fromkeys(cell["reason"] for cell in cells if cell["reason"]))
        self._cells = {(cell["trained_on"], cell["tested_on"]): cell for cell in cells}

    def row(self, trained: str) -> list[TransferRow]:
        """The cells of one monitor, in the order of ``tested``."""
        return [self._cells[trained, other] for other in self.tested]


def transfer_report(folder: Path) -> Group:
    """Draws ``transfer.svg`` and ``.png``, writes ``transfer.md`` and returns what the terminal shows.

    Args:
        folder: With ``transfer.json``.
    """
    result = read_json(folder / TRANSFER)
    matrix = Matrix(result["cells"])
    notes = [visible(note) for note in (*result["notes"], *matrix.reasons)]
    page = [*transfer_markdown(matrix), "", *(f"- {note}" for note in notes)]
    write_atomic(folder / "transfer.md", "\n".join(page) + "\n")
    draw_transfer(matrix, folder)
    tables = (transfer_table(matrix, title, quantity) for title, (quantity, _) in QUANTITIES.items())
    return Group(*tables, *(Text(f"note: {note}") for note in notes))


def transfer_table(matrix: Matrix, title: str, quantity: str) -> Table:
    """Trained on in rows; columns are called by the number that the organism has in the rows."""
    numbers = {name: str(number) for number, name in enumerate(matrix.tested, 1)}
    table = Table(title=f"{title}; columns: tested on", pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("trained on", no_wrap=True)
    for number in numbers.values():
        table.add_column(number, no_wrap=True, justify="right")
    for name in matrix.tested:
        row = matrix.row(name) if name in matrix.trained else []
        table.add_row(
            f"{numbers[name]} {visible(name)}", *([_percent(cell[quantity]) for cell in row] or ["–"] * len(numbers))
        )
    return table


def transfer_markdown(matrix: Matrix) -> list[str]:
    """AUROC with its interval, then true-/false-positive rate at the training side's threshold."""
    lines = [f"| trained on | {' | '.join(matrix.tested)} |", "|---" * (len(matrix.tested) + 1) + "|"]
    for name in matrix.trained:
        cells = (f"{_auroc(cell)}{_interval(cell)} · {_rates(cell)}" for cell in matrix.row(name))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def draw_transfer(matrix: Matrix, folder: Path) -> None:
    """AUROC and true-positive rate of every pair as two maps."""
    with mpl.rc_context({"font.size": 8, "svg.fonttype": "none"}):
        figure = canvas(2.4 + 0.62 * len(matrix.tested), 1.5 + 0.25 * len(matrix.trained))
        figure.set_layout_engine("constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (title, (quantity, lowest)) in zip(panels, QUANTITIES.items(), strict=True):
            rows = [[np.nan if c[quantity] is None else c[quantity] for c in matrix.row(n)] for n in matrix.trained]
            grid = np.array(rows or [[np.nan] * len(matrix.tested)], dtype=float)
            axes.imshow(grid, cmap=TINT, vmin=lowest, vmax=1, aspect="auto")
            for row, column in np.argwhere(~np.isnan(grid)):
                shown = percent(grid[row, column])
                axes.text(column, row, shown, ha="center", va="center", fontsize=6.5, color=INK)
            axes.set_xticks(range(len(matrix.tested)), matrix.tested, rotation=50, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(matrix.trained)), matrix.trained)
            axes.set_title(title, loc="left", color=INK)
            axes.set_xlabel("tested on", color=MUTED)
            axes.tick_params(length=0, labelcolor=INK)
            axes.spines[:].set_visible(False)
        panels[0].set_ylabel("trained on", color=MUTED)
        saved("transfer", figure, "AUROC and true-positive rate of monitors by organism", folder)


def _auroc(cell: TransferRow) -> str:
    return "–" if cell["auroc"] is None else f"{cell['auroc']:.2f}"


def _interval(cell: TransferRow) -> str:
    return "" if cell["auroc"] is None else f" [{cell['auroc_low']:.2f}–{cell['auroc_high']:.2f}]"


def _rates(cell: TransferRow) -> str:
    return f"{_percent(cell['true_positive_rate'])}/{_percent(cell['false_positive_rate'])} %"


def _percent(share: float | None) -> str:
    return "–" if share is None else percent(share)
