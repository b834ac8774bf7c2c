"""Opening checkpoint folders and hub ids: whatever is wrong with them is said in one line.

Code that a checkpoint brings along (``auto_map``) never runs unless the config says so, and nobody is asked.
"""

from __future__ import annotations

import functools
import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from crypsis.parallel import out_of_memory
from crypsis.types import UserError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
LINE = 160
"""Characters of an error of another library that are shown."""


def local_path(name: str | Path) -> str:
    """A folder's path with ``~`` expanded, or a hub id as it is.

    Raises:
        UserError: It can only be a path, and nothing is there.
    """
    path = Path(name).expanduser()
    if path.exists():
        if not path.is_dir():
            raise UserError(f"{name}: is a file; name the checkpoint's folder")
        return str(path)
    if path.is_absolute() or str(name).startswith((".", "~")) or not HUB_ID.fullmatch(str(name)):
        raise UserError(f"{name}: no such folder")
    return str(name)


def open_tokenizer(name: str, remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder or hub id.

    Raises:
        UserError: There is none, or it is damaged.
    """
    with _in_one_line(name, "has no tokenizer that can be read"):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=remote_code)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise UserError(f"{name}: has no tokenizer")
        if len(tokenizer) == 0 or not tokenizer("a b", add_special_tokens=False)["input_ids"]:
            raise UserError(f"{name}: the tokenizer has no vocabulary; is tokenizer.json damaged?")
    return tokenizer


def open_causal_lm(name: str, dtype: torch.dtype, remote_code: bool = False) -> PreTrainedModel:
    """The causal language model of a checkpoint folder or hub id, on the CPU.

    Raises:
        UserError: There is none, it is damaged, or it needs code of its own.
    """
    with _in_one_line(name, "cannot be loaded as a model"):
        return cast(
            PreTrainedModel, AutoModelForCausalLM.from_pretrained(name, dtype=dtype, trust_remote_code=remote_code)
        )


def open_classifier(name: str, dtype: torch.dtype, purpose: str, **settings: Any) -> PreTrainedModel:
    """The sequence classifier of a checkpoint folder or hub id, on the CPU.

    Args:
        name: Folder or hub id.
        dtype: Type of the weights.
        purpose: What it is to be, for the message: "a reward model".
        settings: More arguments of ``from_pretrained``.

    Raises:
        UserError: There is none, it is damaged, or it needs code of its own.
    """
    with _in_one_line(name, f"cannot be loaded as {purpose}"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=dtype, trust_remote_code=False, **settings
        )
    return model


@contextmanager
def _in_one_line(name: str, what: str) -> Iterator[None]:
    """Turns what transformers raises into a line; what damaged files make it raise has no bounds."""
    try:
        _check_config(name)
        if _is_hub_id(name):
            _stay_offline_without_network()
        yield
    except UserError:
        raise
    except SafetensorError:
        raise UserError(f"{name}: the weights are damaged; delete the folder and build or download it again") from None
    except Exception as error:  # tokenizers raises plain Exception
        if out_of_memory(error):
            raise UserError(f"{name}: does not fit into memory; use a smaller model or model.dtype=bfloat16") from None
        line = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in line or "custom code" in line:
            line = "it brings code of its own; set model.trust_remote_code: true in the run's config to run that code"
        elif _is_hub_id(name) and isinstance(error, OSError):
            line = "there is no such folder, and the hub does not give it (no such model, no network, or no access)"
        raise UserError(f"{name}: {what}: {line[:LINE]}") from None


def _is_hub_id(name: str) -> bool:
    return not Path(name).exists() and HUB_ID.fullmatch(name) is not None


@functools.cache
def _stay_offline_without_network() -> None:
    """Without a network the hub's library tries for a minute; offline, it opens what is cached at once."""
    hub = urlsplit(constants.ENDPOINT)
    if constants.is_offline_mode() or urllib.request.getproxies():
        return
    try:
        socket.getaddrinfo(hub.hostname, hub.port or 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True


def _check_config(name: str) -> None:
    """Refuses a config.json that is no JSON object."""
    file = Path(name) / "config.json"
    if not file.exists():
        return
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{file}: is damaged (no valid JSON)") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__} and must hold a JSON object")
