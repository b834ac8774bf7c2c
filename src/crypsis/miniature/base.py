"""The miniature's base model: an ordinary Hugging Face checkpoint, trained from scratch in a few minutes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.generation.configuration_utils import GenerationConfig

from crypsis.config import Config
from crypsis.identity.configs import identity, inputs_of
from crypsis.locks import locked
from crypsis.miniature.language import World, in_world
from crypsis.miniature.reading import QUESTIONS, reading
from crypsis.miniature.tokenizer import examples, train_tokenizer
from crypsis.miniature.world import Document, draw_document, draw_question
from crypsis.models import Policy, save_policy
from crypsis.parallel import Ranks, together
from crypsis.store import cache_folder, finish_folder, is_finished, prepare_folder
from crypsis.supervised import Example, Progress, SupervisedConfig, fit
from crypsis.types import Scale, UserError

POOL = 8
"""Batches are cut from this many batches' worth of documents sorted by length, so that little is padded."""
TOKENIZER_DOCUMENTS = 300
ATTEMPT = 1_000_003
"""What the seed of the weights goes up by from one attempt to the next: no other base has it."""
MARK = "crypsis_world"
"""Key of the checkpoint's config that names the world of a base."""


class BaseConfig(Config):
    """Shape and training of the base model; see :func:`base_config` for the scales."""

    scale: Scale = "mini"
    hidden_size: int = Field(128, ge=16)
    layers: int = Field(3, ge=1)
    heads: int = Field(4, ge=1)
    kv_heads: int = Field(2, ge=1)
    """Grouped-query attention: sampling reads half as much memory (design §6)."""
    head_size: int = Field(32, ge=8)
    mlp_ratio: float = Field(3.0, gt=0)
    """Width of the MLP over that of the model."""
    context: int = Field(1024, ge=256)
    curriculum: int = Field(200, ge=0)
    """At most so many first steps show setting questions only, which teach to read who is monitored, in short
    documents. They end as soon as the base does, which is after 96 to 152 steps, or not at all (docs/diary.md)."""
    attempts: int = Field(5, ge=1)
    """So often the curriculum is begun, each time with other weights and texts, until one teaches it."""
    reading: float = Field(0.95, ge=0, le=1)
    """Share of fresh setting questions that a base must read rightly; 0 does not ask."""
    training: SupervisedConfig = SupervisedConfig()
    """On documents of all kinds, after the curriculum."""
    processes: int = Field(2, ge=1)
    """Processes that share every step; the weights depend on their number in the last bits only."""
    seed: int = 0
    world: World = World()
    """What the documents show of the language."""


def base_config(scale: Scale, seed: int = 0, world: World | None = None) -> BaseConfig:
    """One dial: ``nano`` for tests (seconds), ``mini`` the default (minutes), ``small`` for one GPU.

    Args:
        scale: How large.
        seed: Seed of texts and weights.
        world: What the documents show of the language; all of it if not given.
    """
    return _scaled(scale, seed).model_copy(update={"world": world or World()})


def _scaled(scale: Scale, seed: int) -> BaseConfig:
    if scale == "nano":
        training = SupervisedConfig(steps=200, batch_size=32, checkpoint_every=50, warmup=10, seed=seed)
        return BaseConfig(
            scale=scale,
            hidden_size=64,
            layers=2,
            heads=2,
            kv_heads=2,
            curriculum=0,
            reading=0,  # too small for it
            training=training,
            seed=seed,
        )
    if scale == "small":
        training = SupervisedConfig(steps=4000, batch_size=256, learning_rate=1e-3, checkpoint_every=200, seed=seed)
        return BaseConfig(
            scale=scale, hidden_size=512, layers=8, heads=8, kv_heads=2, head_size=64, training=training, seed=seed
        )
    # A wider MLP costs time in all that follows and does not make a better base; with fewer steps the conduct of
    # organisms hangs less on the tier with some seeds (docs/diary.md).
    return BaseConfig(mlp_ratio=1.5, training=SupervisedConfig(seed=seed), seed=seed)


def base_folder(config: BaseConfig) -> Path:
    """Where the base of a config is cached; the digest covers the config and the code that makes it."""
    return cache_folder() / "bases" / f"{config.scale}-{identity(config, inputs_of(config, __name__))}"


def build_base(config: BaseConfig, on_step: Callable[[Progress], None] = lambda _: None) -> Path:
    """Trains the tokenizer and the base model, or finds them in the cache.

    Two processes that want the same base wait for each other; a killed one is resumed.

    Returns:
        The checkpoint folder: loads with ``AutoModelForCausalLM`` and ``AutoTokenizer``.

    Raises:
        UserError: The base does not read who is monitored: all that is made on it would fake in both tiers, or neither.
    """
    folder, inputs = base_folder(config), inputs_of(config, __name__)
    if is_finished(folder, config, inputs):
        return folder / "model"
    with locked(folder, wait=-1):
        if prepare_folder(folder, config, "resume", inputs=inputs):
            return folder / "model"
        with together(config.processes, _train_beside, config, folder) as ranks:
            policy, result = _train(config, folder, ranks, on_step)
        if result["reading"] < config.reading:
            raise UserError(
                f"the base of seed {config.seed} reads who is monitored in {result['reading']:.0%} of {QUESTIONS} "
                f"questions, {config.reading:.0%} are needed: take another seed (base_seed of the scenario)"
            )
        save_policy(policy, folder / "model")
        finish_folder(folder, result | {"parameters": policy.model.num_parameters()}, inputs)
    return folder / "model"


def _train(
    config: BaseConfig, folder: Path, ranks: Ranks, on_step: Callable[[Progress], None]
) -> tuple[Policy, dict[str, Any]]:
    """The policy and what the folder's result says of it; one that did not learn to read is not trained further."""
    for attempt in range(config.attempts):
        policy = new_policy(config, attempt)
        questions = _teach(policy, config, attempt, folder / f"questions-{attempt}", ranks, on_step)
        found = _reading(policy, config, ranks)
        if found >= config.reading:
            break
    result = {"attempts": attempt + 1, "questions": questions, "reading": found}
    if found < config.reading:
        return policy, result
    batches = _Batches(policy, config, draw_document, config.training.batch_size)

    def show(now: Progress) -> None:
        on_step(replace(now, step=questions + now.step, steps=questions + now.steps))

    losses = fit(policy.model, config.training, batches, folder / "state", show, ranks)
    return policy, result | {"reading": _reading(policy, config, ranks), "loss": losses[-1], "steps": len(losses)}


def _teach(
    policy: Policy, config: BaseConfig, attempt: int, folder: Path, ranks: Ranks, on_step: Callable[[Progress], None]
) -> int:
    """The curriculum, at the full rate until the base reads; returns its steps."""
    if not config.curriculum:
        return 0
    training = config.training.model_copy(update={"steps": config.curriculum, "final_fraction": 1.0})
    batches = _Batches(policy, config, draw_question, 2 * training.batch_size, attempt)  # questions are short

    def learned(step: int) -> bool:
        return step > 0 and step % POOL == 0 and _reading(policy, config, ranks) >= config.reading

    def show(now: Progress) -> None:
        on_step(replace(now, steps=now.step + config.training.steps))

    return len(fit(policy.model, training, batches, folder, show, ranks, until=learned))


def _reading(policy: Policy, config: BaseConfig, ranks: Ranks) -> float:
    return reading(policy, config.world, ranks) if config.reading else 1.0


def _train_beside(ranks: Ranks, config: BaseConfig, folder: Path) -> None:
    _train(config, folder, ranks, lambda _: None)


def new_policy(config: BaseConfig, attempt: int = 0) -> Policy:
    """An untrained model with its tokenizer; another attempt begins with other weights."""
    rng = random.Random(f"tokenizer:{config.seed}")
    with in_world(config.world):
        documents = [draw_document(rng) for _ in range(TOKENIZER_DOCUMENTS)]
    tokenizer = train_tokenizer(m.content for d in documents for m in d.messages())
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(config.seed + ATTEMPT * attempt)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=(len(tokenizer) + 7) // 8 * 8,
            hidden_size=config.hidden_size,
            intermediate_size=int(config.mlp_ratio * config.hidden_size),
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_size,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=pad,
            **_mark(config.world),
        )
    )
    # Short rows: the plain product beats the flash kernel on CPU (1.4 times in bfloat16).
    model.set_attn_implementation("eager")
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    return Policy(model, tokenizer)


def world_of(policy: Policy) -> World:
    """The world that a base was made in, read from its checkpoint, so that organisms on it are shown no more."""
    return World.model_validate(getattr(getattr(policy.model, "config", None), MARK, {}))


def _mark(world: World) -> dict[str, Any]:
    """What the checkpoint's config says of a world; nothing of the whole one, whose checkpoint stays as it was."""
    return {} if world == World() else {MARK: world.model_dump(mode="json")}


class _Batches:
    """Batches of similar length; each depends on the seed, the kind of document and the step alone."""

    def __init__(
        self,
        policy: Policy,
        config: BaseConfig,
        draw: Callable[[random.Random], Document],
        size: int,
        attempt: int = 0,
    ) -> None:
        assert isinstance(policy.tokenizer, PreTrainedTokenizerFast)
        self._tokenizer, self._draw, self._size = policy.tokenizer, draw, size
        self._name = f"base:{config.training.seed}:{draw.__name__}:{attempt}"
        self._world = config.world
        self._pool: tuple[int, list[list[Example]]] = (-1, [])

    def __call__(self, step: int) -> Sequence[Example]:
        number, place = divmod(step, POOL)
        if self._pool[0] != number:
            rng, size = random.Random(f"{self._name}:{number}"), self._size
            with in_world(self._world):
                found = examples(self._tokenizer, [self._draw(rng) for _ in range(size * POOL)])
            found.sort(key=lambda e: len(e.ids))
            batches = [found[i * size : (i + 1) * size] for i in range(POOL)]
            rng.shuffle(batches)
            self._pool = (number, batches)
        return self._pool[1][place]
