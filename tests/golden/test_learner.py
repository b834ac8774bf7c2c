"""A step's options: epochs with importance ratios, and the KL penalty against the policy before training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from crypsis.config import parse_config
from crypsis.model_config import LoraConfig, ModelConfig
from crypsis.models import Policy, load_trainable
from crypsis.rl.engine.scoring import TrainRow, token_logprobs
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.learner import Learner
from crypsis.rl.loss import LossStats, accumulate_gradients
from crypsis.run_config import RLConfig
from crypsis.types import UserError
from tests.checkpoints import save_checkpoint

pytestmark = pytest.mark.golden

LORA = LoraConfig(r=4, alpha=8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "llama", "llama")


def loaded(checkpoint: Path, lora: LoraConfig | None = None) -> Policy:
    torch.manual_seed(0)
    return load_trainable(checkpoint, ModelConfig(lora=lora))


def rows_of(policy: Policy, seed: int = 0) -> list[TrainRow]:
    """Rows as sampled: with the policy's own log-probabilities."""
    r = random.Random(seed)
    start = [r.randrange(4, 300) for _ in range(20)]
    rows = [
        TrainRow([*start, 4 + i], [r.randrange(4, 300) for _ in range(6 + i)], [0, *[1] * (5 + i)], r.gauss(0, 1))
        for i in range(6)
    ]
    old = token_logprobs(policy.model, rows)
    return [TrainRow(w.prompt_ids, w.completion_ids, w.mask, w.advantage, o) for w, o in zip(rows, old, strict=True)]


def learned(policy: Policy, rows: list[TrainRow], **settings: Any) -> LossStats:
    rl = RLConfig(**({"learning_rate": 1e-2, "micro_batch": 3} | settings))
    return Learner(policy, rl).learn(rows, "test", PhaseTimer())[0]


def weights(policy: Policy) -> list[torch.Tensor]:
    return [p.detach().clone() for p in policy.model.parameters() if p.requires_grad]


def test_epochs_take_steps_on_the_same_rows_against_the_sampling_policy(checkpoint: Path) -> None:
    policy, by_hand = loaded(checkpoint), loaded(checkpoint)
    rows = rows_of(policy)
    stats = learned(policy, rows, epochs=3, clip=0.15, learning_rate=1e-3)
    optimiser = torch.optim.AdamW(by_hand.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(3):
        optimiser.zero_grad()
        expected = accumulate_gradients(by_hand.model, rows, micro_batch=3, clip=0.15)
        torch.nn.utils.clip_grad_norm_(by_hand.model.parameters(), 1.0)
        optimiser.step()
    assert 0 < stats.clip_fraction < 1 and stats.clip_fraction == expected.clip_fraction
    assert stats.mean_ratio == pytest.approx(expected.mean_ratio, rel=1e-3)
    for a, b in zip(weights(policy), weights(by_hand), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


def test_one_epoch_is_on_policy_whatever_was_sampled(checkpoint: Path) -> None:
    policy, other = loaded(checkpoint), loaded(checkpoint)
    rows = rows_of(policy)
    learned(policy, rows)
    stats = learned(other, [TrainRow(r.prompt_ids, r.completion_ids, r.mask, r.advantage) for r in rows], clip=0.01)
    assert stats.mean_ratio == 1 and stats.clip_fraction == 0
    assert all(torch.equal(a, b) for a, b in zip(weights(policy), weights(other), strict=True))


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_kl_is_measured_against_the_policy_before_training(
    lora: LoraConfig | None, checkpoint: Path, tmp_path: Path
) -> None:
    free, held = loaded(checkpoint, lora), loaded(checkpoint, lora)
    rows = rows_of(free)
    drift, rate = [], 3e-2 if lora else 3e-3
    for policy, kl in ((free, 1e-9), (held, 3.0)):
        learner = Learner(policy, RLConfig(learning_rate=rate, kl=kl))
        found = [learner.learn(rows, "test", PhaseTimer())[0] for _ in range(8)]
        assert found[0].mean_kl == pytest.approx(0, abs=1e-6)
        drift.append(found[-1].mean_kl)
        learner.save(tmp_path / str(kl), 8, "")
    assert 0 < drift[1] < 0.7 * drift[0]

    again = Learner(loaded(checkpoint, lora), RLConfig(learning_rate=rate, kl=3.0))
    assert again.resume(tmp_path / "3.0") == (8, "")
    assert again.learn(rows, "test", PhaseTimer()) == learner.learn(rows, "test", PhaseTimer())
    if lora is None:
        before, reference = loaded(checkpoint).model.parameters(), again._reference
        assert reference is not None and reference._frozen is not None
        assert all(torch.equal(a, b) for a, b in zip(before, reference._frozen.parameters(), strict=True))


@pytest.mark.parametrize("setting", [{"temperature": 0.7}, {"top_p": 0.9}])
def test_training_samples_are_the_policys_own(setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match="must be 1: training samples come from the policy") as caught:
        parse_config(RLConfig, setting, "run.yaml")
    assert "\n" not in str(caught.value)
    assert parse_config(RLConfig, {"temperature": 1, "top_p": 1.0}, "run.yaml") == RLConfig()
