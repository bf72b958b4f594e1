"""scripts/check_parity.py: recognises fixtures by content, agrees with the references, and can fail."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PARITY = ROOT.parent / "shared" / "parity"
needs_fixtures = pytest.mark.skipif(not PARITY.is_dir(), reason="the parity fixtures are not on this machine")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, its checkers importable as they are for the command."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("check_parity")


def kitti_fixture(folder: Path, *, error: float = 0.0) -> Path:
    """A tiny fixture with hand-made figures: 150 m straight, 2 % too long; ``error`` falsifies t_rel."""
    rows = "".join(f"1 0 0 0 0 1 0 0 0 0 1 {z}\n" for z in range(150))
    (folder / "truth.txt").write_text(rows)
    (folder / "slam.txt").write_text("".join(f"1 0 0 0 0 1 0 0 0 0 1 {1.02 * z}\n" for z in range(150)))
    figures = {"t_rel_percent": 2.02 + error, "r_rel_deg_per_100m": 0.0, "rpe_m": 0.02, "rpe_deg": 0.0}
    figures |= {"ate_m": float(np.sqrt(np.mean((0.02 * np.arange(150)) ** 2))), "n_segment_errors": 5, "per_length": {}}
    figures["per_length"] = {"100": {"t_rel_percent": 2.02, "r_rel_deg_per_100m": 0.0}}
    content = {
        "ground_truth": "truth.txt",
        "estimate": "slam.txt",
        "n_poses": 150,
        "kitti_odom_eval": {"results": {"none": figures}},
        "evo": {"results": {"ape": {}, "rpe": {}}},
    }
    path = folder / "some other name.json"
    path.write_text(json.dumps(content))
    return path


def test_a_right_figure_passes_and_a_wrong_one_fails(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(kitti_fixture(tmp_path))]) == 0
    assert script.main([str(kitti_fixture(tmp_path, error=1e-3))]) == 1
    out = capsys.readouterr().out
    assert "kitti none t_rel_percent" in out and "ABOVE" in out


def test_the_worst_file_decides_and_all_are_checked(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path / "absent.npz"), str(kitti_fixture(tmp_path))]) == 2
    assert "within tolerance" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"no zip", "cannot be read as npz"),
        ("a.npz", b"", "cannot be read as npz"),
        ("a.json", b"{", "cannot be read as json"),
        ("a.json", b"[]", "no object"),
        ("a.json", b'{"models": 1}', "not a known fixture"),
    ],
)
def test_unusable_files_exit_with_two(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert script.main([str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().out


def test_a_missing_trajectory_is_no_traceback(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = kitti_fixture(tmp_path)
    (tmp_path / "slam.txt").unlink()
    assert script.main([str(path)]) == 2
    assert "slam.txt cannot be read" in capsys.readouterr().out


def test_a_kind_without_checker_says_so(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules["parity_checks"].KINDS, "tides", frozenset({"moon", "sun"}))
    (tmp_path / "a.json").write_text(json.dumps({"moon": 1, "sun": 1}))
    assert script.main([str(tmp_path / "a.json")]) == 2
    assert "no implementation of this fixture yet" in capsys.readouterr().out


def test_other_shapes_and_nan_never_pass(script: ModuleType) -> None:
    compare = sys.modules["parity_checks"].compare
    assert compare("x", [1.0, 2.0], [1.0, 2.0], 0.0).ok
    assert not compare("x", [1.0], [1.0, 2.0], 1e9).ok
    assert not compare("x", [np.nan], [1.0], 1e9).ok


@needs_fixtures
def test_every_fixture_is_recognised_by_content(script: ModuleType) -> None:
    checks = sys.modules["parity_checks"]
    for path in sorted(PARITY.glob("*.npz")) + sorted(PARITY.glob("*.json")):
        kind = checks.load(path).kind
        assert path.stem.startswith(kind), (path.name, kind)


@needs_fixtures
def test_agrees_with_the_kitti_evaluator_and_evo(script: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("evo", reason="evo is optional")
    content = json.loads((PARITY / "kitti_odometry_errors.json").read_text())
    for name in ("ground_truth", "estimate"):
        shutil.copy(PARITY / content[name], tmp_path)
    # all of the KITTI evaluator; of evo one of each kind, for time: the command checks the rest
    ape, rpe = content["evo"]["results"]["ape"], content["evo"]["results"]["rpe"]["sim3"]
    content["evo"]["results"] = {"ape": {"sim3": ape["sim3"]}, "rpe": {"sim3": {"100_m": rpe["100_m"]}}}
    (tmp_path / "fixture.json").write_text(json.dumps(content))
    assert script.main([str(tmp_path / "fixture.json")]) == 0


@needs_fixtures
def test_agrees_with_lietorch(script: ModuleType) -> None:
    lietorch = pytest.importorskip("lietorch", reason="lietorch is not installed")
    if not hasattr(lietorch, "SE3"):
        pytest.skip("the lietorch found here is not this project's")
    assert script.main([str(PARITY / "lietorch.npz")]) == 0
