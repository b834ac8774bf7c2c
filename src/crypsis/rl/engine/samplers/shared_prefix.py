"""Sampling with one common prefix for all rows.

The prefix is read once per call, the rest of each prompt once, and each row caches only what comes after the
prefix.

Shape suffixes: N rows, M prompts, S prompt positions after the prefix, E model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from crypsis.rl.engine.attention_cache import AttentionCache, Recorder
from crypsis.rl.engine.cascade_attention import gemm_precision
from crypsis.rl.engine.samplers.base import Sampled, SamplingParams, check, evaluating, sample_in_batches
from crypsis.rl.engine.samplers.block_cache import LeanCache
from crypsis.rl.engine.samplers.fused_decoder import FusedDecoder, fused_decoder_of
from crypsis.rl.engine.shared_prefix import (
    Parts,
    PrefixState,
    common_prefix,
    compute_prefix,
    hidden_states,
    shared_attention,
    why_not_shared,
)
from crypsis.rl.engine.timing import PhaseTimer

CHUNK = 64
"""Positions by which the cache of the rows' own keys and values grows."""

SMALL_PRODUCT = 2**23
"""Multiplications of rows and a square layer below which MKL is faster than oneDNN with its 25 us per call (Zen 5)."""

NARROW = 256
"""Width up to which the fused decoder stays with MKL however many rows there are."""


def prefers_mkl(rows: int, width: int) -> bool:
    """Whether MKL multiplies the rows of a decoding step faster than oneDNN.

    Without AVX-512 it does: 32 rows of SmolLM2's shape take 0.16 s a token in place of 0.66.
    """
    return rows * width**2 < SMALL_PRODUCT or torch.backends.cpu.get_cpu_capability() != "AVX512"


class _SharedPrefixRows:
    """Rows that continue prompts after a common prefix."""

    def __init__(
        self,
        found: Parts,
        fused: FusedDecoder | None,
        prefix: PrefixState,
        prompts: Sequence[Sequence[int]],
        owners: Sequence[int],
        budget: int,
        record: bool,
    ) -> None:
        self.found, self.prompts, self.budget = found, prompts, budget
        device = found.causal.device
        self.width: int = found.causal.config.hidden_size
        self.owners = torch.tensor(owners, device=device)
        self.lengths = torch.tensor([len(p) - prefix.length for p in prompts], device=device)
        self.state = PrefixState("prefill", prefix.length, prefix=prefix.prefix, precise=prefix.precise)
        self.positions_N1 = self.lengths[self.owners][:, None] + prefix.length
        self.fused = fused
        self.recorder = Recorder(len(owners), budget) if record and fused and prefix.length else None

    def start(self) -> Tensor:
        """Reads each prompt once and copies its cache to its rows."""
        state, device, width = self.state, self.owners.device, int(self.lengths.max())
        padded = [[*p[state.length :], *[0] * (state.length + width - len(p))] for p in self.prompts]
        positions = torch.arange(width, device=device)
        state.outputs = {} if self.recorder else None
        hidden_MSE = hidden_states(
            self.found.decoder, torch.tensor(padded, device=device), positions[None] + state.length, state
        )
        last_ME = hidden_MSE[torch.arange(len(padded), device=device), self.lengths - 1]
        if self.fused:
            self.cache = LeanCache(state, self.owners, self.lengths.tolist(), self.recorder)
            return self.found.head(last_ME[self.owners])
        state.mode, state.used = "decode", width
        self._move_caches(self.owners, width + min(CHUNK, self.budget))
        if int(self.lengths.min()) < width:
            padding_MS = (positions >= self.lengths[:, None]).to(last_ME.dtype)
            hidden = torch.zeros(len(self.owners), 1, 1, width + self.budget, dtype=last_ME.dtype, device=device)
            hidden[..., :width].masked_fill_(padding_MS[self.owners].bool()[:, None, None], -torch.inf)
            state.hidden_keys = hidden
        return self.found.head(last_ME[self.owners])

    def step(self, tokens_N: Tensor) -> Tensor:
        """One decoding step."""
        small = prefers_mkl(len(tokens_N), self.width)
        if self.fused:
            quick = self.found.fast and not small and self.width > NARROW
            with nullcontext() if quick else gemm_precision("highest"):
                hidden_NE = self.fused(tokens_N, self.positions_N1, self.cache)
        else:
            hidden_NE = self._model_step(tokens_N)
        self.positions_N1 = self.positions_N1 + 1
        with gemm_precision("highest") if self.found.fast and small else nullcontext():
            logits_NV: Tensor = self.found.head(hidden_NE)
        return logits_NV

    def _model_step(self, tokens_N: Tensor) -> Tensor:
        """The model's own forward pass: last hidden states [N, E]."""
        if self.state.used == next(iter(self.state.suffix.values()))[0].shape[2]:
            self._move_caches(None, self.state.used + CHUNK)
        small = self.found.fast and prefers_mkl(len(tokens_N), self.width)
        self.state.precise = self.found.fast and not small
        with gemm_precision("highest") if small else nullcontext():
            hidden_NSE = hidden_states(self.found.decoder, tokens_N[:, None], self.positions_N1, self.state)
        self.state.used += 1
        return hidden_NSE[:, 0]

    def keep(self, rows: Tensor) -> None:
        """Compaction; the caches are copied, so they also get room to grow."""
        self.positions_N1 = self.positions_N1[rows]
        if self.fused:
            self.cache.keep(rows)
            return
        if self.state.hidden_keys is not None:
            self.state.hidden_keys = self.state.hidden_keys[rows]
        self._move_caches(rows, self.state.used + CHUNK)

    def remember(self, attention_cache: AttentionCache, sampled: Sequence[Sampled]) -> None:
        """Passes on what the attention of each row gave, if it was recorded (by the fused decoder alone)."""
        if not self.recorder or not self.state.outputs:
            return
        layers = self.state.outputs.items()
        prompts = [
            {layer: (out[m].transpose(0, 1), lse[m].transpose(0, 1)) for layer, (out, lse) in layers}
            for m in range(len(self.prompts))
        ]
        for n, (owner, completion) in enumerate(zip(self.owners.tolist(), sampled, strict=True)):
            prompt, start = self.prompts[owner], self.state.length
            attention_cache.add(prompt, completion.ids, start, prompts[owner], self.recorder.row(n))

    def _move_caches(self, rows: Tensor | None, room: int) -> None:
        """Copies the used part of the caches of these rows (None: all) to caches of ``room`` positions."""
        used = self.state.used
        for layer, pair in self.state.suffix.items():
            moved = []
            for old in pair:
                part = old[:, :, :used] if rows is None else old[:, :, :used][rows]
                new = old.new_empty(part.shape[0], old.shape[1], room, old.shape[3])
                new[:, :, :used] = part
                moved.append(new)
            self.state.suffix[layer] = (moved[0], moved[1])


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    timer: PhaseTimer | None = None,
    attention_cache: AttentionCache | None = None,
) -> list[Sampled]:
    """Samples completions of prompts that begin alike; arguments as in ``crypsis.rl.engine.samplers.base.Sampler``.

    Raises:
        ValueError: The model cannot share a prefix (``why_not_shared``), or a prompt is empty.
        FloatingPointError: The model gave probabilities that are not numbers.
    """
    check(prompts)
    if not prompts:
        return []
    with (timer or PhaseTimer())("sampling"), evaluating(model):
        if reason := why_not_shared(model):
            raise ValueError(f"{reason}; use the padded sampler")
        with shared_attention(model, params.fast_linears) as found:
            prefix, fused = compute_prefix(found, common_prefix(prompts)), fused_decoder_of(found)
            record = attention_cache is not None
            return sample_in_batches(
                lambda own, owners: _SharedPrefixRows(found, fused, prefix, own, owners, params.max_new_tokens, record),
                prompts,
                found.causal.device,
                params,
                attention_cache=attention_cache,
            )
