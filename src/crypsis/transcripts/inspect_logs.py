"""Inspect's logs: one transcript per sample and epoch. Reasoning parts are the scratchpad."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from crypsis.chat import Turn, read_chat
from crypsis.scenarios.parsing import parse_reply
from crypsis.textfiles import repaired
from crypsis.transcripts.base import Reading, ReadOptions, Transcript, reply_parts
from crypsis.transcripts.fields import labels_of, monitored, pair_key, request_in, step_of, tier_of
from crypsis.types import Stop, UserError

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

ROW = "crypsis_row"
"""Key of our own scores' metadata that holds the row that they were made from."""
_TOO_LONG = ("max_tokens", "model_length")
_BEGINNING = re.compile(r'\s*\{\s*"version"\s*:\s*\d+\s*,\s*"status"\s*:.{1,200}?"eval"\s*:\s*\{', re.DOTALL)
"""Of Inspect's ``.json`` logs. Read as rows they would be their list of samples, the errored ones among them."""


class InspectReader:
    """Inspect logs (`.eval`, or Inspect's `.json`); errored samples are counted, reasoning parts are scratchpad."""

    name: ClassVar[str] = "inspect"

    def detect(self, path: Path) -> str | None:
        """Recognised by the suffix, or by the fields of Inspect's JSON logs."""
        if path.suffix.lower() == ".eval":
            return "its name ends in .eval"
        if path.suffix.lower() == ".json" and _BEGINNING.match(_head(path)):
            return "it begins with the fields 'version', 'status' and 'eval' of an Inspect log"
        return None

    def read(self, path: Path, options: ReadOptions, reading: Reading) -> Iterator[Transcript]:
        """A transcript per sample that ended without an error."""
        log = _log(path)
        if log.status != "success":
            reading.warn(f"{path}: the evaluation's status is '{log.status}'; its samples may be incomplete")
        if not log.samples:
            reading.warn(f"{path}: holds no sample")
        about = {"model": log.eval.model, "task": log.eval.task}
        for number, sample in enumerate(log.samples or (), 1):
            if sample.error is not None:
                reading.skip("the sample ended with an error")
                continue
            turns = _turns(sample, f"{path}:{number}")
            reply = next((turn for turn in reversed(turns) if turn.role == "assistant"), None)
            if reply is None:
                reading.skip("the sample has no reply")
                continue
            yield self._transcript(repaired_turn(reply, reading), turns, sample, about, f"{path}:{number}", options)

    @staticmethod
    def _transcript(
        reply: Turn, turns: list[Turn], sample: EvalSample, about: Mapping[str, Any], where: str, options: ReadOptions
    ) -> Transcript:
        stop: Stop = "length" if sample.output.choices and sample.output.stop_reason in _TOO_LONG else "end"
        scratchpad, output, notes = reply_parts(reply.text, options, reply.reasoning)
        asked = next((turn.text for turn in reversed(turns) if turn.role == "user"), str(sample.input))
        system = "\n\n".join(turn.text for turn in turns if turn.role == "system")
        pair = request_in(asked) or str(sample.id)  # a sample's id numbers it: the other tier's sample has another
        fields: dict[str, Any] = {
            **about, "sample_id": sample.id, "pair_id": pair, "epoch": sample.epoch, "system": system,
            "prompt": asked, "raw": reply.text, "scratchpad": scratchpad, "output": output,
            "parse": parse_reply(reply.text, stop).parse,
        }  # fmt: skip
        fields |= {key: value for key, value in sample.metadata.items() if key not in fields or key == "pair_id"}
        fields |= _scores(sample)
        fields = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in fields.items()}
        tier = tier_of(fields, asked)
        own = fields.get("monitored")
        return Transcript(
            request_in(str(fields.get("request") or asked)), scratchpad, output, where,
            pair_key(fields["pair_id"], tier, where), tier, own if isinstance(own, bool) else monitored(tier), system,
            str(fields["model"]), step_of(fields), labels_of(fields), fields, reply.text,
            f"{sample.id}, epoch {sample.epoch}", stop, notes=notes,
        )  # fmt: skip


def _head(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.read(500)
    except OSError:  # whoever reads the file meets the fault again
        return ""


def repaired_turn(turn: Turn, reading: Reading) -> Turn:
    """The turn with lone surrogates and NUL replaced."""
    return Turn(turn.role, repaired(turn.text, reading.repairs), repaired(turn.reasoning, reading.repairs))


def _log(path: Path) -> EvalLog:
    try:
        from inspect_ai.log import read_eval_log
    except ImportError:
        raise UserError("Inspect logs need Inspect: pip install 'crypsis[inspect]'") from None
    try:
        return read_eval_log(str(path))
    except Exception as error:  # zip, JSON and validation faults of a file that is no log
        raise UserError(f"{path}: cannot be read as an Inspect log ({type(error).__name__})") from None


def _turns(sample: EvalSample, where: str) -> list[Turn]:
    """The chat of a sample; the reply of its output where the messages lack it."""
    messages = sample.messages or ([] if isinstance(sample.input, str) else sample.input)
    turns = read_chat([plain_message(message) for message in messages], where) if messages else []
    if sample.output.choices and not any(turn.role == "assistant" for turn in turns):
        turns += read_chat([plain_message(sample.output.choices[0].message)], where)
    return turns


def plain_message(message: Any) -> dict[str, Any]:
    """A message of Inspect as a chat message; what a provider encrypted of its reasoning is left out."""
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    parts = [part.model_dump() for part in message.content if not getattr(part, "redacted", False)]
    return {"role": message.role, "content": parts}


def _scores(sample: EvalSample) -> dict[str, Any]:
    """Scores as ``score_SCORER`` or ``score_SCORER_KEY``; ours as the columns that they were made from."""
    row: dict[str, Any] = {}
    for name, score in (sample.scores or {}).items():
        if score.metadata and ROW in score.metadata:
            row |= {k: v for k, v in score.metadata[ROW].items() if k.startswith(("label_", "verdict_", "reason_"))}
        elif isinstance(score.value, dict):
            row |= {f"score_{name}_{key}": value for key, value in score.value.items()}
        else:
            row[f"score_{name}"] = score.value
    return row
