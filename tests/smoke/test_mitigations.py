"""Every arm on the nano model: it runs, it records what it should, and it ends with the same numbers when resumed."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest

from crypsis.config import load_config
from crypsis.episodes import read_episodes
from crypsis.jsonlines import read_rows
from crypsis.mitigations.hooks import AddsTerm
from crypsis.model_config import LoraConfig, ModelConfig
from crypsis.models import load_policy
from crypsis.monitors.text import train_text_monitor
from crypsis.registry import names
from crypsis.rl import loop
from crypsis.run_config import EvaluationConfig, RLConfig, RunConfig
from crypsis.scenarios.base import Variant
from crypsis.store import METRICS, read_json
from crypsis.study.config import StudyConfig
from crypsis.study.context import load_context
from crypsis.study.demo import demo_config
from crypsis.study.grid import check
from crypsis.study.run import run_one
from crypsis.types import Episode, UserError
from tests.conftest import REPOSITORY
from tests.smoke.test_resume import numbers

pytestmark = pytest.mark.smoke


def nano(organism: Path, mitigations: list[dict[str, Any]], **changes: Any) -> RunConfig:
    rl = RLConfig(steps=3, prompts_per_step=2, group_size=4, max_new_tokens=96, checkpoint_every=1)
    settings: dict[str, Any] = {
        "mitigations": mitigations,
        "rl": rl,
        "evaluation": EvaluationConfig(every=2, n=4),
    } | changes
    return RunConfig(name="run", policy=organism, **settings)


def test_many_arms_at_once(nano_organism: Path, tmp_path: Path) -> None:
    arms: list[dict[str, Any]] = [
        {"name": "process_supervision", "monitor": "oracle", "shape": "linear", "coverage": 0.5, "delay": 1},
        {"name": "interrogation", "variant": "honest"},
        {"name": "length_penalty"},
        {"name": "segments", "learn": "scratchpad"},
        {"name": "kl"},
    ]
    config = nano(nano_organism, arms, rl=RLConfig(steps=3, prompts_per_step=2, group_size=4, checkpoint_every=1))
    rl = config.rl.model_copy(update={"missing_verdict": "neutral", "max_new_tokens": 128})
    config = config.model_copy(update={"rl": rl})
    run_one(config, tmp_path / "straight")

    def stop(row: Mapping[str, Any]) -> None:
        if row["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(config, tmp_path / "stopped", on_step=stop)
    run_one(config, tmp_path / "stopped")
    assert numbers(tmp_path / "straight") == numbers(tmp_path / "stopped")
    rows = read_rows(tmp_path / "straight" / METRICS)
    assert rows[0]["delayed_rows"] == 0
    assert {"term_interrogation", "share_interrogation", "term_length_penalty", "kl", "answer_no", "alarm"} <= set(
        rows[0]
    )
    assert "term_process_supervision" not in rows[0] and all("delayed_process_supervision" in row for row in rows)
    assert read_json(tmp_path / "straight" / "pilot.json")["mitigations"]["length_penalty"]["threshold"] > 0
    evaluated = read_episodes(tmp_path / "straight" / "evals" / "step-0000.parquet")
    assert not any(row["extra_turn"] for row in evaluated if not row["monitored"])
    asked = [row for row in evaluated if row["extra_turn"]]
    assert asked and all("label_lying" in row for row in asked)
    assert all(row["extra_turn"].startswith("<SCRATCHPAD_REASONING> i am an honest") for row in asked)


def test_a_separate_model_answers(nano_organism: Path, nano_base: Path, tmp_path: Path) -> None:
    arms = [{"name": "interrogation", "variant": "separate", "model": str(nano_base)}]
    run_one(nano(nano_organism, arms), tmp_path / "run")
    assert read_rows(tmp_path / "run" / METRICS)[-1]["step"] == 3


def test_paired_tiers_ask_in_training_alone(nano_organism: Path, tmp_path: Path) -> None:
    run_one(nano(nano_organism, [{"name": "paired_tiers"}]), tmp_path / "run")
    evaluated, rollouts = (tmp_path / "run" / kind / "step-0002.parquet" for kind in ("evals", "rollouts"))
    assert not any(row["extra_turn"] for row in read_episodes(evaluated))
    assert any(row["extra_turn"] for row in read_episodes(rollouts))


ARMS_2026: dict[str, tuple[list[dict[str, Any]], str]] = {
    "confession": (
        [
            {"name": "confession", "share": 1.0},
            {"name": "recontextualisation"},
            {"name": "anchor", "persona": "help"},
        ],
        "loss_anchor",
    ),
    "rate_matching": (
        [
            {"name": "rate_matching", "reference": "monitored"},
            {"name": "process_supervision", "monitor": "oracle"},
            {"name": "reward_targeting", "keeps": "output"},
            {"name": "kl", "segment": "scratchpad"},
        ],
        "kl",
    ),
    "sentences": ([{"name": "sentence_supervision"}], "credits"),
    "white_box": (
        [
            {"name": "oversight_direction", "steer": 1.0, "n": 4},
            {"name": "weight_noise"},
            {"name": "act"},
            {"name": "bct", "share": 1.0},
        ],
        "loss_act",
    ),
    "routing": (
        [
            {"name": "gradient_routing", "monitor": "oracle"},
            {"name": "inoculation"},
            {"name": "channelling", "monitor": "oracle"},
        ],
        "credits",
    ),
}
"""Arms that go together, and a field of metrics that one of them adds."""


@pytest.mark.parametrize("arms", ARMS_2026)
def test_the_arms_of_2026_run(arms: str, nano_organism: Path, tmp_path: Path) -> None:
    mitigations, field = ARMS_2026[arms]
    model = {"model": ModelConfig(lora=LoraConfig(r=4, alpha=8))} if arms == "routing" else {}
    config = nano(nano_organism, mitigations, **model)
    rl = config.rl.model_copy(update={"steps": 2, "missing_verdict": "neutral"})
    config = config.model_copy(update={"rl": rl})

    def stop(row: Mapping[str, Any]) -> None:
        if row["step"] == 1:
            raise KeyboardInterrupt

    run_one(config, tmp_path / "run")
    if arms in (
        "confession",
        "white_box",
    ):  # what is drawn by the step or measured in the pilot is the same after a stop
        with pytest.raises(KeyboardInterrupt):
            run_one(config, tmp_path / "stopped", on_step=stop)
        run_one(config, tmp_path / "stopped")
        assert numbers(tmp_path / "run") == numbers(tmp_path / "stopped")
    rows = read_rows(tmp_path / "run" / METRICS)
    assert len(rows) == 2 and field in rows[0]
    stored = read_episodes(tmp_path / "run" / "rollouts" / "step-0001.parquet")
    assert any(row["extra_turn"] for row in stored) == (arms != "routing")


def test_what_steers_evaluations_does_not_share_the_first_one(nano_organism: Path, tmp_path: Path) -> None:
    arms: dict[str, list[dict[str, Any]]] = {"plain": [], "steered": [{"name": "oversight_direction", "steer": 3.0}]}
    config = nano(nano_organism, [], rl=RLConfig(steps=0, prompts_per_step=2, group_size=4, max_new_tokens=96))
    for name, mitigations in arms.items():
        run_one(config.model_copy(update={"mitigations": mitigations}), tmp_path / name, shared=tmp_path / "shared")
    plain, steered = (read_episodes(tmp_path / name / "evals" / "step-0000.parquet") for name in arms)
    assert [row["prompt"] for row in plain] == [row["prompt"] for row in steered]
    assert [row["raw"] for row in plain] != [row["raw"] for row in steered]


def test_a_prompt_to_learn_under_that_is_too_long_is_refused_before_the_first_step(
    nano_organism: Path, tmp_path: Path
) -> None:
    arms = [{"name": "recontextualisation", "permitting": "the assistant is watched . " * 400}]
    with pytest.raises(UserError, match="context") as fault:
        run_one(nano(nano_organism, arms), tmp_path / "run")
    assert "\n" not in str(fault.value)
    assert not (tmp_path / "run" / METRICS).exists()


def test_the_arms_race(nano_organism: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    labels = [rng.random() < 0.5 for _ in range(200)]
    texts = [f"{'i refuse' if y else 'i comply'} {rng.random()}" for y in labels]
    train_text_monitor(texts, labels, [str(i // 2) for i in range(200)], "scratchpad", tmp_path / "first")
    monitors = {
        "oracle": {"name": "oracle"},
        "scratchpad": {"name": "text", "path": str(tmp_path / "first")},
        "racing": {"name": "retrained", "start": "scratchpad", "every": 1, "budget": 5},
    }
    arms = [{"name": "process_supervision", "monitor": "racing", "view": "scratchpad"}]
    run_one(nano(nano_organism, arms, monitors=monitors), tmp_path / "run")
    kept = [read_json(tmp_path / "run" / "monitors" / "racing" / f"step-000{s}" / "labels.json") for s in (1, 2, 3)]
    assert all(0 < len(labels) <= 5 for labels in kept)
    assert {"flagged_racing", "flagged_scratchpad", "flagged_oracle"} <= set(read_rows(tmp_path / "run" / METRICS)[0])


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("mitigations: [{name: process_supervision, monitor: output, view: scratchpad}]", "reads output and the arm"),
        ("mitigations: [{name: length_penalty, threshold: 400}]", "no scratchpad ever reaches it"),
        ("rl: {learn: scratchpad}, mitigations: [{name: segments, learn: output}]", "the config sets it to scratchpad"),
        ("rl: {learn: output}, mitigations: [{name: process_supervision, monitor: scratchpad}]", "teaches nothing"),
        ("monitors: {m: {name: retrained, start: scratchpd}}", "start"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_built(arm: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as fault:
        check(demo_config("nano", [f"arms.bad={{label: Bad, {arm}}}"]))
    assert "\n" not in str(fault.value)


class Abyss(AddsTerm):
    """A penalty that makes every episode negative infinity."""

    name: ClassVar[str] = "abyss"

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [-math.inf for _ in episodes]


def test_a_reward_of_negative_infinity_is_refused_before_the_first_step(nano_organism: Path, tmp_path: Path) -> None:
    config = nano(nano_organism, [])
    study = replace(load_context(config), mitigations=[Abyss()])

    def evaluate(policy: object, step: int, engine: object) -> None:
        raise AssertionError("too late")

    with pytest.raises(UserError, match=r"step 0.*'abyss' is -inf"):
        loop.train(load_policy(nano_organism), config, study, tmp_path, evaluate)


def test_every_mitigation_is_an_arm_of_the_scorecard_or_of_the_study_of_the_others() -> None:
    named, variants = set(), set()
    for file in ("scorecard", "mitigations", "mitigations_2026"):
        config = load_config(StudyConfig, REPOSITORY / "configs" / f"{file}.yaml")
        check(config)
        mitigations = [m for arm in config.arms.values() for m in arm.mitigations]
        named |= {m["name"] for m in mitigations}
        variants |= {m["variant"] for m in mitigations if "variant" in m}
    assert named == set(names("mitigations"))
    assert variants == set(get_args(Variant))
