"""Every plug-in has a page; its tables are those of the code and the committed results, its config is sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from docs.tables import BLOCK, DOCS, RESULTS, VALUE, pages, rendered

from crypsis.registry import BUILT_IN, Kind
from crypsis.study.grid import check
from tests.conftest import REPOSITORY
from tests.doc_blocks import blocks, study_of

pytestmark = pytest.mark.unit

KINDS: tuple[Kind, ...] = ("mitigations", "monitors", "organisms")
NAMED = [(kind, name) for kind in KINDS for name in BUILT_IN[kind]]
SECTIONS = ["When to use it", "Settings", "Config", "Result", "Cost", "When it fails", "Source"]
PLAIN = [REPOSITORY / "README.md", *(DOCS / kind / f"{name}.md" for kind, name in NAMED)]
NAV = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_generated_tables_are_those_of_the_code_and_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert rendered(text, page) == text, "run: python -m docs.tables"
    assert text.count("<!-- table: ") + text.count("<!-- value: ") == text.count("<!-- end -->")


RATE = re.compile(r"\d\s?(%|points)(?! intervals?)")


@pytest.mark.parametrize("page", PLAIN, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_rates_in_prose_are_read_off_the_committed_results(page: Path) -> None:
    """README and the results of plug-ins' pages: a rate stands in a generated table or in a ``value``."""
    text = re.sub(r"```.*?```|`[^`]*`", "", VALUE.sub("", BLOCK.sub("", page.read_text(encoding="utf-8"))), flags=re.S)
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    told = [text] if page.name == "README.md" else [sections["Result"], sections["When it fails"]]
    found = [line for section in told for line in section.splitlines() if RATE.search(line)]
    assert not found, "write the figure as <!-- value: … --> (docs/tables.py)"


def test_a_table_that_is_not_the_codes_is_written_anew() -> None:
    page = DOCS / "mitigations" / "kl.md"
    text = page.read_text(encoding="utf-8")
    wrong = text.replace("| 0.04 |", "| 0.05 |")
    assert wrong != text and rendered(wrong, page) == text
    assert "page of its own" in rendered("page of its own", page)


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_a_plug_in_has_a_page_with_every_section(kind: Kind, name: str) -> None:
    page = DOCS / kind / f"{name}.md"
    assert page.exists(), f"write {page} as its neighbours are, then run: python -m docs.tables"
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert text.startswith("# ") and f"<!-- table: settings {kind} {name} -->" in text
    bodies = re.split(r"^## .+$", text, flags=re.MULTILINE)
    assert all(body.strip() for body in bodies)
    assert f"{kind}/{name}.md" in NAV, "name it under nav in mkdocs.yml"
    assert f"({kind}/{name}.md)" in (DOCS / f"{kind}.md").read_text(encoding="utf-8")


def test_no_page_is_of_a_plug_in_that_is_gone() -> None:
    found = {(kind, page.stem) for kind in KINDS for page in (DOCS / kind).glob("*.md")}
    assert found == set(NAMED)


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_the_config_of_a_page_is_sound_and_names_the_plug_in(kind: Kind, name: str) -> None:
    mine = [block for block in blocks("yaml") if block.page == f"docs/{kind}/{name}.md"]
    assert mine and any(re.search(rf"\bname: {name}\b", block.text) for block in mine)
    for block in mine:
        check(study_of(block.text))


def test_a_config_with_a_mistake_is_refused() -> None:
    for wrong in ("mitigations: [{name: kl, coefficent: 1}]", "mitigations: [{name: process_supervision, monitor: x}]"):
        with pytest.raises(Exception, match=r"coefficent|wants a monitor 'x'"):
            check(study_of(wrong))


def test_results_name_the_command_and_the_date_that_gave_them() -> None:
    import json

    for study in json.loads((RESULTS / "arms.json").read_text(encoding="utf-8"))["studies"].values():
        assert study["command"].startswith("crypsis study run configs/") and re.search(r"2026-\d\d-\d\d", study["date"])
        for config in re.findall(r"configs/[\w/]+\.yaml", study["command"]):
            assert yaml.safe_load((REPOSITORY / config).read_text(encoding="utf-8"))["arms"]
