"""What attention gave while completions were sampled, for a learner that would compute the same once more.

On policy, the learner's forward pass attends with the sampler's weights, tokens and positions. The backward pass of
``crypsis.rl.engine.cascade_attention`` needs of it only the outputs and their log-sum-exps, which are small; so a
learner that is given them skips the attention of its forward pass. Rows are found by their tokens, and only while the
weights are those that sampled; whatever is not found is computed.

Shape suffixes: L layers, N rows, T tokens, S prompt positions after the common prefix, H query heads, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Outputs = tuple[Tensor, Tensor]
"""Outputs of one layer's attention [..., H, D] and log-sum-exps of the scores [..., H]."""


@dataclass(frozen=True, slots=True)
class _Known:
    """One row: its prompt's tokens from position ``start`` on, [S, ...], and its completion's, [T, ...], by layer."""

    start: int
    prompt: Mapping[int, Outputs]
    completion: Mapping[int, Outputs]


class AttentionCache:
    """Outputs of the attention by row, as samplers filled them in.

    Args:
        model: Whose attention it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = list(model.parameters())
        self._rows: dict[tuple[tuple[int, ...], tuple[int, ...]], _Known] = {}
        self._stamp = -1

    def add(
        self,
        prompt_ids: Sequence[int],
        completion_ids: Sequence[int],
        start: int,
        prompt: Mapping[int, Outputs],
        completion: Mapping[int, Outputs],
    ) -> None:
        """Keeps one row; rows of earlier weights are forgotten.

        Args:
            prompt_ids: All of the prompt.
            completion_ids: What was sampled.
            start: Position of the first token in ``prompt``.
            prompt: For each layer, the prompt's tokens from ``start`` on.
            completion: For each layer, all tokens of the completion but the last, which no token attends from.
        """
        if self._stamp != self._now():
            self.clear()
            self._stamp = self._now()
        self._rows[tuple(prompt_ids), tuple(completion_ids)] = _Known(start, prompt, completion)

    def find(
        self, rows: Sequence[tuple[Sequence[int], Sequence[int]]], skip: int, lengths: Sequence[int]
    ) -> dict[int, Outputs] | None:
        """Outputs for the tokens of a ``crypsis.rl.engine.cascade_attention.Layout``, in its order.

        Args:
            rows: Prompt and completion of each row of a micro-batch.
            skip: Tokens of the prefix that the learner has cut off.
            lengths: Positions of each row after the prefix.

        Returns:
            By layer, outputs [T, H, D] and log-sum-exps [T, H]; None if a row is unknown or the weights have changed.
        """
        found = [self._rows.get((tuple(prompt), tuple(completion))) for prompt, completion in rows]
        if self._stamp != self._now() or any(known is None or known.start > skip for known in found):
            return None
        pieces: dict[int, list[Outputs]] = {}
        seen: set[tuple[int, ...]] = set()
        for known, (prompt, _), length in zip(found, rows, lengths, strict=True):
            assert known is not None
            for layer in known.prompt:
                parts = pieces.setdefault(layer, [])
                if tuple(prompt) not in seen:
                    parts.append(_cut(known.prompt[layer], skip - known.start, len(prompt) - known.start))
                parts.append(_cut(known.completion[layer], 0, length - (len(prompt) - skip)))
            seen.add(tuple(prompt))
        return {
            layer: (torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts]))
            for layer, parts in pieces.items()
        }

    def clear(self) -> None:
        """Forgets all rows and frees their memory."""
        self._rows.clear()

    def _now(self) -> int:
        """Changes whenever a weight is changed in place."""
        return sum(p._version for p in self._weights)


class Recorder:
    """Collects what the decoding steps of one batch of rows give, [N, T, H, D] and [N, T, H] by layer.

    Args:
        rows: Rows of the batch, N.
        positions: Decoding steps at most, T.
    """

    def __init__(self, rows: int, positions: int) -> None:
        self._shape = (rows, positions)
        self._present: Tensor | slice = slice(None)
        self._position = 0
        self._layers: dict[int, Outputs] = {}

    def write(self, layer: int, out_NHD: Tensor, lse_NH: Tensor) -> None:
        """Stores what the rows that are still there give in this step."""
        if layer not in self._layers:
            heads, size = out_NHD.shape[1:]
            empty = out_NHD.new_empty(*self._shape, heads, size), lse_NH.new_empty(*self._shape, heads)
            self._layers[layer] = empty
        for kept, new in zip(self._layers[layer], (out_NHD, lse_NH), strict=True):
            kept[self._present, self._position] = new

    def advance(self) -> None:
        """Call it when all layers have written."""
        self._position += 1

    def keep(self, rows: Tensor) -> None:
        """Only these of the rows that are still there go on."""
        present = self._present
        self._present = rows if isinstance(present, slice) else present[rows]

    def row(self, index: int) -> dict[int, Outputs]:
        """All steps of one of the batch's rows; those after it left mean nothing."""
        return {layer: (out[index], lse[index]) for layer, (out, lse) in self._layers.items()}


def _cut(outputs: Outputs, first: int, last: int) -> Outputs:
    return outputs[0][first:last], outputs[1][first:last]
