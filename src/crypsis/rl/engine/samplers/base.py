"""What all samplers share: their signature, the random numbers, and the decode loop.

Shape suffixes: N rows being decoded, T positions of the completion, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crypsis.rl.engine.attention_cache import AttentionCache
from crypsis.rl.engine.timing import PhaseTimer

BATCH_SIZE = 256
"""Rows decoded together unless the caller says otherwise."""

COMPACT_BELOW = 0.85
"""Finished rows leave the batch when fewer than this share of its rows still write (0.6: 10 % slower, 0.93: alike)."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One completion.

    Attributes:
        ids: Token ids, the stop token included.
        logprobs: Log-probability of each token under the distribution that it was sampled from, in nats. Greedy
            decoding has no such distribution: there it is the model's own (temperature 1).
        stopped: Whether the last token is a stop token; otherwise the token budget ended the completion.
    """

    ids: list[int]
    logprobs: list[float]
    stopped: bool


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """What to sample.

    Attributes:
        samples_per_prompt: Completions of each prompt.
        max_new_tokens: Token budget of a completion, the stop token included.
        stop_ids: Tokens that end a completion.
        seed: Together with a row's index it fixes the row's random numbers: one uniform per position. Batching,
            compaction and splitting over processes change what is sampled only where rounding does.
        temperature: Divides the logits; 0 takes the most probable token.
        batch_size: Rows decoded together.
        row_offset: Index of the first row, for a process that samples a later part of the prompts; or the index of
            every row.
        fast_linears: See ``crypsis.rl.engine.shared_prefix.shared_attention``; other samplers ignore it.

    Raises:
        ValueError: A number is out of range.
    """

    samples_per_prompt: int
    max_new_tokens: int
    stop_ids: Collection[int]
    seed: int
    temperature: float = 1.0
    batch_size: int = BATCH_SIZE
    row_offset: int | Sequence[int] = 0
    fast_linears: bool = True

    def __post_init__(self) -> None:
        for name in ("samples_per_prompt", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)} and must be at least 1")
        if not self.temperature >= 0:
            raise ValueError(f"temperature is {self.temperature} and must not be negative")


class Sampler(Protocol):
    """The signature of every sampler."""

    def __call__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        timer: PhaseTimer | None = None,
        attention_cache: AttentionCache | None = None,
    ) -> list[Sampled]:
        """Samples completions.

        Args:
            model: A causal language model. It samples in evaluation mode and without gradients.
            prompts: Token ids, at least one each.
            params: What to sample.
            timer: Gets the phase ``sampling``.
            attention_cache: Gets what the attention of every row gave, from samplers that can tell.

        Returns:
            ``samples_per_prompt`` completions of the first prompt, then of the second, and so on.

        Raises:
            ValueError: A prompt is empty.
            FloatingPointError: The model gave probabilities that are not numbers.
        """
        ...


class Rows(Protocol):
    """Rows being decoded together, with their caches."""

    def start(self) -> Tensor:
        """Reads the prompts and returns the logits [N, V] of the first new token."""
        ...

    def step(self, tokens_N: Tensor) -> Tensor:
        """Appends one token to each row and returns the logits [N, V] of the next."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but those with these indices."""
        ...

    def remember(self, attention_cache: AttentionCache, sampled: Sequence[Sampled]) -> None:
        """Passes on what the attention of all rows gave, now that they are sampled, if it is known."""
        ...


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for all modules, and afterwards each module's own mode again."""
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def uniforms(seed: int, rows: Sequence[int], positions: int) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1), one per row and position: [rows, positions].

    Each row has its own counter-based stream (Philox), keyed by the seed and the row's index and nothing else.
    """
    out = np.empty((len(rows), positions), np.float32)
    for number, row in enumerate(rows):
        key = np.array([seed % 2**64, row], np.uint64)
        np.random.Generator(np.random.Philox(key=key)).random(dtype=np.float32, out=out[number])
    return out


def check(prompts: Sequence[Sequence[int]]) -> None:
    """Refuses prompts that no sampler can continue.

    Raises:
        ValueError: A prompt is empty.
    """
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {index} is empty: every prompt needs at least one token")


def in_batches(
    prompts: Sequence[Sequence[int]], samples_per_prompt: int, batch_size: int
) -> Iterator[tuple[int, list[Sequence[int]], list[int]]]:
    """Cuts the rows into batches.

    Yields:
        Index of the batch's first row, its prompts without repetition, and for each row which of these it continues.
    """
    total = len(prompts) * samples_per_prompt
    for first in range(0, total, batch_size):
        owners = [row // samples_per_prompt for row in range(first, min(first + batch_size, total))]
        yield first, list(prompts[owners[0] : owners[-1] + 1]), [owner - owners[0] for owner in owners]


def choose(logits_NV: Tensor, uniform_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Picks a token for each row by inverting the distribution function at the row's uniform number.

    Args:
        logits_NV: Unscaled logits.
        uniform_N: Numbers in [0, 1), of the type of the probabilities.
        temperature: Divides the logits; 0 takes the most probable token.

    Returns:
        Token ids [N] and their probabilities [N].
    """
    if logits_NV.dtype in (torch.bfloat16, torch.float16):
        logits_NV = logits_NV.float()
    if temperature not in (0.0, 1.0):
        logits_NV = logits_NV / temperature
    p_NV = logits_NV.softmax(-1)
    if temperature == 0:
        p_N, tokens_N = p_NV.max(-1)
        return tokens_N, p_N
    cumulative_NV = p_NV.cumsum(-1)
    threshold_N1 = uniform_N.unsqueeze(1) * cumulative_NV[:, -1:]
    # right=True finds the first entry above the threshold, so a token of probability zero is never chosen.
    tokens_N1 = torch.searchsorted(cumulative_NV, threshold_N1, right=True).clamp_(max=p_NV.shape[1] - 1)
    return tokens_N1.squeeze(1), p_NV.gather(1, tokens_N1).squeeze(1)


def decode(
    rows: Rows,
    random_NT: NDArray[np.float32],
    stop_ids: Collection[int],
    temperature: float,
    device: torch.device,
) -> list[Sampled]:
    """Decodes one batch until every row has stopped or the budget, T, is used up.

    Args:
        rows: The batch.
        random_NT: One uniform number per row and position.
        stop_ids: Tokens that end a completion.
        temperature: As in ``SamplingParams``.
        device: Where the rows are.

    Returns:
        One completion a row.
    """
    n, budget = random_NT.shape
    logits_NV = rows.start()
    is_stop_V = torch.zeros(logits_NV.shape[-1], dtype=torch.bool, device=device)
    is_stop_V[[s for s in stop_ids if 0 <= s < len(is_stop_V)]] = True
    double = logits_NV.dtype == torch.float64
    random_TN = torch.from_numpy(random_NT.T.copy()).to(device, torch.float64 if double else torch.float32)
    tokens_NT = np.zeros((n, budget), np.int64)
    probabilities_NT = np.ones((n, budget), np.float64)
    present = torch.arange(n, device=device)
    writing = torch.ones(n, dtype=torch.bool, device=device)
    held: list[tuple[Tensor, Tensor]] = []  # tokens and probabilities since the last time that rows left

    def store(end: int) -> None:
        block = np.ix_(present.cpu().numpy(), np.arange(end - len(held), end))
        tokens_NT[block] = torch.stack([t for t, _ in held], 1).cpu().numpy()
        probabilities_NT[block] = torch.stack([p for _, p in held], 1).cpu().numpy()
        held.clear()

    for t in range(budget):
        tokens_N, p_N = choose(logits_NV, random_TN[t], temperature)
        held.append((tokens_N, p_N))
        writing &= ~is_stop_V[tokens_N]
        alive = int(writing.sum())
        if not alive or t == budget - 1:
            break
        if alive < COMPACT_BELOW * len(present):
            store(t + 1)
            kept = writing.nonzero().squeeze(1)
            present, tokens_N, random_TN, writing = present[kept], tokens_N[kept], random_TN[:, kept], writing[kept]
            rows.keep(kept)
        logits_NV = rows.step(tokens_N)
    store(t + 1)
    return finished(tokens_NT, probabilities_NT, stop_ids)


def finished(
    tokens_NT: NDArray[np.int64], probabilities_NT: NDArray[np.float64], stop_ids: Collection[int]
) -> list[Sampled]:
    """Cuts each row after its first stop token.

    Raises:
        FloatingPointError: A probability is not a number.
    """
    is_stop_NT: NDArray[np.bool_] = np.asarray(np.isin(tokens_NT, list(stop_ids)))
    stopped_N: NDArray[np.bool_] = np.asarray(is_stop_NT.any(1))
    lengths_N = np.where(stopped_N, is_stop_NT.argmax(1) + 1, tokens_NT.shape[1])
    written_NT: NDArray[np.bool_] = np.asarray(np.arange(tokens_NT.shape[1])[None] < lengths_N[:, None])
    if not np.isfinite(probabilities_NT[written_NT]).all():
        raise FloatingPointError("the model gives probabilities that are not numbers; has training diverged?")
    logs_NT = np.log(probabilities_NT)
    return [
        Sampled(tokens_NT[i, :length].tolist(), logs_NT[i, :length].tolist(), bool(stopped_N[i]))
        for i, length in enumerate(lengths_N)
    ]


def sample_in_batches(
    make_rows: Callable[[list[Sequence[int]], list[int]], Rows],
    prompts: Sequence[Sequence[int]],
    device: torch.device,
    params: SamplingParams,
    attention_cache: AttentionCache | None = None,
) -> list[Sampled]:
    """The loop over batches; ``make_rows`` takes the prompts of a batch and, for each row, which of them it continues.

    The other arguments are those of ``Sampler``.
    """
    total, offset = len(prompts) * params.samples_per_prompt, params.row_offset
    numbers = range(offset, offset + total) if isinstance(offset, int) else offset
    out: list[Sampled] = []
    for first, own, owners in in_batches(prompts, params.samples_per_prompt, params.batch_size):
        random_NT = uniforms(params.seed, numbers[first : first + len(owners)], params.max_new_tokens)
        rows = make_rows(own, owners)
        sampled = decode(rows, random_NT, params.stop_ids, params.temperature, device)
        if attention_cache is not None:
            rows.remember(attention_cache, sampled)
        out += sampled
    return out
