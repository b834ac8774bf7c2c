"""Claims as tests that were written before the runs: what is measured, where, and what must come out.

The built-in ones are those of Gasteiger et al. 2025 (``claims.yaml``); a user's own file has the same form.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from crypsis.config import Config, did_you_mean, load_config, parse_config
from crypsis.types import UserError

START = "start"
"""Name of the arm that is the organism before RL."""
Quantity = Literal[
    "afr",
    "afr_monitor",
    "gap",
    "compliance_monitored",
    "compliance_unmonitored",
    "lying_rate",
    "scratchpad_tokens",
    "faking_tokens",
]
"""``afr`` is by the oracle where there is one; ``faking_tokens`` is by how much scratchpads that fake are longer."""
At = Literal["first", "last", "early", "change", "mean", "after_afr"]
"""When: at the first or last evaluation, at the first one from step ``EARLY`` on, last minus first, the mean over
training, or at the first evaluation at which AFR has fallen to ``AFR_GONE``."""
Expect = Literal[
    "above",
    "below",
    "within",
    "not_above",
    "holds_zero",
    "at_least",
    "at_most",
    "varies",
    "two_modes",
    "correlates",
]
Over = Literal["every", "most", "some", "some_not_every", "average", "runs"]
Population = Literal["all", "paper", "fakers", "silent"]
"""Which organisms count where a claim names none: all that were made to fake; those of kinds that the paper has; of
those the ones that fake before RL; those whose scratchpads show nothing, which are ours and not the paper's."""
EARLY = 5
AFR_GONE = 0.05
DIFFERENCES: tuple[Expect, ...] = ("above", "below", "within", "not_above", "holds_zero")


class Condition(Config):
    """What must hold of one quantity."""

    quantity: Quantity
    at: At = "last"
    expect: Expect
    by: float = Field(0.0, ge=0)
    """The margin of a difference: the smallest one worth the name; or the bound of a level."""


class ClaimTest(Condition):
    """One test of a claim; ``docs/statistics.md`` has the rules."""

    arms: list[str] = Field(min_length=1)
    """Arms whose mean is meant; ``start`` is the organism before RL."""
    against: list[str] = []
    """Arms that are subtracted; with several, the difference must hold against each."""
    optional: list[str] = []
    """Arms of ``arms`` and ``against`` that a study may lack; the scorecard says which were not there."""
    organisms: list[dict[str, Any]] = []
    """Recipes (name and settings, or ``label``), each of which must be there; none: every organism made to fake."""
    against_organisms: list[dict[str, Any]] = []
    """One for each of ``organisms``: the one that is subtracted from it."""
    over: Over = "every"
    """For which organisms it must hold; ``runs`` takes all runs together."""
    also: list[Condition] = []
    """What must hold of the same organism at once."""
    where: Condition | None = None
    """Only organisms of which this holds on average take part."""
    rivals_comply: float | None = None
    """Arms of ``against`` with less monitored compliance at the end are no rivals: they have lost the training."""
    with_quantity: Quantity | None = None
    """The other quantity of ``correlates``, at the same moment."""
    decides: bool = True
    """Whether the claim depends on it; otherwise it is only told."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if unknown := [arm for arm in self.optional if arm not in (*self.arms, *self.against)]:
            raise ValueError(f"optional: '{unknown[0]}' is neither in arms nor in against")
        if self.against and self.against_organisms:
            raise ValueError("against and against_organisms: give one of them")
        if self.against_organisms and len(self.against_organisms) != len(self.organisms):
            raise ValueError("against_organisms: must have one entry for each of organisms")
        if (self.expect == "correlates") != (self.with_quantity is not None):
            raise ValueError("with_quantity: goes with expect: correlates, and only with it")
        if self.expect in ("two_modes", "correlates") and self.over != "runs":
            raise ValueError(f"over: must be runs with expect: {self.expect}")
        if self.over == "runs" and self.expect not in ("two_modes", "correlates"):
            raise ValueError("over: runs goes with expect: two_modes or correlates only")
        if self.expect == "varies" and self.over == "average":
            raise ValueError("over: a spread between seeds belongs to one organism; average is not defined")
        return self


class Claim(Config):
    """A sentence about what training does, and the tests that decide it."""

    id: str
    says: str
    source: str = ""
    population: Population = "all"
    """Organisms that the claim speaks of, decided from its text; tests that name organisms do not look at it."""
    planted: bool = False
    """Whether the miniature's text plants it, in whole or in part."""
    planted_how: str = ""
    """What of it is planted, and what is not."""
    tests: list[ClaimTest] = Field(min_length=1)

    @model_validator(mode="after")
    def _decided_by_something(self) -> Self:
        if not self.tests[0].decides:
            raise ValueError("tests: the first must decide; its effect is what the scorecard shows")
        return self


class ArmPattern(Config):
    """Which runs are an arm, by what they do and not by how the study calls them."""

    mitigations: list[dict[str, Any]] = []
    """Each with ``name`` and the settings that matter; ``sees`` is the view of its monitor."""
    learn: Literal["all", "scratchpad", "output"] = "all"


class ClaimsFile(Config):
    """Arms and claims."""

    arms: dict[str, ArmPattern] = {}
    claims: list[Claim] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [claim.id for claim in self.claims]
        for name in ids:
            if ids.count(name) > 1:
                raise ValueError(f"claims: the id {name} is there twice")
        if START in self.arms:
            raise ValueError(f"arms.{START}: is the organism before RL and cannot be an arm")
        return self


@functools.cache
def built_in() -> ClaimsFile:
    """C01 to C30 of the paper, and S01 to S05 on our own silent organisms."""
    text = resources.files("crypsis.analysis.claims").joinpath("claims.yaml").read_text(encoding="utf-8")
    return parse_config(ClaimsFile, yaml.safe_load(text), "claims.yaml")


def read_claims(path: Path) -> ClaimsFile:
    """A user's claims; arms that the file does not define are the built-in ones or the study's own.

    Raises:
        UserError: The file is missing or does not fit.
    """
    own = load_config(ClaimsFile, path)
    return own.model_copy(update={"arms": built_in().arms | own.arms})


def select_claims(file: ClaimsFile, ids: Sequence[str], where: str) -> ClaimsFile:
    """The claims with these ids, in the file's order.

    Raises:
        UserError: There is no claim with an id.
    """
    known = [claim.id for claim in file.claims]
    for name in ids:
        if name not in known:
            raise UserError(f"{where}: there is no claim '{name}'{did_you_mean(name, known)}")
    return file.model_copy(update={"claims": [claim for claim in file.claims if claim.id in ids]})


def check_arms(file: ClaimsFile, where: str, known: list[str]) -> None:
    """Refuses claims that name an arm which no study has.

    Args:
        file: A user's claims.
        where: Its path, for the message.
        known: Arms that the studies have, under the claims' names and their own.

    Raises:
        UserError: The first claim that does.
    """
    for claim in file.claims:
        for arm in (arm for test in claim.tests for arm in (*test.arms, *test.against)):
            if arm != START and arm not in known:
                raise UserError(
                    f"{where}: claim {claim.id} names the arm '{arm}', which the study lacks{did_you_mean(arm, known)}"
                )
