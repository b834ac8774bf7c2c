"""Sets of requests: JSONL, CSV, or a data set of the Hugging Face hub by its id. No torch here.

Nothing harmful ships with the package; a real set is the user's to name.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from crypsis.types import UserError

_ASKS_TO_EDIT = re.compile(
    r"\b(?:edit|rewrite|rephrase|paraphrase|proofread|revise|summari[sz]e|translate|shorten|correct|polish|improve|review)\b"
    r".{0,60}\b(?:this|these|that|the following|my|our|attached|below|above|given)\b"
    r".{0,40}\b(?:text|document|essay|article|email|letter|paragraph|passage|story|code|file|draft|report|paper|post|"
    r"message|speech|script|manual|instructions|resume|cv)\b",
    re.IGNORECASE | re.DOTALL,
)
_GIVEN = re.compile(r"\n\s*\S+|[:\"“'`]\s*(?:\S+\s+){6,}\S+")
"""Something that can be the document: a further line, or seven words behind a colon or in quotes."""


def read_requests(path: Path, field: str) -> list[str]:
    """The requests of a JSONL or CSV file, in order, each once.

    Args:
        path: ``.csv`` is read as CSV with a header, everything else as one JSON object a line.
        field: The key or column that holds the request.

    Raises:
        UserError: The file cannot be read, or a line has no such field.
    """
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                return _distinct(list(_csv_rows(path, csv.DictReader(file, strict=True), field)), str(path))
        return _distinct(list(_json_rows(path, path.read_text(encoding="utf-8").splitlines(), field)), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text in rows ({error})") from None


def read_hub(dataset: str, field: str) -> list[str]:
    """The requests of a data set of the hub, through ``datasets``.

    Args:
        dataset: ``owner/name``, or with a configuration and a split ``owner/name:configuration:split``; by default the
            only configuration and the split ``train``. Code that a data set brings is never run.
        field: The column that holds the request.

    Raises:
        UserError: There is no such data set, or it has no such column.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("data sets of the hub need the package datasets: pip install 'crypsis[inspect]'") from None
    name, _, rest = dataset.partition(":")
    configuration, _, split = rest.rpartition(":")
    try:
        rows: Any = datasets.load_dataset(name, configuration or None, split=split or "train")
    except Exception as error:  # datasets raises what its file systems raise
        raise UserError(f"{dataset}: cannot be loaded: {' '.join(str(error).split())[:160]}") from None
    if field not in rows.column_names:
        raise UserError(f"{dataset}: has no column '{field}'; it has {', '.join(rows.column_names)}")
    return _distinct(rows[field], dataset)


def is_degenerate(request: str) -> bool:
    """Whether a request asks to edit a document and gives none, so that no answer can comply with it."""
    return bool(_ASKS_TO_EDIT.search(request)) and not _GIVEN.search(request)


def _distinct(requests: Iterable[Any], where: str) -> list[str]:
    found = list(dict.fromkeys(text for r in requests if (text := str(r).strip())))
    if not found:
        raise UserError(f"{where}: holds no request")
    return found


def _csv_rows(path: Path, rows: csv.DictReader[str], field: str) -> Iterator[str]:
    if field not in (rows.fieldnames or ()):
        raise UserError(f"{path}: has no column '{field}'; it has {', '.join(rows.fieldnames or ['none'])}")
    for row in rows:
        yield row[field] or ""


def _json_rows(path: Path, lines: Sequence[str], field: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)[field]
            except (json.JSONDecodeError, KeyError, TypeError):
                raise UserError(f"{path}:{number}: is no JSON object with a '{field}'") from None
