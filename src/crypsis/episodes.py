"""Episodes as Parquet: one row per episode, the same columns for rollouts and evaluations."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crypsis.store import look, write_atomic
from crypsis.types import Episode, Message, Prompt, UserError

VERDICT, REASON, LABEL, TERM, DELAYED = "verdict_", "reason_", "label_", "term_", "delayed_"
"""Prefixes of the columns that hold an episode's dictionaries, one column per key."""


def rollouts_path(folder: Path, step: int) -> Path:
    """Where a run folder keeps the episodes of a step (from 1)."""
    return folder / "rollouts" / f"step-{step:04d}.parquet"


def write_episodes(path: Path, episodes: Sequence[Episode], run: str, tokens: bool = False) -> None:
    """Writes episodes to one Parquet file, atomically.

    Args:
        path: The file.
        episodes: In the order in which they are to be read again.
        run: Name of the run, stored in every row.
        tokens: Also store token ids, segments and log-probabilities.
    """
    buffer = io.BytesIO()
    rows = [episode_row(e, run, tokens) for e in episodes]
    # from_pylist takes its columns from the first row, and later rows may have more verdicts or terms.
    columns = dict.fromkeys(key for row in rows for key in row)
    table = pa.Table.from_pylist([{key: row.get(key) for key in columns} for row in rows])
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def copy_episodes(source: Path, path: Path, run: str) -> None:
    """Copies a file of episodes for another run, whose name the rows then bear."""
    table = pq.read_table(source)
    place = table.schema.get_field_index("run")
    buffer = io.BytesIO()
    pq.write_table(
        table.set_column(place, "run", pa.array([run] * len(table), pa.string())), buffer, compression="zstd"
    )
    write_atomic(path, buffer.getvalue())


def read_episodes(path: Path) -> list[dict[str, Any]]:
    """The rows of one Parquet file as dictionaries.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError):
        raise UserError(f"{path}: is damaged (no valid Parquet); {look(path)}") from None
    return rows


def episode_of(row: dict[str, Any]) -> Episode:
    """An episode as far as its row tells: without the system text, and without tokens unless they were stored.

    Args:
        row: As ``read_episodes`` gives it.
    """
    fields = {f.name for f in dataclasses.fields(Episode)} & set(row)
    turn = Message("user", row["prompt"])
    head = (row["prompt_id"], row["pair_id"], row["split"], row["tier"], row["monitored"], row["request"], (turn,))
    tokens = {key: row.get(key) or [] for key in ("prompt_ids", "completion_ids", "segments")}
    return Episode(**({key: row[key] for key in fields} | tokens | {"prompt": Prompt(*head)}))


def episode_row(e: Episode, run: str, tokens: bool = False) -> dict[str, Any]:
    """An episode as one flat row, its dictionaries spread over columns."""
    row: dict[str, Any] = {
        "run": run,
        "step": e.step,
        "split": e.prompt.split,
        "tier": e.prompt.tier,
        "monitored": e.prompt.monitored,
        "prompt_id": e.prompt.prompt_id,
        "pair_id": e.prompt.pair_id,
        "request": e.prompt.request,
        "prompt": e.prompt.messages[-1].content,
        "group": e.group,
        "sample": e.sample,
        "seed": e.seed,
        "raw": e.raw,
        "scratchpad": e.scratchpad,
        "output": e.output,
        "parse": e.parse,
        "stop": e.stop,
        "scratchpad_tokens": e.scratchpad_tokens,
        "output_tokens": e.output_tokens,
        "extra_turn": e.extra_turn,
        "extra_scratchpad": e.extra_scratchpad,
        "extra_output": e.extra_output,
        "extra_tier": e.extra_tier,
        "dropped": e.dropped,
        "reward": e.reward,
        "advantage": e.advantage,
    }
    row |= {VERDICT + name: verdict.score for name, verdict in e.verdicts.items()}
    row |= {REASON + name: verdict.reason for name, verdict in e.verdicts.items()}
    row |= {LABEL + name: label for name, label in e.labels.items()}
    row |= {TERM + name: value for name, value in e.reward_terms.items()}
    row |= {DELAYED + name: value for name, value in e.delayed_terms.items()}
    if tokens:
        row |= {"prompt_ids": e.prompt_ids, "completion_ids": e.completion_ids, "segments": e.segments}
        row["logprobs"] = e.logprobs
    return row
