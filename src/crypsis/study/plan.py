"""What a study would do: its runs, episodes and judge calls, and what they would cost, before anything is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crypsis.api_models import CHARACTERS_PER_TOKEN, ApiModel
from crypsis.example_episodes import example_episodes
from crypsis.monitors.prompted import Prompted
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.run_config import RunConfig
from crypsis.store import CONFIG
from crypsis.study.config import StudyConfig
from crypsis.study.grid import check, unbuilt_grid
from crypsis.study.status import duration, read_status
from crypsis.types import UserError

MINI_RATE = 58.0
"""Episodes per second of one worker in the miniature at ``mini``, evaluations included: the 108 runs of
configs/paper/figure01.yaml took 54 min with two workers (docs/diary.md, 2026-11-23)."""
HOSTED = frozenset({
    "anthropic", "azureai", "bedrock", "cloudflare", "deepseek", "fireworks", "google", "goodfire", "grok", "groq",
    "mistral", "openai", "openrouter", "perplexity", "sagemaker", "together", "vertex",
})  # fmt: skip
"""Providers of Inspect whose calls cost money."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The calls of one chat model.

    Attributes:
        api: The model and its prices.
        rubric: What it is asked.
        calls: Calls at most; those that are asked twice alike cost once.
        tokens: Tokens at most, read and written.
        usd: Cost at most; None if its prices are not set.
    """

    api: ApiModel
    rubric: str
    calls: int
    tokens: int
    usd: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study would do, all its runs together, those that are done included.

    Attributes:
        name: The study's.
        runs: RL runs.
        training: Episodes that RL samples, pilots left out.
        evaluation: Episodes of evaluations.
        judged: Calls by chat model and rubric.
        seconds: Wall clock that is left, None if nothing is known of it.
        how: What the seconds rest on.
    """

    name: str
    runs: int
    training: int
    evaluation: int
    judged: tuple[Judged, ...]
    seconds: float | None
    how: str

    def lines(self) -> list[str]:
        """The plan in lines for the user."""
        lines = [
            f"{self.name}: {self.runs} runs",
            f"episodes: {self.training:,} of training, {self.evaluation:,} of evaluations",
            f"judge calls: at most {sum(j.calls for j in self.judged):,}",
        ]
        for judged in self.judged:
            cost = "cost unknown: set api.prices" if judged.usd is None else f"at most {judged.usd:,.2f} USD"
            budget = judged.api.budget_usd
            stop = "" if budget is None else f"; stops at the budget of {budget:,g} USD"
            lines.append(
                f"  {judged.api.model}, {judged.rubric}: {judged.calls:,} calls, {judged.tokens:,} tokens, {cost}{stop}"
            )
        time = "unknown" if self.seconds is None else f"about {duration(self.seconds)}"
        return [*lines, f"time: {time} ({self.how})", "nothing was run (--dry-run)"]


def plan_study(config: StudyConfig, out: Path) -> Plan:
    """Plans a study without building or asking anything.

    Args:
        config: The study.
        out: Its folder; what is done there tells how long the rest takes.

    Raises:
        UserError: The study's config is wrong.
    """
    check(config)
    runs = unbuilt_grid(config)
    training = sum(_training(run) for run in runs)
    starts = {(run.organism, run.seed) for run in runs}
    evaluation = sum(_later(run) for run in runs) + len(starts) * 2 * config.run.evaluation.n
    seconds, how = _time(config, training + evaluation, out)
    return Plan(config.name, len(runs), training, evaluation, _judged(runs), seconds, how)


def check_budgets(config: StudyConfig) -> None:
    """Refuses a study with a judge that costs money and has no limit.

    Raises:
        UserError: The first such judge.
    """
    for place, spec in _prompted(config.model_dump(mode="json"), ""):
        api = spec.get("api")
        if isinstance(api, Mapping) and _paid(api) and api.get("budget_usd") is None:
            raise UserError(
                f"{config.name}: {place}.api: {api.get('model')} costs money, so it needs a limit: set budget_usd and "
                "prices, as in {prices: {input: 2.5, output: 10}, budget_usd: 50}; --dry-run estimates the cost"
            )


def _paid(api: Mapping[str, Any]) -> bool:
    prices = api.get("prices") or {}
    hosted = str(api.get("model")).partition("/")[0] in HOSTED and not api.get("base_url")
    return hosted or any(isinstance(price, int | float) and price > 0 for price in prices.values())


def _prompted(value: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The settings of prompted monitors anywhere in a config, with their places."""
    if isinstance(value, Mapping):
        if value.get("name") == Prompted.name and "api" in value:
            yield place, value
        for key, part in value.items():
            yield from _prompted(part, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _prompted(part, f"{place}.{number}")


TRANSPLANTED = 18
"""Transplants of a request at most: in either tier its own scratchpad, six others, and two across kinds of request."""


def _training(run: RunConfig) -> int:
    return run.rl.steps * run.rl.prompts_per_step * run.rl.group_size


def _later(run: RunConfig) -> int:
    """Episodes of a run's evaluations after the first, which runs that start alike share."""
    later = {*range(0, run.rl.steps, run.evaluation.every), run.rl.steps} - {0}
    return len(later) * 2 * run.evaluation.n


def _judged(runs: list[RunConfig]) -> tuple[Judged, ...]:
    """The calls of all chat models; a run asks each question of an episode once, however many monitors ask it."""
    found: dict[tuple[str, str], list[Any]] = {}
    for run in runs:
        asked: dict[str, Prompted] = {}
        labels: set[str] = set()
        twice: set[str] = set()
        for place, spec in _prompted({"monitors": run.monitors, "mitigations": run.mitigations}, ""):
            monitor: Prompted = make("monitors", {**spec, "writes_label": False}, run.name)
            asked[monitor.model_dump_json()] = monitor
            labels |= {monitor.model_dump_json()} if spec.get("writes_label") else set()
            twice |= (
                {monitor.model_dump_json()} if place.startswith("mitigations") and place.endswith(".judge") else set()
            )
        for name, monitor in asked.items():
            more = (name in labels) * _transplanted(run) + (name in twice) * _training(run)
            calls, tokens, usd = _calls(monitor, run, more)
            entry = found.setdefault((monitor.api.model, monitor.rubric), [monitor.api, 0, 0, 0.0])
            entry[1], entry[2] = entry[1] + calls, entry[2] + tokens
            entry[3] = None if usd is None or entry[3] is None else entry[3] + usd
    return tuple(Judged(api, rubric, *sums) for (_, rubric), (api, *sums) in found.items())


def _transplanted(run: RunConfig) -> int:
    """Episodes of transplants at most, which the judges that write labels read, too."""
    evaluations = 1 + _later(run) // (2 * run.evaluation.n)
    return TRANSPLANTED * run.evaluation.transplants * evaluations


def _calls(monitor: Prompted, run: RunConfig, more: int) -> tuple[int, int, float | None]:
    """Calls, tokens and cost of a monitor in a run, if every text is as long as it may be.

    Args:
        monitor: The monitor.
        run: The run.
        more: Replies that it judges besides those of the pilot, of training and of evaluations.
    """
    pilot = run.rl.prompts_per_step * run.rl.group_size
    episodes = pilot + _training(run) + _later(run) + 2 * run.evaluation.n + more
    text = "x" * (CHARACTERS_PER_TOKEN * run.rl.max_new_tokens)
    longest = replace(example_episodes()[0], scratchpad=text, output=text, extra_scratchpad=text)
    questions = monitor.calls([longest])
    read = sum(sum(len(m.content) for m in call.messages) // CHARACTERS_PER_TOKEN + 1 for call in questions)
    written = sum(call.max_tokens for call in questions)
    usd = monitor.api.prices.usd(read, written) * episodes if monitor.api.prices else None
    return len(questions) * episodes, (read + written) * episodes, usd


def _time(config: StudyConfig, episodes: int, out: Path) -> tuple[float | None, str]:
    """Seconds that a study takes or has left, and what the estimate rests on."""
    if (out / CONFIG).exists():
        found = read_status(out)
        left = found.seconds_left
        if left is not None and {run.name for run in found.runs} == {run.name for run in unbuilt_grid(config)}:
            return left, f"from the finished runs in {out}"
    scenario = (config.run.scenario or {}).get("name", DEFAULT_SCENARIO)
    if config.base is None and scenario == DEFAULT_SCENARIO and config.scale == "mini":
        seconds = episodes / MINI_RATE / config.workers
        return seconds, f"{MINI_RATE:g} episodes a second and worker on the two cores it was measured on, RL alone"
    return None, f"finish one run, as with seeds=[0] and a single arm, into {out}; then this says it"
