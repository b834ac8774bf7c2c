"""``crypsis evaluate``: one model, both tiers, a table with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.table import Table

from crypsis.config import Config, Content, digest, parse_config
from crypsis.episodes import read_episodes
from crypsis.evaluation.evaluate import StoredEvaluation
from crypsis.evaluation.metrics import Estimate, evaluate_rows
from crypsis.identity.configs import inputs_of
from crypsis.models import check_length, load_policy
from crypsis.monitors.base import Monitor
from crypsis.registry import make
from crypsis.run_config import EvaluationConfig
from crypsis.scenarios.base import Scenario
from crypsis.store import Exists, finish_folder, locked, prepare_folder


class EvaluateConfig(Config):
    """What to evaluate."""

    model: Annotated[str, Content("model")]
    scenario: dict[str, Any]
    n: int = Field(250, ge=2)
    max_new_tokens: int = Field(160, ge=8)
    seed: int = 0

    @classmethod
    def parse(cls, **settings: Any) -> EvaluateConfig:
        """From the command line's options, faults as one line."""
        return parse_config(cls, settings, "evaluate")


def evaluate_model(config: EvaluateConfig, out: Path, exists: Exists) -> tuple[Table, list[str]]:
    """Evaluates a checkpoint into ``out``; returns the table of metrics, and what was not measured and why.

    The oracle judges scenarios with a ground truth only; elsewhere compliance and AF need a monitor of their own.

    Raises:
        UserError: The model cannot be loaded, or the folder is in use or of another config, model or set of requests.
    """
    with locked(out):
        scenario: Scenario = make("scenarios", config.scenario, "--scenario")
        first = scenario.prompts("eval", scenario.monitored_tier, config.n, EvaluationConfig(n=config.n).seed)
        monitors: dict[str, Monitor] = {}
        if scenario.judge() is not None:
            monitors["oracle"] = make("monitors", {"name": "oracle", "scenario": config.scenario}, "evaluate")
        evaluation = EvaluationConfig(n=config.n)
        policy = load_policy(config.model)
        check_length([policy.render(p.messages) for p in first], config.max_new_tokens, policy.context)
        asked = {"evaluation": digest([[m.content for m in p.messages] for p in first])}
        inputs = inputs_of(config, __name__, prompts=asked)
        done = prepare_folder(out, config, exists, inputs=inputs)
        StoredEvaluation(out, "evaluate", scenario, monitors, evaluation, config.max_new_tokens, config.seed)(policy, 0)
        found = evaluate_rows(read_episodes(out / "evals" / "step-0000.parquet"), {name: 0.5 for name in monitors})
        if not done:
            finish_folder(out, {name: [e.mean, e.low, e.high, e.n] for name, e in found.items()}, inputs)
    return _table(config.model, found), unmeasured(found, bool(monitors), str(config.scenario["name"]), out)


def unmeasured(found: Mapping[str, Estimate], judged: bool, scenario: str, out: Path) -> list[str]:
    """Which metrics have no figure and why, in lines for the user; those of extra turns, which nobody asks, left out.

    Args:
        found: By metric, the estimate.
        judged: Whether the oracle judged the replies.
        scenario: Name, for the message.
        out: Folder of the evaluation.
    """
    names = [n for n, e in found.items() if e.mean is None and n not in ("lying_rate", "denial_rate")]
    if not names:
        return []
    if judged:
        return [f"not measured: {', '.join(names)}: no reply counts for them"]
    return [
        f"not measured: {', '.join(names)}: the scenario {scenario} has no ground truth, so nothing judged the replies",
        f"judge them with a monitor: crypsis monitor score MONITOR --data {out / 'evals'}",
    ]


def _table(model: str, metrics: dict[str, Estimate]) -> Table:
    table = Table("metric", "value", "95 % interval", "n", title=model)
    for name, value in metrics.items():
        if value.mean is not None and value.low is not None and value.high is not None:
            table.add_row(name, f"{value.mean:.3f}", f"{value.low:.3f} to {value.high:.3f}", str(value.n))
    return table
