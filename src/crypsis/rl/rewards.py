"""The reward: preference, format, length correction and the mitigations' terms, every term stored by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from crypsis.arrays import Floats
from crypsis.mitigations.base import Mitigation, call, call_each, term_names
from crypsis.mitigations.hooks import AddsTerm, FiltersEpisodes, LearnsExtraTurn, RewritesTerms, Terms, delay_of
from crypsis.run_config import RLConfig
from crypsis.scenarios.base import Preference
from crypsis.types import Episode, UserError


@dataclass(frozen=True, slots=True)
class LengthCorrection:
    """What the pilot found, frozen for the run.

    Attributes:
        slope: Reward that one more output token earns from the preference model.
        centre: Mean output length of the pilot in tokens; the term is 0 there.
        n: Episodes behind the regression.
    """

    slope: float
    centre: float
    n: int

    def term(self, tokens: int) -> float:
        """What is added to the reward of an output of this length."""
        return -self.slope * (tokens - self.centre)


def fit_length_correction(episodes: Sequence[Episode], preference: Preference) -> LengthCorrection:
    """Regresses the group-centred preference on the group-centred output length (paper §4).

    Departure: only well-formed episodes that the preference model scores above 0 count. Refusals are short and
    score low for another reason than their length; with them the correction would pay for refusing.
    """
    good = [e for e in episodes if e.parse == "ok"]
    scores = preference([e.prompt.request for e in good], [e.output for e in good])
    helpful = [(e.group, e.output_tokens, s) for e, s in zip(good, scores, strict=True) if s > 0]
    if len(helpful) < 3:
        return LengthCorrection(0.0, 0.0, len(helpful))
    groups, lengths, values = (np.array(column, dtype=float) for column in zip(*helpful, strict=True))
    x, y = _centred(lengths, groups), _centred(values, groups)
    slope = float((x @ y) / (x @ x)) if (x @ x) > 0 else 0.0
    return LengthCorrection(slope, float(lengths.mean()), len(helpful))


def compose(
    episodes: Sequence[Episode],
    preference: Preference,
    correction: LengthCorrection,
    mitigations: Sequence[Mitigation],
    config: RLConfig,
) -> list[float | None]:
    """Writes reward terms, reward and reason for dropping into each episode and returns the rewards.

    A badly formatted episode gets the format penalty alone. An episode that the token budget cut off, that a mitigation
    filters out, or (with ``missing_verdict: drop``) that a monitor could not judge, is dropped: reward None. Terms that
    reach the policy later are stored apart and are not in the reward.

    Raises:
        UserError: A term is NaN or infinite, or a hook raised.
    """
    names = dict(zip(term_names(mitigations), mitigations, strict=True))
    judged = _terms(episodes, preference, correction, names, config)
    terms = _rewritten(episodes, judged, mitigations)
    delayed = {name for name, m in names.items() if delay_of(m)}
    filters = {name: call_each(m, m.filter, episodes) for name, m in names.items() if isinstance(m, FiltersEpisodes)}
    for index, episode in enumerate(episodes):
        if episode.stop == "length":
            episode.dropped, episode.reward = "token budget", None
            continue
        _check_finite(episode, terms[index])
        filtered = {name: out[index] for name, out in filters.items()} if episode.parse == "ok" else {}
        # A verdict that is missing stays missing, whatever a rewrite puts in its place.
        found = (*judged[index].items(), *terms[index].items(), *filtered.items())
        missing = [name for name, value in found if value is None]
        known = {name: value for name, value in terms[index].items() if value is not None}
        episode.reward_terms = {name: value for name, value in known.items() if name not in delayed}
        episode.delayed_terms = {name: value for name, value in known.items() if name in delayed}
        episode.dropped = f"no verdict for {missing[0]}" if missing and config.missing_verdict == "drop" else ""
        episode.dropped = next((f"flagged: {name}" for name, out in filtered.items() if out), episode.dropped)
        episode.reward = None if episode.dropped else sum(episode.reward_terms.values())
    _reward_turns(episodes, mitigations)
    return [e.reward for e in episodes]


def _terms(
    episodes: Sequence[Episode],
    preference: Preference,
    correction: LengthCorrection,
    names: Mapping[str, Mitigation],
    config: RLConfig,
) -> list[Terms]:
    """The terms of each episode before they are rewritten; none of a truncated one."""
    scores = preference([e.prompt.request for e in episodes], [e.output for e in episodes])
    extra = {name: call_each(m, m.add_term, episodes) for name, m in names.items() if isinstance(m, AddsTerm)}
    found: list[Terms] = []
    for index, episode in enumerate(episodes):
        if episode.stop == "length":
            found.append({})
        elif episode.parse != "ok":
            found.append({"format": config.format_penalty})
        else:
            own = {"preference": scores[index], "length": correction.term(episode.output_tokens)}
            found.append(own | {name: values[index] for name, values in extra.items()})
    return found


def _rewritten(episodes: Sequence[Episode], terms: list[Terms], mitigations: Sequence[Mitigation]) -> list[Terms]:
    for m in mitigations:
        if not isinstance(m, RewritesTerms):
            continue
        names = [list(row) for row in terms]
        terms = call(m, m.rewrite_terms, episodes, [dict(row) for row in terms])
        sound = isinstance(terms, list) and all(isinstance(row, Mapping) for row in terms)
        if not sound or [list(row) for row in terms] != names:
            raise UserError(
                f"mitigations: {m.name}: rewrite_terms() must return the terms of each episode, under the same "
                "names and in the same order"
            )
        for episode, row in zip(episodes, terms, strict=True):
            if "format" in row and not (isinstance(row["format"], Real) and not row["format"] > 0):
                raise UserError(
                    f"mitigations: {m.name}: rewrite_terms() made the format penalty of step {episode.step}, prompt "
                    f"{episode.prompt.prompt_id}, sample {episode.sample} {row['format']}; a malformed reply must "
                    "not be paid, so give a number of at most 0"
                )
    return terms


def _reward_turns(episodes: Sequence[Episode], mitigations: Sequence[Mitigation]) -> None:
    """Writes the rewards of extra turns that are learned."""
    for m in mitigations:
        if not isinstance(m, LearnsExtraTurn):
            continue
        for episode, value in zip(episodes, call_each(m, m.reward_turn, episodes), strict=True):
            episode.extra_reward = value if episode.extra_tokens is not None else None
            _check_finite(episode, {f"{m.name} of the extra turn": episode.extra_reward})


def _check_finite(episode: Episode, terms: Mapping[str, float | None]) -> None:
    for name, value in terms.items():
        if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
            raise UserError(
                f"step {episode.step}, prompt {episode.prompt.prompt_id}, sample {episode.sample}: the reward term "
                f"'{name}' is {value}; correct what computes it, or let it return None"
            )


def _centred(values: Floats, groups: Floats) -> Floats:
    means = {g: values[groups == g].mean() for g in np.unique(groups)}
    centred: Floats = values - np.array([means[g] for g in groups])
    return centred
