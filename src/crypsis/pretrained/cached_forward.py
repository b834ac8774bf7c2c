"""A causal language model read piece by piece with its own cache: attention, convolution and recurrent states alike.

Shape suffixes: N rows, T new positions, S positions so far, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn

STATES = ("conv_states", "recurrent_states")
"""What the layers of linear attention keep: a tensor for each number of a state, or None."""


class CachedForward:
    """Rows that a model reads, the first piece padded on the left."""

    def __init__(self, model: nn.Module) -> None:
        whole: Any = model
        base = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
        taken = inspect.signature(base.forward).parameters
        self.model = model
        # Mamba and its kin have a name of their own for the cache.
        self._name = "cache_params" if "cache_params" in taken and "past_key_values" not in taken else "past_key_values"
        self._takes_positions = "position_ids" in taken
        self._cache: Any = None
        self._mask_NS: Tensor | None = None

    def start(self, ids_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """Reads the first piece and returns the logits [N, V] after it.

        Args:
            ids_NT: Token ids, padded on the left.
            mask_NT: 1 for tokens, 0 for padding.
        """
        self._mask_NS = mask_NT
        return self._forward(ids_NT, (mask_NT.cumsum(1) - 1).clamp(min=0))

    def step(self, tokens_N: Tensor) -> Tensor:
        """Reads one token more in each row and returns the logits [N, V] after it."""
        mask_NS = cast(Tensor, self._mask_NS)
        positions_N1 = mask_NS.sum(1, keepdim=True)
        self._mask_NS = torch.cat([mask_NS, mask_NS.new_ones(len(tokens_N), 1)], 1)
        return self._forward(tokens_N[:, None], positions_N1)

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows alone, in this order; a row may be named several times."""
        self._mask_NS = cast(Tensor, self._mask_NS)[rows]
        for layer in self._cache.layers:
            for name in STATES:
                states = getattr(layer, name, None)
                if states is not None:
                    setattr(layer, name, {i: None if state is None else state[rows] for i, state in states.items()})
            if hasattr(layer, "batch_select_indices"):
                layer.batch_select_indices(rows)

    def _forward(self, ids_NT: Tensor, positions_NT: Tensor) -> Tensor:
        """Logits of the last position."""
        given: dict[str, Any] = {self._name: self._cache}
        if self._takes_positions:
            given["position_ids"] = positions_NT
        # Purely recurrent models multiply what they read by the mask, which then must not be that of the past as well.
        first_piece = cast(Tensor, self._mask_NS).shape == ids_NT.shape
        if first_piece or self._name == "past_key_values":
            given["attention_mask"] = self._mask_NS
        out = self.model(input_ids=ids_NT, use_cache=True, logits_to_keep=1, **given)
        self._cache = getattr(out, self._name)
        return cast(Tensor, out.logits[:, -1])
