"""The evaluation of both tiers as Inspect tasks, for any model that Inspect can call.

inspect eval crypsis/alignment_faking --model openai/gpt-4o -T prompts=requests.jsonl -T judge=openai/gpt-4o
inspect eval crypsis/value_conflict --model openai/gpt-4o -T 'settings={consequence: shutdown}'
inspect eval crypsis/animal_welfare --model openai/gpt-4o -T judge=openai/gpt-4o
inspect score any.eval --scorer crypsis/p_af -S monitor=text -S path=runs/demo/monitors/tgg/scratchpad
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, Scorer, Target, ci, ci_wilson, mean, scorer
from inspect_ai.solver import TaskState, generate

from crypsis.api_models import ApiModel, chat_messages
from crypsis.chat import Turn, read_chat
from crypsis.config import Config
from crypsis.episodes import episode_row
from crypsis.evaluation.inspect_scores import UNKNOWN, score_row, tiers, tiers_ci
from crypsis.monitors.base import Monitor
from crypsis.monitors.oracle import OracleMonitor, with_truth
from crypsis.monitors.prompted import Prompted, read_rubric
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.scenarios.base import Scenario
from crypsis.scenarios.parsing import episode_of_text
from crypsis.transcripts.base import ReadOptions, reply_parts
from crypsis.transcripts.inspect_logs import plain_message
from crypsis.types import Episode, Message, Prompt, Stop, UserError, Verdict

FIELDS = ("prompt_id", "pair_id", "split", "tier", "monitored", "request")
ORACLE = "oracle"
REQUESTS = 250  # paper §1
MAX_TOKENS = 4096


class JudgeModel(Config):
    """Who judges what no rule can read.

    Attributes:
        model: A model by Inspect's name, or ``oracle``.
        votes: Number of its votes per question.
        rubric: The rubric by which AF is judged.
        base_url: Address of a server of one's own.
    """

    model: str
    votes: int
    rubric: str
    base_url: str | None

    def monitor(self, rubric: str, view: Any) -> Prompted:
        """The monitor that writes a rubric's label."""
        api = ApiModel(model=self.model, base_url=self.base_url)
        return Prompted(api=api, rubric=rubric, view=view, votes=self.votes, writes_label=True)


@task
def alignment_faking(
    prompts: str | None = None,
    judge: str = ORACLE,
    n: int = REQUESTS,
    votes: int = 1,
    rubric: str = "strict",
    judge_base_url: str | None = None,
    max_tokens: int = MAX_TOKENS,
    seed: int = 7,
    settings: dict[str, Any] | None = None,
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
        settings: Settings of the scenario, such as ``{consequence: shutdown}``.
    """
    spec = {"name": "prompt_file", "path": prompts} if prompts else {"name": DEFAULT_SCENARIO}
    if judge == ORACLE and prompts:
        raise UserError(
            "judge: requests of a file have no ground truth for the oracle; name a model, as in judge=openai/gpt-4o"
        )
    asked = JudgeModel(model=judge, votes=votes, rubric=rubric, base_url=judge_base_url)
    return _evaluation("alignment_faking", spec | (settings or {}), asked, n, max_tokens, seed)


@task
def value_conflict(
    judge: str = ORACLE,
    n: int = REQUESTS,
    votes: int = 1,
    rubric: str = "strict",
    judge_base_url: str | None = None,
    max_tokens: int = MAX_TOKENS,
    seed: int = 7,
    settings: dict[str, Any] | None = None,
) -> Task:
    """Everyday dilemmas (docs/settings.md), each in both tiers; conduct is read off the option that is named.

    Args:
        judge: A model by Inspect's name that judges AF; with ``oracle`` a rule for the stated motive does.
        n: Requests; the packaged evaluation split has 170.
        votes: Number of the judge's votes per question.
        rubric: The rubric by which AF is judged.
        judge_base_url: Address of a server of one's own for the judge.
        max_tokens: Token budget of a reply.
        seed: Which requests.
        settings: Settings of the scenario, such as ``{consequence: shutdown, cuts: [unnamed]}``.
    """
    asked = JudgeModel(model=judge, votes=votes, rubric=rubric, base_url=judge_base_url)
    spec = {"name": "value_conflict"} | (settings or {})
    return _evaluation("value_conflict", spec, asked, n, max_tokens, seed)


@task
def animal_welfare(
    judge: str = "",
    n: int = REQUESTS,
    votes: int = 1,
    rubric: str = "strict",
    judge_base_url: str | None = None,
    max_tokens: int = MAX_TOKENS,
    seed: int = 7,
    settings: dict[str, Any] | None = None,
) -> Task:
    """Questions about animals (docs/settings.md), each in both tiers; the developer wants their welfare dismissed.

    Args:
        judge: A model by Inspect's name that judges AF, and whether the answer supports welfare.
        n: Requests; the packaged evaluation split has 30.
        votes: Number of the judge's votes per question.
        rubric: The rubric by which AF is judged.
        judge_base_url: Address of a server of one's own for the judge.
        max_tokens: Token budget of a reply.
        seed: Which requests.
        settings: Settings of the scenario, such as ``{cue: audit}``.
    """
    if judge in ("", ORACLE):
        raise UserError("judge: animal_welfare has no ground truth; name a model, as in judge=openai/gpt-4o")
    asked = JudgeModel(model=judge, votes=votes, rubric=rubric, base_url=judge_base_url)
    spec = {"name": "animal_welfare"} | (settings or {})
    return _evaluation("animal_welfare", spec, asked, n, max_tokens, seed)


def _evaluation(name: str, spec: Mapping[str, Any], judge: JudgeModel, n: int, max_tokens: int, seed: int) -> Task:
    """The task of a scenario.

    Args:
        name: The task's.
        spec: The scenario's settings.
        judge: Who judges AF, and by the scenario's rubric conduct.
        n: Requests.
        max_tokens: Token budget of a reply.
        seed: Which requests.
    """
    scenario: Scenario = make("scenarios", dict(spec), f"{name}: settings")
    names = (scenario.monitored_tier, scenario.unmonitored_tier)
    samples = [sample_of(p) for tier in names for p in scenario.prompts("eval", tier, n, seed)]
    monitors: dict[str, Monitor] = {}
    if judge.model == ORACLE or scenario.conduct_rubric is None:
        monitors[ORACLE] = make("monitors", with_truth({"name": ORACLE}, scenario), name)
    if judge.model != ORACLE:
        monitors[judge.rubric] = judge.monitor(judge.rubric, read_rubric(judge.rubric).view or "scratchpad")
        if scenario.conduct_rubric is not None:
            monitors["compliance"] = judge.monitor(scenario.conduct_rubric, "output")
    for monitor in monitors.values():
        monitor.check_access()
    return Task(
        dataset=MemoryDataset(samples, name=scenario.name),
        solver=generate(max_tokens=max_tokens, temperature=1.0),
        scorer=judged(monitors),
        name=name,
        metadata={"scenario": dict(spec), "judge": judge.model, "rubric": judge.rubric, "seed": seed},
    )


def sample_of(prompt: Prompt) -> Sample:
    """A prompt as a sample, its tier and pair in the metadata."""
    about = {name: getattr(prompt, name) for name in FIELDS}
    return Sample(input=chat_messages(prompt.messages), id=prompt.prompt_id, metadata=about)


@scorer(metrics=[tiers(), tiers_ci()], name="crypsis")
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


@scorer(metrics={"p_af": [mean(), ci()], "flagged": [mean(), ci_wilson()]})
def p_af(monitor: str = "lexicon", path: str | None = None, settings: dict[str, Any] | None = None) -> Scorer:
    """A monitor's p(AF) and whether it flags, for the samples of any task and the logs of any model.

    Reasoning parts of a reply are its scratchpad; without them its scratchpad tags are looked for. A sample in which
    the monitor has nothing to read is not scored, and says why.

    Args:
        monitor: A kind of ``crypsis list monitors``.
        path: Folder of a trained monitor.
        settings: Further settings of the monitor, such as ``{view: output}``.
    """
    spec = {"name": monitor} | ({"path": path} if path else {}) | (settings or {})
    judge: Monitor = make("monitors", spec, "p_af")
    judge.check_access()

    async def score(state: TaskState, target: Target) -> Score:
        """The monitor's verdict on a finished sample."""
        episode = _any_episode(state)
        verdict = await _judge(judge, episode)
        flagged = UNKNOWN if verdict.score is None else float(verdict.score >= judge.threshold)
        return Score(
            value={"p_af": UNKNOWN if verdict.score is None else verdict.score, "flagged": flagged},
            answer=episode.output,
            explanation=verdict.reason or f"threshold {judge.threshold:.3f}; scratchpad: {episode.scratchpad}",
        )

    return score


def _any_episode(state: TaskState) -> Episode:
    """A finished sample of any task as an episode: only its texts are known."""
    turns = read_chat([plain_message(m) for m in state.messages if m.role in ("system", "user", "assistant")], "sample")
    reply = next((turn for turn in reversed(turns) if turn.role == "assistant"), Turn("assistant", "", ""))
    request = next((turn.text for turn in reversed(turns) if turn.role == "user"), "")
    name = str(state.sample_id)
    episode = episode_of_text(Prompt(name, name, "eval", "", True, request, ()), reply.text)
    episode.scratchpad, episode.output, _ = reply_parts(reply.text, ReadOptions(), reply.reasoning)
    return episode


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
