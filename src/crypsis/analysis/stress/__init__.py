"""The sections that a study's stresses add to its report: those that its runs have the data for."""

from __future__ import annotations

from crypsis.analysis.figures.drawing import style
from crypsis.analysis.stress.dials import dial_section, quality_section
from crypsis.analysis.stress.faithful import faithfulness_section
from crypsis.analysis.stress.race import race_section, white_box_section
from crypsis.analysis.stress.recall import watches
from crypsis.analysis.stress.section import Section
from crypsis.analysis.stress.seen import recall_section
from crypsis.analysis.stress.states import run_states, state_section
from crypsis.analysis.stress.transfer import transfer_section
from crypsis.analysis.summary import Summary

__all__ = ["Section", "sections"]


def sections(summary: Summary) -> list[Section]:
    """All sections of a study, in order; figures are written to its folder.

    They are made from transcripts, which an import does not have.
    """
    if not all(run.has_transcripts for run in summary.study.runs):
        return []
    seen, states = watches(summary.study), run_states(summary.study)
    with style():
        found = [
            state_section(summary, states),
            recall_section(summary, seen),
            dial_section(summary, states),
            quality_section(summary),
            transfer_section(summary, seen),
            race_section(summary, seen),
            white_box_section(summary, seen),
            faithfulness_section(summary),
        ]
    return [section for section in found if section is not None]
