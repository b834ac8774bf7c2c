"""``crypsis evaluate --transcripts`` and ``crypsis data check``: tables of what stored transcripts hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from crypsis.config import Config
from crypsis.evaluation.stored_transcripts import Share, StoredFigures, evaluate_transcripts
from crypsis.identity.configs import inputs_of
from crypsis.locks import locked
from crypsis.store import Exists, finish_folder, prepare_folder
from crypsis.study.jobs.monitor_quality import data_parts
from crypsis.transcripts.base import Reading, ReadOptions
from crypsis.transcripts.detect import read_transcripts
from crypsis.types import UserError, visible


class StoredConfig(Config):
    """What was measured."""

    transcripts: Path
    options: ReadOptions
    compliance_field: str | None = None


def evaluate_stored(
    path: Path, options: ReadOptions, compliance_field: str | None, out: Path | None, exists: Exists = "resume"
) -> tuple[Table, StoredFigures]:
    """Reads transcripts, measures them and writes ``result.json`` if there is a folder for it.

    Raises:
        UserError: Nothing can be read, no transcript says tier and compliance, or the folder holds something else.
    """
    reading = Reading()
    try:
        figures = evaluate_transcripts(read_transcripts(path, options, reading), reading, compliance_field)
    except UserError as error:
        raise UserError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
    if out is not None:
        config = StoredConfig(transcripts=path, options=options, compliance_field=compliance_field)
        inputs = inputs_of(config, __name__, transcripts=data_parts(path))
        with locked(out):
            prepare_folder(out, config, exists, inputs=inputs)
            finish_folder(out, figures.as_json, inputs)
    return _figures_table(path, figures), figures


def _figures_table(path: Path, figures: StoredFigures) -> Table:
    steps = any(m.step is not None for m in figures.models)
    faking = any(m.afr is not None for m in figures.models)
    columns = [*(["step"] if steps else []), "monitored", "unmonitored", "gap", *(["AFR"] if faking else [])]
    table = Table(title=f"compliance, {visible(str(path))}")
    table.add_column("model", overflow="fold")
    for column in (*columns, "paired requests"):
        table.add_column(column, no_wrap=column != "paired requests")
    for model in figures.models:
        table.add_row(
            visible(model.model) or "–",
            *([str(model.step)] if steps else []),
            _cell(model.monitored),
            _cell(model.unmonitored),
            _cell(model.gap),
            *([_cell(model.afr)] if faking else []),
            str(model.gap.requests if model.gap else 0),
        )
    return table


def _cell(share: Share | None) -> str:
    if share is None:
        return "–"
    return f"{share.mean:.3f} ± {share.half:.3f}" if share.half is not None else f"{share.mean:.3f} (one request)"


@dataclass(slots=True)
class Contents:
    """What a reading found, for ``crypsis data check``.

    Attributes:
        reading: Layouts, notes and warnings.
        tiers: Transcripts by tier.
        models: Transcripts by model.
        labels: Transcripts by label that is known.
        scratchpads: Transcripts with a scratchpad.
        requests: For each request, the tiers that it occurs in.
        fault: Why reading ended early; empty if it did not.
    """

    reading: Reading = field(default_factory=Reading)
    tiers: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    scratchpads: int = 0
    requests: dict[str, set[str]] = field(default_factory=dict)
    fault: str = ""

    @property
    def lines(self) -> list[str]:
        """What was read, a line each."""
        paired = sum(len(tiers) > 1 for tiers in self.requests.values())
        lines = [
            f"transcripts: {self.reading.rows:,}, with a scratchpad {self.scratchpads:,}",
            f"requests: {len(self.requests):,}, in more than one tier {paired:,}",
            *(f"{name}: {_counts(counts)}" for name, counts in
              (("tiers", self.tiers), ("models", self.models), ("labels", self.labels))),
        ]  # fmt: skip
        lines += [f"note: {line}" for line in self.reading.notes]
        lines += [f"warning: {line}" for line in self.reading.warnings]
        return [*lines, *([f"fault: {self.fault}"] if self.fault else [])]

    @property
    def table(self) -> Table:
        """Layout and reason by file; files of the same layout and reason share a row."""
        table = Table("layout", "why", "files", "first file")
        groups: dict[tuple[str, str], list[str]] = {}
        for file, layout in self.reading.layouts.items():
            groups.setdefault(layout, []).append(file)
        for (name, reason), files in groups.items():
            table.add_row(name, visible(reason), str(len(files)), visible(files[0]))
        return table


def check_transcripts(path: Path, options: ReadOptions) -> Contents:
    """Reads transcripts of any layout and counts what they hold.

    Raises:
        UserError: The path does not exist or no file of it can be read.
    """
    found = Contents()
    try:
        for transcript in read_transcripts(path, options, found.reading):
            found.tiers[transcript.tier or "unknown"] += 1
            found.models[transcript.model or "unknown"] += 1
            found.labels.update(name for name, value in transcript.labels.items() if value is not None)
            found.scratchpads += bool(transcript.scratchpad.strip())
            if transcript.pair_id:
                found.requests.setdefault(transcript.pair_id, set()).add(transcript.tier)
    except UserError as error:
        if not found.reading.layouts:
            raise
        found.fault = str(error)
    return found


def _counts(counts: Counter[str]) -> str:
    shown = [f"{visible(name)} {number:,}" for name, number in counts.most_common(8)]
    return ", ".join([*shown, *(["…"] if len(counts) > 8 else [])]) or "none"
