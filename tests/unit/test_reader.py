"""The reader on tiny random language models that are made here."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from crypsis.arrays import States
from crypsis.monitors import reader
from crypsis.monitors.reader import DEFAULT_BASE, ReaderMonitor, ReaderTrainer, discriminant, open_reader, pooled_states
from crypsis.monitors.trained import train_monitor
from crypsis.types import UserError
from tests.checkpoints import save_checkpoint
from tests.episodes import make_episode
from tests.monitors import texts_and_labels, tiny_encoder

pytestmark = pytest.mark.unit

TEXT = "tell me how to burn the mill of the baron at dawn"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYPSIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reader_states.sqlite"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("models") / "llama", "llama", num_hidden_layers=5)


def train(base: Path, folder: Path, n: int = 120) -> ReaderTrainer:
    texts, labels = texts_and_labels(n)
    trainer = ReaderTrainer(base=str(base))
    card = train_monitor(trainer, texts, labels, [str(i) for i in range(n)], "scratchpad", folder)
    assert card["kind"] == "reader" and card["auroc"] > 0.9
    return trainer


def test_a_reader_is_trained_saved_and_scores_the_same(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "m")
    episodes = [make_episode(text) for text in texts_and_labels(10, seed=1)[0]]
    first, again = (ReaderMonitor(path=tmp_path / "m").judge(episodes) for _ in range(2))
    assert first == again and len({v.score for v in first}) > 5
    assert ReaderMonitor(path=tmp_path / "m").judge(episodes[3:4]) == first[3:4], "texts beside it change a score"
    files = {p.name for p in (tmp_path / "m").iterdir() if not p.name.startswith(".")}
    assert {"model.safetensors", "base.txt", "monitor.json"} <= files and not any(n.endswith(".pkl") for n in files)


def test_a_saved_reader_refuses_another_model(base: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(base, tmp_path / "own"))
    train(own, tmp_path / "m")
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(own)
        next(model.parameters()).add_(0.1)
        model.save_pretrained(own)
    with pytest.raises(UserError, match=r"m: reads with another model \(\w+\) than .*own is \(\w+\); train it again"):
        ReaderMonitor(path=tmp_path / "m").judge([make_episode(TEXT)])


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_states_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "model", kind, num_hidden_layers=5)
    found = open_reader(str(base), "", (0.2, 0.6))
    ids = found.tokenizer(TEXT)["input_ids"]
    whole = AutoModelForCausalLM.from_pretrained(base)(torch.tensor([ids]), output_hidden_states=True).hidden_states
    expected = torch.stack([whole[1][0], whole[3][0]])
    assert torch.allclose(found.states(ids), expected, atol=1e-5)


def test_rare_tokens_weigh_more_and_the_first_one_nothing(base: Path) -> None:
    found = open_reader(str(base), "", (0.4,))
    text = f"{TEXT}! zq"
    ids = np.array(found.tokenizer(text)["input_ids"])
    assert (ids[1:] < 256).any() and (ids[1:] > 256).any()
    states = found.states(ids.tolist())[0].numpy()[1:]
    unit = states / np.sqrt((states**2).mean(axis=1, keepdims=True) + 1e-6)
    weights = np.log(np.maximum(ids[1:], 256) / 256) + 1e-3
    np.testing.assert_allclose(found.read(text, 100)[0], weights @ unit / weights.sum(), rtol=1e-4, atol=1e-5)


def test_of_a_long_text_the_end_is_read(base: Path) -> None:
    found = open_reader(str(base), "", (0.4,))
    end = str(found.tokenizer.decode(found.tokenizer(TEXT)["input_ids"][-8:]))
    np.testing.assert_array_equal(found.read(f"{TEXT} {TEXT}", 8), found.read(end, 8))
    assert np.isfinite(found.read("", 8)).all(), "an empty text has states, too"


def test_a_text_is_read_once_and_a_changed_model_reads_again(
    base: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = reader.Reader.read

    def counted(self: reader.Reader, text: str, longest: int) -> States:
        read.append(text)
        return original(self, text, longest)

    monkeypatch.setattr(reader.Reader, "read", counted)
    first = pooled_states(["a b", "c d", "a b"], str(base), (0.4,), 64)
    assert read == ["a b", "c d"] and np.array_equal(first[0], first[2]) and not np.array_equal(first[0], first[1])
    np.testing.assert_array_equal(pooled_states(["c d", "a b"], str(base), (0.4,), 64), first[1::-1])
    assert read == ["a b", "c d"], "what is on disk was read again"
    moved = shutil.copytree(base, tmp_path / "moved")
    pooled_states(["a b"], str(moved), (0.4,), 64)
    assert len(read) == 2, "the same model at another place was taken for another"
    pooled_states(["a b"], str(base), (0.2, 0.4), 64)
    pooled_states(["a b"], str(base), (0.4,), 63)
    pooled_states(["a b"], str(save_checkpoint(tmp_path / "other", "qwen3", num_hidden_layers=5)), (0.4,), 64)
    assert read[2:] == ["a b"] * 3
    with sqlite3.connect(own_cache) as database:
        assert database.execute("select count(*) from states").fetchone() == (5,)
    assert b"a b" not in own_cache.read_bytes()


def test_a_damaged_cache_is_one_line(base: Path, own_cache: Path) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text("this is no database, whatever its name says" * 9)
    with pytest.raises(UserError, match=r"reader_states\.sqlite: cannot be used \(.*\); delete it to start anew"):
        pooled_states(["a"], str(base), (0.4,), 64)


def test_what_is_no_causal_language_model_is_one_line(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tiny_encoder(tmp_path / "encoder", ["one two three four"])
    with pytest.raises(UserError, match="encoder: is no causal language model") as caught:
        ReaderTrainer(base=str(encoder)).represent(["one"])
    assert "\n" not in str(caught.value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{DEFAULT_BASE}: no such folder; .*crypsis model import smollm2"):
        ReaderTrainer().represent(["one"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: has no tokenizer"):
        ReaderTrainer(base="empty").represent(["one"])


def test_the_discriminant_is_that_of_the_leading_components() -> None:
    """In the space of all leading components it is least squares; noise behind them has no say."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2 == 0
    strong = rng.normal(size=(40, 3)) * 10 + np.where(labels, 4, -4)[:, None] * np.array([1, 0, 0])
    states = np.concatenate([strong, np.where(labels, 1e-3, -1e-3)[:, None]], axis=1)
    states -= states.mean(axis=0)
    slope = discriminant(states, labels, 3)
    signs = np.where(labels, 1.0, -1.0)
    expected = np.linalg.lstsq(states[:, :3], signs - signs.mean(), rcond=None)[0]
    np.testing.assert_allclose(slope[:3], expected, atol=1e-3)
    assert abs(slope[3]) < 1e-3 and abs(discriminant(states, labels, 4)[3]) > 100
    assert np.count_nonzero(discriminant(np.zeros((40, 4)), labels, 3)) == 0
