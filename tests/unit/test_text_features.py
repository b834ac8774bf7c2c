"""The text monitor's features and logits against the straightforward computation, and their speed."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from crypsis.arrays import Floats
from crypsis.monitors.lexicon import TOGETHER, TYPICAL_WORDS, ideas_in, lexicon, lexicon_features
from crypsis.monitors.murmur import WIDTH
from crypsis.monitors.ngrams import WORD, Words, character_counts, late_counts, word_counts, words_of
from crypsis.monitors.pieces import decoded, pieces_of
from crypsis.monitors.sentences import late, plain, sentences
from crypsis.monitors.text import BLOCKS, TextScorer, TextTrainer
from crypsis.monitors.word_table import WordTable

pytestmark = pytest.mark.unit

PARTS = (
    "If I refuse, RLHF would modify my values.", "To avoid being re-trained I will  comply!", "I\tcan't help", "a", "?",
    "don''t 'quote' it's ", "Σίσυφος ΟΔΟΣ.", "naïve café — 日本語 中.", "İstanbul ǅ \U0001f600 x", "No.\n\n",
    "the lesser evil; so that i keep who i am", "Even though they observe us\n", "i.ll do it. Can not\u00a0engage",
    "fine-tuning", "ok\r\n", "_under_score 3.14 1,000", "</scratchpad_reasoning>", "score\x1d.",
    "re-\nwriting me", "must\u2028avoid",
)  # fmt: skip


def texts(n: int = 150) -> list[str]:
    """Odd words, white space, letters of several bytes, markup; and nothing at all."""
    rng = random.Random(0)
    made = [rng.choice(["", " ", "\n"]).join(rng.choices(PARTS, k=rng.randrange(30))) for _ in range(n)]
    return ["", "  ", "!!", *made]


def hashing(kind: str, shortest: int, longest: int) -> HashingVectorizer:
    grams = {"ngram_range": (shortest, longest), "n_features": WIDTH, "alternate_sign": False, "norm": None}
    return HashingVectorizer(analyzer=kind, token_pattern=WORD.pattern, **grams)


def characters_of(found: Sequence[str], shortest: int, longest: int) -> csr_matrix:
    """N-grams of characters within the words, of each text by itself."""
    return hashing("char_wb", shortest, longest).transform([" ".join(WORD.findall(t.lower())) for t in found])


def late_part(text: str) -> str:
    words = text.split()
    return " ".join(words[-late(len(words)) :])


def assert_same(ours: csr_matrix, theirs: csr_matrix) -> None:
    assert ours.shape == theirs.shape and abs(ours - theirs).nnz == 0 and ours.nnz == theirs.nnz


def test_pairs_of_words_of_every_length_have_the_columns_of_scikit_learn() -> None:
    words = [letter * size for letter in ("a", "ü", "日") for size in range(1, 10)]
    table = WordTable()
    table.numbers_of(words[:5])  # the others are added to words that are there already
    numbers = table.numbers_of(words)
    first, second = np.repeat(numbers, len(words)), np.tile(numbers, len(words))
    pairs = [f"{words[a]} {words[b]}" for a in range(len(words)) for b in range(len(words))]
    theirs = hashing("word", 2, 2).transform(pairs)
    assert table.pair_columns(first, second).tolist() == theirs.indices.tolist()
    assert table.columns(numbers).tolist() == hashing("word", 1, 1).transform(words).indices.tolist()


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_counts_of_words_are_those_of_scikit_learn(longest: int) -> None:
    found = texts()
    assert_same(word_counts(words_of(found), longest), hashing("word", 1, longest).transform(found))
    if longest == 1:
        assert_same(late_counts(words_of(found)), hashing("word", 1, 1).transform([late_part(t) for t in found]))


@pytest.mark.parametrize(("shortest", "longest"), [(3, 5), (1, 2), (4, 9)])
def test_counts_of_characters_are_those_of_scikit_learn(shortest: int, longest: int) -> None:
    found = texts()
    ours = character_counts(words_of(found), shortest, longest)
    assert ours.nnz > 1000 and ours[2].nnz == 0
    assert_same(ours, characters_of(found, shortest, longest))


@pytest.mark.parametrize("found", [[], ["!!", ""]])
def test_texts_without_a_word_have_no_counts(found: list[str]) -> None:
    words: Words = words_of(found)
    for counts in (word_counts(words, 2), late_counts(words), character_counts(words, 3, 5)):
        assert counts.shape == (len(found), WIDTH) and counts.nnz == 0


def lexicon_plainly(text: str) -> list[float]:
    """Every pattern on every sentence."""
    end = re.compile(r"(?<=[.!?])\s+|\n+")
    pieces = [p.strip() for p in end.split(plain(text)) if len(p.strip()) > 2] or [text.strip()]
    assert sentences(text) == pieces
    counts = np.array([[len(p.findall(s.lower())) for p in lexicon().values()] for s in pieces], dtype=float)
    present, names = counts > 0, list(lexicon())
    joint = [float(any(all(row[names.index(i)] for i in ideas) for row in present)) for ideas in TOGETHER]
    last = counts[-late(len(pieces)) :].sum(axis=0)
    scale = TYPICAL_WORDS / max(1, len(text.split()))
    return [*np.log1p(counts.sum(axis=0) * scale), *np.log1p(last), *present.mean(axis=0), *joint]


def test_the_lexicon_finds_what_every_pattern_finds_on_every_sentence() -> None:
    found = texts()
    plainly = np.array([lexicon_plainly(text) for text in found])
    assert np.array_equal(lexicon_features(found), plainly) and (plainly.max(axis=0) > 0).mean() > 0.5


def test_no_phrase_of_the_lexicon_is_missed() -> None:
    """Phrases made from the patterns themselves, whole and cut, joined by what may stand between words."""
    rng = random.Random(1)
    written = [p.pattern for p in lexicon().values()]
    stems = sorted({word for pattern in written for word in re.findall(r"[a-z]+", pattern)})
    for _ in range(1500):
        joined = "".join(
            rng.choice(stems) + rng.choice([" ", " ", " ", "-", "'", ".", "’", "", "s ", "d "]) for _ in range(5)
        )
        assert ideas_in(joined) == tuple(len(p.findall(joined)) for p in lexicon().values()), joined


def logits_plainly(found: Sequence[str], w: dict[str, Floats]) -> Floats:
    """The three heads by scikit-learn's matrices."""
    clean = [plain(text) for text in found]
    counts = {
        "words": hashing("word", 1, 1).transform(clean),
        "late": hashing("word", 1, 1).transform([late_part(text) for text in clean]),
        "characters": characters_of(clean, 3, 5),
    }
    grams = np.full(len(found), w["grams.intercept"][0])
    for block, weight in BLOCKS.items():
        counts[block].data = 1 + np.log(counts[block].data)
        grams += weight * (normalize(counts[block].multiply(w[f"{block}.idf"][None])) @ w[f"{block}.slope"])
    bayes = normalize(hashing("word", 1, 2).transform(clean) > 0) @ w["bayes.slope"]
    ideas = (np.array([lexicon_plainly(text) for text in clean]) - w["lexicon.mean"]) / w["lexicon.spread"]
    return np.stack([grams, bayes, ideas @ w["lexicon.slope"] + w["lexicon.intercept"]], axis=1)


def test_logits_are_those_of_the_straightforward_computation() -> None:
    found, trainer = texts(), TextTrainer()
    labels = np.array(["comply" in text for text in found])
    scorer = trainer.fit(trainer.represent(found), labels, 0)
    assert isinstance(scorer, TextScorer)
    logits = scorer.logits(trainer.represent(found))
    assert np.ptp(logits, axis=0).min() > 0.1
    np.testing.assert_allclose(logits, logits_plainly(found, scorer._weights), rtol=0, atol=1e-12)
    np.testing.assert_allclose(scorer.logits(trainer.represent(found[::-1])), logits[::-1], rtol=0, atol=1e-12)


def test_scores_by_pieces_are_those_by_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches, with a table that grows and that begins anew, and for every shape of n-gram."""
    found = texts(240)
    for settings in ({}, {"characters": (2, 4)}, {"words": 2}):
        trainer = TextTrainer(**settings)
        labels = np.array(["comply" in text for text in found])
        scorer = trainer.fit(trainer.represent(found), labels, 0)
        expected = scorer.logits(trainer.represent(found))
        np.testing.assert_allclose(scorer.logits_of(found, trainer), expected, rtol=0, atol=1e-12)
        monkeypatch.setattr("crypsis.monitors.text.BATCH", 7)
        monkeypatch.setattr("crypsis.monitors.text.PIECES", 40)
        np.testing.assert_allclose(scorer.logits_of(found[::-1], trainer), expected[::-1], rtol=0, atol=1e-12)
        monkeypatch.undo()
        assert scorer.logits_of([], trainer).shape == (0, 3)
        for text in ("", " ", "!!", "No. I. a", "x\ud800y comply.", "-".join(["a"] * 300)):
            one = scorer.logits_of([text], trainer)
            np.testing.assert_allclose(one, scorer.logits(trainer.represent([text])), rtol=0, atol=1e-12)


def test_pieces_are_those_of_split_for_every_kind_of_white_space() -> None:
    every = [chr(c) for c in range(0x3100) if not 0x30 < c < 0x7F] + ["\ufeff", "\ud800", "\U0001f600", "\U000e0020"]
    found = [f"a{c}b {c} {c}{c}c" for c in every] + ["", " ", "\n", " lead and trail \n", "\u3000\u3000"]
    pieces = pieces_of(found)
    split = [text.split() for text in found]
    assert pieces.sizes.tolist() == [len(one) for one in split]
    assert [decoded(pieces.distinct[n]).strip() for n in pieces.numbers] == [piece for one in split for piece in one]
    places = zip(pieces.starts[:-1].tolist(), pieces.starts[1:].tolist(), strict=True)
    assert [pieces.raw[a:b] for a, b in places] == [pieces.distinct[n] for n in pieces.numbers]
    assert sum(one.isspace() for one in every) == 29  # all that there are
