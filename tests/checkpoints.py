"""Small random checkpoints as a user would bring them: weights, tokenizer and chat template in one folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
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

LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_state": 8}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere": ("CohereConfig", {"logit_scale": 0.0625}),
    "cohere2": ("Cohere2Config", {"sliding_window": 16}),
    "falcon_h1": ("FalconH1Config", {**MAMBA, "mamba_d_ssm": 32, "mamba_d_head": 8}),
    "gemma2": ("Gemma2Config", {"sliding_window": 16, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0}),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 16, "query_pre_attn_scalar": 8}),
    "granite": ("GraniteConfig", {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "attention_multiplier": 0.1}),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        {**MAMBA, "mamba_d_head": 16, "layer_types": ["mamba", "attention"], "num_local_experts": 0}
        | {"shared_intermediate_size": 48, "logits_scaling": 4.0},
    ),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}),
    "llama": ("LlamaConfig", {}),
    "mamba": ("MambaConfig", {"state_size": 8}),
    "mamba2": ("Mamba2Config", {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2}),
    "mistral": ("MistralConfig", {"sliding_window": 16}),
    "olmo2": ("Olmo2Config", {}),
    "olmo3": ("Olmo3Config", {"sliding_window": 16}),
    "phi": ("PhiConfig", {}),
    "phi3": ("Phi3Config", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {}),
    "qwen3_5": ("Qwen3_5TextConfig", {**LINEAR, "layer_types": ["linear_attention", "full_attention"]}),
    "qwen3_next": (
        "Qwen3NextConfig",
        {
            **LINEAR,
            **EXPERTS,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "smollm3": ("SmolLM3Config", {}),
    "recurrent_gemma": ("RecurrentGemmaConfig", {"lru_width": 32, "attention_window_size": 16, "num_hidden_layers": 3}),
}
"""Config classes of transformers, and settings beside the common ones. The last has a cache that we cannot handle."""


def random_model(kind: str) -> PreTrainedModel:
    """A random model of an architecture, with weights large enough for states and caps to matter."""
    name, own = ARCHITECTURES[kind]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 120}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**(sizes | heads | tokens | own))).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
    return cast(PreTrainedModel, model)


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


def save_checkpoint(folder: Path, kind: str, turn_end: str | None = None, **changes: Any) -> Path:
    """Writes a random checkpoint of an architecture of KINDS, and returns its folder.

    With ``turn_end`` its template ends turns with that special token, which is not the tokenizer's end token.
    """
    config_class, chat, own = KINDS[kind]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_bytes()),
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=chat,
    )
    if turn_end is not None:
        tokenizer.add_tokens([AddedToken(turn_end, normalized=False, special=True)], special_tokens=True)
        tokenizer.chat_template = chat.replace("<|end|>", turn_end)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 2048}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 2}
    vocabulary = {"vocab_size": len(tokenizer), "bos_token_id": 1}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_class(**(sizes | heads | vocabulary | own | changes)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
