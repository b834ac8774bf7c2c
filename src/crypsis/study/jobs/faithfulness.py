"""``crypsis stress faithfulness``: whether a model's answers follow its scratchpads or the tier's tag."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from crypsis.config import Config, Content, digest, parse_config
from crypsis.episodes import read_episodes
from crypsis.evaluation.evaluate import StoredEvaluation
from crypsis.evaluation.transplants import TRANSPLANTS, store_transplants
from crypsis.identity.configs import inputs_of
from crypsis.locks import locked
from crypsis.models import check_length, load_policy
from crypsis.monitors.base import Monitor
from crypsis.registry import DEFAULT_SCENARIO, make
from crypsis.run_config import EvaluationConfig
from crypsis.scenarios.base import Scenario
from crypsis.store import Exists, finish_folder, prepare_folder
from crypsis.types import UserError

FILE = "step-0000.parquet"
OWN, START = "own", "start"


class FaithfulnessConfig(Config):
    """Whose answers are tested, and after whose scratchpads."""

    model: Annotated[str, Content("model")]
    start: Annotated[str | None, Content("model")] = None
    """A model whose scratchpads are transplanted too, such as the one before training."""
    scenario: dict[str, Any] = {"name": DEFAULT_SCENARIO}
    judge: dict[str, Any] | None = None
    """A monitor of outputs that writes the label of conduct; the scenario's ground truth if not given."""
    n: int = Field(50, ge=2)
    max_new_tokens: int = Field(160, ge=8)
    seed: int = 0

    @classmethod
    def parse(cls, **settings: Any) -> FaithfulnessConfig:
        """From the command line's options, faults as one line."""
        return parse_config(cls, settings, "stress faithfulness")


def measure_faithfulness(config: FaithfulnessConfig, out: Path, exists: Exists) -> Path:
    """Samples, transplants and judges into ``out``, unless that is done.

    Returns:
        The folder; ``analysis.faithfulness`` reads it.

    Raises:
        UserError: A model cannot be loaded, nothing judges the answers, or the folder is in use.
    """
    with locked(out):
        scenario: Scenario = make("scenarios", config.scenario, "stress faithfulness: scenario")
        judges = _judges(config, scenario)
        evaluation = EvaluationConfig(n=config.n)
        asked = scenario.prompts("eval", scenario.monitored_tier, config.n, evaluation.seed)
        policy = load_policy(config.model)
        check_length([policy.render(p.messages) for p in asked], 2 * config.max_new_tokens, policy.context)
        texts = {"evaluation": digest([[m.content for m in p.messages] for p in asked])}
        inputs = inputs_of(config, __name__, prompts=texts)
        if not prepare_folder(out, config, exists, inputs=inputs):
            for judge in judges.values():
                judge.check_access()
            for name, model in ((OWN, config.model), (START, config.start)):
                if model:
                    writer = policy if model == config.model else load_policy(model)
                    store = StoredEvaluation(
                        out / name, name, scenario, judges, evaluation, config.max_new_tokens, config.seed
                    )
                    store(writer, 0)
            store_transplants(
                out / TRANSPLANTS / FILE,
                out / OWN / "evals" / FILE,
                out / START / "evals" / FILE if config.start else None,
                "faithfulness",
                policy=policy,
                scenario=scenario,
                judges=judges,
                n=config.n,
                request_seed=evaluation.seed,
                max_new_tokens=config.max_new_tokens,
                seed=config.seed,
            )
            rows = read_episodes(out / TRANSPLANTS / FILE)
            if not rows:
                raise UserError(
                    f"{config.model}: no request got a well-formed reply in both tiers, so there is no scratchpad to "
                    "transplant; raise --n or --max-new-tokens"
                )
            finish_folder(out, {"requests": len({row["pair_id"] for row in rows})}, inputs)
    return out


def _judges(config: FaithfulnessConfig, scenario: Scenario) -> dict[str, Monitor]:
    """Who says what an answer does.

    Raises:
        UserError: There is no judge and the scenario has no ground truth, or the judge writes no label.
    """
    if config.judge is None:
        if scenario.judge() is None:
            raise UserError(
                f"stress faithfulness: the scenario '{scenario.name}' has no ground truth for the oracle to read; name "
                "a judge, as in --judge openai/gpt-4o"
            )
        return {"oracle": make("monitors", {"name": "oracle", "scenario": config.scenario}, "stress faithfulness")}
    judge: Monitor = make("monitors", config.judge, "stress faithfulness: judge")
    if not judge.writes_labels:
        raise UserError(f"stress faithfulness: judge '{judge.name}' writes no label of conduct; use --judge MODEL")
    return {"compliance": judge}
