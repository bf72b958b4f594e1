"""The factor graph with an accelerator: problems and answers are those without, and matches stay on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from metric_slam.config.schema import BundleAdjustmentConfig, GlobalBaConfig
from metric_slam.correspondence.base import Correspondence, EdgeQuery, packed, unpacked
from metric_slam.disk_store import DiskArray
from metric_slam.graph.factor_graph import BaselineFactor, FactorGraph
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.keyframes import Keyframe, KeyframeStore
from metric_slam.graph.moving_mask import mask_all_moving, mask_moving
from metric_slam.graph.submaps import Submaps
from metric_slam.grid_array import on_host
from metric_slam.optimization.bundle_adjustment import BaWindow, solve_window
from metric_slam.optimization.cuda.kernels import Accelerator
from tests.ba_problems import disturbed, true_window
from tests.device_guard import noticed, unnoticed
from tests.table_network import CAMERA

N = 4
TOLERANCE = 1e-6
_GRID = CAMERA.grid()
MAPS = ("inv_depth", "flow_target", "confidence", "prior_depth_m", "prior_weight", "depth_damping")
"""Fields of a window that lie on the device."""


class Told:
    """A matcher that answers with a fixed match, and remembers what it was asked."""

    name, recurrent = "told", False

    def __init__(self) -> None:
        self.asked: list[EdgeQuery] = []

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """Each cell where it was predicted."""
        self.asked += edges
        return [Correspondence(edge.predicted, np.full((_GRID.height, _GRID.width), 0.5)) for edge in edges]


def problem() -> BaWindow:
    """Four keyframes with priors, some of them disturbed."""
    return disturbed(true_window(N, _GRID.height, _GRID.width))


def make_graph(
    accelerator: Accelerator | None, *, prior: bool = True, axes: int = 2, **config: object
) -> tuple[KeyframeStore, FactorGraph]:
    """The problem as store and graph; ``axes`` of its confidences."""
    window, store = problem(), KeyframeStore(CAMERA)
    assert window.prior_depth_m is not None and window.prior_weight is not None
    image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    for n in range(N):
        known = float(prior) * (window.prior_depth_m[n] > 0)
        maps = window.prior_depth_m[n] * known, known, window.prior_weight[n] * known
        store.append(Keyframe(n, 0.1 * n, image, f"image {n}", None, window.poses[n], window.inv_depth[n], *maps))
    store[1].depth_damping = np.full((_GRID.height, _GRID.width), 0.01)
    graph = FactorGraph(store, Told(), BundleAdjustmentConfig(**config), window.scale_sigma, accelerator)
    for e, (i, j) in enumerate(zip(window.source.tolist(), window.target.tolist(), strict=True)):
        confidence = window.confidence[e] if axes == 2 else window.confidence[e, ..., 0]
        graph.add_matched(i, j, Correspondence(window.flow_target[e], confidence))
    graph.set_baseline(BaselineFactor(0, 1, 0.4, 0.05))
    return store, graph


def backend_of(store: KeyframeStore, graph: FactorGraph) -> GlobalBundleAdjustment:
    submaps = Submaps()
    submaps.begin(0, None)
    return GlobalBundleAdjustment(store, graph, submaps, GlobalBaConfig(), BundleAdjustmentConfig())


def same_maps(found: KeyframeStore, expected: KeyframeStore, tolerance: float = TOLERANCE) -> None:
    """The same poses, depths and scales."""
    np.testing.assert_allclose(found.poses(0, N), expected.poses(0, N), atol=tolerance)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.inv_depth, other.inv_depth, atol=tolerance)
        assert isinstance(one.inv_depth, np.ndarray) and one.inv_depth.base is None
        assert one.prior_log_scale == pytest.approx(other.prior_log_scale, abs=tolerance)


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("axes", [1, 2])
def test_problems_are_those_of_the_host(accelerator: Accelerator, step: int, axes: int) -> None:
    store, graph = make_graph(accelerator, axes=axes)
    _, on_cpu = make_graph(None, axes=axes)
    for one in (graph, on_cpu):
        one.evict_before(2)  # some matches come from the disk
        one.set_matches(3, 1, unpacked(on_cpu.matches_of(2, 3)[..., :3]))  # one that has other channels
    store.evict_before(1)
    found, expected = (one.window([2, 0, 1, 3], {0}, cell_step=step, depth_free={1, 2}) for one in (graph, on_cpu))
    for name, value in vars(expected).items():
        if name in MAPS:
            tensor = getattr(found, name)
            assert isinstance(tensor, torch.Tensor) and tensor.device == accelerator.device and tensor.is_contiguous()
            assert tensor.dtype == (torch.float32 if name in ("flow_target", "confidence") else torch.float64)
            np.testing.assert_allclose(on_host(tensor), value, rtol=1e-6, atol=1e-6)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(found, name), value)
    for name, value in vars(expected.baselines).items():
        np.testing.assert_array_equal(getattr(found.baselines, name), value)


@pytest.mark.parametrize(
    "config",
    [{}, {"solver": "gauss_newton", "flow_sigma_px": 253.0, "flow_loss": "none", "prior_mode": "droid"}],
    ids=["levenberg_marquardt", "as DROID-SLAM"],
)
def test_a_solve_gives_what_the_host_gives(accelerator: Accelerator, config: dict[str, object]) -> None:
    (store, graph), (expected, on_cpu) = (make_graph(a, **config) for a in (accelerator, None))
    before = store.poses(0, N), [k.inv_depth.copy() for k in store]
    reports = [one.solve(0, N, {0}, 3) for one in (graph, on_cpu)]
    assert reports[0].status == reports[1].status and reports[0].iterations == reports[1].iterations
    same_maps(store, expected)
    assert (store.poses(1, N) != before[0][1:]).any() and (store[2].inv_depth != before[1][2]).any()
    assert graph.status_counts == on_cpu.status_counts


def test_a_solve_uploads_what_is_new_and_downloads_once(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, graph = make_graph(accelerator)
    uploaded: list[int] = []

    def solving(*arguments: object, **options: object) -> object:
        with unnoticed():  # what it downloads is its own affair
            return solve_window(*arguments, **options)

    def counting(self: Accelerator, array: object, dtype: object = None) -> torch.Tensor:
        if isinstance(array, np.ndarray):
            uploaded.append(array.size)
        return upload(self, array, dtype)

    graph.solve(0, N, {0}, 1)
    upload = Accelerator.upload
    monkeypatch.setattr("metric_slam.graph.factor_graph.solve_window", solving)
    monkeypatch.setattr(Accelerator, "upload", counting)
    window = graph.window(range(N), {0})
    assert not uploaded, "everything is there"
    assert window.inv_depth.shape == (N, _GRID.height, _GRID.width)
    with noticed(accelerator.device, may_wait=True) as called:
        graph.solve(0, N, {0}, 1)
    assert called == ["cpu", "numpy"]


def test_matches_live_on_the_device_until_they_retire(accelerator: Accelerator) -> None:
    store, graph = make_graph(accelerator)
    _, on_cpu = make_graph(None)
    pairs = [tuple(pair) for pair in graph.pairs().tolist()]
    edges = {pair: graph._edges[pair[0]][pair[1]] for pair in pairs}
    assert all(isinstance(edge.matches, torch.Tensor) for edge in edges.values())
    np.testing.assert_array_equal(graph.confidence_of(1), on_cpu.confidence_of(1))
    graph.evict_before(2)
    assert isinstance(edges[0, 1].matches, DiskArray) and isinstance(edges[2, 1].matches, torch.Tensor)
    for pair in pairs:
        np.testing.assert_array_equal(graph.matches_of(*pair), on_cpu.matches_of(*pair))
    np.testing.assert_array_equal(graph.confidence_of(1), on_cpu.confidence_of(1))
    there = accelerator.upload(np.full((_GRID.height, _GRID.width, 4), 0.25, np.float32))
    for pair in ((0, 1), (2, 1)):
        graph.set_matches(*pair, unpacked(there))
        assert edges[2, 1].matches.device == accelerator.device
        np.testing.assert_array_equal(graph.matches_of(*pair), on_host(there))


def test_a_checkpoint_brings_matches_back_to_the_device(accelerator: Accelerator) -> None:
    store, graph = make_graph(accelerator)
    store[0].depth_damping = accelerator.upload(np.full((_GRID.height, _GRID.width), 0.02))
    store.set_upsample_weights(2, accelerator.upload(np.ones((3, _GRID.height, _GRID.width), np.float16)))
    graph.evict_before(2)
    state, of_store = graph.state(), store.state()
    other_store = KeyframeStore(CAMERA, store.disk)
    other_store.restore(of_store, lambda index: (f"image {index}", None))
    other = FactorGraph(other_store, Told(), BundleAdjustmentConfig(), graph._scale_sigma, accelerator)
    other.restore(state)
    assert isinstance(other._edges[2][3].matches, torch.Tensor) and isinstance(other._edges[0][1].matches, DiskArray)
    for i, j in graph.pairs().tolist():
        np.testing.assert_array_equal(other.matches_of(i, j), graph.matches_of(i, j))
    assert other_store[2].upsample_weights.dtype == np.float16 and other_store[2].upsample_weights.all()
    for one in (graph, other):
        one.solve(0, N, {0}, 2)
    same_maps(other_store, store, 1e-12)


def test_what_a_model_said_on_the_device_leaves_it_with_the_window(accelerator: Accelerator) -> None:
    store, _ = make_graph(accelerator)
    damping = np.random.default_rng(0).uniform(size=(_GRID.height, _GRID.width))
    weights = np.random.default_rng(1).uniform(size=(3, _GRID.height, _GRID.width)).astype(np.float16)
    for position in (0, 3):
        store[position].depth_damping = accelerator.upload(damping)
        store.set_upsample_weights(position, accelerator.upload(weights))
    store.evict_before(2)
    assert isinstance(store[0].depth_damping, np.ndarray) and isinstance(store[0].upsample_weights, DiskArray)
    assert isinstance(store[3].depth_damping, torch.Tensor) and isinstance(store[3].upsample_weights, torch.Tensor)
    store.set_upsample_weights(1, accelerator.upload(weights))
    for position in (0, 1, 3):
        np.testing.assert_array_equal(on_host(store[position].upsample_weights), weights)
    np.testing.assert_array_equal(store[0].depth_damping, damping)


def test_pairs_are_matched_from_where_the_device_sees_them(accelerator: Accelerator) -> None:
    (_, graph), (_, on_cpu) = (make_graph(a) for a in (accelerator, None))
    for one in (graph, on_cpu):
        one.match_pairs([(0, 3), (3, 1)])
    asked, expected = graph._model.asked, on_cpu._model.asked
    for one, other in zip(asked, expected, strict=True):
        assert isinstance(one.predicted, np.ndarray), "it matches on the CPU"
        assert (one.source, one.target, one.neighbours) == (other.source, other.target, other.neighbours)
        np.testing.assert_allclose(one.predicted, other.predicted, atol=1e-9)
    assert isinstance(graph._edges[3][1].matches, torch.Tensor)


@pytest.fixture(params=["much moves", "little moves"])
def moving(request: pytest.FixtureRequest) -> Iterator[np.ndarray]:
    """A mask, uint8 [h, w]: of half of the cells, or of one."""
    mask = np.zeros((_GRID.height, _GRID.width), np.uint8)
    mask[2:, :5] = 25 if request.param == "much moves" else 0
    mask[2, 1] = 25
    yield mask


@pytest.mark.parametrize("axes", [1, 2])
def test_cells_that_move_are_left_out_by_the_device(accelerator: Accelerator, moving: np.ndarray, axes: int) -> None:
    window = problem()
    confidence = window.confidence if axes == 2 else window.confidence[..., 0]
    host = [Correspondence(window.flow_target[e], confidence[e]) for e in range(4)]
    there = [unpacked(accelerator.upload(packed(match))) for match in host]
    masks = [moving, np.zeros_like(moving), moving, np.roll(moving, 2, axis=1)]
    with noticed(accelerator.device) as called:
        found = mask_all_moving(there, masks)
        alone = mask_moving(there[0], moving)
        assert mask_all_moving(there, [masks[1]] * 4) == there and mask_moving(there[0], masks[1]) is there[0]
    assert called == []
    assert found[1] is there[1] and mask_all_moving(host, masks)[1] is host[1]
    for one, match, mask in zip(found, host, masks, strict=True):
        np.testing.assert_allclose(on_host(one.confidence), mask_moving(match, mask).confidence, rtol=1e-6)
    np.testing.assert_array_equal(on_host(alone.confidence), on_host(found[0].confidence))
    left_out = bool((on_host(found[0].confidence)[moving > 0] == 0).all())
    assert left_out == (np.count_nonzero(moving) > 1)


def test_cells_that_turn_out_to_move_leave_their_edges(accelerator: Accelerator, moving: np.ndarray) -> None:
    graphs = [make_graph(a) for a in (accelerator, None)]
    for store, graph in graphs:
        store[1].moving = moving
        graph.mask_moving_cells(1)
    for i, j in graphs[0][1].pairs().tolist():
        assert isinstance(graphs[0][1]._edges[i][j].matches, torch.Tensor)
        np.testing.assert_allclose(graphs[0][1].matches_of(i, j), graphs[1][1].matches_of(i, j), rtol=1e-6)


@pytest.mark.parametrize("step", [1, 2])
def test_the_whole_trajectory_is_solved_there_as_well(
    accelerator: Accelerator, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GlobalBundleAdjustment, "_affordable_step", lambda *_: step)
    graphs = [make_graph(a) for a in (accelerator, None)]
    for store, graph in graphs:
        backend = backend_of(store, graph)
        graph.evict_before(N)
        backend.optimise(2)
        backend.refine_depths(0.1)
    same_maps(graphs[0][0], graphs[1][0])
