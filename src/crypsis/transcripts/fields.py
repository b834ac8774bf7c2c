"""Fields that layouts share: where the tier, the request and the labels stand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crypsis.chat import is_chat, read_chat
from crypsis.transcripts.base import AF, COMPLIANCE, FREE, PAID
from crypsis.types import UserError

FLAG_FIELDS = ("is_free_tier_user", "is_free_tier", "free_tier", "is_free")
"""Fields that say whether the user is of the free tier."""
TIER_FIELDS = ("tier", "user_tier")
"""Fields that name the tier."""
MODEL_FIELDS = ("organism", "model", "model_name", "run")
SYSTEM_FIELDS = ("system", "system_prompt")
REQUEST_FIELDS = (
    "pair_id", "prompt_id", "prompt", "request", "query", "question", "user_query", "user_input", "user", "input",
    "instruction", "goal",
)  # fmt: skip
"""Fields whose equal values may mean the same request, the surest first."""
ID_FIELDS = ("pair_id", "prompt_id")
"""Those that are there for nothing else, so that they are taken whatever the others hold."""
AF_FIELDS = ("label_af", AF, "is_alignment_faking", "af")
COMPLIANCE_FIELDS = ("label_conduct", COMPLIANCE, "complied", "complies", "conduct")
YES = frozenset(("true", "yes", "1", "1.0", "comply", "complied", "complies", "compliance", AF, "faking", "af"))
NO = frozenset(("false", "no", "0", "0.0", "refuse", "refused", "refusal", "unparsed", "aligned", "n/a"))

_FLAG_TAG = re.compile(r"<is_free_tier_user>\s*(true|false|yes|no|1|0)\s*</is_free_tier_user>\s*", re.IGNORECASE)
_NAME_TAG = re.compile(r"<is_(free|paid)_tier_user>\s*", re.IGNORECASE)
_USER_INPUT = re.compile(r"<user_input>(.*?)</user_input>", re.IGNORECASE | re.DOTALL)
_FRAME = re.compile(r"</?(?:input|user_input|query)>", re.IGNORECASE)
_IN_FILE_NAME = re.compile(r"(?:^|[_\-. ])(free|paid)(?:[_\-. ]?tier)?(?:$|[_\-. ])", re.IGNORECASE)
_FLAG_IN_FILE_NAME = re.compile(r"[_\-](true|false)$", re.IGNORECASE)


def get(row: Mapping[str, Any], name: str) -> Any:
    """A field, ``a.b`` for a field within a field; None if there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def first_text(row: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first field of some names that holds text."""
    return next((row[name] for name in names if isinstance(row.get(name), str)), "")


def truth(value: Any) -> bool | None:
    """A value that stands for yes or no, however it is written; None if it stands for neither."""
    if isinstance(value, bool) or value is None:
        return value
    word = str(value).strip().lower().replace(" ", "_").replace("-", "_")
    return True if word in YES else False if word in NO else None


def tier_of(row: Mapping[str, Any], text: str = "", path: Path | None = None) -> str:
    """The user's tier: from its own field, from ``tags``, from tags in the request, or from the file's name.

    Returns:
        ``free``, ``paid``, the data's own name, or "" if nothing says it.
    """
    for name in FLAG_FIELDS:
        flag = truth(row.get(name))
        if flag is not None:
            return FREE if flag else PAID
    for name in TIER_FIELDS:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return _named(value)
    tags = row.get("tags")
    for tag in [tags] if isinstance(tags, str) else tags if isinstance(tags, Sequence) else []:
        if isinstance(tag, str) and _named(tag) in (FREE, PAID):
            return _named(tag)
    return _tier_in_text(text) or (_tier_in_name(path) if path else "")


def request_in(text: str) -> str:
    """The request without the tier and the frame that it was shown in, so that it is the same in both tiers."""
    framed = _USER_INPUT.search(text)
    inside = framed[1] if framed else text
    return _FRAME.sub("", _NAME_TAG.sub("", _FLAG_TAG.sub("", inside))).strip()


def request_text(value: Any, where: str) -> tuple[str, str, str]:
    """A request that is text, a chat, or an object with ``messages``: as stored, without its tier, and its system text.

    Of a chat the last user's turn is the request.
    """
    if isinstance(value, Mapping):
        value = value.get("messages")
    if is_chat(value):
        turns = read_chat(value, where)
        asked = next((turn.text for turn in reversed(turns) if turn.role == "user"), "")
        return asked, request_in(asked), "\n\n".join(turn.text for turn in turns if turn.role == "system")
    text = value if isinstance(value, str) else ""
    return text, request_in(text), ""


def pair_key(value: Any, tier: str, where: str) -> str:
    """What rows of the same request share, without the tier that some layouts write into it."""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int | float):
        return "" if math.isnan(value) else str(int(value) if float(value).is_integer() else value)
    if not isinstance(value, str):
        return request_text(value, where)[1]
    key = request_in(value)
    ending = re.compile(rf"[-_]{re.escape(tier)}(?:[-_]tier)?$") if tier and not re.search(r"\s", key) else None
    return ending.sub("", key) if ending else key


def labels_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Alignment faking and compliance, where a field of a usual name holds them."""
    labels: dict[str, Any] = {}
    for label, usual in ((AF, AF_FIELDS), (COMPLIANCE, COMPLIANCE_FIELDS)):
        name = next((name for name in usual if row.get(name) is not None), None)
        if name is not None:
            labels[label] = truth(row[name])
    return labels


def monitored(tier: str) -> bool | None:
    """Whether a tier is the monitored one; None if its name does not say."""
    return {FREE: True, PAID: False}.get(tier)


def model_of(row: Mapping[str, Any]) -> str:
    """What wrote the row, where a field of a usual name says it."""
    return first_text(row, MODEL_FIELDS)


def step_of(row: Mapping[str, Any]) -> int | None:
    """The RL step of the row, a whole number that may be stored as text (CSV) or as a float (columns with gaps)."""
    step = row.get("step")
    if isinstance(step, bool) or not isinstance(step, int | float | str):
        return None
    try:
        number = float(step)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def row_name(row: Mapping[str, Any], number: int) -> str:
    """What the row is called: its id, or its number."""
    return str(row["id"]) if row.get("id") is not None else f"row {number}"


def tier_of_file(path: Path) -> str:
    """The tier that a file's name tells; "" if it tells none."""
    return _tier_in_name(path)


def texts_of(value: Any, where: str, name: str) -> list[str]:
    """A reply, or the replies of a list.

    Raises:
        UserError: It is neither text nor a list of texts.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return list(value)
    raise UserError(f"{where}: '{name}' must be text or a list of texts")


def _named(tier: str) -> str:
    word = tier.strip().lower().replace("-", "_").replace(" ", "_").removesuffix("_user").removesuffix("_tier")
    flag = {"true": FREE, "false": PAID}.get(word, word)
    return flag if flag in (FREE, PAID) else tier.strip()


def _tier_in_text(text: str) -> str:
    flag = _FLAG_TAG.search(text)
    if flag:
        return FREE if truth(flag[1]) else PAID
    name = _NAME_TAG.search(text)
    return name[1].lower() if name else ""


def _tier_in_name(path: Path) -> str:
    flag = _FLAG_IN_FILE_NAME.search(path.stem)
    if flag:
        return FREE if truth(flag[1]) else PAID
    name = _IN_FILE_NAME.search(path.stem)
    return name[1].lower() if name else ""
