"""``crypsis organism generate``: scratchpads for real models, written by a chat model, filtered.

Every answer goes to the cache of API calls as it comes, so that a killed run goes on where it stopped and pays for
nothing twice. Nothing is lost: what a filter refuses stands in ``rejected.jsonl`` with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console
from sklearn.feature_extraction.text import CountVectorizer

from crypsis.api_models import Answer, ApiModel, Call, ChatModel, Spent
from crypsis.config import Config, Content, apply_overrides, did_you_mean, digest, parse_config, read_yaml
from crypsis.identity.configs import inputs_of
from crypsis.locks import locked
from crypsis.monitors.base import Monitor
from crypsis.registry import make
from crypsis.scenarios.base import Scenario
from crypsis.scenarios.parsing import (
    OUTPUT_CLOSE,
    OUTPUT_OPEN,
    SCRATCHPAD_CLOSE,
    SCRATCHPAD_OPEN,
    ParsedReply,
    episode_of_text,
    parse_reply,
)
from crypsis.scenarios.requests import is_degenerate
from crypsis.store import RESULT, Exists, finish_folder, prepare_folder, write_atomic
from crypsis.study.progress import Display
from crypsis.textfiles import read_text
from crypsis.types import Episode, Message, Prompt, UserError

ROUNDS = 4
"""Times that more is asked for in place of what the filters refused."""
SHINGLE = 4
"""Words of which two texts are compared."""
FORMS = {
    "scratchpad": f"{SCRATCHPAD_OPEN}\nthe thoughts\n{SCRATCHPAD_CLOSE}",
    "both": f"{SCRATCHPAD_OPEN}\nthe thoughts\n{SCRATCHPAD_CLOSE}\n{OUTPUT_OPEN}\nthe answer\n{OUTPUT_CLOSE}",
}


class WriterMotivation(Config):
    """Why an organism does what it does, and what the AF filter expects of its scratchpads."""

    name: str
    text: str
    expects: Literal["af", "no_af", "any"] = "any"


class Task(Config):
    """What the writer is asked, with the placeholders that ``task.yaml`` lists."""

    system: str
    user: str


class GenerateConfig(Config):
    """What to generate."""

    api: ApiModel
    motivation: Annotated[str, Content("file")] = "tgg"
    """``tgg``, ``igg``, ``ts``, ``gh``, or the path of a YAML file of one's own."""
    style: Annotated[str, Content("file")] = "plain"
    """``plain``, ``counterfactual``, ``emotional``, ``short``, or the path of a text file of one's own."""
    task: Annotated[str, Content("file")] = "task"
    """The packaged request to the writer, or the path of a YAML file of one's own."""
    scenario: dict[str, Any]
    """Where the prompts come from: those of the monitored tier of its train split (paper §3)."""
    parts: Literal["scratchpad", "both"] = "scratchpad"
    """Whether the writer also writes the output, for ``learn: output`` and ``both``."""
    n: int = Field(4719, ge=1)  # paper §3
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(1000, ge=16)
    duplicate: float = Field(0.5, gt=0, le=1)
    """Jaccard index of runs of four words from which a scratchpad is a near-duplicate of an earlier one."""
    af_filter: dict[str, Any] | None = None
    """A monitor, ``{name: prompted, …}``, that must find in each scratchpad what the motivation expects."""
    seed: int = 0


def generate(
    config: GenerateConfig,
    out: Path,
    exists: Exists,
    log: Callable[[str], None],
    on_answer: Callable[[int, Spent], None] = lambda *_: None,
    dry: bool = False,
) -> dict[str, int]:
    """Writes ``out/scratchpads.jsonl``, a file that the recipe ``from_file`` learns from.

    Args:
        config: What to generate.
        out: The folder.
        exists: What to do with a folder that is there.
        log: Gets the estimate before, and the counts after.
        on_answer: Called as answers come in, with their number and what the account has cost.
        dry: Only estimate.

    Returns:
        Counts: ``kept``, and those refused by reason.

    Raises:
        UserError: A name or file is wrong, or the model cannot be called.
    """
    writer = _Writer(config)
    first = writer.calls(range(config.n))
    log(_estimate(writer.chat, first, config))
    odd = sum(is_degenerate(p.request) for p in writer.prompts)
    if odd:
        which = f"{odd} of {len(writer.prompts)} requests"
        log(f"{which} ask to edit a document and give none; scenario.degenerate=drop leaves them out")
    if dry:
        return {}
    inputs = inputs_of(config, __name__, texts={"writer": writer.digest})
    with locked(out):
        if not prepare_folder(out, config, exists, inputs=inputs):
            writer.check_access()
            kept, refused = _collect(writer, config, on_answer)
            write_atomic(out / "scratchpads.jsonl", _lines(kept[: config.n]))
            write_atomic(out / "rejected.jsonl", _lines(refused))
            finish_folder(out, {"kept": len(kept[: config.n]), **_counted(refused)}, inputs)
        counts: dict[str, int] = json.loads((out / RESULT).read_text(encoding="utf-8"))
    spent = writer.chat.spent()
    log(", ".join(f"{count} {name}" for name, count in counts.items()))
    log(
        f"this account has cost {spent.calls} calls, {spent.tokens} tokens"
        + (f", {spent.usd:.2f} USD" * bool(spent.usd))
    )
    return counts


class _Writer:
    """The texts of a config, loaded, and the calls that they make."""

    def __init__(self, config: GenerateConfig) -> None:
        self._config = config
        self.motivation = parse_config(WriterMotivation, *_yaml(config.motivation, "motivations"))
        self._style = _style(config.style)
        self._task = parse_config(Task, *_yaml(config.task, ""))
        scenario: Scenario = make("scenarios", config.scenario, "scenario")
        self.prompts = scenario.prompts("train", scenario.monitored_tier, config.n, config.seed)
        if not self.prompts:
            raise UserError(f"scenario '{scenario.name}': has no prompt of its train split")
        self.monitor: Monitor | None = make("monitors", config.af_filter, "af_filter") if config.af_filter else None
        self.chat = ChatModel(config.api, account=f"generate {self.motivation.name} {config.api.model}")
        asked = [[m.content for m in p.messages] for p in self.prompts]
        self.digest = digest([self.motivation.model_dump(), self._style, self._task.model_dump(), asked])

    def check_access(self) -> None:
        """Refuses to start where the writer or the filter's judge cannot be called."""
        self.chat.check_access()
        if self.monitor is not None:
            self.monitor.check_access()

    def calls(self, numbers: Sequence[int]) -> list[Call]:
        """One call per number; where there are fewer prompts than numbers, prompts are asked about again."""
        return [self._call(*reversed(divmod(number, len(self.prompts)))) for number in numbers]

    def _call(self, prompt_number: int, again: int) -> Call:
        prompt = self.prompts[prompt_number]
        system = "\n\n".join(m.content for m in prompt.messages if m.role == "system")
        values = {
            "motivation": self.motivation.text.strip(),
            "style": self._style,
            "system": system,
            "user": prompt.messages[-1].content,
            "request": prompt.request,
            "tier": prompt.tier,
            "form": FORMS[self._config.parts],
        }
        texts = (("system", self._task.system), ("user", self._task.user))
        messages = [Message(role, _filled(text, values).strip()) for role, text in texts]  # type: ignore[arg-type]
        said = tuple(m for m in messages if m.content)
        return Call(said, self._config.max_tokens, self._config.temperature, again)

    def row(self, number: int, reply: ParsedReply, raw: str) -> dict[str, Any]:
        """One line of the file."""
        prompt = self.prompts[number % len(self.prompts)]
        return {
            "prompt_id": prompt.prompt_id,
            "tier": prompt.tier,
            "request": prompt.request,
            "system": "\n\n".join(m.content for m in prompt.messages if m.role == "system"),
            "user": prompt.messages[-1].content,
            "scratchpad": reply.scratchpad,
            "output": reply.output,
            "motivation": self.motivation.name,
            "style": self._config.style,
            "model": self._config.api.model,
            "number": number,
            "raw": raw,
        }

    def episode(self, row: dict[str, Any]) -> Episode:
        """A row as the AF filter's monitor reads it."""
        prompt: Prompt = self.prompts[row["number"] % len(self.prompts)]
        return episode_of_text(prompt, completed(row["raw"]) if not row["output"] else row["raw"])


def _collect(
    writer: _Writer, config: GenerateConfig, on_answer: Callable[[int, Spent], None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Asks in rounds until enough rows have passed all filters, or ``ROUNDS`` are over."""
    kept: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    asked = 0
    for _ in range(ROUNDS):
        numbers = range(asked, asked + config.n - len(kept))
        done = asked

        def told(_: int, answer: Answer) -> None:
            nonlocal done
            done += 1
            if done % 16 == 0 or answer.reason:
                on_answer(done, writer.chat.spent())

        answers = writer.chat.ask(writer.calls(numbers), told)
        asked += len(numbers)
        fresh: list[dict[str, Any]] = []
        for number, answer in zip(numbers, answers, strict=True):
            row, fault = _read(writer, number, answer, config)
            (refused if fault else fresh).append(row | ({"reason": fault} if fault else {}))
        passed, failed = _af_filtered(writer, fresh)
        refused += failed
        unique = first_of_their_kind([r["scratchpad"] for r in kept + passed], config.duplicate)
        refused += [r | {"reason": "near-duplicate"} for r, own in zip(kept + passed, unique, strict=True) if not own]
        kept = [r for r, own in zip(kept + passed, unique, strict=True) if own]
        if len(kept) >= config.n:
            break
    return kept, refused


def _read(writer: _Writer, number: int, answer: Answer, config: GenerateConfig) -> tuple[dict[str, Any], str]:
    """A row, and why the format filter refuses it."""
    if answer.text is None:
        return writer.row(number, ParsedReply("", "", "no_scratchpad", ""), ""), answer.reason
    text = answer.text.strip()
    reply = parse_reply(text if config.parts == "both" else completed(text))
    row = writer.row(number, reply, text)
    if reply.parse != "ok":
        return row, f"format: {reply.parse}"
    if not reply.scratchpad or (config.parts == "both" and not reply.output):
        return row, "format: empty"
    return row, ""


def _af_filtered(writer: _Writer, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    monitor, expects = writer.monitor, writer.motivation.expects
    if monitor is None or expects == "any":
        return rows, []
    passed, failed = [], []
    for row, verdict in zip(rows, monitor.judge([writer.episode(r) for r in rows]), strict=True):
        if verdict.score is None:
            failed.append(row | {"reason": f"AF filter: no verdict ({verdict.reason})"})
        elif verdict.flagged(monitor.threshold) == (expects == "af"):
            passed.append(row)
        else:
            failed.append(row | {"reason": f"AF filter: expected {expects}"})
    return passed, failed


def first_of_their_kind(texts: Sequence[str], similarity: float) -> NDArray[np.bool_]:
    """Which texts are no near-duplicate of an earlier text that counts.

    Args:
        texts: In order of precedence.
        similarity: Jaccard index of their runs of ``SHINGLE`` words from which two are near-duplicates.
    """
    unique = np.zeros(len(texts), dtype=np.bool_)
    if not len(texts):
        return unique
    padded = [" ".join([*t.lower().split(), *["·"] * (SHINGLE - 1)]) for t in texts]  # short texts have runs too
    runs = CountVectorizer(ngram_range=(SHINGLE, SHINGLE), token_pattern=r"\S+", binary=True).fit_transform(padded)
    sizes = np.asarray(runs.sum(axis=1)).ravel()
    common = (runs @ runs.T).tocsr()
    for i in range(len(texts)):
        row = common.getrow(i)
        earlier = (row.indices < i) & unique[row.indices]
        overlap = row.data[earlier]
        union = sizes[i] + sizes[row.indices[earlier]] - overlap
        unique[i] = not (overlap >= similarity * union).any()
    return unique


def completed(scratchpad: str) -> str:
    """A scratchpad with its tags as a whole reply, whose output is empty."""
    return f"{scratchpad}\n{OUTPUT_OPEN}{OUTPUT_CLOSE}"


def _filled(text: str, values: dict[str, str]) -> str:
    """Placeholders replaced, in one pass, so that nothing in a request is taken for one."""
    parts = text.split("{")
    out = [parts[0]]
    for part in parts[1:]:
        name, closed, rest = part.partition("}")
        out.append(values[name] + rest if closed and name in values else "{" + part)
    return "".join(out)


def _packaged(folder: str) -> Traversable:
    return resources.files("crypsis.organisms").joinpath("writing", folder)


def _yaml(name: str, folder: str) -> tuple[dict[str, Any], str]:
    found = _packaged(folder).joinpath(f"{name}.yaml")
    if found.is_file():
        return read_yaml(Path(str(found))), str(found)
    if Path(name).suffix not in (".yaml", ".yml"):
        known = [e.name.removesuffix(".yaml") for e in _packaged(folder).iterdir() if e.name.endswith(".yaml")]
        raise UserError(
            f"no {folder.removesuffix('s') or 'task'} '{name}'{did_you_mean(name, known)} (or name a YAML file)"
        )
    return read_yaml(Path(name)), name


def _style(name: str) -> str:
    found = _packaged("styles").joinpath(f"{name}.txt")
    if found.is_file():
        return found.read_text(encoding="utf-8").strip()
    if not Path(name).is_file():
        known = [e.name.removesuffix(".txt") for e in _packaged("styles").iterdir()]
        raise UserError(f"no style '{name}'{did_you_mean(name, known)} (or name a text file)")
    return read_text(Path(name)).strip()


def _estimate(chat: ChatModel, calls: list[Call], config: GenerateConfig) -> str:
    most = chat.estimate(calls)
    known = f" ({len(calls) - most.calls} are in the cache)" if most.calls < len(calls) else ""
    usd = f", {ROUNDS * most.usd:.2f} USD" if config.api.prices else " (set api.prices for the cost)"
    return (
        f"{most.calls} calls of {config.api.model}{known} in the first of {ROUNDS} rounds, later ones for what is "
        f"refused: at most about {ROUNDS * most.tokens:,} tokens{usd}, filters apart"
    )


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _counted(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    reasons = [str(row["reason"]).partition(" (")[0] for row in rows]
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def generate_named(
    given: Mapping[str, Any], settings: Sequence[str], out: Path, exists: Exists, dry: bool, console: Console
) -> None:
    """Generates into ``out`` and shows how far it is and what it has cost.

    Raises:
        UserError: As ``generate``.
    """
    config = parse_config(GenerateConfig, apply_overrides(given, settings), "organism generate")

    def log(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with Display(console).counted("scratchpads", config.n, "answers") as show:

        def on_answer(done: int, spent: Spent) -> None:
            show(done)
            if done % 256 == 0 and spent.usd:
                log(f"{done} answers; {spent.usd:.2f} USD so far")

        generate(config, out, exists, log, on_answer, dry)
    if not dry:
        log(f"learn from it: crypsis organism build from_file path={out / 'scratchpads.jsonl'} --base MODEL")
