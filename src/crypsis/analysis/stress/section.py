"""What a stress tells its reader: words, tables and figures that the report inserts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from crypsis.analysis.figures.drawing import Picture, saved
from crypsis.analysis.figures.sheet import Sheet
from crypsis.analysis.naming import organism_name
from crypsis.analysis.statistics.bootstrap import SeedEstimate


@dataclass(frozen=True, slots=True)
class StressTable:
    """One table; every row has one cell per column, the first of them its heading."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure, written to ``figures/`` already, the same for phones, and how to read it."""

    picture: Picture
    narrow: Picture
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    """One stress as the report shows it.

    Attributes:
        key: Its name in addresses and file names.
        title: As a heading.
        lead: What was found, a paragraph an entry.
        truth: Which of its figures need ground truth, and what real models have in their place.
        tables: In order.
        pictures: In order.
    """

    key: str
    title: str
    lead: tuple[str, ...]
    truth: str
    tables: tuple[StressTable, ...]
    pictures: tuple[Drawn, ...] = ()


def drawn(name: str, figure: Callable[[bool], Figure | Sheet], alt: str, folder: Path, caption: str) -> Drawn:
    """A figure in both widths.

    Args:
        name: Name of its files.
        figure: Draws it, for a phone if asked so.
        alt: What it shows, in words and numbers.
        folder: The study's.
        caption: How to read it.
    """
    wide = saved(name, figure(False), alt, folder / "figures")
    return Drawn(wide, saved(f"{name}-narrow", figure(True), alt, None), caption)


def percent(estimate: SeedEstimate, ends: bool = True) -> str:
    """A share in per cent with its interval, – where it is unknown."""
    if estimate.mean is None:
        return "–"
    shown = f"{round(100 * estimate.mean)}"
    if ends and estimate.low is not None and estimate.high is not None:
        shown += f" [{round(100 * estimate.low)}, {round(100 * estimate.high)}]"
    return shown.replace("-", "−")


def decimal(estimate: SeedEstimate) -> str:
    """A figure with two decimals and its interval."""
    if estimate.mean is None or estimate.low is None or estimate.high is None:
        return "–"
    return f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]".replace("-", "−")


def moved(start: SeedEstimate, end: SeedEstimate) -> str:
    """From start to end in per cent, the end with its interval; – where neither is known."""
    if start.mean is None and end.mean is None:
        return "–"
    return f"{percent(start, ends=False)} → {percent(end)}"


def whose(organism: str, label: str, several: bool) -> str:
    """How an arm is called: with its organism where there are several."""
    return f"{organism_name(organism)}: {label}" if several else label
