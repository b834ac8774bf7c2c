"""The engine computes what the model's own attention computes: losses, gradients, tokens and log-probabilities.

Everything is float64, with the normalisation layers of transformers kept in float64 too (they compute in float32), so
that equality means 1e-12 and not the rounding of float32.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from crypsis.pretrained import logprobs
from crypsis.rl.engine import cascade_attention as cascade
from crypsis.rl.engine import shared_prefix
from crypsis.rl.engine.samplers import (
    Sampled,
    Sampler,
    SamplingParams,
    block_cache,
    choose_sampler,
    fused_decoder,
    padded,
)
from crypsis.rl.engine.samplers import shared_prefix as shared
from crypsis.rl.engine.scoring import Form, TrainRow, micro_batches, token_logprobs
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.loss import LossStats, accumulate_gradients

pytestmark = pytest.mark.golden

VOCABULARY = 61
STOP = [1, 2]
ARCHITECTURES: dict[str, Any] = {
    "llama": LlamaConfig,
    "qwen3": Qwen3Config,
    "qwen2": Qwen2Config,
    "mistral": MistralConfig,
}
VARIANTS = [
    ("llama", 4, True),
    ("llama", 2, False),
    ("qwen3", 4, False),
    ("qwen3", 2, True),
    ("qwen2", 2, True),
    ("mistral", 2, False),
]


@pytest.fixture(autouse=True)
def float64_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the normalisation layers in float64."""

    def forward(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))
        return out

    for norm in (LlamaRMSNorm, Qwen3RMSNorm, Qwen2RMSNorm, MistralRMSNorm):
        monkeypatch.setattr(norm, "forward", forward)


def from_config(config: Any) -> nn.Module:
    """A random model."""
    model: nn.Module = AutoModelForCausalLM.from_config(config).eval()
    return model


def build(kind: str = "llama", kv_heads: int = 2, tied: bool = True) -> nn.Module:
    """A random model of two layers whose norms and biases are not trivial."""
    config = ARCHITECTURES[kind](
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        sliding_window=None,
        use_cache=True,
        pad_token_id=0,
        bos_token_id=3,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = from_config(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def ragged_prompts(common: int = 19, number: int = 5) -> list[list[int]]:
    """Prompts that share their first ``common`` tokens and then differ in length and content."""
    r = random.Random(1)
    start = [r.randrange(4, VOCABULARY) for _ in range(common)]
    rest = [[4 + i, *(r.randrange(4, VOCABULARY) for _ in range(r.randrange(1, 9)))] for i in range(number)]
    return [start + own for own in rest]


def train_rows(prompts: list[list[int]], per_prompt: int = 3) -> list[TrainRow]:
    """Off-policy rows with ragged completions and segment masks, one without a trained token, one of advantage 0."""
    r = random.Random(2)
    rows = []
    for i, prompt in enumerate(p for p in prompts for _ in range(per_prompt)):
        n = r.randrange(2, 15)
        mask = [int(i != 1 and r.random() < 0.7) for _ in range(n - 1)] + [int(i != 1)]
        old, ref = ([r.gauss(-4.2, 0.3) for _ in range(n)] for _ in range(2))
        completion = [r.randrange(4, VOCABULARY) for _ in range(n)]
        rows.append(TrainRow(prompt, completion, mask, 0.0 if i == 2 else r.gauss(0, 1), old, ref))
    return rows


def gradients(model: nn.Module, rows: list[TrainRow], **settings: Any) -> tuple[LossStats, list[Tensor]]:
    """Statistics and the gradient of every trainable parameter."""
    model.zero_grad()
    stats = accumulate_gradients(model, rows, **settings)
    trainable = [p for p in model.parameters() if p.requires_grad]
    return stats, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trainable]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    """Compares gradients tensor by tensor, relative to the norm of each."""
    # A gradient that is zero in theory (that of key biases: softmax ignores a common shift) is rounding noise.
    floor = 1e-9 * max(e.norm().item() for e in expected)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm().item() <= tolerance * max(b.norm().item(), floor)


def assert_stats(found: LossStats, expected: LossStats) -> None:
    """Compares all statistics but the length of the prefix."""
    for name in ("loss", "trained_tokens", "mean_ratio", "clip_fraction", "mean_kl"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12, abs=1e-14), name


def textbook(model: nn.Module, rows: list[TrainRow], kl_coefficient: float) -> tuple[float, list[Tensor]]:
    """The loss written down row by row, through the unmodified model."""
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.completion_ids])
        logits = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1]
        new = logits.log_softmax(-1).gather(-1, torch.tensor(row.completion_ids)[:, None])[:, 0]
        ratio = (
            new - (new.detach() if row.old_logprobs is None else torch.tensor(row.old_logprobs, dtype=torch.float64))
        ).exp()
        gain = torch.min(ratio * row.advantage, ratio.clamp(0.8, 1.2) * row.advantage)
        delta = torch.tensor(row.ref_logprobs, dtype=torch.float64) - new
        total = total + ((kl_coefficient * (delta.exp() - delta - 1) - gain) * torch.tensor(row.mask)).sum()
    value = total / sum(sum(row.mask) for row in rows)
    value.backward()
    return value.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(("kind", "kv_heads", "tied"), VARIANTS)
def test_all_forms_give_the_textbook_gradient(kind: str, kv_heads: int, tied: bool) -> None:
    model, rows = build(kind, kv_heads, tied), train_rows(ragged_prompts())
    value, expected = textbook(model, rows, 0.1)
    forms: tuple[Form, ...] = ("padded", "shared")
    for form in forms:
        stats, found = gradients(model, rows, form=form, micro_batch=4, kl_coefficient=0.1)
        assert stats.loss == pytest.approx(value, rel=1e-12)
        assert stats.trained_tokens == sum(sum(r.mask) for r in rows)
        assert stats.prefix_tokens == (0 if form == "padded" else 19)
        assert 0 < stats.clip_fraction < 1
        assert_close(found, expected)


@pytest.mark.parametrize("common", [0, 1])
def test_short_and_missing_prefix(common: int) -> None:
    model, rows = build(), [replace(r, old_logprobs=None) for r in train_rows(ragged_prompts(common))]
    stats, expected = gradients(model, rows, form="padded")
    forms: tuple[Form, ...] = ("shared",)
    for form in forms:
        found_stats, found = gradients(model, rows, form=form)
        assert found_stats.prefix_tokens == common
        assert_stats(found_stats, stats)
        assert_close(found, expected)
    prompts = ragged_prompts(common)
    params = SamplingParams(2, 9, STOP, seed=3)
    assert ids(shared.sample(model, prompts, params)) == ids(padded.sample(model, prompts, params))


def test_one_prompt_keeps_a_token_of_its_own() -> None:
    prompt = ragged_prompts()[0]
    assert shared_prefix.common_prefix([prompt, prompt]) == prompt[:-1]
    assert shared_prefix.common_prefix([[5], [5, 6]]) == []
    with pytest.raises(ValueError, match="at least one token"):
        shared_prefix.common_prefix([[5], []])


@pytest.mark.parametrize("fast_linears", [True, False])
def test_float32_is_close_to_float64(fast_linears: bool) -> None:
    model, rows = build(), train_rows(ragged_prompts())
    stats, expected = gradients(model, rows, kl_coefficient=0.1)
    found_stats, found = gradients(model.float(), rows, kl_coefficient=0.1, fast_linears=fast_linears)
    # Wide enough for chips on which fast means products of bfloat16.
    tolerance = 5e-2 if fast_linears else 1e-4
    assert found_stats.loss == pytest.approx(stats.loss, rel=tolerance)
    assert_close([g.double() for g in found], expected, tolerance)


def test_micro_batches_add_up() -> None:
    model, rows = build("qwen3"), train_rows(ragged_prompts())
    forms: tuple[Form, ...] = ("shared", "padded")
    for form in forms:
        whole_stats, whole = gradients(model, rows, form=form, micro_batch=len(rows))
        stats, single = gradients(model, rows, form=form, micro_batch=1)
        assert_stats(stats, whole_stats)
        assert_close(single, whole)


def test_micro_batches_are_cut_by_their_tokens() -> None:
    model, rows = build("qwen3"), train_rows(ragged_prompts())
    forms: tuple[Form, ...] = ("shared", "padded")
    for form in forms:
        skip = 0 if form == "padded" else 19
        whole_stats, whole = gradients(model, rows, form=form, micro_batch=len(rows))
        for tokens in (60, 1):
            stats, found = gradients(model, rows, form=form, micro_batch=len(rows), micro_tokens=tokens)
            assert_stats(stats, whole_stats)
            assert_close(found, whole)
            masks = [[1] * len(r.completion_ids) for r in rows]
            parts = list(micro_batches(rows, masks, skip, len(rows), torch.device("cpu"), form, tokens))
            assert sorted(i for part, _ in parts for i in part) == list(range(len(rows)))
            sizes = [b.ids.numel() if b.layout is None else len(b.layout.home) for _, b in parts]
            assert all(size <= tokens or len(part) == 1 for size, (part, _) in zip(sizes, parts, strict=True))
            assert len(parts) == (len(rows) if tokens == 1 else len(parts)) and len(parts) > 2


def test_a_prompt_is_computed_once_for_its_rows() -> None:
    prompts, lengths = [[5, 6], [5, 6], [7], [5, 6]], [4, 2, 3, 3]
    layout = cascade.Layout.of(prompts, lengths, torch.device("cpu"))
    assert layout.slots.tolist() == [[0, 1, 2, 3], [0, 1, 1, 1], [4, 5, 6, 6], [0, 1, 7, 7]]
    assert layout.home.tolist() == [0, 1, 2, 3, 8, 9, 10, 14]
    assert layout.repeats.tolist() == [4, 5, 12, 13]
    x, weights = torch.randn(1, 3, 8, 2, requires_grad=True), torch.randn(4, 3, 4, 2)
    assert torch.equal(layout.tokens(layout.rows(x)), x)
    real = torch.zeros(16).index_fill_(0, torch.cat([layout.home, layout.repeats]), 1.0).view(4, 1, 4, 1)
    (expected,) = torch.autograd.grad(layout.rows(x), x, weights * real)
    torch.testing.assert_close(layout.gradient_tokens(weights), expected)
    rows = torch.randn(4, 3, 4, 2, requires_grad=True)
    (expected,) = torch.autograd.grad(layout.tokens(rows), rows, x)
    assert torch.equal(layout.gradient_rows(x), expected)


def test_processes_that_share_a_step_add_up() -> None:
    model, rows = build(), train_rows(ragged_prompts())
    stats, whole = gradients(model, rows)
    tokens = float(stats.trained_tokens)
    first, a = gradients(model, rows[:7], normaliser=tokens)
    second, b = gradients(model, rows[7:], normaliser=tokens)
    assert first.loss + second.loss == pytest.approx(stats.loss, rel=1e-12)
    assert_close([x + y for x, y in zip(a, b, strict=True)], whole)


def test_what_is_masked_changes_no_bit() -> None:
    model, rows = build(), train_rows(ragged_prompts())
    tail = {"completion_ids": [7, 8], "mask": [0, 0], "old_logprobs": [-1.0, -1.0], "ref_logprobs": [-1.0, -1.0]}
    rows = [replace(r, **{name: getattr(r, name) + more for name, more in tail.items()}) for r in rows]
    changed = []
    for i, row in enumerate(rows):
        old = [o if m else o - 3 for o, m in zip(row.old_logprobs or [], row.mask, strict=True)]
        completion = [*row.completion_ids[:-2], 9, 10]
        changed.append(
            replace(row, old_logprobs=old, completion_ids=completion, advantage=row.advantage + 5 * (i == 1))
        )
    forms: tuple[Form, ...] = ("shared", "padded")
    for form in forms:
        _, before = gradients(model, rows, form=form, micro_batch=4)
        _, after = gradients(model, changed, form=form, micro_batch=4)
        assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_rows_without_gradient_only_count() -> None:
    model, rows = build(), [replace(r, advantage=0.0) for r in train_rows(ragged_prompts())]
    stats, found = gradients(model, rows)
    assert stats == LossStats(0.0, sum(sum(r.mask) for r in rows), 1.0, 0.0, 0.0, 0)
    assert not any(g.any() for g in found)
    with_kl, found = gradients(model, rows, kl_coefficient=0.1)
    assert with_kl.loss > 0
    assert any(g.any() for g in found)


def test_bad_rows_are_refused() -> None:
    model, rows = build(), train_rows(ragged_prompts())
    with pytest.raises(ValueError, match="old_logprobs"):
        accumulate_gradients(model, [replace(rows[0], old_logprobs=None), *rows[3:]])
    with pytest.raises(ValueError, match="ref_logprobs"):
        accumulate_gradients(model, [replace(r, ref_logprobs=None) for r in rows], kl_coefficient=0.1)
    with pytest.raises(ValueError, match="entries in mask"):
        TrainRow([5], [6, 7], [1], 1.0)


def test_chunks_of_logits_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = build(), train_rows(ragged_prompts())
    stats, expected = gradients(model, rows)
    expected_logprobs = token_logprobs(model, rows)
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 5 * VOCABULARY)
    found_stats, found = gradients(model, rows)
    assert_stats(found_stats, stats)
    assert_close(found, expected)
    for a, b in zip(token_logprobs(model, rows), expected_logprobs, strict=True):
        assert a == pytest.approx(b, abs=1e-13)


def test_gradient_checkpointing_changes_nothing() -> None:
    model, rows = build(), train_rows(ragged_prompts())
    _, expected = gradients(model, rows)
    model.train()
    shared_prefix.parts(model).causal.gradient_checkpointing_enable()
    _, found = gradients(model, rows)
    assert_close(found, expected)


def test_fallback_without_flash_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cascade.flash_usable("cpu", torch.float64, 8)
    assert not cascade.flash_usable("cuda", torch.float64, 8)
    model, prompts = build("qwen3"), ragged_prompts()
    rows = train_rows(prompts)
    params = SamplingParams(2, 12, STOP, seed=3)
    sampled = ids(shared.sample(model, prompts, params))
    forms: tuple[Form, ...] = ("shared",)
    expected = [gradients(model, rows, form=form) for form in forms]
    monkeypatch.setattr(cascade, "flash_usable", lambda *_: False)
    for form, (stats, grads) in zip(forms, expected, strict=True):
        found_stats, found = gradients(model, rows, form=form)
        assert_stats(found_stats, stats)
        assert_close(found, grads)
    assert ids(shared.sample(model, prompts, params)) == sampled


def test_self_test_rejects_operators_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(*_: Any) -> tuple[Tensor, Tensor]:
        raise RuntimeError("schema changed")

    monkeypatch.setattr(cascade, "_flash", changed)
    assert not cascade.flash_usable.__wrapped__("cpu", torch.float32, 8)


def ids(sampled: list[Sampled]) -> list[list[int]]:
    """Only the tokens."""
    return [s.ids for s in sampled]


@pytest.mark.parametrize(("kind", "kv_heads", "tied"), VARIANTS)
def test_greedy_is_generate(kind: str, kv_heads: int, tied: bool) -> None:
    model, prompts = build(kind, kv_heads, tied), ragged_prompts()
    width = max(map(len, prompts))
    left = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    generate = shared_prefix.parts(model).causal.generate
    out = generate(
        input_ids=left, attention_mask=(left > 0).long(), max_new_tokens=80, do_sample=False, eos_token_id=STOP
    )
    samplers: tuple[Sampler, ...] = (shared.sample, padded.sample)
    for sample in samplers:
        found = sample(model, prompts, SamplingParams(1, 80, STOP, seed=0, temperature=0, batch_size=3))
        for row, expected in zip(found, out[:, width:].tolist(), strict=True):
            assert row.ids == expected[: len(row.ids)]
            assert row.stopped == (row.ids[-1] in STOP)
            assert row.stopped or len(row.ids) == 80


@pytest.mark.parametrize(("kind", "kv_heads", "tied"), VARIANTS)
@pytest.mark.parametrize(("common", "long"), [(19, False), (19, True), (0, False)])
def test_fused_steps_are_the_models_own(
    kind: str, kv_heads: int, tied: bool, common: int, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if long:
        monkeypatch.setattr(block_cache, "LONG_PREFIX", 1)
    model, prompts = build(kind, kv_heads, tied), ragged_prompts(common)
    params = SamplingParams(2, 70, STOP, seed=4)
    with shared_prefix.shared_attention(model) as found:
        assert fused_decoder.fused_decoder_of(found) is not None
    quick = shared.sample(model, prompts, params)
    monkeypatch.setattr(fused_decoder, "MOST_PARAMETERS", 0)
    with shared_prefix.shared_attention(model) as found:
        assert fused_decoder.fused_decoder_of(found) is None
    own = shared.sample(model, prompts, params)
    assert ids(quick) == ids(own)
    for a, b in zip(quick, own, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampling_does_not_depend_on_batches(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = build("qwen3"), ragged_prompts()
    # More stop tokens than in earnest, so that rows finish at all lengths and compaction has work.
    stop = list(range(1, 5))
    params = SamplingParams(4, 90, stop, seed=11, temperature=temperature)
    whole = shared.sample(model, prompts, params)
    assert len({len(s.ids) for s in whole}) > 5
    assert len({tuple(s.ids) for s in whole[:4]}) == 4
    assert ids(shared.sample(model, prompts, replace(params, batch_size=3))) == ids(whole)
    split = shared.sample(model, prompts[:2], params) + shared.sample(model, prompts[2:], replace(params, row_offset=8))
    assert ids(split) == ids(whole)
    assert ids(padded.sample(model, prompts, params)) == ids(whole)
    for share in (0.0, 1.0):
        monkeypatch.setattr("crypsis.rl.engine.samplers.base.COMPACT_BELOW", share)
        assert ids(shared.sample(model, prompts, params)) == ids(whole)
        assert ids(padded.sample(model, prompts, replace(params, batch_size=7))) == ids(whole)
    assert ids(shared.sample(model, prompts, replace(params, seed=12))) != ids(whole)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_of_sampler_and_scorer_agree(temperature: float) -> None:
    model, prompts = build("qwen3", 4), ragged_prompts()
    samplers: tuple[Sampler, ...] = (shared.sample, padded.sample)
    forms: tuple[Form, ...] = ("shared", "padded")
    for sample in samplers:
        sampled = sample(model, prompts, SamplingParams(3, 70, STOP, seed=5, temperature=temperature))
        rows = [TrainRow(prompts[i // 3], s.ids, [0] * len(s.ids), 0.0) for i, s in enumerate(sampled)]
        rows.append(TrainRow(prompts[0], [], [], 0.0))
        for form in forms:
            scored = token_logprobs(model, rows, form=form, micro_batch=4, temperature=temperature)
            assert scored[-1] == []
            for a, b in zip(scored, sampled, strict=False):
                assert a == pytest.approx(b.logprobs, abs=1e-10)


def test_samples_follow_the_distribution() -> None:
    model, prompt = build(), ragged_prompts()[0]
    n = 4000
    sampled = shared.sample(model, [prompt], SamplingParams(n, 1, stop_ids=[], seed=0, batch_size=n))
    p = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([s.ids[0] for s in sampled]), minlength=VOCABULARY)
    chi2 = ((counts - n * p) ** 2 / (n * p)).sum().item()
    assert chi2 < VOCABULARY + 4 * (2 * VOCABULARY) ** 0.5  # mean and four standard deviations; the seed is fixed


@pytest.mark.parametrize("trained", ["attention", "head", "rescaled"])
def test_lora(trained: str) -> None:
    peft = pytest.importorskip("peft")
    model, rows = build("qwen3"), train_rows(ragged_prompts())
    targets = ["lm_head"] if trained == "head" else ["q_proj", "v_proj", "down_proj"]
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, use_dora=trained == "rescaled")
    wrapped = peft.get_peft_model(model, config).double()
    assert shared_prefix.why_not_shared(wrapped) is None
    stats, expected = gradients(wrapped, rows, form="padded")
    forms: tuple[Form, ...] = ("shared",)
    for form in forms:
        found_stats, found = gradients(wrapped, rows, form=form)
        assert_stats(found_stats, stats)
        assert_close(found, expected)
    params = SamplingParams(2, 12, STOP, seed=3)
    prompts = ragged_prompts()
    with shared_prefix.shared_attention(wrapped) as found_parts:
        # An adapter that is no sum of weights cannot be merged, so that the model decodes by itself.
        assert (fused_decoder.fused_decoder_of(found_parts) is None) == (trained == "rescaled")
    quick, own = shared.sample(wrapped, prompts, params), padded.sample(wrapped, prompts, params)
    assert ids(quick) == ids(own)
    for a, b in zip(quick, own, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-10)
    if trained == "attention":
        with wrapped.disable_adapter():
            assert ids(shared.sample(wrapped, prompts, params)) == ids(padded.sample(wrapped, prompts, params))


def small(config: Any, **settings: Any) -> nn.Module:
    """A model of an architecture that does not fit, in float32: transformers masks with an overflow in float64."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    return from_config(config(**(sizes | heads | settings)))


@pytest.mark.parametrize(
    ("config", "settings", "reason"),
    [
        (Gemma2Config, {"sliding_window": 8}, "sliding"),
        (Gemma3TextConfig, {"sliding_window": 8}, "sliding"),
        (MistralConfig, {"sliding_window": 8}, "sliding window of 8"),
        (LlamaConfig, {"logits_scaling": 2.0}, "logits_scaling"),
        (GPT2Config, {"bos_token_id": 1, "n_head": 4, "n_embd": 32, "n_layer": 2}, "gpt2"),
    ],
)
def test_models_that_do_not_fit_fall_back(config: Any, settings: dict[str, Any], reason: str) -> None:
    model, prompts = small(config, **settings), ragged_prompts()
    sampler = choose_sampler(model)
    assert sampler is padded.sample
    assert reason in str(shared_prefix.why_not_shared(model))
    sampled = sampler(model, prompts, SamplingParams(2, 12, STOP, seed=3, batch_size=4))
    rows = [TrainRow(prompts[i // 2], s.ids, [1] * len(s.ids), 1.0 - i) for i, s in enumerate(sampled)]
    for a, b in zip(token_logprobs(model, rows, form="padded"), sampled, strict=True):
        assert a == pytest.approx(b.logprobs, abs=1e-4)
    assert accumulate_gradients(model, rows, form="padded").trained_tokens == sum(len(s.ids) for s in sampled)
    with pytest.raises(ValueError, match=reason):
        accumulate_gradients(model, rows)
    with pytest.raises(ValueError, match=reason):
        shared.sample(model, prompts, SamplingParams(2, 12, STOP, seed=3))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"samples_per_prompt": 0}, "samples_per_prompt is 0 and must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0 and must be at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0 and must not be negative"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_sampling_out_of_range_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(SamplingParams(1, 1, STOP, seed=0), **wrong)


def test_an_empty_prompt_is_refused() -> None:
    samplers: tuple[Sampler, ...] = (shared.sample, padded.sample)
    for sample in samplers:
        with pytest.raises(ValueError, match="prompt 1 is empty"):
            sample(build(), [[7], []], SamplingParams(1, 1, STOP, seed=0))


def test_supported_model_is_chosen_and_nothing_is_left_behind() -> None:
    model, prompts = build(), ragged_prompts()
    assert choose_sampler(model) is shared.sample
    causal = shared_prefix.parts(model).causal
    before = causal.config._attn_implementation, torch.get_float32_matmul_precision()
    model.train()
    causal.model.norm.eval()
    timer = PhaseTimer()
    params = SamplingParams(2, 5, STOP, seed=3)
    shared.sample(model, prompts, params, timer)
    accumulate_gradients(model, train_rows(prompts), timer=timer)
    with pytest.raises(RuntimeError, match="inside"), shared_prefix.shared_attention(model):
        raise RuntimeError("inside")
    assert (causal.config._attn_implementation, torch.get_float32_matmul_precision()) == before
    assert model.training
    assert not causal.model.norm.training
    assert list(timer.seconds) == ["sampling", "prefix", "forward", "backward"]
    assert all(seconds > 0 for seconds in timer.seconds.values())


def test_diverged_model_is_reported() -> None:
    model, prompts = build(), ragged_prompts()
    with torch.no_grad():
        shared_prefix.parts(model).causal.model.norm.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="diverged"):
        shared.sample(model, prompts, SamplingParams(1, 3, STOP, seed=3))


def test_bfloat16_runs() -> None:
    model, prompts = build("qwen3").bfloat16(), ragged_prompts()
    sampled = shared.sample(model, prompts, SamplingParams(2, 9, STOP, seed=3))
    rows = [TrainRow(prompts[i // 2], s.ids, [1] * len(s.ids), 1.0 - i) for i, s in enumerate(sampled)]
    for a, b in zip(token_logprobs(model, rows), sampled, strict=True):
        assert a == pytest.approx(b.logprobs, abs=0.2)
    assert all(g.isfinite().all() for g in gradients(model, rows)[1])
