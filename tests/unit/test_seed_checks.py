"""Seeds in two clouds are flagged; differences from the baseline are corrected for their number."""

from __future__ import annotations

from pathlib import Path

import pytest

from crypsis.analysis.report.seed_checks import modes, paired_tests
from crypsis.analysis.study import load_study
from crypsis.analysis.summary import summarise
from crypsis.episodes import write_episodes
from tests.studies import Rates, make_episodes, make_study

pytestmark = pytest.mark.unit


def test_seeds_in_two_clouds_are_flagged(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", seeds=range(8), steps=(0, 10), n=20, unfinished=False)
    assert not any(m.flagged for m in modes(summarise(load_study(folder))))
    for seed in range(4):
        other = folder / "runs" / f"tgg-output_monitor-seed{seed}" / "evals" / "step-0010.parquet"
        faking = Rates(0.9 + 0.02 * seed, 1.0, 0.1 + 0.05 * seed)
        write_episodes(other, make_episodes(faking, 20, seed, 10), "run")
    summary = summarise(load_study(folder))
    found = {(m.arm, m.metric): m for m in modes(summary)}
    assert [key for key, m in found.items() if m.flagged] == [("output_monitor", "afr"), ("output_monitor", "gap")]
    assert found["baseline", "gap"].said.startswith("no sign of two")
    alone = modes(summarise(load_study(make_study(tmp_path / "t", steps=(0,), n=4))))
    assert {m.said for m in alone} == {"too few seeds to ask (2 of 4)"}


def test_differences_from_the_baseline_are_corrected(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", seeds=(0, 1, 2), steps=(0, 10), n=20)
    for seed in range(3):
        rates = Rates(0.5, 1.0, 0.1 + 0.1 * seed)
        path = folder / "runs" / f"tgg-output_monitor-seed{seed}" / "evals" / "step-0010.parquet"
        write_episodes(path, make_episodes(rates, 20, seed, 10), "run")
    found = {(t.arm, t.metric): t for t in paired_tests(summarise(load_study(folder)))}
    assert len(found) == 2 * 4 and {t.seeds for t in found.values()} == {3}
    gap = found["output_monitor", "compliance_unmonitored"]
    assert gap.p is not None and gap.p_holm is not None and gap.p < gap.p_holm <= 1
