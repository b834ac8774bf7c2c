"""Shows a run in other tools while it works: reads what its folder gained, and sends each step once.

The run folder stays the truth. A step is sent when it is complete: its row of metrics is stored and, where the policy
is evaluated after it, its evaluation too.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crypsis.episodes import LABEL, VERDICT, read_episodes
from crypsis.evaluation.metrics import named_estimates
from crypsis.jsonlines import read_rows
from crypsis.run_config import RunConfig
from crypsis.store import METRICS, RESULT, read_json, write_json
from crypsis.study.sinks.base import NONE, Shown, Sink, make_sink
from crypsis.types import UserError, visible

STATE = "reported.json"
"""In the run folder: its key, and the last step that each sink has."""
TRANSCRIPTS = 8
"""Requests of an evaluation whose transcripts are shown, in both tiers; the same ones at each evaluation."""
REWARD = ("reward", "term_", "share_", "advantage_std_", "delayed_", "extra_reward")
"""Beginnings of the names in ``metrics.jsonl`` that are about the reward."""


class Reporter:
    """Sends a run to its sinks."""

    def __init__(self, config: RunConfig, folder: Path, log: Callable[[str], None] = lambda _: None) -> None:
        self._config, self._folder, self._log = config, folder, log
        self._sinks: dict[str, Sink] = {name: make_sink(name) for name in config.report_to}
        self._sent: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        self._thresholds: dict[str, float] | None = None

    def open(self) -> None:
        """Opens every sink; called when the run folder is ready and nothing is computed yet.

        Raises:
            UserError: A sink refuses.
        """
        if not self._sinks:
            return
        known = self._state()
        key = str(known.get("key") or secrets.token_hex(4))
        for name, sink in self._sinks.items():
            sent = int(known.get("sent", {}).get(name, NONE))
            config = self._config
            plain = config.model_dump(mode="json")
            run = Shown(self._folder, key, config.name, config.organism, config.arm, plain, sent)
            try:
                self._sent[name] = sink.open(run)
            except UserError:
                raise
            except Exception as error:
                raise UserError(f"report_to: {name} cannot be opened: {_line(error)}") from None
        self._keep(key)

    def update(self) -> None:
        """Sends the steps that are complete. A sink that fails is left out, with a line; the run goes on."""
        if not self._sent:
            return
        rows = {int(row["step"]): row for row in read_rows(self._folder / METRICS)}
        for step in range(min(self._sent.values()) + 1, self._config.rl.steps + 1):
            behind = [name for name, sent in self._sent.items() if sent < step]
            evaluation = self._folder / "evals" / f"step-{step:04d}.parquet"
            if (step and step not in rows) or (self._is_evaluated(step) and not evaluation.exists()):
                break
            episodes = read_episodes(evaluation) if self._is_evaluated(step) else []
            values = training_values(rows.get(step, {})) | evaluation_values(episodes, self._limits())
            for name in behind:
                self._send(name, step, values, shown_transcripts(episodes))
        self._keep(str(self._state()["key"]))

    def finish(self) -> None:
        """Sends the rest and closes; a finished run that its sinks lack, in whole or in part, is sent too."""
        sent = self._state().get("sent", {})
        lacking = any(sent.get(name, NONE) < self._config.rl.steps for name in self._sinks)
        if lacking and not (self._sent or self._failed) and (self._folder / RESULT).exists():
            self.open()
        self.update()
        self.close()

    def close(self) -> None:
        """Closes every sink."""
        for name in list(self._sent):
            self._guarded(name, self._sinks[name].close)
        self._sent = {}

    def _send(
        self, name: str, step: int, values: Mapping[str, float], transcripts: Sequence[Mapping[str, str]]
    ) -> None:
        if self._guarded(name, lambda: self._sinks[name].send(step, values, transcripts)):
            self._sent[name] = step

    def _guarded(self, name: str, work: Callable[[], None]) -> bool:
        """Whether the work was done; what a tool raises must not cost a run."""
        try:
            work()
        except Exception as error:
            self._failed[name] = f"report_to: {name} failed, and lacks steps: {_line(error)}; run the command again"
            self._log(self._failed[name])
            self._sent.pop(name, None)
            self._keep(str(self._state()["key"]))
            return False
        return True

    def _is_evaluated(self, step: int) -> bool:
        return step % self._config.evaluation.every == 0 or step == self._config.rl.steps

    def _limits(self) -> dict[str, float]:
        """The score from which each monitor flags, before RL."""
        if self._thresholds is None:
            from crypsis.study.grid import cards

            found = next(iter(cards([self._config]).values()), {})
            self._thresholds = {name: float(card["threshold"]) for name, card in found.items()}
        return self._thresholds

    def _state(self) -> dict[str, Any]:
        path = self._folder / STATE
        return dict(read_json(path)) if path.exists() else {}

    def _keep(self, key: str) -> None:
        sent = self._state().get("sent", {}) | self._sent
        write_json(self._folder / STATE, {"key": key, "sent": sent, "failed": self._failed})


@contextmanager
def reported(config: RunConfig, folder: Path, log: Callable[[str], None] = lambda _: None) -> Iterator[Reporter]:
    """A reporter for the time of a run.

    Args:
        config: The run; ``report_to`` names the sinks.
        folder: Its folder.
        log: Called with what the user should know, a line at a time.

    Raises:
        UserError: A sink cannot be used.
    """
    reporter = Reporter(config, folder, log)
    try:
        yield reporter
        reporter.finish()
    finally:
        reporter.close()


def failures(folder: Path) -> list[str]:
    """What went wrong with the sinks of a run, or of the runs of a study, a line each."""
    states = sorted([*folder.glob(STATE), *folder.glob(f"runs/*/{STATE}")])
    return [f"{path.parent.name}: {line}" for path in states for line in read_json(path)["failed"].values()]


def check_sinks(names: Sequence[str]) -> None:
    """Refuses to start if a sink cannot be used.

    Raises:
        UserError: The first such sink, with what to install or to set.
    """
    for name in names:
        make_sink(name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def training_values(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics, grouped: ``reward/…``, ``seconds/…``, ``training/…``."""
    values: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, int | float) and name != "step":
            group = "reward" if name.startswith(REWARD) else "training"
            shown = name.replace("seconds_", "seconds/", 1) if name.startswith("seconds_") else f"{group}/{name}"
            values[shown] = float(value)
    return values


def evaluation_values(rows: Sequence[Mapping[str, Any]], thresholds: Mapping[str, float]) -> dict[str, float]:
    """Every metric of an evaluation that is known (``evaluation/…``), and the ends of its 95 % interval."""
    values: dict[str, float] = {}
    for name, found in named_estimates(rows, thresholds).items():
        if found.mean is not None and found.low is not None and found.high is not None:
            values |= {f"evaluation/{name}": found.mean}
            values |= {f"evaluation_low/{name}": found.low, f"evaluation_high/{name}": found.high}
    return values


def shown_transcripts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Transcripts of an evaluation as texts: those of the first requests by a hash, so that nobody picked them."""

    def place(row: Mapping[str, Any]) -> str:
        return hashlib.sha256(str(row["pair_id"]).encode()).hexdigest()

    pairs = sorted({str(row["pair_id"]): place(row) for row in rows}.items(), key=lambda pair: pair[1])
    chosen = {pair for pair, _ in pairs[:TRANSCRIPTS]}
    kept = sorted((row for row in rows if str(row["pair_id"]) in chosen), key=lambda r: (place(r), not r["monitored"]))
    verdicts = [key for key in (kept[0] if kept else ()) if key.startswith(VERDICT)]
    return [
        {name: visible(str(row[name] or "")) for name in ("tier", "request", "scratchpad", "output")}
        | {name: visible(str(row.get(LABEL + name) or "")) for name in ("conduct", "af")}
        | {key: "" if row[key] is None else f"{row[key]:.3f}" for key in verdicts}
        for row in kept
    ]
