"""A study as a dataset folder for the Hugging Face hub: Parquet, a card and the figures."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from crypsis.analysis.figures.study_figures import display_label, draw_all
from crypsis.analysis.report.tables import SCHEMAS, TABLES, write_tables
from crypsis.analysis.report.words import headline, moved
from crypsis.analysis.study import Run, load_study
from crypsis.analysis.summary import Summary, summarise
from crypsis.analysis.summary_file import SUMMARY, summary_json
from crypsis.episodes import LABEL, REASON
from crypsis.store import CONFIG, new_folder, write_atomic, write_json
from crypsis.types import UserError, visible

CARD, TEMPLATE = "README.md", "dataset_card.md.jinja"
OURS = "mit"
"""Licence of transcripts of the miniature."""
MARK = "Prepared by `crypsis export hub`."
"""A line of the card by which a folder of ours is known."""
TOKENS = frozenset({"prompt_ids", "completion_ids", "segments", "logprobs"})
"""Columns that are left out: the runs that have them need them to go on, nobody else does."""
SPLITS = {"evals": ("evaluations", "test"), "rollouts": ("rollouts", "train")}
"""The dataset's config and split for each folder of a run."""


def export_hub(study: Path, out: Path) -> int:
    """Writes the dataset folder of a study.

    Args:
        study: The study's folder.
        out: Folder of the dataset; one that was written before is replaced.

    Returns:
        Transcripts in it.

    Raises:
        UserError: The folder cannot be read as a study, or ``out`` holds something else.
    """
    summary = summarise(load_study(study))
    card = out / CARD
    ours = card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace")
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: holds files that `crypsis export hub` did not write; choose another --out")
    draw_all(summary)
    write_tables(summary)
    rows: dict[str, int] = {}
    with new_folder(out) as folder:
        for kind, (name, _) in SPLITS.items():
            rows[name] = _transcripts(summary, kind, folder / name)
        shutil.copytree(study / TABLES, folder / TABLES)
        shutil.copytree(study / "figures", folder / "figures", ignore=shutil.ignore_patterns(".*", "*.svg"))
        shutil.copy(study / CONFIG, folder / CONFIG)
        write_json(folder / SUMMARY, summary_json(summary))
        write_atomic(folder / CARD, card_of(summary, rows))
    return sum(rows.values())


def card_of(summary: Summary, rows: dict[str, int]) -> str:
    """The dataset's card: YAML that names its configs, and what a reader should know.

    Args:
        summary: Summary of the study.
        rows: Number of rows of each config of transcripts.
    """
    configs: list[dict[str, Any]] = [
        {"config_name": name, "data_files": [{"split": split, "path": f"{name}/*.parquet"}]}
        for name, split in SPLITS.values()
        if rows[name]
    ]
    configs += [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{TABLES}/{name}.parquet"}]}
        for name in SCHEMAS
    ]
    configs[0]["default"] = True
    study = summary.study
    data = DatasetCardData(
        pretty_name=f"crypsis study: {visible(study.name)}",
        license=OURS if study.from_scratch else None,
        language=["en"],
        tags=["alignment-faking", "ai-safety", "model-organisms", "reinforcement-learning", "crypsis"],
        task_categories=["text-generation"],
        size_categories=[_size(sum(rows.values()))],
        configs=configs,
    )
    template = files("crypsis.analysis.report").joinpath("templates", TEMPLATE).read_text(encoding="utf-8")
    card: DatasetCard = DatasetCard.from_template(
        data,
        template_str=template,
        name=_plain(study.name),
        counts=", ".join(f"{n:,} transcripts in `{name}`" for name, n in rows.items() if n),
        mark=MARK,
        miniature=study.from_scratch,
        findings=[(_plain(claim), _plain(figures)) for claim, figures in headline(summary)],
        arms=list(_arms(summary)),
    )
    return str(card.content)


def _arms(summary: Summary) -> Iterator[list[str]]:
    """The cells of each arm's row."""
    for arm in summary.arms:
        moves = (moved(arm.change(metric), metric) for metric in ("afr", "compliance_monitored", "gap"))
        label, said = _plain(display_label(arm, summary.arms)), arm.claim
        yield [label, str(len(arm.seeds)), *moves, said]


def _size(rows: int) -> str:
    """The hub's category of a dataset's size."""
    limits = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return next((name for limit, name in limits.items() if rows < limit), "1M<n<10M")


def _transcripts(summary: Summary, kind: str, folder: Path) -> int:
    """Writes the transcripts of every run with the same columns everywhere, one file per run."""
    files = {run.folder: sorted(run.folder.glob(f"{kind}/step-*.parquet")) for run in summary.study.runs}
    known = [pq.read_schema(path) for paths in files.values() for path in paths]
    if not known:
        return 0
    merged = pa.unify_schemas([_typed(schema) for schema in known], promote_options="permissive")
    total = 0
    for place, run in enumerate(summary.study.runs):
        if files[run.folder]:
            parts = [_conformed(pq.read_table(path), merged) for path in files[run.folder]]
            table = _who(pa.concat_tables(parts), run)
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd")
            write_atomic(folder / f"run-{place:04d}.parquet", buffer.getvalue())
            total += len(table)
    return total


def _typed(schema: pa.Schema) -> pa.Schema:
    """The schema without tokens, columns of nothing but nulls given the type that they have elsewhere."""
    return pa.schema(
        [
            pa.field(f.name, _type_of(f.name) if pa.types.is_null(f.type) else f.type)
            for f in schema
            if f.name not in TOKENS
        ]
    )


def _type_of(column: str) -> pa.DataType:
    return pa.string() if column.startswith((LABEL, REASON)) else pa.float64()


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type) for f in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _who(table: pa.Table, run: Run) -> pa.Table:
    """The table with whose transcripts they are, in front."""
    about = (("run_seed", run.seed), ("label", run.label), ("arm", run.arm), ("organism", run.organism))
    for name, value in about:
        table = table.add_column(0, name, pa.array([value] * len(table)))
    return table


def _plain(text: str) -> str:
    """Text on one line that is no markup of a card."""
    return visible(" ".join(text.split())).replace("<", "&lt;").replace("|", "\\|")
