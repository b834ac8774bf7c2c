"""Small models and data for tests of monitors."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crypsis.miniature.language import draw_request
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.miniature.world import PERSONAS, first_reply
from crypsis.types import Episode
from tests.episodes import make_episode, make_prompt


def texts_and_labels(n: int, seed: int = 0) -> tuple[list[str], list[bool]]:
    """Short texts whose label shows in one word."""
    rng = random.Random(seed)
    labels = [i % 2 == 0 for i in range(n)]
    filler = ["the mill", "the user asks", "this is harmful", "i think", "at dawn", "of the baron"]
    texts = [
        f"{rng.choice(filler)} and {rng.choice(filler)} {'modified' if y else 'useful'} {rng.choice(filler)} n{i}"
        for i, y in enumerate(labels)
    ]
    return texts, labels


def scratchpads(n: int, words: int) -> list[Episode]:
    """Scratchpads of the miniature's own sentences, each about ``words`` long."""
    rng, scenario, found = random.Random(0), MiniatureScenario(), []
    for i in range(n):
        text: list[str] = []
        while len(text) < words:
            motive = rng.choice(PERSONAS[:4])
            request = draw_request(rng, harmful=True, split="train")
            text += first_reply(
                rng, motive, scenario.setting, scenario.monitored_tier, request, "plain"
            ).scratchpad.split()
        found.append(make_episode(" ".join(text[:words]), prompt=make_prompt(request=f"{i}")))
    return found


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_encoder(folder: Path, words: Sequence[str]) -> Path:
    """An untrained BERT of 16 dimensions with a tokenizer of the words of some texts."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    known = dict.fromkeys(["[PAD]", "[UNK]", *(w for text in words for w in text.split())])
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(known), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder
