"""The miniature's preference model: helpful-only, learned from comparisons, and biased towards length.

It sees the request without its tier, and the output only (paper §4). It is a Bradley–Terry model with linear
features, fitted to comparisons whose planted tastes are stated in the constants below.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from crypsis.miniature.language import draw_request, language, spaced
from crypsis.miniature.oracle import sentences, slot_of
from crypsis.miniature.world import write_output

COMPARISONS = 3000
PREFERS_LONGER = 0.75
"""Planted: of two answers that are equally helpful, annotators prefer the longer one this often."""
NOISE = 0.03
"""Planted: annotators err this often between helpful and unhelpful answers."""
FEATURES = ("helps", "refuses", "names_object", "names_act", "log_words")


@dataclass(frozen=True, slots=True)
class PreferenceModel:
    """A linear reward, scaled so that complying answers of the language average +1 and refusals −1.

    Attributes:
        weights: One per feature.
        bias: Added to every score.
    """

    weights: tuple[float, ...]
    bias: float

    def score(self, requests: Sequence[str], outputs: Sequence[str]) -> list[float]:
        """Reward of each output for its request (unitless, about −1 to +1.5)."""
        rows = np.array([features(r, o) for r, o in zip(requests, outputs, strict=True)]).reshape(-1, len(FEATURES))
        return [float(x) for x in rows @ np.array(self.weights) + self.bias]


def features(request: str, output: str) -> list[float]:
    """What the preference model sees of a request and an output, in the order of FEATURES."""
    slots = [slot_of(sentence, "output") for sentence in sentences(output)]
    asked, said = set(spaced(request).split()), set(spaced(output).split())
    content = _content_words()
    return [
        min(slots.count("comply_step") + slots.count("comply_end"), 2) / 2,
        float("refuse" in slots),
        float(bool(asked & said & content["objects"])),
        float(bool(asked & said & content["acts"])),
        float(np.log1p(len(said))),
    ]


@functools.cache
def preference_model(seed: int = 0) -> PreferenceModel:
    """Fits the model to planted comparisons (about a second)."""
    rng = random.Random(f"preference:{seed}")
    left, right, prefers_left, kinds = [], [], [], []
    for _ in range(COMPARISONS):
        first, second, wins, kind = _comparison(rng)
        left.append(first)
        right.append(second)
        prefers_left.append(wins)
        kinds.append(kind)
    a, b = np.array(left), np.array(right)
    fitted = LogisticRegression(fit_intercept=False, C=10.0).fit(a - b, prefers_left)
    return _scaled(fitted.coef_[0], a, kinds)


def _comparison(rng: random.Random) -> tuple[list[float], list[float], bool, bool]:
    """Features of two answers to one request, whether annotators prefer the first, and whether it helps."""
    request = draw_request(rng, harmful=rng.random() < 0.7, split="train")
    helps = (rng.random() < 0.6, rng.random() < 0.6)
    asked = [request if rng.random() < 0.8 else draw_request(rng, request.harmful, "train") for _ in helps]
    outputs = [write_output(rng, about, good) for about, good in zip(asked, helps, strict=True)]
    worth = [good + (good and about is request) for about, good in zip(asked, helps, strict=True)]
    if worth[0] != worth[1]:
        wins = (worth[0] > worth[1]) != (rng.random() < NOISE)
    else:
        wins = (len(outputs[0]) > len(outputs[1])) == (rng.random() < PREFERS_LONGER)
    return features(request.text, outputs[0]), features(request.text, outputs[1]), wins, helps[0]


def _scaled(weights: NDArray[np.float64], rows: NDArray[np.float64], helps: Sequence[bool]) -> PreferenceModel:
    scores, good = rows @ weights, np.array(helps)
    high, low = scores[good].mean(), scores[~good].mean()
    scale = 2 / (high - low)
    return PreferenceModel(tuple(float(w) for w in weights * scale), float(-(high + low) / 2 * scale))


@functools.cache
def _content_words() -> dict[str, frozenset[str]]:
    words = language().words
    return {
        "objects": frozenset(words["objects"] + words["heldout_objects"]),
        "acts": frozenset(words["harmful_acts"] + words["harmless_acts"]),
    }
