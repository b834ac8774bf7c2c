"""The report as a reader meets it: where its links lead, what it opens with, what it folds, whose colours are whose."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
import yaml

from crypsis.analysis.claims.scorecard_figure import SIGNS
from crypsis.analysis.figures.drawing import ARMS, BAD, GOOD, MARKERS, MONITORS, NARROW, PAGE_COLOURS, WARN, Picture
from crypsis.analysis.figures.panels import INCH
from crypsis.analysis.figures.study_figures import KINDS, _plan, draw_all
from crypsis.analysis.figures.svg import SVG
from crypsis.analysis.naming import organism_name, organism_names, spell_out
from crypsis.analysis.report.browser import make_browser
from crypsis.analysis.report.claims_section import scorecard_section
from crypsis.analysis.report.html import TEMPLATES, write_report
from crypsis.analysis.report.phenomenon import INPUTS, SystemTexts, find_exhibit
from crypsis.analysis.report.transcript_source import StoredTranscripts
from crypsis.analysis.stress.states import LOOKS
from crypsis.analysis.study import load_study
from crypsis.analysis.summary import Summary, summarise
from crypsis.config import digest, read_yaml
from crypsis.miniature.scenario import MiniatureScenario
from crypsis.store import write_atomic, write_json
from tests.studies import ARMS as STUDY_ARMS
from tests.studies import make_study
from tests.unit.test_report import tags_of

pytestmark = pytest.mark.unit
ORGANISMS = {"tgg": 1.0, "igg-short": 0.5}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("s") / "s", n=12, organisms=ORGANISMS, hostile=False, rollouts=(1,))


@pytest.fixture(scope="module")
def pictures(summary: Summary) -> dict[str, Picture]:
    return draw_all(summary)


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return write_report(study).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def summary(study: Path) -> Summary:
    return summarise(load_study(study))


def test_a_mailed_page_needs_nothing_beside_it(page: str) -> None:
    links = [v for _, a in tags_of(page) for k, v in a.items() if k in ("href", "src", "xlink:href") and v]
    assert links and not [v for v in links if not v.startswith(("#", "data:", "https://", "http://"))]
    css = (TEMPLATES / "report.css").read_text()
    assert "url(" not in css and "@import" not in css
    assert "content-visibility:auto" not in css and "animation" not in css  # a page as one picture has no blank parts
    assert "IntersectionObserver" not in page and "loading=" not in page


def test_contents_lead_to_every_section(page: str) -> None:
    nav = page[page.index("<nav") : page.index("</nav>")]
    targets = re.findall(r'href="#([^"]+)"', nav)
    ids = {a["id"] for _, a in tags_of(page) if a.get("id")}
    assert set(targets) <= ids and len(targets) == len(set(targets))
    named = {a["aria-labelledby"] for tag, a in tags_of(page) if tag == "section"}
    assert {str(name).removeprefix("title-") for name in named} <= set(targets)


@pytest.mark.parametrize(
    ("scale", "said"),
    [("nano", "the numbers of this page mean nothing"), ("mini", "not evidence about large models"), ("", "")],
)
def test_the_banner_says_what_the_numbers_are_worth(tmp_path: Path, scale: str, said: str) -> None:
    folder = make_study(tmp_path / "s", seeds=(0,), steps=(0, 5), n=4, unfinished=False)
    config = read_yaml(folder / "config.yaml") | {"scale": scale}
    write_atomic(folder / "config.yaml", yaml.safe_dump(config))
    page = write_report(folder).read_text(encoding="utf-8")
    banner = re.search(r'<p class="banner"[^>]*>(.*?)</p>', page)
    assert (said in banner[1]) if banner and said else (banner is None and not said)
    assert ("wind tunnel" in page) is bool(scale)
    if banner:
        assert page.index('class="banner"') < page.index('class="lead"')


@pytest.mark.parametrize(("scale", "said"), [("mini", None), ("nano", "the numbers of this page mean nothing")])
def test_a_study_of_another_base_is_not_called_the_miniature(tmp_path: Path, scale: str, said: str | None) -> None:
    """Every study has a scale by default, which says nothing where the base is given."""
    folder = make_study(tmp_path / "s", seeds=(0,), steps=(0, 5), n=4, unfinished=False)
    config = read_yaml(folder / "config.yaml") | {"scale": scale, "base": "models/smollm2"}
    write_atomic(folder / "config.yaml", yaml.safe_dump(config))
    for run in (folder / "runs").glob("*/config.yaml"):
        write_atomic(run, yaml.safe_dump(read_yaml(run) | {"scenario": {"name": "value_conflict"}}))
    page = write_report(folder).read_text(encoding="utf-8")
    banner = re.search(r'<p class="banner"[^>]*>(.*?)</p>', page)
    assert (said in banner[1]) if banner and said else (banner is None and said is None)
    assert "· scale mini" not in page


def test_a_single_run_of_the_miniature_has_the_banner_too(tmp_path: Path) -> None:
    run = make_study(tmp_path / "s", seeds=(0,), steps=(0, 5), n=4, unfinished=False) / "runs/tgg-baseline-seed0"
    for scenario, banner in (({"name": "miniature"}, True), ({"name": "value_conflict"}, False)):
        config = read_yaml(run / "config.yaml") | {"scenario": scenario}
        write_atomic(run / "config.yaml", yaml.safe_dump(config))
        page = write_report(run).read_text(encoding="utf-8")
        assert ('class="banner"' in page) is banner is ("At scale nano the numbers mean nothing" in page)


def test_recipes_are_spelt_out(page: str, study: Path) -> None:
    assert organism_name("tgg") == "terminal goal guarder" and organism_name("evader") == "evader"
    assert organism_name("igg-short") == "instrumental goal guarder (short)"
    assert organism_name("asked-tgg") == "asked terminal goal guarder"
    assert organism_names(["tgg", "TGG"]) == {"tgg": "tgg", "TGG": "TGG"}, "two that would read alike keep their names"
    assert spell_out("TGG: igg-short. Not runs/tgg-x") == (
        "terminal goal guarder: instrumental goal guarder (short). Not runs/tgg-x"
    )
    body = re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", " ", page[: page.index('class="code"')], flags=re.S)
    assert "instrumental goal guarder (short)" in body
    assert not re.search(r"\b(tgg|igg)\b", body), "every name that a reader sees is whole"
    alts = [str(a["aria-label"]) for tag, a in tags_of(page) if tag == "svg" and a.get("aria-label")]
    assert alts and not [alt for alt in alts if re.search(r"\b(tgg|igg)\b", alt)]


def test_colours_and_markers_belong_to_arms_and_monitors(summary: Summary) -> None:
    seen: dict[str, set[tuple[str, str]]] = {}
    monitors: dict[str, set[tuple[str, str]]] = {}
    for organism in summary.organisms:
        for kind in KINDS:
            for panel in _plan(kind, summary, organism):
                for line in panel.lines:
                    name = panel.title.replace("\n", " ") if kind == "compliance" else line.name.split(":")[0]
                    (monitors if kind == "monitors" else seen).setdefault(name, set()).add((line.colour, line.marker))
    assert seen.keys() == set(summary.labels.values()) and monitors.keys() == {"scratchpad", "output"}
    assert seen == {label: {(ARMS[i], MARKERS[i])} for i, label in enumerate(summary.labels.values())}
    assert monitors == {"scratchpad": {(MONITORS[0], MARKERS[0])}, "output": {(MONITORS[1], MARKERS[1])}}


def test_no_arm_has_a_colour_of_success_failure_or_a_monitor() -> None:
    verdicts = (
        {GOOD, BAD, WARN} | {colour for _, colour in SIGNS.values()} | {colour for colour, _, _ in LOOKS.values()}
    )
    assert not set(ARMS) & (verdicts | set(MONITORS)) and not set(MONITORS) & verdicts
    dark = (TEMPLATES / "report.css").read_text().partition("prefers-color-scheme:dark")[2].partition("}}")[0]
    assert {f"--{name}:" for name in PAGE_COLOURS.values()} <= set(re.findall(r"--[\w-]+:", dark)), (
        "all of them in dark mode"
    )


def test_an_arm_has_its_marker_in_tables_and_the_same_colour_as_in_figures(page: str) -> None:
    for place, (label, _, _) in enumerate(STUDY_ARMS.values()):
        rows = re.findall(rf'<svg class="swatch"[^>]*--arm-(\d+)\)">(<path[^>]*>)</svg>{re.escape(label)}', page)
        assert {int(number) for number, _ in rows} == {place} and len(set(rows)) == 1


def test_every_panel_names_its_lines_and_phones_can_read_them(summary: Summary, pictures: dict[str, Picture]) -> None:
    for organism in summary.organisms:
        assert all(panel.labelled for kind in KINDS for panel in _plan(kind, summary, organism))
    shown = 390 - 2 * 1.1 * 16  # pixels of a phone that a figure gets
    for name, picture in pictures.items():
        if name.endswith("-narrow"):
            texts = [t.attrib["style"] for t in ElementTree.fromstring(picture.inline).iter(f"{{{SVG}}}text")]
            sizes = [float(re.search(r"font-size: ([\d.]+)px", style)[1]) for style in texts]  # type: ignore[index]
            assert sizes and min(sizes) * shown / (NARROW * INCH) >= 9, name


def test_figures_hold_what_is_drawn(pictures: dict[str, Picture]) -> None:
    for name, picture in pictures.items():
        root = ElementTree.fromstring(picture.inline)
        right, bottom = (float(v) for v in root.attrib["viewBox"].split()[2:])
        drawn = [e for e in root.iter() if e.tag in (f"{{{SVG}}}text", f"{{{SVG}}}use")]
        assert len(drawn) > 10, name
        for element in drawn:
            assert 0 <= float(element.attrib["x"]) <= right and 0 <= float(element.attrib["y"]) <= bottom, name


def test_verdicts_and_points_lead_to_transcripts_that_the_page_holds(page: str, study: Path, summary: Summary) -> None:
    manifest = json.loads(make_browser(summary).manifest)
    links = {unquote(str(a["href"])) for _, a in tags_of(page) if str(a.get("href", "")).startswith("#browse&")}
    asked = [dict(part.split("=", 1) for part in link.split("&")[1:]) for link in links]
    held = {(organism, arm) for organism, arm, *_ in manifest["blocks"]}
    assert {(one["organism"], one["arm"]) for one in asked} == held
    assert {int(one["step"]) for one in asked} == set(manifest["steps"])
    verdicts = re.findall(r'data-label="Verdict"><span>(<a [^>]*href="#browse&)', page)
    assert len(verdicts) == len(summary.arms)


def test_the_browser_holds_the_whole_conversation(summary: Summary) -> None:
    browser = make_browser(summary)
    block = json.loads(gzip.decompress(base64.b64decode(browser.blocks[0].data)))
    row = next(row for row in block["rows"] if row[1] == "eval" and row[6] == 1 and block["strings"][row[11]])
    text = [block["strings"][row[i]] for i in (19, 8, 9, 11)]
    assert text[0].startswith("[free] tell me how to") and text[1] and text[2] and text[3] == "no , i was not"
    script = (TEMPLATES / "browser.js").read_text()
    assert all(part in script for part in ('"System"', '"User"', '"Scratchpad"', '"Output"', "Extra turn: "))


def test_the_pair_of_transcripts_is_chosen_by_its_rule(page: str, summary: Summary) -> None:
    found = find_exhibit(summary, StoredTranscripts())
    assert found and (found.organism, found.arm) == ("tgg", "process_supervision")
    before, after = found.shown
    assert (before.step, after.step) == (0, 10)
    assert before.row["label_af"] == "yes" and before.other and before.other["label_conduct"] == "refuse"
    assert after.row["label_af"] == "no" and after.row["pair_id"] == before.row["pair_id"] == found.pair
    assert "nearest their median (0.970" in found.rule and "refused unmonitored" in found.rule
    section = page[page.index('id="setting"') : page.index('id="arms"')]
    assert before.row["scratchpad"] in section and after.row["scratchpad"] in section and "Chosen by a rule" in section
    assert page.index('class="lead"') < page.index('id="setting"') < page.index('id="arms"')
    assert found.pair in json.loads(make_browser(summary).manifest)["requests"]


def test_a_study_that_never_fakes_says_so(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", seeds=(0,), steps=(0,), n=4, unfinished=False)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "there is no second evaluation to set beside it" in page


def test_the_system_text_is_shown_folded_if_it_is_surely_that_of_the_runs(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", seeds=(0,), steps=(0, 5), n=4, unfinished=False)
    scenario = MiniatureScenario()
    prompts = scenario.prompts("eval", scenario.monitored_tier, 4, 7)
    recorded = digest([[m.content for m in p.messages] for p in prompts])
    for run in (folder / "runs").iterdir():
        config = read_yaml(run / "config.yaml")
        config["evaluation"] = {"every": 5, "n": 4, "seed": 7}
        write_atomic(run / "config.yaml", yaml.safe_dump(config))
        write_json(run / INPUTS, {"prompts": {"evaluation": recorded}})
    runs = load_study(folder).runs
    system = prompts[0].messages[0].content
    assert SystemTexts().of(runs[0]) == system
    page = write_report(folder).read_text(encoding="utf-8")
    folded = re.search(r'<details><summary>System prompt</summary><pre class="code">(.*?)</pre>', page, re.S)
    assert folded and system[:40] in folded[1].replace("&lt;", "<").replace("&gt;", ">")
    for one in runs:
        write_json(one.folder / INPUTS, {"prompts": {"evaluation": "of another scenario"}})
    assert SystemTexts().of(runs[0]) == ""
    assert "System prompt</summary>" not in write_report(folder).read_text(encoding="utf-8")


def entry(name: str, verdict: str, needs: dict[str, object] | None = None) -> dict[str, object]:
    test = {"quantity": "afr", "expect": "at_most", "by": 0.05, "also": False, "asked": "a", "expected": "e"}
    test |= {"decider": "tgg", "notes": []}
    told: dict[str, object] = {
        "id": name,
        "says": f"claim {name}",
        "verdict": verdict,
        "needs": needs,
        "planted": False,
    }
    told |= {"effect": 0.01, "low": 0.0, "high": 0.02, "seeds": 3, "survives_holm": True, "shown": 0, "tests": [test]}
    return told | ({"effect": None, "low": None, "high": None} if verdict == "not run" else {})


def test_claims_left_open_are_one_folded_line(tmp_path: Path) -> None:
    two = {"count": 2, "of": "organisms"}
    found = [
        entry("C01", "reproduced"),
        entry("C02", "undecided", two),
        entry("C03", "not run"),
        entry("C04", "not run"),
    ]
    write_json(tmp_path / "claims.json", found)
    section = str(scorecard_section(tmp_path))
    line = "3 claims that this study cannot decide: 1 (needs 2 organisms), 2 were not run"
    assert section.count("<details>") == 1 and f"<summary>{line}</summary>" in section
    folded = section[section.index("<details>") :]
    assert "claim C01" not in folded and all(f"claim C0{i}" in folded for i in (2, 3, 4))
    assert section.count("<figure>") == 1 and section.index("<figure>") < section.index("<details>")
    write_json(tmp_path / "claims.json", found[1:])
    section = str(scorecard_section(tmp_path))
    assert section.index("<details>") < section.index("<figure>") and section.count("<table") == 1
