"""Frozen configs: YAML in, `a.b=c` overrides, unknown keys fail with a did-you-mean."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from annotated_types import Le, Lt
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function

from crypsis.textfiles import read_text
from crypsis.types import UserError, distinct_names, safe_name, visible

MOST = 1_000_000
"""The largest whole number that a config may ask for, unless the field has a limit of its own: what a machine holds."""
MOST_SEED = 2**32 - 1
"""The largest seed that numpy takes."""
LARGEST = 1e9
"""The largest number with decimals."""
FILE_BYTES, DEPTH, NODES, DIGITS = 1_000_000, 40, 100_000, 30
"""Limits of a YAML file: its size, nesting, values with every alias written out, and digits of a whole number."""
LINE = 600
"""The longest line about a fault of a config."""
_SECRET_KEY = re.compile(r"(?:^|[_-])(?:api[_-]?key|secret|password|token|credentials?|authorization)$", re.IGNORECASE)
_SECRET = re.compile(r"^(?:sk-|hf_|ghp_|AIza)[\w-]{16,}$|://[^/@\s]+:[^/@\s]+@")


class Config(BaseModel):
    """Base of every config: immutable; unknown keys and numbers beyond the limits are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _within_limits(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        field = cls.model_fields.get(name)
        own = field is not None and any(isinstance(limit, Le | Lt) for limit in field.metadata)
        _check_limits(value, name, own)
        return value


def _check_limits(value: Any, name: str, own: bool = False) -> None:
    """Refuses numbers beyond the limits and texts that no file can hold, also inside lists and groups of settings."""
    if isinstance(value, str | Path):
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in str(value)):
            raise ValueError("must not have a NUL character or half a surrogate pair")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _check_limits(str(key), name)
            _check_limits(part, str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            _check_limits(part, name)
    elif isinstance(value, int) and not own:
        least, most = (0, MOST_SEED) if name in ("seed", "seeds") else (-MOST, MOST)
        if not least <= value <= most:
            raise ValueError(f"must be between {least} and {most}")
    elif isinstance(value, float) and not (math.isfinite(value) and (own or abs(value) <= LARGEST)):
        raise ValueError(f"must be a finite number of at most {LARGEST:g}")


def _checked(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The check of a name as pydantic calls it."""

    def validator(value: Any) -> Any:
        try:
            check(value)
        except UserError as error:
            raise ValueError(str(error)) from None
        return value

    return validator


V = TypeVar("V")
Name = Annotated[str, AfterValidator(_checked(safe_name))]
"""A name that becomes a part of a path."""
MaybeName = Annotated[str, AfterValidator(_checked(lambda name: name and safe_name(name)))]
"""The same, or empty."""
Named = Annotated[dict[str, V], AfterValidator(_checked(distinct_names))]
"""Things by name, each of which lies in a folder of that name."""


@dataclass(frozen=True, slots=True)
class Content:
    """Marks a field whose text may name something that counts by what it holds, as in ``Annotated[str, Content()]``.

    Fields of the type ``Path`` need no mark, unless they can also be hub ids. A leading ``~`` is the home folder.

    Attributes:
        kind: A ``model`` or ``dataset`` (a folder, a file or a hub id), or only a ``file``.
        training: Whether it is only needed to train, and not to use what was trained.
    """

    kind: Literal["model", "dataset", "file"] = "model"
    training: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The field's own schema, followed by the expansion of ``~``."""
        return no_info_after_validator_function(_at_home, handler(source))


def _at_home(value: Any) -> Any:
    return type(value)(Path(value).expanduser()) if isinstance(value, str | Path) and str(value)[:1] == "~" else value


C = TypeVar("C", bound=BaseModel)


def parse_config(cls: type[C], data: Mapping[str, Any], where: str) -> C:
    """Builds a config, turning pydantic's report into one line.

    Args:
        cls: The config class.
        data: Keys and values as read from YAML or the command line.
        where: File or command that the data came from, for the message.

    Raises:
        UserError: The first fault, with its place and what would be valid; an API key among the settings, which would
            end up in every stored config, is one.
    """
    if place := _secret(data):
        raise UserError(
            f"{where}: {visible(place)}: looks like a secret, and configs are stored and shared; leave it out and set "
            "the provider's environment variable (such as OPENAI_API_KEY)"
        )
    try:
        return cls.model_validate(dict(data))
    except ValidationError as error:
        line = visible(" ".join(_first_fault(cls, error, where).split()))
        raise UserError(line if len(line) <= LINE else f"{line[:LINE]}…") from None


def _secret(value: Any, place: str = "") -> str:
    """The place of the first setting that looks like a secret; empty if there is none."""
    if isinstance(value, str):
        named = bool(value) and _SECRET_KEY.search(place.rpartition(".")[2]) is not None
        return place if named or _SECRET.search(value) else ""
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)  # type: ignore[assignment]  # keys of either kind
    else:
        return ""
    return next(filter(None, (_secret(part, f"{place}.{key}" if place else str(key)) for key, part in parts)), "")


def load_config(cls: type[C], path: Path, overrides: Sequence[str] = ()) -> C:
    """Reads a YAML file, applies `a.b=c` overrides and validates.

    Raises:
        UserError: The file is missing, is no YAML mapping, or does not fit the config.
    """
    return parse_config(cls, apply_overrides(read_yaml(path), overrides), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: The file is missing, too large, or holds no mapping.
    """
    try:
        if path.stat().st_size > FILE_BYTES:
            raise UserError(f"{path}: is no config: it has more than {FILE_BYTES} bytes")
        data = parse_yaml(read_text(path, "config file"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold a mapping of settings, found {type(data).__name__}")
    return data


def parse_yaml(text: str) -> Any:
    """What a YAML text holds: mappings, lists, texts, numbers, booleans and null, in bounded time and memory.

    Dates stay texts. A key that stands twice is an error (the first would be lost without a word), and so are other
    tags, whole numbers of more than ``DIGITS`` digits, and nesting and aliases beyond the limits.

    Raises:
        yaml.YAMLError: The text is no such YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except (ValueError, KeyError, OverflowError, RecursionError) as error:
        raise yaml.YAMLError(f"a value does not fit its tag ({error})") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}
        self._total = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node, refused where it is too deep, too large with its aliases, or contains itself."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > DEPTH:
            raise yaml.composer.ComposerError(None, None, f"is nested deeper than {DEPTH}", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if alias and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias stands for what contains it", mark)
        if node is not None and not alias:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in _parts(node))
        if node is not None and self._sizes[id(node)] > NODES:
            raise yaml.composer.ComposerError(None, None, f"its aliases stand for more than {NODES} values", mark)
        return node


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    known: set[Any] = set()
    for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
            continue
        if key_node.value in known:
            raise yaml.constructor.ConstructorError(
                None, None, f"'{key_node.value}' is there twice", key_node.start_mark
            )
        known.add(key_node.value)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    try:
        if len(node.value) <= DIGITS:
            return loader.construct_yaml_int(node)
    except ValueError:
        pass
    raise yaml.constructor.ConstructorError(None, None, f"a number of at most {DIGITS} digits", node.start_mark)


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _refused(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
    raise yaml.constructor.ConstructorError(None, None, f"the tag !!{tag} has no use here", node.start_mark)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _text)
for _tag in ("binary", "omap", "pairs", "set"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _refused)


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of ``data`` with each ``a.b=c`` set; values are read as YAML.

    Raises:
        UserError: An override is not of the form ``a.b=c``.
    """
    result: dict[str, Any] = json.loads(json.dumps(data))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"override '{override}': write it as key=value, for example rl.steps=30")
        node = result
        *parents, last = key.split(".")
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise UserError(f"override '{override}': '{parent}' is not a group of settings")
        try:
            node[last] = parse_yaml(text)
        except yaml.YAMLError:
            raise UserError(f"override '{override}': the value cannot be read") from None
    return result


def dump_yaml(config: BaseModel) -> str:
    """The resolved config as YAML, every default written out."""
    return dump_plain(config.model_dump(mode="json"))


def dump_plain(settings: Mapping[str, Any]) -> str:
    """Plain settings as YAML."""
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)


def digest(value: BaseModel | Mapping[str, Any] | Sequence[Any] | str) -> str:
    """First 16 hex digits of the SHA-256 of a value's canonical JSON."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = plain if isinstance(plain, str) else json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?`` or the known words, to end an error line with."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(known))}"


def _first_fault(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    fault = error.errors()[0]
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        key = str(fault["loc"][-1])
        fields = _fields_at(cls, fault["loc"][:-1])
        return f"{where}: unknown key '{path}'{did_you_mean(key, fields)}"
    found = "" if fault["type"] == "missing" else f", found {_shown(fault.get('input'))}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {path or 'config'}: {message[:1].lower()}{message[1:]}{found}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # of an integer with thousands of digits
        text = f"a {type(value).__name__} with a number too long to show"
    return text if len(text) <= 60 else text[:57] + "…"


def _fields_at(cls: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    choices: list[type[BaseModel]] = [cls]
    for part in path:
        if len(choices) > 1:  # one of several by its name, which stands in the path
            choices = [c for c in choices if c.model_fields["name"].default == part] or choices
            continue
        field = choices[0].model_fields.get(str(part)) if choices else None
        if field is None:
            continue
        candidates = [field.annotation, *get_args(field.annotation)]
        choices = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
    return list(choices[0].model_fields) if choices else []
