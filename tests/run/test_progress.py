"""A bar on a terminal, an occasional line elsewhere, nothing before there is something to tell; Ctrl-C and SIGTERM."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from metric_slam.run import progress
from metric_slam.run.progress import show_progress, sigterm_as_ctrl_c, stop_on_signal
from metric_slam.trajectory import read_kitti
from tests.fake_slam import write_kitti_sequence

ROOT = Path(__file__).resolve().parents[2]


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


# ---- signals

COMMAND = """
import sys, time
from types import ModuleType, SimpleNamespace
from tests.fake_slam import FakeSlam
from metric_slam.cli.main import main

slam, process = FakeSlam(), FakeSlam.process_frame

def slow(frame):
    process(slam, frame)
    print("frame", flush=True)
    time.sleep(0.2)

slam.process_frame = slow
sys.modules["metric_slam.slam"] = module = ModuleType("metric_slam.slam")
module.Slam = type("Slam", (), {"for_dataset": staticmethod(lambda dataset, config, disk=None: slam)})
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_end_writes_what_it_has(tmp_path: Path, number: signal.Signals) -> None:
    root, out = write_kitti_sequence(tmp_path / "kitti", 60), tmp_path / "out"
    words = [sys.executable, "-c", COMMAND, "run", str(root), "--seq", "07", "--out", str(out), "--no-fusion"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        for _ in range(3):
            assert process.stdout.readline() == b"frame\n", process.stderr.read().decode()
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors.decode()
    assert 3 <= len(read_kitti(out / "trajectory_kitti.txt")) < 60
    assert (out / "run.json").is_file() and (out / "state" / "state.npz").is_file()
    assert number.name in errors.decode() and "Traceback" not in errors.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_one_ends(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        os.kill(os.getpid(), number)
        assert stop.wait(5.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(5.0)
    assert signal.getsignal(number) == before


def test_sigterm_interrupts_what_is_at_work() -> None:
    with sigterm_as_ctrl_c(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5.0)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_caller_stays() -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with sigterm_as_ctrl_c():
            os.kill(os.getpid(), signal.SIGTERM)
        assert told == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_are_no_obstacle() -> None:
    clear: list[bool] = []

    def work() -> None:
        with sigterm_as_ctrl_c(), stop_on_signal() as stop:
            clear.append(not stop.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert clear == [True]
