"""Results are never overwritten silently, files appear whole, and mistakes name the remedy."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metric_slam.errors import OutputError
from metric_slam.run.results_folder import ResultsFolder, jsonable


def test_creates_nested_folders_and_removes_them_when_unused(tmp_path: Path) -> None:
    folder = ResultsFolder.prepare(tmp_path / "a" / "b" / "c")
    assert folder.path.is_dir()
    folder.discard_if_empty()
    assert list(tmp_path.iterdir()) == []


def test_a_used_folder_stays(tmp_path: Path) -> None:
    folder = ResultsFolder.prepare(tmp_path / "a" / "b")
    folder.write_text("run.json", "{}")
    folder.discard_if_empty()
    assert (tmp_path / "a" / "b" / "run.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["trajectory.tum", "run.json", "map.ply", "keyframes/000001.npz", "plots/drift.png"])
def test_existing_results_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(OutputError, match="--overwrite") as error:
        ResultsFolder.prepare(tmp_path)
    assert Path(name).name in str(error.value)
    assert (tmp_path / name).read_text() == "precious"


def test_overwrite_removes_results_and_nothing_else(tmp_path: Path) -> None:
    for name in ("run.json", "mesh.ply", "notes.txt", "keyframes/000001.npz", "plots/mine.svg", "plots/drift.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    folder = ResultsFolder.prepare(tmp_path, overwrite=True)
    assert (tmp_path / "run.json").exists(), "nothing may go before there is something new"
    folder.remove_old_results()
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["notes.txt", "plots/mine.svg"]
    assert not (tmp_path / "keyframes").exists()


def test_files_of_the_user_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    ResultsFolder.prepare(tmp_path).write_text("run.json", "{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "run.json"]


def test_a_failing_writer_leaves_no_half_file(tmp_path: Path) -> None:
    folder = ResultsFolder.prepare(tmp_path)
    with pytest.raises(ValueError, match="in the middle"), folder.whole_file("trajectory.tum") as path:
        assert path.suffix == ".tum"
        path.write_text("half")
        raise ValueError("in the middle")
    with pytest.raises(ValueError, match="in the middle"), folder.whole_files() as temporary:
        (temporary / "map.ply").write_text("half")
        raise ValueError("in the middle")
    assert list(tmp_path.iterdir()) == []


def test_a_group_of_files_moves_together(tmp_path: Path) -> None:
    folder = ResultsFolder.prepare(tmp_path)
    with folder.whole_files() as temporary:
        (temporary / "plots").mkdir()
        (temporary / "plots" / "drift.png").write_text("new")
        (temporary / "report.html").write_text("new")
        assert not (tmp_path / "report.html").exists()
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["plots/drift.png", "report.html"]


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for place in (file, file / "below"):
        with pytest.raises(OutputError, match="--out") as error:
            ResultsFolder.prepare(place)
        assert str(file) in str(error.value)
        assert "\n" not in str(error.value)


def test_json_has_null_where_there_is_no_number(tmp_path: Path) -> None:
    content = {"a": np.float32(1.5), "b": float("nan"), "c": [np.int64(3), np.inf], 4: (Path("x"), None, True)}
    ResultsFolder.prepare(tmp_path).write_json("run.json", content)
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "a": 1.5, "b": None, "c": [3, None], "4": ["x", None, True],
    }  # fmt: skip
    assert jsonable(np.array([[1, 2]])) == [[1, 2]]


# ---- two runs

HOLDER = """
import sys
from pathlib import Path
from metric_slam.run.results_folder import ResultsFolder
folder = ResultsFolder.prepare(Path(sys.argv[1]), overwrite=True)
(folder.path / ".partial-of-the-first").mkdir(exist_ok=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_until_the_other_process_is_gone(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            for again in ({}, {"overwrite": True}, {"resume": True}):
                with pytest.raises(OutputError, match="another run.*--out") as error:
                    ResultsFolder.prepare(tmp_path, **again)
                assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
            assert (tmp_path / ".partial-of-the-first").is_dir(), "its files are left alone"
            ResultsFolder.prepare(tmp_path / "below").release()
        finally:
            other.kill()  # no time to tidy up
    folder = ResultsFolder.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == [], "what the killed one left is removed, and the lock is no file"
    folder.release()


def test_a_folder_is_free_when_its_run_is_over(tmp_path: Path) -> None:
    folder = ResultsFolder.prepare(tmp_path / "a" / "b")
    with pytest.raises(OutputError, match="another run"):
        ResultsFolder.prepare(tmp_path / "a" / "b")
    folder.release()
    folder.release()
    assert list(tmp_path.iterdir()) == [], "created in vain"
    ResultsFolder.prepare(tmp_path).release()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OutputError, match="already holds results"):
        ResultsFolder.prepare(tmp_path)
    ResultsFolder.prepare(tmp_path, overwrite=True).release()


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    ResultsFolder.prepare(tmp_path).write_text("run.json", "{}")
    assert (tmp_path / "run.json").exists()
