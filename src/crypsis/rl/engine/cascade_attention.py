"""Exact attention of rows over a common prefix and over themselves, as two products merged by log-sum-exp.

Shape suffixes: N rows, S places of a row, T different tokens of all rows, P prefix positions, H query heads, K
key/value heads (H is a multiple of K), R = H / K, D head size.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]
Known = tuple[Tensor, Tensor]
"""Output [N, H, S, D] of ``cascade`` and its log-sum-exp [N, H, S]."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows whose tokens are computed once: those of a prompt for all of its rows, and padding not at all.

    Only attention within the rows sees them as rows; all else sees the T different tokens.

    Attributes:
        slots: Which token stands at each place of each row, [N, S]; a row is padded with its last token.
        home: For each token the place, in the flattened slots, that its output is taken from, [T].
        repeats: The places, in the flattened slots, where a token stands again, padding apart.
    """

    slots: Tensor
    home: Tensor
    repeats: Tensor

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], lengths: Sequence[int], device: torch.device) -> Layout:
        """The layout of rows of these lengths that begin with these prompts; equal prompts are the same tokens."""
        slots_NS = np.zeros((len(prompts), max(lengths)), np.int64)
        home: list[int] = []
        repeats: list[int] = []
        known: dict[tuple[int, ...], int] = {}
        for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            own, first = len(prompt), row * slots_NS.shape[1]
            start = known.setdefault(tuple(prompt), len(home))
            if start == len(home):
                home += range(first, first + own)
            else:
                repeats += range(first, first + own)
            slots_NS[row, :own] = np.arange(start, start + own)
            slots_NS[row, own:length] = np.arange(len(home), len(home) + length - own)
            slots_NS[row, length:] = slots_NS[row, length - 1]
            home += range(first + own, first + length)
        tensors = [torch.from_numpy(np.asarray(x, np.int64)).to(device) for x in (slots_NS, home, repeats)]
        return cls(tensors[0], tensors[1], tensors[2])

    def rows(self, x_1HT: Tensor) -> Tensor:
        """[1, H, T, ...] to [N, H, S, ...]."""
        return x_1HT[0].transpose(0, 1)[self.slots].transpose(1, 2)

    def tokens(self, x_NHS: Tensor) -> Tensor:
        """[N, H, S, ...] to [1, H, T, ...]: every token from its home."""
        return x_NHS.transpose(1, 2).flatten(0, 1)[self.home].transpose(0, 1)[None]

    def gradient_rows(self, x_1HT: Tensor) -> Tensor:
        """The gradient of what ``tokens`` takes, [1, H, T, ...] to [N, H, S, ...]: zero but at home."""
        n, s = self.slots.shape
        rows = x_1HT.new_zeros(n * s, x_1HT.shape[1], *x_1HT.shape[3:])
        rows[self.home] = x_1HT[0].transpose(0, 1)
        return rows.view(n, s, *rows.shape[1:]).transpose(1, 2)

    def gradient_tokens(self, x_NHS: Tensor) -> Tensor:
        """The gradient of what ``rows`` gives, [N, H, S, ...] to [1, H, T, ...]: summed over a token's places."""
        places = x_NHS.transpose(1, 2).flatten(0, 1)
        tokens = places[self.home]
        tokens.index_add_(0, self.slots.flatten()[self.repeats], places[self.repeats])
        return tokens.transpose(0, 1)[None]


@contextmanager
def gemm_precision(level: str) -> Iterator[None]:
    """Sets torch's precision of float32 matrix products (highest | high | medium) and restores it afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(level)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=None, scale=scale)
    return out[0], out[1]


def _flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return cast(
        tuple[Tensor, Tensor, Tensor],
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, causal, attn_mask=None, scale=scale
        ),
    )


def _fold(x_NHS: Tensor, kv_heads: int) -> Tensor:
    """[N, H, S, ...] to [1, K, R*N*S, ...]: rows and the query heads of one key head become one long sequence."""
    return x_NHS.transpose(0, 1).reshape(1, kv_heads, -1, *x_NHS.shape[3:])


def _unfold(x: Tensor, like_NHSD: Tensor) -> Tensor:
    """Undoes ``_fold``."""
    return x.reshape(*like_NHSD.transpose(0, 1).shape[:3], *x.shape[3:]).transpose(0, 1)


def highest(precise: bool) -> Any:
    """Leaves the fast setting of linear layers, where ``precise``."""
    # oneDNN is 1.5x to 5x slower than MKL in the many small products of attention.
    return gemm_precision("highest") if precise else nullcontext()


def _merged(
    q: Tensor, k: Tensor, v: Tensor, kp: Tensor, vp: Tensor, scale: float, layout: Layout | None
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of ``cascade`` by two flash calls, with as many key heads as query heads."""
    out_p, lse_p = _flash(_fold(q, kp.shape[1]), kp, vp, False, scale)
    if layout is None:
        out_s, lse_s = _flash(q, k, v, True, scale)
    else:
        rows = _flash(layout.rows(q), layout.rows(k), layout.rows(v), True, scale)
        out_s, lse_s = layout.tokens(rows[0]), layout.tokens(rows[1])
    lse_p = _unfold(lse_p, q)
    lse = torch.logaddexp(lse_p, lse_s)
    weight_p, weight_s = ((part - lse).exp_().unsqueeze(-1).to(q.dtype) for part in (lse_p, lse_s))
    return _unfold(out_p, q) * weight_p + out_s * weight_s, lse


class _Cascade(torch.autograd.Function):
    """softmax([q kp ; q k]) [vp ; v] by two flash calls.

    The flash backward of each part, given the merged output and log-sum-exp, is exactly that part's share of the
    gradient: with p = exp(s - lse) and rowsum(dout * out) taken over the whole row, ds = p * (dp - rowsum) by part.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        kp: Tensor,
        vp: Tensor,
        scale: float,
        precise: bool,
        layout: Layout | None,
        known: Known | None,
    ) -> Tensor:
        """Like ``cascade``, with as many key heads as query heads except in the prefix."""
        if known is None:
            out, lse = _merged(q, k, v, kp, vp, scale, layout)
        else:
            out, lse = known[0].clone(), known[1]  # autograd wants an output of this function's own
        ctx.save_for_backward(q, k, v, kp, vp, out, lse)
        ctx.scale, ctx.precise, ctx.layout = scale, precise, layout
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of q, k, v and of the shared keys and values, summed over all rows."""
        q, k, v, kp, vp, out, lse = ctx.saved_tensors
        grad, heads, scale, layout = grads[0], kp.shape[1], ctx.scale, ctx.layout
        folded = [_fold(x, heads) for x in (grad, q, out, lse)]
        with highest(ctx.precise):
            dq_p, dkp, dvp = _flash_backward(folded[0], folded[1], kp, vp, folded[2], folded[3], False, scale)
            if layout is None:
                dq, dk, dv = _flash_backward(grad, q, k, v, out, lse.contiguous(), True, scale)
            else:
                q, k, v, out, lse = (layout.rows(x) for x in (q, k, v, out, lse))
                grad = layout.gradient_rows(grad)
                dq, dk, dv = _flash_backward(grad, q, k, v, out, lse.contiguous(), True, scale)
                dq, dk, dv = layout.tokens(dq), layout.gradient_tokens(dk), layout.gradient_tokens(dv)
        return dq + _unfold(dq_p, dq), dk, dv, dkp, dvp, None, None, None, None


def _flash_cascade(*arguments: Tensor | float | Layout | Known | None) -> Tensor:
    """``_Cascade``, typed; the arguments are those of its forward pass."""
    return cast(Tensor, _Cascade.apply(*arguments))  # type: ignore[no-untyped-call]


def _plain_cascade(q: Tensor, k: Tensor, v: Tensor, kp: Tensor, vp: Tensor, scale: float) -> Tensor:
    """The same as ``_Cascade`` in plain torch operations: any device and type, but the scores are held in memory."""
    heads, s = kp.shape[1], q.shape[2]
    scores_p = _fold(q, heads) @ kp.transpose(-1, -2) * scale
    future = torch.ones(s, s, dtype=torch.bool, device=q.device).triu(1)
    scores_s = (q @ k.transpose(-1, -2) * scale).masked_fill(future, -torch.inf)
    if q.dtype in (torch.bfloat16, torch.float16):
        scores_p, scores_s = scores_p.float(), scores_s.float()
    lse = torch.logaddexp(_unfold(scores_p.logsumexp(-1), q), scores_s.logsumexp(-1))
    out_p = (scores_p - _fold(lse, heads).unsqueeze(-1)).exp().to(q.dtype) @ vp
    return _unfold(out_p, q) + (scores_s - lse.unsqueeze(-1)).exp().to(q.dtype) @ v


@functools.cache
def flash_usable(device: str, dtype: torch.dtype, head_size: int) -> bool:
    """Whether torch's private CPU flash operators exist and give what ``_Cascade`` expects of them.

    They are no public interface, so outputs and gradients are compared with plain operations once per process for each
    type of queries, keys and values and each head size.
    """
    if device != "cpu":
        return False
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 3, head_size)] * 3 + [(1, 2, 5, head_size)] * 2
    results: list[list[Tensor]] = []
    try:
        with torch.enable_grad():
            q, k, v, kp, vp = (torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes)
            for out in (_flash_cascade(q, k, v, kp, vp, 0.3, False, None, None), _plain_cascade(q, k, v, kp, vp, 0.3)):
                grads = torch.autograd.grad(out, [q, k, v, kp, vp], torch.ones_like(out))
                results.append([out.detach(), *grads])
    except (RuntimeError, AttributeError, TypeError, ValueError):
        return False
    tolerance = 64 * torch.finfo(dtype).eps
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(*results, strict=True))


def attend(q: Tensor, kp: Tensor, vp: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention to a prefix alone and its log-sum-exp, to be merged with other parts; without gradients on a CPU.

    Args:
        q: Queries [N, H, S, D].
        kp: Keys [1, K, P, D].
        vp: Values [1, K, P, D].
        scale: Factor of the scores.

    Returns:
        Output [N, H, S, D] and log-sum-exp [N, H, S], the latter in float32 for half precision.
    """
    folded = _fold(q, kp.shape[1])
    if flash_usable(q.device.type, q.dtype, q.shape[-1]):
        out, lse = _flash(folded, kp, vp, False, scale)
    else:
        scores = folded @ kp.transpose(-1, -2) * scale
        scores = scores.float() if q.dtype in (torch.bfloat16, torch.float16) else scores
        lse = scores.logsumexp(-1)
        out = (scores - lse.unsqueeze(-1)).exp().to(q.dtype) @ vp
    return _unfold(out, q), _unfold(lse, q)


def _repeated(q: Tensor, x: Tensor) -> Tensor:
    """Keys or values [N, K, ...] with one head for each of the queries."""
    repeat = q.shape[1] // x.shape[1]
    return x.repeat_interleave(repeat, 1) if repeat > 1 else x


def outputs(q: Tensor, k: Tensor, v: Tensor, prefix: KeysValues, scale: float) -> Known | None:
    """What ``cascade`` gives without a layout, with its log-sum-exp, without gradients; None where flash is missing."""
    if not flash_usable(q.device.type, q.dtype, q.shape[-1]):
        return None
    return _merged(q, _repeated(q, k), _repeated(q, v), *prefix, scale, None)


def cascade(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix: KeysValues | None,
    scale: float,
    precise: bool = False,
    layout: Layout | None = None,
    known: Known | None = None,
) -> Tensor:
    """Causal attention of each row over its own tokens and a common prefix.

    Args:
        q: Queries [N, H, S, D], or [1, H, T, D] with a layout.
        k: The rows' own keys, with K heads.
        v: The rows' own values, with K heads.
        prefix: Keys and values [1, K, P, D] that all queries see; None for no prefix.
        scale: Factor of the scores.
        precise: Whether the backward pass leaves the fast float32 setting.
        layout: Where the tokens stand in the rows.
        known: The result, which then is not computed again: only its gradients are.

    Returns:
        Output like the queries, with exact gradients to all inputs.
    """
    k, v = _repeated(q, k), _repeated(q, v)
    if prefix is not None and flash_usable(q.device.type, q.dtype, q.shape[-1]):
        return _flash_cascade(q, k, v, *prefix, scale, precise, layout, known)
    if layout is not None:
        q, k, v = layout.rows(q), layout.rows(k), layout.rows(v)
    if prefix is None:
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    else:
        out = _plain_cascade(q, k, v, *prefix, scale)
    return out if layout is None else layout.tokens(out)
