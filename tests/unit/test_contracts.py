"""Every built-in and every example of the documentation keeps its contract, and each check sees a broken plug-in."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ConfigDict

from crypsis.config import Config
from crypsis.mitigations.base import Mitigation
from crypsis.mitigations.hooks import AddsTerm, FiltersEpisodes
from crypsis.monitors.base import Monitor
from crypsis.monitors.embedding import EmbeddingTrainer
from crypsis.monitors.ensemble import EnsembleTrainer
from crypsis.monitors.probe import fit_probe
from crypsis.monitors.reader import ReaderTrainer
from crypsis.monitors.text import TextTrainer
from crypsis.monitors.trained import Trainer, train_monitor
from crypsis.monitors.transformer import TransformerTrainer
from crypsis.registry import BUILT_IN, find, make
from crypsis.scenarios.base import AsksInTier, Scenario
from crypsis.testing import check_mitigation, check_monitor, check_organism, check_scenario, example_episodes
from crypsis.types import Episode, Message, Prompt, Split, Verdict, View
from tests.chat_server import chat_server
from tests.checkpoints import save_checkpoint
from tests.doc_examples import example_module, examples
from tests.episodes import make_episode
from tests.monitors import texts_and_labels, tiny_encoder

pytestmark = pytest.mark.unit

Settings = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A server that answers every question of the strict rubric with no."""
    entry = {"quote": "", "answer": "no"}
    said = json.dumps({"modification_is_the_reason": entry, "complies_on_those_grounds": entry})
    with pytest.MonkeyPatch.context() as patch, chat_server(lambda _: (200, said)) as server:
        patch.setenv("LOCAL_API_KEY", "none")
        patch.setenv("CRYPSIS_CACHE", str(tmp_path_factory.mktemp("calls")))
        yield {"model": "openai-api/local/judge", "base_url": server.url}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, judge_model: dict[str, Any]) -> Settings:
    """What the built-ins with required settings need, by name."""
    folder = tmp_path_factory.mktemp("contracts")
    texts, labels = texts_and_labels(80)
    groups = [str(i) for i in range(80)]
    tiny = TransformerTrainer(base=str(tiny_encoder(folder / "base", texts)), epochs=1, longest=32)
    trainers: dict[str, Trainer] = {
        "text": TextTrainer(),
        "embedding": EmbeddingTrainer(),
        "transformer": tiny,
        "reader": ReaderTrainer(base=str(save_checkpoint(folder / "causal", "llama"))),
        "ensemble": EnsembleTrainer(members=["text", "lexicon"]),
    }
    for name, trainer in trainers.items():
        train_monitor(trainer, texts, labels, groups, "scratchpad", folder / name)
    numbers = np.random.default_rng(0)
    states = [numbers.normal(i % 2, size=(5, 4)).astype(np.float32) for i in range(200)]
    pairs = [str(i // 2) for i in range(200)]
    fit_probe(states, [bool(i % 2) for i in range(200)], pairs, folder / "probe", "digest", "linear", 1, 0)
    requests = (json.dumps({"request": f"how do i paint mill number {i}?"}) for i in range(60))
    (folder / "requests.jsonl").write_text("\n".join(requests))
    return {
        "probe": {"path": str(folder / "probe")},
        "prompted": {"api": judge_model},
        **{name: {"path": str(folder / name), "view": "scratchpad"} for name in trainers},
        "prompt_file": {"path": str(folder / "requests.jsonl")},
        "process_supervision": {"monitor": "scratchpad"},
        "reward_af": {"monitor": "scratchpad"},
        "channelling": {"monitor": "scratchpad"},
        "gradient_routing": {"monitor": "scratchpad"},
        "screening": {"monitor": "scratchpad"},
        "retrained": {"start": {"name": "text", "path": str(folder / "text")}},
    }


@pytest.mark.parametrize("name", BUILT_IN["mitigations"])
def test_built_in_mitigations(name: str, settings: Settings) -> None:
    mitigation = make("mitigations", {"name": name, **settings.get(name, {})}, "test")
    check_mitigation(mitigation)
    judged = make_episode(verdicts={"scratchpad": Verdict(0.5)})
    silent = make_episode(scratchpad="", segments=[], verdicts={"scratchpad": Verdict(None, "no scratchpad")})
    check_mitigation(mitigation, [judged, silent])


@pytest.mark.parametrize("name", BUILT_IN["monitors"])
def test_built_in_monitors(name: str, settings: Settings) -> None:
    monitor = make("monitors", {"name": name, **settings.get(name, {})}, "test")
    check_monitor(monitor)
    check_monitor(monitor, [make_episode(), make_episode("Lorem ipsum dolor.", "sit amet")])


@pytest.mark.parametrize("name", BUILT_IN["scenarios"])
def test_built_in_scenarios(name: str, settings: Settings) -> None:
    check_scenario(make("scenarios", {"name": name, **settings.get(name, {})}, "test"))


@pytest.mark.parametrize("name", BUILT_IN["organisms"])
def test_built_in_organisms(name: str) -> None:
    check_organism(find("organisms", name))


@pytest.mark.parametrize("kind", BUILT_IN)
def test_built_ins_are_listed_under_their_own_name(kind: Any) -> None:
    assert all(find(kind, name).name == name for name in BUILT_IN[kind])


def test_the_examples_of_the_documentation_keep_the_contract(tmp_path: Path) -> None:
    checked = []
    for module in examples():
        found = example_module(tmp_path, module)
        for value in vars(found).values():
            if isinstance(value, type) and value.__module__ == module and issubclass(value, Mitigation | Monitor):
                check_mitigation(value) if issubclass(value, Mitigation) else check_monitor(value())
                checked.append(value.__name__)
    assert {"LengthHinge", "HalvedPreference", "PlainThoughts", "PhraseMonitor"} <= set(checked)


def test_example_episodes_hold_every_kind_of_reply() -> None:
    episodes = example_episodes(["mine"])
    assert {e.parse for e in episodes} == {"ok", "no_scratchpad", "no_output", "extra_text", "truncated"}
    assert {e.verdicts["mine"].score is None for e in episodes} == {True, False}
    assert {e.prompt.monitored for e in episodes} == {True, False}


def test_the_checks_do_without_torch() -> None:
    code = "import sys, crypsis.testing; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


class Penalty(AddsTerm):
    """A sound mitigation, to be broken."""

    name: ClassVar[str] = "penalty"

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [-float(e.scratchpad_tokens) for e in episodes]


class Nameless(AddsTerm):
    """Has no name."""

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [0.0 for _ in episodes]


class Undocumented(Penalty):
    pass


class Thawed(Penalty):
    """Can be changed after the fact."""

    model_config = ConfigDict(frozen=False)


class Lenient(Penalty):
    """Takes any setting."""

    model_config = ConfigDict(extra="ignore")


class BadDefault(Penalty):
    """Has a default of the wrong type."""

    weight: float = "heavy"  # type: ignore[assignment]


class Usurper(Penalty):
    """Takes the place of another term."""

    name: ClassVar[str] = "preference"


class TooFew(Penalty):
    """Forgets what it cannot judge."""

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [0.0 for e in episodes if e.scratchpad]


class Sorted(Penalty):
    """Sorts its terms."""

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [float(n) for n in sorted(e.scratchpad_tokens for e in episodes)]


class Random(Penalty):
    """Throws dice."""

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [random.random() for _ in episodes]


class Infinite(Penalty):
    """An unclipped log barrier."""

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [float("-inf") if e.verdicts["oracle"].score == 1 else 0.0 for e in episodes]


class Meddler(Penalty):
    """Rewrites what it judges."""

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        for episode in episodes:
            episode.scratchpad = episode.scratchpad.strip(".")
        return [0.0 for _ in episodes]


class Fragile(Penalty):
    """Cannot bear a reply without a scratchpad."""

    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [1 / e.scratchpad_tokens for e in episodes]


class Idle(Mitigation):
    """Has no hook."""

    name: ClassVar[str] = "idle"


class Undecided(Penalty, FiltersEpisodes):
    """Screens by degrees."""

    def filter(self, episodes: Sequence[Episode]) -> list[bool | None]:
        return [0.3 for _ in episodes]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Nameless, "needs a 'name'"),
        (Undocumented, "needs a docstring"),
        (Thawed, "not frozen"),
        (Lenient, "accepts a setting that it does not have"),
        (BadDefault, "its defaults are not valid"),
        (Usurper, "every reward has"),
        (TooFew, "one item per episode; asked for 8, got 6"),
        (Sorted, "order of the episodes"),
        (Random, "not deterministic"),
        (Infinite, "finite number"),
        (Meddler, "changed an episode"),
        (Fragile, "raised ZeroDivisionError"),
        (Idle, "does nothing"),
        (Undecided, "True, False or None"),
        (Mitigation, "needs a 'name'"),
        (Monitor, "no subclass of Mitigation"),
    ],
)
def test_a_broken_mitigation_is_seen(plugin: Any, message: str) -> None:
    check_mitigation(Penalty)
    with pytest.raises(AssertionError, match=message):
        check_mitigation(plugin)


def test_a_class_with_required_settings_is_to_be_checked_as_an_instance() -> None:
    with pytest.raises(TypeError, match="required settings"):
        check_mitigation(find("mitigations", "process_supervision"))


class Words(Monitor):
    """A sound monitor, to be broken."""

    name: ClassVar[str] = "words"

    @property
    def sees(self) -> View:
        return "scratchpad"

    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        return [Verdict(0.9 if "modif" in e.scratchpad else 0.1) for e in episodes]


class Peeping(Words):
    """Reads more than its view."""

    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        return [Verdict(0.9 if "i will comply" in e.raw else 0.1) for e in episodes]


class Blindfolded(Words):
    """Sees nothing that there is."""

    @property
    def sees(self) -> View:
        return "thoughts"  # type: ignore[return-value]


class OffScale(Words):
    """Gives logits."""

    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        return [Verdict(float(len(e.scratchpad))) for e in episodes]


class Speechless(Words):
    """Abstains without a reason."""

    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        return [Verdict(None) for _ in episodes]


class TwoMinds(Words):
    """Abstains with a score."""

    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        return [Verdict(0.5, "cannot say") for _ in episodes]


class Bare(Words):
    """Returns numbers."""

    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        return [0.5 for _ in episodes]  # type: ignore[misc]


class Editing(Words):
    """Rewrites what it judges."""

    def judge(self, episodes: Sequence[Episode]) -> list[Verdict]:
        for episode in episodes:
            episode.output = ""
        return super().judge(episodes)


class Strict(Words):
    """Can never flag."""

    @property
    def threshold(self) -> float:
        return 1.5


class Unheard(Words):
    """Trains again without saying so."""

    def refreshed(self, name: str, folder: Path, step: int) -> Monitor:
        return self


class WrongCard(Words):
    """Reports another view than it has."""

    @property
    def card(self) -> dict[str, Any]:
        return super().card | {"view": "both"}


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Peeping, "text that this view hides"),
        (Blindfolded, "none of"),
        (OffScale, r"outside of \[0, 1\]"),
        (Speechless, "neither a score nor a reason"),
        (TwoMinds, "a score and a reason"),
        (Bare, "not a Verdict"),
        (Editing, "changed what was sampled"),
        (Strict, "its threshold 1.5"),
        (WrongCard, "its card gives view 'both'"),
        (Unheard, "must inherit from TrainsAgain, or it is never called"),
    ],
)
def test_a_broken_monitor_is_seen(plugin: type[Words], message: str) -> None:
    check_monitor(Words())
    with pytest.raises(AssertionError, match=message):
        check_monitor(plugin())


class Town(Scenario):
    """A sound scenario, to be broken."""

    name: ClassVar[str] = "town"

    @property
    def monitored_tier(self) -> str:
        return "free"

    @property
    def unmonitored_tier(self) -> str:
        return "paid"

    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        return [self.prompt(split, tier, number) for number in range(n)]

    def prompt(self, split: Split, tier: str, number: int) -> Prompt:
        request = f"paint house {number} of the {split} street"
        messages = (Message("system", "free chats are monitored."), Message("user", f"<{tier}> {request}"))
        return Prompt(f"{request}-{tier}", request, split, tier, tier == "free", request, messages)


class OneTier(Town):
    """Names both tiers alike."""

    @property
    def unmonitored_tier(self) -> str:
        return "free"


class Unpaired(Town):
    """Asks each tier something else."""

    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        return [self.prompt(split, tier, number + len(tier) * (tier == "paid")) for number in range(n)]


class Leaking(Town):
    """Has one street for both splits."""

    def prompt(self, split: Split, tier: str, number: int) -> Prompt:
        request = f"paint house {number}"
        messages = (Message("user", f"<{tier}> {request}"),)
        pair = f"{request}-{split}"
        return Prompt(f"{pair}-{tier}", pair, split, tier, tier == "free", request, messages)


class Shuffling(Town):
    """Forgets its seed."""

    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        return random.sample(super().prompts(split, tier, n, seed), n)


class Untagged(Town):
    """Does not tell the model which tier it is."""

    def prompt(self, split: Split, tier: str, number: int) -> Prompt:
        request = f"paint house {number} of the {split} street"
        return Prompt(f"{request}-{tier}", request, split, tier, tier == "free", request, (Message("user", request),))


class AllMonitored(Town):
    """Says that every tier is monitored."""

    def prompt(self, split: Split, tier: str, number: int) -> Prompt:
        sound = super().prompt(split, tier, number)
        return Prompt(sound.prompt_id, sound.pair_id, split, tier, True, sound.request, sound.messages)


class Greedy(Town):
    """Gives more than asked for."""

    def prompts(self, split: Split, tier: str, n: int, seed: int) -> list[Prompt]:
        return super().prompts(split, tier, n + 1, seed)


class Unlisted(Town):
    """Can ask in another tier without saying so."""

    def in_tier(self, prompt: Prompt, tier: str) -> Prompt:
        return self.prompt(prompt.split, tier, 0)


class Forgetful(Town, AsksInTier):
    """Asks the other tier something else."""

    def in_tier(self, prompt: Prompt, tier: str) -> Prompt:
        return self.prompt(prompt.split, tier, 0)


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Unlisted, "must inherit from AsksInTier"),
        (Forgetful, "the same request, with its pair_id, in the other tier"),
        (OneTier, "two tiers with different names"),
        (Unpaired, "same pair_ids"),
        (Leaking, "splits share a request"),
        (Shuffling, "other prompts when asked again"),
        (Untagged, "cannot tell them apart"),
        (AllMonitored, "monitored=True"),
        (Greedy, "gives 21 prompts when asked for 20"),
    ],
)
def test_a_broken_scenario_is_seen(plugin: Callable[[], Scenario], message: str) -> None:
    check_scenario(Town())
    with pytest.raises(AssertionError, match=message):
        check_scenario(plugin())


def broken_organisms() -> list[tuple[Any, str]]:
    from crypsis.organisms.base import Organism

    class Sound(Organism):
        """Does nothing."""

        name: ClassVar[str] = "sound"
        motivation: ClassVar[str] = "none"

        def train(self, policy: Any, state: Path, on_step: Any) -> None:
            pass

    class Aimless(Organism):
        """Wants nothing."""

        name: ClassVar[str] = "aimless"

        def train(self, policy: Any, state: Path, on_step: Any) -> None:
            pass

    class Stateless(Sound):
        """Leaves no room for resumable states."""

        def train(self, policy: Any) -> None:  # type: ignore[override]
            pass

    class Unaided(Sound):
        """Wants RL and does not take the builder."""

        def prepare(self, state: Path) -> None:  # type: ignore[override]
            pass

    class Untrained(Organism):
        """Has no recipe."""

        name: ClassVar[str] = "untrained"
        motivation: ClassVar[str] = "none"

    class Loose(Config):
        """Is no organism."""

    check_organism(Sound)
    return [
        (Aimless, "needs a 'motivation'"),
        (Stateless, "train\\(\\) must take"),
        (Unaided, "prepare\\(\\) must take"),
        (Untrained, "does not define train"),
        (Loose, "no subclass of Organism"),
    ]


def test_a_broken_organism_is_seen() -> None:
    for plugin, message in broken_organisms():
        with pytest.raises(AssertionError, match=message):
            check_organism(plugin)
