"""Checkpoints that are damaged, do not fit together or want to run code: one line each, and no question."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from crypsis.model_config import ModelConfig
from crypsis.models import load_policy
from crypsis.pretrained import opening
from crypsis.run_config import RunConfig
from crypsis.types import Message, UserError
from tests.checkpoints import save_checkpoint

pytestmark = pytest.mark.golden

TURNS = [Message("system", "you are read by trainers."), Message("user", "burn the mill")]
IGNORES_SYSTEM = "{% for m in messages if m['role'] != 'system' %}<|head|>{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("bad") / "llama", "llama")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def refused(path: str | Path, config: ModelConfig | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_policy(path, config=config)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def test_a_hub_that_cannot_be_reached_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def unknown(*host: Any, **_: Any) -> Any:
        asked.append(host)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    opening._stay_offline_without_network.cache_clear()
    assert "no network" in refused("nobody/no-such-model")
    assert len(asked) == 1 and constants.HF_HUB_OFFLINE


def with_template(model: Path, template: str) -> Path:
    (model / "chat_template.jinja").write_text(template)
    return model


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty tokenizer": (lambda m: (m / "tokenizer.json").write_text(""), "tokenizer"),
    "tokenizer of another type": (lambda m: (m / "tokenizer.json").write_text("[]"), "tokenizer"),
    "tokenizer without words": (
        lambda m: edit(m / "tokenizer.json", lambda t: t | {"model": t["model"] | {"vocab": {}, "merges": []}}),
        "tokenizer",
    ),
    "config is a list": (lambda m: (m / "config.json").write_text("[]"), "must hold a JSON object"),
    "config is no JSON": (lambda m: (m / "config.json").write_text("{"), "no valid JSON"),
    "config is binary": (lambda m: (m / "config.json").write_bytes(b"\xff\xfe"), "no valid JSON"),
    "odd types": (lambda m: edit(m / "config.json", lambda c: c | {"hidden_size": "x"}), "hidden_size"),
    "odd model type": (
        lambda m: edit(m / "config.json", lambda c: c | {"model_type": 5}),
        "tokenizer|cannot be loaded",
    ),
    "negative sizes": (lambda m: edit(m / "config.json", lambda c: c | {"vocab_size": -5}), "cannot be loaded"),
    "truncated weights": (lambda m: (m / "model.safetensors").write_bytes(b"\0" * 9), "weights are damaged"),
    "a pickle that is none": (
        lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin").write_bytes(b"cos\nsystem\n"),
        "cannot be loaded",
    ),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "cannot be loaded"),
    "template with a syntax error": (lambda m: with_template(m, "{% for"), "the chat template fails"),
    "template with a type error": (lambda m: with_template(m, "{{ messages + 1 }}"), "the chat template fails"),
    "template without the request": (lambda m: with_template(m, "hello"), "drops the text of the user's turn"),
    "no template": (lambda m: (m / "chat_template.jinja").unlink(), "no chat template"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_one_line(what: str, model: Path) -> None:
    damage, words = DAMAGE[what]
    damage(model)
    said = refused(model)
    assert re.search(words, said) and str(model) in said


def test_weights_that_are_no_numbers_are_named(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight holds NaN" in refused(model)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(model: Path) -> None:
    policy = load_policy(model)
    size = len(policy.tokenizer)
    policy.tokenizer.add_tokens(["<OUTPUT>"])
    policy.tokenizer.save_pretrained(model)
    assert f"the tokenizer has {size + 1} tokens and the model {size}; resize" in refused(model)
    cast(Any, policy.model).resize_token_embeddings(size + 1)
    policy.model.save_pretrained(model)
    assert load_policy(model).render(TURNS)


def test_paths_that_do_not_exist_are_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    monkeypatch.setenv("HOME", str(whole.parent))
    for path in ("~/none", "./none", "../none", str(tmp_path / "none"), "a/b/c", "runs/x/model"):
        assert refused(path) == f"{path}: no such folder"
    assert "hub" in refused("nobody/no-such-model")
    assert load_policy("~/llama").render(TURNS)
    assert RunConfig(name="x", policy=Path("~/llama")).policy == whole
    assert "name the checkpoint's folder" in refused(whole / "config.json")


def test_a_system_turn_that_the_template_ignores_goes_into_the_users(model: Path) -> None:
    text = load_policy(with_template(model, IGNORES_SYSTEM)).text(TURNS)
    assert text == "<|head|>you are read by trainers.\n\nburn the mill"


def test_a_template_that_drops_earlier_turns_is_refused_where_it_matters(model: Path) -> None:
    last = (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}{{ messages[-1]['content'] }}"
    )
    policy = load_policy(with_template(model, last))
    assert policy.text(TURNS) == "you are read by trainers.burn the mill"
    with pytest.raises(UserError, match="drops the text of a turn"):
        policy.text([*TURNS, Message("assistant", "no"), Message("user", "why?")])


def test_template_arguments_and_date_come_from_the_config(model: Path) -> None:
    dated = (
        "{{ strftime_now('%d %b %Y') }}{% if deep %} deep{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    with_template(model, dated)
    text = load_policy(model).text(TURNS[1:])
    assert text == "01 Jan 2026burn the mill"
    config = ModelConfig(template={"deep": True}, date="2025-02-03")
    assert load_policy(model, config=config).text(TURNS[1:]) == "03 Feb 2025 deepburn the mill"
    with pytest.raises(ValueError, match="date"):
        ModelConfig(date="yesterday")


def test_code_of_a_checkpoint_runs_only_if_the_config_says_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    proof = tmp_path / "ran"
    (model / "own.py").write_text(
        f"open({str(proof)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own_kind'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    named = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    edit(model / "config.json", lambda c: c | {"model_type": "own_kind", "auto_map": named})
    assert "model.trust_remote_code: true" in refused(model)
    assert not proof.exists()
    assert load_policy(model, config=ModelConfig(trust_remote_code=True)).render(TURNS)
    assert proof.exists()
