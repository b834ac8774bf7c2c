"""Loading and saving policies: Hugging Face checkpoints and PEFT adapters, their tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.logging import disable_progress_bar

from crypsis.config import parse_config
from crypsis.digests import LEDGER, DamagedError, damages, record
from crypsis.model_config import ModelConfig, SavedChat
from crypsis.pretrained.adapters import (
    ADAPTER,
    adapter_base,
    has_adapter,
    is_adapter,
    merged,
    put_on,
    renamed_ignored,
    with_lora,
)
from crypsis.pretrained.chat_template import CLOSED, ChatTemplate, fitting_chat
from crypsis.pretrained.checks import check_architecture, check_vocabulary, check_weights
from crypsis.pretrained.fitting import TRAINED_BYTES, check_fits
from crypsis.pretrained.opening import local_path, open_causal_lm, open_tokenizer
from crypsis.pretrained.precision import check_dtype, device_of, settled
from crypsis.store import CONFIG, new_folder, read_json
from crypsis.types import Message, UserError

if TYPE_CHECKING:
    from peft import PeftModel

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
CHAT = "crypsis_chat.json"
"""Beside the weights: settings of the chat template that are not the defaults, so that all commands use them."""
disable_progress_bar()  # ours show the work; a bar for each loaded file hides them


@dataclass(frozen=True, slots=True)
class Policy:
    """A causal language model with its tokenizer.

    Attributes:
        model: The model; with an adapter a ``peft.PeftModel``, which passes attributes on to the model below.
        tokenizer: With a chat template.
        autocast: Type of matrix products if it is not that of the weights.
        chat: How conversations become text.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    autocast: torch.dtype | None = None
    chat: ChatTemplate = field(default_factory=ChatTemplate)

    @property
    def context(self) -> int:
        """Longest sequence in tokens that the model takes."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 30))

    def computing(self) -> AbstractContextManager[Any]:
        """Within it forward passes have the policy's precision; leave it before an optimiser's step."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.model.device.type, self.autocast)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an assistant's turn."""
        found = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = found if isinstance(found, list) else [found]
        own = self.chat.turn_end[-1:]
        return frozenset(i for i in (*ids, *own, self.tokenizer.eos_token_id) if i is not None)

    @property
    def turn_end(self) -> list[int]:
        """Token ids that a reply is taught to end with: those of the chat template, or the tokenizer's end token.

        Raises:
            UserError: There is neither.
        """
        if self.chat.turn_end:
            return list(self.chat.turn_end)
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"{self.tokenizer.name_or_path}: neither the chat template nor the tokenizer names a token that ends "
                "a reply; set eos_token in its tokenizer_config.json"
            )
        return [self.tokenizer.eos_token_id]

    def render(self, messages: Sequence[Message], prefill: str = "", given: bool = False) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn.

        Args:
            messages: The turns so far.
            prefill: What the assistant's turn begins with.
            given: Whether the reply is a given one: a thought that the template opens is then closed, as for a prefill.
        """
        text = self.text(messages)
        if self.chat.opens_thought and (given or prefill):
            text = text.rstrip() + CLOSED
        text += prefill
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def text(self, messages: Sequence[Message]) -> str:
        """A conversation in the chat template, with the assistant's turn opened.

        Raises:
            UserError: The template drops an earlier reply or what was asked next.
        """
        roles = [m.role for m in messages]
        if "assistant" in roles and (lost := self.chat.lost(self.tokenizer, roles)):
            raise UserError(f"{self.tokenizer.name_or_path}: the chat template drops the text of a turn ({lost[0]})")
        return self.chat.text(self.tokenizer, messages)


def load_policy(
    path: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu", config: ModelConfig | None = None
) -> Policy:
    """Loads a checkpoint folder, an adapter folder (on the base that it names) or a hub id.

    Args:
        path: Which.
        dtype: Type of the weights.
        device: Where they go.
        config: What the chat template is given, and whether the checkpoint's own code may run.

    Raises:
        UserError: It is no model or does not fit into memory, its weights are damaged, its tokenizer or chat template
            does not fit, or its architecture cannot be sampled from.
    """
    config = config or ModelConfig()
    name = local_path(path)
    smaller = "take a smaller one" if dtype == torch.bfloat16 else "take a smaller one or bfloat16"
    check_fits(path, dtype.itemsize, device, f"weights in {str(dtype).removeprefix('torch.')}", smaller)
    model, tokenizer = _open(name, dtype, config.trust_remote_code)
    check_vocabulary(model, tokenizer, name)
    chat = fitting_chat(tokenizer, name, _chat_settings(name, config))
    placed = model.to(device).eval()  # type: ignore[arg-type]  # of the wrapped Module.to
    return Policy(placed, tokenizer, chat=chat)


def _chat_settings(name: str, config: ModelConfig) -> ChatTemplate:
    """The settings of a checkpoint's chat template: those saved with it, and over them the config's."""
    file = Path(name) / CHAT
    saved = parse_config(SavedChat, read_json(file), str(file)) if file.exists() else SavedChat()
    given = config.model_fields_set
    return ChatTemplate(
        {**saved.template, **config.template},
        config.date if "date" in given else saved.date,
        config.thinking if "thinking" in given else saved.thinking,
    )


def _open(name: str, dtype: torch.dtype, remote_code: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a checkpoint, checked."""
    folder = Path(name)
    _check_whole(folder)
    if is_adapter(folder):
        base = adapter_base(folder)
        try:
            below, tokenizer = _open(local_path(base), dtype, remote_code)
        except UserError as error:
            raise UserError(f"{folder}: the base of this adapter: {error}") from None
        model = put_on(merged(below), folder, base)
        check_weights(model, name)
        return model, _adapter_tokenizer(name, tokenizer, remote_code)
    if folder.exists() and not (folder / "config.json").exists():
        raise UserError(f"{name}: is no model folder (it has neither config.json nor {ADAPTER})")
    tokenizer = open_tokenizer(name, remote_code)
    model = open_causal_lm(name, dtype, remote_code).eval()
    check_weights(model, name)
    check_architecture(model, name)
    return model, tokenizer


def _adapter_tokenizer(name: str, base: PreTrainedTokenizerBase, remote_code: bool) -> PreTrainedTokenizerBase:
    """The adapter's own tokenizer, or that of its base; the same of the chat template."""
    if not any((Path(name) / file).exists() for file in TOKENIZER_FILES):
        return base
    tokenizer = open_tokenizer(name, remote_code)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = base.chat_template
    return tokenizer


def load_frozen(path: str | Path, config: ModelConfig) -> Policy:
    """Loads a policy to sample from it, its weights in the config's precision on the config's device.

    Raises:
        UserError: As ``load_policy``, or there is no such device, or it lacks the type.
    """
    config, device = settled(path, config), device_of(config.device)
    check_dtype(config.dtype, device)
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    return load_policy(path, dtype, device, config)


def load_trainable(path: str | Path, config: ModelConfig) -> Policy:
    """Loads a policy to train it, all of it or a new adapter; an adapter that it has is merged into its base.

    Raises:
        UserError: As ``load_policy``; no such device or type, PEFT is not installed, or a target module does not exist.
    """
    config, device = settled(path, config), device_of(config.device)
    check_dtype(config.dtype, device)
    low = torch.bfloat16 if config.dtype == "bfloat16" else None
    if not config.lora:
        held = "weights, gradients and AdamW's moments in float32"
        check_fits(
            path, TRAINED_BYTES, device, held, "set model.lora={} and model.dtype=bfloat16, or take a smaller one"
        )
    policy = load_policy(path, low if low and config.lora else torch.float32, device, config)
    model = merged(policy.model).requires_grad_(config.lora is None)
    if config.lora:
        model = with_lora(model, local_path(path), config.lora)
    if config.gradient_checkpointing:
        _checkpoint_activations(model, str(path))
    return replace(policy, model=model, autocast=None if config.lora else low)


def save_policy(policy: Policy, folder: Path) -> None:
    """Writes an ordinary Hugging Face checkpoint or adapter folder, atomically."""
    with new_folder(folder) as target:
        if has_adapter(policy.model):
            # Embeddings are not trained; left to itself PEFT asks the hub for the base to find that out.
            cast("PeftModel", policy.model).save_pretrained(str(target), save_embedding_layers=False)
        else:
            policy.model.save_pretrained(target)
        policy.tokenizer.save_pretrained(target)
        chat = policy.chat
        settings = SavedChat(template=dict(chat.arguments), date=chat.date, thinking=chat.thinking)
        if settings != SavedChat():
            (target / CHAT).write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
        record(target, *(path for path in target.rglob("*") if path.is_file()))


def _check_whole(folder: Path) -> None:
    """Refuses a checkpoint that is not as ``save_policy`` left it; there is nothing to compare for one from elsewhere.

    Raises:
        DamagedError: A file is damaged or lost.
    """
    bad = damages(folder, deep=True)
    if bad:
        raise DamagedError(bad[0], f"{_make_again(folder)}; or delete {LEDGER} if the change was meant")


def _make_again(folder: Path) -> str:
    """What to do about a damaged checkpoint; one of ours lies in the folder of what was built."""
    whole = folder.parent if (folder.parent / CONFIG).exists() else folder
    return f"delete the folder {whole} and build or download it again"


def check_length(prompts: Sequence[Sequence[int]], new_tokens: int, context: int) -> None:
    """Refuses prompts that leave no room to answer.

    Raises:
        UserError: The longest prompt with its completion does not fit the context.
    """
    longest = max(map(len, prompts), default=0)
    if longest + new_tokens > context:
        raise UserError(
            f"the longest prompt has {longest} tokens and with {new_tokens} new ones does not fit the model's context "
            f"of {context}; lower max_new_tokens or shorten the scenario"
        )


def _checkpoint_activations(model: PreTrainedModel, name: str) -> None:
    """Turns checkpointing on; transformers asks the layers, and the layers alone, to be in training mode for it."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"{name}: this architecture cannot checkpoint activations; unset model.gradient_checkpointing")
    with renamed_ignored():
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True  # not train(), which would also turn on dropout below
