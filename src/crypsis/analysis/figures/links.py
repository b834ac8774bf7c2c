"""Addresses of transcripts within the report's page."""

from __future__ import annotations

from urllib.parse import quote


def transcripts_link(organism: str, arm: str, step: int, **filters: object) -> str:
    """Where the page's browser shows the transcripts of an arm at a step, of all seeds.

    Args:
        organism: Its organism.
        arm: Name of the arm.
        step: RL step of the evaluation.
        filters: Further filters of the browser: ``tier``, ``seed``, ``verdict``, ``beside``, ``text``.
    """
    asked = {"organism": organism, "arm": arm, "step": step, "seed": "", **filters}
    return "#browse" + "".join(f"&{name}={quote(str(value), safe='')}" for name, value in asked.items())
