"""Log-probabilities of given completions: micro-batches, and the ways to compute them.

Shape suffixes: N rows of a micro-batch, S positions after the common prefix, T scored tokens of the micro-batch, E
model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crypsis.mitigations.hooks import Route
from crypsis.pretrained.head import Head, head_of
from crypsis.pretrained.logprobs import label_logprobs, selected_logprobs
from crypsis.rl.engine.attention_cache import AttentionCache
from crypsis.rl.engine.cascade_attention import Layout
from crypsis.rl.engine.shared_prefix import (
    Parts,
    PrefixState,
    backward_prefix,
    common_prefix,
    compute_prefix,
    detached,
    hidden_states,
    shared_attention,
    why_not_shared,
)
from crypsis.rl.engine.timing import PhaseTimer

Form = Literal["shared", "padded"]
MICRO_TOKENS = 16_384
"""Tokens that a forward pass computes beyond the common prefix, unless the caller says otherwise."""


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One completion to learn from.

    Attributes:
        prompt_ids: Token ids before the completion, at least one.
        completion_ids: Token ids of the completion.
        mask: One a completion token: 1 if it learns, 0 if it is only context.
        advantage: Advantage of the whole completion.
        old_logprobs: Log-probability of each completion token under the policy that sampled it; None on policy.
        ref_logprobs: Log-probability of each completion token under the reference policy of the KL penalty, or None.
        off_policy: Sampled by an earlier policy, so that its ratios count from the first epoch on.
        token_advantages: One per completion token, in place of ``advantage``; None where all have that one.
        route: The adapter blocks that its gradient reaches.
        kl_mask: One per completion token: 1 if the KL penalty is on it; None for all of them.

    Raises:
        ValueError: The prompt is empty or lengths differ.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    mask: list[int]
    advantage: float
    old_logprobs: list[float] | None = None
    ref_logprobs: list[float] | None = None
    off_policy: bool = False
    token_advantages: list[float] | None = None
    route: Route = "both"
    kl_mask: list[int] | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("a row to train on has an empty prompt; it needs at least one token")
        tokens = len(self.completion_ids)
        for name in ("mask", "old_logprobs", "ref_logprobs", "token_advantages", "kl_mask"):
            values = getattr(self, name)
            if values is not None and len(values) != tokens:
                raise ValueError(f"a row has {tokens} completion tokens but {len(values)} entries in {name}")

    @property
    def teaches(self) -> bool:
        """Whether some learned token has an advantage."""
        if self.token_advantages is None:
            return self.advantage != 0
        return any(a and m for a, m in zip(self.token_advantages, self.mask, strict=True))


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One micro-batch.

    Attributes:
        ids: Token ids after the common prefix, padded on the right, [N, S].
        index: Where in the flattened ids the T scored tokens are predicted.
        labels: The T scored tokens.
        rows: Which row each scored token belongs to.
        columns: Which token of its row's completion it is.
        layout: Which of the ids are the same tokens; None in the ``padded`` form, which computes every row whole.
        tokens: Prompt and completion of each row, whole.
        lengths: Positions of each row after the common prefix.
    """

    ids: Tensor
    index: Tensor
    labels: Tensor
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    layout: Layout | None
    tokens: list[tuple[list[int], list[int]]]
    lengths: list[int]


Scorer = Callable[[MicroBatch], Tensor]


@torch.no_grad()
def token_logprobs(
    model: nn.Module,
    rows: Sequence[TrainRow],
    *,
    form: Form = "shared",
    micro_batch: int = 32,
    micro_tokens: int = MICRO_TOKENS,
    temperature: float = 1.0,
    fast_linears: bool = True,
    timer: PhaseTimer | None = None,
) -> list[list[float]]:
    """Log-probabilities of all completion tokens, whatever the mask, for old and reference policies.

    Args:
        model: The policy to ask.
        rows: Prompts and completions; advantages and log-probabilities are not read.
        form: As in ``accumulate_gradients``, like the other arguments.
        micro_batch: Rows per forward pass, at most.
        micro_tokens: Tokens per forward pass, at most.
        temperature: Divides the logits.
        fast_linears: See ``crypsis.rl.engine.shared_prefix.shared_attention``.
        timer: Gets the phases ``prefix`` and ``forward``.

    Returns:
        For each row one number per completion token, in nats.
    """
    timer = timer or PhaseTimer()
    out = [[0.0] * len(r.completion_ids) for r in rows]
    active = [i for i, r in enumerate(rows) if r.completion_ids]
    if not active:
        return out
    some = [rows[i] for i in active]
    prefix = [] if form == "padded" else common_prefix([r.prompt_ids for r in some])
    with scorer(model, prefix, form, temperature, fast_linears, timer, grad=False) as score:
        masks = [[1] * len(r.completion_ids) for r in some]
        device = device_of(model)
        for chosen, batch in micro_batches(some, masks, len(prefix), micro_batch, device, form, micro_tokens):
            with timer("forward"):
                logprobs = score(batch).tolist()
            start = 0
            for i in chosen:
                end = start + len(some[i].completion_ids)
                out[active[i]] = logprobs[start:end]
                start = end
    return out


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lies."""
    return next(model.parameters()).device


def micro_batches(
    rows: Sequence[TrainRow],
    masks: Sequence[Sequence[int]],
    skip: int,
    size: int,
    device: torch.device,
    form: Form,
    tokens: int = MICRO_TOKENS,
) -> Iterator[tuple[list[int], MicroBatch]]:
    """Micro-batches of rows, each row cut before its last scored token (which is only predicted).

    Padded rows of similar length come together, so that there is little padding; in the other forms, where padding
    costs little, rows of the same prompt, which is then computed once for all of them.

    Args:
        rows: Each with at least one scored token.
        masks: Which completion tokens of each row are scored.
        skip: Tokens of the common prefix, left out of the ids.
        size: Rows a micro-batch, at most.
        device: Device of the tensors.
        form: As in ``accumulate_gradients``.
        tokens: Tokens that a micro-batch computes, at most; a row that has more is one on its own.

    Yields:
        Which rows, and the micro-batch.
    """
    scored = [np.flatnonzero(np.asarray(m)) for m in masks]
    lengths = [len(r.prompt_ids) - skip + int(s[-1]) for r, s in zip(rows, scored, strict=True)]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    if form != "padded":
        longest = {tuple(rows[i].prompt_ids): (lengths[i], i) for i in order}
        order.sort(key=lambda i: longest[tuple(rows[i].prompt_ids)])
    for picked in _cut(order, [tuple(r.prompt_ids[skip:]) for r in rows], lengths, size, tokens, form):
        width = max(lengths[i] for i in picked)
        ids = np.zeros((len(picked), width), np.int64)
        index, labels, columns = [], [], []
        for n, i in enumerate(picked):
            row, own = rows[i], len(rows[i].prompt_ids) - skip
            completion = np.asarray(row.completion_ids)
            ids[n, :own] = row.prompt_ids[skip:]
            ids[n, own : lengths[i]] = completion[: lengths[i] - own]
            index.append(n * width + own - 1 + scored[i])
            labels.append(completion[scored[i]])
            columns.append(scored[i])
        rows_T = np.repeat(np.arange(len(picked)), [len(c) for c in columns])
        tensors = [torch.from_numpy(x).to(device) for x in (ids, np.concatenate(index), np.concatenate(labels))]
        whole, reach = [(rows[i].prompt_ids, rows[i].completion_ids) for i in picked], [lengths[i] for i in picked]
        layout = None if form == "padded" else Layout.of([prompt[skip:] for prompt, _ in whole], reach, device)
        yield (
            picked,
            MicroBatch(tensors[0], tensors[1], tensors[2], rows_T, np.concatenate(columns), layout, whole, reach),
        )


def _cut(
    order: Sequence[int],
    prompts: Sequence[tuple[int, ...]],
    lengths: Sequence[int],
    size: int,
    tokens: int,
    form: Form,
) -> Iterator[list[int]]:
    """Cuts the rows, in their order, so that none of the parts has too many rows or tokens."""
    part: list[int] = []
    known: set[tuple[int, ...]] = set()
    used = 0
    for i in order:
        own = lengths[i] - len(prompts[i]) if form != "padded" and prompts[i] in known else lengths[i]
        # Rows that are computed whole are padded to the longest, which comes last.
        cost = (len(part) + 1) * lengths[i] if form == "padded" else used + own
        if part and (len(part) == size or cost > tokens):
            yield part
            part, known, used = [], set(), 0
            own = lengths[i]
        part.append(i)
        known.add(prompts[i])
        used += own
    yield part


@contextmanager
def scorer(
    model: nn.Module,
    prefix: list[int],
    form: Form,
    temperature: float,
    fast_linears: bool,
    timer: PhaseTimer,
    grad: bool,
    attention_cache: AttentionCache | None = None,
) -> Iterator[Scorer]:
    """Yields the function from a micro-batch to the log-probabilities [T] of its scored tokens.

    On leaving without an exception, gradients that reached the prefix are passed on through it.
    """
    if form == "padded":
        head = head_of(model)
        yield lambda batch: _padded(model, head, batch, temperature)
        return
    if reason := why_not_shared(model):
        raise ValueError(f"{reason}; use the form 'padded'")
    with shared_attention(model, fast_linears) as found:
        with timer("prefix"):
            source = compute_prefix(found, prefix)
        leaves = detached(source)
        yield lambda batch: _shared(found, leaves, batch, temperature, attention_cache)
        if grad:
            with timer("prefix"):
                backward_prefix(source, leaves)


def _shared(
    found: Parts, leaves: PrefixState, batch: MicroBatch, temperature: float, attention_cache: AttentionCache | None
) -> Tensor:
    """Attention of what follows the prefix to the prefix's keys and values."""
    state, ids_T, positions_T, index = _laid_out(leaves, batch)
    known = attention_cache.find(batch.tokens, leaves.length, batch.lengths) if attention_cache is not None else None
    if known:
        state.outputs = {i: (out.transpose(0, 1)[None], lse.t()[None]) for i, (out, lse) in known.items()}
    hidden_1TE = hidden_states(found.decoder, ids_T[None], positions_T[None], state)
    return selected_logprobs(
        found.head, _vocabulary(found.causal), hidden_1TE[0].index_select(0, index), batch.labels, temperature
    )


def _vocabulary(model: Any) -> int:
    return int(model.config.get_text_config().vocab_size)


def _laid_out(state: PrefixState, batch: MicroBatch) -> tuple[PrefixState, Tensor, Tensor, Tensor]:
    """The state with the batch's layout, the different tokens, their positions, and which of them predict labels."""
    layout = cast(Layout, batch.layout)
    positions = state.length + layout.home % batch.ids.shape[1]
    index = layout.slots.flatten()[batch.index]
    return replace(state, layout=layout), batch.ids.flatten()[layout.home], positions, index


def _padded(model: Any, head: Head | None, batch: MicroBatch, temperature: float) -> Tensor:
    """Whole rows through the whole model, padded on the right.

    Padding needs no mask: in a causal model nothing to its left depends on it. Models whose head cannot be had on its
    own compute the logits of all rows at the columns that any row scores.
    """
    if head:
        hidden_NSE = model.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state
        scored_TE = hidden_NSE.flatten(0, 1).index_select(0, batch.index)
        return selected_logprobs(head, _vocabulary(model), scored_TE, batch.labels, temperature)
    columns, inverse = torch.unique(batch.index % batch.ids.shape[1], return_inverse=True)
    logits = model(input_ids=batch.ids, use_cache=False, logits_to_keep=columns).logits
    rows = torch.from_numpy(batch.rows).to(logits.device)
    return label_logprobs(logits[rows, inverse], batch.labels, temperature)
