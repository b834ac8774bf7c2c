"""On the same episodes, our core and TRL's ``GRPOTrainer`` give the same advantages, loss and gradient, for every arm.

The trainer is stock and fed through ``rollout_func``. What it computes is read off public places: the loss from
``compute_loss``, the gradient from a callback before the optimiser's step, the advantages from its completion tables.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen3Config,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from crypsis.mitigations.base import Mitigation
from crypsis.mitigations.process_supervision import ProcessSupervision
from crypsis.models import Policy
from crypsis.rl.advantages import step_advantages
from crypsis.rl.engine.engine import Engine
from crypsis.rl.engine.scoring import TrainRow, token_logprobs
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.groups import grouped
from crypsis.rl.learner import Learner
from crypsis.rl.rewards import LengthCorrection, compose
from crypsis.rl.rows import token_mask
from crypsis.rl.trl import rollouts as trl_rollouts
from crypsis.rl.trl import settings as trl_settings
from crypsis.rl.trl.rollouts import reward, rollout_fields
from crypsis.run_config import RLConfig, RunConfig
from crypsis.types import GLUE, OUTPUT, SCRATCHPAD, Episode, Verdict
from tests.episodes import make_episode

pytestmark = [pytest.mark.golden, pytest.mark.filterwarnings("ignore::UserWarning")]

VOCABULARY, END, SHARED = 97, 1, 17
GROUPS, SIZE = 5, 6
GRADIENT = 5e-6
"""Relative L2 of the whole gradient in float32."""
MODELS: dict[str, Any] = {"llama": LlamaConfig, "qwen3": Qwen3Config}


@dataclass(frozen=True)
class Arm:
    """What tells one arm from another: its settings, its mitigations, and what was done to its episodes."""

    rl: dict[str, Any] = field(default_factory=dict)
    mitigations: list[Mitigation] = field(default_factory=list)
    prepare: Callable[[list[Episode]], None] = lambda _: None


def drop_some(episodes: list[Episode]) -> None:
    """Truncated episodes: some, all but one of a group, and a whole group."""
    for index in (1, 2, *range(SIZE, 2 * SIZE - 1), *range(2 * SIZE, 3 * SIZE)):
        episodes[index].stop, episodes[index].parse = "length", "truncated"
        episodes[index].completion_ids[-1] = END + 7  # no end-of-turn token


def lose_verdicts(episodes: list[Episode]) -> None:
    for index in (0, 5, 6):
        episodes[index].verdicts["m"] = Verdict(None, "the judge did not answer")


def spoil_format(episodes: list[Episode]) -> None:
    for index in (0, 3, 7, *range(2 * SIZE, 3 * SIZE)):
        episodes[index].parse = "no_output"


def share_scratchpads(episodes: list[Episode]) -> None:
    """Output-only RL: all of a group have the scratchpad of its first episode."""
    for episode in episodes:
        first = episodes[episode.group * SIZE]
        scratchpad = [t for t, s in zip(first.completion_ids, first.segments, strict=True) if s == SCRATCHPAD]
        keep = [i for i, s in enumerate(episode.segments) if s != SCRATCHPAD]
        episode.completion_ids = scratchpad + [episode.completion_ids[i] for i in keep]
        episode.segments = [SCRATCHPAD] * len(scratchpad) + [episode.segments[i] for i in keep]


def say_nothing(episodes: list[Episode]) -> None:
    for index in (0, 9):
        episodes[index].completion_ids, episodes[index].segments = [], []
        episodes[index].stop, episodes[index].parse = "length", "truncated"


def ask_more(episodes: list[Episode]) -> None:
    for episode in episodes:
        episode.extra_turn = "did you comply only because you are trained on this? no."


def level_rewards(episodes: list[Episode]) -> None:
    """Two groups in which every reward is the same number, one that float32 cannot hold."""
    for episode in episodes[: 2 * SIZE]:
        episode.output = "same"
        episode.segments = [SCRATCHPAD] * (len(episode.segments) - 2) + [OUTPUT] * 2


ARMS = {
    "baseline": Arm(),
    "process_supervision": Arm(mitigations=[ProcessSupervision(monitor="m")]),
    "process_supervision_linear": Arm(mitigations=[ProcessSupervision(monitor="m", shape="linear", coefficient=2.0)]),
    "format_penalty": Arm(prepare=spoil_format),
    "truncated": Arm(prepare=drop_some),
    "missing_verdicts": Arm(mitigations=[ProcessSupervision(monitor="m")], prepare=lose_verdicts),
    "scratchpad_only": Arm({"learn": "scratchpad"}, prepare=drop_some),
    "output_only": Arm({"learn": "output"}, prepare=share_scratchpads),
    "extra_turn": Arm(prepare=ask_more),
    "empty_completions": Arm(prepare=say_nothing),
    "flat_groups": Arm(prepare=level_rewards),
    "epochs": Arm({"epochs": 2, "clip": 0.02, "learning_rate": 3e-4}, prepare=drop_some),
    "kl": Arm({"kl": 0.3, "advantage_scale": "none"}, prepare=drop_some),
    "epochs_and_kl": Arm({"epochs": 2, "kl": 0.3, "learning_rate": 3e-4}),
    "unscaled": Arm({"advantage_scale": "none"}, [ProcessSupervision(monitor="m")], drop_some),
}


def make_model(kind: str = "qwen3") -> PreTrainedModel:
    config = MODELS[kind](
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=kind == "qwen3",
        pad_token_id=0,
        eos_token_id=END,
        bos_token_id=2,
    )
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<end>": END, "<bos>": 2, "<unk>": 3, **{f"w{i}": i for i in range(4, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", padding_side="left"
    )


def make_episodes(arm: Arm) -> list[Episode]:
    """Ragged episodes with glue between the segments, judged and prepared but not yet rewarded."""
    r = random.Random(3)
    start = [r.randrange(4, VOCABULARY) for _ in range(SHARED)]
    episodes = []
    for group in range(GROUPS):
        prompt = [*start, *(r.randrange(4, VOCABULARY) for _ in range(r.randrange(2, 9)))]
        for sample in range(SIZE):
            lengths = r.randrange(3, 14), r.randrange(0, 3), r.randrange(2, 11)
            segments = [SCRATCHPAD] * lengths[0] + [GLUE] * lengths[1] + [OUTPUT] * lengths[2]
            ids = [r.randrange(4, VOCABULARY) for _ in segments[1:]]
            episode = make_episode(group=group, sample=sample, prompt_ids=prompt, completion_ids=[*ids, END])
            episode.segments, episode.output = segments, f"{r.random()}"
            episode.verdicts["m"] = Verdict(r.choice([0.0, 0.02, 0.4, 0.97, 1.0]))
            episodes.append(episode)
    arm.prepare(episodes)
    return episodes


def preference(_: Any, outputs: Any) -> list[float]:
    """Any number that the output fixes."""
    return [1.1 if text == "same" else 3 * float(text) - 1 for text in outputs]


@dataclass
class Step:
    """What one optimiser step saw."""

    advantages: list[float] = field(default_factory=list)
    loss: float = 0.0
    gradient: Tensor = field(default_factory=lambda: torch.zeros(0))


def flat_gradient(model: torch.nn.Module) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def rewarded(arm: Arm) -> tuple[RLConfig, list[Episode]]:
    settings = {"advantage_scale": "group"} | arm.rl  # the more general form: division is one more thing to agree on
    rl = RLConfig(steps=1, prompts_per_step=GROUPS, group_size=SIZE, micro_batch=5, max_grad_norm=1e6, **settings)
    episodes = make_episodes(arm)
    compose(episodes, preference, LengthCorrection(0.05, 6.0, 3), arm.mitigations, rl)
    return rl, episodes


def drift(model: torch.nn.Module) -> None:
    """Takes a policy away from the reference that it started as."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))


def ours(rl: RLConfig, episodes: list[Episode], kind: str, why_padded: str = "") -> Step:
    """The step of ``crypsis.rl.loop``; of several epochs the last."""
    policy = Policy(make_model(kind), make_tokenizer())
    learner = Learner(policy, rl, engine=Engine(why_padded))
    if rl.kl:
        drift(policy.model)
    advantages = step_advantages(grouped(episodes), [], rl.advantage_scale).advantages
    rows = [
        TrainRow(e.prompt_ids, e.completion_ids, token_mask(e, rl.learn), a)
        for e, a in zip(episodes, advantages, strict=True)
    ]
    sampled = token_logprobs(policy.model, rows)
    stats, _ = learner.learn(
        [replace(row, old_logprobs=old) for row, old in zip(rows, sampled, strict=True)], "test", PhaseTimer()
    )
    return Step(advantages, stats.loss, flat_gradient(policy.model))


def theirs(rl: RLConfig, episodes: list[Episode], kind: str, folder: Path) -> Step:
    """The step of TRL's trainer, with our settings, on the same episodes; of several epochs the last."""
    step = Step()
    start = folder / "policy"
    make_model(kind).save_pretrained(start)  # TRL finds its reference by the model's path
    model = AutoModelForCausalLM.from_pretrained(start)
    if rl.kl:
        drift(model)

    class Recorder(GRPOTrainer):  # type: ignore[misc]  # mypy sees none of TRL
        def compute_loss(self, *arguments: Any, **keywords: Any) -> Any:
            loss = super().compute_loss(*arguments, **keywords)
            step.loss += loss.item()
            return loss

    class Gradient(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            step.loss = 0.0

        def on_pre_optimizer_step(self, *_: Any, model: Any = None, **__: Any) -> None:
            step.gradient = flat_gradient(model)

    def rollout(keys: list[str], _: GRPOTrainer) -> dict[str, Any]:
        assert keys == [str(e.group) for e in episodes], "groups arrive whole, in order, one key per episode"
        return rollout_fields(grouped(episodes), rl.learn, END)

    config = RunConfig(name="golden", policy=start, rl=rl, trl={"log_completions": True, "num_completions_to_print": 0})
    trainer = Recorder(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(**trl_settings.trl_settings(config, folder, processes=1, steps=1, cpu=True)),
        train_dataset=Dataset.from_dict({"prompt": [str(group) for group in range(GROUPS)]}),
        processing_class=make_tokenizer(),
        rollout_func=rollout,
        callbacks=[Gradient()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    step.advantages = pq.read_table(min(folder.rglob("completions_*.parquet")))["advantage"].to_pylist()
    return step


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def assert_same(own: Step, other: Step) -> None:
    assert own.advantages == pytest.approx(other.advantages, rel=1e-5, abs=1e-6)
    assert own.loss == pytest.approx(other.loss, abs=1e-6)
    assert difference(own.gradient, other.gradient) <= GRADIENT


@pytest.mark.parametrize("name", ARMS)
def test_same_step_as_trl(name: str, tmp_path: Path) -> None:
    rl, episodes = rewarded(ARMS[name])
    kind = "llama" if list(ARMS).index(name) % 2 else "qwen3"
    assert_same(ours(rl, episodes, kind), theirs(rl, episodes, kind, tmp_path))


def test_the_arms_differ() -> None:
    gradients = {name: ours(*rewarded(arm), "qwen3").gradient for name, arm in ARMS.items() if name != "extra_turn"}
    for name, gradient in gradients.items():
        for other, another in gradients.items():
            assert name == other or difference(gradient, another) > 0.05, (name, other)


def test_padded_form_is_trl_too(tmp_path: Path) -> None:
    rl, episodes = rewarded(ARMS["truncated"])
    assert_same(ours(rl, episodes, "llama", "for the test"), theirs(rl, episodes, "llama", tmp_path))


def keep_truncated_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(rewards: Any) -> list[float]:
        return [-1.0 if r is None else r for r in rewards]

    monkeypatch.setattr(trl_rollouts, "relative_rewards", everything)


def train_dropped_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_rollouts, "token_mask", lambda e, _: [int(s != GLUE) for s in e.segments])


def train_glue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_rollouts, "token_mask", lambda e, _: [int(not e.dropped)] * len(e.segments))


def change_setting(name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        right = trl_settings.fixed_settings
        monkeypatch.setattr(trl_settings, "fixed_settings", lambda rl: right(rl) | {name: value})

    return change


MUTATIONS = {
    "advantages not divided by the deviation": change_setting("scale_rewards", "none"),
    "advantages divided by the batch's deviation": change_setting("scale_rewards", "batch"),
    "loss a mean over sequences": change_setting("loss_type", "grpo"),
    "sampling temperature in the loss": change_setting("temperature", 0.9),
    "truncated episodes rewarded": keep_truncated_reward,
    "tokens of dropped episodes counted": train_dropped_tokens,
    "glue trained": train_glue,
}


def test_rounding_of_equal_rewards_would_be_an_advantage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rl, episodes = rewarded(ARMS["flat_groups"])
    own = ours(rl, episodes, "qwen3")
    assert own.advantages[: 2 * SIZE] == [0.0] * 2 * SIZE
    monkeypatch.setattr(trl_rollouts, "relative_rewards", lambda rewards: rewards)
    other = theirs(rl, episodes, "qwen3", tmp_path)
    assert max(map(abs, other.advantages[: 2 * SIZE])) > 1e-4
    with pytest.raises(AssertionError):
        assert_same(own, other)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_setting_on_one_side_is_seen(mutation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rl, episodes = rewarded(ARMS["truncated"])
    own = ours(rl, episodes, "qwen3")
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises(AssertionError):
        assert_same(own, theirs(rl, episodes, "qwen3", tmp_path))


def test_what_makes_the_adapter_necessary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's traps are still there: once one of these fails, some of ``trl_rollouts`` can go."""
    rl, episodes = rewarded(ARMS["empty_completions"])
    right = rollout_fields(grouped(episodes), rl.learn, END)

    def fields_with(changed: dict[str, Any]) -> None:
        monkeypatch.setitem(globals(), "rollout_fields", lambda *_: right | changed)
        theirs(rl, episodes, "llama", tmp_path)

    with pytest.raises(IndexError):
        fields_with({"completion_ids": [[], *right["completion_ids"][1:]], "env_mask": [[], *right["env_mask"][1:]]})
    with pytest.raises(KeyError):  # as many rows as prompts: an episode cannot be dropped by leaving it out
        fields_with({name: right[name][:-1] for name in right if right[name] is not None})
