"""The sums behind metrics on disk, one file per run, for runs whose transcripts are elsewhere. No torch here."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crypsis.evaluation.metrics import Tally
from crypsis.store import write_atomic
from crypsis.types import UserError

TALLIES = "tallies.parquet"
"""In a run's folder: ``step``, ``pair``, and for each metric ``top.<metric>`` and ``bottom.<metric>``."""
TOP, BOTTOM = "top.", "bottom."


def write_tallies(path: Path, tallies: Mapping[int, Tally]) -> None:
    """Writes the sums of a run by step, atomically."""
    steps = sorted(tallies)
    metrics = list(dict.fromkeys(metric for step in steps for metric in tallies[step].top))
    columns: dict[str, pa.Array] = {
        "step": pa.array(np.concatenate([np.full(len(tallies[step].pairs), step, np.int32) for step in steps])),
        "pair": pa.array([pair for step in steps for pair in tallies[step].pairs]).dictionary_encode(),
    }
    for metric in metrics:
        for prefix, sums in ((TOP, "top"), (BOTTOM, "bottom")):
            parts = [getattr(tallies[step], sums).get(metric, np.zeros(len(tallies[step].pairs))) for step in steps]
            columns[prefix + metric] = pa.array(np.concatenate(parts))
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def read_tallies(path: Path) -> dict[int, Tally]:
    """Reads what ``write_tallies`` wrote.

    Raises:
        UserError: The file is damaged.
    """
    try:
        table = pq.read_table(path).combine_chunks()
        step = table.column("step").to_numpy()
        pairs = np.array(table.column("pair").cast(pa.string()).to_pylist(), dtype=object)
        sums = {n: table.column(n).to_numpy() for n in table.column_names if n.startswith((TOP, BOTTOM))}
    except (pa.ArrowException, OSError, KeyError):
        raise UserError(f"{path}: is damaged (no valid Parquet); import the release again") from None
    found = {}
    for value in np.unique(step):
        rows = np.flatnonzero(step == value)
        top, bottom = (
            {name.removeprefix(prefix): sums[name][rows] for name in sums if name.startswith(prefix)}
            for prefix in (TOP, BOTTOM)
        )
        found[int(value)] = Tally(tuple(pairs[rows]), top, bottom)
    return found
