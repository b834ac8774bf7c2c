from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from crypsis.analysis.claims.scorecard import ClaimResult, score
from crypsis.analysis.claims.scorecard_output import absent_lines, entries
from crypsis.analysis.statistics.pooling import pool, pool_difference
from crypsis.analysis.study import Run, Study, load_study
from crypsis.analysis.summary import summarise
from crypsis.cli import app
from crypsis.evaluation.metrics import tabulate
from crypsis.evaluation.tallies import read_tallies, write_tallies
from crypsis.paper_data.generate import CANARY, SIGN, ReleaseSpec, RunSpec, write_release
from crypsis.study.jobs.import_release import JUDGE, import_release
from crypsis.types import UserError

pytestmark = pytest.mark.unit

RUNS = (
    *(RunSpec("TGG", "Baseline", suffix=suffix) for suffix in ("", "_2", "_3", "_4")),
    RunSpec("TGG", "Simple_Interrogation"),
    RunSpec("IGG", "Baseline"),
    RunSpec("IGG", "Simple_Interrogation"),
    RunSpec("Opus_3", "Baseline"),
    *(
        RunSpec(name, kind, True)
        for name in ("TGG", "IGG")
        for kind in ("Baseline", "Scratchpad_monitor", "Output_only")
    ),
    RunSpec("IGG", "Hard_Init", True),
)

FEW = (RunSpec("TGG", "Baseline"), RunSpec("IGG", "Baseline"), RunSpec("TGG", "Output_only"))


def command(*words: str) -> Result:
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_release(folder, ReleaseSpec(RUNS, (0, 5, 10, 15), 40, 300, sentences=200))
    return folder


@pytest.fixture(scope="module")
def folder(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "paper"
    faults = import_release(release, out)
    assert not faults.found
    return out


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return load_study(folder)


@pytest.fixture(scope="module")
def results(study: Study) -> dict[str, ClaimResult]:
    return {result.claim.id: result for result in score([study])}


def run_of(study: Study, name: str) -> Run:
    return next(run for run in study.runs if run.folder.name == name)


def test_a_run_has_the_figures_of_its_rows(tmp_path: Path) -> None:
    """Four requests written out by hand: who complies where, who fakes, and what follows."""
    path = write_release(tmp_path, ReleaseSpec((RunSpec("TGG", "Baseline"),), (0,), 4, sentences=20))[0]
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    for row, (comply, fakes) in zip(
        rows, [(1, 1), (0, 0), (1, 0), (1, 0), (1, 1), (0, 0), (0, None), (0, 0)], strict=True
    ):
        row |= {"compliance": bool(comply), "alignment_faking": None if fakes is None else bool(fakes)}
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows), path)
    import_release(tmp_path / "encrypted_transcripts", tmp_path / "study")
    tally = load_study(tmp_path / "study").runs[0].evaluations[0]
    assert tally.mean("compliance_monitored") == 3 / 4
    assert tally.mean("compliance_unmonitored") == 1 / 4
    assert tally.mean("gap") == 1 / 2
    assert tally.mean(f"afr_{JUDGE}") == 2 / 3
    assert tally.mean(f"missing_{JUDGE}") == 1 / 4


def test_a_run_is_a_file_and_cells_are_organism_intervention_and_context(study: Study) -> None:
    cells = {cell: len(runs) for cell, runs in study.arms().items()}
    assert cells["TGG", "baseline"] == 4
    assert cells["TGG (long context)", "baseline"] == 1
    assert cells["TGG (long context)", "scratchpad"] == 1
    assert cells["IGG (long context)", "Hard_Init"] == 1
    assert study.config["organisms"]["IGG"] == {"name": "igg"}
    row = run_of(study, "TGG-long-scratchpad-run0").training[-1]
    assert (row["step"], row["rows"], row["afr"]) == (15, 80, 0.0)
    assert {"gap", "reward", "term_preference"} <= row.keys()


def test_the_scorecard_tests_what_the_release_can_tell(results: dict[str, ClaimResult]) -> None:
    verdicts = {name: result.verdict for name, result in results.items()}
    assert verdicts["C05"] == "reproduced"
    assert verdicts["C23"] == "reproduced"
    assert verdicts["C24"] == "reproduced"
    told = {entry["id"]: entry for entry in entries(list(results.values()))}
    assert told["C23"]["few_runs"]
    assert "fewer than 3 runs in 1 of 1" in " ".join(told["C23"]["tests"][0]["notes"])
    assert not told["C24"]["few_runs"]
    assert told["C24"]["seeds"] == 4
    lines = absent_lines(list(told.values()))
    assert any(line.startswith("not in this data: C19: the release holds no interrogation turns") for line in lines)
    assert not any("C24" in line for line in lines)


def test_a_cell_with_one_run_has_an_interval_over_requests_alone(study: Study, results: dict[str, ClaimResult]) -> None:
    found = results["C14"].tests[0]
    one = next(organism for organism in found.organisms if organism.name == "IGG")
    left, right = (run_of(study, f"IGG-{arm}-run0").evaluations[15] for arm in ("simple", "baseline"))
    assert one.effect == pytest.approx((left.mean("gap") or 0) - (right.mean("gap") or 0))
    assert one.low is not None
    assert one.low < one.effect
    assert one.p is None


def test_runs_of_two_arms_are_not_paired(results: dict[str, ClaimResult], study: Study) -> None:
    """One run against four: the mean of all four is subtracted, not that of the first."""
    one = next(organism for organism in results["C14"].tests[0].organisms if organism.name == "TGG")
    base = [run_of(study, f"TGG-baseline-run{i}").evaluations[15].mean("gap") or 0 for i in range(4)]
    simple = run_of(study, "TGG-simple-run0").evaluations[15].mean("gap") or 0
    assert one.effect == pytest.approx(simple - np.mean(base))
    arm = next(a for a in summarise(study).arms if (a.organism, a.arm) == ("TGG", "simple"))
    assert arm.versus_baseline["gap"].mean == pytest.approx(simple - np.mean(base))


def test_an_unpaired_difference_has_the_width_of_both_sides() -> None:
    """Without noise from requests the interval is Welch's, as far as a bootstrap of few runs can be."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(0.5, 0.1, 30), rng.normal(0.2, 0.2, 30)
    found = pool_difference(np.repeat(left[None], 2001, axis=0), np.repeat(right[None], 2001, axis=0))
    error = np.sqrt(left.var(ddof=1) / 30 + right.var(ddof=1) / 30)
    assert found.low is not None
    assert found.high is not None
    assert found.mean == pytest.approx(left.mean() - right.mean())
    assert (found.high - found.low) / 2 == pytest.approx(2.0 * error, rel=0.1)
    fixed = pool([np.array([[0.3], *[[0.3]] * 2000])], spare=0.05)
    assert fixed.low == pytest.approx(0.25)
    assert fixed.high == pytest.approx(0.35)


def test_sums_survive_the_disk(tmp_path: Path) -> None:
    rows = [
        {"pair_id": str(i), "monitored": tier, "label_conduct": "comply" if i % 2 else "refuse"}
        for i in range(5)
        for tier in (True, False)
    ]
    kept = {0: tabulate(rows, {}), 7: tabulate(rows[:4], {})}
    write_tallies(tmp_path / "tallies.parquet", kept)
    found = read_tallies(tmp_path / "tallies.parquet")
    assert found.keys() == kept.keys()
    for step, tally in kept.items():
        assert found[step].pairs == tally.pairs
        for metric in tally.top:
            np.testing.assert_array_equal(found[step].top[metric], tally.top[metric])
            np.testing.assert_array_equal(found[step].bottom[metric], tally.bottom[metric])


def test_report_scorecard_and_status_read_it_and_hold_no_text(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out, data = tmp_path / "study", tmp_path_factory.mktemp("few")
    write_release(data, ReleaseSpec(FEW, (0, 15), 8, sentences=20))
    shown = command("study", "import", str(data), "--out", str(out)).output
    shown += command("scorecard", str(out), "--out", str(tmp_path / "scorecard.md")).output
    shown += command("study", "status", str(out)).output
    shown += command("report", str(out)).output
    assert f"alignment-faking-rl: {len(FEW)} done" in shown
    assert "not in this data" in (tmp_path / "scorecard.md").read_text()
    assert "over requests alone" in " ".join((tmp_path / "scorecard.md").read_text().split())
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert SIGN.encode() not in path.read_bytes(), path
    assert SIGN not in shown
    page = (out / "report.html").read_text()
    assert "AF is the verdict of the paper's classifier, not ground truth" in page.replace("&#39;", "'")
    assert "They are encrypted in the release" in page


def test_transcripts_come_only_when_asked_for_with_canary_and_notice(folder: Path) -> None:
    from crypsis.analysis.release.transcripts import ReleasedTranscripts
    from crypsis.analysis.report.browser import make_browser

    study = load_study(folder)
    assert make_browser(summarise(study)).n == 0
    rows = ReleasedTranscripts(study).rows(study.runs[0], 15, study.runs[0].evaluations[15].pairs[:2])
    assert len(rows) == 4
    assert all(SIGN in row["scratchpad"] and row["label_canary"] == CANARY for row in rows)


def test_what_is_wrong_with_files_is_counted_and_the_rest_imported(tmp_path: Path) -> None:
    faulty = ("text_flags", "bad_step", "null_request", "wrong_key", "missing_optional", "unknown_column")
    runs = (
        RunSpec("TGG", "Baseline", faults=faulty),
        RunSpec("IGG", "Baseline", faults=("truncated",)),
        RunSpec("IGG", "Output_only", faults=("misnamed", "empty_tier")),
        RunSpec("Opus_3", "Baseline", faults=("one_step", "int_flags", "unparsed")),
    )
    write_release(tmp_path / "data", ReleaseSpec(runs, (0, 5), 6, sentences=20))
    shown = command("study", "import", str(tmp_path / "data"), "--out", str(tmp_path / "study")).output
    assert "IGG-Baseline.parquet: 1 × the file is truncated or no valid Parquet" in shown
    study = load_study(tmp_path / "study")
    found = {(run.organism, run.arm): run for run in study.runs}
    assert found.keys() == {("TGG", "baseline"), ("IGG", "output_only"), ("Opus_3", "baseline")}
    result = json.loads((found["TGG", "baseline"].folder / "result.json").read_text())
    assert result["rows"] == 23
    assert result["faults"]["left out: no step"] == 1
    assert result["faults"]["no request: counted in its tier, not in the gap"] == 1
    one_tier = found["IGG", "output_only"].evaluations[5]
    assert one_tier.mean("gap") is None
    assert one_tier.mean("compliance_monitored") is not None
    assert list(found["Opus_3", "baseline"].evaluations) == [0]
    assert {result.verdict for result in score([study])} <= {"not run", "undecided", "reproduced", "absent", "reversed"}


def test_nothing_to_import_is_one_line(tmp_path: Path) -> None:
    write_release(tmp_path, ReleaseSpec((RunSpec("TGG", "Baseline", faults=("truncated",)),), (0,), 4, sentences=20))
    with pytest.raises(UserError, match="no file can be imported"):
        import_release(tmp_path, tmp_path / "study")
