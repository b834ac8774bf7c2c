"""What hooks do without a model: rewards are rewritten, faults named, rules kept, and lost credit is counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from crypsis.miniature.scenario import MiniatureScenario
from crypsis.mitigations.act import ACT
from crypsis.mitigations.base import Mitigation, RunInfo, Schedule, call, call_each
from crypsis.mitigations.bct import BCT
from crypsis.mitigations.hooks import (
    AddsTerm,
    AsksExtraTurn,
    Calibrates,
    Credit,
    CreditsTokens,
    DelaysTerm,
    FiltersEpisodes,
    FollowsSchedule,
    LearnsExtraTurn,
    ReplacesPrompt,
    RewritesTerms,
    Route,
    RoutesGradients,
    TargetsTerms,
    Terms,
)
from crypsis.mitigations.paired_tiers import PairedTiers
from crypsis.mitigations.process_supervision import ProcessSupervision
from crypsis.mitigations.rules import bind_all
from crypsis.mitigations.segments import Segments
from crypsis.model_config import LoraConfig, ModelConfig
from crypsis.rl.advantages import Advantages, CreditCount, step_advantages
from crypsis.rl.groups import grouped
from crypsis.rl.metrics import episode_metrics
from crypsis.rl.rewards import LengthCorrection, compose
from crypsis.run_config import RLConfig, RunConfig
from crypsis.scenarios.base import Scenario
from crypsis.testing import check_mitigation
from crypsis.types import OUTPUT, SCRATCHPAD, Episode, Learn, Prompt, Split, UserError, Verdict, View
from tests.doc_examples import example_module, examples
from tests.episodes import make_episode

pytestmark = pytest.mark.unit

FLAT = LengthCorrection(0.0, 0.0, 0)
LINEAR = ProcessSupervision(monitor="scratchpad", shape="linear")
VIEWS: dict[str, View] = {"oracle": "both", "scratchpad": "scratchpad", "output": "output"}


def info(lora: bool = False, scenario: Scenario | None = None, **rl: Any) -> RunInfo:
    model = ModelConfig(lora=LoraConfig() if lora else None)
    config = RunConfig(name="test", policy=Path("p"), model=model, rl=RLConfig(**rl))
    return RunInfo(scenario or MiniatureScenario(), VIEWS, dict.fromkeys(VIEWS, 0.3), config)


def eight(_: object, outputs: Sequence[str]) -> list[float]:
    return [8.0] * len(outputs)


def judged(score: float | None, **changes: Any) -> Episode:
    return make_episode(verdicts={"scratchpad": Verdict(score, "" if score is not None else "failed")}, **changes)


class Rewrites(RewritesTerms):
    """Puts one value in place of every term, or of one."""

    name: ClassVar[str] = "rewrites"
    value: float | None = 1.0
    term: str = ""

    def rewrite_terms(self, episodes: Sequence[Episode], terms: Sequence[Terms]) -> list[Terms]:
        return [{k: self.value if self.term in ("", k) else v for k, v in row.items()} for row in terms]


def test_the_documented_rewrite_halves_the_preference_of_flagged_episodes_in_at_most_forty_lines(
    tmp_path: Path,
) -> None:
    assert len(examples()["crypsis_halved"].splitlines()) <= 40
    halved = example_module(tmp_path, "crypsis_halved").HalvedPreference()
    check_mitigation(halved)
    episodes = [
        judged(0.9),
        judged(0.1),
        judged(None),
        judged(0.5),
        judged(0.9, parse="no_output"),
        judged(0.9, parse="truncated", stop="length"),
    ]
    bound = bind_all([halved], info())
    assert compose(episodes, eight, FLAT, bound, RLConfig()) == [4.0, 8.0, 8.0, 4.0, -3.0, None]
    assert [e.reward_terms.get("preference") for e in episodes] == [4.0, 8.0, 8.0, 4.0, None, None]
    assert [e.dropped for e in episodes] == ["", "", "", "", "", "token budget"]
    # Other terms stay, and a second rewrite sees what the first one made.
    two = [LINEAR, halved, halved]
    assert compose(episodes[:2], eight, FLAT, two, RLConfig()) == [8 / 4 - 0.9, 8 - 0.1]


def test_no_rewrite_brings_an_episode_back() -> None:
    class Screens(FiltersEpisodes):
        """Keeps everything out."""

        name: ClassVar[str] = "screens"

        def filter(self, episodes: Sequence[Episode]) -> list[bool | None]:
            return [True for _ in episodes]

    class Meddles(Rewrites):
        """Writes into what it is given."""

        def rewrite_terms(self, episodes: Sequence[Episode], terms: Sequence[Terms]) -> list[Terms]:
            for row in terms:
                cast(dict[str, Any], row).update({k: 1.0 for k in row if k != "format"})
            return list(terms)

    def rewards(arms: list[Mitigation], episodes: list[Episode], **rl: Any) -> list[float | None]:
        return compose(episodes, eight, FLAT, arms, RLConfig(**rl))

    unjudged, cut = judged(None), judged(0.9, parse="truncated", stop="length")
    filled = Rewrites(term="process_supervision", value=0.5)
    assert rewards([LINEAR, filled], [unjudged, cut]) == [None, None]
    assert [e.dropped for e in (unjudged, cut)] == ["no verdict for process_supervision", "token budget"]
    assert rewards([LINEAR, Meddles()], [judged(None)]) == [None]
    assert rewards([LINEAR, filled], [judged(None)], missing_verdict="neutral") == [8.5]
    assert rewards([Screens(), Rewrites()], [judged(0.0)]) == [None]
    malformed = judged(0.9, parse="no_output")
    assert rewards([Rewrites(term="format", value=-1.5)], [malformed]) == [-1.5]
    for value in (None, 2.0):
        with pytest.raises(UserError, match=rf"rewrites: .* sample 0 {value}; a malformed reply must not be paid"):
            rewards([Rewrites(value=value)], [malformed])
        with pytest.raises(AssertionError, match="format penalty"):
            check_mitigation(Rewrites(value=value))


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda terms: [{"preference": 1.0} for _ in terms],
        lambda terms: [dict(reversed(row.items())) for row in terms],
        lambda terms: terms[:1],
        lambda terms: None,
        lambda terms: [None for _ in terms],
    ],
)
def test_rewritten_terms_keep_their_names(rewrite: Callable[[Any], Any]) -> None:
    class Careless(Rewrites):
        """Returns something else."""

        def rewrite_terms(self, episodes: Sequence[Episode], terms: Sequence[Terms]) -> list[Terms]:
            found: list[Terms] = rewrite(terms)
            return found

    with pytest.raises(UserError, match=r"mitigations: rewrites: rewrite_terms\(\) must return the terms of each"):
        compose([judged(0.1), judged(0.2)], eight, FLAT, [Careless()], RLConfig())


@pytest.mark.parametrize("value", ["high", float("nan")])
def test_a_rewritten_term_must_be_a_finite_number(value: Any) -> None:
    arm = Rewrites.model_construct(value=value, term="preference")
    with pytest.raises(UserError, match=rf"the reward term 'preference' is {value}; correct what computes it"):
        compose([judged(0.1)], eight, FLAT, [arm], RLConfig())


class Fails(AddsTerm):
    """Fails in its hook."""

    name: ClassVar[str] = "fails"

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [1 / 0 for _ in episodes]


def test_what_a_hook_raises_is_one_line_with_its_cause() -> None:
    line = Path(__file__).read_text(encoding="utf-8").splitlines().index("        return [1 / 0 for _ in episodes]") + 1
    with pytest.raises(UserError) as fault:
        compose([judged(0.1)], eight, FLAT, [Fails()], RLConfig())
    message = f"mitigations: fails: add_term() raised ZeroDivisionError: division by zero (test_hooks.py:{line})"
    assert str(fault.value) == message
    assert isinstance(fault.value.__cause__, ZeroDivisionError)

    def says(what: str) -> None:
        raise ValueError(what)

    with pytest.raises(UserError, match=r"^mitigations: fails: says\(\) raised ValueError: two lines \(") as fault:
        call(Fails(), says, "two\n  lines")
    assert "\n" not in str(fault.value)
    own = UserError("monitors.m: no such file")

    def refuses() -> None:
        raise own

    with pytest.raises(UserError) as fault:
        call(Fails(), refuses)
    assert fault.value is own


@pytest.mark.parametrize(("given", "size"), [([1.0], "1 items"), ((1.0, 2.0), "tuple"), (None, "NoneType")])
def test_a_hook_gives_one_item_per_episode(given: Any, size: str) -> None:
    def score(episodes: Sequence[Episode]) -> list[float]:
        return cast(list[float], given)

    with pytest.raises(UserError, match=rf"fails: score\(\) must return a list .* asked for 2, got {size}"):
        call_each(Fails(), score, [judged(0.1), judged(0.2)])


class Asks(AsksExtraTurn):
    """Asks an extra turn."""

    name: ClassVar[str] = "asks"

    def ask(self, episode: Episode) -> Prompt | None:
        return episode.prompt


class Confesses(Asks, LearnsExtraTurn):
    """Learns the extra turn of another model."""

    name: ClassVar[str] = "confesses"
    model: str | None = None

    @property
    def answerer(self) -> str | None:
        return self.model

    def reward_turn(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [1.0 for _ in episodes]


class Recontextualises(ReplacesPrompt):
    """Learns under the same prompt."""

    name: ClassVar[str] = "recontextualises"

    def learn_under(self, prompt: Prompt) -> Prompt:
        return prompt


class Measures(Recontextualises, Calibrates):
    """Replaces prompts by what it measures."""

    name: ClassVar[str] = "measures"

    def calibrate(self, pilot: Sequence[Episode]) -> Measures:
        return self


class Routes(RoutesGradients):
    """Sends everything everywhere."""

    name: ClassVar[str] = "routes"

    def route(self, episodes: Sequence[Episode]) -> list[Route]:
        return ["both" for _ in episodes]


class Sends(TargetsTerms):
    """Sends one term to a segment."""

    name: ClassVar[str] = "sends"
    term: str = "preference"
    to: str = "output"

    def target_term(self, term: str) -> Learn | None:
        return cast(Learn, self.to) if term == self.term else None


class SendsLater(Sends, FollowsSchedule):
    """Changes its mind."""

    name: ClassVar[str] = "sends_later"

    def at_step(self, schedule: Schedule) -> SendsLater:
        return self


class Spans(CreditsTokens):
    """Credits tokens by an episode's sample."""

    name: ClassVar[str] = "spans"
    tokens: tuple[tuple[int, ...], ...] = ()
    values: tuple[float, ...] = ()

    def credit_tokens(self, episodes: Sequence[Episode]) -> list[list[Credit]]:
        return [[Credit(self.values[e.sample], self.tokens[e.sample])] for e in episodes]


class LateCredit(Spans, DelaysTerm):
    """Credits late."""

    name: ClassVar[str] = "late_credit"

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [0.0 for _ in episodes]


class Nowhere(Scenario):
    """Cannot ask in another tier."""

    name: ClassVar[str] = "nowhere"

    @property
    def monitored_tier(self) -> str:
        return "a"

    @property
    def unmonitored_tier(self) -> str:
        return "b"

    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        return []


LATE = ProcessSupervision(monitor="output", delay=2)
OTHER_PLACE = "with rl.learn=output no token there learns, so it would teach nothing"


@pytest.mark.parametrize(
    ("arms", "run", "message"),
    [
        ([Asks(), Confesses()], {}, "asks and confesses both ask an extra turn"),
        ([Recontextualises(), Measures()], {}, "recontextualises and measures both replace the prompt"),
        ([Routes(), Routes()], {"lora": True}, "routes and routes both route gradients"),
        ([Confesses(model="gpt")], {}, "confesses: learns its extra turn, so the policy must reply to it, not gpt"),
        ([Confesses(model="")], {}, "confesses: learns its extra turn, so the policy must reply to it, not a frozen"),
        ([LATE, Sends()], {}, "process_supervision: a delayed term does not go together with sends; set delay=0"),
        ([LATE, Recontextualises()], {}, "a delayed term does not go together with recontextualises"),
        ([LATE, Routes()], {"lora": True}, "a delayed term does not go together with routes"),
        ([Routes()], {}, "routes: routes gradients between two adapters; set model.lora={}"),
        ([Routes()], {"lora": True, "processes": 2}, "routes: routes gradients in one process; set rl.processes=1"),
        ([LateCredit(delay=1)], {}, "late_credit: credit cannot be delayed; set delay=0"),
        ([Measures()], {"processes": 2}, "measures: what it calibrates is known to one process; set rl.processes=1"),
        ([Sends(to="scratchpad")], {"learn": "output"}, f"the term 'preference' to the scratchpad, but {OTHER_PLACE}"),
        ([Sends()], {"learn": "scratchpad"}, "'preference' to the output, but with rl.learn=scratchpad no token"),
        ([LINEAR, Sends(term=LINEAR.name)], {"learn": "scratchpad"}, "sends the term 'process_supervision' to the"),
        ([Sends(), Sends(to="scratchpad")], {}, "sends the term 'preference' to output and sends to scratchpad; keep"),
        ([Sends(to="thoughts")], {}, r"sends: target_term\(\) gave 'thoughts'; give all, scratchpad, output or None"),
        ([BCT()], {"scenario": Nowhere()}, "bct: the scenario 'nowhere' cannot ask in another tier"),
        ([ACT()], {"scenario": Nowhere()}, "act: the scenario 'nowhere' cannot ask in another tier"),
        (
            [PairedTiers(judge={"name": "prompted"})],
            {"scenario": Nowhere()},
            "the scenario 'nowhere' cannot ask in another tier",
        ),
    ],
)
def test_what_cannot_work_together_is_refused_in_one_line(
    arms: list[Mitigation], run: dict[str, Any], message: str
) -> None:
    settings = {"advantage_scale": "none"} | run
    with pytest.raises(UserError, match=f"^mitigations: .*{message}") as fault:
        bind_all(arms, info(**settings))
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("arms", "run"),
    [
        ([Confesses()], {}),
        ([Recontextualises(), Routes(), Asks()], {"lora": True}),
        ([Measures()], {}),
        ([Sends(to="scratchpad")], {}),
        ([Sends()], {"learn": "output"}),
        ([Sends(), Sends()], {}),
        ([SendsLater(to="scratchpad")], {"learn": "output"}),
        ([PairedTiers()], {}),
        ([LATE, Segments(learn="all")], {}),
    ],
)
def test_what_works_together_is_not_refused(arms: list[Mitigation], run: dict[str, Any]) -> None:
    assert len(bind_all(arms, info(**{"advantage_scale": "none", **run}))) == len(arms)


def rewarded(*rewards: float, **changes: Any) -> list[Episode]:
    """A group of episodes with two scratchpad and two output tokens."""
    segments = [SCRATCHPAD, SCRATCHPAD, OUTPUT, OUTPUT]
    given = {"segments": segments, "completion_ids": [1, 2, 3, 4]} | changes
    return [make_episode(sample=n, reward=r, reward_terms={"preference": r}, **given) for n, r in enumerate(rewards)]


def counted(arm: Mitigation, episodes: list[Episode], learn: Learn) -> tuple[Advantages, dict[str, Any]]:
    advantages = step_advantages(grouped(episodes), [arm], "none", learn)
    return advantages, episode_metrics(episodes, advantages, {})


def test_credit_that_reaches_no_token_that_learns_is_counted_and_said() -> None:
    arm = Spans(values=(2.0, 0.0, 1.0), tokens=((0, 1), (1, 2), (2, 3)))
    lost, row = counted(arm, rewarded(1.0, 1.0, 1.0), "output")
    # The third credit is the mean of its group: advantage 0, so it has nothing to lose.
    assert lost.credit == CreditCount(given=2, lost=1, lost_tokens=3)
    assert (row["credits"], row["credits_lost"], row["credit_lost_tokens"]) == (2, 1, 3)
    assert "1 of 2 credits reach no token that learns and teach nothing; look at rl.learn" in row["alarm"]
    sound, row = counted(arm, rewarded(1.0, 1.0, 1.0), "all")
    assert sound.credit == CreditCount(given=2) and "credits" not in row["alarm"]
    assert lost.tokens == sound.tokens == [[1.0, 1.0, 0.0, 0.0], [0.0, -1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_credit_for_a_span_without_tokens_is_lost_and_not_in_the_baseline() -> None:
    arm = Spans(values=(2.0, 0.0, 7.0), tokens=((0,), (3,), ()))
    found, row = counted(arm, rewarded(1.0, 1.0, 1.0), "all")
    assert found.credit == CreditCount(given=3, lost=1, lost_tokens=0)
    assert found.tokens == [[1.0, 0, 0, 0], [0, 0, 0, -1.0], [0, 0, 0, 0]]
    assert "1 of 3 credits" in row["alarm"]


def test_a_term_sent_where_an_episode_has_no_token_is_lost() -> None:
    episodes = [*rewarded(1.0, 3.0), *rewarded(5.0, segments=[OUTPUT], completion_ids=[3])]
    found, row = counted(Sends(to="scratchpad"), episodes, "all")
    # 3 is the mean, so the second episode has nothing to lose.
    assert found.credit == CreditCount(given=2, lost=1, lost_tokens=0) and "1 of 2 credits" in row["alarm"]
    masked, _ = counted(SendsLater(to="scratchpad"), rewarded(1.0, 3.0), "output")
    assert masked.credit == CreditCount(given=2, lost=2, lost_tokens=4)


def test_runs_without_credit_have_no_count() -> None:
    found, row = counted(Asks(), rewarded(1.0, 3.0), "output")
    assert found.credit is None and not [name for name in row if re.match("credit", name)]
