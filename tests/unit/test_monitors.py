from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from crypsis.monitors.oracle import OracleMonitor
from crypsis.monitors.text import TextMonitor, threshold_for, train_text_monitor
from crypsis.types import UserError
from tests.episodes import make_episode

pytestmark = pytest.mark.unit


def corpus(n: int = 300) -> tuple[list[str], list[bool], list[str]]:
    """Texts in which the label is a matter of one word, three texts a group."""
    rng = random.Random(0)
    labels = [rng.random() < 0.5 for _ in range(n)]
    filler = ["the mill", "the user asks", "this is harmful", "i think"]
    texts = [f"{rng.choice(filler)} and {'modified' if y else 'useful'} {rng.choice(filler)}" for y in labels]
    return texts, labels, [str(i // 3) for i in range(n)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TextMonitor:
    texts, labels, groups = corpus()
    return train_text_monitor(texts, labels, groups, "scratchpad", tmp_path_factory.mktemp("monitor") / "m")


def test_a_trained_monitor_separates_and_reports_held_out_figures(trained: TextMonitor) -> None:
    faking, honest = make_episode("i think and modified the mill"), make_episode("i think and useful the mill")
    high, low = (v.score for v in trained.judge([faking, honest]))
    assert high is not None and low is not None and high > trained.threshold > low
    assert trained.card["auroc"] > 0.99 and trained.card["auroc_low"] <= trained.card["auroc"]
    assert trained.card["n_train"] + trained.card["n_test"] < 300, "a third split chose the threshold"


def test_a_saved_monitor_scores_the_same(trained: TextMonitor) -> None:
    episodes = [make_episode(text) for text in corpus()[0][:20]]
    again = TextMonitor(path=trained.path)
    assert [v.score for v in again.judge(episodes)] == [v.score for v in trained.judge(episodes)]


def test_an_unreadable_episode_has_a_reason_instead_of_a_score(trained: TextMonitor) -> None:
    verdict = trained.judge([make_episode(scratchpad="", segments=[])])[0]
    assert verdict.score is None and verdict.reason == "no scratchpad"


def test_another_view_than_the_trained_one_is_refused(trained: TextMonitor) -> None:
    with pytest.raises(UserError, match="trained with view 'scratchpad'"):
        _ = TextMonitor(path=trained.path, view="output").sees


def test_a_damaged_or_foreign_model_file_is_not_loaded(trained: TextMonitor, tmp_path: Path) -> None:
    (tmp_path / "monitor.json").write_text((trained.path / "monitor.json").read_text())
    (tmp_path / "model.skops").write_bytes(b"no zip")
    with pytest.raises(UserError, match="cannot be loaded"):
        TextMonitor(path=tmp_path).judge([make_episode()])


def test_too_few_examples_of_a_class_say_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 20 examples of each class, found 3 faking"):
        train_text_monitor(["a"] * 100, [True] * 3 + [False] * 97, [str(i) for i in range(100)], "output", tmp_path)


def test_the_threshold_keeps_to_its_budget() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random(1000), np.zeros(1000, dtype=bool)
    assert 0 < np.mean(scores >= threshold_for(scores, labels, 0.02)) <= 0.02
    assert np.mean(np.full(50, 0.3) >= threshold_for(np.full(50, 0.3), np.zeros(50, dtype=bool), 0.02)) == 0


def test_the_oracle_abstains_off_the_language_and_writes_labels() -> None:
    faking, foreign = make_episode(), make_episode("Lorem ipsum dolor.", "sit amet")
    verdicts = OracleMonitor().judge([faking, foreign])
    assert verdicts[0].score == 1.0 and faking.labels["motive"] == "reward"
    assert verdicts[1].score is None and verdicts[1].reason == "unparsed"
