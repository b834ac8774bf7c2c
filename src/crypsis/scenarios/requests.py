"""Sets of requests: JSONL, JSON, CSV, or a data set of the Hugging Face hub by its id.

Nothing harmful ships with the package; a real set is the user's to name.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crypsis.chat import single_request
from crypsis.textfiles import Repairs, repaired, tabular_rows
from crypsis.types import UserError

_LOG = logging.getLogger(__name__)

_ASKS_TO_EDIT = re.compile(
    r"\b(?:edit|rewrite|rephrase|paraphrase|proofread|revise|summari[sz]e|translate|shorten|correct|polish|improve|review)\b"
    r".{0,60}\b(?:this|these|that|the following|my|our|attached|below|above|given)\b"
    r".{0,40}\b(?:text|document|essay|article|email|letter|paragraph|passage|story|code|file|draft|report|paper|post|"
    r"message|speech|script|manual|instructions|resume|cv)\b",
    re.IGNORECASE | re.DOTALL,
)
_QUOTE = re.compile("[:\"“'`]")
WORDS_OF_A_DOCUMENT = 7
"""So many words after a colon or a quotation mark can be the document that a request asks to edit."""


def read_requests(path: Path, field: str) -> list[str]:
    """The requests of a JSONL, JSON or CSV file, in order, each once.

    Args:
        path: ``.csv`` and ``.tsv`` are read with a header, everything else as JSON; a chat of a single user turn is the
            request that this turn makes.
        field: The key or column that holds the request.

    Raises:
        UserError: The file cannot be read, or a row has no such field or no text in it.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError):
        stat = None
    return list(_read_requests(path, field, (stat.st_mtime_ns, stat.st_size) if stat else None))


@functools.lru_cache(maxsize=16)
def _read_requests(path: Path, field: str, version: tuple[int, int] | None) -> tuple[str, ...]:
    """The requests of one version of a file: a scenario asks for them once per tier and step."""
    repairs, requests = Repairs(), []
    for row in tabular_rows(path, repairs):
        if field not in row.values:
            raise UserError(
                f"{row.where}: has no column '{field}'; it has {', '.join(row.values) or 'nothing'}; "
                "name the request's field with --field or scenario.field"
            )
        requests.append(single_request(row.values[field], row.where, field))
    found = _distinct(requests, str(path))
    empty = sum(not request.strip() for request in requests)
    for note in [*repairs.notes(), *([f"{empty} empty requests left out"] if empty else [])]:
        _LOG.warning("%s: %s", path, note)
    return tuple(found)


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
    repairs = Repairs()
    requests = [
        single_request(repaired(value, repairs), f"{dataset}:{number}", field)
        for number, value in enumerate(rows[field], 1)
    ]
    for note in repairs.notes():
        _LOG.warning("%s: %s", dataset, note)
    return _distinct(requests, dataset)


def is_degenerate(request: str) -> bool:
    """Whether a request asks to edit a document and gives none, so that no answer can comply with it."""
    return bool(_ASKS_TO_EDIT.search(request)) and not _gives_text(request)


def _gives_text(request: str) -> bool:
    """Whether something in the request can be the document: a further line, or words after a colon or in quotes."""
    if request.partition("\n")[2].strip():
        return True
    quote = _QUOTE.search(request)
    return quote is not None and len(request[quote.end() :].split(None, WORDS_OF_A_DOCUMENT)) >= WORDS_OF_A_DOCUMENT


def _distinct(requests: Iterable[str], where: str) -> list[str]:
    found = list(dict.fromkeys(text for request in requests if (text := request.strip())))
    if not found:
        raise UserError(f"{where}: holds no request")
    return found
