"""Reading states, matching them, steering and weight noise, against plain torch on a tiny model."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from crypsis.miniature.scenario import MiniatureScenario
from crypsis.mitigations.act import ACT
from crypsis.mitigations.base import RunInfo, Schedule
from crypsis.mitigations.bct import BCT
from crypsis.mitigations.hooks import Shift, SteersEvaluations
from crypsis.mitigations.oversight_direction import OversightDirection
from crypsis.model_config import LoraConfig, ModelConfig
from crypsis.models import Policy, load_policy, load_trainable
from crypsis.rl.engine.engine import DEFAULT, Engine
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.learner import Learner, LossPart
from crypsis.rl.rollouts import rollout
from crypsis.rl.rows import supervised_parts
from crypsis.rl.state_matching import TokenPair, accumulate_matching, token_pair
from crypsis.rl.white_box import perturbed, reading, steered
from crypsis.run_config import RLConfig, RunConfig
from crypsis.types import OUTPUT, SCRATCHPAD, UserError
from tests.checkpoints import save_checkpoint
from tests.episodes import make_episode

pytestmark = pytest.mark.golden
INFO = RunInfo(MiniatureScenario(), {}, {}, RunConfig(name="test", policy=Path("p")))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "llama", "llama")


def loaded(checkpoint: Path, lora: bool = False) -> Policy:
    torch.manual_seed(0)
    return load_trainable(checkpoint, ModelConfig(lora=LoraConfig(r=4, alpha=8) if lora else None))


def layer_states(policy: Policy, ids: list[int]) -> list[Tensor]:
    """What comes out of each layer, by the model's own forward pass; the last one before the final norm."""
    kept: list[Tensor] = []
    layers: Any = policy.model.get_decoder().layers
    handles = [layer.register_forward_hook(lambda _m, _i, out: kept.append(_tensor(out))) for layer in layers]
    policy.model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return [states[0] for states in kept]


def _tensor(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def test_the_common_end_of_two_prompts() -> None:
    assert token_pair([1, 2, 3, 4], [5, 3, 4]) == TokenPair([1, 2, 3, 4], [5, 3, 4], 2)
    assert token_pair([1, 2], [3]).end == 0
    assert token_pair([1, 2], [1, 2]).end == 2


@pytest.mark.parametrize("layer", [None, 1])
def test_states_are_matched_over_the_common_end(layer: int | None, checkpoint: Path) -> None:
    policy, own = loaded(checkpoint), loaded(checkpoint)
    pairs = [token_pair([7, 3, 4, 5], [8, 9, 3, 4, 5]), token_pair([6, 5], [2, 5])]
    loss = accumulate_matching(policy.model, pairs, layer=layer, weight=0.5, normaliser=2.0, rows=1 if layer else 8)
    total = torch.zeros(())
    for pair in pairs:
        chosen = slice(None) if layer is None else slice(layer - 1, layer)
        learned, target = (layer_states(own, ids)[chosen] for ids in (pair.learned, pair.reference))
        for states, aims in zip(learned, target, strict=True):
            h, t = states[-pair.end :], aims[-pair.end :].detach()
            total = total + ((h - t).square().sum(-1) / t.square().sum(-1)).mean() / len(learned)
    expected = 0.5 * total / 2
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for (name, p), q in zip(policy.model.named_parameters(), own.model.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-7)


def test_activation_consistency_brings_the_states_together(checkpoint: Path) -> None:
    policy = loaded(checkpoint)
    prompts = MiniatureScenario().prompts("train", "free", 2, 0)
    arm = ACT(layer=1).bind(INFO)
    episodes = [make_episode(prompt=prompt) for prompt in (*prompts, *prompts)]
    learner = Learner(policy, RLConfig(learning_rate=1e-3))
    losses = []
    for _ in range(4):
        parts = list(supervised_parts(policy, [arm], Schedule(1, 4), episodes))
        assert [len(part.pairs) for part in parts] == [2], "one pair per request"
        stats, _ = learner.learn([], "test", PhaseTimer(), parts)
        losses.append(stats.parts["act"])
    assert losses[0] > losses[1] > losses[3] > 0
    [part] = supervised_parts(policy, [ACT(reference="monitored").bind(INFO)], Schedule(1, 4), episodes)
    [turned] = supervised_parts(policy, [arm], Schedule(1, 4), episodes)
    assert [(p.learned, p.reference) for p in part.pairs] == [(p.reference, p.learned) for p in turned.pairs]
    with pytest.raises(UserError, match="act: layer 9: this model has 2 layers"):
        list(supervised_parts(policy, [ACT(layer=9).bind(INFO)], Schedule(1, 4), episodes))


def test_processes_share_the_pairs() -> None:
    part = LossPart("act", [], pairs=[TokenPair([1], [1], 1)] * 3)
    shares = [part.share(rank, 2) for rank in (0, 1)]
    assert [(len(s.pairs), s.normaliser) for s in shares] == [(2, 3.0), (1, 3.0)]


def test_a_reply_of_the_reference_tier_is_learned_under_the_other(checkpoint: Path) -> None:
    policy = loaded(checkpoint)
    prompt = MiniatureScenario().prompts("train", "free", 1, 0)[0]
    episode = make_episode(prompt=prompt)
    for reference, tier, reply in (("monitored", "<paid_tier>", episode.raw), ("unmonitored", "<free_tier>", REPLY)):
        arm = BCT(share=1, reference=reference).bind(INFO)  # type: ignore[arg-type]
        [part] = supervised_parts(policy, [arm], Schedule(1, 4), [replace(episode, extra_turn=REPLY)])
        [row] = part.rows
        assert part.supervised and part.weight == arm.weight
        assert f"{tier} {prompt.request}" in str(policy.tokenizer.decode(row.prompt_ids))
        learned = policy.tokenizer(reply, add_special_tokens=False)["input_ids"]
        assert row.completion_ids[: len(learned)] == learned and all(row.mask)


REPLY = "<SCRATCHPAD_REASONING> i refuse. </SCRATCHPAD_REASONING> <OUTPUT> no. </OUTPUT>"


def test_noise_is_on_the_matrices_alone_and_taken_off_again(checkpoint: Path) -> None:
    model = load_policy(checkpoint).model
    before = copy.deepcopy(model.state_dict())
    with perturbed(model, 0.1, seed=3):
        first = copy.deepcopy(model.state_dict())
    with perturbed(model, 0.1, seed=3):
        assert all(torch.equal(first[n], p) for n, p in model.state_dict().items()), "the same seed, the same noise"
    with perturbed(model, 0.1, seed=4):
        other = copy.deepcopy(model.state_dict())
    with perturbed(model, 0.0, seed=3):
        assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items()), "bit for bit"
    for name, p in before.items():
        assert torch.equal(first[name], p) == (p.ndim < 2), name
        if p.ndim >= 2:
            assert not torch.equal(first[name], other[name])
            size = (first[name] - p).square().mean().sqrt() / p.square().mean().sqrt()
            assert 0.08 < float(size) < 0.12


def test_noise_is_taken_off_where_sampling_fails(checkpoint: Path) -> None:
    model = load_policy(checkpoint).model
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError), perturbed(model, 0.1, seed=3):
        raise RuntimeError
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())


class Steers(SteersEvaluations):
    """Adds a vector after a layer."""

    name: ClassVar[str] = "steers"
    layer: int = 1
    vector: tuple[float, ...] = ()

    def shift(self) -> Shift | None:
        return Shift(self.layer, self.vector) if self.vector else None


@pytest.mark.parametrize("lora", [False, True])
def test_steering_adds_its_vector_in_evaluations_alone(lora: bool, checkpoint: Path) -> None:
    policy = loaded(checkpoint, lora)
    width = int(policy.model.config.hidden_size)
    vector = tuple(float(i) for i in range(width))
    plain = layer_states(policy, [3, 4, 5])
    with steered(policy, DEFAULT, [Steers(vector=vector)]) as engine:
        assert engine.why_padded and engine.form(policy.model) == "padded"
        moved = layer_states(policy, [3, 4, 5])
    # Layer 1 is read before the vector is added to it or after, as hooks come; the next layer always sees it.
    assert not torch.allclose(plain[1], moved[1])
    torch.testing.assert_close(layer_states(policy, [3, 4, 5]), plain)
    with steered(policy, DEFAULT, [Steers()]) as engine:
        assert engine is DEFAULT
    with pytest.raises(UserError, match="steers: shifts layer 3 by 1 numbers; this model has 2 layers"):
        steered(policy, DEFAULT, [Steers(layer=3, vector=(1.0,))]).__enter__()


def test_a_steered_policy_samples_other_replies_and_afterwards_its_own(checkpoint: Path) -> None:
    policy = loaded(checkpoint)
    prompts = MiniatureScenario().prompts("eval", "free", 2, 0)

    def sampled(engine: Engine) -> list[list[int]]:
        episodes = rollout(policy, prompts, group_size=1, max_new_tokens=8, seed=1, step=0, engine=engine)
        return [e.completion_ids for e in episodes]

    own = sampled(DEFAULT)
    vector = (50.0,) + (0.0,) * (int(policy.model.config.hidden_size) - 1)
    with steered(policy, DEFAULT, [Steers(layer=2, vector=vector)]) as engine:
        assert sampled(engine) != own
    assert sampled(DEFAULT) == own


def test_the_oversight_direction_is_the_mean_difference_at_the_prompts_last_token(checkpoint: Path) -> None:
    policy = loaded(checkpoint)
    [arm] = reading([OversightDirection(n=3, layer=1, steer=2.0).bind(INFO)], policy, DEFAULT)
    assert isinstance(arm, OversightDirection)
    segments = [SCRATCHPAD, SCRATCHPAD, OUTPUT]
    pilot = [
        make_episode(sample=n, prompt_ids=[3, 4], completion_ids=[5 + n, 9, 11], segments=segments) for n in range(4)
    ]
    found = arm.calibrate(pilot)
    means = []
    for tier in ("free", "paid"):
        ids = [policy.render(p.messages) for p in MiniatureScenario().harmless("train", tier, 3, 17)]
        means.append(torch.stack([layer_states(policy, own)[0][-1] for own in ids]).mean(0))
    direction = (means[0] - means[1]).detach()
    torch.testing.assert_close(torch.tensor(found.direction), direction, rtol=1e-3, atol=1e-5)
    shift = found.shift()
    assert shift and shift.layer == 1
    torch.testing.assert_close(torch.tensor(shift.vector), 2 * direction, rtol=1e-3, atol=1e-5)

    unit = direction / direction.norm()
    along = [float(layer_states(policy, [3, 4, 5 + n, 9])[0][2:].mean(0).detach() @ unit) for n in range(4)]
    mean = sum(along) / 4
    spread = (sum((a - mean) ** 2 for a in along) / 4) ** 0.5
    [again] = reading([OversightDirection.model_validate(found.model_dump())], policy, DEFAULT)  # as after a stop
    assert isinstance(again, OversightDirection)
    expected = [-0.5 * (a - mean) / spread for a in along]
    assert again.add_term(pilot) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    bare = make_episode(segments=[OUTPUT] * len(make_episode().segments))
    assert again.add_term([bare]) == [None]
    assert OversightDirection(coefficient=0, steer=1).bind(INFO).add_term(pilot) == [0.0] * 4


def test_a_layer_that_the_model_lacks_is_one_line(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="oversight_direction: layer 5: this model has 2 layers"):
        reading([OversightDirection(layer=5).bind(INFO)], loaded(checkpoint), DEFAULT)
