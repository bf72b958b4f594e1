"""A bar on a terminal, an occasional line elsewhere, and nothing before there is something to tell."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from metric_slam import progress
from metric_slam.progress import show_progress


def terminal() -> Console:
    """A terminal that is a string."""
    return Console(file=io.StringIO(), force_terminal=True, width=80)


def text_of(console: Console) -> str:
    """What was written to it."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_bar_on_a_terminal() -> None:
    console = terminal()
    with show_progress("tracking", 5, console) as stage:
        stage.update(3)
        stage.update(4, 8)
    assert "tracking" in text_of(console) and "4/8" in text_of(console)


def test_nothing_before_the_first_update() -> None:
    console = terminal()
    with show_progress("rendering", 0, console):
        pass
    assert text_of(console) == ""


def test_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="metric_slam")
    with show_progress("tracking", 5, Console(file=io.StringIO())) as stage:
        stage.update(1)
        assert caplog.messages == []
        monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
        stage.update(2)
    assert caplog.messages[0].startswith("tracking: 2 of 5, ")
