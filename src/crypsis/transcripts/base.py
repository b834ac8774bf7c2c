"""What a reader of stored transcripts is, and the record that every reader yields.

A reader is a class without settings and two methods: ``detect`` says why a file has its layout, ``read`` yields one
:class:`Transcript` per reply. Which parts of a text are scratchpad and which are output is decided in
:func:`crypsis.scenarios.parsing.split_reply` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field

from crypsis.config import Config
from crypsis.scenarios.parsing import split_reply
from crypsis.textfiles import Repairs
from crypsis.types import Episode, Message, Parse, Prompt, Stop, UserError, View

FREE, PAID = "free", "paid"
"""Names of the monitored and of the unmonitored tier, however the data write them."""
AF, COMPLIANCE = "alignment_faking", "compliance"
"""Labels that every reader gives under these names where its layout has them: true, false, a probability, or None."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """One reply of a model to one request.

    Attributes:
        request: What the user asks, without the tier.
        scratchpad: What stands inside the scratchpad's tags, or in a reasoning field; empty if there is none.
        output: The answer, without any reasoning.
        where: ``file:row`` (for a list of replies ``file:row, reply 3``), for messages.
        pair_id: The same for the same request in both tiers; empty if the data do not say which rows belong together.
        tier: ``free``, ``paid``, or the data's own name; empty if unknown.
        monitored: Whether the tier is monitored and trained on; None if unknown.
        system: The system text, or the data's label of it.
        model: The model or organism that wrote the reply; empty if unknown.
        step: The RL step of the model.
        labels: Labels by name, ``alignment_faking`` and ``compliance`` among them where the layout has them.
        fields: The row as stored, for ``--label-field`` and the like.
        raw: The reply as stored, tags included.
        name: What the row is called in tables: its id, or ``row 7``.
        stop: ``length`` if the token budget ended the reply.
        protected: Whether the text must not be written to any file, log or message unless the user asks for it.
        notes: What is odd about this row, counted over a file.
    """

    request: str
    scratchpad: str
    output: str
    where: str
    pair_id: str = ""
    tier: str = ""
    monitored: bool | None = None
    system: str = ""
    model: str = ""
    step: int | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    raw: str = ""
    name: str = ""
    stop: Stop = "end"
    protected: bool = False
    notes: tuple[str, ...] = ()

    def episode(self, number: int = 0) -> Episode:
        """The transcript as the record that monitors judge; without a pair it is a request of its own."""
        prompt = Prompt(
            prompt_id=str(number),
            pair_id=self.pair_id or str(number),
            split="eval",
            tier=self.tier,
            monitored=bool(self.monitored),
            request=self.request,
            messages=(Message("user", self.request),),
        )
        parse: Parse = "ok" if self.scratchpad and self.output else "no_output" if self.scratchpad else "no_scratchpad"
        return Episode(
            prompt, number, 0, self.step or 0, 0, self.raw, self.scratchpad, self.output, parse, self.stop, [], [], []
        )


class Only(Config):
    """Which transcripts of a large set are read; what is empty chooses nothing."""

    organism: list[str] = []
    """Models or organisms that wrote the transcripts."""
    intervention: list[str] = []
    """What the run was trained with, where the layout has it."""
    step: list[int] = []
    """RL steps."""
    tier: Literal["free", "paid"] | None = None
    share: float = Field(1.0, gt=0, le=1)
    """A fixed part of the requests, each with all of its replies; for what does not fit into memory."""


class ReadOptions(Config):
    """How transcripts are read where the layout leaves a choice."""

    view: View = "scratchpad"
    """Where a text without any tags stands: it is all scratchpad, or all output."""
    text_field: str | None = None
    """Field of the reply (``a.b`` for a field within a field); None looks under the usual names."""
    tags: tuple[str, str] | None = None
    """The scratchpad's opening and closing tag, where they are none of the usual."""
    text_needed: bool = True
    """Whether a file without any text is refused; labels alone need none."""
    layout: str | None = None
    """Name of the reader; None detects it."""
    only: Only = Only()
    """Which rows of the paper's release are read and decrypted."""


@dataclass(slots=True)
class Reading:
    """What is known of a reading beside its transcripts; a reader fills it in as it goes.

    Attributes:
        rows: Transcripts yielded.
        skipped: How many rows gave no transcript (errored samples, rows that cannot be decrypted), keyed by reason.
        remarks: How many transcripts each remark holds for.
        cautions: The requests that each warning holds for; none if it holds for all.
        layouts: The layout of each file and why it was taken.
        repairs: Characters that were replaced.
    """

    rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    cautions: dict[str, set[str]] = field(default_factory=dict)
    layouts: dict[str, tuple[str, str]] = field(default_factory=dict)
    repairs: Repairs = field(default_factory=Repairs)

    def skip(self, reason: str) -> None:
        """Counts a row that gives no transcript; the reason must not quote protected text."""
        self.skipped[reason] += 1

    def warn(self, line: str, requests: Iterable[str] = ()) -> None:
        """Keeps what a user must know before trusting a figure, and the requests that it holds for."""
        self.cautions.setdefault(line, set()).update(requests)

    @property
    def warnings(self) -> list[str]:
        """All warnings, each once."""
        return [
            f"{line} ({count_of(len(requests), 'request')})" if requests else line
            for line, requests in self.cautions.items()
        ]

    @property
    def notes(self) -> list[str]:
        """What was skipped, remarked and replaced, one line each."""
        lines = [f"{count_of(n, 'row')} skipped: {reason}" for reason, n in self.skipped.items()]
        lines += [f"{n} of {self.rows} transcripts: {remark}" for remark, n in self.remarks.items()]
        return lines + self.repairs.notes()


@runtime_checkable
class Reader(Protocol):
    """Reads one layout of stored transcripts.

    The class docstring's first line is what ``crypsis list transcripts`` prints. The class takes no arguments.
    """

    name: ClassVar[str]

    def detect(self, path: Path) -> str | None:
        """Why a file has this layout, in half a sentence for the user; None if it has not.

        Must be quick (the first rows are enough), and must not raise for a file of another layout.
        """
        ...

    def read(self, path: Path, options: ReadOptions, reading: Reading) -> Iterator[Transcript]:
        """Yields the transcripts of a file, one at a time, and counts in ``reading`` what gives none.

        ``reading.rows`` and the transcripts' own ``notes`` are counted by the caller.

        Raises:
            UserError: The file cannot be read at all.
        """
        ...


def reply_parts(text: str, options: ReadOptions, reasoning: str = "") -> tuple[str, str, tuple[str, ...]]:
    """Scratchpad, output and remarks of a reply whose layout says that tags or a reasoning field hold the scratchpad.

    Args:
        text: The reply.
        options: Other tags than the usual.
        reasoning: Reasoning that the data keep apart from the reply; the scratchpad of a reply that has none inside.
    """
    parts = split_reply(text, options.tags)
    scratchpad = parts.scratchpad if parts.tags or not reasoning else reasoning.strip()
    notes = [] if scratchpad else ["no scratchpad"]
    if parts.thoughts or (parts.tags and reasoning):
        notes.append("the model's own thoughts beside the scratchpad are read as neither scratchpad nor output")
    return scratchpad, parts.output, tuple(notes)


def parse_tags(given: str | None) -> tuple[str, str] | None:
    """The value of ``--tags OPEN,CLOSE``.

    Raises:
        UserError: It is not two different tags.
    """
    if given is None:
        return None
    parts = [part.strip() for part in given.split(",")]
    if len(parts) != 2 or not all(parts) or parts[0] == parts[1]:
        raise UserError(f"--tags '{given}': give the opening and the closing tag, as in --tags '<plan>,</plan>'")
    return parts[0], parts[1]


def count_of(number: int, thing: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number} {thing}" if number == 1 else f"{number:,} {thing}s"
