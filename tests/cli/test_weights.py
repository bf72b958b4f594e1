"""``metric-slam weights`` and the doctor's line about weights, as a user meets them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from metric_slam.cli import doctor
from metric_slam.weights import released as weights
from tests.conftest import CliResult

Cli = Callable[..., CliResult]

CONTENT = b"weights of a network" * 100


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder; ``droid`` means CONTENT and has no mirror that answers."""
    droid = replace(
        weights.released("droid"),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size_bytes=len(CONTENT),
        urls=("http://127.0.0.1:9/droid.pth",),
    )
    entries = (droid, *weights.RELEASED[1:])
    monkeypatch.setattr("metric_slam.weights.released.RELEASED", entries)
    monkeypatch.setattr("metric_slam.cli.weights.RELEASED", entries)
    monkeypatch.setenv("METRIC_SLAM_WEIGHTS", str(tmp_path / "kept"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


def line_of(result: CliResult, name: str) -> str:
    """The row of the table that starts with ``name``."""
    return next(line for line in result.out.splitlines() if line.split()[:1] == [name])


def test_list_says_where_everything_is_or_belongs(cli: Cli, folder: Path) -> None:
    result = cli("weights", "list")
    assert result.code == 0 and result.err == ""
    assert cli("weights").out == result.out
    assert "not here" in line_of(result, "droid") and "--correspondence droid" in line_of(result, "droid")
    assert "BSD-3-Clause" in line_of(result, "droid")
    for entry in weights.RELEASED:
        assert str(folder / entry.file_name) in result.out and entry.page in result.out
        assert (entry.used_by or "not used yet") in line_of(result, entry.name)
    (folder / "droid.pth").write_bytes(CONTENT)
    assert "verified" in line_of(cli("weights", "list"), "droid")
    (folder / "droid.pth").write_bytes(b"")
    assert "wrong" in line_of(cli("weights", "list"), "droid")


def test_verify_exits_with_one_where_a_file_is_not_what_was_published(cli: Cli, folder: Path) -> None:
    nothing = cli("weights", "verify")
    assert nothing.code == 0 and "nothing needs them" in nothing.out
    (folder / "droid.pth").write_bytes(CONTENT)
    for arguments in ((), ("droid",), ("droid.pth",)):
        good = cli("weights", "verify", *arguments)
        assert good.code == 0 and good.out == f"verified  {folder / 'droid.pth'}  sha256 agrees\n"
    Path("droid.pth").write_bytes(CONTENT[1:])
    other = cli("weights", "verify", "droid", "--file", "droid.pth")
    assert other.code == 1 and other.out.startswith("wrong     droid.pth  1,999 bytes")
    (folder / "droid.pth").write_bytes(CONTENT[::-1])
    assert cli("weights", "verify").code == 1


def test_mistakes_are_one_line(cli: Cli, folder: Path) -> None:
    missing = cli("weights", "verify", "droid").error_line
    assert str(folder / "droid.pth") in missing and "metric-slam weights download droid" in missing
    assert "choose from droid" in cli("weights", "verify", "dorid").error_line
    assert "choose from droid" in cli("weights", "download", "dorid").error_line
    assert "no weights at nowhere.pth" in cli("weights", "verify", "droid", "--file", "nowhere.pth").error_line
    assert "NAME" in cli("weights", "verify", "--file", "nowhere.pth").error_line
    assert "--help" in cli("weights", "burn").error_line


def test_download_without_a_network_says_what_to_do_by_hand(cli: Cli, folder: Path) -> None:
    for arguments in ((), ("droid",)):
        line = cli("weights", "download", *arguments).error_line
        assert "no connection" in line and weights.released("droid").page in line
        assert line.endswith(f"put it at {folder / 'droid.pth'}")
    assert not list(folder.iterdir())


def test_download_says_where_the_file_is(cli: Cli, folder: Path) -> None:
    (folder / "droid.pth").write_bytes(CONTENT)
    result = cli("weights", "download")
    assert result.code == 0 and str(folder / "droid.pth") in result.out and "BSD-3-Clause" in result.out


def test_the_doctor_has_a_line_about_weights(folder: Path) -> None:
    def check() -> doctor.Check:
        return next(c for c in doctor.run_checks() if c.name == "weights")

    patch = pytest.MonkeyPatch()
    patch.setattr("metric_slam.cli.doctor._open3d", lambda: doctor.Check("open3d", "ok", ""))  # takes seconds
    try:
        assert (check().status, check().detail) == ("ok", "none; nothing needs them")
        (folder / "droid.pth").write_bytes(CONTENT)
        assert check().status == "ok" and "sha256 agrees" in check().detail
        (folder / "droid.pth").write_bytes(CONTENT[1:])
        assert check().status == "warning" and "metric-slam weights download droid" in check().detail
    finally:
        patch.undo()
