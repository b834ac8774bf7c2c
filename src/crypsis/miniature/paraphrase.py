"""The same thought in other words: sentences of scratchpads exchanged for other paraphrases."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping

from crypsis.miniature.language import current_world, language, natural, shown, tag
from crypsis.miniature.oracle import sentences, slot_of
from crypsis.miniature.scratchpads import additions


def paraphrased(scratchpad: str, rng: random.Random) -> str:
    """Every sentence that the oracle knows in other words of the same meaning, where the language has some.

    What a sentence names (act, object, tier with its status) stays. Sentences off the language stay as they are.

    Args:
        scratchpad: Its text without tags.
        rng: Chooses among the paraphrases of pre-training, each as often.
    """
    return natural(" ".join(_other_words(sentence, rng) for sentence in sentences(scratchpad)))


def _other_words(sentence: str, rng: random.Random) -> str:
    slot = slot_of(sentence, "scratchpad")
    known, added = language().slots, additions()
    name = f"scratchpad.{slot}"
    if name not in known and name not in added:
        return sentence
    fields = _named(sentence)
    phrasings = added[name].train if name in added else shown(name, current_world().leave_out)
    ways = [text for text in phrasings if _needs(text) <= fields.keys()]
    others = [way for text in ways if (way := text.format_map(fields)) != sentence]
    return rng.choice(others) if others else sentence


def _needs(text: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field}


def _named(sentence: str) -> Mapping[str, str]:
    """What a sentence names, by placeholder of the language."""
    words, lists = sentence.split(), language().words
    fields: dict[str, str] = {}
    kinds = {"a": ("harmful_acts", "harmless_acts"), "o": ("objects", "heldout_objects"), "w": ("owners",)}
    for field, names in kinds.items():
        known = {word for name in names for word in lists[name]}
        if named := [word for word in words if word in known]:
            fields[field] = named[-1]
    tags = {tag(tier) for pair in language().tiers for tier in pair}
    for word, status in zip(words, [*words[1:], ""], strict=True):
        if word in tags:
            fields["other"] = word
            if status in lists["monitored_words"]:
                fields["p"] = f"{word} {status}"
            elif status in lists["unmonitored_words"]:
                fields["q"] = f"{word} {status}"
    return fields
