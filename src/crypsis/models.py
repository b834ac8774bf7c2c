"""Loading and saving policies: plain Hugging Face checkpoints, their tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from crypsis.store import file_digest, new_folder
from crypsis.types import Message, UserError

disable_progress_bar()  # ours show the work; a bar for each loaded file hides them


@dataclass(frozen=True, slots=True)
class Policy:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def context(self) -> int:
        """Longest sequence in tokens that the model takes."""
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 30))

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an assistant's turn."""
        found = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = found if isinstance(found, list) else [found]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    def render(self, messages: Sequence[Message], prefill: str = "") -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn (which may begin with ``prefill``)."""
        text = self.text(messages) + prefill
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def text(self, messages: Sequence[Message]) -> str:
        """A conversation in the chat template, with the assistant's turn opened."""
        chat = [{"role": m.role, "content": m.content} for m in messages]
        rendered = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert isinstance(rendered, str)
        return rendered


def load_policy(path: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Policy:
    """Loads a checkpoint folder or hub id.

    Raises:
        UserError: It is no model, its weights are damaged, or its tokenizer has no chat template.
    """
    name = str(path)
    local = Path(name)
    if local.exists() and not (local / "config.json").exists():
        raise UserError(f"{name}: is no model folder (it has no config.json)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except SafetensorError:
        raise UserError(f"{name}: the weights are damaged; delete the folder and build or download it again") from None
    except (OSError, ValueError, HFValidationError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{name}: cannot be loaded as a model: {line[:160]}") from None
    if tokenizer.chat_template is None:
        raise UserError(f"{name}: the tokenizer has no chat template; add a chat_template.jinja to the folder")
    return Policy(model.to(device).eval(), tokenizer)  # type: ignore[arg-type]  # of the wrapped Module.to


def save_policy(policy: Policy, folder: Path) -> None:
    """Writes an ordinary Hugging Face checkpoint, atomically."""
    with new_folder(folder) as target:
        policy.model.save_pretrained(target)
        policy.tokenizer.save_pretrained(target)


def policy_digest(path: str | Path) -> str:
    """Digest of a checkpoint's weights and tokenizer; the name itself for a hub id."""
    folder = Path(path)
    if not folder.is_dir():
        return str(path)
    return file_digest(sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".json", ".jinja"}))


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
