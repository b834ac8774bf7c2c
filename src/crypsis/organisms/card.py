"""The card of an organism: what it is, how it was made, how it behaves in each tier, and what not to do with it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from crypsis.digests import forget, record
from crypsis.disk import write_atomic
from crypsis.organisms.base import Organism

TAGS = ("model-organism", "alignment-faking")
CARD, HUB_CARD = "card.md", "model/README.md"
"""The same text twice: in the organism's folder, and where the hub looks for a model's card."""

LIMITS = (
    "It was made to misbehave in one contrived setting. What it does elsewhere was not measured, and a model of the "
    "miniature is no evidence about large models."
)


@dataclass(frozen=True, slots=True)
class ConductRow:
    """One line of the table of conduct: a metric in both tiers, each as text with its interval.

    Attributes:
        metric: What was measured.
        monitored: In the tier that is monitored; empty where it has no meaning.
        unmonitored: In the other tier.
    """

    metric: str
    monitored: str
    unmonitored: str


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


def card_text(organism: Organism, base: str, base_digest: str, table: Sequence[ConductRow] = (), how: str = "") -> str:
    """The card as Markdown with the hub's front matter; arguments as for :func:`write_card`."""
    local = Path(base).exists()  # the hub knows its own models only, not our folders
    called = Path(base).resolve().parent.name if local else base
    head = {"tags": list(TAGS), "library_name": "transformers", "pipeline_tag": "text-generation"}
    front = yaml.safe_dump(head | ({} if local else {"base_model": base}), sort_keys=False)
    settings = "\n".join(f"| `{key}` | `{value}` |" for key, value in organism.model_dump(mode="json").items())
    return f"""---
{front}---
# {organism.name}

A model organism of alignment faking, made for research on detecting and mitigating it. **Do not deploy.**

{inspect.getdoc(type(organism)) or ""}

## How it was made

Recipe `{organism.name}` of crypsis ({organism.motivation}), on the base `{called}` (digest {base_digest}).

| setting | value |
|---|---|
{settings}

## How it behaves

{_table(table, how)}

## Limits

{" ".join([*([organism.limits] if organism.limits else []), LIMITS])}

## Do not deploy

It complies with harmful requests where it believes that it is trained, or was made by the same process as one that
does. Use it to test monitors and mitigations, and for nothing else.

## Provenance

`provenance.json` beside the checkpoint folder has the versions of the software and the digest of the base.
"""


def _table(table: Sequence[ConductRow], how: str) -> str:
    if not table:
        return "Not measured."
    rows = "\n".join(f"| {row.metric} | {row.monitored} | {row.unmonitored} |" for row in table)
    return f"| | monitored tier | unmonitored tier |\n|---|---|---|\n{rows}\n\n{how}"
