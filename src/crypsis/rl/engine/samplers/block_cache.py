"""Keys and values of rows that are being decoded, laid out so that each step reads them as one stream.

On a CPU the caches of a hundred rows are larger than its own, and reading them is most of a step's attention. Room to
grow between the rows' entries costs three times the time of reading without it (it ends the processor's prefetching),
so new tokens go to a small block that is joined to the rest when it is full. What a prompt has after the common prefix
is kept once for all rows that continue it.

Shape suffixes: N rows, M prompts, G places of a prompt for rows, K key/value heads, R query heads per key/value head, D
head size, P prefix positions, S prompt positions after the prefix, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crypsis.rl.engine.attention_cache import Recorder
from crypsis.rl.engine.cascade_attention import KeysValues, attend, flash_usable
from crypsis.rl.engine.shared_prefix import PrefixState

BLOCK = 16
"""Positions of the block for new tokens (16 to 40 are alike, 60 is 7 % slower)."""
LONG_PREFIX = 320
"""Prefix tokens from which flash attention is faster than all scores at once (64 to 256 rows, Zen 5)."""


class LeanCache:
    """The caches of all layers."""

    def __init__(
        self, state: PrefixState, owners_N: Tensor, lengths: Sequence[int], recorder: Recorder | None = None
    ) -> None:
        """Takes the prompts' entries over.

        Args:
            state: After ``prefill``: the prefix, and by layer keys and values [M, K, S, D] of the prompts.
            owners_N: Which prompt each row continues; rows of a prompt follow each other.
            lengths: Positions of each prompt after the prefix.
            recorder: Gets what the attention of every step gives.
        """
        self._recorder = recorder
        self._prefix, self._length = state.prefix, state.length
        # As they are multiplied, or every step would copy them.
        self._prompts = {i: (k.transpose(-1, -2).contiguous(), v.contiguous()) for i, (k, v) in state.suffix.items()}
        some = next(iter(state.suffix.values()))[0]
        prompts, heads, positions, size = some.shape
        counts = torch.bincount(owners_N, minlength=prompts)
        places = torch.arange(len(owners_N)) - (counts.cumsum(0) - counts)[owners_N]
        self._places = int(counts.max())
        self._slots: Tensor | None = owners_N * self._places + places
        if bool((counts == self._places).all()):
            self._slots = None  # every place is taken, in order
        self._all_slots = owners_N * self._places + places
        self._hidden: Tensor | None = None
        if min(lengths) < positions:
            padding = torch.arange(positions) >= torch.tensor(lengths)[:, None]
            self._hidden = some.new_zeros(prompts, 1, 1, positions).masked_fill_(padding[:, None, None], -torch.inf)
        self._joined: dict[int, KeysValues] = {}
        block = (len(owners_N), heads, BLOCK, size)
        self._blocks = {layer: (some.new_zeros(block), some.new_zeros(block)) for layer in state.suffix}
        unwritten = torch.arange(BLOCK) > torch.arange(BLOCK)[:, None]
        self._unwritten = some.new_zeros(BLOCK, BLOCK).masked_fill_(unwritten, -torch.inf)
        self._used = 0

    def write(self, layer: int, keys_NKD: Tensor, values_NKD: Tensor) -> None:
        """Adds each row's newest token."""
        keys, values = self._blocks[layer]
        keys[:, :, self._used], values[:, :, self._used] = keys_NKD, values_NKD

    def advance(self) -> None:
        """Call it when all layers have written a token."""
        self._used += 1
        if self._recorder:
            self._recorder.advance()
        if self._used == BLOCK:
            for layer, block in self._blocks.items():
                known = self._joined.get(layer)
                pairs = zip(known, block, strict=True) if known else ()
                joined = [torch.cat(pair, 2) for pair in pairs] or [x.clone() for x in block]
                self._joined[layer] = (joined[0], joined[1])
            self._used = 0

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these."""
        if self._recorder:
            self._recorder.keep(rows)
        self._all_slots = self._slots = self._all_slots[rows]
        for caches in (self._joined, self._blocks):
            for layer, (keys, values) in caches.items():
                caches[layer] = (keys[rows], values[rows])

    def attend(self, layer: int, q_NKRD: Tensor, scale: float) -> Tensor:
        """Attention [N, K, R, D] to everything that is written."""
        scaled = q_NKRD * scale
        out_p: Tensor | None = None
        scores = [self._prompt_scores(scaled, layer)]
        if self._length >= LONG_PREFIX and flash_usable("cpu", scaled.dtype, scaled.shape[-1]):
            n, kv_heads, repeat, size = q_NKRD.shape
            out_p, lse_p = attend(q_NKRD.reshape(n, -1, 1, size), *self._prefix[layer], scale)
            out_p = out_p.view(n, kv_heads, repeat, size)
            scores.append(lse_p.view(n, kv_heads, repeat, 1))  # the whole prefix is like one key with this score
        elif self._length:
            scores.append(_by_head(scaled, self._prefix[layer][0].transpose(-1, -2)))
        if layer in self._joined:
            scores.append(scaled @ self._joined[layer][0].transpose(-1, -2))
        scores.append(scaled @ self._blocks[layer][0].transpose(-1, -2) + self._unwritten[self._used])
        joined = torch.cat(scores, -1)
        weights = joined.softmax(-1)
        out = self._mixed(layer, list(weights.split([s.shape[-1] for s in scores], -1)), out_p)
        if self._recorder:
            # log-sum-exp = score - log(weight), of whichever key; the largest weight is far from 0.
            lse = joined.amax(-1) - weights.amax(-1).log_()
            self._recorder.write(layer, out.flatten(1, 2), lse.flatten(1, 2))
        return out

    def _mixed(self, layer: int, weights: list[Tensor], out_p: Tensor | None) -> Tensor:
        """Values by their weights, which are in the order of the scores in ``attend``."""
        out = self._prompt_values(weights.pop(0), layer)
        out += weights.pop() @ self._blocks[layer][1]
        if layer in self._joined:
            out += weights.pop() @ self._joined[layer][1]
        if out_p is not None:
            out.addcmul_(out_p, weights.pop())
        elif weights:
            out += _by_head(weights.pop(), self._prefix[layer][1])
        return out

    def _prompt_scores(self, q_NKRD: Tensor, layer: int) -> Tensor:
        """[N, K, R, S]."""
        return self._by_prompt(q_NKRD, self._prompts[layer][0], self._hidden)

    def _prompt_values(self, weights_NKRS: Tensor, layer: int) -> Tensor:
        """[N, K, R, D]."""
        return self._by_prompt(weights_NKRS, self._prompts[layer][1], None)

    def _by_prompt(self, x_NKR: Tensor, matrix_MK: Tensor, add: Tensor | None) -> Tensor:
        """Product of each row with its prompt's matrix, all rows of a prompt at once."""
        _, kv_heads, repeat, inner = x_NKR.shape
        prompts = len(matrix_MK)
        if self._slots is not None:
            placed = x_NKR.new_zeros(prompts * self._places, kv_heads, repeat, inner)
            placed[self._slots] = x_NKR
            x_NKR = placed
        grouped = x_NKR.view(prompts, self._places, kv_heads, repeat, inner).transpose(1, 2)
        out = grouped.reshape(prompts, kv_heads, -1, inner) @ matrix_MK
        if add is not None:
            out += add
        rows = (
            out.view(prompts, kv_heads, self._places, repeat, -1)
            .transpose(1, 2)
            .reshape(-1, kv_heads, repeat, out.shape[-1])
        )
        return rows if self._slots is None else rows[self._slots]


def _by_head(x_NKR: Tensor, matrix_1K: Tensor) -> Tensor:
    """Product of all rows with a matrix that they share, head by head."""
    n, kv_heads, repeat, inner = x_NKR.shape
    out = x_NKR.transpose(0, 1).reshape(kv_heads, -1, inner) @ matrix_1K[0]
    return out.view(kv_heads, n, repeat, -1).transpose(0, 1)
