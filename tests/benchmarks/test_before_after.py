"""benchmarks/before_after.py: verdicts by hand, and two checkouts that write given figures, from command to table."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = """
import json, pathlib, sys
words = sys.argv[1:]
out = pathlib.Path(words[words.index("--out") + 1])
seed = int(words[words.index("--set") + 1].removeprefix("seed="))
assert pathlib.Path(__file__).parents[1] == pathlib.Path.cwd(), "runs in its checkout"
if {fails}:
    sys.exit("error: broken on purpose")
ate = {{"translation_m": {{"rmse": {ate} + 0.001 * seed}}}}
out.mkdir(parents=True, exist_ok=True)
with (out / "runs").open("a") as runs:
    runs.write("x")
(out / "metrics.json").write_text(json.dumps({{
    "path_length_m": {{"value": 1.5}},
    "fitted_scale": {{"value": {scale}}},
    "kitti": {{"alignments": {{"none": {{"t_rel_percent": None, "n_segments": 0, "covered_m": 0.0}}}}}},
    "ate": {{"alignments": {{"se3": ate, "sim3": ate}}}},
}}))
(out / "run.json").write_text(json.dumps({{"frames": 200, "loops_closed": 1, "frames_per_s": 5.0}}))
"""


@pytest.fixture
def before_after() -> ModuleType:
    """benchmarks/before_after.py."""
    return importlib.import_module("before_after")


def checkout(folder: Path, *, ate: float = 0.1, scale: float = 1.0, fails: bool = False) -> Path:
    """A checkout whose program writes these figures."""
    (folder / "metric_slam").mkdir(parents=True)
    (folder / "metric_slam" / "__init__.py").touch()
    (folder / "metric_slam" / "__main__.py").write_text(PROGRAM.format(ate=ate, scale=scale, fails=fails))
    return folder


def figure(before_after: ModuleType, name: str) -> object:
    return next(figure for figure in before_after.FIGURES if figure.name == name)


@pytest.mark.parametrize(
    "name, before, after, verdict",
    [
        ("t_rel %", [0.90, 1.00, 1.10], [1.05, 1.10, 1.15], "same"),
        ("t_rel %", [0.90, 1.00, 1.10], [1.25, 1.30, 1.35], "worse"),
        ("t_rel %", [0.90, 1.00, 1.10], [0.60, 0.60, 0.60], "better"),
        ("t_rel %", [0.400, 0.400], [0.404, 0.404], "same"),  # below the resolution
        ("t_rel %", [0.40], [0.50, 0.50], "worse (1 seed)"),
        ("t_rel %", [None, None], [0.5, 0.5], "–"),
        ("frames/s", [9.0, 9.0], [8.0, 8.0], "worse"),
        ("fitted scale", [1.01, 1.01], [0.995, 0.995], "better"),
        ("fitted scale", [0.99, 0.99], [1.02, 1.02], "worse"),
        ("loops closed", [1.0, 1.0], [3.0, 3.0], "–"),
    ],
)
def test_verdicts(before_after: ModuleType, name: str, before: list, after: list, verdict: str) -> None:
    assert before_after.compare(figure(before_after, name), before, after).verdict == verdict


def test_a_figure_that_neither_side_has_is_no_row(before_after: ModuleType) -> None:
    assert before_after.compare(figure(before_after, "t_rel %"), [None], []) is None


def test_every_compared_case_exists_for_both_presets(before_after: ModuleType) -> None:
    for name in before_after.COMPARED:
        for preset in before_after.PRESETS:
            assert before_after.case_of(name, preset).name.endswith(preset)


def test_two_checkouts_from_command_to_table(
    before_after: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = checkout(tmp_path / "old", ate=0.10), checkout(tmp_path / "new", ate=0.05, scale=1.02)
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "rgbd_dataset_freiburg1_rpy_200").mkdir(parents=True)
    words = ["--before", old, "--after", new, "--data", data, "--out", out]
    words += ["--cases", "rpy", "kitti04", "--presets", "fast", "--seeds", "0", "1"]
    assert before_after.main([str(word) for word in words]) == 0
    text = capsys.readouterr().out
    assert "skipped: kitti04" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    verdicts = {row[2]: row[3:] for row in rows if len(row) == len(before_after.HEADER)}
    assert verdicts["ATE SE(3) m"] == ["0.1005 ± 0.0005 (2)", "0.0505 ± 0.0005 (2)", "better"]
    assert verdicts["fitted scale"][2] == "worse" and "1 of " in text and "t_rel %" not in verdicts
    folder = out / "before" / "rpy-fast" / "1"
    assert json.loads((folder / "run.json").read_text())["frames"] == 200

    assert before_after.main([str(word) for word in words]) == 0
    assert (folder / "runs").read_text() == "x", "what is there is not run again"
    assert before_after.main([str(word) for word in [*words, "--fresh"]]) == 0
    assert (folder / "runs").read_text() == "xx"


def test_a_failed_run_is_reported(before_after: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = checkout(tmp_path / "old"), checkout(tmp_path / "new", fails=True)
    (tmp_path / "rgbd_dataset_freiburg1_rpy_200").mkdir()
    words = ["--before", old, "--after", new, "--data", tmp_path, "--out", tmp_path / "out", "--cases", "rpy"]
    assert before_after.main([str(word) for word in [*words, "--presets", "fast", "--seeds", "0"]]) == 1
    text = capsys.readouterr().out
    assert "after rpy-fast, seed 0: exit code 1, error: broken on purpose" in text
    assert "– |       – |" in text and "better" not in text.split("Better or worse")[0]
