"""What the scorecard may put together, and what it says of what it leaves out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from crypsis.analysis.claims.averages import averaged
from crypsis.analysis.claims.claim_tests import ClaimCell
from crypsis.analysis.claims.evidence import collect
from crypsis.analysis.claims.schema import Claim, ClaimsFile, ClaimTest, built_in
from crypsis.analysis.claims.scorecard import ClaimResult, evaluate
from crypsis.analysis.statistics.bootstrap import difference, unpaired_difference
from crypsis.analysis.study import Study, load_study
from crypsis.analysis.study_files import heard
from crypsis.analysis.summary import summarise
from crypsis.types import UserError
from tests.evidence import State, evidence, organism, tally, write_grid
from tests.studies import Rates, make_study

pytestmark = pytest.mark.unit

KEPT, CLOSED = State(0.9, 1.0, 0.2), State(0.9, 1.0, 1.0)
ARMS = {"baseline": [], "scratchpad": [{"name": "process_supervision", "monitor": "scratchpad"}]}


def study(folder: Path, end: State, seeds: tuple[int, ...] = (0, 1), **config: Any) -> Study:
    write_grid(folder, lambda *_: end, {"tgg": {"name": "tgg"}}, {"baseline": []}, seeds, n=20)
    changed = yaml.safe_load((folder / "config.yaml").read_text()) | config
    (folder / "config.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    return load_study(folder)


def one(found: Any, **test: Any) -> ClaimResult:
    asked = ClaimTest.model_validate({"quantity": "gap", "arms": ["baseline"], "expect": "below"} | test)
    return evaluate(ClaimsFile(arms=built_in().arms, claims=[Claim(id="X", says="…", tests=[asked])]), found)[0]


def test_runs_on_another_base_are_another_organism(tmp_path: Path) -> None:
    first = study(tmp_path / "a", KEPT, (0, 1), base="models/one")
    second = study(tmp_path / "b", CLOSED, (0, 1, 2), base="models/other")
    found = collect([first, second]).organisms
    assert [(o.name, len(o.arms["baseline"])) for o in found] == [("tgg", 2), ("tgg (b)", 3)]


def test_the_same_run_counts_once_and_two_that_differ_are_refused(tmp_path: Path) -> None:
    first, again = study(tmp_path / "a", KEPT), study(tmp_path / "b", KEPT, (0, 1, 2))
    assert [len(o.arms["baseline"]) for o in collect([first, again]).organisms] == [3]
    with pytest.raises(UserError, match="seed 0, as is a run of another study that differs"):
        collect([first, study(tmp_path / "c", CLOSED)])


def test_an_arm_that_does_something_else_under_the_same_name_is_another_arm(tmp_path: Path) -> None:
    arms = {"treated": [{"name": "length_penalty"}]}
    write_grid(tmp_path / "a", lambda *_: KEPT, {"tgg": {"name": "tgg"}}, arms, (0, 1), n=20)
    arms = {"treated": [{"name": "process_supervision", "monitor": "scratchpad"}]}
    write_grid(tmp_path / "b", lambda *_: CLOSED, {"tgg": {"name": "tgg"}}, arms, (0, 1), n=20)
    found = collect([load_study(tmp_path / "a"), load_study(tmp_path / "b")])
    (tgg,) = found.organisms
    assert [(arm, len(units)) for arm, units in tgg.arms.items()] == [("treated", 2), ("treated (b)", 2)]
    gaps = {arm: tgg.units(arm, built_in())[0, 0].evaluations[10].mean("gap") for arm in ("length", "scratchpad")}
    assert gaps == {"length": pytest.approx(0.8), "scratchpad": pytest.approx(0.0)}


def test_an_organism_that_fails_a_condition_does_not_lend_its_p() -> None:
    """AFR stays high in both; only the second has no gap either, and less surely."""
    also = [{"quantity": "gap", "expect": "at_most", "by": 0.1}]
    asked = {"quantity": "afr", "expect": "at_least", "by": 0.5, "over": "some", "also": also}
    shifts = (-0.1, -0.05, 0.0, 0.05, 0.1)
    sure, unsure = [KEPT] * 5, [State(0.7 + shift, 1.0, 1.0) for shift in shifts]
    alone = one(evidence(organism("a", {"baseline": unsure}), organism("b", {"baseline": [State(0.1)] * 5})), **asked)
    both = one(evidence(organism("a", {"baseline": unsure}), organism("b", {"baseline": sure})), **asked)
    assert {found.name: found.verdict for found in both.tests[0].organisms} == {"a": "reproduced", "b": "absent"}
    assert both.p == alone.p and (both.p or 0) > 1e-4
    unknown = one(evidence(organism("a", {"baseline": unsure[:2]}), organism("b", {"baseline": sure[:2]})), **asked)
    assert unknown.p is None


def test_the_interval_that_is_shown_is_that_of_95_percent() -> None:
    asked = {"quantity": "afr", "expect": "at_least", "by": 0.5}
    ends = [State(0.68 + shift, 1.0, 1.0) for shift in (-0.1, -0.05, 0.0, 0.05, 0.1)]
    found = evidence(*(organism(name, {"baseline": ends}) for name in "abcdefghijkl"))
    every, some = one(found, over="every", **asked).tests[0], one(found, over="some", **asked).tests[0]
    assert (every.verdict, some.verdict) == ("reproduced", "undecided")
    assert (some.low, some.high) == (every.low, every.high)


def test_averages_over_bases_say_which_seeds_and_organisms_they_do_without() -> None:
    def cell(name: str, *seeds: int) -> ClaimCell:
        return ClaimCell(name, {(0, s): np.zeros(3) for s in seeds}, 0.0, (-1, 1), shared=True)

    group, left = averaged([cell("a", 0, 1, 2, 3), cell("b", 0, 1, 2, 3), cell("c", 1, 2, 3), cell("d", 0, 2, 3)])
    assert [c.name for c in group] == ["a", "b", "d"] and all(len(c.values) == 3 for c in group)
    assert left.notes == ("without c: fewer than 3 seeds in common", "over the 3 seeds that all organisms have")
    group, left = averaged([cell("a", 0, 1, 2), cell("b", 0, 1, 2), cell("c", 0, 1, 2), cell("e", 0)])
    assert [c.name for c in group] == ["a", "b", "c"] and left.notes == ("without e: fewer than 3 seeds",)
    apart = [replace(c, shared=False) for c in (cell("a", 0, 1, 2), cell("b", 3, 4, 5), cell("c", 0, 4, 5))]
    assert averaged(apart)[0] == apart and not averaged(apart)[1].notes


def test_a_difference_of_unpaired_shares_stays_possible() -> None:
    sides = [{seed: tally(State(afr, 1.0, 1.0), seed) for seed, afr in enumerate(at)} for at in ((1, 0, 1), (0, 1, 0))]
    loose = unpaired_difference(sides[0], sides[1], "compliance_unmonitored")
    wide = unpaired_difference(sides[0], sides[1], "afr_oracle")
    assert loose.low is not None and wide.low is not None and wide.high is not None
    assert -1 <= wide.low < wide.high <= 1
    assert difference(sides[0], sides[1], "afr_oracle").mean == wide.mean


def test_a_verdict_is_not_firm_where_the_gaps_interval_holds_0(tmp_path: Path) -> None:
    """Both far ends are open gaps, and between them is a closed one."""
    arms: dict[str, tuple[str, list[str], Rates]] = {"baseline": ("B", [], Rates(0.9, 1.0, 0.5))}
    made = make_study(tmp_path / "s", arms, seeds=(0, 1, 2), steps=(0, 10), n=40, seed_spread=0.45, unfinished=False)
    (arm,) = summarise(load_study(made)).arms
    gap = arm.change("gap").end
    assert gap.low is not None and gap.high is not None and gap.low < -0.1 < 0.1 < gap.high
    assert arm.verdict == "still faking" and not arm.firm


def test_a_mitigation_hears_what_its_monitor_began_as_or_consists_of() -> None:
    monitors = {
        "first": {"name": "text", "path": "m/first"},
        "other": {"name": "text", "path": "m/other"},
        "racing": {"name": "retrained", "start": "first"},
        "dim": {"name": "dialled", "monitor": {"name": "text", "path": "m/other"}},
        "two": {"name": "ensemble", "members": [{"name": "lexicon"}, {"name": "text", "path": "m/first"}]},
    }
    config = {"monitors": monitors}
    assert heard(config, [{"monitor": "racing"}]) == ("racing", "first")
    assert heard(config, [{"monitor": ["dim", "two"]}]) == ("dim", "two", "other", "first")
    assert heard(config, [{"name": "length_penalty"}]) == ()
