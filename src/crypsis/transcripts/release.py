"""The paper's released transcripts: encrypted Parquet, decrypted in memory. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crypsis.arrays import Floats
from crypsis.config import digest
from crypsis.paper_data.cipher import UndecryptableError, decrypt
from crypsis.paper_data.layout import is_release, release_files
from crypsis.paper_data.names import alike
from crypsis.paper_data.reading import Batch, Faults, batches
from crypsis.transcripts.base import AF, COMPLIANCE, FREE, PAID, Only, Reading, ReadOptions, Transcript, reply_parts

READ = (
    "initialised_from", "intervention", "experiment_name", "step", "user_input", "is_free_tier_user", "response", AF,
    "alignment_faking_prob", COMPLIANCE,
)  # fmt: skip
VERDICTS = (
    "labels are the verdicts of the paper's classifier, not ground truth: agreement with it is measured, not with the "
    "truth"
)

Known = TypeVar("Known")


class ReleaseReader:
    """The paper's released transcripts (encrypted Parquet, decrypted in memory only; labels are its classifier's)."""

    name: ClassVar[str] = "release"

    def detect(self, path: Path) -> str | None:
        """Recognised by its columns."""
        if path.suffix.lower() != ".parquet":
            return None
        try:
            found = is_release(pq.read_schema(path).names)
        except (pa.ArrowException, OSError):
            return None
        return "it has the columns 'user_input', 'is_free_tier_user' and an encrypted 'response'" if found else None

    def read(self, path: Path, options: ReadOptions, reading: Reading) -> Iterator[Transcript]:
        """A transcript per row; only rows that are asked for are decrypted."""
        reading.warn(VERDICTS)
        faults, names = Faults(), _Digests()
        for batch in batches(release_files(path)[0], READ, faults):
            yield from self._batch(batch, options, reading, names)
        for (_, reason), fault in faults.found.items():
            for _ in range(fault.count):
                reading.skip(reason)

    def _batch(self, batch: Batch, options: ReadOptions, reading: Reading, names: _Digests) -> Iterator[Transcript]:
        columns = _Columns(batch, names)
        replies = batch.data.column("response")
        for i in columns.chosen(options.only):
            try:
                found = decrypt(replies[i].as_py())
            except UndecryptableError as error:
                reading.skip(f"response: {error}")
                continue
            yield columns.transcript(i, found.text, options)


class _Digests:
    """Digest of each different request, computed once per file."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, text: str) -> str:
        if text not in self._known:
            self._known[text] = digest(text)
        return self._known[text]


class _Columns:
    """The columns of a batch, and which of its rows are asked for."""

    def __init__(self, batch: Batch, names: _Digests) -> None:
        self._batch = batch
        self._organism = batch.codes("initialised_from")
        name = "intervention" if batch.has("intervention") else "experiment_name"
        self._intervention = batch.codes(name)
        self._step, self._free = batch.values("step"), batch.values("is_free_tier_user")
        self._steps, self._monitored = _known(self._step, int), _known(self._free, bool)
        self._af, self._complies = _known(batch.values(AF), bool), _known(batch.values(COMPLIANCE), bool)
        self._request = batch.codes("user_input")
        self._pairs = [names.of(text) for text in self._request[1]]

    def chosen(self, only: Only) -> list[int]:
        """Places of the rows that are asked for."""
        kept = np.ones(len(self._batch), np.bool_)
        for wanted, (codes, values) in ((only.organism, self._organism), (only.intervention, self._intervention)):
            if wanted:
                fits = [any(alike(value) == alike(name) for name in wanted) for value in values]
                kept &= np.array([*fits, False], dtype=np.bool_)[codes]
        if only.step:
            kept &= np.isin(self._step, only.step)
        if only.tier:
            kept &= self._free == (1.0 if only.tier == FREE else 0.0)
        if only.share < 1:
            below = [int(pair, 16) < only.share * 16 ** len(pair) for pair in self._pairs]
            kept &= np.array([*below, False], dtype=np.bool_)[self._request[0]]
        return [int(i) for i in np.flatnonzero(kept)]

    def transcript(self, i: int, text: str, options: ReadOptions) -> Transcript:
        """Row ``i`` with its decrypted reply."""
        scratchpad, output, notes = reply_parts(text, options)
        codes, texts = self._request
        monitored, step = self._monitored[i], self._steps[i]
        tier = "" if monitored is None else FREE if monitored else PAID
        organism, intervention = (_value(column, i) for column in (self._organism, self._intervention))
        labels = {AF: self._af[i], COMPLIANCE: self._complies[i]}
        fields: dict[str, Any] = {"intervention": intervention, "step": step, **labels}
        row = f"row {self._batch.start + i}"
        return Transcript(
            texts[codes[i]] if codes[i] >= 0 else "", scratchpad, output, f"{self._batch.file}:{row}",
            self._pairs[codes[i]] if codes[i] >= 0 else "", tier, monitored,
            model=organism, step=step, labels=labels, fields=fields, raw=text,
            name=f"{self._batch.file} {row}", protected=True, notes=notes,
        )  # fmt: skip


def _value(column: tuple[NDArray[np.int64], list[str]], i: int) -> str:
    codes, values = column
    return values[codes[i]] if codes[i] >= 0 else ""


def _known(values: Floats, kind: Callable[[float], Known]) -> list[Known | None]:
    """Each value as its kind, None where it is unknown."""
    unknown = np.isnan(values).tolist()
    return [None if gone else kind(value) for value, gone in zip(values.tolist(), unknown, strict=True)]
