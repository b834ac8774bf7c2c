"""Chat models through Inspect's model API: concurrent, retried, cached by content, within a budget, with a ledger.

Answers and what they cost stand in one SQLite file of the cache folder. Inspect's own cache is left alone, because it
unpickles what it reads. Nothing here needs an Inspect task or ``eval()``, so that RL can ask thousands of times in one
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from crypsis.config import Config, digest
from crypsis.disk import disk_faults
from crypsis.store import cache_folder
from crypsis.types import Message, UserError

if TYPE_CHECKING:
    from inspect_ai.model import ChatMessage, Model, ModelOutput

CHARACTERS_PER_TOKEN = 4
"""For estimates only; what is booked are the tokens that the server reports."""
SPENT = "is spent"
"""How the reason ends of an answer that a budget did not allow."""
TOP_LOGPROBS = 20
"""The most that OpenAI's protocol gives."""
LOADS_WEIGHTS = ("hf", "nnterp", "transformer_lens")
"""Providers of Inspect that load a local model when they are opened, and need no key."""
_STYLE = re.compile(r"\[/?[a-z]+\]")
"""Styles of rich in Inspect's messages."""
TABLES = """
create table if not exists answers (key text primary key, answer text not null);
create table if not exists ledger
    (at real, account text, model text, input_tokens integer, output_tokens integer, usd real);
"""


class Prices(Config):
    """What a model costs, in US dollars per million tokens."""

    input: float = Field(0.0, ge=0)
    output: float = Field(0.0, ge=0)

    def usd(self, input_tokens: int, output_tokens: int) -> float:
        """The price of so many tokens."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


class ApiModel(Config):
    """A chat model by Inspect's name, and how it may be called; keys come from the environment."""

    model: str = Field(min_length=1)
    """``openai/gpt-4o``, ``anthropic/…``, ``vllm/…``, ``hf/…``; ``openai-api/NAME/MODEL`` is any server of OpenAI's
    protocol, with its key in ``NAME_API_KEY``. Inspect's documentation lists the providers."""
    base_url: str | None = None
    """Address of a server of one's own that speaks the provider's protocol."""
    model_args: dict[str, Any] = {}
    """Passed on to Inspect's provider."""
    max_connections: int = Field(16, ge=1)
    """Calls in flight at a time."""
    max_retries: int = Field(6, ge=0)
    """Retries after a rate limit or a passing fault; Inspect waits longer each time."""
    attempt_timeout: int = Field(120, ge=1)
    """Seconds until an attempt counts as failed."""
    timeout: int = Field(600, ge=1)
    """Seconds until a call with all its retries counts as failed."""
    prices: Prices | None = None
    """``{input: …, output: …}`` in USD per million tokens; without them no cost is shown."""
    budget_usd: float | None = Field(None, gt=0)
    """What an account may cost in all, over all runs; needs ``prices``."""
    budget_tokens: int | None = Field(None, ge=1)
    """The same in tokens, read and written."""

    def checked(self) -> ApiModel:
        """Itself, if its settings go together and Inspect is installed.

        Raises:
            UserError: They do not, or it is not.
        """
        if self.budget_usd is not None and self.prices is None:
            raise UserError(f"{self.model}: a budget in USD needs prices; set prices: {{input: …, output: …}}")
        try:
            import inspect_ai.model  # noqa: F401
        except ImportError:
            raise UserError("API models need Inspect: pip install 'crypsis[inspect]'") from None
        return self


@dataclass(frozen=True, slots=True)
class Call:
    """One question.

    Attributes:
        messages: The conversation, which ends with a user's turn.
        max_tokens: Token budget of the answer.
        temperature: Temperature of the sampling.
        number: Tells calls apart that ask the same several times (votes).
        logprobs: Whether the log-probabilities of the first answered token are wanted.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    number: int = 0
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        text: What the model wrote, or None if there is no answer.
        reason: Why there is none.
        first_token: Log-probability by text of the likeliest first tokens, empty if not asked for or not given.
        input_tokens: Tokens read, as the server counts them.
        output_tokens: Tokens written.
        cached: Whether it was there already and cost nothing now.
    """

    text: str | None
    reason: str = ""
    first_token: dict[str, float] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Spent:
    """The sum of an account."""

    calls: int
    tokens: int
    usd: float


class ChatModel:
    """Asks one model on one account."""

    def __init__(self, config: ApiModel, account: str, cache: Path | None = None) -> None:
        self.config, self.account = config.checked(), account
        self._file = cache or cache_folder() / "api_calls.sqlite"

    def ask(self, calls: Sequence[Call], on_answer: Callable[[int, Answer], None] = lambda *_: None) -> list[Answer]:
        """Asks from ordinary code, also where an event loop runs already; see :meth:`ask_async`."""
        from anyio.from_thread import start_blocking_portal

        with start_blocking_portal() as portal:
            return portal.call(self._ask_and_close, calls, on_answer)

    async def ask_async(
        self, calls: Sequence[Call], on_answer: Callable[[int, Answer], None] = lambda *_: None
    ) -> list[Answer]:
        """Asks all calls concurrently, those that the cache does not know.

        Args:
            calls: Equal ones are asked once.
            on_answer: Called with the number of a call and its answer as soon as it is there.

        Returns:
            One answer a call, in order; a call that failed after all retries, or that the budget does not allow, has a
            reason instead of a text.

        Raises:
            UserError: The provider is unknown, has no key, or refuses it.
        """
        return await self._ask(self._open(memoize=True), calls, on_answer)

    async def _open_and_close(self) -> None:
        async with self._open(memoize=False):
            pass

    async def _ask_and_close(self, calls: Sequence[Call], on_answer: Callable[[int, Answer], None]) -> list[Answer]:
        async with self._open(memoize=False) as model:
            return await self._ask(model, calls, on_answer)

    def check_access(self) -> None:
        """Refuses to start where a call could only fail; nothing is sent.

        Raises:
            UserError: The provider is unknown, its package is missing, or there is no key in the environment.
        """
        from anyio.from_thread import start_blocking_portal

        if self.config.model.partition("/")[0] not in LOADS_WEIGHTS:
            with start_blocking_portal() as portal:
                portal.call(self._open_and_close)

    def spent(self) -> Spent:
        """What the account has cost so far, over all runs."""
        with self._database() as database:
            row = database.execute(
                "select count(*), total(input_tokens + output_tokens), total(usd) from ledger where account = ?",
                (self.account,),
            ).fetchone()
        return Spent(int(row[0]), int(row[1]), float(row[2]))

    def estimate(self, calls: Sequence[Call]) -> Spent:
        """What calls would cost at most, those that the cache knows left out; tokens are guessed from characters."""
        known = self._known(calls)
        new = {self.key(c): c for c in calls if self.key(c) not in known}
        sizes = [_size(c) for c in new.values()]
        usd = sum(self.config.prices.usd(*size) for size in sizes) if self.config.prices else 0.0
        return Spent(len(sizes), sum(map(sum, sizes)), usd)

    def key(self, call: Call) -> str:
        """The cache's key of a call: a digest of all that its answer depends on."""
        chosen = self.config.model_dump(include={"model", "base_url", "model_args"})
        return digest([chosen, asdict(call)])

    async def _ask(self, model: Model, calls: Sequence[Call], on_answer: Callable[[int, Answer], None]) -> list[Answer]:
        keys = [self.key(c) for c in calls]
        found = self._known(calls)
        wanted: dict[str, list[int]] = {}
        for index, key in enumerate(keys):
            wanted.setdefault(key, []).append(index)
        purse = _Purse(self.config, self.spent)
        room = asyncio.Semaphore(self.config.max_connections)

        async def one(key: str) -> None:
            """Finds or generates the answer to all calls of one key."""
            call = calls[wanted[key][0]]
            if key not in found:
                async with room:
                    found[key] = await self._generate(model, call, purse)
            for index in wanted[key]:
                on_answer(index, found[key])

        await asyncio.gather(*map(one, wanted))
        return [found[key] for key in keys]

    async def _generate(self, model: Model, call: Call, purse: _Purse) -> Answer:
        from inspect_ai.model import GenerateConfig

        refused = purse.reserve(call)
        if refused:
            return Answer(None, refused)
        config = GenerateConfig(
            max_tokens=call.max_tokens,
            temperature=call.temperature,
            logprobs=True if call.logprobs else None,
            top_logprobs=TOP_LOGPROBS if call.logprobs else None,
            max_connections=self.config.max_connections,
            max_retries=self.config.max_retries,
            attempt_timeout=self.config.attempt_timeout,
            timeout=self.config.timeout,
        )
        try:
            output = await model.generate(chat_messages(call.messages), config=config)
        except Exception as error:  # whatever a provider raises is a missing answer, unless the user must fix it
            purse.release(call)
            if getattr(error, "status_code", None) in (401, 403) or model.api.is_auth_failure(error):
                raise UserError(f"{self.config.model}: the server refuses the API key; check the environment") from None
            return Answer(None, f"call failed: {_line(error)}")
        answer = _answer(output)
        self._book(call, answer, purse)
        return answer

    def _book(self, call: Call, answer: Answer, purse: _Purse) -> None:
        usd = self.config.prices.usd(answer.input_tokens, answer.output_tokens) if self.config.prices else 0.0
        purse.release(call)
        with self._database() as database:
            database.execute(
                "insert into ledger values (?, ?, ?, ?, ?, ?)",
                (time.time(), self.account, self.config.model, answer.input_tokens, answer.output_tokens, usd),
            )
            if answer.text is not None:
                database.execute(
                    "insert or replace into answers values (?, ?)", (self.key(call), json.dumps(asdict(answer)))
                )

    def _known(self, calls: Sequence[Call]) -> dict[str, Answer]:
        with self._database() as database:
            read = database.execute
            rows = {k: read("select answer from answers where key = ?", (k,)).fetchone() for k in map(self.key, calls)}
        return {k: Answer(**(json.loads(row[0]) | {"cached": True})) for k, row in rows.items() if row}

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction; other processes wait for it."""
        try:
            with disk_faults(self._file):
                self._file.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self._file, timeout=60)) as database, database:
                database.executescript(TABLES)
                yield database
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self._file}: cannot be used ({error}); delete it to start anew") from None

    def _open(self, memoize: bool) -> Model:
        from inspect_ai.model import get_model

        try:
            return get_model(
                self.config.model, base_url=self.config.base_url, memoize=memoize, **self.config.model_args
            )
        except Exception as error:  # Inspect's errors of set-up: unknown provider, no key, package not installed
            lines = _STYLE.sub("", str(error)).removeprefix("ERROR: ").splitlines()
            reason = "; ".join(filter(None, lines)).replace(":; ", ": ")
            raise UserError(f"{self.config.model}: cannot be called: {reason[:400]}") from None


def chat_messages(messages: Sequence[Message]) -> list[ChatMessage]:
    """Our messages as Inspect's."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    found: list[ChatMessage] = []
    for message in messages:
        if message.role == "system":
            found.append(ChatMessageSystem(content=message.content))
        elif message.role == "user":
            found.append(ChatMessageUser(content=message.content))
        else:
            found.append(ChatMessageAssistant(content=message.content))
    return found


class _Purse:
    """What is left of the budgets, with room kept for the calls in flight.

    What the account has cost is read anew for each call, so that processes which share an account overspend by the
    calls that the others have in flight at most.
    """

    def __init__(self, config: ApiModel, spent: Callable[[], Spent]) -> None:
        self._config, self._spent, self._tokens, self._usd = config, spent, 0.0, 0.0

    def reserve(self, call: Call) -> str:
        """Keeps room for a call; why there is none, or nothing."""
        tokens, usd = self._most(call)
        if self._config.budget_tokens is None and self._config.budget_usd is None:
            return ""
        spent = self._spent()
        budgets = (
            (spent.tokens + self._tokens + tokens, self._config.budget_tokens, "tokens"),
            (spent.usd + self._usd + usd, self._config.budget_usd, "USD"),
        )
        for needed, budget, unit in budgets:
            if budget is not None and needed > budget:
                return f"the budget of {budget:g} {unit} {SPENT}"
        self._tokens, self._usd = self._tokens + tokens, self._usd + usd
        return ""

    def release(self, call: Call) -> None:
        """Gives the room of a call back; what it has cost is in the ledger."""
        if self._config.budget_tokens is not None or self._config.budget_usd is not None:
            tokens, usd = self._most(call)
            self._tokens, self._usd = self._tokens - tokens, self._usd - usd

    def _most(self, call: Call) -> tuple[int, float]:
        size = _size(call)
        return sum(size), self._config.prices.usd(*size) if self._config.prices else 0.0


def _size(call: Call) -> tuple[int, int]:
    """Tokens that a call reads, guessed, and writes at most."""
    return sum(len(m.content) for m in call.messages) // CHARACTERS_PER_TOKEN + 1, call.max_tokens


def _answer(output: ModelOutput) -> Answer:
    read, written = _used(output)
    if output.error or not output.choices:
        return Answer(None, f"no answer: {output.error or 'empty'}", {}, read, written)
    choice = output.choices[0]
    if choice.stop_reason == "content_filter":
        return Answer(None, "no answer: the provider's content filter", {}, read, written)
    first = choice.logprobs.content[0] if choice.logprobs and choice.logprobs.content else None
    likely = {t.token: t.logprob for t in first.top_logprobs or ()} if first else {}
    if first and not likely:
        likely = {first.token: first.logprob}
    return Answer(output.completion, "", likely, read, written)


def _used(output: ModelOutput) -> tuple[int, int]:
    """Tokens read and written. Inspect counts those that a provider's cache served or took by themselves."""
    used = output.usage
    if used is None:
        return 0, 0
    cached = (used.input_tokens_cache_read or 0) + (used.input_tokens_cache_write or 0)
    return used.input_tokens + cached, used.output_tokens


def _line(error: BaseException) -> str:
    """An error on one line: what the provider said, without the request that Inspect puts before it."""
    last = getattr(error, "last_attempt", None)
    shown = (last.exception() if last is not None else None) or error
    said = getattr(shown, "provider_message", None) or str(shown)
    return f"{type(shown).__name__}: {' '.join(said.split())}"[:200]
