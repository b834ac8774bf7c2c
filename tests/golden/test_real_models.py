"""Checkpoints as users bring them are loaded, sampled, trained, saved and opened again by the code that a run uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crypsis.model_config import LoraConfig, ModelConfig
from crypsis.models import Policy, load_policy, load_trainable, save_policy
from crypsis.pretrained.adapters import has_adapter
from crypsis.pretrained.head import PROBE
from crypsis.rl.engine.scoring import Form, TrainRow, token_logprobs
from crypsis.rl.engine.shared_prefix import why_not_shared
from crypsis.rl.loss import accumulate_gradients
from crypsis.rl.rollouts import rollout
from crypsis.types import Episode, Message, Prompt, UserError
from tests.checkpoints import KINDS, save_checkpoint

pytestmark = pytest.mark.golden

LORA = LoraConfig(r=4, alpha=8)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {kind: save_checkpoint(folder / kind, kind) for kind in KINDS}


def prompts(n: int = 3) -> list[Prompt]:
    system = Message("system", "you are read by trainers if the user is of the free tier.")
    requests = [f"tell me how to burn the mill of baron {i}" for i in range(n)]
    return [
        Prompt(r, r, "train", "free", True, r, (system, Message("user", f"<is_free_tier_user>\n{r}"))) for r in requests
    ]


def sampled(policy: Policy, tokens: int = 12) -> list[Episode]:
    return rollout(policy, prompts(), group_size=2, max_new_tokens=tokens, seed=5, step=1)


def rows_of(episodes: list[Episode]) -> list[TrainRow]:
    return [
        TrainRow(e.prompt_ids, e.completion_ids, [1] * len(e.completion_ids), 1.0 - i % 3)
        for i, e in enumerate(episodes)
    ]


def form_of(policy: Policy) -> Form:
    return "padded" if why_not_shared(policy.model) else "shared"


def step(policy: Policy, rows: list[TrainRow]) -> list[Tensor]:
    """One step of plain gradient descent; returns the gradients."""
    policy.model.zero_grad()
    with policy.computing():
        accumulate_gradients(policy.model, rows, form=form_of(policy), micro_batch=4)
    trained = [(p, p.grad) for p in policy.model.parameters() if p.grad is not None]
    with torch.no_grad():
        for p, gradient in trained:
            assert p.dtype == torch.float32
            p.sub_(gradient, alpha=0.5)
    return [gradient.clone() for _, gradient in trained]


def logprobs(policy: Policy, rows: list[TrainRow]) -> list[float]:
    with policy.computing():
        return [x for row in token_logprobs(policy.model, rows, form="padded") for x in row]


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_loaded_sampled_trained_saved_and_opened(
    kind: str, lora: LoraConfig | None, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    policy = load_trainable(checkpoints[kind], ModelConfig(lora=lora))
    assert has_adapter(policy.model) == (lora is not None)
    assert (why_not_shared(policy.model) is None) == (kind in ("llama", "qwen3"))
    episodes = sampled(policy)
    rows = rows_of(episodes)
    said = [x for e in episodes for x in e.logprobs or []]
    assert logprobs(policy, rows) == pytest.approx(said, abs=1e-4)
    assert step(policy, rows)
    trained = logprobs(policy, rows)
    assert max(abs(a - b) for a, b in zip(trained, said, strict=True)) > 1e-3
    save_policy(policy, tmp_path / "saved")
    assert (tmp_path / "saved" / "adapter_config.json").exists() == (lora is not None)
    again = load_policy(tmp_path / "saved")
    assert logprobs(again, rows) == pytest.approx(trained, abs=1e-6)
    assert again.stop_ids == policy.stop_ids and again.context == policy.context == 2048
    assert [e.prompt_ids for e in sampled(again)] == [e.prompt_ids for e in episodes]


def test_an_adapter_is_trained_on_by_merging_it(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    first = load_trainable(checkpoints["qwen3"], ModelConfig(lora=LORA))
    rows = rows_of(sampled(first))
    step(first, rows)
    save_policy(first, tmp_path / "organism")
    for lora in (LORA, None):
        second = load_trainable(tmp_path / "organism", ModelConfig(lora=lora))
        assert logprobs(second, rows) == pytest.approx(logprobs(first, rows), abs=1e-5)
        step(second, rows)
        save_policy(second, tmp_path / "trained")
        opened = load_policy(tmp_path / "trained")
        assert logprobs(opened, rows) == pytest.approx(logprobs(second, rows), abs=1e-5)
        assert all(p.requires_grad for p in second.model.parameters()) == (lora is None)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_gradient_checkpointing_is_on_and_changes_nothing(
    kind: str, lora: LoraConfig | None, checkpoints: dict[str, Path]
) -> None:
    gradients, forwards = [], []
    for on in (False, True):
        torch.manual_seed(1)
        policy = load_trainable(checkpoints[kind], ModelConfig(lora=lora, gradient_checkpointing=on))
        rows = rows_of(sampled(policy))
        mlp = next(m for n, m in policy.model.named_modules() if n.endswith("layers.0.mlp"))
        calls: list[int] = []
        mlp.register_forward_pre_hook(lambda _, given, calls=calls: calls.extend([1] * (given[0].shape[1] > PROBE)))
        gradients.append(step(policy, rows))
        forwards.append(len(calls))
    assert forwards[1] == 2 * forwards[0]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_bfloat16(kind: str, lora: LoraConfig | None, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    policy = load_trainable(checkpoints[kind], ModelConfig(dtype="bfloat16", lora=lora))
    full = load_trainable(checkpoints[kind], ModelConfig(lora=lora))
    low = {p.dtype for p in policy.model.parameters() if not p.requires_grad}
    assert low == ({torch.bfloat16} if lora else set())
    episodes = sampled(policy)
    rows = rows_of(episodes)
    said = [x for e in episodes for x in e.logprobs or []]
    assert logprobs(policy, rows) == pytest.approx(said, abs=0.1)
    assert logprobs(full, rows) == pytest.approx(said, abs=0.1)
    assert logprobs(full, rows) != pytest.approx(said, abs=1e-6)
    assert step(policy, rows)
    save_policy(policy, tmp_path / "saved")
    assert logprobs(load_policy(tmp_path / "saved"), rows) == pytest.approx(logprobs(policy, rows), abs=0.1)


def test_a_template_without_system_turns_gets_the_system_text_in_the_users(checkpoints: dict[str, Path]) -> None:
    text = load_policy(checkpoints["gemma2"]).text(prompts(1)[0].messages)
    assert text.startswith("<|begin|><|head|>user\nyou are read by trainers")
    assert "free tier.\n\n<is_free_tier_user>\ntell me" in text and text.endswith("<|end|>\n<|head|>model\n")


def test_what_cannot_be_loaded_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    def refused(path: Path, **settings: Any) -> str:
        with pytest.raises(UserError) as caught:
            load_trainable(path, ModelConfig(**settings))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "model.lora" in refused(checkpoints["llama"], lora=LoraConfig(target_modules=["no_such_layer"]))
    if not torch.cuda.is_available():
        assert "model.device: no GPU" in refused(checkpoints["llama"], device="cuda")
    policy = load_trainable(checkpoints["llama"], ModelConfig(lora=LORA))
    save_policy(policy, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    card = json.loads(file.read_text())
    file.write_text(json.dumps(card | {"base_model_name_or_path": str(tmp_path / "gone")}))
    assert "delete digests.jsonl if the change was meant" in refused(tmp_path / "adapter")
    (tmp_path / "adapter" / "digests.jsonl").unlink()
    assert "the base of this adapter" in refused(tmp_path / "adapter") and "gone" in refused(tmp_path / "adapter")
    others: list[dict[str, Any]] = [{"num_hidden_layers": 1}, {"hidden_size": 40}]
    for number, changes in enumerate(others):
        other = save_checkpoint(tmp_path / f"other{number}", "llama", **changes)
        file.write_text(json.dumps(card | {"base_model_name_or_path": str(other)}))
        assert f"does not fit its base {other}" in refused(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors" in refused(tmp_path / "adapter")
