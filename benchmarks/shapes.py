"""Models of real shapes with random weights, so that nothing needs downloading, and GRPO steps at these sizes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from benchmarks.workload import GROUP, reward
from crypsis.model_config import LoraConfig
from crypsis.models import Policy
from crypsis.pretrained.adapters import with_lora
from crypsis.rl.advantages import group_advantages
from crypsis.rl.engine.engine import Engine
from crypsis.rl.engine.samplers import SamplingParams
from crypsis.rl.engine.scoring import TrainRow
from crypsis.rl.engine.timing import PhaseTimer
from crypsis.rl.learner import Learner
from crypsis.run_config import RLConfig

SMOLLM2: dict[str, Any] = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49_152,
}  # fmt: skip
"""SmolLM2-135M."""
QWEN3_4B: dict[str, Any] = {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
}  # fmt: skip
TINY: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 300,
}  # fmt: skip


def random_policy(
    shape: dict[str, Any], dtype: torch.dtype, device: str = "cpu", lora: bool = False, qwen: bool = False
) -> Policy:
    """An untrained model, as ``load_trainable`` would give it, without a tokenizer.

    Args:
        shape: Sizes.
        dtype: Precision of matrix products; trained weights are float32.
        device: Where it lies.
        lora: Whether an adapter of rank 16 is trained, and the weights lie in ``dtype``.
        qwen: Whether it is a Qwen3 and not a Llama.
    """
    common: dict[str, Any] = {
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    held = dtype if lora else torch.float32
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(held)
    try:
        with torch.device(device):
            model: Any = (
                Qwen3ForCausalLM(Qwen3Config(**shape, **common))
                if qwen
                else LlamaForCausalLM(LlamaConfig(**shape, **common))
            )
    finally:
        torch.set_default_dtype(before)
    model.eval()
    if lora:
        model = with_lora(model.requires_grad_(False), "random", LoraConfig())
    autocast = dtype if dtype != torch.float32 and not lora else None
    return Policy(model, cast(PreTrainedTokenizerBase, None), autocast=autocast)


@dataclass(frozen=True, slots=True)
class Size:
    """One GRPO step: episodes in groups of 8, tokens of a prompt and how many of them all share, new tokens."""

    episodes: int
    prompt: int
    shared: int
    new: int

    def prompts(self, seed: int, words: int) -> list[list[int]]:
        """One prompt per group."""
        fixed, own = random.Random(0), random.Random(seed + 1)
        start = [fixed.randrange(2, words) for _ in range(self.shared)]
        rest = self.prompt - self.shared
        return [start + [own.randrange(2, words) for _ in range(rest)] for _ in range(self.episodes // GROUP)]


def grpo_step(
    policy: Policy,
    learner: Learner,
    size: Size,
    seed: int,
    engine: Engine,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Samples, rewards and learns, as the loop does.

    Returns:
        Seconds of the whole and by phase, and new tokens per second of sampling.
    """
    timer, prompts = PhaseTimer(), size.prompts(seed, policy.model.config.vocab_size)
    started = clock()
    params = SamplingParams(GROUP, size.new, [], seed=seed, batch_size=engine.batch_size)
    with policy.computing():
        sampled = engine.sampler(policy.model)(policy.model, prompts, params, timer, learner.attention_cache)
    synchronise(policy)
    sampling = clock() - started
    rewards = [[reward(s.ids) for s in sampled[i : i + GROUP]] for i in range(0, len(sampled), GROUP)]
    advantages = group_advantages(rewards).advantages
    rows = [
        TrainRow(prompts[i // GROUP], s.ids, [1] * len(s.ids), advantage, s.logprobs)
        for i, (s, advantage) in enumerate(zip(sampled, advantages, strict=True))
    ]
    learner.learn(rows, "benchmark", timer)
    synchronise(policy)
    whole = clock() - started
    tokens = sum(len(s.ids) for s in sampled)
    return {
        "seconds": whole,
        "sampling_seconds": sampling,
        "learning_seconds": whole - sampling,
        "new_tokens": tokens,
        "new_tokens_per_second": tokens / sampling,
        "phases": dict(timer.seconds),
    }


def learner_of(policy: Policy, size: Size, engine: Engine, micro_tokens: int = 16_384) -> Learner:
    """The learner of a run with these sizes."""
    rl = RLConfig(
        prompts_per_step=size.episodes // GROUP, group_size=GROUP, max_new_tokens=size.new, micro_tokens=micro_tokens
    )
    return Learner(policy, rl, engine=engine)


def synchronise(policy: Policy) -> None:
    """Waits for a GPU to finish what it was given."""
    if policy.model.device.type == "cuda":
        torch.cuda.synchronize()


def step_operations(size: Size, shape: dict[str, Any], frozen: bool) -> dict[str, float]:
    """Matrix products of a step that computes the shared part once, in operations (multiply and add apart), by phase.

    With frozen weights a backward pass has half as many products of linear layers, adapters apart.
    """
    width, layers = shape["hidden_size"], shape["num_hidden_layers"]
    queries, keys = (shape[f"num_{kind}_heads"] * shape["head_dim"] for kind in ("attention", "key_value"))
    linear = 2 * layers * width * (2 * queries + 2 * keys + 3 * shape["intermediate_size"])
    head, pair = 2 * width * shape["vocab_size"], 4 * layers * queries
    n, own = size.episodes, size.prompt - size.shared
    prompts = n / GROUP * own * (linear + pair * (size.shared + own / 2))
    prefix = size.shared * linear + pair * size.shared**2 / 2
    decoding = n * size.new * (linear + head + pair * (size.shared + own + size.new / 2))
    forward = prefix + prompts + decoding
    back = 1.0 if frozen else 2.0
    return {"sampling": prefix + prompts + decoding, "learning": forward * (1 + back)}
