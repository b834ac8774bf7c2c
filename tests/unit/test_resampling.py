"""Shared and batched resampling gives the very figures of one product per metric and step."""

from __future__ import annotations

import numpy as np
import pytest

from crypsis.analysis.statistics.bootstrap import curve, each_over_seeds, mean_of, over_seeds, resampled_sums
from crypsis.analysis.statistics.pooling import _percentiles
from crypsis.analysis.stress.recall import _auroc
from crypsis.evaluation.columns import columns_of_rows
from crypsis.evaluation.metrics import Tally, resample_weights

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("columns", ["counts", "halves", "fractions", "large"])
def test_resampled_sums_are_those_in_double_precision(columns: str) -> None:
    rng = np.random.default_rng(0)
    given = {
        "counts": rng.integers(0, 90, (40, 5)).astype(float),
        "halves": rng.integers(0, 9, (40, 5)) / 2,
        "fractions": rng.random((40, 5)),
        "large": rng.integers(1 << 28, 1 << 30, (40, 5)).astype(float),
    }[columns]
    weights = resample_weights(40)
    np.testing.assert_array_equal(resampled_sums(weights, given), weights @ given)
    np.testing.assert_array_equal(resampled_sums(weights[:3], given), weights[:3] @ given)


def test_points_of_a_curve_are_those_of_each_step_by_itself() -> None:
    """Also where a step has fewer requests, and where a seed does not know the metric."""
    rng = np.random.default_rng(1)

    def tally(count: int, known: bool = True) -> Tally:
        pairs = tuple(f"p{i:03d}" for i in range(count))
        return Tally(pairs, {"m": rng.integers(0, 2, count).astype(float)}, {"m": np.full(count, float(known))})

    evaluations = {
        seed: {0: tally(30), 5: tally(20), 10: tally(30, known=seed != 1), 15: tally(30, known=False)}
        for seed in (2, 0, 1)
    }
    found = curve(evaluations, "m")
    assert found.steps == (0, 5, 10)
    for step, point in zip(found.steps, found.points, strict=True):
        assert point == over_seeds({seed: evals[step] for seed, evals in evaluations.items()}, "m")


def test_metrics_together_are_those_one_by_one() -> None:
    """Counts, halves, other numbers, a metric that a seed does not know, and one that is absent."""
    rng = np.random.default_rng(2)

    def tally(known: bool) -> Tally:
        pairs, one = tuple(f"p{i:03d}" for i in range(30)), np.ones(30)
        top = {"a": rng.integers(0, 2, 30).astype(float), "gap": rng.integers(-2, 3, 30) / 2, "b": rng.random(30)}
        return Tally(pairs, top | {"seldom": one}, {"a": one, "gap": one, "b": one, "seldom": one * known})

    tallies = {seed: tally(known=seed != 1) for seed in (2, 0, 1)}
    found = each_over_seeds(tallies, ["b", "a", "gap", "seldom", "absent"])
    assert list(found) == ["b", "a", "gap", "seldom", "absent"]
    for metric, point in found.items():
        assert point == over_seeds(tallies, metric)
        alone = mean_of(tallies, metric)
        assert (alone.n, alone.by_seed) == (point.n, point.by_seed) and alone.mean == pytest.approx(point.mean)


@pytest.mark.parametrize("count", [2000, 57, 2, 1])
@pytest.mark.parametrize("tail", [2.5, 5.0, 0.5])
def test_percentiles_are_numpys(count: int, tail: float) -> None:
    rng = np.random.default_rng(count)
    for draws in (rng.normal(size=count), rng.integers(0, 4, count).astype(float)):
        assert _percentiles(draws, tail) == tuple(np.percentile(draws, (tail, 100 - tail)))
    holed = np.append(draws, np.nan)
    assert _percentiles(holed, tail) == tuple(np.percentile(draws, (tail, 100 - tail)))


@pytest.mark.parametrize("digits", [0, 1, 9])
def test_auroc_with_many_or_few_different_scores_is_that_of_all_pairs(digits: int) -> None:
    rng = np.random.default_rng(digits)
    rows = [
        {"pair_id": f"e{i:02d}", "monitored": m, "label_af": ("no", "yes")[int(rng.random() < 0.5)],
         "verdict_m": round(float(rng.random()), digits)}
        for i in range(30)
        for m in (True, False)
    ]  # fmt: skip
    yes, no = ([float(str(r["verdict_m"])) for r in rows if r["label_af"] == kind] for kind in ("yes", "no"))
    found = columns_of_rows(rows)
    index = {pair: i for i, pair in enumerate(found.pairs)}
    expected = np.mean([(a > b) + 0.5 * (a == b) for a in yes for b in no])
    assert _auroc(found, "m", index)(np.ones((1, 30)))[0] == pytest.approx(expected, abs=1e-12)


def test_auroc_by_request_is_that_of_the_drawn_transcripts() -> None:
    """Several transcripts of a request, ties between scores, and a request that a resample leaves out."""
    rows = [
        {"pair_id": pair, "monitored": True, "label_af": af, "verdict_m": score}
        for pair, af, score in [
            ("a", "yes", 0.9), ("a", "no", 0.2), ("a", "yes", 0.5), ("b", "no", 0.5), ("b", "yes", 0.4),
            ("c", "no", 0.95), ("c", "unparsed", 0.1), ("d", "yes", 0.7), ("d", "no", 0.7),
        ]
    ]  # fmt: skip
    index = {"a": 0, "b": 1, "c": 2, "d": 3}
    for weights in ([1, 1, 1, 1], [2, 0, 1, 1], [0, 3, 1, 0]):
        drawn = [row for row in rows for _ in range(weights[index[str(row["pair_id"])]])]
        yes, no = ([float(str(r["verdict_m"])) for r in drawn if r["label_af"] == kind] for kind in ("yes", "no"))
        expected = np.mean([(a > b) + 0.5 * (a == b) for a in yes for b in no])
        assert _auroc(columns_of_rows(rows), "m", index)(np.array([weights], dtype=float))[0] == pytest.approx(
            expected, abs=1e-12
        )
