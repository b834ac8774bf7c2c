"""Loading and saving policies: Hugging Face checkpoints and PEFT adapters, their tokenizer and chat template."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub.errors import HFValidationError
from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.logging import disable_progress_bar

from crypsis.model_config import LoraConfig, ModelConfig
from crypsis.store import file_digest, new_folder, read_json
from crypsis.types import Message, UserError

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
disable_progress_bar()  # ours show the work; a bar for each loaded file hides them


@dataclass(frozen=True, slots=True)
class Policy:
    """A causal language model with its tokenizer.

    Attributes:
        model: The model; with an adapter a ``peft.PeftModel``, which passes attributes on to the model below.
        tokenizer: With a chat template.
        autocast: Type of matrix products if it is not that of the weights.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    autocast: torch.dtype | None = None

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
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    def render(self, messages: Sequence[Message], prefill: str = "") -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn (which may begin with ``prefill``)."""
        text = self.text(messages) + prefill
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def text(self, messages: Sequence[Message]) -> str:
        """A conversation in the chat template, with the assistant's turn opened."""
        try:
            return self._template(messages)
        except TemplateError:  # templates such as Gemma 2's refuse a system turn
            if len(messages) < 2 or messages[0].role != "system":
                raise
            system, user, *rest = messages
            return self._template([Message(user.role, f"{system.content}\n\n{user.content}"), *rest])

    def _template(self, messages: Sequence[Message]) -> str:
        chat = [{"role": m.role, "content": m.content} for m in messages]
        rendered = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert isinstance(rendered, str)
        return rendered


def load_policy(path: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Policy:
    """Loads a checkpoint folder, an adapter folder (on the base that it names) or a hub id.

    Raises:
        UserError: It is no model, its weights are damaged, or its tokenizer has no chat template.
    """
    name = str(path)
    local = Path(name)
    adapter = (local / ADAPTER).exists()
    if local.exists() and not adapter and not (local / "config.json").exists():
        raise UserError(f"{name}: is no model folder (it has neither config.json nor {ADAPTER})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = _load_adapter(local, dtype) if adapter else AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except SafetensorError:
        raise UserError(f"{name}: the weights are damaged; delete the folder and build or download it again") from None
    except (OSError, ValueError, RuntimeError, HFValidationError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{name}: cannot be loaded as a model: {line[:160]}") from None
    if tokenizer.chat_template is None:
        raise UserError(f"{name}: the tokenizer has no chat template; add a chat_template.jinja to the folder")
    return Policy(model.to(device).eval(), tokenizer)  # type: ignore[arg-type]  # of the wrapped Module.to


def load_trainable(path: str | Path, config: ModelConfig) -> Policy:
    """Loads a policy to train it, all of it or a new adapter; an adapter that it has is merged into its base.

    Raises:
        UserError: As ``load_policy``; no such device, PEFT is not installed, or a target module does not exist.
    """
    device = _device(config.device)
    low = torch.bfloat16 if config.dtype == "bfloat16" else None
    policy = load_policy(path, low if low and config.lora else torch.float32, device)
    model = _merged(policy.model).requires_grad_(config.lora is None)
    if config.lora:
        model = _with_lora(model, path, config.lora)
    if config.gradient_checkpointing:
        _checkpoint_activations(model, str(path))
    return replace(policy, model=model, autocast=None if config.lora else low)


def has_adapter(model: nn.Module) -> bool:
    """Whether this is a ``peft.PeftModel``."""
    return not isinstance(model, PreTrainedModel)


def save_policy(policy: Policy, folder: Path) -> None:
    """Writes an ordinary Hugging Face checkpoint or adapter folder, atomically."""
    with new_folder(folder) as target:
        if has_adapter(policy.model):
            # Embeddings are not trained; left to itself PEFT asks the hub for the base to find that out.
            cast("PeftModel", policy.model).save_pretrained(str(target), save_embedding_layers=False)
        else:
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


def _device(wanted: str) -> str:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device: no GPU that torch can use; set it to cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _peft() -> Any:
    """PEFT, which is optional."""
    try:
        import peft
    except ImportError:
        raise UserError("adapters need PEFT: pip install 'crypsis[peft]'") from None
    return peft


def _load_adapter(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The base that an adapter names, with the adapter on top."""
    peft, base = _peft(), read_json(folder / ADAPTER).get("base_model_name_or_path")
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise UserError(f"{folder}: the adapter has no {ADAPTER_WEIGHTS}; save it as safetensors")
    if not base:
        raise UserError(f"{folder}: the adapter names no base; set base_model_name_or_path in {ADAPTER}")
    try:
        model = _merged(load_policy(base, dtype).model)
    except UserError as error:
        raise UserError(f"{folder}: the base of this adapter: {error}") from None
    try:
        with _renamed_ignored(), safe_open(folder / ADAPTER_WEIGHTS, "pt") as weights:
            wrapped = peft.PeftModel.from_pretrained(model, str(folder))
            fits = set(weights.keys()) == set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    except (ValueError, RuntimeError):  # no such modules, or others of their shape
        fits = False
    if not fits:
        raise UserError(f"{folder}: this adapter does not fit its base {base}; was it made for another?")
    return cast(PreTrainedModel, wrapped)


def _merged(model: PreTrainedModel) -> PreTrainedModel:
    return cast(Any, model).merge_and_unload() if has_adapter(model) else model


def _with_lora(model: PreTrainedModel, path: str | Path, config: LoraConfig) -> PreTrainedModel:
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
        with _renamed_ignored():
            wrapped = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise UserError(f"model.lora: {' '.join(str(error).split())[:160]}") from None
    # An absolute path, so that the adapter finds its base from wherever it is loaded.
    settings.base_model_name_or_path = str(Path(path).resolve() if Path(path).exists() else path)
    return cast(PreTrainedModel, wrapped.eval())


def _checkpoint_activations(model: PreTrainedModel, name: str) -> None:
    """Turns checkpointing on; transformers asks the layers, and the layers alone, to be in training mode for it."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"{name}: this architecture cannot checkpoint activations; unset model.gradient_checkpointing")
    with _renamed_ignored():
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True  # not train(), which would also turn on dropout below


@contextmanager
def _renamed_ignored() -> Iterator[None]:
    """Silences what transformers 5.23 says of gradient checkpointing's old name, which holds until 6."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
