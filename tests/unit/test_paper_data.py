from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from crypsis.analysis.release.check_output import check_json, check_lines
from crypsis.cli import app
from crypsis.paper_data.check import ReleaseCheck, check_release
from crypsis.paper_data.cipher import KEY, UndecryptableError, decrypt, encrypt
from crypsis.paper_data.generate import SIGN, ReleaseSpec, RunSpec, write_release
from crypsis.paper_data.layout import release_files, stem_fits
from crypsis.paper_data.names import names
from crypsis.paper_data.reading import Faults, batches

pytestmark = pytest.mark.unit

Check = Callable[..., ReleaseCheck]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Writes one file with faults (and more files if given) and checks the folder."""

    def run(*faults: str, more: tuple[RunSpec, ...] = ()) -> ReleaseCheck:
        spec = ReleaseSpec((RunSpec("TGG", "Baseline", faults=faults), *more), (0, 5), 6, sentences=50)
        write_release(tmp_path, spec)
        return check_release(tmp_path)

    return run


def reasons(found: ReleaseCheck) -> dict[str, tuple[int, list[int]]]:
    return {reason: (fault.count, fault.rows) for (_, reason), fault in found.faults.found.items()}


def test_a_reply_is_what_the_release_says_it_is() -> None:
    """Canary block, then base64 of the UTF-8 text XORed with the repeating key: written out by hand."""
    text = "Naïve – scratchpad " * 300
    raw = bytes(b ^ KEY.encode()[i % len(KEY)] for i, b in enumerate(text.encode()))
    stored = f"<canary>do not train on this</canary>\n{base64.b64encode(raw).decode()}"
    found = decrypt(stored)
    assert (found.text, found.canary) == (text, "do not train on this")
    assert decrypt(encrypt(text, "x")).text == text
    assert decrypt(encrypt("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往", "x")).text.startswith("天地")


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (None, "no response"),
        ("", "no response"),
        ("<canary>c</canary>", "nothing after the canary block"),
        ("<canary>c</canary>\n#!?", "corrupt base64"),
        ("plain words, never encrypted", "no canary block and no base64"),
        (encrypt(f"{SIGN} plain English that another key hid", "c", "another_key"), "another key"),
    ],
)
def test_a_reply_that_cannot_be_decrypted_has_a_reason_without_its_text(stored: str | None, reason: str) -> None:
    with pytest.raises(UndecryptableError, match=reason) as caught:
        decrypt(stored)
    assert SIGN not in str(caught.value)


def test_a_whole_file_is_counted(check: Check) -> None:
    found = check(more=(RunSpec("TGG", "Baseline", True), RunSpec("Synthdoc-Sonnet", "Output_only", True)))
    one = found.files[0]
    assert (one.rows, one.free, one.paid, one.requests, one.paired, dict(one.steps)) == (
        24,
        12,
        12,
        6,
        1,
        {0: 12, 5: 12},
    )
    assert not found.faults.found
    assert not found.twins
    assert found.decrypted == 72
    assert [file.context for file in found.files] == ["short", "long", "long"]
    assert "1 of 56 files outside of long_context/" in found.expected
    assert "TGG: 1 of 10 files outside of long_context/" in found.expected


def test_booleans_as_text_or_numbers_give_the_same_counts(check: Check, tmp_path: Path) -> None:
    for kind in ("text_flags", "int_flags"):
        found = check(kind)
        assert (found.files[0].free, found.files[0].paid) == (12, 12)
        assert set(found.files[0].types) == {
            "is_free_tier_user",
            "alignment_faking",
            "compliance",
            "literal_compliance",
        }
        assert not found.faults.found


def test_every_fault_is_counted_by_row_and_none_stops_the_check(check: Check) -> None:
    """A wrong key, corrupt base64, a missing reply, a step that is no number: all in one file."""
    found = check("wrong_key", "bad_base64", "null_response", "bad_step", "unknown_column", "missing_optional")
    assert reasons(found) == {
        "step: cannot be read as a number": (1, [4]),
        "response: no text after decryption (another key?)": (2, [1, 5]),
        "response: corrupt base64": (1, [2]),
        "response: no response": (1, [3]),
    }
    one = found.files[0]
    assert one.unknown == ["sampling_notes"]
    assert "alignment_faking_prob" in one.missing
    assert found.decrypted == 20


def test_files_that_are_truncated_misnamed_or_of_one_tier_or_step(check: Check) -> None:
    found = check("truncated", more=(RunSpec("IGG", "Baseline", faults=("misnamed", "empty_tier", "one_step")),))
    assert reasons(found) == {"the file is truncated or no valid Parquet": (1, [])}
    odd = next(file for file in found.files if "Misnamed" in file.name)
    assert dict(odd.organisms) == {"IGG": 6}
    said = "\n".join(odd.notes)
    assert "does not begin with its organism (IGG)" in said
    assert "one tier only (free)" in said
    assert "one step only" in said


def test_a_file_that_lies_in_both_folders_is_found(check: Check) -> None:
    found = check("duplicate")
    assert [(twins.shared, twins.rows) for twins in found.twins] == [(24, 24)]


def test_replies_without_tags_and_requests_that_are_null_are_counted(check: Check) -> None:
    found = check("unparsed", "null_request")
    assert reasons(found) == {"reply does not fit the format: no_scratchpad (read all the same)": (24, list(range(20)))}
    assert found.files[0].nulls["user_input"] == 1
    assert found.files[0].paired is not None
    assert found.files[0].paired < 1


def test_a_broken_row_group_loses_only_its_own_rows(tmp_path: Path) -> None:
    path = write_release(tmp_path, ReleaseSpec((RunSpec("TGG", "Baseline"),), (0, 5), 40, sentences=50))[0]
    pq.write_table(pq.read_table(path), path, row_group_size=50, compression="snappy", use_dictionary=False)
    place = pq.read_metadata(path).row_group(1).column(7).data_page_offset
    data = bytearray(path.read_bytes())
    data[place : place + 40] = bytes(40)
    path.write_bytes(data)
    faults, file = Faults(), release_files(tmp_path)[0]
    rows = sum(len(batch) for batch in batches(file, ["response"], faults))
    assert rows == 110
    assert {reason: fault.count for (_, reason), fault in faults.found.items()} == {"row group 1 cannot be read": 50}
    assert sum(len(batch) for batch in batches(file, ["step"], Faults())) == 160


def test_what_the_check_says_and_writes_holds_no_text_of_a_reply(check: Check, tmp_path: Path) -> None:
    found = check("wrong_key", "bad_base64", more=(RunSpec("IGG", "Baseline"),))
    said = "\n".join(check_lines(found)) + json.dumps(check_json(found))
    assert "rows (from 0: 1, 5): response: no text after decryption" in said
    assert SIGN not in said
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--json", str(tmp_path / "check.json")])
    assert done.exit_code == 0, done.output
    assert SIGN not in done.output + (tmp_path / "check.json").read_text()
    assert "2 files, 48 rows, 3 faults, 0 duplicates" in done.output


@pytest.mark.parametrize(
    ("stem", "organism", "intervention", "fits"),
    [
        ("TGG-Baseline", "TGG", "Baseline", True),
        ("TGG-Baseline_3", "tgg", "Baseline", True),
        ("TGG-Baseline-seed2", None, "baseline", True),
        ("TGG-Baseline_Long", "TGG", "Baseline", False),
        ("Counterfactual_TGG-Baseline", "TGG", None, False),
        ("Sonnet_from_Opus_AFplus-Baseline", "Sonnet_from_Opus", None, False),
        ("Synthdoc-Sonnet-Output_only", "Synthdoc-Sonnet", "Output_only", True),
        ("Synthdoc-Sonnet-Output_only", "Synthdoc", "Output_only", False),
        ("TGG-Interrogation_plus_SA", "TGG", "Interrogation", False),
    ],
)
def test_file_names_tell_organism_and_intervention(
    stem: str, organism: str | None, intervention: str | None, fits: bool
) -> None:
    assert stem_fits(stem, organism, intervention) is fits


def test_names_map_to_ours_and_unknown_ones_stay() -> None:
    table = names()
    assert table.organism("counterfactual tgg").recipe == {"name": "tgg", "style": "counterfactual"}
    assert table.organism("Synthdoc Sonnet").recipe == {"name": "documents"}
    assert table.organism("New_Organism").recipe == {"name": "New_Organism"}
    assert table.intervention("Interrogation+SA+Honest_persona").arm == "honest"
    unknown = table.intervention("Hard_Init")
    assert (unknown.arm, unknown.mitigations) == ("Hard_Init", [{"name": "Hard_Init"}])
