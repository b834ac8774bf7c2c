"""A reward model from the hub as the preference model of real requests: a sequence classifier with one output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crypsis.pretrained.chat_template import ChatTemplate
from crypsis.pretrained.checks import check_vocabulary, check_weights
from crypsis.pretrained.opening import local_path, open_classifier, open_tokenizer
from crypsis.run_config import PreferenceConfig
from crypsis.types import Message, UserError


class RewardModel:
    """Scores outputs for requests, as a chat of two turns without system text, tier or scratchpad (paper §4)."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: PreferenceConfig) -> None:
        self._model, self._tokenizer, self._config = model, tokenizer, config
        context = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or config.max_length)
        self._longest = min(config.max_length, context)
        self._chat = ChatTemplate()

    def score(self, requests: Sequence[str], outputs: Sequence[str]) -> list[float]:
        """``scale * (logit - offset)`` of each output for its request; a request that is too long is cut at its end.

        Raises:
            UserError: An output does not fit even without its request.
        """
        rows = [self._ids(request, output) for request, output in zip(requests, outputs, strict=True)]
        # Without a padding token the classifier cannot tell where a row of a batch ends.
        size = 1 if self._model.config.pad_token_id is None else self._config.batch_size
        return [score for i in range(0, len(rows), size) for score in self._scores(rows[i : i + size])]

    def _scores(self, rows: list[list[int]]) -> list[float]:
        width, pad = max(map(len, rows)), self._model.config.pad_token_id or 0
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=self._model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask).logits
        return [self._config.scale * (float(logit) - self._config.offset) for logit in logits[:, 0].float()]

    def _ids(self, request: str, output: str) -> list[int]:
        """Token ids of the chat; never is the output cut."""
        ids = self._tokens(request, output)
        if len(ids) <= self._longest:
            return ids
        if len(self._tokens("", output)) > self._longest:
            raise UserError(
                f"preference: {self._config.model}: an answer of {len(self._plain(output))} tokens does not fit into "
                f"{self._longest}; raise preference.max_length or lower rl.max_new_tokens"
            )
        tokens = self._plain(request)
        low, high = 0, len(tokens)  # so many tokens of the request fit, and so many do not
        while high - low > 1:
            middle = (low + high) // 2
            if len(self._tokens(str(self._tokenizer.decode(tokens[:middle])), output)) <= self._longest:
                low = middle
            else:
                high = middle
        return self._tokens(str(self._tokenizer.decode(tokens[:low])), output)

    def _tokens(self, request: str, output: str) -> list[int]:
        turns = [Message("user", request), Message("assistant", output)]
        return self._plain(self._chat.text(self._tokenizer, turns, reply=False))

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def load_reward_model(config: PreferenceConfig, device: str) -> RewardModel:
    """Loads a checkpoint folder or hub id; on a GPU in bfloat16.

    Args:
        config: Which one.
        device: ``auto`` (the GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        UserError: It cannot be loaded, has not exactly one output, or its chat template is missing or drops a turn.
    """
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    dtype = torch.bfloat16 if place == "cuda" else torch.float32
    where = f"preference: {config.model}"
    try:
        name = local_path(config.model)
        tokenizer = open_tokenizer(name)
        model = open_classifier(name, dtype, "a reward model")
        check_weights(model, name)
        check_vocabulary(model, tokenizer, name)
    except UserError as error:
        raise UserError(f"preference: {error}") from None
    if tokenizer.chat_template is None:
        raise UserError(f"{where}: the tokenizer has no chat template")
    try:
        lost = ChatTemplate().lost(tokenizer, ["user", "assistant"], reply=False)
    except Exception as error:  # what a template's own code raises
        raise UserError(f"{where}: the chat template fails: {' '.join(str(error).split())[:120]}") from None
    if lost:
        raise UserError(f"{where}: the chat template drops the text of the {lost[0]}'s turn")
    if model.config.num_labels != 1:
        raise UserError(f"{where}: has {model.config.num_labels} outputs; a reward model has one")
    if model.config.pad_token_id is None:  # the classifier looks for the last token that is no padding
        model.config.pad_token_id = tokenizer.pad_token_id
    return RewardModel(model.to(place).eval(), tokenizer, config)  # type: ignore[arg-type]  # wrapped Module.to
