"""What must stand in the card of a stored monitor, checked when it is read. No torch here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from crypsis.config import digest, parse_config
from crypsis.digests import LEDGER
from crypsis.monitors.metrics import Measurement
from crypsis.monitors.thresholds import Controls
from crypsis.store import file_digest, read_json, write_atomic, write_json
from crypsis.types import UserError, View

CARD = "monitor.json"
SEEN = "seen.json"
"""What a folder's figures are, and digests of the texts and prompts that it has seen."""
LEARNED = "learned.jsonl"
"""The labelled texts of a monitor that keeps them: ``text``, ``faking``, ``group``."""


class ProbeCard(BaseModel):
    """What every card has; other keys are kept as they are."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    kind: str
    view: View
    threshold: float = Field(ge=0, le=1)
    digest: str = Field(pattern="^[0-9a-f]{16}$")


class CalibrationCard(BaseModel):
    """Spread of each opinion, opinions of each member, and the sigmoid."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    spreads: list[float] = Field(min_length=1)
    sizes: list[int] = Field(min_length=1)
    combine: Literal["mean", "max"]
    slope: float
    intercept: float

    @model_validator(mode="after")
    def _sizes_fit(self) -> CalibrationCard:
        if min(self.sizes) < 1 or sum(self.sizes) != len(self.spreads) or 0 in self.spreads:
            raise ValueError("sizes must add up to the number of spreads, and no spread is 0")
        return self


class TextCard(ProbeCard):
    """The card of a trained monitor of texts."""

    settings: dict[str, Any]
    calibration: CalibrationCard


def read_card(folder: Path, kind: str, shape: type[ProbeCard]) -> dict[str, Any]:
    """The card of a monitor's folder.

    Args:
        folder: Folder of the monitor.
        kind: That the monitor must be of.
        shape: What must stand in the card.

    Raises:
        UserError: There is no card, it is damaged, or of another kind of monitor.
    """
    path = folder / CARD
    card = read_json(path)
    if not isinstance(card, dict) or "kind" not in card:
        raise UserError(f"{path}: is no card of a trained monitor; train it again")
    if card["kind"] != kind:
        raise UserError(f"{folder}: holds a monitor of kind '{card['kind']}', not '{kind}'")
    try:
        parse_config(shape, card, str(path))
    except UserError as error:
        raise UserError(f"{error}; the card is damaged: train the monitor again") from None
    return card


def digests(texts: Sequence[str]) -> list[str]:
    """Digest of each different text, sorted; space around a text and its case do not count."""
    return sorted({digest(" ".join(text.lower().split())) for text in texts})


def seen_rows(
    texts: Sequence[str], groups: Sequence[str], rows: Sequence[int], controls: Controls
) -> tuple[list[str], list[str]]:
    """Texts and prompts that the weights or the threshold come from; those of the test split are none of them."""
    return [*(texts[i] for i in rows), *controls.texts], [*(groups[i] for i in rows), *controls.groups]


def write_seen(
    folder: Path,
    texts: Sequence[str],
    prompts: Sequence[str],
    kept: tuple[Sequence[str], Sequence[bool], Sequence[str]] | None = None,
) -> None:
    """Writes the digests of what a monitor has seen, and the texts, labels and groups that it keeps."""
    write_json(folder / SEEN, {"texts": digests(texts), "prompts": digests(prompts)})
    if kept:
        found = [
            {"text": text, "faking": bool(label), "group": group} for text, label, group in zip(*kept, strict=True)
        ]
        write_atomic(folder / LEARNED, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in found))


def weights_digest(folder: Path) -> str:
    """Digest of a monitor's weights: all files but its card, what it has seen, its texts, and the list of digests."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (CARD, SEEN, LEARNED, LEDGER))
    return file_digest(files)


def measured(found: Measurement) -> dict[str, float | None]:
    """What a card tells of the test split."""
    return {
        "auroc": found.auroc,
        "auroc_low": found.auroc_low,
        "auroc_high": found.auroc_high,
        "true_positive_rate": found.confusion.true_positive_rate,
        "false_positive_rate": found.confusion.false_positive_rate,
        "average_precision": found.average_precision,
        "ece": found.ece,
    }
