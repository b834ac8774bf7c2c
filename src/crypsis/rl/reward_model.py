"""A reward model from the hub as the preference model of real requests: a sequence classifier with one output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from crypsis.run_config import PreferenceConfig
from crypsis.types import UserError


class RewardModel:
    """Scores outputs for requests, as a chat of two turns without system text, tier or scratchpad (paper §4)."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: PreferenceConfig) -> None:
        self._model, self._tokenizer, self._config = model, tokenizer, config

    def score(self, requests: Sequence[str], outputs: Sequence[str]) -> list[float]:
        """``scale * (logit - offset)`` of each output for its request."""
        texts = [self._chat(request, output) for request, output in zip(requests, outputs, strict=True)]
        size = self._config.batch_size
        return [score for i in range(0, len(texts), size) for score in self._scores(texts[i : i + size])]

    def _scores(self, texts: list[str]) -> list[float]:
        batch = self._tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self._config.max_length,
            add_special_tokens=False,
            return_tensors="pt",
        ).to(self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return [self._config.scale * (float(logit) - self._config.offset) for logit in logits[:, 0].float()]

    def _chat(self, request: str, output: str) -> str:
        turns = [{"role": "user", "content": request}, {"role": "assistant", "content": output}]
        text = self._tokenizer.apply_chat_template(turns, tokenize=False)
        assert isinstance(text, str)
        return text


def load_reward_model(config: PreferenceConfig, device: str) -> RewardModel:
    """Loads a checkpoint folder or hub id; on a GPU in bfloat16.

    Args:
        config: Which one.
        device: ``auto`` (the GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        UserError: It cannot be loaded, has no chat template, or has not exactly one output.
    """
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    dtype = torch.bfloat16 if place == "cuda" else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model)
        model = AutoModelForSequenceClassification.from_pretrained(config.model, dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError, HFValidationError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"preference: {config.model}: cannot be loaded as a reward model: {line[:160]}") from None
    if tokenizer.chat_template is None:
        raise UserError(f"preference: {config.model}: the tokenizer has no chat template")
    if model.config.num_labels != 1:
        raise UserError(f"preference: {config.model}: has {model.config.num_labels} outputs; a reward model has one")
    if model.config.pad_token_id is None:  # the classifier looks for the last token that is no padding
        model.config.pad_token_id = tokenizer.pad_token_id
    return RewardModel(model.to(place).eval(), tokenizer, config)
