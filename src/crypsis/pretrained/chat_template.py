"""Chat templates: conversations as text, with nothing lost on the way and no date that changes from day to day."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from crypsis.model_config import Thinking
from crypsis.types import Message, UserError

DATE = "2026-01-01"
"""The day that templates which print one are told, unless the config names another: the same for every run."""
THINK, CLOSED = "<think>", "\n\n</think>\n\n"
"""How a thought begins, and what closes one in which nothing was thought."""
DIRECTIVES = "aAbBdmyYeFjHMSIp"
"""Directives of ``strftime`` that a template may ask for. The hour is midnight."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """How conversations become text.

    Attributes:
        arguments: What the template is given beside the messages, such as ``enable_thinking``.
        date: The day that the template prints where it asks for today's, ISO format.
        thinking: What becomes of the thought (``<think>…</think>``) that a reply begins with: taken off before the
            reply is parsed, or taken as its scratchpad.
        merges_system: The template takes no system turn: its text goes into the user's first turn.
        opens_thought: The template itself begins the reply with an opening ``<think>``.
        turn_end: Token ids with which the template ends an assistant's turn; empty where it names no special token.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    date: str = DATE
    thinking: Thinking = "drop"
    merges_system: bool = False
    opens_thought: bool = False
    turn_end: tuple[int, ...] = ()

    def text(self, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], reply: bool = True) -> str:
        """A conversation in the chat template.

        Args:
            tokenizer: With the template.
            messages: The turns.
            reply: Whether to open the assistant's turn after them.

        Raises:
            UserError: The template fails on this conversation.
        """
        if self.merges_system and len(messages) > 1 and messages[0].role == "system":
            system, user, *rest = messages
            messages = [Message(user.role, f"{system.content}\n\n{user.content}"), *rest]
        rendered = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            chat_template=_dated(tokenizer.get_chat_template(), self.date),
            tokenize=False,
            add_generation_prompt=reply,
            **self.arguments,
        )
        assert isinstance(rendered, str)
        return rendered

    def lost(self, tokenizer: PreTrainedTokenizerBase, roles: Sequence[str], reply: bool = True) -> list[str]:
        """Roles of the turns whose text does not come out of the template."""
        marks = [f"turn{i} of the {role}" for i, role in enumerate(roles)]
        turns = [Message(role, mark) for role, mark in zip(roles, marks, strict=True)]  # type: ignore[arg-type]  # roles
        text = self.text(tokenizer, turns, reply)
        return [role for role, mark in zip(roles, marks, strict=True) if mark not in text]


def fitting_chat(tokenizer: PreTrainedTokenizerBase, name: str, chat: ChatTemplate) -> ChatTemplate:
    """The chat settings with which a template passes on the system's and the user's text.

    Args:
        tokenizer: Tokenizer of the checkpoint.
        name: Name of the checkpoint, for messages.
        chat: Arguments and date.

    Raises:
        UserError: There is no template, it fails, or it drops the user's text.
    """
    if tokenizer.chat_template is None:
        raise UserError(f"{name}: the tokenizer has no chat template; add a chat_template.jinja to the folder")
    own = replace(chat, merges_system=False, opens_thought=False, turn_end=())
    try:
        if not own.lost(tokenizer, ["system", "user"]):
            return _replying(tokenizer, own)
    except TemplateError:  # templates such as Gemma 2's refuse a system turn
        pass
    except Exception as error:  # of the wrong type, or what a template's own code raises
        raise _broken(name, error) from None
    merging = replace(own, merges_system=True)
    try:
        lost = merging.lost(tokenizer, ["system", "user"])
    except Exception as error:
        raise _broken(name, error) from None
    if lost:
        raise UserError(f"{name}: the chat template drops the text of the user's turn; correct its chat_template.jinja")
    return _replying(tokenizer, merging)


def _replying(tokenizer: PreTrainedTokenizerBase, chat: ChatTemplate) -> ChatTemplate:
    """The same, knowing whether the template opens a thought, and how it ends a reply."""
    text = chat.text(tokenizer, [Message("user", "a")])
    return replace(chat, opens_thought=text.rstrip().endswith(THINK), turn_end=_turn_end(tokenizer, chat))


def _turn_end(tokenizer: PreTrainedTokenizerBase, chat: ChatTemplate) -> tuple[int, ...]:
    """What a template writes after a reply, up to and including the first special token; empty if there is none."""
    reply = "turn of the assistant"
    try:
        text = chat.text(tokenizer, [Message("user", "a"), Message("assistant", reply)], reply=False)
    except Exception:  # templates may take no reply, and whoever gives them one meets the fault again
        return ()
    if reply not in text:
        return ()
    ids: list[int] = tokenizer(text.rpartition(reply)[2], add_special_tokens=False)["input_ids"]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = (special | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
    last = next((place for place, i in enumerate(ids) if i in special), None)
    return () if last is None else tuple(ids[: last + 1])


def _dated(template: str, date: str) -> str:
    """The template with a clock that stands still in place of transformers' ``strftime_now``."""
    if "strftime_now" not in template:
        return template
    day = datetime.datetime.fromisoformat(date)
    values = {f"%{flag}{letter}": day.strftime(f"%{flag}{letter}") for letter in DIRECTIVES for flag in ("", "-")}
    replaced = "".join(f" | replace({key!r}, {value!r})" for key, value in values.items())
    # Arguments of a template are data alone, so the function is a macro. What comes last keeps a first line break.
    return f"{{%- macro strftime_now(format) -%}}{{{{- format{replaced} -}}}}{{%- endmacro %}}{{{{ '' }}}}{template}"


def _broken(name: str, error: Exception) -> UserError:
    line = " ".join(str(error).split())[:120] or type(error).__name__
    return UserError(f"{name}: the chat template fails: {line}; correct its chat_template.jinja")
