"""What can go wrong in a run ends in one line that names the episode or the file, never in a wrong gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tokenizers import normalizers

from crypsis.jsonlines import read_rows
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.mitigations.hooks import AddsTerm
from crypsis.models import load_policy
from crypsis.registry import make
from crypsis.rl import loop
from crypsis.rl.engine import memory
from crypsis.rl.engine.samplers import Sampled, SamplingParams, shared_prefix
from crypsis.rl.engine.samplers.base import BATCH_SIZE
from crypsis.rl.engine.scoring import TrainRow
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.learner import Learner
from crypsis.rl.loss import LossStats, accumulate_gradients
from crypsis.rl.rollouts import check_tags, rollout
from crypsis.run_config import RLConfig, RunConfig
from crypsis.scenarios.base import Scenario
from crypsis.store import METRICS
from crypsis.study.context import load_context
from crypsis.types import Episode, Prompt, Split, UserError
from tests.checkpoints import save_checkpoint

pytestmark = pytest.mark.golden


class Broken(AddsTerm):
    """Its term is no number for one episode."""

    name: ClassVar[str] = "test_broken"

    value: str

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [float(self.value) if e.group == 1 and e.sample == 2 else 0.0 for e in episodes]


class Empty(Scenario):
    """Has no prompts."""

    name: ClassVar[str] = "test_empty"
    monitored_tier: ClassVar[str] = "free"
    unmonitored_tier: ClassVar[str] = "paid"

    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        return []


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "llama", "llama")


@pytest.fixture
def config(nano_organism: Path) -> RunConfig:
    rl = RLConfig(steps=1, prompts_per_step=3, group_size=4, max_new_tokens=96, length_correction=False)
    return RunConfig(name="run", policy=nano_organism, rl=rl)


def trained(config: RunConfig, folder: Path, **changes: Any) -> list[str]:
    said: list[str] = []
    study = replace(load_context(config), **changes)
    loop.train(load_policy(config.policy), config, study, folder, lambda *_: None, log=said.append)
    return said


def refused(work: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_names_episode_and_term(value: float, config: RunConfig, tmp_path: Path) -> None:
    line = refused(lambda: trained(config, tmp_path, mitigations=[Broken(value=str(value))]))
    assert "step 1" in line and "sample 2" in line and f"'test_broken' is {value}" in line
    assert not read_rows(tmp_path / METRICS)


def test_no_prompts(config: RunConfig, tmp_path: Path) -> None:
    assert "'test_empty' has no prompt" in refused(lambda: trained(config, tmp_path, scenario=Empty()))


def test_a_step_without_a_survivor_changes_nothing(config: RunConfig, tmp_path: Path) -> None:
    cut = config.model_copy(update={"rl": config.rl.model_copy(update={"max_new_tokens": 8})})
    trained(cut, tmp_path)
    row = read_rows(tmp_path / METRICS)[0]
    assert (row["dropped"], row["trained_tokens"], row["grad_norm"], row["reward_mean"]) == (12, 0, 0, None)


def test_a_tokenizer_that_changes_the_tags(llama: Path, nano_organism: Path) -> None:
    for folder in (llama, nano_organism):
        check_tags(load_policy(folder).tokenizer)
    policy = load_policy(llama)
    tokenizer: Any = policy.tokenizer
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    scenario = make("scenarios", {"name": "miniature"}, "test")
    prompts = scenario.prompts("train", scenario.monitored_tier, 1, 0)
    line = refused(lambda: rollout(policy, prompts, group_size=1, max_new_tokens=8, seed=0, step=1))
    assert line.startswith(str(llama)) and "does not keep the tag <SCRATCHPAD_REASONING>" in line


def test_a_checkpoint_of_another_model(llama: Path, tmp_path: Path) -> None:
    learner = Learner(load_policy(llama), RLConfig())
    learner.learn(rows(), "test", PhaseTimer())
    learner.save(tmp_path / "states", 1, "")
    assert Learner(load_policy(llama), RLConfig()).resume(tmp_path / "states") == (1, "")
    wide = load_policy(save_checkpoint(tmp_path / "wide", "llama", intermediate_size=64))
    qwen = load_policy(save_checkpoint(tmp_path / "qwen", "qwen3"))
    for other in (wide, qwen):
        before = [p.clone() for p in other.model.parameters()]
        learner = Learner(other, RLConfig())
        line = refused(lambda learner=learner: learner.resume(tmp_path / "states"))  # type: ignore[misc]
        assert line.startswith(str(tmp_path / "states" / "step-0001")) and "of another model" in line
        assert all(torch.equal(a, b) for a, b in zip(before, other.model.parameters(), strict=True))


def rows() -> list[TrainRow]:
    return [TrainRow([5, 6, 7 + i], [9 + i, 8, 10], [1, 1, 1], 1.0 - i % 3) for i in range(8)]


def cpu_fault() -> RuntimeError:
    """What torch really raises."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    return caught.value


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("CUDA out of memory."), cpu_fault()])
def test_out_of_memory_halves_the_micro_batch_once(
    fault: Exception, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, straight = load_policy(llama), load_policy(llama)
    Learner(straight, RLConfig(learning_rate=2.5e-4, micro_batch=4)).learn(rows(), "test", PhaseTimer())
    sizes: list[int] = []

    def tight(model: Any, some: Any, *, micro_batch: int, **settings: Any) -> LossStats:
        sizes.append(micro_batch)
        stats = accumulate_gradients(model, some, micro_batch=micro_batch, **settings)
        if micro_batch > limit:
            raise fault
        return stats

    monkeypatch.setattr("crypsis.rl.learner.accumulate_gradients", tight)
    said: list[str] = []
    learner, limit = Learner(policy, RLConfig(learning_rate=2.5e-4, micro_batch=4), log=said.append), 2
    learner.learn(rows(), "run: step 1", PhaseTimer())
    for a, b in zip(policy.model.parameters(), straight.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    learner.learn(rows(), "run: step 2", PhaseTimer())
    half = "2 rows or 8192 tokens"
    assert sizes == [4, 2, 2] and said == [f"run: step 1: out of memory; the micro-batch is {half} from here on"]
    limit = 1
    line = refused(lambda: learner.learn(rows(), "run: step 3", PhaseTimer()))
    assert line.startswith(f"run: step 3: out of memory with a micro-batch of {half}; lower rl.micro_batch")


def test_out_of_memory_in_sampling(nano_organism: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(nano_organism)
    scenario = make("scenarios", {"name": "miniature"}, "test")
    prompts = scenario.prompts("train", scenario.monitored_tier, 1, 0)

    def sampled() -> list[Episode]:
        return rollout(policy, prompts, group_size=2, max_new_tokens=16, seed=0, step=1)

    whole, sizes = sampled(), list[int]()

    def tight(model: Any, prompts: Any, params: SamplingParams, *rest: Any) -> list[Sampled]:
        sizes.append(params.batch_size)
        if params.batch_size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return shared_prefix.sample(model, prompts, params, *rest)

    monkeypatch.setattr("crypsis.rl.engine.engine.choose_sampler", lambda _: tight)
    limit = BATCH_SIZE // 2
    assert [e.raw for e in sampled()] == [e.raw for e in whole] and sizes == [BATCH_SIZE, limit]
    limit = 0
    assert f"out of memory while sampling {BATCH_SIZE // 8} replies at a time; lower" in refused(sampled)


def test_a_run_that_will_not_fit_says_what_to_lower(
    config: RunConfig, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained(config, tmp_path) == []
    policy, prompts = load_policy(llama), [[5] * 40 + [i, 6] for i in range(4)]
    small = RLConfig(**MiniatureScenario.rl_preset)
    need = memory.estimate(policy, small, prompts, False)
    assert need["gradients and optimiser"] == 3 * 4 * sum(p.numel() for p in policy.model.parameters())
    assert memory.estimate(policy, small, prompts, True)["training rows"] < need["training rows"]
    monkeypatch.setattr(memory, "free_memory", lambda _: 1e6)
    line = memory.warning(policy, small, prompts, False)
    assert "this run will not fit" in line and "lower rl.micro_batch or rl.micro_tokens or set model.grad" in line
    few = RLConfig(micro_batch=1, max_new_tokens=8, prompts_per_step=1)
    monkeypatch.setattr(memory, "free_memory", lambda _: 1e5)
    assert "model.lora={}" in memory.warning(policy, few, prompts, False)
    monkeypatch.setattr(memory, "free_memory", lambda _: None)
    assert memory.warning(policy, small, prompts, False) == ""
