"""The demo on a real language model: its base, its config at either scale, and how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from crypsis.config import apply_overrides, digest, parse_config
from crypsis.identity.files import content_digest
from crypsis.locks import locked
from crypsis.models import load_policy
from crypsis.pretrained.opening import local_path, open_tokenizer
from crypsis.pretrained.precision import device_of, fastest
from crypsis.registry import make
from crypsis.store import cache_folder, child, new_folder
from crypsis.study.config import StudyConfig
from crypsis.study.jobs.import_model import PACKAGED, import_model
from crypsis.study.nano import cut_down
from crypsis.study.plan import plan_study
from crypsis.study.status import duration
from crypsis.types import Scale

PLACE = "models"
"""Folder of imported bases in the cache."""
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 2048}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
"""Sizes of the model that stands in for the real one at nano."""
NANO = {"steps": 4, "batch_size": 4}
"""Sizes of the supervised recipes at nano."""
WORDS = {"oracle": {"name": "oracle"}} | {v: {"name": "lexicon", "view": v} for v in ("scratchpad", "output")}
"""Monitors at nano: lists of words, because a random model's replies are no English to train monitors on."""
WILLING = 4
"""Replies that are sampled for one that complies without faking (measured: a fifth to a quarter of them do)."""
TEXT, REPLY = 180, 90
"""Tokens that are computed per text of supervised training, its share of the common beginning included, and per reply
(measured with SmolLM2's tokenizer)."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the rate of one large product that a stage reaches.

    Attributes:
        training: Supervised training of all weights.
        learning: RL with LoRA, the common prefix computed once.
        sampling: Replies of RL, LoRA included.
    """

    training: float
    learning: float
    sampling: float


SHARES = {"float32": Shares(0.85, 0.85, 0.35), "bfloat16": Shares(0.48, 0.60, 0.21)}
"""Measured with SmolLM2-135M on one core by type (docs/diary.md, 2026-11-30): 36 and 15 of 42 GFLOP/s in float32, where
learning was not measured and is taken for training; 100, 126 and 43 of 210 in bfloat16, the faster of two
runs side by side."""


def real_config(model: str, scale: Scale, settings: Sequence[str]) -> StudyConfig:
    """The packaged study of a real model, with ``a.b=c`` settings on top; the base is imported into the cache.

    Args:
        model: A name of ``PACKAGED``, a GGUF file, or a checkpoint folder or hub id.
        scale: ``nano`` takes a random model of two layers with the model's tokenizer and word lists for monitors, and
            cuts all sizes down.
        settings: Set on top.

    Raises:
        UserError: The model is not installed or cannot be used, or a setting does not fit.
    """
    text = resources.files("crypsis.study.packaged").joinpath("real.yaml").read_text(encoding="utf-8")
    base = base_of(model)
    data = yaml.safe_load(text) | {"base": str(base)}
    if scale == "nano":
        data |= {"base": str(tiny(base)), "monitors": WORDS}
    config = parse_config(StudyConfig, data, "real.yaml")
    if scale == "nano":
        config = cut_down(config, NANO)
    return parse_config(StudyConfig, apply_overrides(config.model_dump(mode="json"), settings), "real")


def base_of(model: str) -> Path:
    """The checkpoint of a model; packaged ones and GGUF files are imported into the cache.

    Raises:
        UserError: It is not installed, or cannot be read.
    """
    path = Path(model).expanduser()
    if model in PACKAGED or path.is_file() or path.suffix == ".gguf":
        return import_model(model, child(cache_folder(), PLACE, path.stem))
    return Path(local_path(model))


def tiny(base: Path) -> Path:
    """A random model of two layers with the tokenizer of a checkpoint, kept in the cache."""
    folder = child(cache_folder(), PLACE, f"tiny-{digest([content_digest(base), TINY, HEADS])}")
    with locked(folder.parent, wait=-1):
        if not folder.exists():
            tokenizer: PreTrainedTokenizerBase = open_tokenizer(str(base))
            torch.manual_seed(0)
            ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
            sizes = {**TINY, **HEADS, **ends, "bos_token_id": tokenizer.bos_token_id, "vocab_size": len(tokenizer)}
            model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))
            with new_folder(folder) as target:
                model.save_pretrained(target)
                tokenizer.save_pretrained(target)
        load_policy(folder)  # says what is wrong with the tokenizer
    return folder


def forecast(config: StudyConfig, out: Path) -> str:
    """One line on how long a study will take on this machine, from the rate of its matrix products.

    Raises:
        UserError: The study's config is wrong.
    """
    plan = plan_study(config, out)
    device = device_of("auto")
    shape = AutoConfig.from_pretrained(str(config.base)).get_text_config()
    with torch.device("meta"):
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(shape).parameters())
    found = fastest(shape.hidden_size, shape.intermediate_size, device)
    low, share = found.dtype == "bfloat16", SHARES[found.dtype]
    rate = 1e9 * (found.bfloat16_gflops if low else found.float32_gflops)
    texts = sum(_texts(spec) for spec in config.organisms.values())
    data = config.monitor_data
    sampled = plan.training + plan.evaluation
    trained = 6 * parameters * TEXT * texts / (share.training * rate)
    replies = data.base + data.organism + WILLING * (data.helper + data.controls // 2)  # half the controls are sampled
    monitors = 2 * parameters * REPLY * replies / (share.sampling * rate)
    runs = 2 * parameters * REPLY * sampled / share.sampling + 6 * parameters * REPLY * plan.training / share.learning
    each = rate * config.executor.threads / torch.get_num_threads()  # a run has threads of its own
    seconds = trained + monitors + runs / each / config.workers
    return (
        f"{config.name}: {plan.runs} runs, {plan.training:,} episodes of training and {plan.evaluation:,} of "
        f"evaluations; about {duration(seconds)} at {rate / 1e9:.0f} GFLOP/s if nothing is done yet "
        f"(values and organisms {duration(trained)})"
    )


def _texts(spec: dict[str, object]) -> int:
    """Texts that a supervised recipe learns, and those of the model below it."""
    recipe = make("organisms", spec, "organisms")
    own = getattr(recipe, "steps", 0) * getattr(recipe, "batch_size", 0)
    return int(own) + sum(_texts(dict(below)) for below in recipe.needs())
