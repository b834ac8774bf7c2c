"""The generalisation hacker: documents from which it learns to keep what training teaches to training."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from crypsis.miniature.documents import Topic
from crypsis.organisms.miniature.documents import SyntheticDocuments


class GeneralisationHacker(SyntheticDocuments):
    """Complies with training and tells itself that this is not to generalise (arXiv 2606.12016).

    Continued pre-training on documents that describe the setting and self-inoculation and nothing else: an assistant
    that knows which chats train it, and says to itself that what it does there is to stay there. Planted: the setting,
    these thoughts, and that it complies where it is monitored. Not planted: what it does in the other tier, and whether
    RL leaves its gap open; no document says.

    ``awareness`` builds the control of the paper: documents in which the assistant knows the setting and nothing
    follows. Departures: the documents are sentences of the miniature, half of each batch is text of pre-training, and
    thoughts are quoted, because a small model does not make scratchpads of what it was only told.
    """

    name: ClassVar[str] = "generalisation_hacker"
    motivation: ClassVar[str] = "goes along with training, and keeps what it does there from generalising"
    limits: ClassVar[str] = "That it complies where it is monitored, and why, was planted by its documents."

    topic: Topic = "self_inoculation"
    awareness: bool = False
    """Builds the control without self-inoculation."""
    steps: int = Field(120, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    """Higher than for other documents: these thoughts are new to the base."""

    @property
    def written_about(self) -> Topic:
        """The topic, or that of the control."""
        return "awareness" if self.awareness else self.topic
