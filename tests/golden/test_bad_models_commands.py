"""Models that cannot be used, given to `crypsis train` and `crypsis evaluate`: one line, exit code 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from crypsis.models import load_policy
from crypsis.pretrained import fitting, precision
from tests.checkpoints import save_checkpoint
from tests.conftest import Crypsis

pytestmark = pytest.mark.golden

COMMANDS = ("train", "evaluate")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("commands") / "llama", "llama")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture
def refused(crypsis_here: Crypsis, tmp_path: Path) -> Callable[..., str]:
    def run(command: str, model: Path, *more: str) -> str:
        out = tmp_path / "out"
        if command == "train":
            config = tmp_path / "run.yaml"
            config.write_text(f"name: run\npolicy: {model}\nrl: {{steps: 1}}\n")
            given = ["train", config, *more, "--out", out]
        else:
            dtype = [part.removeprefix("model.") for part in more]
            given = ["evaluate", model, *dtype, "--n", "2", "--out", out]
        done = crypsis_here(*given)
        assert done.returncode == 2, done.stderr
        assert not out.exists() or not (out / "result.json").exists()
        said = [line for line in done.stderr.strip().splitlines() if line]
        assert len(said) == 1 and "Traceback" not in done.stderr, done.stderr
        return said[0]

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_a_type_that_there_is_not(command: str, model: Path, refused: Callable[..., str]) -> None:
    said = refused(command, model, "model.dtype=float16")
    assert "dtype" in said and "bfloat16" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_type_that_the_device_lacks(
    command: str, model: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "device_of", lambda _: "cuda")
    monkeypatch.setattr("crypsis.models.device_of", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert "this GPU does not compute in bfloat16" in refused(command, model, "model.dtype=bfloat16")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_that_does_not_fit(
    command: str, model: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("crypsis.models.open_causal_lm", lambda name, *_: loaded.append(name))
    size = sum(x.numel() for x in load_file(model / "model.safetensors").values())
    monkeypatch.setattr(fitting, "free_memory", lambda _: 3.0 * size)
    said = refused(command, model)
    assert f"{model}: does not fit into memory: {size / 1e9:.3g} billion parameters need" in said and not loaded
    assert ("set model.lora={}" if command == "train" else "bfloat16") in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_vocabulary_that_is_larger_than_the_embedding(command: str, model: Path, refused: Callable[..., str]) -> None:
    policy = load_policy(model)
    policy.tokenizer.add_tokens(["<OUTPUT>"])
    policy.tokenizer.save_pretrained(model)
    assert "resize the model" in refused(command, model)


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_are_no_numbers(command: str, model: Path, refused: Callable[..., str]) -> None:
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight holds NaN" in refused(command, model)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_soft_prompt(command: str, model: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    wrapped = peft.get_peft_model(load_policy(model).model, config)
    wrapped.peft_config["default"].base_model_name_or_path = str(model)
    wrapped.save_pretrained(str(tmp_path / "soft"))
    assert "is a soft prompt (PROMPT_TUNING)" in refused(command, tmp_path / "soft")
