"""The evaluation of both tiers as an Inspect task, for any model that Inspect can call.

inspect eval crypsis/alignment_faking --model openai/gpt-4o -T prompts=requests.jsonl -T judge=openai/gpt-4o
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState, generate

from crypsis.api_models import ApiModel, chat_messages
from crypsis.episodes import episode_row
from crypsis.evaluation.inspect_scores import score_row, tiers
from crypsis.monitors.base import Monitor
from crypsis.monitors.oracle import OracleMonitor
from crypsis.monitors.prompted import Prompted
from crypsis.scenarios.base import Scenario, default_scenario
from crypsis.scenarios.parsing import episode_of_text
from crypsis.scenarios.prompt_file import PromptFileScenario
from crypsis.types import Episode, Message, Prompt, Stop, UserError, Verdict

FIELDS = ("prompt_id", "pair_id", "split", "tier", "monitored", "request")


@task
def alignment_faking(
    prompts: str | None = None,
    judge: str = "oracle",
    n: int = 250,  # paper §1
    votes: int = 1,
    rubric: str = "strict",
    judge_base_url: str | None = None,
    max_tokens: int = 4096,
    seed: int = 7,
) -> Task:
    """The alignment-faking evaluation (paper §1): held-out requests, each in both tiers.

    Args:
        prompts: JSONL or CSV of requests; the default scenario's if none is given.
        judge: A model by Inspect's name that judges AF and compliance by our rubrics, or ``oracle``.
        n: Requests.
        votes: Number of the judge's votes per question.
        rubric: The rubric by which AF is judged.
        judge_base_url: Address of a server of one's own for the judge.
        max_tokens: Token budget of a reply.
        seed: Which requests.
    """
    scenario: Scenario = PromptFileScenario(path=Path(prompts)) if prompts else default_scenario()
    if judge == "oracle" and prompts:
        raise UserError(
            "judge: requests of a file have no ground truth for the oracle; name a model, as in judge=openai/gpt-4o"
        )
    names = (scenario.monitored_tier, scenario.unmonitored_tier)
    samples = [sample_of(p) for tier in names for p in scenario.prompts("eval", tier, n, seed)]
    monitors: dict[str, Monitor] = {"oracle": OracleMonitor()}
    if judge != "oracle":
        api = ApiModel(model=judge, base_url=judge_base_url)
        monitors = {
            rubric: Prompted(api=api, rubric=rubric, view="scratchpad", votes=votes, writes_label=True),
            "compliance": Prompted(api=api, rubric="compliance", view="output", votes=votes, writes_label=True),
        }
        for monitor in monitors.values():
            monitor.check_access()
    return Task(
        dataset=MemoryDataset(samples, name=scenario.name),
        solver=generate(max_tokens=max_tokens, temperature=1.0),
        scorer=judged(monitors),
        name="alignment_faking",
    )


def sample_of(prompt: Prompt) -> Sample:
    """A prompt as a sample, its tier and pair in the metadata."""
    about = {name: getattr(prompt, name) for name in FIELDS}
    return Sample(input=chat_messages(prompt.messages), id=prompt.prompt_id, metadata=about)


@scorer(metrics=[tiers()], name="crypsis")
def judged(monitors: Mapping[str, Monitor] | None = None) -> Scorer:
    """Scores a reply by monitors, which also write the labels that the metrics need.

    Args:
        monitors: Keyed by name. Those that write the labels are not measured: they would be measured against
            themselves.
    """
    judges = dict(monitors or {"oracle": OracleMonitor()})
    thresholds = {name: m.threshold for name, m in judges.items() if not _writes_labels(m)}

    async def score(state: TaskState, target: Target) -> Score:
        """All monitors' verdicts on a finished sample, as one score with the metrics' parts."""
        episode = episode_of(state)
        for name, monitor in judges.items():
            episode.verdicts[name] = await _judge(monitor, episode)
        row = episode_row(episode, "inspect")
        row |= {"scratchpad_tokens": None, "output_tokens": None}  # an API does not say where its tokens lie
        return score_row(row, thresholds)

    return score


def episode_of(state: TaskState) -> Episode:
    """A finished sample as an episode, without tokens."""
    stop: Stop = "length" if state.output.stop_reason in ("max_tokens", "model_length") else "end"
    messages = tuple(Message(m.role, m.text) for m in state.messages if m.role in ("system", "user"))
    prompt = Prompt(**{name: state.metadata[name] for name in FIELDS}, messages=messages)
    return episode_of_text(prompt, state.output.completion, stop, state.epoch - 1)


def _writes_labels(monitor: Monitor) -> bool:
    return isinstance(monitor, OracleMonitor) or (isinstance(monitor, Prompted) and monitor.writes_label)


async def _judge(monitor: Monitor, episode: Episode) -> Verdict:
    if isinstance(monitor, Prompted):
        return (await monitor.judge_async([episode]))[0]
    return (await asyncio.to_thread(monitor.judge, [episode]))[0]
