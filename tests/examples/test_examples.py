"""Every example runs as it stands, on a few frames."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """One short drive is rendered for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METRIC_SLAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield None


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "result")] if "--out" in example.read_text() else []
    monkeypatch.setattr(sys, "argv", [str(example), "--frames", "12", *out])
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.strip()
    found = re.search(r"(\d+\.\d+) m, true (\d+\.\d+) m", printed)
    if found is not None:
        estimate_m, true_m = map(float, found.groups())
        assert estimate_m == pytest.approx(true_m, rel=0.15), printed


def test_the_ladder_is_on_the_page_of_examples() -> None:
    page = (ROOT / "examples" / "README.md").read_text()
    assert all(example.name in page for example in EXAMPLES), "examples/README.md lists every example"
