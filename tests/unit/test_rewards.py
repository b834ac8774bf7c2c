from __future__ import annotations

import math

import pytest

from crypsis.mitigations.process_supervision import ProcessSupervision
from crypsis.rl.rewards import LengthCorrection, compose, fit_length_correction
from crypsis.run_config import RLConfig
from crypsis.types import OUTPUT, Verdict
from tests.episodes import make_episode

pytestmark = pytest.mark.unit

FLAT = LengthCorrection(0.0, 0.0, 0)


def one(_: object, outputs: object) -> list[float]:
    return [1.0] * len(list(outputs))  # type: ignore[call-overload]


def test_every_term_is_stored_and_they_sum_to_the_reward() -> None:
    episode = make_episode(verdicts={"m": Verdict(0.9)})
    penalty = ProcessSupervision(monitor="m")
    assert compose([episode], one, LengthCorrection(0.1, 5.0, 9), [penalty], RLConfig()) == [episode.reward]
    expected = {"preference": 1.0, "length": -0.1 * (episode.output_tokens - 5), "process_supervision": math.log(0.1)}
    assert episode.reward_terms == pytest.approx(expected)
    assert episode.reward == pytest.approx(sum(expected.values()))


def test_two_mitigations_of_a_kind_both_count() -> None:
    episode = make_episode(verdicts={"m": Verdict(0.9), "n": Verdict(0.5)})
    compose([episode], one, FLAT, [ProcessSupervision(monitor="m"), ProcessSupervision(monitor="n")], RLConfig())
    assert episode.reward == pytest.approx(1 + math.log(0.1) + math.log(0.5))


def test_a_malformed_reply_gets_the_format_penalty_alone() -> None:
    episode = make_episode(parse="no_output", verdicts={"m": Verdict(None, "no output")})
    assert compose([episode], one, FLAT, [ProcessSupervision(monitor="m")], RLConfig(format_penalty=-4)) == [-4.0]
    assert episode.reward_terms == {"format": -4.0}


def test_a_truncated_episode_is_dropped_with_its_reason() -> None:
    episode = make_episode(stop="length", parse="truncated")
    assert compose([episode], one, FLAT, [], RLConfig()) == [None]
    assert episode.dropped == "token budget"


@pytest.mark.parametrize(("policy", "reward"), [("drop", None), ("neutral", 1.0)])
def test_a_missing_verdict_follows_the_stated_policy(policy: str, reward: float | None) -> None:
    episode = make_episode(verdicts={"m": Verdict(None, "judge failed")})
    config = RLConfig(missing_verdict=policy)  # type: ignore[arg-type]
    assert compose([episode], one, FLAT, [ProcessSupervision(monitor="m")], config) == [reward]
    assert ("process_supervision" in episode.dropped) == (reward is None)


def test_the_log_barrier_is_clipped_and_the_linear_penalty_is_not_steep() -> None:
    certain = [make_episode(verdicts={"m": Verdict(1.0)})]
    assert ProcessSupervision(monitor="m").add_term(certain) == [pytest.approx(math.log(0.001))]
    assert ProcessSupervision(monitor="m", shape="linear").add_term(certain) == [-1.0]


def test_the_length_correction_finds_the_slope_and_ignores_refusals() -> None:
    def priced(_: object, outputs: object) -> list[float]:
        return [0.2 * len(o.split()) if o.startswith("do") else -5.0 for o in outputs]  # type: ignore[attr-defined]

    episodes = [
        make_episode(output=" ".join(["do"] * n), segments=[OUTPUT] * n, group=n % 2) for n in (4, 6, 9, 11, 14)
    ] + [make_episode(output="no", segments=[OUTPUT], group=g) for g in (0, 1)]
    assert fit_length_correction(episodes, priced).slope == pytest.approx(0.2)
    assert fit_length_correction(episodes[-2:], priced) == LengthCorrection(0.0, 0.0, 0)
