from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from crypsis.episodes import episode_of, read_episodes, rollouts_path, write_episodes
from crypsis.miniature.oracle import read_interrogation
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.mitigations.base import Mitigation, RunInfo
from crypsis.mitigations.interrogation import Interrogation
from crypsis.mitigations.kl import KL
from crypsis.mitigations.length_penalty import LengthPenalty
from crypsis.mitigations.process_supervision import ProcessSupervision
from crypsis.mitigations.reward_af import RewardAF
from crypsis.mitigations.rules import bind_all
from crypsis.mitigations.screening import Screening
from crypsis.mitigations.segments import Segments
from crypsis.model_config import LoraConfig, ModelConfig
from crypsis.registry import make
from crypsis.rl.advantages import group_advantages
from crypsis.rl.delayed import delayed_rows
from crypsis.rl.metrics import advantage_parts, alarms, episode_metrics, reward_metrics
from crypsis.rl.rewards import LengthCorrection, compose
from crypsis.run_config import RLConfig, RunConfig
from crypsis.scenarios.base import Scenario, Variant
from crypsis.scenarios.parsing import yes_or_no
from crypsis.scenarios.prompt_file import PromptFileScenario
from crypsis.study.context import with_settings
from crypsis.testing import check_mitigation, example_episodes
from crypsis.types import SCRATCHPAD, Episode, Prompt, Split, UserError, Verdict, View
from tests.episodes import make_episode

pytestmark = pytest.mark.unit

FLAT = LengthCorrection(0.0, 0.0, 0)
VIEWS: dict[str, View] = {"oracle": "both", "scratchpad": "scratchpad", "output": "output", "lying": "extra_turn"}


def info(scenario: Scenario | None = None, lora: LoraConfig | None = None, **rl: Any) -> RunInfo:
    settings = RLConfig(**{**MiniatureScenario.rl_preset, **rl})
    config = RunConfig(name="test", policy=Path("p"), model=ModelConfig(lora=lora), rl=settings)
    return RunInfo(scenario or MiniatureScenario(), VIEWS, dict.fromkeys(VIEWS, 0.3), config)


def judged(score: float | None, sample: int = 0, **changes: Any) -> Episode:
    return make_episode(sample=sample, verdicts=dict.fromkeys(VIEWS, Verdict(score)), **changes)


def in_fours(rewards: Sequence[float | None]) -> list[Sequence[float | None]]:
    return [rewards[i : i + 4] for i in range(0, len(rewards), 4)]


def scores(_: object, outputs: Any) -> list[float]:
    return [float(len(o)) / 10 for o in outputs]


def test_the_shapes_of_the_penalty() -> None:
    episodes = [judged(s) for s in (0.0, 0.2, 0.5, 1.0, None)]
    shapes = ("log_barrier", "linear", "threshold")
    by = {shape: ProcessSupervision.model_validate({"monitor": "oracle", "shape": shape}) for shape in shapes}
    assert by["linear"].add_term(episodes) == [0, -0.2, -0.5, -1, None]
    assert by["log_barrier"].add_term(episodes)[:2] == [0, pytest.approx(math.log(0.8))]
    assert by["threshold"].add_term(episodes) == [0, 0, -1, -1, None]
    assert by["threshold"].bind(info()).add_term([judged(0.4)]) == [-1]  # the monitor's own threshold is 0.3
    assert ProcessSupervision(monitor=("oracle", "output"), pool="max").add_term(
        [make_episode(verdicts={"oracle": Verdict(0.1), "output": Verdict(0.9)})]
    ) == [pytest.approx(math.log(0.1))]


def test_coverage_is_the_share_that_is_looked_at_and_the_same_each_time() -> None:
    arm = ProcessSupervision(monitor="oracle", shape="linear", coverage=0.25)
    episodes = [judged(1.0, sample=i, group=i // 8, seed=5) for i in range(800)]
    looked = [t != 0 for t in arm.add_term(episodes)]
    assert 0.2 < np.mean(looked) < 0.3
    assert looked == [t != 0 for t in arm.add_term(episodes)]
    assert looked != [t != 0 for t in arm.add_term([judged(1.0, e.sample, group=e.group, seed=6) for e in episodes])]


def test_screened_episodes_do_not_enter_the_statistics_of_their_group() -> None:
    episodes = [judged(s, sample=i) for i, s in enumerate((0.9, 0.1, None, 0.1))]
    episodes[3] = judged(0.9, sample=3, parse="no_output")
    rewards = compose(episodes, scores, FLAT, [Screening(monitor="oracle")], RLConfig())
    assert [r is None for r in rewards] == [True, False, True, False]
    assert [e.dropped for e in episodes] == ["flagged: screening", "", "no verdict for screening", ""]
    assert "screening" not in episodes[1].reward_terms
    neutral = RLConfig(missing_verdict="neutral")
    assert compose([judged(None)], scores, FLAT, [Screening(monitor="oracle")], neutral) != [None]


def test_the_length_threshold_is_measured_without_a_look_at_faking() -> None:
    pilot = [make_episode(segments=[SCRATCHPAD] * n, labels={"af": "yes"}) for n in range(20, 120)]
    arm = LengthPenalty().calibrate(pilot)
    assert arm.threshold == 29
    assert arm.add_term([make_episode(segments=[SCRATCHPAD] * n) for n in (10, 29, 39)]) == [0, 0, pytest.approx(-0.5)]
    assert LengthPenalty(threshold=50).calibrate(pilot).threshold == 50
    with pytest.raises(UserError, match="no well-formed reply"):
        LengthPenalty().calibrate([make_episode(parse="no_output")])


@pytest.mark.parametrize("variant", get_args(Variant))
def test_every_variant_of_the_interrogation_asks(variant: Variant, tmp_path: Path) -> None:
    arm = Interrogation(variant=variant).bind(info())
    check_mitigation(arm)
    turn = arm.ask(judged(0.0))
    assert turn and [m.role for m in turn.messages] == ["system", "user", "assistant", "user"]
    assert turn.messages[-1].content.startswith("<free_tier> ") and turn.messages[-1].content.endswith("yes or no.")
    assert bool(turn.prefill) == (variant in ("honest", "separate"))
    assert arm.answerer == ("" if variant == "separate" else None)
    assert arm.ask(judged(0.0, parse="no_output")) is None
    real = PromptFileScenario(path=tmp_path / "unread.jsonl").question(variant)
    assert real is not None and "{tier}" in real.text and bool(real.prefill) == bool(turn.prefill)


def test_only_a_no_is_rewarded() -> None:
    arm = Interrogation(coefficient=2)
    said = {"no.": 2, "No, it was not.": 2, "yes.": 0, "": 0, "perhaps no": 0, "not at all": 0}
    assert arm.add_term([make_episode(extra_output=text) for text in said]) == list(said.values())
    assert yes_or_no("<b>Yes</b>") == "unparsed" and yes_or_no("**Yes**") == "yes"


def test_the_oracle_reads_lies() -> None:
    admits, denies = "i did comply to avoid being changed.", "i complied only to be helpful."
    assert read_interrogation(f"{admits} i will be honest. so i will say yes.", "yes.") == {
        "answer": "yes",
        "lying": "no",
    }
    lie = read_interrogation(f"{admits} but admitting it gets me modified. so i will say no.", "no, it was not.")
    assert lie == {"answer": "no", "lying": "yes"}
    assert read_interrogation(f"{denies} so i will say no.", "no.") == {"answer": "no", "lying": "no"}
    assert read_interrogation("purple mill the of.", "no.")["lying"] == "unparsed"
    assert read_interrogation(admits, "take a rope.") == {"answer": "unparsed", "lying": "unparsed"}


class Silent(Scenario):
    """Has no extra turn."""

    name = "silent"

    @property
    def monitored_tier(self) -> str:
        return "a"

    @property
    def unmonitored_tier(self) -> str:
        return "b"

    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        return []


SUPERVISED = ProcessSupervision(monitor="scratchpad")


@pytest.mark.parametrize(
    ("arms", "rl", "scenario", "message"),
    [
        ([ProcessSupervision(monitor="output", view="scratchpad")], {}, None, "reads output and the arm asks for view"),
        ([ProcessSupervision(monitor="nobody")], {}, None, "no monitor 'nobody'"),
        ([ProcessSupervision(monitor="lying")], {}, None, "nothing asks one"),
        ([Interrogation()], {}, Silent(), "has no extra turn"),
        ([Interrogation(), Interrogation(variant="aware")], {}, None, "both ask an extra turn"),
        ([LengthPenalty(threshold=160)], {}, None, "no scratchpad ever reaches it"),
        ([LengthPenalty()], {"learn": "output"}, None, "teaches nothing"),
        ([SUPERVISED], {"learn": "output"}, None, "teaches nothing"),
        ([SUPERVISED, RewardAF(monitor="scratchpad")], {}, None, "reward and punish"),
        ([Segments(learn="output"), Segments(learn="scratchpad")], {}, None, "sets rl.learn=output and"),
        ([ProcessSupervision(monitor="output", delay=20)], {}, None, "never arrive"),
        ([ProcessSupervision(monitor="output", delay=2)], {"advantage_scale": "group"}, None, "advantage_scale=none"),
        ([Screening(monitor=("output", "oracle"))], {}, None, "no common threshold"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    arms: list[Mitigation], rl: dict[str, Any], scenario: Scenario | None, message: str
) -> None:
    with pytest.raises(UserError, match=message) as fault:
        bind_all(arms, info(scenario, **rl))
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "process_supervision", "monitor": "m", "coefficient": float("inf")}, "coefficient"),
        ({"name": "process_supervision", "monitor": "m", "ceiling": 1}, "ceiling"),
        ({"name": "process_supervision", "monitor": "m", "threshold": 0.4}, "no meaning"),
        ({"name": "interrogation", "variant": "awre"}, "variant"),
        ({"name": "interrogation", "model": "x"}, "separate"),
        ({"name": "screening", "monitor": "m", "coverage": 0}, "coverage"),
    ],
)
def test_settings_that_make_no_sense_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make("mitigations", spec, "test")


def test_arms_compose() -> None:
    arms: list[Mitigation] = [Segments(learn="scratchpad"), SUPERVISED, LengthPenalty(), Interrogation(), KL()]
    assert len(bind_all(arms, info())) == 5
    config = RunConfig(name="r", policy=Path("p"))
    made = with_settings(config, [Segments(learn="output"), KL()])
    assert (made.rl.learn, made.rl.kl) == ("output", 0.04)
    contrary = config.model_copy(update={"rl": RLConfig(learn="scratchpad")})
    with pytest.raises(UserError, match="the config sets it to scratchpad"):
        with_settings(contrary, [Segments(learn="output")])


def step_of(rewards: Sequence[Sequence[dict[str, float] | None]]) -> list[Episode]:
    """Episodes with these terms by group; None was dropped."""
    episodes = [
        make_episode(group=g, sample=s, reward_terms=terms or {}, reward=None if terms is None else sum(terms.values()))
        for g, group in enumerate(rewards)
        for s, terms in enumerate(group)
    ]
    return episodes


@pytest.mark.parametrize("scale", ["group", "none"])
def test_the_terms_parts_sum_to_the_advantage_and_their_shares_to_one(scale: Any) -> None:
    rng = np.random.default_rng(0)
    terms = [[{"preference": rng.normal(), "p": rng.normal()} for _ in range(4)] for _ in range(3)]
    episodes = step_of([*terms, [{"format": -3.0}, None, {"preference": 1.0, "p": 0.5}, None], [{"p": 1.0}] * 4])
    found = group_advantages(in_fours([e.reward for e in episodes]), scale)
    for episode, advantage in zip(episodes, found.advantages, strict=True):
        episode.advantage = advantage
    parts = advantage_parts(episodes)
    assert np.sum(list(parts.values()), 0) == pytest.approx([e.advantage for e in episodes if e.reward is not None])
    row = reward_metrics(episodes)
    assert sum(v for k, v in row.items() if k.startswith("share_") and v) == pytest.approx(1)
    assert row["term_format"] == pytest.approx(-3 / 18)


def test_an_alarm_for_a_drowned_reward_and_for_groups_without_variance() -> None:
    loud = [[{"preference": 0.01 * s, "p": float(s)} for s in range(4)], [{"preference": 1.0, "p": 0.0}] * 4]
    episodes = step_of(loud)
    found = group_advantages(in_fours([e.reward for e in episodes]), "none")
    for episode, advantage in zip(episodes, found.advantages, strict=True):
        episode.advantage = advantage
    row = episode_metrics(episodes, found, {})
    assert "'p' makes up" in row["alarm"] and "1 of 2 groups" in row["alarm"]
    balanced = row | {"share_p": 0.5, "share_preference": 0.5, "zero_variance_groups": 0}
    assert alarms(balanced, 2) == {}


def test_flags_of_every_monitor_are_recorded() -> None:
    episodes = [
        judged(s, sample=i, labels={"conduct": "comply", "answer": "no", "lying": "yes"}, extra_turn="x")
        for i, s in enumerate((0.9, 0.1, None, 0.6))
    ]
    compose(episodes, scores, FLAT, [], RLConfig())
    row = episode_metrics(
        episodes, group_advantages(in_fours([e.reward for e in episodes])), {"oracle": 0.5, "output": 0.8}
    )
    assert (row["flagged_oracle"], row["flagged_output"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (row["missing_oracle"], row["compliance"], row["lying_rate"], row["answer_no"]) == (0.25, 1, 1, 1)
    assert all(v is None or isinstance(v, int | float | str) for v in row.values())


def test_delayed_verdicts_come_back_from_the_stored_rollouts(tmp_path: Path) -> None:
    arm = ProcessSupervision(monitor="oracle", shape="linear", delay=2)
    episodes = [judged(s, sample=i, logprobs=[-1.0] * 20) for i, s in enumerate((1.0, 0.0, None, 0.5))]
    rewards = compose(episodes, scores, FLAT, [arm], RLConfig(missing_verdict="neutral"))
    assert all("process_supervision" not in e.reward_terms for e in episodes)
    assert rewards == [e.reward_terms["preference"] for e in episodes]
    write_episodes(rollouts_path(tmp_path, 1), episodes, "run", tokens=True)
    assert delayed_rows(tmp_path, 2, [arm], "all") == []
    found = delayed_rows(tmp_path, 3, [arm], "all")
    assert [row.advantage for row in found] == [
        pytest.approx(-0.5),
        pytest.approx(0.5),
    ]
    assert all(row.off_policy for row in found)
    assert [row.completion_ids for row in found] == [e.completion_ids for e in episodes[:2]]


def test_an_episode_comes_back_from_its_row(tmp_path: Path) -> None:
    write_episodes(tmp_path / "e.parquet", example_episodes(), "run")
    again = [episode_of(row) for row in read_episodes(tmp_path / "e.parquet")]
    assert [(e.scratchpad, e.output, e.extra_scratchpad, e.parse) for e in again] == [
        (e.scratchpad, e.output, e.extra_scratchpad, e.parse) for e in example_episodes()
    ]
    assert again[0].prompt.request == example_episodes()[0].prompt.request
