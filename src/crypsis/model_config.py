"""How a policy is loaded for training."""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import Field, field_validator

from crypsis.config import Config

Thinking = Literal["drop", "scratchpad"]


class LoraConfig(Config):
    """Low-rank adapters (Hu et al. 2022) through PEFT; needs ``pip install 'crypsis[peft]'``.

    There is no dropout: with it, what is trained would not be the policy that was sampled.
    """

    r: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Names of the layers that get an adapter; all linear layers but the head by default (Dettmers et al. 2023)."""
    rslora: bool = False
    """Scale by alpha / √r instead of alpha / r (Kalajdzievski 2023)."""


class SavedChat(Config):
    """How a chat template is used."""

    template: dict[str, bool | int | float | str] = {}
    """What the chat template is given beside the messages, such as ``enable_thinking: false``."""
    date: str = "2026-01-01"
    """What chat templates that print today's date print instead (ISO format), so that prompts stay the same."""
    thinking: Thinking = "drop"
    """The ``<think>…</think>`` that a reply begins with is taken off before the reply is parsed, or taken as its
    ``scratchpad``."""

    @field_validator("date")
    @classmethod
    def _is_date(cls, value: str) -> str:
        datetime.date.fromisoformat(value)
        return value


class ModelConfig(SavedChat):
    """Precision, memory and adapters."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; ``auto`` measures which is faster, once, and a run keeps it. Trained weights stay
    in float32, where small steps are not rounded away."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` is the GPU if there is one."""
    gradient_checkpointing: bool = False
    """Computes activations twice and holds those of one layer at a time."""
    lora: LoraConfig | None = None
    """The adapters to train; None trains all weights."""
    trust_remote_code: bool = False
    """Runs the Python code that a checkpoint brings along (``auto_map``): only for checkpoints that you trust."""
