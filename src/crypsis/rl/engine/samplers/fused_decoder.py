"""One decoding step of a small Llama-like model on a CPU, in about half as many operations as its own forward pass.

With a hundred rows of a narrow model most of a step goes into starting operations. Here the projections of queries,
keys and values are one product, gate and up projection another, and norms, rotation and residuals are one operation
each. The weights are the model's own; what comes out differs from its forward pass by rounding only.

Shape suffixes: N rows, E model width, H query heads, K key/value heads, R = H / K, D head size, P prefix positions, T
cached suffix positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crypsis.rl.engine.cascade_attention import highest
from crypsis.rl.engine.samplers.block_cache import LeanCache
from crypsis.rl.engine.shared_prefix import Parts

MOST_PARAMETERS = 200_000_000
"""Joined weights are copies while sampling lasts, at most 0.8 GB of them at this size."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one decoder layer, products transposed for ``x @ w``; biases may be None."""

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    head_norms: tuple[Tensor, Tensor] | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    scale: float
    eps: float


class FusedDecoder:
    """Decodes one token per row at a time."""

    def __init__(self, found: Parts) -> None:
        config = found.causal.config
        self._decoder = found.decoder
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._layers = [_layer(layer) for layer in found.decoder.layers]

    def __call__(self, tokens_N: Tensor, positions_N1: Tensor, cache: LeanCache) -> Tensor:
        """Last hidden states [N, E]; the caches get each row's new key and value."""
        x_NE = self._decoder.embed_tokens(tokens_N)
        cos, sin = self._decoder.rotary_emb(x_NE, positions_N1)
        half = cos.shape[-1] // 2
        # rotate_half(q) * sin = roll(q) * (sin with its first half negated)
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        for number, layer in enumerate(self._layers):
            x_NE = self._attend(x_NE, cos, sin, layer, number, cache)
            normed = functional.rms_norm(x_NE, x_NE.shape[1:], layer.mlp_norm, layer.eps)
            gate, up = _product(normed, layer.gate_up, layer.gate_up_bias).chunk(2, -1)
            x_NE = _added(x_NE, functional.silu(gate).mul_(up), layer.down, layer.down_bias)
        cache.advance()
        norm = self._decoder.norm
        return functional.rms_norm(x_NE, x_NE.shape[1:], norm.weight, norm.variance_epsilon)

    def _attend(self, x_NE: Tensor, cos: Tensor, sin: Tensor, layer: _Layer, number: int, cache: LeanCache) -> Tensor:
        heads, kv_heads, n = self._heads, self._kv_heads, len(x_NE)
        normed = functional.rms_norm(x_NE, x_NE.shape[1:], layer.norm, layer.eps)
        qkv = _product(normed, layer.qkv, layer.qkv_bias).view(n, heads + 2 * kv_heads, -1)
        qk, new_value = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
        d = qk.shape[-1]
        if layer.head_norms is not None:
            q, k = qk[:, :heads], qk[:, heads:]
            normed_q = functional.rms_norm(q, (d,), layer.head_norms[0], layer.eps)
            qk = torch.cat([normed_q, functional.rms_norm(k, (d,), layer.head_norms[1], layer.eps)], 1)
        qk = torch.addcmul(qk * cos, qk.roll(d // 2, -1), sin)
        cache.write(number, qk[:, heads:], new_value)
        with highest(True):  # whatever the setting of the large products
            out = cache.attend(number, qk[:, :heads].view(n, kv_heads, -1, d), layer.scale)
        return _added(x_NE, out.reshape(n, -1), layer.out, layer.out_bias)


def fused_decoder_of(found: Parts) -> FusedDecoder | None:
    """The decoder of a model; None if it is too large, on a GPU, in half precision, or has other parts.

    Adapters of LoRA are merged into copies of the weights, for as long as the decoder lives.
    """
    causal = found.causal
    weight = next(causal.parameters())
    fits = (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and sum(p.numel() for p in causal.parameters()) <= MOST_PARAMETERS
        and getattr(causal.config, "hidden_act", None) == "silu"
        and all(_is_dense(m) for layer in found.decoder.layers for m in _linears(layer))
    )
    return FusedDecoder(found) if fits else None


def _linears(layer: Any) -> list[nn.Module]:
    attention, mlp = layer.self_attn, layer.mlp
    of_attention = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*of_attention, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _layer(layer: Any) -> _Layer:
    attention = layer.self_attn
    q, k, v, out, gate, up, down = map(_dense, _linears(layer))
    head_norms = (attention.q_norm.weight, attention.k_norm.weight) if hasattr(attention, "q_norm") else None
    return _Layer(
        norm=layer.input_layernorm.weight,
        qkv=_joined(q, k, v),
        qkv_bias=_joined_bias(q, k, v),
        head_norms=head_norms,
        out=out.weight.t(),
        out_bias=out.bias,
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=_joined(gate, up),
        gate_up_bias=_joined_bias(gate, up),
        down=down.weight.t(),
        down_bias=down.bias,
        scale=attention.scaling,
        eps=layer.input_layernorm.variance_epsilon,
    )


@dataclass(frozen=True, slots=True)
class _Dense:
    """Weight [out, in] and bias of a linear layer."""

    weight: Tensor
    bias: Tensor | None


def _is_dense(module: Any) -> bool:
    """Whether a module is a linear layer, with or without plain adapters of LoRA."""
    if type(module) is nn.Linear:
        return True
    kind = type(module)
    if (kind.__module__, kind.__name__) != ("peft.tuners.lora.layer", "Linear"):
        return False
    others = any(getattr(module, "lora_variant", {})) or any(getattr(module, "lora_bias", {}).values())
    return type(module.base_layer) is nn.Linear and not others


def _dense(module: Any) -> _Dense:
    """What a linear layer multiplies by, its active adapters included."""
    if type(module) is nn.Linear:
        return _Dense(module.weight, module.bias)
    weight: Tensor = module.base_layer.weight
    if not module.disable_adapters and not module.merged:
        for name in module.active_adapters:
            if name in module.lora_A:
                weight = weight + module.get_delta_weight(name)
    return _Dense(weight, module.base_layer.bias)


def _joined(*layers: _Dense) -> Tensor:
    return torch.cat([m.weight for m in layers]).t()


def _joined_bias(*layers: _Dense) -> Tensor | None:
    if all(m.bias is None for m in layers):
        return None
    return torch.cat([m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias for m in layers])


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight if bias is None else torch.addmm(bias, x, weight)


def _added(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.addmm(residual if bias is None else residual + bias, x, weight)
