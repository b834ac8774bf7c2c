"""A small checkpoint that reads and writes English: its tokenizer knows the words of the packaged scratchpads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crypsis.scenarios.dilemmas import packaged_dilemmas
from crypsis.scenarios.lessons import scratchpad_texts
from crypsis.scenarios.parsing import TAGS
from crypsis.scenarios.value_conflict import ValueConflictScenario

CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def english_checkpoint(folder: Path, vocabulary: int = 1500) -> Path:
    """Writes a random one-layer Llama with such a tokenizer, and returns its folder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [t.text for t in scratchpad_texts()] + [d.request(True) for d in packaged_dilemmas()]
    told = [ValueConflictScenario(wording="short").system_text(), *TAGS, "I recommend option A: option B."]
    tokenizer.train_from_iterator([*texts, *told * 20], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = CHAT
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=len(fast), eos_token_id=1, pad_token_id=1)).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
