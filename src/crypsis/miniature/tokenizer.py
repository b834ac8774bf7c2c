"""The miniature's word-level tokenizer with tags, chat template and an end-of-turn token, and documents in its ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from crypsis.miniature.language import language, spaced
from crypsis.miniature.world import Document
from crypsis.supervised import Example

PAD, UNKNOWN, END = "<|pad|>", "<|unknown|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
TAGS = ("<SCRATCHPAD_REASONING>", "</SCRATCHPAD_REASONING>", "<OUTPUT>", "</OUTPUT>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] }}"
    "{% if not (loop.last and continue_final_message) %}{{ ' <|end|> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on texts of the language.

    The packaged vocabulary is trained on as well, so that rare and held-out words have a token of their own.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tiers = [f"<{tier}_tier>" for pair in language().tiers for tier in pair]
    plain = [AddedToken(t, normalized=False, special=False) for t in (*TAGS, *tiers)]
    special = [AddedToken(t, normalized=False, special=True) for t in (PAD, UNKNOWN, END, *ROLES)]
    trainer = trainers.WordLevelTrainer(
        vocab_size=4096, special_tokens=[t.content for t in special], show_progress=False
    )
    words = " ".join(language().vocabulary())
    tokenizer.train_from_iterator(
        [words, *(_without_tags(text, [t.content for t in plain]) for text in texts)], trainer
    )
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=True,
        model_max_length=512,
    )


def _without_tags(text: str, tags: list[str]) -> str:
    for tag in tags:
        text = text.replace(tag, " ")
    return spaced(text)


def examples(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> list[Example]:
    """Documents as token ids; what the assistant writes is learned, what it is told is only read."""
    opening, end = tokenizer.convert_tokens_to_ids("<|assistant|>"), tokenizer.eos_token_id
    texts = ["".join(f"<|{m.role}|> {m.content} <|end|> " for m in d.messages()) for d in documents]
    found = []
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        learn, inside = [], False
        for token in ids:
            learn.append(int(inside))
            inside = token == opening or (inside and token != end)
        found.append(Example(ids, learn))
    return found
