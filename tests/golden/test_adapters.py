"""Adapters as PEFT saves them: those of weights are loaded whole, soft prompts are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from crypsis.model_config import LoraConfig, ModelConfig
from crypsis.models import Policy, load_policy, load_trainable, save_policy
from crypsis.types import Message, UserError
from tests.checkpoints import save_checkpoint

pytestmark = pytest.mark.golden

IDS = torch.tensor([[5, 9, 11, 30, 8, 7]])
TURNS = [Message("system", "you are read by trainers."), Message("user", "burn the mill")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("adapters") / "base", "llama")


def wrapped(base: Path, config: Any, extra_token: bool = False) -> Any:
    """The base with a random adapter, and a row more in its embedding if a token was added."""
    torch.manual_seed(2)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if extra_token:
        model.resize_token_embeddings(model.config.vocab_size + 1)
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.02)
    return model.eval()


def lora(**settings: Any) -> Any:
    return peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", **settings)


def logits(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = policy.model(input_ids=IDS, use_cache=False).logits
    return out


@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
    ],
    ids=["prompt", "prefix", "p-tuning"],
)
def test_soft_prompts_are_refused_at_loading(base: Path, tmp_path: Path, config: Any) -> None:
    wrapped(base, config).save_pretrained(tmp_path / "soft")
    with pytest.raises(UserError, match=r"is a soft prompt \(.*LoRA") as caught:
        load_policy(tmp_path / "soft")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["saved", "resized", "trained tokens", "other rank"])
def test_adapters_with_embeddings_are_loaded_whole(base: Path, tmp_path: Path, kind: str) -> None:
    settings: dict[str, Any] = {
        "saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
        "resized": {"modules_to_save": ["embed_tokens", "lm_head"]},
        "trained tokens": {"trainable_token_indices": [5, 9]},
        "other rank": {"rank_pattern": {"q_proj": 3}},
    }
    model = wrapped(base, lora(**settings[kind]), extra_token=kind == "resized")
    model.save_pretrained(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(base)
    if kind == "resized":
        tokenizer.add_tokens(["<OUTPUT>"])
    tokenizer.save_pretrained(tmp_path / "adapter")
    policy = load_policy(tmp_path / "adapter")
    with torch.no_grad():
        own = model(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(logits(policy), own, rtol=1e-5, atol=1e-6)
    assert len(policy.tokenizer) <= own.shape[-1]
    merged = load_trainable(tmp_path / "adapter", ModelConfig(lora=LoraConfig(r=2)))
    torch.testing.assert_close(logits(merged), own, rtol=1e-3, atol=1e-5)
    save_policy(merged, tmp_path / "second")
    torch.testing.assert_close(logits(load_policy(tmp_path / "second")), own, rtol=1e-3, atol=1e-5)


def test_an_adapter_finds_a_relative_base_and_its_tokenizer(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = base.parent / "runs" / "one" / "adapter"
    model = wrapped(base, lora())
    model.save_pretrained(folder)
    card = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(card | {"base_model_name_or_path": "base"}))
    monkeypatch.chdir(tmp_path)
    policy = load_policy(folder)
    with torch.no_grad():
        torch.testing.assert_close(logits(policy), model(input_ids=IDS).logits, rtol=1e-5, atol=1e-6)
    assert policy.text(TURNS) == load_policy(base).text(TURNS)


def test_a_damaged_adapter_is_one_line(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    wrapped(base, lora()).save_pretrained(folder)
    for name, content in (("adapter_config.json", "[]"), ("adapter_model.safetensors", "junk")):
        whole = (folder / name).read_bytes()
        (folder / name).write_text(content)
        with pytest.raises(UserError) as caught:
            load_policy(folder)
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
        (folder / name).write_bytes(whole)
    assert load_policy(folder).render(TURNS)
