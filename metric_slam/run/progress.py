"""The terminal during a run: a progress bar with speed, and Ctrl-C.

SIGTERM, with which a batch system or a container ends a program, has the effect of Ctrl-C: during tracking the run is
finished with the frames so far, later the current step is skipped. The command then ends with exit code 130.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

logger = logging.getLogger(__name__)

LOG_EVERY_S = 30.0
"""Without a terminal, seconds between two lines of progress."""


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


class StageProgress:
    """Progress of one stage: a bar on a terminal, a log line every half minute elsewhere, from the first update on."""

    def __init__(self, name: str, total: int, bar: Progress | None) -> None:
        self._name, self._total, self._bar = name, total, bar
        self._task = bar.add_task(name, total=total) if bar is not None else None
        self._start = self._last_line = time.monotonic()

    def update(self, done: int, total: int | None = None) -> None:
        """Show that ``done`` items of ``total`` (unchanged if None) are finished."""
        self._total = self._total if total is None else total
        if self._bar is not None and self._task is not None:
            self._bar.start()
            self._bar.update(self._task, completed=done, total=self._total)
            return
        now = time.monotonic()
        if now - self._last_line >= LOG_EVERY_S:
            self._last_line = now
            rate = done / (now - self._start)
            logger.info("%s: %d of %d, %.1f/s", self._name, done, self._total, rate)


@contextmanager
def show_progress(name: str, total: int, console: Console | None) -> Iterator[StageProgress]:
    """Show the progress of a stage of ``total`` items; a bar only where ``console`` is a terminal."""
    if console is None or not console.is_terminal:
        yield StageProgress(name, total, None)
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(compact=True),
    )
    bar = Progress(*columns, console=console)
    try:
        yield StageProgress(name, total, bar)
    finally:
        bar.stop()


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C (SIGINT) or SIGTERM sets; a second one raises KeyboardInterrupt.

    The first one thus never interrupts the middle of a step. Outside the main thread no handler can be installed, and
    the event stays clear.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        name = signal.Signals(number).name
        logger.warning("%s: finishing with the frames so far; press Ctrl-C again to abort", name)

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt inside the block, as SIGINT does, so that results are written.

    Outside the main thread no handler can be installed. A handler that the caller has set stays.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
