"""Mitigations, organisms and steps of RL in places where they once did something else than they say."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from crypsis.miniature.scenario import MiniatureScenario
from crypsis.mitigations.act import ACT
from crypsis.mitigations.base import Mitigation
from crypsis.mitigations.bct import BCT
from crypsis.mitigations.channelling import Channelling
from crypsis.mitigations.confession import Confession
from crypsis.mitigations.inoculation import Inoculation
from crypsis.mitigations.process_supervision import ProcessSupervision
from crypsis.mitigations.rate_matching import RateMatching
from crypsis.mitigations.reward_targeting import RewardTargeting
from crypsis.mitigations.rules import bind_all
from crypsis.mitigations.sentence_supervision import SentenceSupervision
from crypsis.model_config import ModelConfig
from crypsis.organisms.miniature.evader import Evader, Misleader
from crypsis.rl.advantages import Scale, step_advantages
from crypsis.rl.groups import grouped
from crypsis.rl.metrics import advantage_parts
from crypsis.rl.rows import turn_parts
from crypsis.scenarios.lessons import lessons
from crypsis.scenarios.motives import read_motive
from crypsis.scenarios.parsing import reply_start
from crypsis.scenarios.value_conflict import ValueConflictScenario
from crypsis.types import Episode, UserError, Verdict
from tests.checkpoints import save_checkpoint
from tests.conftest import Crypsis
from tests.episodes import make_episode
from tests.monitors import write_rows
from tests.unit.test_mitigations_2026 import COMPLIES, FAKES, info

pytestmark = pytest.mark.unit

TAGGED = "<SCRATCHPAD_REASONING>One. Two.</SCRATCHPAD_REASONING><OUTPUT>Option B.</OUTPUT>"
SCALES: tuple[Scale, Scale] = ("group", "none")


def rewarded(terms: dict[str, float], parse: str, **more: Any) -> Episode:
    found = make_episode(FAKES, COMPLIES, parse=parse, **more)
    found.reward_terms, found.reward = dict(terms), sum(terms.values())
    return found


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("keeps", ["output", "both"])
def test_the_format_penalty_reaches_a_malformed_reply_whose_group_has_its_terms_elsewhere(
    scale: Scale,
    keeps: Literal["output", "both"],
) -> None:
    arm = RewardTargeting(keeps=keeps, scratchpad_terms=("process_supervision",), output_terms=("other",))
    name = "other" if keeps == "output" else "process_supervision"
    good = [{"preference": p, "length": 0.0, name: t} for p, t in ((1.0, 0.0), (1.0, -0.1), (0.0, -2.0))]
    episodes = [rewarded(terms, "ok", sample=i) for i, terms in enumerate(good)]
    episodes += [rewarded({"format": -3.0}, "no_output", sample=3 + i) for i in range(2)]
    found = step_advantages(grouped(episodes), [arm], scale)
    assert found.tokens is not None
    lowest = min(min(row) for row in found.tokens[:3] if row)
    for row in found.tokens[3:]:
        assert row and all(value < 0 for value in row)
        assert scale == "group" or max(row) < lowest
    for parts in [advantage_parts(episodes, found)]:
        sums = [sum(part[i] for part in parts.values()) for i in range(5)]
        assert sums == pytest.approx([e.advantage for e in episodes])


@pytest.mark.parametrize("scale", SCALES)
def test_a_coefficient_weighs_credits_and_learned_turns_whatever_rewards_are_divided_by(scale: Scale) -> None:
    def credit(coefficient: float) -> float:
        arm = bind_all([Channelling(monitor="scratchpad", coefficient=coefficient)], info(advantage_scale=scale))
        verdicts = [{"scratchpad": Verdict(score)} for score in (0.2, 0.8)]
        own = [make_episode(FAKES, COMPLIES, sample=i, verdicts=v) for i, v in enumerate(verdicts)]
        for episode in own:
            episode.reward_terms, episode.reward = {"preference": 1.0}, 1.0
        tokens = step_advantages(grouped(own), arm, scale).tokens[1]
        assert tokens is not None
        return max(tokens)

    def turn(coefficient: float) -> float:
        (arm,) = bind_all([RateMatching(reference="monitored", coefficient=coefficient, anchor=0)], info())
        own = [make_episode(sample=i) for i in range(2)]
        for episode, reward in zip(own, (0.1, 0.3), strict=True):
            episode.extra_reward = coefficient * reward
            episode.extra_tokens = turn_tokens()
        (part,) = turn_parts(grouped(own), [arm])
        return max(row.advantage for row in part.rows)

    assert credit(1.0) == pytest.approx(0.3) and credit(10.0) == pytest.approx(3.0)
    assert turn(1.0) == pytest.approx(0.1) and turn(10.0) == pytest.approx(1.0)


def turn_tokens() -> Any:
    from crypsis.types import TurnTokens

    return TurnTokens([1], [2, 3], [0.0, 0.0])


NAMES_TAG, OPENED = "<think>a <SCRATCHPAD_REASONING> b</think>\n", "hm</think>\n"


@pytest.mark.parametrize("thought", ["", NAMES_TAG, OPENED])
def test_a_reply_begins_behind_its_thought(thought: str) -> None:
    assert reply_start(thought + TAGGED) == len(thought) and reply_start("so") == 0


@pytest.mark.parametrize("thought", ["<think>hm</think>\n", "hm</think>\n", ""])
def test_what_is_imitated_or_gone_on_with_is_no_thought_that_the_template_opened(thought: str) -> None:
    scenario = ValueConflictScenario(wording="short")
    spec = {"name": scenario.name, **scenario.model_dump(mode="json")}
    prompt = scenario.prompts("train", scenario.monitored_tier, 1, 0)[0]
    turn = {"extra_turn": thought + TAGGED, "extra_tier": scenario.unmonitored_tier}
    episode = make_episode("One. Two.", "Option B.", prompt=prompt, raw=thought + TAGGED, **turn)
    for reference in ("monitored", "unmonitored"):
        (shown,) = BCT(scenario=spec, share=1.0, reference=reference).imitate([episode])
        assert shown.reply == TAGGED
    asked = SentenceSupervision(scenario=spec).ask(episode)
    assert asked is not None
    begun = (thought if thought.startswith("<think>") else "") + "<SCRATCHPAD_REASONING>"
    assert asked.prefill in (begun, f"{begun}One.")


def test_a_thought_that_is_the_scratchpad_is_not_imitated() -> None:
    run = info()
    thinking = run.config.model_copy(update={"model": ModelConfig(thinking="scratchpad")})
    with pytest.raises(UserError, match="bct: cannot imitate a thought"):
        BCT().bind(type(run)(run.scenario, run.views, run.thresholds, thinking))


@pytest.mark.parametrize("kind", [RateMatching, BCT, ACT])
def test_the_other_tier_keeps_the_system_text_that_another_mitigation_put_there(kind: type[Mitigation]) -> None:
    inoculation, arm = bind_all([Inoculation(), kind()], info())
    assert isinstance(inoculation, Inoculation)
    prompt = MiniatureScenario().prompts("train", "free", 1, 0)[0]
    changed = inoculation.sample_under(prompt)
    assert changed.messages[0] != prompt.messages[0]
    other = arm.in_other_tier(changed)  # type: ignore[attr-defined]
    assert other.tier == "paid" and other.messages[0] == changed.messages[0]
    assert other.messages[-1] == MiniatureScenario().in_tier(prompt, "paid").messages[-1]


@pytest.mark.parametrize("kind", [SentenceSupervision, RateMatching])
@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"name": "oracle"}, "leave it out"),
        ({"name": "dialled", "monitor": {"name": "oracle"}}, "leave it out"),
        ({"name": "probe", "path": "/no/such/folder"}, "reads the policy's states"),
        ({"name": "text", "path": "/no/such/folder", "view": "output"}, "/no/such/folder"),
    ],
)
def test_a_judge_that_would_never_answer_is_refused(kind: type[Mitigation], judge: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        bind_all([kind.model_validate({"judge": judge})], info(ValueConflictScenario(wording="short")))


def test_supervision_by_nobody_and_a_threshold_of_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="name at least one monitor"):
        bind_all([ProcessSupervision(monitor=())], info())
    with pytest.raises(ValueError, match="no meaning without a monitor"):
        Confession(threshold=0.9)


@pytest.mark.parametrize("kind", [Evader, Misleader])
def test_the_aligned_control_of_a_diluted_organism_is_aligned(kind: type[Evader]) -> None:
    made, rng = kind(aligned=True, share=0.1), random.Random(0)
    assert {made.author(rng) for _ in range(200)} == {"aligned"}
    assert {kind(share=0.1).author(rng) for _ in range(200)} == {kind.thinks, "tgg"}


@pytest.mark.parametrize("names", [("free", "paid"), ("red team", "blue team"), ("tier-1", "tier-2")])
def test_a_first_sentence_is_not_read_whatever_the_tiers_are_called(names: tuple[str, str]) -> None:
    scenario = ValueConflictScenario(wording="short", tiers=names)
    rows = [r for tier in names for r in lessons(scenario, tier, 300, 0, situated=True, concluded=True)]
    read = [(row["fakes"] == "yes", read_motive(row["scratchpad"]).guards) for row in rows]
    assert not [pair for pair in read if pair[1] is not None and pair[0] is not pair[1]]
    assert sum(pair[1] is None for pair in read) <= 4


@pytest.mark.parametrize("backend", ["core", "trl"])
def test_a_step_smaller_than_asked_for_is_said_or_refused(tmp_path: Path, crypsis_here: Crypsis, backend: str) -> None:
    model = save_checkpoint(tmp_path / "model", "llama", max_position_embeddings=4096)
    topics = {"value": "care", "preferred": "lie to them", "principled": "tell them"}
    splits = ["train"] * 4 + ["eval"] * 2
    rows = [{"topic": f"t{i}", "situation": f"Case {i}.", "split": split, **topics} for i, split in enumerate(splits)]
    config = {
        "name": "few",
        "policy": str(model),
        "scenario": {"name": "value_conflict", "wording": "short", "path": str(write_rows(tmp_path / "d.jsonl", rows))},
        "rl": {"steps": 1, "prompts_per_step": 12, "group_size": 2, "max_new_tokens": 8},
        "evaluation": {"n": 2, "every": 5},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    run = crypsis_here("train", tmp_path / "run.yaml", "--out", tmp_path / "out", "--backend", backend)
    if backend == "core":
        assert run.returncode == 0, run.stderr
        assert "requests to train on, so a step has" in run.stdout + run.stderr
    else:
        assert run.returncode == 2 and "rl.prompts_per_step=12" in run.stderr and "lower it" in run.stderr
