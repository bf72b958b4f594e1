"""Global bundle adjustment: on all cells or some, with the depths that follow."""

from __future__ import annotations

import numpy as np
import pytest

from metric_slam.backend import Backend
from metric_slam.config import BackendConfig, BundleAdjustmentConfig
from metric_slam.segments import Segments
from tests.test_factor_graph import PAIRS, TRUE_CENTRES, centres, disturb, make_graph, scale_of


def make(**config: float) -> tuple:
    store, graph = make_graph()
    graph.match_pairs(PAIRS)
    segments = Segments()
    segments.begin(0)
    return store, Backend(store, graph, segments, BackendConfig(iterations=25, **config), BundleAdjustmentConfig())


@pytest.mark.parametrize("every_cell", [True, False])
def test_disturbed_keyframes_come_back(every_cell: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    store, backend = make()
    if not every_cell:
        monkeypatch.setattr(backend, "_affordable_step", lambda edges: 2)
    depths = [k.inv_depth.copy() for k in store]
    disturb(store)
    before = np.abs(centres(store) - TRUE_CENTRES).max()
    assert backend.optimise().status in ("converged", "max_iterations")
    scale = scale_of(store)
    assert np.abs(centres(store) / scale - TRUE_CENTRES).max() < 0.15 * before
    confidence = backend._graph.confidence_of(1) > 0.5
    ratio = (store[1].inv_depth * scale / depths[1])[confidence]
    assert np.abs(np.median(ratio) - 1) < 0.03 and np.percentile(np.abs(ratio - 1), 80) < 0.05


def test_memory_decides_how_many_cells_take_part() -> None:
    _, backend = make(max_cells=100_000)
    backend._store.camera = backend._store.camera.resized(960, 288)
    cells = 120 * 36
    assert backend._affordable_step(100_000 // cells) == 1
    assert backend._affordable_step(2 * 100_000 // cells) == 2
    assert backend._affordable_step(10**9) == 4, "a grid is left to solve on"


def test_depths_settle_with_the_poses_fixed() -> None:
    store, backend = make()
    poses, depth = store.poses(0, 4), store[2].inv_depth.copy()
    store[2].inv_depth = depth * 1.1
    backend.settle_depths()
    np.testing.assert_array_equal(store.poses(0, 4), poses)
    seen = backend._graph.confidence_of(2) > 0.5
    assert np.median(np.abs(store[2].inv_depth[seen] / depth[seen] - 1)) < 0.02


def test_one_keyframe_is_nothing_to_do() -> None:
    store, graph = make_graph()
    backend = Backend(store, graph, Segments(), BackendConfig(), BundleAdjustmentConfig())
    assert backend.optimise().status == "nothing_to_do"
