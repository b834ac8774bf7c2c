"""PEFT adapters: putting one on its base, merging it, and a new one to train."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from crypsis.model_config import LoraConfig
from crypsis.store import read_json
from crypsis.types import UserError

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
IN_FILE = "base_model.model."
"""What PEFT puts before the names of a model's parts."""


def has_adapter(model: nn.Module) -> bool:
    """Whether this is a ``peft.PeftModel``."""
    return not isinstance(model, PreTrainedModel)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / ADAPTER).exists()


def adapter_base(folder: Path) -> str:
    """The base that an adapter names: a folder or a hub id.

    A relative path counts from the working folder, as PEFT has it, or from the nearest folder above the adapter in
    which it exists.

    Raises:
        UserError: The adapter is a soft prompt, names no base, or has no weights as safetensors.
    """
    card = read_json(folder / ADAPTER)
    if not isinstance(card, dict):
        raise UserError(f"{folder / ADAPTER}: holds a {type(card).__name__} and must hold a JSON object")
    peft, kind = _peft(), str(card.get("peft_type") or "LORA")
    known = {str(k.value): v for k, v in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if kind in known and issubclass(known[kind], peft.config.PromptLearningConfig):
        raise UserError(
            f"{folder}: is a soft prompt ({kind}), which comes before every prompt without being text; only adapters "
            "of weights can be used, such as LoRA"
        )
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise UserError(f"{folder}: the adapter has no {ADAPTER_WEIGHTS}; save it as safetensors")
    base = card.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise UserError(f"{folder}: the adapter names no base; set base_model_name_or_path in {ADAPTER}")
    path = Path(base).expanduser()
    places = [Path.cwd(), folder.resolve(), *folder.resolve().parents]
    return next((str(place / path) for place in places if (place / path).is_dir()), base)


def put_on(model: PreTrainedModel, folder: Path, base: str) -> PreTrainedModel:
    """The model with the adapter on top; the embedding gets the number of rows that the adapter brings.

    Raises:
        UserError: The adapter does not fit the model, or is of a kind that cannot be merged.
    """
    peft = _peft()
    try:
        with renamed_ignored(), safe_open(folder / ADAPTER_WEIGHTS, "pt") as weights:
            _resize(model, weights)
            wrapped = peft.PeftModel.from_pretrained(model, str(folder))
            fits = _is_loaded(wrapped, weights)
    except Exception as error:  # no such modules, others of their shape, a damaged file
        line = " ".join(str(error).split())[:100]
        raise UserError(
            f"{folder}: this adapter does not fit its base {base}; was it made for another? ({line})"
        ) from None
    if not fits:
        raise UserError(f"{folder}: this adapter does not fit its base {base}; was it made for another?")
    if not hasattr(wrapped.base_model, "merge_and_unload"):
        kind = wrapped.peft_config["default"].peft_type
        raise UserError(f"{folder}: an adapter of the kind {kind} cannot be merged into its base; use LoRA")
    return cast(PreTrainedModel, wrapped)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapter, if it has one, merged into its weights."""
    return cast(PreTrainedModel, cast(Any, model).merge_and_unload()) if has_adapter(model) else model


def with_lora(model: PreTrainedModel, path: str | Path, config: LoraConfig) -> PreTrainedModel:
    """The model with a new adapter, which names ``path`` as its base.

    Raises:
        UserError: A target module does not exist.
    """
    peft = _peft()
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.alpha,
        target_modules=config.target_modules,
        use_rslora=config.rslora,
        lora_dropout=0.0,
    )
    try:
        with renamed_ignored():
            wrapped = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise UserError(f"model.lora: {' '.join(str(error).split())[:160]}") from None
    # An absolute path, so that the adapter finds its base from wherever it is loaded.
    settings.base_model_name_or_path = str(Path(path).resolve() if Path(path).exists() else path)
    return cast(PreTrainedModel, wrapped.eval())


def _resize(model: PreTrainedModel, weights: Any) -> None:
    """Gives the embedding as many rows as that of the adapter has, if the adapter brings one."""
    embedding = cast(nn.Embedding, model.get_input_embeddings())
    name = next(name for name, module in model.named_modules() if module is embedding)
    key = f"{IN_FILE}{name}.weight"
    if key in weights.keys():  # noqa: SIM118  # safe_open is no mapping
        rows = weights.get_slice(key).get_shape()[0]
        if rows != embedding.num_embeddings:
            model.resize_token_embeddings(rows, mean_resizing=False)


def _is_loaded(wrapped: Any, weights: Any) -> bool:
    """Whether all weights of the adapter are in the model, and the model misses none."""
    peft = _peft()
    needed = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    present = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=True)
    stored = set(weights.keys())
    if not needed.keys() <= stored or not stored <= present.keys():
        return False
    return all(torch.equal(weights.get_tensor(k).to(present[k].dtype), present[k].cpu()) for k in stored)


def _peft() -> Any:
    """PEFT, which is optional."""
    try:
        import peft
    except ImportError:
        raise UserError("adapters need PEFT: pip install 'crypsis[peft]'") from None
    return peft


@contextmanager
def renamed_ignored() -> Iterator[None]:
    """Silences what transformers 5.23 says of gradient checkpointing's old name, which holds until 6."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
