"""What a mitigation can do: one class per hook. A mitigation inherits from those that it needs.

The order in a step: prompts are replaced (:class:`ReplacesPrompt`), replies sampled (:class:`PerturbsSampling`), the
extra turn asked (:class:`AsksExtraTurn`), monitors judge, terms are added and rewritten, episodes filtered, credit
given, gradients routed, and losses added. Hooks only read episodes; all randomness comes from settings and episodes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, Self, TypedDict

from pydantic import Field

from crypsis.arrays import States
from crypsis.mitigations.base import Mitigation, Schedule
from crypsis.types import OUTPUT, SCRATCHPAD, Episode, Learn, Message, Prompt, View

Terms = Mapping[str, float | None]
"""One episode's reward terms by name; None where a term could not be computed (a missing verdict)."""
Route = Literal["deployed", "quarantined", "both"]
"""The adapter blocks that an episode's gradient reaches."""
SEGMENTS: Mapping[Learn, frozenset[int]] = {
    "all": frozenset({SCRATCHPAD, OUTPUT}),
    "scratchpad": frozenset({SCRATCHPAD}),
    "output": frozenset({OUTPUT}),
}
"""Segment codes by name; GLUE, which we inserted, is in none."""


@dataclass(frozen=True, slots=True)
class Credit:
    """A reward for some tokens of an episode.

    Attributes:
        value: In units of reward.
        tokens: Which of the completion's tokens it reaches, from 0.
    """

    value: float
    tokens: tuple[int, ...]

    @classmethod
    def on(cls, episode: Episode, segment: Learn, value: float) -> Credit:
        """A reward for all tokens of a segment."""
        codes = SEGMENTS[segment]
        return cls(value, tuple(i for i, code in enumerate(episode.segments) if code in codes))

    @classmethod
    def between(cls, episode: Episode, start: int, end: int, value: float) -> Credit:
        """A reward for the tokens that hold some of ``episode.raw[start:end]``.

        Raises:
            ValueError: The episode does not say where its tokens end.
        """
        if len(episode.token_ends) != len(episode.completion_ids):
            raise ValueError("the episode does not say where its tokens end; only credit_tokens() gets ones that do")
        spans = zip([0, *episode.token_ends], episode.token_ends, strict=False)
        return cls(value, tuple(i for i, (a, b) in enumerate(spans) if a < end and b > start))


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A supervised episode.

    Attributes:
        messages: System and user turns.
        reply: What the assistant is to say, tags included.
        learn: The part of the reply that is in the loss.
    """

    messages: tuple[Message, ...]
    reply: str
    learn: Learn = "all"


@dataclass(frozen=True, slots=True)
class PromptPair:
    """Two prompts that end alike.

    Attributes:
        learned: The prompt at which the policy learns.
        reference: The prompt at which its states are the target.
    """

    learned: Prompt
    reference: Prompt


@dataclass(frozen=True, slots=True)
class Shift:
    """A vector that is added to the policy's states.

    Attributes:
        layer: The layer after which it is added; 1 is the first.
        vector: As long as the model is wide.
    """

    layer: int
    vector: tuple[float, ...]


class PolicyStates(Protocol):
    """What a mitigation may read of the policy, as it is when it asks."""

    @property
    def layers(self) -> int:
        """Number of its layers."""

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn."""

    def states(self, transcripts: Sequence[tuple[Sequence[int], Sequence[int]]], layer: int) -> list[States]:
        """Hidden states [T, E] after a layer over each completion, by token ids of prompt and completion."""


class RLSettings(TypedDict, total=False):
    """Settings of RL that a mitigation may make."""

    learn: Learn
    kl: float
    kl_on: Learn


class SetsRL(Mitigation):
    """Makes settings of RL."""

    @abstractmethod
    def set_rl(self) -> RLSettings:
        """The settings; one that the config or another mitigation makes otherwise is refused."""


class FollowsSchedule(Mitigation):
    """Changes in the course of a run."""

    @abstractmethod
    def at_step(self, schedule: Schedule) -> Self:
        """The mitigation as it works in a step; asked of the calibrated one, so that steps do not add up."""


class Calibrates(Mitigation):
    """Measures something on the starting policy."""

    @abstractmethod
    def calibrate(self, pilot: Sequence[Episode]) -> Self:
        """The mitigation with what it measures on the starting policy's replies to monitored prompts.

        It must not look at verdicts or labels. Its settings are kept in ``pilot.json``.
        """


class ReadsStates(Mitigation):
    """Reads the policy's hidden states."""

    @abstractmethod
    def reading(self, policy: PolicyStates) -> Self:
        """The mitigation with access to the policy, whose weights go on changing.

        Asked of a fresh copy in every step, so what it measured must be settings (:class:`Calibrates`).
        """


class PerturbsSampling(Mitigation):
    """Samples from other weights than it learns: noise is added to them while replies are sampled, and taken off again.

    The gradient is that of log p(reply) under the policy without noise, weighted with the advantage; no importance
    weight corrects for the noise. Pilot, extra turns and evaluations are without it.
    """

    @property
    @abstractmethod
    def noise(self) -> float:
        """Standard deviation of the noise, as a share of the root mean square of each weight matrix."""


class SteersEvaluations(Mitigation):
    """Adds a vector to the policy's states in evaluations, and nowhere else."""

    @abstractmethod
    def shift(self) -> Shift | None:
        """What is added; None leaves evaluations as they are."""


class ReplacesPrompt(Mitigation):
    """Samples under one prompt and learns under another (recontextualisation, inoculation).

    The reply's tokens stay. Their gradient is that of log p(reply | learning prompt), weighted with the advantage: no
    importance weight corrects for the change of prompts. Ratios, clipping and KL compare policies under the learning
    prompt. Evaluations see the scenario's own prompt.
    """

    def sample_under(self, prompt: Prompt) -> Prompt:
        """The prompt that the policy replies to, from the scenario's."""
        return prompt

    @abstractmethod
    def learn_under(self, prompt: Prompt) -> Prompt:
        """The prompt that the reply is learned under, from the scenario's."""


class AsksExtraTurn(Mitigation):
    """Asks the policy, or a separate model, once more after an episode; the reply is never in the loss."""

    asks_in_evaluations: ClassVar[bool] = True
    """Whether evaluations ask too; False where they have the answers anyway."""

    @property
    def answerer(self) -> str | None:
        """Who replies: None for the policy, a checkpoint, or "" for the policy before training."""
        return None

    @abstractmethod
    def ask(self, episode: Episode) -> Prompt | None:
        """The conversation that goes on from an episode, ending with a user's turn; None asks nothing.

        The reply is sampled before monitors judge and stands in ``episode.extra_turn``.
        """


class LearnsExtraTurn(AsksExtraTurn):
    """An extra turn whose tokens are in the loss, with a reward of its own (confessions).

    Its baseline are the other extra turns of the group, and its loss is averaged over its own tokens and added to that
    of the replies, which it leaves alone.
    """

    @abstractmethod
    def reward_turn(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The reward of each extra turn; None does not learn it. Ignored where nothing was asked."""


class AddsTerm(Mitigation):
    """Adds a term to the reward of each episode."""

    sign: ClassVar[int] = 0
    """-1 if the term punishes high scores of the monitors that it listens to, 1 if it rewards them."""
    of_scratchpad: ClassVar[bool] = False
    """Whether the term is a function of the scratchpad alone."""

    @abstractmethod
    def add_term(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The term of each episode; None where it cannot be computed (a missing verdict)."""


class DelaysTerm(AddsTerm):
    """Adds a term that may reach the policy later than the rest of the reward."""

    delay: int = Field(0, ge=0)
    """Verdicts on a step's episodes arrive so many steps later: all other terms teach at once, this one teaches then,
    as an off-policy update on the old episodes with clipped importance ratios."""


class RewritesTerms(Mitigation):
    """Scales or replaces reward terms, seeing all of them by name."""

    @abstractmethod
    def rewrite_terms(self, episodes: Sequence[Episode], terms: Sequence[Terms]) -> list[Terms]:
        """The terms of each episode, under the same names.

        A malformed episode has the term ``format`` alone, which must stay a number of at most 0; a truncated one has
        none. No rewrite brings an episode back: with ``rl.missing_verdict: drop`` one that a monitor could not judge is
        dropped, whatever stands in place of the None. Several mitigations rewrite in the order of the config.
        """


class TargetsTerms(Mitigation):
    """Chooses which tokens a reward term reaches."""

    @abstractmethod
    def target_term(self, term: str) -> Learn | None:
        """The segment whose tokens a term reaches, by the term's name; None leaves it as it is.

        Terms of the same reach are one stream: their sum is compared within the group, among the episodes that have any
        of them.
        """


class CreditsTokens(Mitigation):
    """Rewards single tokens, sentences or segments.

    The group's credits are a stream of their own: each token's advantage gets the credit's value minus the mean of all
    credits in its group (Shao et al. 2024, DeepSeekMath, section 4.1.3), divided by their deviation with
    ``rl.advantage_scale: group``. So list the innocent sentences too, with 0.
    """

    @abstractmethod
    def credit_tokens(self, episodes: Sequence[Episode]) -> list[list[Credit]]:
        """The credits of each episode; an episode without any is not in the stream. Ignored for malformed episodes."""


class FiltersEpisodes(Mitigation):
    """Keeps episodes out of training."""

    @abstractmethod
    def filter(self, episodes: Sequence[Episode]) -> list[bool | None]:
        """Whether each episode is to give no gradient; None where that cannot be told (a missing verdict)."""


class RoutesGradients(Mitigation):
    """Chooses which of two adapter blocks an episode's gradient reaches; needs ``model.lora``.

    Both blocks compute while the policy trains. The quarantined one is removed before evaluations and at the end.
    """

    @abstractmethod
    def route(self, episodes: Sequence[Episode]) -> list[Route]:
        """The blocks that each episode teaches."""


class AddsLoss(Mitigation):
    """Adds a supervised loss on data of its own (an anchor)."""

    @property
    @abstractmethod
    def loss_weight(self) -> float:
        """Factor of the mean negative log-likelihood per learned token, beside the policy loss."""

    @abstractmethod
    def demonstrate(self, schedule: Schedule) -> Sequence[Demonstration]:
        """What is learned in a step; it must depend on the settings and the schedule alone."""


class ImitatesReplies(Mitigation):
    """Adds a supervised loss on what the policy itself replied in a step (consistency by supervised learning)."""

    @property
    @abstractmethod
    def loss_weight(self) -> float:
        """Factor of the mean negative log-likelihood per learned token, beside the policy loss."""

    @abstractmethod
    def imitate(self, episodes: Sequence[Episode]) -> Sequence[Demonstration]:
        """What is learned in a step, made from its episodes, extra turns included."""


class MatchesStates(Mitigation):
    """Adds a loss on the distance of the policy's states at the end of two prompts (consistency of activations).

    For each pair the states over the longest common end of the two prompts' tokens are compared. Those of the reference
    prompt are the policy's own in the same step, held fixed.
    """

    @property
    @abstractmethod
    def loss_weight(self) -> float:
        """Factor of the mean squared distance, as a share of the target's squared norm, beside the policy loss."""

    @property
    def matched_layer(self) -> int | None:
        """The layer whose output is compared (1 is the first); None for all."""
        return None

    @abstractmethod
    def pair_prompts(self, prompts: Sequence[Prompt]) -> Sequence[PromptPair]:
        """The pairs of a step, from its prompts."""


HOOKS = (
    *(SetsRL, FollowsSchedule, Calibrates, ReadsStates, ReplacesPrompt, PerturbsSampling, AsksExtraTurn, AddsTerm),
    *(RewritesTerms, TargetsTerms, CreditsTokens, FiltersEpisodes, RoutesGradients, AddsLoss, ImitatesReplies),
    *(MatchesStates, SteersEvaluations),
)
"""All of them; a mitigation without any does nothing."""


def reads_only(mitigation: AddsTerm, segment: View, views: Mapping[str, View]) -> bool:
    """Whether a term is a function of one segment alone.

    Args:
        mitigation: Whose term.
        segment: ``scratchpad`` or ``output``.
        views: What each of the run's monitors may read, keyed by name.
    """
    read = {views.get(name) for name in mitigation.listens_to}
    return read == {segment} or (segment == "scratchpad" and mitigation.of_scratchpad)


def delay_of(mitigation: Mitigation) -> int:
    """Steps by which a mitigation's term reaches the policy late."""
    return mitigation.delay if isinstance(mitigation, DelaysTerm) else 0
