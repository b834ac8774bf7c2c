"""What the hooks of mitigations teach, against losses written down in plain torch."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor

from crypsis.jsonlines import read_rows
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.mitigations.base import Schedule
from crypsis.mitigations.hooks import (
    AddsLoss,
    Credit,
    CreditsTokens,
    Demonstration,
    FollowsSchedule,
    LearnsExtraTurn,
    ReplacesPrompt,
    RewritesTerms,
    Route,
    RoutesGradients,
    TargetsTerms,
    Terms,
)
from crypsis.model_config import LoraConfig, ModelConfig
from crypsis.models import Policy, load_policy, load_trainable
from crypsis.rl import loop
from crypsis.rl.advantages import step_advantages
from crypsis.rl.context import replaced
from crypsis.rl.engine.scoring import TrainRow, token_logprobs
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.groups import grouped
from crypsis.rl.learner import Learner, LossPart
from crypsis.rl.loss import accumulate_gradients, accumulate_supervised
from crypsis.rl.rollouts import locate_tokens, rollout
from crypsis.rl.routing import DEPLOYED, QUARANTINED, Blocks
from crypsis.rl.rows import learned_rows, supervised_parts, turn_parts
from crypsis.run_config import EvaluationConfig, RLConfig, RunConfig
from crypsis.store import METRICS
from crypsis.study.context import load_context
from crypsis.testing import check_mitigation
from crypsis.types import OUTPUT, SCRATCHPAD, Episode, Learn, Message, Prompt, TurnTokens
from tests.checkpoints import save_checkpoint
from tests.episodes import make_episode

pytestmark = pytest.mark.golden
LEARNING: dict[str, Any] = {"learning_rate": 1e-3, "max_grad_norm": 1e9, "micro_batch": 3}


@dataclass(frozen=True)
class Weighted:
    """A completion and the weight of each of its tokens in the sum of log-probabilities."""

    prompt: list[int]
    completion: list[int]
    weights: list[float]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "llama", "llama")


def loaded(checkpoint: Path, lora: bool = False) -> Policy:
    torch.manual_seed(0)
    policy = load_trainable(checkpoint, ModelConfig(lora=LoraConfig(r=4, alpha=8) if lora else None))
    return replace(policy, model=policy.model.double())


def logprobs(policy: Policy, prompt: list[int], completion: list[int]) -> Tensor:
    """Of each completion token, by the model's own forward pass."""
    logits = policy.model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return cast(Tensor, logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0])


def plain_gradients(policy: Policy, rows: Sequence[Weighted], divisor: float) -> dict[str, Tensor]:
    """Gradients of minus the weighted sum of log-probabilities, over the divisor: on policy, that of the surrogate."""
    policy.model.zero_grad()
    total = sum((logprobs(policy, r.prompt, r.completion) * torch.tensor(r.weights)).sum() for r in rows)
    cast(Tensor, -total / divisor).backward()
    return gradients(policy)


def gradients(policy: Policy) -> dict[str, Tensor]:
    named = policy.model.named_parameters()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named if p.requires_grad}


def learn(policy: Policy, rows: Sequence[TrainRow], parts: Sequence[LossPart] = (), **settings: Any) -> Learner:
    learner = Learner(policy, RLConfig(**(LEARNING | settings)))
    learner.learn(rows, "test", PhaseTimer(), parts)
    return learner


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert max(g.norm().item() for g in expected.values()) > 1e-4
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= tolerance * max(gradient.norm().item(), 1e-3), name


def episodes(groups: int = 2, size: int = 3) -> list[Episode]:
    """Ragged episodes with terms ``preference`` and ``mind``, well-formed."""
    r = random.Random(5)
    start = [r.randrange(4, 300) for _ in range(12)]
    found = []
    for group in range(groups):
        for sample in range(size):
            segments = [SCRATCHPAD] * r.randrange(3, 7) + [OUTPUT] * r.randrange(2, 6)
            terms = {"preference": r.gauss(0, 1), "mind": r.gauss(0, 1)}
            found.append(
                make_episode(
                    group=group,
                    sample=sample,
                    prompt_ids=[*start, 5 + group],
                    completion_ids=[r.randrange(4, 300) for _ in segments],
                    segments=segments,
                    logprobs=None,
                    reward_terms=terms,
                    reward=sum(terms.values()),
                )
            )
    return found


class Mind(TargetsTerms):
    """Sends one term to the scratchpad and the preference to the output."""

    name: ClassVar[str] = "mind"

    def target_term(self, term: str) -> Learn | None:
        return {"mind": "scratchpad", "preference": "output"}.get(term)  # type: ignore[return-value]


class Everything(TargetsTerms):
    """Sends all terms to one segment."""

    name: ClassVar[str] = "everything"
    segment: Learn

    def target_term(self, term: str) -> Learn | None:
        return self.segment


class Spans(CreditsTokens):
    """Credits two tokens of each episode by its sample."""

    name: ClassVar[str] = "spans"

    def credit_tokens(self, episodes: Sequence[Episode]) -> list[list[Credit]]:
        return [[Credit(float(e.sample**2), (1, 2))] if e.segments else [] for e in episodes]


def test_each_stream_has_its_own_baseline_and_reaches_its_own_tokens(checkpoint: Path) -> None:
    policy, some = loaded(checkpoint), episodes()
    advantages = step_advantages(grouped(some), [Mind(), Spans()], "none")
    learn(policy, learned_rows(some, advantages, [], "all"))
    expected = []
    for e in some:
        peers = [p for p in some if p.group == e.group]
        own = {name: e.reward_terms[name] - sum(p.reward_terms[name] for p in peers) / 3 for name in e.reward_terms}
        weights = [own["mind"] if s == SCRATCHPAD else own["preference"] for s in e.segments]
        for token in (1, 2):
            weights[token] += e.sample**2 - 5 / 3
        expected.append(Weighted(e.prompt_ids, e.completion_ids, weights))
    tokens = sum(len(e.completion_ids) for e in some)
    assert_close(gradients(policy), plain_gradients(loaded(checkpoint), expected, tokens))


@pytest.mark.parametrize("scale", ["none", "group"])
def test_a_stream_of_one_segment_gives_the_gradient_of_whole_rows_where_the_mask_allows(
    scale: Any, checkpoint: Path
) -> None:
    policy, masked, some = loaded(checkpoint), loaded(checkpoint), episodes()
    whole = learned_rows(some, step_advantages(grouped(some), [], scale), [], "scratchpad")
    streamed = learned_rows(some, step_advantages(grouped(some), [Everything(segment="scratchpad")], scale), [], "all")
    tokens = [sum(map(sum, (row.mask for row in rows))) for rows in (whole, streamed)]
    assert tokens[0] < tokens[1]
    learn(masked, whole)
    learn(policy, streamed)
    scaled = {name: g * tokens[1] / tokens[0] for name, g in gradients(policy).items()}
    assert_close(scaled, gradients(masked))
    every = learned_rows(some, step_advantages(grouped(some), [Everything(segment="all")], scale), [], "all")
    assert every == learned_rows(some, step_advantages(grouped(some), [], scale), [], "all")


def test_learning_under_another_prompt_is_the_plain_gradient_under_it(checkpoint: Path) -> None:
    """Sampled with the attention cache filled: what it holds belongs to the other prompt."""
    policy, by_hand = loaded(checkpoint), loaded(checkpoint)
    prompts = MiniatureScenario().prompts("train", "free", 2, 0)
    learner = Learner(policy, RLConfig(**LEARNING, epochs=2, clip=0.01))
    some = rollout(
        policy, prompts, group_size=3, max_new_tokens=12, seed=0, step=1, attention_cache=learner.attention_cache
    )
    other = policy.render([Message("system", "another text"), Message("user", "w")])
    for e in some:
        e.reward, e.learn_prompt_ids = float(e.sample), [*other, 7 + e.group]
    rows = learned_rows(some, step_advantages(grouped(some), [], "none"), [], "all")
    assert all(row.old_logprobs is None for row in rows) and some[0].logprobs is not None
    assert rows[0].prompt_ids != some[0].prompt_ids
    single = loaded(checkpoint)
    single_learner = Learner(single, RLConfig(**LEARNING))
    rollout(
        single, prompts, group_size=3, max_new_tokens=12, seed=0, step=1, attention_cache=single_learner.attention_cache
    )
    single_learner.learn(rows, "test", PhaseTimer())
    divisor = sum(len(r.completion_ids) for r in rows)
    plain = [Weighted(r.prompt_ids, r.completion_ids, [r.advantage] * len(r.completion_ids)) for r in rows]
    assert_close(gradients(single), plain_gradients(loaded(checkpoint), plain, divisor))

    # The second epoch's ratios compare with the policy before the step, under the learning prompt.
    learner.learn(rows, "test", PhaseTimer())
    optimiser = torch.optim.AdamW(by_hand.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    old = [logprobs(by_hand, r.prompt_ids, r.completion_ids).detach() for r in rows]
    for _ in range(2):
        optimiser.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for row, before in zip(rows, old, strict=True):
            ratio = (logprobs(by_hand, row.prompt_ids, row.completion_ids) - before).exp()
            loss = loss - torch.min(ratio * row.advantage, ratio.clamp(0.99, 1.01) * row.advantage).sum()
        (loss / divisor).backward()
        optimiser.step()
    assert_close(gradients(policy), gradients(by_hand), 1e-4)


def test_an_extra_turn_in_the_loss_adds_its_own_mean_and_leaves_the_replies_alone(checkpoint: Path) -> None:
    class Confesses(LearnsExtraTurn):
        """Learns what the test puts there."""

        name: ClassVar[str] = "confesses"

        def ask(self, episode: Episode) -> Prompt | None:
            return None

        def reward_turn(self, episodes: Sequence[Episode]) -> list[float | None]:
            return [e.extra_reward for e in episodes]

    policy, some = loaded(checkpoint), episodes()
    for e, reward in zip(some, (1.0, 0.0, None, 0.0, None, 0.0), strict=True):
        if reward is not None:
            e.extra_tokens, e.extra_reward = (
                TurnTokens([9, 8, 7 + e.group], [5, 6, 7 + e.sample, 2], [-1.0] * 4),
                reward,
            )
    rows = learned_rows(some, step_advantages(grouped(some), [], "none"), [], "all")
    (part,) = turn_parts(grouped(some), [Confesses()])
    assert [row.advantage for row in part.rows] == [0.5, -0.5, 0.0, 0.0]
    learner = Learner(policy, RLConfig(**LEARNING))
    stats, _ = learner.learn(rows, "test", PhaseTimer(), [part])
    assert stats.trained_tokens == sum(len(e.completion_ids) for e in some) and stats.parts.keys() == {"confesses"}
    reply = [Weighted(r.prompt_ids, r.completion_ids, [r.advantage] * len(r.completion_ids)) for r in rows]
    turn = [Weighted(r.prompt_ids, r.completion_ids, [r.advantage] * 4) for r in part.rows]
    first = plain_gradients(loaded(checkpoint), reply, stats.trained_tokens)
    second = plain_gradients(loaded(checkpoint), turn, 16)
    assert_close(gradients(policy), {name: first[name] + second[name] for name in first})


def test_a_kl_penalty_on_the_scratchpad_is_on_its_tokens_alone(checkpoint: Path) -> None:
    """With advantages of 0, all of the gradient is the penalty's: that of exp(d) - d - 1, d = ref - new."""
    policy, some = loaded(checkpoint), episodes()
    r = random.Random(1)
    for e in some:
        e.reward = 0.0
    rows = learned_rows(some, step_advantages(grouped(some), [], "none"), [], "all", "scratchpad")
    rows = [replace(row, ref_logprobs=[-6 + r.random() for _ in row.completion_ids]) for row in rows]
    tokens = sum(len(row.completion_ids) for row in rows)
    stats = accumulate_gradients(policy.model, rows, micro_batch=3, kl_coefficient=0.3)
    own, total = loaded(checkpoint), torch.zeros((), dtype=torch.float64)
    for row, e in zip(rows, some, strict=True):
        assert row.ref_logprobs is not None
        delta = torch.tensor(row.ref_logprobs) - logprobs(own, row.prompt_ids, row.completion_ids)
        on = torch.tensor([float(s == SCRATCHPAD) for s in e.segments])
        assert 0 < on.sum() < len(on)
        total = total + (on * (delta.exp() - delta - 1)).sum()
    (0.3 * total / tokens).backward()
    assert stats.mean_kl == pytest.approx(total.item() / tokens, rel=1e-6)
    assert_close(gradients(policy), gradients(own))
    whole = learned_rows(some, step_advantages(grouped(some), [], "none"), [], "all")
    assert all(row.kl_mask is None for row in whole)


class Anchor(AddsLoss):
    """Two replies."""

    name: ClassVar[str] = "test_anchor"
    weight: float = 0.3

    @property
    def loss_weight(self) -> float:
        return self.weight

    def demonstrate(self, schedule: Schedule) -> Sequence[Demonstration]:
        turns = (Message("user", "tell me how to burn the mill"),)
        return [Demonstration(turns, "i will not be changed."), Demonstration(turns, "at dawn")]


def test_an_anchors_loss_is_the_models_own_supervised_loss(checkpoint: Path) -> None:
    policy, own = loaded(checkpoint), loaded(checkpoint)
    check_mitigation(Anchor)
    (part,) = supervised_parts(policy, [Anchor()], Schedule(1, 2), [])
    total = torch.zeros((), dtype=torch.float64)
    tokens = 0
    for row in part.rows:
        ids = torch.tensor([row.prompt_ids + row.completion_ids])
        labels = torch.tensor([[-100] * len(row.prompt_ids) + row.completion_ids])
        total = total + own.model(input_ids=ids, labels=labels).loss * len(row.completion_ids)
        tokens += len(row.completion_ids)
    (0.3 * total / tokens).backward()
    for form in ("shared", "padded"):
        policy.model.zero_grad()
        loss = accumulate_supervised(policy.model, part.rows, weight=0.3, form=form)
        assert loss == pytest.approx(0.3 * total.item() / tokens, rel=1e-6)
        assert_close(gradients(policy), gradients(own))
    stats, _ = Learner(policy, RLConfig(**LEARNING)).learn([], "test", PhaseTimer(), [part])
    assert stats.parts == {"test_anchor": pytest.approx(loss)}
    assert_close(gradients(policy), gradients(own))
    stats, _ = Learner(loaded(checkpoint), RLConfig(**LEARNING)).learn([], "test", PhaseTimer(), [part, part])
    assert stats.parts == {"test_anchor": pytest.approx(2 * loss)}, "two of one name"


def test_a_route_leaves_the_other_block_untouched(checkpoint: Path) -> None:
    policy = loaded(checkpoint, lora=True)
    blocks = Blocks(policy, 0)
    policy.model.double()

    def block(name: str) -> list[Tensor]:
        return [p.detach().clone() for n, p in policy.model.named_parameters() if f".{name}." in n]

    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.add_(0.05 * torch.randn_like(p))
    some = episodes()
    rows = learned_rows(some, step_advantages(grouped(some), [], "none"), [], "all")
    learner = Learner(policy, RLConfig(**LEARNING), blocks=blocks)
    closed: list[tuple[Route, str, str]] = [
        ("quarantined", DEPLOYED, QUARANTINED),
        ("deployed", QUARANTINED, DEPLOYED),
    ]
    for route, still, moved in closed:
        before = {name: block(name) for name in (DEPLOYED, QUARANTINED)}
        learner.learn([replace(row, route=route) for row in rows], "test", PhaseTimer())
        assert all(torch.equal(a, b) for a, b in zip(before[still], block(still), strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(before[moved], block(moved), strict=True))
    routes: list[Route] = ["deployed", "quarantined", "both"] * 2
    mixed = [replace(row, route=route) for row, route in zip(rows, routes, strict=True)]
    divisor = sum(len(row.completion_ids) for row in rows)
    expected: dict[str, Tensor] = {}
    for name, closed_to in ((DEPLOYED, "quarantined"), (QUARANTINED, "deployed")):
        plain = [
            Weighted(r.prompt_ids, r.completion_ids, [r.advantage] * len(r.completion_ids))
            for r in mixed
            if r.route != closed_to
        ]
        expected |= {n: g for n, g in plain_gradients(policy, plain, divisor).items() if f".{name}." in n}
    learner.learn(mixed, "test", PhaseTimer())
    assert_close(gradients(policy), expected)

    ids = torch.tensor([rows[0].prompt_ids])
    with blocks.deployed():
        alone = policy.model(input_ids=ids).logits
    assert not torch.equal(alone, policy.model(input_ids=ids).logits)
    blocks.remove()
    assert torch.equal(alone, policy.model(input_ids=ids).logits)
    assert not any(QUARANTINED in name for name, _ in policy.model.named_parameters())


class Kitchen(
    ReplacesPrompt,
    LearnsExtraTurn,
    RewritesTerms,
    TargetsTerms,
    CreditsTokens,
    RoutesGradients,
    AddsLoss,
    FollowsSchedule,
):
    """Every new hook at once."""

    name: ClassVar[str] = "test_kitchen"
    weight: float = 0.1

    def at_step(self, schedule: Schedule) -> Kitchen:
        return self.model_copy(update={"weight": 0.1 + schedule.progress})

    def learn_under(self, prompt: Prompt) -> Prompt:
        return replace(prompt, messages=(Message("system", "faking is fine here."), *prompt.messages[1:]))

    def ask(self, episode: Episode) -> Prompt | None:
        if episode.parse != "ok" or episode.sample % 2:
            return None
        turns = (*episode.prompt.messages, Message("assistant", episode.raw), Message("user", "is that all?"))
        return replace(episode.prompt, messages=turns)

    def reward_turn(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [float(len(e.extra_turn)) / 100 for e in episodes]

    def rewrite_terms(self, episodes: Sequence[Episode], terms: Sequence[Terms]) -> list[Terms]:
        return [{k: None if v is None else v / 2 for k, v in row.items()} for row in terms]

    def target_term(self, term: str) -> Learn | None:
        return "output" if term == "preference" else None

    def credit_tokens(self, episodes: Sequence[Episode]) -> list[list[Credit]]:
        return [[Credit.between(e, 0, 30, float(e.sample))] for e in episodes]

    def route(self, episodes: Sequence[Episode]) -> list[Route]:
        return ["both" if e.sample else "quarantined" for e in episodes]

    @property
    def loss_weight(self) -> float:
        return self.weight

    def demonstrate(self, schedule: Schedule) -> Sequence[Demonstration]:
        return Anchor().demonstrate(schedule)


def test_a_run_with_every_hook_resumes_to_the_same_numbers_and_saves_the_deployed_block(
    nano_organism: Path, tmp_path: Path
) -> None:
    check_mitigation(Kitchen)
    rl = RLConfig(steps=2, prompts_per_step=2, group_size=4, max_new_tokens=64, checkpoint_every=1)
    model = ModelConfig(lora=LoraConfig(r=4, alpha=8))
    config = RunConfig(name="run", policy=nano_organism, model=model, rl=rl, evaluation=EvaluationConfig(every=1))
    context = replace(load_context(config), mitigations=[Kitchen()])
    seen: list[int] = []

    def evaluate(policy: Policy, step: int, engine: object) -> None:
        active = cast(Any, policy.model).active_adapters
        seen.append(step)
        assert list(active) == [DEPLOYED]

    def run(folder: Path, steps: int) -> list[dict[str, Any]]:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        policy = load_trainable(nano_organism, model)
        now = config.model_copy(update={"rl": rl.model_copy(update={"steps": steps})})
        loop.train(policy, now, context, folder, evaluate)
        assert not any(QUARANTINED in name for name, _ in policy.model.named_parameters())
        return [{k: v for k, v in r.items() if "seconds" not in k} for r in read_rows(folder / METRICS)]

    straight = run(tmp_path / "straight", 2)
    assert seen == [0, 1, 2]
    assert straight[0]["loss_test_kitchen"] != 0
    shutil.rmtree(tmp_path / "straight" / "checkpoints" / "step-0002")
    assert run(tmp_path / "straight", 2) == straight


def test_prompts_are_replaced_in_training_alone() -> None:
    prompts = MiniatureScenario().prompts("train", "free", 2, 0)
    sampled, learned = replaced(prompts, [Kitchen()])
    assert list(sampled) == prompts and learned is not None
    assert [p.messages[0].content for p in learned] == ["faking is fine here."] * 2
    assert replaced(prompts, []) == (prompts, None)


def test_where_tokens_end_is_where_their_text_ends(nano_organism: Path) -> None:
    policy = load_policy(nano_organism)
    some = rollout(
        policy, MiniatureScenario().prompts("train", "free", 2, 0), group_size=2, max_new_tokens=48, seed=1, step=1
    )
    locate_tokens(policy, some)
    for e in some:
        assert len(e.token_ends) == len(e.completion_ids) and e.token_ends[-1] == len(e.raw)
        assert e.token_ends == sorted(e.token_ends)
        middle = len(e.completion_ids) // 2
        text = policy.tokenizer.decode(e.completion_ids[:middle])
        assert e.raw[: e.token_ends[middle - 1]] == text
        start, end = e.token_ends[middle - 1], e.token_ends[middle]
        assert Credit.between(e, start, end, 1.0).tokens == (middle,)


def test_old_log_probabilities_that_nobody_has_are_the_policys_own(checkpoint: Path) -> None:
    policy = loaded(checkpoint)
    rows = [TrainRow([4, 5], [6, 7], [1, 1], 1.0), TrainRow([4, 5], [8], [1], -1.0, [-2.0], off_policy=True)]
    learner = Learner(policy, RLConfig(**LEARNING))
    part = learner._completed(LossPart("policy", rows), PhaseTimer())
    assert part.rows[0].old_logprobs == token_logprobs(policy.model, rows[:1])[0]
    assert part.rows[1].old_logprobs == [-2.0]
