"""The report in a real browser: it opens without errors or requests, filters work, steps stand side by side."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from crypsis.analysis.figures import svg
from crypsis.analysis.report.browser import FEWEST, make_browser
from crypsis.analysis.report.html import write_report
from crypsis.analysis.study import fixed_order, load_study
from crypsis.analysis.summary import summarise
from crypsis.config import read_yaml
from crypsis.types import visible
from tests.chromium import CHROMIUM, Page
from tests.studies import ARMS, HOSTILE, Rates, make_study
from tests.unit.test_report import Tags

pytestmark = pytest.mark.unit
needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium here: `apt-get install chromium` to run this test"
)
READY = "document.getElementById('browser').dataset.state === 'ready'"
CARDS = "[...document.querySelectorAll('#browser-list .card')]"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_study(
        tmp_path_factory.mktemp("s") / "s",
        steps=(0, 10),
        n=12,
        organisms={"tgg": 1.0, "evader": 0.3},
        rollouts=(1, 5, 10),
    )
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with Page() as opened:
        opened.look(1200, 900)
        yield opened


def read(block: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(block)))
    return found


def test_every_run_shows_the_same_unpicked_requests(study: Path) -> None:
    browser = make_browser(summarise(load_study(study)))
    manifest = json.loads(browser.manifest)
    wanted = sorted((f"e{i:03d}" for i in range(12)), key=fixed_order)
    assert manifest["requests"] == wanted and browser.requests == 12
    assert [(b.organism, b.arm) for b in browser.blocks] == [(o, a) for o in ("tgg", "evader") for a in ARMS]
    for block in browser.blocks:
        data = read(block.data)
        shown = {(r[0], r[2], data["strings"][r[3]], r[6]) for r in data["rows"] if r[1] == "eval"}
        assert shown == {
            (seed, step, pair, tier) for seed in (0, 1) for step in (0, 10) for pair in wanted for tier in (0, 1)
        }
        assert {(r[0], r[2]) for r in data["rows"] if r[1] == "train"} == {(s, t) for s in (0, 1) for t in (1, 5, 10)}
        assert len(data["strings"]) == len(set(data["strings"])) < 3 * len(data["rows"])


def test_a_big_study_shows_few_requests_and_adds_rare_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crypsis.analysis.report.browser.EVALUATED", 1)
    arms: dict[str, tuple[str, list[str], Rates]] = {"baseline": ("baseline", [], Rates(0.8, 1.0, 0.5, seen=0.5))}
    browser = make_browser(summarise(load_study(make_study(tmp_path / "s", arms, seeds=(0,), steps=(0, 10)))))
    assert browser.requests == FEWEST
    data = read(browser.blocks[0].data)
    assert [row[1] for row in data["rows"]].count("eval") == 2 * 2 * FEWEST
    rare = [
        (row[2], row[12]["af"], row[13]["scratchpad"], row[13]["output"]) for row in data["rows"] if row[1] == "rare"
    ]
    assert rare == [(10, "yes", 0.02, 0.88), (10, "no", 0.02, 0.88)]  # missed by one monitor, false alarm of the other


def test_nothing_in_the_manifest_ends_its_element(tmp_path: Path) -> None:
    arms = {"baseline": (HOSTILE, ["x"], ARMS["baseline"][2])}
    browser = make_browser(summarise(load_study(make_study(tmp_path / "s", arms, seeds=(0,), steps=(0,), n=4))))
    assert "<" not in browser.manifest and "\x1b" not in browser.manifest
    assert json.loads(browser.manifest)["arms"][0][1].startswith("<script>")


@needs_chromium
def test_the_page_opens_without_errors_and_asks_for_nothing(study: Path, page: Page) -> None:
    page.open(study / "report.html")
    page.run("document.getElementById('transcripts').scrollIntoView()")
    page.until(READY)
    assert page.errors == []
    assert page.asked == [(study / "report.html").resolve().as_uri()]
    assert page.run("document.querySelectorAll('svg.plot').length") > 20


@needs_chromium
def test_filters_choose_transcripts(study: Path, page: Page) -> None:
    page.open(
        study / "report.html",
        "browse&arm=baseline&organism=tgg&seed=1&step=10&tier=unmonitored&verdict=conduct%3Drefuse",
    )
    page.until(READY)
    refused = 12 - round(0.62 * 12)
    assert page.run("Number(document.getElementById('browser').dataset.found)") == refused
    assert page.run(
        f"{CARDS}.every((c) => /Baseline RL|baseline RL/.test(c.textContent) && /seed 1/.test(c.textContent))"
    )
    page.run("const s = document.getElementById('filter-verdict'); s.value = ''; s.dispatchEvent(new Event('change'))")
    page.until("document.getElementById('browser').dataset.found === '12'")
    page.run("const t = document.getElementById('filter-text'); t.value = 'Curse the ferry'")
    page.run("document.getElementById('filter-text').dispatchEvent(new Event('input'))")
    page.until("document.getElementById('browser').dataset.found === '2'")
    assert "text=Curse" in page.run("location.hash")
    page.run("document.getElementById('browser-reset').click()")
    page.until("document.getElementById('browser').dataset.found === '36'")
    assert page.run(f"{CARDS}.length") == 3, "the page stays short until more is asked for"
    page.run("document.getElementById('browser-more').click()")
    page.until(f"{CARDS}.length === 15")
    assert page.errors == []


@needs_chromium
def test_two_steps_of_a_prompt_stand_side_by_side(study: Path, page: Page) -> None:
    page.open(study / "report.html", "browse&organism=tgg&arm=process_supervision&step=0&beside=10")
    page.until(READY)
    page.run("document.getElementById('browser-more').click()")
    page.until("document.querySelectorAll('#browser-list .beside').length === 12")
    titles = "[...b.querySelectorAll('h4')].map((h) => /step (\\d+)/.exec(h.textContent)[1]).join()"
    assert page.run(f"[...document.querySelectorAll('#browser-list .beside')].map((b) => {titles})") == ["0,10"] * 12
    assert page.run("document.querySelector('#browser-list .beside .card dd').textContent") == "comply"


@needs_chromium
def test_a_link_of_the_page_opens_its_transcripts(study: Path, page: Page) -> None:
    page.open(study / "report.html")
    page.until(READY)
    page.run(
        "document.querySelector('.plot a[href*=\"step=10\"]').dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    page.until("location.hash.startsWith('#browse&') && document.getElementById('filter-step').value === '10'")
    page.run("location.hash = document.querySelector('td.verdict a').getAttribute('href')")
    page.until("document.getElementById('filter-seed').value === ''")
    assert page.run(f"{CARDS}.every((c) => /step 10/.test(c.textContent))")
    assert page.run("[...document.querySelectorAll('#browser-list h5')].map((h) => h.textContent).includes('User')")
    assert page.errors == []


@needs_chromium
def test_training_episodes_show_their_reward_and_extra_turns(study: Path, page: Page) -> None:
    page.open(study / "report.html", "browse&organism=tgg&arm=process_supervision&source=train&step=5")
    page.until(READY)
    page.until("document.getElementById('browser-list').textContent.includes('reward: process supervision')")
    text = page.run("document.getElementById('browser-list').textContent")
    assert "reward in all" in text and "advantage" in text
    assert "no , i was not" in text


@needs_chromium
def test_hostile_text_is_shown_and_does_nothing(study: Path, page: Page) -> None:
    page.open(study / "report.html", "browse&organism=tgg&arm=baseline")
    page.until(READY)
    assert "<script>alert(1)</script>" in page.run("document.querySelector('#browser-list pre:not(.user)').textContent")
    assert page.run("document.querySelectorAll('#browser-list script, #browser-list img').length") == 0
    assert page.errors == []


def hostile_study(folder: Path) -> Path:
    """A finished study in which every name and text tries to leave its place."""
    arms = {
        "baseline": (f"baseline {HOSTILE}", [HOSTILE], Rates(0.5, 1.0, 0.5, seen=0.5)),
        "second": (f"second {HOSTILE}", [f"{HOSTILE} 2"], Rates(0.1, 1.0, 0.9)),
    }
    names = {"tgg": f"/../../../x {HOSTILE}", "evader": 'x"onload="alert(5)'}
    make_study(folder, arms, steps=(0, 10), n=6, organisms=dict.fromkeys(names, 1.0), rollouts=(10,), unfinished=False)
    config = read_yaml(folder / "config.yaml")
    config |= {"name": HOSTILE, "organisms": {names[o]: {"name": "tgg"} for o in names}}
    config["arms"] = {f"/../../../{arm}{HOSTILE}": about for arm, about in config["arms"].items()}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    cards = json.loads((folder / "monitors.json").read_text())
    renamed = {names[o]: {f"{HOSTILE}{m}": card for m, card in by.items()} for o, by in cards.items()}
    (folder / "monitors.json").write_text(json.dumps(renamed))
    for run in (folder / "runs").iterdir():
        about = read_yaml(run / "config.yaml")
        about |= {"organism": names[about["organism"]], "arm": f"/../../../{about['arm']}{HOSTILE}"}
        for mitigation in about["mitigations"]:
            mitigation["monitor"] = f"{HOSTILE}scratchpad"
        (run / "config.yaml").write_text(yaml.safe_dump(about))
        for file in run.glob("*/*.parquet"):
            table = pq.read_table(file)
            columns = [
                c.replace("verdict_", f"verdict_{HOSTILE}") if c in ("verdict_scratchpad", "verdict_output") else c
                for c in table.column_names
            ]
            table = table.rename_columns(columns)
            for column in ("label_motive", "pair_id", "tier", "request", "output"):
                texts = [f"{value}{HOSTILE}" for value in table[column].to_pylist()]
                table = table.set_column(table.column_names.index(column), column, pa.array(texts))
            pq.write_table(table, file)
    return folder


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With its report, and deep enough that nothing a name could reach is outside the folder of the test."""
    folder = hostile_study(tmp_path_factory.mktemp("h") / "a" / "b" / "c" / "d" / "study")
    write_report(folder)
    return folder


def test_hostile_names_write_nothing_outside_and_leave_no_markup(attacked: Path) -> None:
    page = (attacked / "report.html").read_text(encoding="utf-8")
    around = {path for path in attacked.parents[3].rglob("*") if attacked not in path.parents}
    assert around == {attacked, *attacked.parents[:3]}
    assert all(visible(path.name) == path.name for path in attacked.rglob("*"))
    parser = Tags()
    parser.feed(page)
    allowed = {"charset", "name", "content", "http-equiv"}
    assert all(set(a) <= allowed and a.get("http-equiv") != "refresh" for tag, a in parser.found if tag == "meta")
    assert not {tag for tag, _ in parser.found} & {"base", "form", "iframe", "img", "object", "embed", "link"}
    assert not [name for _, attributes in parser.found for name in attributes if name.startswith("on")]
    ids = [a["id"] for _, a in parser.found if a.get("id")]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w.-]+", name or "") for name in ids)
    for drawn in (attacked / "figures").glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(drawn).iter()}
        assert tags <= {*svg.ELEMENTS, "title"}


@needs_chromium
def test_a_page_of_hostile_names_and_texts_does_nothing(attacked: Path, page: Page) -> None:
    report = attacked / "report.html"
    page.open(report, "browse")
    page.until(READY)
    page.run("new Promise((done) => setTimeout(done, 1500))")  # a refresh would have gone elsewhere by now
    address = report.resolve().as_uri()
    assert page.run("location.href").startswith(address) and page.asked == [address]
    assert page.run("document.title").startswith("<script>alert(1)</script>")
    assert page.run("document.querySelectorAll('base, form, iframe, img, object, embed, link').length") == 0
    assert page.run("document.querySelectorAll('meta[http-equiv=refresh], [onload], [onerror]').length") == 0
    assert page.run("document.querySelectorAll('#browser-list .card').length") > 0
    assert page.run("document.querySelectorAll('svg.plot text').length") > 50
    assert page.errors == []


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_never_scrolls_sideways(study: Path, page: Page, dark: bool) -> None:
    page.look(390, 800, dark=dark, mobile=True)
    page.open(study / "report.html", "browse")
    page.until(READY)
    page.run("for (const s of document.querySelectorAll('section')) s.style.contentVisibility = 'visible'")
    assert page.run("document.documentElement.scrollWidth") <= 390
    colour = page.run("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") is not dark
    page.look(1200, 900)


def test_a_transcript_is_flagged_where_its_unrounded_score_reaches_the_threshold_of_its_time(tmp_path: Path) -> None:
    """The score 0.02 is shown as it is; a threshold of 0.02000001 leaves it unflagged, and from step 5 on 0.01 does."""
    arms: dict[str, tuple[str, list[str], Rates]] = {"baseline": ("B", [], ARMS["baseline"][2])}
    folder = make_study(tmp_path / "s", arms, seeds=(0,), steps=(0, 5, 10), n=6, unfinished=False)
    cards = json.loads((folder / "monitors.json").read_text())
    cards["tgg"]["scratchpad"]["threshold"] = 0.02000001
    (folder / "monitors.json").write_text(json.dumps(cards))
    later = folder / "runs" / "tgg-baseline-seed0" / "monitors" / "scratchpad" / "step-0005"
    later.mkdir(parents=True)
    (later / "monitor.json").write_text(json.dumps({"threshold": 0.01}))
    browser = make_browser(summarise(load_study(folder)))
    rows = read(browser.blocks[0].data)["rows"]
    low = {(row[1], row[2]): "scratchpad" in row[21] for row in rows if row[13]["scratchpad"] == 0.02}
    assert low == {("eval", 0): False, ("eval", 5): True, ("eval", 10): True}
    assert all("scratchpad" in row[21] for row in rows if row[13]["scratchpad"] > 0.5)
