from __future__ import annotations

import numpy as np
import pytest

from metric_slam.datasets.synthetic.atlas import ATLAS_WIDTH, AtlasBuilder


def _sample(image: np.ndarray, uv: np.ndarray, du: tuple[float, float], dv: tuple[float, float]) -> np.ndarray:
    builder = AtlasBuilder()
    builder.add(np.full((100, 90, 3), 255, np.uint8))
    rect = builder.add(image)
    builder.add(np.full((100, 90, 3), 255, np.uint8))
    count = len(uv)
    return builder.build().sample(
        (uv + rect[:2]).astype(np.float32),
        np.tile(np.array(rect, np.float32), (count, 1)),
        np.tile(np.array(du, np.float32), (count, 1)),
        np.tile(np.array(dv, np.float32), (count, 1)),
    )


def test_small_footprints_interpolate() -> None:
    ramp = np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], 80, axis=0).repeat(3, axis=2)
    u = np.linspace(3, 96, 200)
    got = _sample(ramp, np.stack([u, np.full_like(u, 40)], axis=1), (0.5, 0), (0, 0.5))
    # the centre of texel k is at k + 0.5
    np.testing.assert_allclose(got[:, 1], 2 * (u - 0.5), atol=0.6)


@pytest.mark.parametrize("footprint", [2.0, 4.0, 7.0, 16.0])
def test_mip_levels_keep_positions(footprint: float) -> None:
    ramp = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], 128, axis=0).repeat(3, axis=2)
    u = np.linspace(32, 96, 50)
    got = _sample(ramp, np.stack([u, np.full_like(u, 64)], axis=1), (footprint, 0), (0, footprint))
    np.testing.assert_allclose(got[:, 0], 2 * (u - 0.5), atol=0.8)


def test_wide_footprints_average() -> None:
    checks = ((np.indices((256, 256)).sum(axis=0) // 2) % 2 * 200).astype(np.uint8)[..., None].repeat(3, axis=2)
    uv = np.random.default_rng(0).uniform(60, 190, (300, 2))
    assert _sample(checks, uv, (0.5, 0), (0, 0.5)).std() > 60
    np.testing.assert_allclose(_sample(checks, uv, (16, 0), (0, 16)), 100, atol=8)


def test_long_footprints_blur_only_along_themselves() -> None:
    row = ((np.arange(256) // 8) % 2 * 200).astype(np.uint8)
    stripes = np.tile(row[None, :, None], (256, 1, 3))
    u = np.arange(48, 200) + 0.5
    uv = np.stack([u, np.full_like(u, 128)], axis=1)
    truth = stripes[0, np.floor(u).astype(int), 0]
    np.testing.assert_allclose(_sample(stripes, uv, (1, 0), (0, 8))[:, 0], truth, atol=1)
    across = _sample(stripes, uv, (32, 0), (0, 1))[:, 0]
    assert across.std() < 20 < truth.std()


def test_neighbours_never_shine_through() -> None:
    black = np.zeros((70, 75, 3), np.uint8)
    edge = np.array([[0.0, 0.0], [75, 70], [0, 70], [75, 0], [37, 0], [-3, 80]])
    for footprint in (0.5, 4.0, 40.0):
        assert _sample(black, edge, (footprint, 0), (0, footprint)).max() == 0


def test_shelves_do_not_overlap() -> None:
    builder, rng = AtlasBuilder(), np.random.default_rng(1)
    used = np.zeros((20000, ATLAS_WIDTH), bool)
    for _ in range(40):
        height, width = int(rng.integers(1, 500)), int(rng.integers(1, 4000))
        x0, y0, x1, y1 = builder.add(np.zeros((height, width, 3), np.uint8))
        assert (x1 - x0, y1 - y0) == (width, height) and x1 <= ATLAS_WIDTH
        assert not used[y0:y1, x0:x1].any()
        used[y0:y1, x0:x1] = True
