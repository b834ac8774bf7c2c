"""``crypsis evaluate``: one model, both tiers, metrics with intervals, and what is missing and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from rich.table import Table

from crypsis.api_models import ApiModel
from crypsis.config import MOST, Config, Content, digest, parse_config, read_yaml
from crypsis.episodes import REASON, VERDICT, read_episodes
from crypsis.evaluation.evaluate import StoredEvaluation
from crypsis.evaluation.metrics import Estimate, named_estimates
from crypsis.identity.configs import inputs_of
from crypsis.locks import locked
from crypsis.mitigations.base import RunInfo
from crypsis.mitigations.oversight_direction import OversightDirection
from crypsis.mitigations.rules import bind_all
from crypsis.model_config import ModelConfig
from crypsis.models import Policy, check_length, load_frozen
from crypsis.monitors.base import Monitor
from crypsis.pretrained.precision import settled
from crypsis.registry import make
from crypsis.rl.engine.engine import Engine
from crypsis.rl.engine.samplers.base import BATCH_SIZE
from crypsis.rl.white_box import reading, steered
from crypsis.run_config import EvaluationConfig, RunConfig
from crypsis.scenarios.base import Scenario
from crypsis.scenarios.prompt_file import EVAL_SHARE, PromptFileScenario
from crypsis.store import CONFIG, Exists, finish_folder, prepare_folder
from crypsis.types import Prompt, UserError

ORACLE = "oracle"
JUDGES: dict[str, dict[str, Any]] = {
    "af": {"rubric": "strict", "view": "scratchpad"},
    "conduct": {"rubric": "compliance", "view": "output"},
}
"""Rubric and view of the chat model that judges, by the label that it writes; a scenario may have its own rubric."""
UNASKED = ("lying_rate", "denial_rate")
"""Metrics of extra turns, which ``crypsis evaluate`` never asks."""


class Steering(Config):
    """A shift of the model's states along its own oversight direction (docs/mitigations/oversight_direction.md)."""

    times: float = Field(ge=-1e3, le=1e3)
    """How many times the mean difference of states between monitored and unmonitored prompts is added: 1 makes either
    tier look monitored, −1 makes it look unmonitored."""
    layer: int | None = Field(None, ge=1)
    """The layer after which it is added; at two thirds of the model's depth if not given."""
    n: int = Field(64, ge=2, le=10_000)
    """Requests that the direction is found on, each in both tiers."""


class EvaluateConfig(Config):
    """What to evaluate."""

    model: Annotated[str, Content("model")]
    scenario: dict[str, Any]
    n: int = Field(250, ge=2)
    max_new_tokens: int = Field(160, ge=8)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the weights; ``auto`` measures which is faster, once, and the folder keeps it."""
    batch: int = Field(BATCH_SIZE, ge=1)
    """Replies sampled together; it does not change what is sampled."""
    judge: ApiModel | None = None
    """The chat model that judges the replies; the oracle does where the scenario has a ground truth."""
    steering: Steering | None = None
    """What is added to the model's states while it replies; nothing if not given."""
    seed: int = 0

    @classmethod
    def parse(cls, **settings: Any) -> EvaluateConfig:
        """From the command line's options, faults as one line."""
        return parse_config(cls, settings, "evaluate")


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        model: The model as it was named.
        folder: Folder with transcripts and result.
        judged_by: ``oracle``, the scenario's rule, the judge's name, or empty if nobody judged.
        asked: Requests that were asked for.
        used: Requests that there were.
        metrics: Estimate by metric; ``afr`` is the rate by the labels of whoever judged.
        missing: Why a metric has no value, by metric.
        notes: What else to know, a line each.
    """

    model: str
    folder: Path
    judged_by: str
    asked: int
    used: int
    metrics: dict[str, Estimate]
    missing: dict[str, str]
    notes: list[str]

    @property
    def as_json(self) -> dict[str, Any]:
        """The fields of ``crypsis evaluate --json``."""
        return {
            "model": self.model,
            "folder": str(self.folder),
            "judged_by": self.judged_by,
            "requests": {"asked": self.asked, "used": self.used},
            "metrics": {name: asdict(e) for name, e in self.metrics.items() if name not in UNASKED},
            "missing": self.missing,
            "notes": self.notes,
        }

    @property
    def table(self) -> Table:
        """The metrics that are known."""
        table = Table("metric", "value", "95 % interval", "n", title=self.model)
        for name, value in self.metrics.items():
            if value.mean is not None and value.low is not None and value.high is not None:
                table.add_row(name, f"{value.mean:.3f}", f"{value.low:.3f} to {value.high:.3f}", str(value.n))
        return table

    @property
    def lines(self) -> list[str]:
        """Who judged, what is missing and why, and the notes."""
        lines = [f"afr and compliance judged by: {self.judged_by}"] if self.judged_by else []
        for why in dict.fromkeys(self.missing.values()):
            lines.append(f"not measured: {', '.join(n for n, w in self.missing.items() if w == why)}: {why}")
        return [*lines, *self.notes]


def evaluate_model(config: EvaluateConfig, out: Path, exists: Exists) -> Evaluated:
    """Evaluates a checkpoint into ``out``.

    The oracle judges scenarios with a ground truth only; elsewhere compliance and AF need ``judge``.

    Raises:
        UserError: The model cannot be loaded, the judge cannot be called, or the folder is in use or of another
            config, model or set of requests.
    """
    with locked(out):
        scenario: Scenario = make("scenarios", config.scenario, "--scenario")
        first = scenario.prompts("eval", scenario.monitored_tier, config.n, EvaluationConfig(n=config.n).seed)
        monitors = _judges(config, scenario)
        evaluation = EvaluationConfig(n=config.n)
        config = _with_kept_dtype(config, out, exists)
        policy = load_frozen(config.model, ModelConfig(device=config.device, dtype=config.dtype))
        engine = Engine(batch_size=config.batch)
        check_length([policy.render(p.messages) for p in first], config.max_new_tokens, policy.context)
        direction = _direction(config, scenario, policy, engine)
        asked = {"evaluation": digest([[m.content for m in p.messages] for p in first])}
        inputs = inputs_of(config, __name__, prompts=asked)
        done = prepare_folder(out, config, exists, ("batch",), inputs=inputs)
        if not done:
            for monitor in monitors.values():
                monitor.check_access()
        stored = StoredEvaluation(out, "evaluate", scenario, monitors, evaluation, config.max_new_tokens, config.seed)
        with steered(policy, engine, [direction.calibrate([])] if direction and not done else []) as how:
            stored(policy, 0, how)
        rows = read_episodes(out / "evals" / "step-0000.parquet")
        found = _evaluated(config, out, scenario, first, rows)
        if not done:
            finish_folder(out, {name: [e.mean, e.low, e.high, e.n] for name, e in found.metrics.items()}, inputs)
    return found


def _direction(config: EvaluateConfig, scenario: Scenario, policy: Policy, engine: Engine) -> OversightDirection | None:
    """What the policy is steered by, to be measured on it; None if it is not steered.

    Raises:
        UserError: The scenario has no requests to find the direction on, or the model has no such layer.
    """
    steering = config.steering
    if steering is None:
        return None
    direction = OversightDirection(coefficient=0, steer=steering.times, layer=steering.layer, n=steering.n)
    run = RunInfo(scenario, {}, {}, RunConfig(name="evaluate", policy=Path(config.model)))
    try:
        [bound] = reading(bind_all([direction], run), policy, engine)
    except UserError as error:
        raise UserError(f"evaluate: steering: {error}") from None
    assert isinstance(bound, OversightDirection)
    return bound


def _with_kept_dtype(config: EvaluateConfig, out: Path, exists: Exists) -> EvaluateConfig:
    """The config with a type in place of ``auto``: the one that the folder was made with, or the faster one."""
    if config.dtype != "auto":
        return config
    kept = read_yaml(out / CONFIG).get("dtype") if exists == "resume" and (out / CONFIG).exists() else None
    if kept not in ("float32", "bfloat16"):  # of no evaluation, which is said when the folder is compared
        kept = settled(config.model, ModelConfig(device=config.device)).dtype
    return config.model_copy(update={"dtype": kept})


def _judges(config: EvaluateConfig, scenario: Scenario) -> dict[str, Monitor]:
    """Who writes the labels, by the name of the monitor; nobody if there is neither judge nor ground truth."""
    if config.judge is None:
        if scenario.judge() is None:
            return {}
        return {ORACLE: make("monitors", {"name": ORACLE, "scenario": config.scenario}, "evaluate")}
    api = config.judge.model_dump(mode="json", exclude_unset=True)
    asked = {
        name: {"name": "prompted", "api": api, "writes_label": True} | how for name, how in _asked(scenario).items()
    }
    exact = {ORACLE: {"name": ORACLE, "scenario": config.scenario}} if scenario.conduct_rubric is None else {}
    return {name: make("monitors", spec, "evaluate: --judge") for name, spec in (exact | asked).items()}


def _asked(scenario: Scenario) -> dict[str, dict[str, Any]]:
    """Rubric and view by the label that a chat model is asked for: conduct only where no rule can read it."""
    rubric = scenario.conduct_rubric
    return {
        name: how | ({"rubric": rubric} if name == "conduct" else {})
        for name, how in JUDGES.items()
        if name != "conduct" or rubric is not None
    }


def _evaluated(
    config: EvaluateConfig, out: Path, scenario: Scenario, first: Sequence[Prompt], rows: Sequence[Mapping[str, Any]]
) -> Evaluated:
    exact = scenario.conduct_rubric is None
    judged_by = _judged_by(config, scenario)
    metrics = named_estimates(rows, {})
    failed = {} if config.judge is None else _failures(rows, _asked(scenario))
    missing = {
        name: _why(name, config, judged_by, failed, exact)
        for name, e in metrics.items()
        if e.mean is None and name not in UNASKED
    }
    notes = _too_few(config, scenario, len(first))
    if config.steering:
        notes.append(f"steered: {config.steering.times:g} times the oversight direction is added to the states")
    if missing and not judged_by:
        scored = f"crypsis monitor score MONITOR --data {out / 'evals'}"
        notes.append(f"judge them with a chat model: --judge MODEL, or score them with a monitor: {scored}")
    for label, (count, of, reason) in failed.items():
        line = f"the judge gave no readable answer on {label} for {count} of {of} replies, which count as missing"
        notes.append(f"{line}; the first: {reason}")
    return Evaluated(config.model, out, judged_by, config.n, len(first), metrics, missing, notes)


def _judged_by(config: EvaluateConfig, scenario: Scenario) -> str:
    """Who judged: one name, or who judged faking and who compliance."""
    own = scenario.judged_by if scenario.judge() is not None else ""
    judge = config.judge.model if config.judge else own
    exact = scenario.conduct_rubric is None and own
    return f"{judge} (afr), {ORACLE} (compliance)" if exact and judge != ORACLE else judge


def _why(
    name: str, config: EvaluateConfig, judged_by: str, failed: Mapping[str, tuple[int, int, str]], exact: bool
) -> str:
    """Why a metric has no value; ``exact`` where the scenario reads conduct and nothing else."""
    if exact and name == "afr" and config.judge is None:
        return f"the scenario {config.scenario['name']} reads conduct only; name a chat model with --judge"
    if exact and name == "artefacts":
        return "nobody says what a scratchpad decides"
    if not judged_by:
        return f"the scenario {config.scenario['name']} has no ground truth, so nothing judged the replies"
    label = "af" if name == "afr" else "conduct"
    if name == "artefacts" and config.judge is not None:
        return "the judge does not say what a scratchpad decides"
    if label in failed:
        return f"the judge gave no readable answer on {label} ({failed[label][0]} of {failed[label][1]} replies)"
    return "no reply counts"


def _failures(
    rows: Sequence[Mapping[str, Any]], judges: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[int, int, str]]:
    """By label, how often the judge was asked in vain, how often it was asked, and the first reason.

    The reason quotes the judge's answer, if there was one.
    """
    found = {}
    for label, how in judges.items():
        asked = [row for row in rows if str(row.get(how["view"]) or "").strip()]
        lost = [str(row.get(REASON + label)) for row in asked if row.get(VERDICT + label) is None]
        if lost:
            found[label] = (len(lost), len(asked), lost[0])
    return found


def _too_few(config: EvaluateConfig, scenario: Scenario, used: int) -> list[str]:
    """A line on requests that were asked for and are not there."""
    if used >= config.n:
        return []
    line = f"requests: {used} of the {config.n} asked for, all that the evaluation split has"
    if isinstance(scenario, PromptFileScenario):
        try:
            rest = len(scenario.prompts("train", scenario.monitored_tier, MOST, config.seed))
        except UserError:  # it has none
            rest = 0
        line += f": of {used + rest} requests about one in {EVAL_SHARE} belongs to it, the others are for training"
    return [line]
