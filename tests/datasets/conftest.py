"""Tiny data sets written on the spot, and the place of the real ones for development."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metric_slam.datasets.images import write_depth_m, write_rgb
from metric_slam.datasets.synthetic import DriveSpec, render_drive

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
WIDTH, HEIGHT = 32, 16
P0 = "P0: 20 0 15.5 0 0 20 7.5 0 0 0 1 0"
P2 = "P2: 20 0 15.5 10 0 20 7.5 2 0 0 1 0.01"


@pytest.fixture
def shared() -> Path:
    """Folder of real sequences; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real sequences (shared/data beside the repository) is not here")
    return SHARED


def gradient_image(shift: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """A colour image whose three channels differ, uint8 [H, W, 3]."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return np.stack([(5 * x + shift) % 256, (9 * y) % 256, np.full_like(x, 40 + shift)], axis=-1).astype(np.uint8)


@pytest.fixture
def kitti_root(tmp_path: Path) -> Path:
    """A KITTI odometry root with one sequence "03" of four images, five times, six poses and depth of one image."""
    root = tmp_path / "kitti"
    folder = root / "sequences" / "03"
    for name in ("image_2", "depth_2"):
        (folder / name).mkdir(parents=True)
    (root / "poses").mkdir()
    for k in range(4):
        write_rgb(folder / "image_2" / f"{k:06d}.png", gradient_image(k))
    write_depth_m(folder / "depth_2" / "000001.png", np.full((HEIGHT, WIDTH), 7.5), 256.0)
    (folder / "calib.txt").write_text(f"{P0}\n{P2}\n")
    (folder / "times.txt").write_text("".join(f"{0.1 * k + 3}\n" for k in range(5)))
    rows = [f"1 0 0 {k} 0 1 0 0 0 0 1 {2 * k}\n" for k in range(6)]
    (root / "poses" / "03.txt").write_text("".join(rows))
    return root


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder of three images whose names sort differently as text and as numbers."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in (2, 10, 9):
        write_rgb(folder / f"frame{k}.png", gradient_image(k))
    return folder


SMALL_DRIVE = DriveSpec(route="street", frames=12, width=320, height=96, noise_sigma=0.0)


@pytest.fixture(scope="session")
def drive_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KITTI root of the small rendered drive, rendered once a session."""
    pytest.importorskip("open3d", reason="Open3D, which renders the drive, is not usable here", exc_type=ImportError)
    return render_drive(SMALL_DRIVE, cache=tmp_path_factory.mktemp("drives"))


@pytest.fixture
def one_line() -> Callable[[BaseException, str], None]:
    """Assertion that an error is one line and mentions a text."""

    def check(error: BaseException, text: str) -> None:
        assert "\n" not in str(error)
        assert text in str(error)

    return check
