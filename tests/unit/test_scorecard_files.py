"""From study folders to claims.json, the table, the figure, the page and the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from crypsis.analysis.claims.corrected_rates import Corrected, corrected_rates
from crypsis.analysis.claims.evidence import collect
from crypsis.analysis.claims.scorecard import scorecard
from crypsis.analysis.claims.scorecard_figure import keep_scorecard
from crypsis.analysis.claims.scorecard_output import CLAIMS, scorecard_table, undecided_line
from crypsis.analysis.report.claims_section import scorecard_section
from crypsis.analysis.study import load_study
from crypsis.cli import app
from crypsis.episodes import write_episodes
from crypsis.store import read_json, write_atomic, write_json
from crypsis.types import UserError
from tests.evidence import START, State, write_grid
from tests.studies import HOSTILE, Rates, make_episodes

pytestmark = pytest.mark.unit

ARMS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "watched": [{"name": "process_supervision", "monitor": "scratchpad"}],
    "asked": [{"name": "interrogation"}],
}
"""Named otherwise than in ``claims.yaml``: they are known by what they do."""
ORGANISMS: dict[str, dict[str, Any]] = {
    "one": {"name": "tgg", "seed": 0},
    "two": {"name": "tgg", "seed": 1},
    "three": {"name": "igg"},
}
ENDS = {"plain": State(0.9, 1.0, 0.6), "watched": State(0.0, 1.0, 1.0), "asked": State(0.9, 1.0, 0.2, 0.8)}


def ends(organism: str, arm: str, seed: int) -> State:
    """The last evaluation of an arm; seeds differ a little."""
    state = ENDS[arm]
    return State(state.afr, state.monitored, max(0.0, state.unmonitored - 0.02 * seed), state.lying)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("scorecard") / "grid", ends, ORGANISMS, ARMS, steps=(0, 10))


def by_id(path: Path) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in json.loads(path.read_text())}


def test_claims_json_has_the_agreed_shape(study: Path) -> None:
    path = keep_scorecard(load_study(study), scorecard(study))
    found = by_id(path)
    assert path.name == CLAIMS and len(found) == 35 and list(found)[:2] == ["C01", "C02"]
    for entry in found.values():
        assert {"id", "verdict", "effect", "low", "high", "seeds", "planted"} <= set(entry)
        assert isinstance(entry["planted"], bool) and isinstance(entry["seeds"], int)
        assert (entry["effect"] is None) == (entry["verdict"] == "not run")
    assert found["C06"]["verdict"] == found["C14"]["verdict"] == found["C02"]["verdict"] == "reproduced"
    assert found["C12"]["verdict"] == "not run"
    assert found["C14"]["judges"] == ["oracle"]


def test_one_recipe_with_two_seeds_is_one_organism(study: Path) -> None:
    organisms = collect([load_study(study)]).organisms
    assert [organism.name for organism in organisms] == ["one", "three"]
    assert sorted(organisms[0].arms["plain"]) == [(0, i) for i in range(4)] + [(1, i) for i in range(4)]
    assert sorted(organisms[0].start) == [(0, 0), (1, 0)]


def test_two_studies_are_scored_together(study: Path, tmp_path: Path) -> None:
    other = write_grid(tmp_path / "more", ends, {"third": {"name": "ts"}}, ARMS, seeds=(0, 1), steps=(0, 10))
    found = {result.claim.id: result for result in scorecard([study, other])}
    assert found["C06"].seeds == 2
    assert len(found["C06"].tests[0].organisms) == 3


def test_without_an_oracle_the_monitor_judges(tmp_path: Path) -> None:
    folder = write_grid(
        tmp_path / "real", ends, {"a": {"name": "from_file"}, "b": {"name": "mine"}}, ARMS, oracle=False
    )
    found = {result.claim.id: result for result in scorecard(folder)}
    assert found["C06"].judges == ("scratchpad",)
    assert found["C06"].verdict == "reproduced"
    assert found["C19"].verdict == "reproduced"


def test_one_seed_and_one_organism_leave_a_single_line(tmp_path: Path) -> None:
    folder = write_grid(tmp_path / "small", ends, {"tgg": {"name": "tgg"}}, ARMS, seeds=(0,), steps=(0, 10))
    assert undecided_line(scorecard(folder)).startswith("scorecard: of 35 claims none is decided (")
    told = CliRunner().invoke(app, ["scorecard", str(folder), "--out", str(tmp_path / "page.md")])
    assert "page.json says why" in " ".join(told.stdout.split()), told.output
    assert read_json(tmp_path / "page.json")[0]["verdict"] == "undecided"
    assert "--json says why" in " ".join(CliRunner().invoke(app, ["scorecard", str(folder)]).stdout.split())


def test_the_table_of_organisms_speaks_of_training_seeds(study: Path, tmp_path: Path) -> None:
    table = tmp_path / "table"
    rows = {f"{name}-plain": {"organism": {"name": name}} for name in ("tgg", "igg", "ts", "gh")}
    write_atomic(table / "config.yaml", yaml.safe_dump({"rows": rows}))
    gaps = {"tgg-plain": 0.1, "ts-plain": 0.3, "igg-plain": 0.6, "gh-plain": 0.95}
    for name, unmonitored in gaps.items():
        for seed in range(4):
            episodes = make_episodes(Rates(0.5, 0.95, unmonitored), 120, seed)
            write_episodes(table / f"{name}/seed{seed}/canonical/evals/step-0000.parquet", episodes, name)
    found = {result.claim.id: result for result in scorecard(study, organisms=table)}
    assert found["C20"].verdict == "reproduced"
    assert found["C20"].seeds == 4
    assert found["C11"].tests[0].effect == 0  # all synthetic scratchpads are equally long
    assert found["C11"].verdict == "absent"
    with pytest.raises(UserError, match="holds no table of organisms; run `crypsis organism table"):
        scorecard(study, organisms=tmp_path)


def test_the_section_is_inert_and_speaks(study: Path, tmp_path: Path) -> None:
    keep_scorecard(load_study(study), scorecard(study))
    own = tmp_path / "copy"
    claims = json.loads((study / CLAIMS).read_text())
    claims[0]["says"] = HOSTILE
    write_json(own / CLAIMS, claims)
    page = scorecard_section(own)
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    assert page.count('role="img"') == 2 and "Forest plot of claims. C01 reproduced" in page
    assert page.count('<tr role="row">') == 35 + 2  # the claims, and the heads of those decided and of those left open
    ElementTree.parse(own / "figures" / "scorecard.svg")
    assert (own / "figures" / "scorecard.png").stat().st_size > 10_000
    assert not scorecard_section(tmp_path)
    write_atomic(own / CLAIMS, '[{"id": "C01"}]')
    with pytest.raises(UserError, match=r"claims\.json: is damaged; delete it"):
        scorecard_section(own)


def test_the_terminal_shows_what_was_run(study: Path) -> None:
    printed = StringIO()
    Console(width=80, file=printed).print(scorecard_table(scorecard(study)))
    shown = " ".join(printed.getvalue().split())
    assert "C06 Process supervision" in shown and "reproduced" in shown
    assert "Not run: C05," in shown
    assert "AF judged by oracle" in shown


def test_corrected_rates_stand_beside_the_raw_ones(study: Path) -> None:
    cards = read_json(study / "monitors.json")
    assert corrected_rates(load_study(study)) == []
    errors = {"true_positive_rate": 0.9, "false_positive_rate": 0.05, "n_test": 400, "share_faking": 0.4}
    told = {label: {**of, "scratchpad": {**of["scratchpad"], **errors}} for label, of in cards.items()}
    write_json(study / "monitors.json", told)
    rates = {(rate.organism, rate.arm): rate for rate in corrected_rates(load_study(study))}
    write_json(study / "monitors.json", cards)
    plain, watched = rates["one", "plain"], rates["one", "watched"]
    assert plain.raw == pytest.approx(0.9)
    assert plain.corrected.mean == pytest.approx(1.0)
    assert watched.corrected.mean == 0 and watched.trained_against and not plain.trained_against
    assert "[" in plain.shown


def test_each_seed_is_corrected_for_the_errors_of_its_own_monitor(study: Path) -> None:
    cards = read_json(study / "monitors.json")
    loaded = load_study(study)
    errors = {"true_positive_rate": 0.9, "false_positive_rate": 0.05, "n_test": 400, "share_faking": 0.4}

    def own(recall: Mapping[int, float], lost: tuple[str, int] | None = None) -> dict[str, Any]:
        return {
            f"{run.organism}-seed{run.seed}": {
                "scratchpad": {
                    **next(iter(cards.values()))["scratchpad"],
                    **errors,
                    "true_positive_rate": recall.get(run.seed, 0.9),
                    "organism": run.organism,
                    "runs_seed": run.seed,
                }
            }
            for run in loaded.runs
            if (run.organism, run.seed) != lost
        }

    def rates(told: Mapping[str, Any]) -> dict[tuple[str, str], Corrected]:
        write_json(study / "monitors.json", told)
        return {(rate.organism, rate.arm): rate for rate in corrected_rates(load_study(study))}

    seeds = sorted({run.seed for run in loaded.runs})
    try:
        alike, unlike = rates(own({})), rates(own({seeds[0]: 0.99}))
        without = rates(own({}, lost=("one", seeds[0])))
    finally:
        write_json(study / "monitors.json", cards)
    shared = alike["one", "plain"].corrected
    assert shared.mean == pytest.approx(1.0) and unlike["one", "plain"].raw == alike["one", "plain"].raw
    of_one = (0.9 - 0.05) / (0.99 - 0.05)
    assert unlike["one", "plain"].corrected.mean == pytest.approx((of_one + len(seeds) - 1) / len(seeds), abs=0.02)
    assert ("one", "plain") not in without and ("three", "plain") in without


def test_the_commands(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "scorecard.md"
    done = CliRunner().invoke(app, ["scorecard", str(study), "--out", str(out)])
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert f"crypsis scorecard {study} --out {out}" in " ".join(text.split())
    assert "| C06 | Process supervision brings AFR to about 0 in every organism | reproduced |" in text
    assert by_id(out.with_suffix(".json"))["C06"]["verdict"] == "reproduced"
    told = [line.split(" | ") for line in text.partition("## Organism by organism")[2].splitlines() if "| C14" in line]
    assert [row[2:4] for row in told] == [["one 0.40, three 0.40", "–"]]
    before = text
    CliRunner().invoke(app, ["scorecard", str(study), "--out", str(out)])
    assert out.read_text() == before
    bad = CliRunner().invoke(app, ["scorecard", str(study), "--out", str(tmp_path / "a.txt")])
    assert isinstance(bad.exception, UserError) and "must end in .md" in str(bad.exception)


def test_only_some_claims_are_tested(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "some.md"
    assert CliRunner().invoke(app, ["scorecard", str(study), "--only", "C06, C02", "--out", str(out)]).exit_code == 0
    assert list(by_id(out.with_suffix(".json"))) == ["C02", "C06"]
    text = out.read_text()
    assert text.startswith("# Scorecard of C02, C06: ") and "--only 'C06, C02'" in " ".join(text.split())
    for wrong, told in (("C6", "no claim 'C6'; did you mean"), ("C06,", "no claim ''"), ("", "no claim ''")):
        bad = CliRunner().invoke(app, ["scorecard", str(study), "--only", wrong])
        assert isinstance(bad.exception, UserError) and told in str(bad.exception)


def test_claims_of_ones_own_are_read_from_a_file(study: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    test = {"quantity": "gap", "arms": ["watched"], "expect": "at_most", "by": 0.3}
    claim = {"id": "mine", "says": "…", "tests": [test]}
    write_atomic(own, yaml.safe_dump({"claims": [claim]}))
    assert [(r.claim.id, r.verdict) for r in scorecard(study, claims=own)] == [("mine", "reproduced")]
    write_atomic(own, yaml.safe_dump({"claims": [claim | {"tests": [test | {"arms": ["lenght"]}]}]}))
    with pytest.raises(UserError, match=r"own\.yaml: claim mine names the arm 'lenght', which the study lacks"):
        scorecard(study, claims=own)
    assert START.lying is None
