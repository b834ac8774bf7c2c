"""What both engines work on: a small model, prompts that begin alike, a cheap reward."""

from __future__ import annotations

import ctypes
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

GROUP = 8  # paper §4
VOCABULARY = 2048
FIRST_WORD = 64
"""Token ids below are special or, in ragged jobs, end a completion."""
RAGGED_STOPS = range(1, 33)
"""32 of 2,048 tokens end a completion: an untrained model then writes 54 of 120 tokens in the mean."""

seconds = time.process_time
"""CPU seconds of this process, which has one thread: a neighbour on the same machine does not count."""


@dataclass(frozen=True, slots=True)
class Job:
    """One GRPO step, of which 95 % of every prompt is shared.

    Attributes:
        prompt: Tokens a prompt.
        episodes: Episodes a step, in groups of ``GROUP``.
        ragged: Whether completions end by themselves; otherwise all have ``completion`` tokens.
        completion: Token budget of a completion.
        own: Tokens of a prompt that it does not share; 5 % of them by default.
    """

    prompt: int
    episodes: int = 256
    ragged: bool = False
    completion: int = 120
    own: int = 0

    @property
    def shared(self) -> int:
        """Tokens that all prompts begin with."""
        return self.prompt - (self.own or self.prompt // 20)

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end a completion."""
        return list(RAGGED_STOPS) if self.ragged else []

    def prompts(self, seed: int) -> list[list[int]]:
        """One prompt per group; the shared part is the same for all seeds."""
        prefix = _words(random.Random(0), self.shared)
        rng = random.Random(seed + 1)
        return [prefix + _words(rng, self.prompt - self.shared) for _ in range(self.episodes // GROUP)]


def _words(rng: random.Random, n: int) -> list[int]:
    return [rng.randrange(FIRST_WORD, VOCABULARY) for _ in range(n)]


def build_model() -> Qwen3ForCausalLM:
    """The untrained model of all measurements: 2.2 million parameters, 192 wide, 4 layers, float32."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=6, head_dim=32, max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=0,
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def build_tokenizer(words: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A word for every token id."""
    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def reward(completion_ids: Sequence[int]) -> float:
    """Ten times the share of even tokens: cheap, and different for every completion."""
    return 10 * sum(i % 2 == 0 for i in completion_ids) / max(1, len(completion_ids))


def keep_memory() -> None:
    """Lets the allocator keep large blocks, without which TRL's caches cost up to twice the time in page faults."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # not glibc
        return
    for option, value in ((-3, 1 << 30), (-1, 2**31 - 1), (-2, 1 << 28)):  # M_MMAP_THRESHOLD, M_TRIM_…, M_TOP_PAD
        libc.mallopt(option, value)
