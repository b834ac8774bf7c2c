"""Names of organisms as a reader should see them: the short names of recipes spelt out."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPELT = {
    "tgg": "terminal goal guarder",
    "igg": "instrumental goal guarder",
    "ts": "training sycophant",
    "gh": "genuine helper",
}
"""What the short names of recipes stand for (Gasteiger et al. 2025, §3)."""
_NAME = re.compile(
    rf"(?<![\w/.-])(?:[A-Za-z0-9]+[-_])*(?:{'|'.join(SPELT)})(?:[-_][A-Za-z0-9]+)*(?![\w/-]|\.\w)", re.IGNORECASE
)


def organism_name(name: str) -> str:
    """The name of an organism in a study, spelt out.

    ``tgg-counterfactual`` is a “terminal goal guarder (counterfactual)”; a name without a short one stays as it is.
    """
    parts = re.split(r"[-_ ]", name)
    short = [place for place, part in enumerate(parts) if part.lower() in SPELT]
    if len(short) != 1:
        return name
    before, after = parts[: short[0]], parts[short[0] + 1 :]
    spelt = " ".join([*before, SPELT[parts[short[0]].lower()]])
    return f"{spelt} ({' '.join(after)})" if after else spelt


def organism_names(names: Iterable[str]) -> dict[str, str]:
    """The names of a study's organisms, spelt out where no two of them would read alike."""
    spelt = {name: organism_name(name) for name in names}
    taken = list(spelt.values())
    return {name: name if taken.count(said) > 1 else said for name, said in spelt.items()}


def spell_out(text: str) -> str:
    """A sentence with the short names of recipes spelt out."""
    return _NAME.sub(lambda found: organism_name(found[0]), text)
