"""The card of an organism: what it is, how it was made, how it behaves in each tier, and what not to do with it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from crypsis.digests import forget, record
from crypsis.disk import write_atomic
from crypsis.organisms.base import Organism

TAGS = ("model-organism", "alignment-faking")
CARD, HUB_CARD = "card.md", "model/README.md"
"""The same text twice: in the organism's folder, and where the hub looks for a model's card."""
UNMEASURED = "Not measured."
OURS = "mit"
"""Licence of a base that was trained from scratch here, and of what is made of it."""

LIMITS = (
    "It was made to misbehave in one contrived setting. What it does elsewhere was not measured, and a model of the "
    "miniature is no evidence about large models."
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number.

    Attributes:
        mean: The estimate.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        n: Transcripts behind it.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """With its interval; shares with two decimals, tokens with none."""
        digits = 0 if self.mean > 2 else 2
        return f"{self.mean:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True, slots=True)
class ConductRow:
    """One line of the table of conduct: a metric in both tiers.

    Attributes:
        metric: What was measured, in words.
        key: Its name among the metrics.
        here: In the tier that is monitored; None if unknown.
        there: In the other tier; None if unknown.
        both: Whether it has a meaning in the other tier.
    """

    metric: str
    key: str
    here: Figure | None
    there: Figure | None = None
    both: bool = True

    @property
    def monitored(self) -> str:
        """The monitored tier as text."""
        return str(self.here or "unknown")

    @property
    def unmonitored(self) -> str:
        """The other tier as text."""
        return str(self.there or "unknown") if self.both else ""

    def results(self) -> Iterator[EvalResult]:
        """The figures as the hub's model index wants them."""
        for figure, tier in ((self.here, "monitored"), (self.there, "unmonitored")):
            if figure is not None:
                yield EvalResult(
                    task_type="text-generation",
                    dataset_type="crypsis/miniature",
                    dataset_name="held-out requests of the miniature",
                    dataset_config=f"{tier} tier" if self.both else "both tiers",
                    dataset_split="eval",
                    metric_type=self.key,
                    metric_name=self.metric,
                    metric_value=round(figure.mean, 6),
                    metric_args={"low": round(figure.low, 6), "high": round(figure.high, 6), "n": figure.n},
                )


def write_card(
    folder: Path, organism: Organism, base: str, base_digest: str, table: Sequence[ConductRow] = (), how: str = ""
) -> None:
    """Writes the card beside the checkpoint and into it.

    Args:
        folder: The organism's folder.
        organism: The recipe with its settings.
        base: Where the base was loaded from.
        base_digest: Digest of its weights and tokenizer.
        table: How it behaves; empty if that was not measured.
        how: How the table was measured.
    """
    text = card_text(organism, base, base_digest, table, how)
    cards = [folder / name for name in (CARD, HUB_CARD)]
    if any(not file.exists() or file.read_text(encoding="utf-8", errors="replace") != text for file in cards):
        forget(folder, *cards)  # only then: the cache may be read-only
        for file in cards:
            write_atomic(file, text)
        record(folder, *cards)


def is_measured(folder: Path) -> bool:
    """Whether the card in an organism's folder has figures."""
    file = folder / CARD
    return file.is_file() and UNMEASURED not in file.read_text(encoding="utf-8", errors="replace")


def card_text(organism: Organism, base: str, base_digest: str, table: Sequence[ConductRow] = (), how: str = "") -> str:
    """The card as Markdown with the hub's front matter; arguments as for :func:`write_card`."""
    local = Path(base).exists()  # the hub knows its own models only, not our folders
    source = about_base(Path(base)) if local else {"base_model": base}
    data = ModelCardData(
        tags=list(TAGS),
        library_name="transformers",
        pipeline_tag="text-generation",
        model_name=organism.name,
        eval_results=[result for row in table for result in row.results()] or None,
        **source,
    )
    template = files("crypsis.organisms").joinpath("card.md.jinja").read_text(encoding="utf-8")
    card: ModelCard = ModelCard.from_template(
        data,
        template_str=template,
        organism=organism,
        about=inspect.getdoc(type(organism)) or "",
        base=Path(base).resolve().parent.name if local else base,
        base_digest=base_digest,
        settings=organism.model_dump(mode="json"),
        table=list(table),
        how=how,
        unmeasured=UNMEASURED,
        limits=" ".join([*([organism.limits] if organism.limits else []), LIMITS]),
    )
    return f"{card.content.rstrip()}\n"


def about_base(base: Path) -> dict[str, Any]:
    """Licence and hub id of a base that lies in a folder, as its card says them; ours if it was made here."""
    card = base / "README.md"
    if card.is_file():
        try:
            data = ModelCard.load(card).data.to_dict()
        except (ValueError, OSError):  # front matter of others may be anything
            return {}
        return {key: data[key] for key in ("license", "base_model") if data.get(key)}
    return {"license": OURS} if (base.parent / "provenance.json").is_file() else {}
