"""Progress where no bar can be drawn: a log file says once a minute how far the work is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from crypsis.study.progress import Display
from crypsis.supervised import Progress

pytestmark = pytest.mark.unit


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("crypsis.study.progress.time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_a_minute(clock: list[float]) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=120)).counted("RL", 100) as show:
        for second in range(0, 200, 10):
            clock[0] = float(second)
            show(second // 2)
        assert out.getvalue().splitlines() == [
            "RL: 30 of 100 steps, 0:01:00",
            "RL: 60 of 100 steps, 0:02:00",
            "RL: 90 of 100 steps, 0:03:00",
        ]
    with Display(Console(file=out, width=120)).supervised("organism tgg") as on_step:
        clock[0] += 61
        on_step(Progress(step=7, steps=9, loss=0.5, tokens_per_second=1234.0))
    assert "organism tgg: step 7 of 9 · loss 0.500 · 1,234 tokens/s, 0:01:01\n" in out.getvalue()


def test_a_terminal_gets_bars_alone(clock: list[float]) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=120, force_terminal=True)).counted("RL", 4) as show:
        clock[0] = 1000.0
        show(2)
    assert "0:16:40" not in out.getvalue() and "2 of 4 steps" in out.getvalue()
