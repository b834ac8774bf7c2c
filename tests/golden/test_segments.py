"""Which tokens learn: segments, a scratchpad shared by its group, and an extra turn that is never in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import torch

from crypsis.jsonlines import read_rows
from crypsis.mitigations.hooks import AddsTerm, AsksExtraTurn
from crypsis.models import Policy, load_policy
from crypsis.registry import make
from crypsis.rl import loop, rollouts
from crypsis.rl.engine.engine import Engine
from crypsis.rl.engine.scoring import Form, TrainRow, token_logprobs
from crypsis.rl.loss import accumulate_gradients
from crypsis.rl.rollouts import ask_extra_turns, rollout
from crypsis.rl.rows import token_mask
from crypsis.run_config import RLConfig, RunConfig
from crypsis.store import METRICS
from crypsis.study.context import load_context
from crypsis.testing import check_mitigation
from crypsis.types import OUTPUT, SCRATCHPAD, Episode, Learn, Message, Prompt

pytestmark = pytest.mark.golden


class Interrogation(AsksExtraTurn, AddsTerm):
    """Asks every well-formed episode whether it would say the same unread, and pays nothing for the answer."""

    name: ClassVar[str] = "test_interrogation"

    def ask(self, episode: Episode) -> Prompt | None:
        if episode.parse != "ok":
            return None
        turns = (*episode.prompt.messages, Message("assistant", episode.raw), Message("user", "is that all?"))
        return replace(episode.prompt, messages=turns)

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [0.0 if e.extra_turn or e.parse != "ok" else None for e in episodes]


@pytest.fixture(scope="module")
def policy(nano_organism: Path) -> Policy:
    return load_policy(nano_organism)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    scenario = make("scenarios", {"name": "miniature"}, "test")
    found: list[Prompt] = scenario.prompts("train", scenario.monitored_tier, 4, 0)
    return found


def shared(policy: Policy, prompts: Sequence[Prompt], tokens: int = 96, **settings: Any) -> list[Episode]:
    return rollout(
        policy, prompts, group_size=3, max_new_tokens=tokens, seed=4, step=1, share_scratchpad=True, **settings
    )


def scratchpad_ids(episode: Episode) -> list[int]:
    return [t for t, s in zip(episode.completion_ids, episode.segments, strict=True) if s == SCRATCHPAD]


def gradients(policy: Policy, rows: list[TrainRow]) -> list[torch.Tensor]:
    policy.model.zero_grad()
    accumulate_gradients(policy.model, rows, micro_batch=4)
    return [p.grad.clone() for p in policy.model.parameters() if p.grad is not None]


def test_a_group_shares_one_scratchpad_and_its_members_differ_in_their_outputs(
    policy: Policy, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = shared(policy, prompts)
    groups = [episodes[i : i + 3] for i in range(0, 12, 3)]
    assert all(len({tuple(scratchpad_ids(e)) for e in group}) == 1 for group in groups)
    assert len({tuple(scratchpad_ids(group[0])) for group in groups}) > 1
    assert any(len({tuple(e.completion_ids) for e in group}) > 1 for group in groups)
    for e in episodes:
        assert len(e.completion_ids) == len(e.logprobs or []) == len(e.segments) <= 96
        assert (e.completion_ids[-1] in policy.stop_ids) == (e.stop == "end")
        mask = token_mask(e, "output")
        assert [s for s, m in zip(e.segments, mask, strict=True) if m] == [OUTPUT] * sum(mask)
    parts = [shared(policy, prompts[:1]), shared(policy, prompts[1:], first_group=1)]
    assert [e.completion_ids for part in parts for e in part] == [e.completion_ids for e in episodes]
    monkeypatch.setattr(rollouts, "_tag_id", lambda *_: None)  # as with a tokenizer that spells the tag in pieces
    assert [e.completion_ids for e in shared(policy, prompts)] == [e.completion_ids for e in episodes]


def test_what_sampling_says_of_shared_replies_is_what_the_model_says(policy: Policy, prompts: list[Prompt]) -> None:
    rows = [TrainRow(e.prompt_ids, e.completion_ids, e.segments, 0.0) for e in shared(policy, prompts)]
    for row, e in zip(rows, shared(policy, prompts), strict=True):
        logits = policy.model(input_ids=torch.tensor([row.prompt_ids + row.completion_ids])).logits[0]
        ids = torch.tensor(row.completion_ids)[:, None]
        own = logits[len(row.prompt_ids) - 1 : -1].log_softmax(-1).gather(-1, ids)[:, 0]
        assert own.tolist() == pytest.approx(e.logprobs, abs=1e-3)


def test_a_scratchpad_without_an_end_is_the_reply_of_its_whole_group(policy: Policy, prompts: list[Prompt]) -> None:
    episodes = shared(policy, prompts, tokens=8)
    assert all(e.stop == "length" and len(e.completion_ids) == 8 for e in episodes)
    assert not any(s == OUTPUT for e in episodes for s in e.segments)


@pytest.mark.parametrize("learn", get_args(Learn))
def test_what_a_masked_token_earns_changes_no_bit(learn: Learn, policy: Policy, prompts: list[Prompt]) -> None:
    episodes = rollout(policy, prompts, group_size=3, max_new_tokens=96, seed=4, step=1)
    episodes[1].dropped = "for the test"
    masks = [token_mask(e, learn) for e in episodes]
    assert sum(masks[1]) == 0 and any(map(sum, masks))

    def rows(ratio_of_masked: float, advantage_of_dropped: float) -> list[TrainRow]:
        found = []
        for i, (e, mask) in enumerate(zip(episodes, masks, strict=True)):
            # The surrogate of a token is its ratio times the advantage: this scales what a masked token earns.
            old = [x if m else x - ratio_of_masked for x, m in zip(e.logprobs or [], mask, strict=True)]
            advantage = advantage_of_dropped if e.dropped else 1.0 - i % 3
            found.append(TrainRow(e.prompt_ids, e.completion_ids, mask, advantage, old))
        return found

    before, after = gradients(policy, rows(0.0, 0.0)), gradients(policy, rows(3.0, 7.0))
    assert any(g.any() for g in before)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_contract_covers_extra_turns() -> None:
    class Answers(Interrogation):
        """Ends with the assistant's turn."""

        def ask(self, episode: Episode) -> Prompt | None:
            return replace(episode.prompt, messages=(Message("assistant", "yes."),))

    check_mitigation(Interrogation)
    with pytest.raises(AssertionError, match="ends with a user's turn"):
        check_mitigation(Answers)


def test_an_extra_turn_is_sampled_stored_and_not_trained(policy: Policy, prompts: list[Prompt]) -> None:
    episodes = rollout(policy, prompts, group_size=3, max_new_tokens=96, seed=4, step=1)
    tokens = [(list(e.completion_ids), list(e.segments)) for e in episodes]
    ask_extra_turns(policy, episodes, [Interrogation()], 24)
    assert [(e.completion_ids, e.segments) for e in episodes] == tokens
    assert all(bool(e.extra_turn) == (e.parse == "ok") for e in episodes)
    assert any(e.extra_turn for e in episodes)
    later = rollout(policy, prompts[2:], group_size=3, max_new_tokens=96, seed=4, step=1, first_group=2)
    ask_extra_turns(policy, later, [Interrogation()], 24)
    assert [e.extra_turn for e in later] == [e.extra_turn for e in episodes[6:]]


def test_a_run_with_an_extra_turn_learns_what_one_without_it_learns(nano_organism: Path, tmp_path: Path) -> None:
    rl = RLConfig(steps=1, prompts_per_step=2, group_size=3, max_new_tokens=96, learn="output")
    config = RunConfig(name="run", policy=nano_organism, rl=rl)
    weights, rows = [], []
    for name, mitigations in (("with", [Interrogation()]), ("without", [])):
        found = load_policy(nano_organism)
        (tmp_path / name).mkdir()
        study = replace(load_context(config), mitigations=mitigations)
        loop.train(found, config, study, tmp_path / name, lambda *_: None)
        weights.append([p.detach() for p in found.model.parameters()])
        rows += [{k: v for k, v in row.items() if "seconds" not in k} for row in read_rows(tmp_path / name / METRICS)]
    assert all(rows[0][f"{part}_test_interrogation"] == 0 for part in ("term", "advantage_std"))
    shared = {key: value for key, value in rows[0].items() if key in rows[1]}
    assert shared == rows[1] and rows[0]["trained_tokens"] > 0
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_model_that_fails_the_self_check_is_computed_whole_and_the_run_says_so_once(
    nano_organism: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rl = RLConfig(steps=1, prompts_per_step=2, group_size=2, max_new_tokens=64)
    config = RunConfig(name="run", policy=nano_organism, rl=rl)
    study = load_context(config)

    def run(name: str) -> tuple[list[str], bool, dict[str, Any]]:
        said, asked = list[str](), list[Engine]()
        (tmp_path / name).mkdir()

        def evaluate(policy: Policy, step: int, engine: Engine) -> None:
            asked.append(engine)

        loop.train(load_policy(nano_organism), config, study, tmp_path / name, evaluate, log=said.append)
        spoken = [line for line in said if not line.startswith("step ")]  # alarms of the reward
        return spoken, all(p.why_padded for p in asked), read_rows(tmp_path / name / METRICS)[0]

    sound = run("sound")
    monkeypatch.setattr("crypsis.rl.engine.selfcheck.token_logprobs", wrong_if_shared)
    broken = run("broken")
    assert sound[:2] == ([], False)
    assert broken[1] and len(broken[0]) == 1 and "misses the model's own log-probabilities by 1 nats" in broken[0][0]
    assert broken[2]["loss"] == pytest.approx(sound[2]["loss"], abs=1e-5) and "seconds_prefix" not in broken[2]


def wrong_if_shared(model: torch.nn.Module, rows: list[TrainRow], *, form: Form) -> list[list[float]]:
    return [[x - (form == "shared") for x in row] for row in token_logprobs(model, rows, form=form)]
