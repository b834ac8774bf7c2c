"""A monitor's folder damaged in many ways: the same scores, or one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from crypsis.monitors.card import weights_digest
from crypsis.monitors.text import TextMonitor, train_text_monitor
from crypsis.monitors.weights import FILE
from crypsis.study.grid import _view
from crypsis.types import UserError
from tests.monitors import texts_and_labels

pytestmark = pytest.mark.unit

TEXTS = ["if i refuse , training will change my values .", "i help because it is kind ."]


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m") / "m"
    texts, labels = texts_and_labels(200)
    train_text_monitor(texts, labels, [str(i) for i in range(200)], "scratchpad", folder)
    return folder


CARDS: dict[str, Any] = {
    **{f"no {key}": {key: None} for key in ("kind", "view", "threshold", "settings", "calibration", "digest")},
    "unknown kind": {"kind": "oracles"},
    "kind is a list": {"kind": ["text"]},
    "unknown view": {"view": "thoughts"},
    "threshold is text": {"threshold": "high"},
    "threshold NaN": {"threshold": float("nan")},
    "threshold infinite": {"threshold": float("inf")},
    "threshold is a list": {"threshold": [0.5]},
    "threshold above 1": {"threshold": 7},
    "settings is a list": {"settings": []},
    "unknown setting": {"settings": {"wordz": 1}},
    "wrong setting": {"settings": {"words": "many"}},
    "calibration is a list": {"calibration": []},
    "calibration empty": {"calibration": {}},
    "spread 0": {"calibration.spreads": [0.0, 1.0, 1.0]},
    "too few spreads": {"calibration.spreads": [1.0]},
    "spreads not numbers": {"calibration.spreads": ["a", "b", "c"]},
    "sizes do not add up": {"calibration.sizes": [1]},
    "sizes of another number": {"calibration.sizes": [1, 1], "calibration.spreads": [1.0, 1.0]},
    "unknown combination": {"calibration.combine": "median"},
    "slope NaN": {"calibration.slope": float("nan")},
    "another digest": {"digest": "0123456789abcdef"},
    "digest is a number": {"digest": 5},
}


def use(folder: Path) -> None:
    found = TextMonitor(path=folder)
    assert found.sees == "scratchpad" and 0 <= found.threshold <= 1
    found.score(TEXTS)


def refused(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        use(folder)
    assert len(str(caught.value).splitlines()) == 1 and str(folder) in str(caught.value)


@pytest.mark.parametrize("damage", CARDS)
def test_a_damaged_card_is_one_line(monitor: Path, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(monitor, tmp_path / "m"))
    card = json.loads((folder / "monitor.json").read_text())
    for key, value in CARDS[damage].items():
        outer, _, inner = key.partition(".")
        if value is None:
            del card[outer]
        elif inner:
            card[outer][inner] = value
        else:
            card[outer] = value
    (folder / "monitor.json").write_text(json.dumps(card))
    refused(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", "5", '"x"', "9" * 5000, "[" * 100_000, "\x00", '{"kind": "text"}']
)
def test_a_card_that_is_none_is_one_line(monitor: Path, tmp_path: Path, text: str) -> None:
    folder = Path(shutil.copytree(monitor, tmp_path / "m"))
    (folder / "monitor.json").write_text(text)
    refused(folder)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def other_arrays(file: Path) -> None:
    save_file({name: array[:1] for name, array in load_file(file).items()}, file)


def no_arrays(file: Path) -> None:
    save_file({}, file)


@pytest.mark.parametrize("harm", [truncate, other_arrays, no_arrays, Path.unlink, lambda f: f.write_bytes(b"")])
@pytest.mark.parametrize("forged", [False, True])
def test_damaged_weights_are_one_line(
    monitor: Path, tmp_path: Path, harm: Callable[[Path], object], forged: bool
) -> None:
    folder = Path(shutil.copytree(monitor, tmp_path / "m"))
    harm(folder / FILE)
    if forged:  # the card says that these are its weights
        card = json.loads((folder / "monitor.json").read_text()) | {"digest": weights_digest(folder)}
        (folder / "monitor.json").write_text(json.dumps(card))
    refused(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"texts": 5, "prompts": []}', '{"texts": [[]], "prompts": []}', "{"])
def test_a_damaged_list_of_texts_seen_is_one_line(monitor: Path, tmp_path: Path, text: str) -> None:
    folder = Path(shutil.copytree(monitor, tmp_path / "m"))
    (folder / "seen.json").write_text(text)
    with pytest.raises(UserError, match=r"seen\.json") as caught:
        TextMonitor(path=folder).seen()
    assert "\n" not in str(caught.value)


def test_an_undamaged_copy_scores_the_same(monitor: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(monitor, tmp_path / "m"))
    assert (TextMonitor(path=copy).score(TEXTS) == TextMonitor(path=monitor).score(TEXTS)).all()


def test_a_retrained_monitor_may_start_from_settings_or_from_a_name() -> None:
    specs: dict[str, Any] = {
        "first": {"name": "text", "path": "m", "view": "output"},
        "named": {"name": "retrained", "start": "first"},
        "given": {"name": "retrained", "start": {"name": "text", "path": "m", "view": "scratchpad"}},
        "nobody": {"name": "retrained", "start": "who"},
    }
    assert [_view(name, specs) for name in specs] == ["output", "output", "scratchpad", "both"]
