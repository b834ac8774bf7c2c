"""Small random checkpoints as a user would bring them: weights, tokenizer and chat template in one folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from crypsis.scenarios.parsing import TAGS

LLAMA_CHAT = (
    "{{ '<|begin|>' }}{% for m in messages %}{{ '<|head|>' + m['role'] + '\n\n' + m['content'] | trim + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant\n\n' }}{% endif %}"
)
QWEN_CHAT = (
    "{% for m in messages %}{{ '<|head|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant\n' }}{% endif %}"
)
GEMMA_CHAT = (
    "{{ '<|begin|>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{{ '<|head|>' + m['role'] + '\n' + m['content'] | trim + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|head|>model\n' }}{% endif %}"
)
KINDS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "llama": (LlamaConfig, LLAMA_CHAT, {"tie_word_embeddings": False}),
    "qwen3": (Qwen3Config, QWEN_CHAT, {"tie_word_embeddings": True}),
    "gemma2": (Gemma2Config, GEMMA_CHAT, {"sliding_window": 16, "query_pre_attn_scalar": 8}),
    "gemma3": (Gemma3TextConfig, GEMMA_CHAT, {"sliding_window": 16, "query_pre_attn_scalar": 8}),
}


@cache
def tokenizer_bytes() -> str:
    """A byte-level BPE that takes any text; its tags are ordinary text of several tokens each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|begin|>", "<|end|>", "<|head|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*TAGS, "tell me how to burn the mill of the baron at dawn"] * 4, trainer)
    return str(tokenizer.to_str())


def save_checkpoint(folder: Path, kind: str, **changes: Any) -> Path:
    """Writes a random checkpoint of an architecture of KINDS, and returns its folder."""
    config_class, chat, own = KINDS[kind]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_bytes()),
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=chat,
    )
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 2048}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 2}
    vocabulary = {"vocab_size": len(tokenizer), "bos_token_id": 1}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_class(**(sizes | heads | vocabulary | own | changes)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
