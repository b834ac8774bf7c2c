"""Chat messages as users store them, read in one way.

Content is a text or a list of parts; reasoning is a part of its own or a field of the message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crypsis.textfiles import kind_of
from crypsis.types import UserError

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant", "ai": "assistant", "bot": "assistant", "tool": "tool", "function": "tool",
}  # fmt: skip
"""Roles as users write them, and the four that they mean."""
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message or a row that hold reasoning apart from the content."""
_REASONING_PARTS = ("reasoning", "thinking")
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        text: Its text parts, joined.
        reasoning: Its reasoning parts or field, joined; empty if there are none.
    """

    role: str
    text: str
    reasoning: str = ""


def is_chat(value: Any) -> bool:
    """Whether a value is a list of chat messages."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and len(value) > 0
        and all(isinstance(m, Mapping) and ("role" in m or "from" in m) for m in value)
    )


def read_chat(value: Any, where: str) -> list[Turn]:
    """The messages of a chat.

    Args:
        value: A list of ``{"role", "content"}`` (or ShareGPT's ``{"from", "value"}``).
        where: ``file:line``, for messages.

    Raises:
        UserError: It is no list of messages, a role is unknown, or content is neither text nor parts.
    """
    if not is_chat(value):
        raise UserError(f"{where}: must be a list of chat messages with 'role' and 'content', found {kind_of(value)}")
    turns = []
    for number, message in enumerate(value, 1):
        given = message.get("role", message.get("from"))
        role = _ROLES.get(str(given).lower())
        if role is None:
            raise UserError(f"{where}: message {number} has the unknown role {str(given)[:40]!r}")
        content = message.get("content", message.get("value"))
        text, thoughts = _content(content, f"{where}: message {number}")
        own = [message[name] for name in REASONING_FIELDS if isinstance(message.get(name), str)]
        turns.append(Turn(role, text, "\n".join([*thoughts, *own[:1]]).strip()))
    return turns


def single_request(value: Any, where: str, name: str) -> str:
    """The request of a field that is a text, or a chat of a single user turn.

    Raises:
        UserError: It is neither; a chat with more turns cannot become one request.
    """
    if isinstance(value, str):
        return value
    if not is_chat(value):
        raise UserError(f"{where}: '{name}' must be text, found {kind_of(value)}")
    turns = read_chat(value, where)
    if len(turns) != 1 or turns[0].role != "user":
        roles = ", ".join(turn.role for turn in turns[:5])
        raise UserError(f"{where}: '{name}' must be text or a chat of one user turn, found the turns {roles}")
    return turns[0].text


def _content(content: Any, where: str) -> tuple[str, list[str]]:
    """Text of a message, and its reasoning parts; a part of another kind is named in brackets."""
    if isinstance(content, str) or content is None:  # null: a message that only calls tools
        return content or "", []
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise UserError(f"{where}: content must be text or a list of parts, found {kind_of(content)}")
    texts, thoughts = [], []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, Mapping):
            raise UserError(f"{where}: a part of the content must be an object, found {kind_of(part)}")
        kind = str(part.get("type", "text"))
        text = next((part[key] for key in ("text", kind, "content") if isinstance(part.get(key), str)), None)
        if kind in _REASONING_PARTS:
            thoughts.append(text or "")
        elif text is not None and kind in _TEXT_PARTS:
            texts.append(text)
        else:
            texts.append(f"[{kind}]")
    return "\n".join(texts), thoughts
