"""The factor graph with a CUDA device: problems and answers are those without, and matches stay on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from metric_slam.config.schema import BundleAdjustmentConfig, GlobalBaConfig
from metric_slam.correspondence.base import Correspondence, EdgeQuery, packed, unpacked
from metric_slam.disk_store import DiskArray
from metric_slam.geometry.cuda_kernels import CudaKernels
from metric_slam.geometry.grid_array import on_host
from metric_slam.graph.baselines import BaselineFactor
from metric_slam.graph.global_ba import GlobalBundleAdjustment
from metric_slam.graph.keyframes import Keyframe
from metric_slam.graph.moving_mask import mask_all_moving, mask_moving
from metric_slam.graph.slam_map import SlamMap
from metric_slam.optimization.bundle_adjustment import BaWindow, solve_window
from metric_slam.optimization.cuda.solver import CudaSolver
from metric_slam.optimization.solver import CpuSolver, Solver
from tests import scene
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


def solver_of(cuda: CudaKernels | None, **config: object) -> Solver:
    """On a device, or on the CPU."""
    settings = BundleAdjustmentConfig(**config)
    return CpuSolver(settings) if cuda is None else CudaSolver(settings, cuda)


def make_map(cuda: CudaKernels | None, *, prior: bool = True, axes: int = 2, **config: object) -> SlamMap:
    """The problem as a map; ``axes`` of its confidences."""
    window = problem()
    slam_map = scene.make_map(Told(), camera=CAMERA, solver=solver_of(cuda, **config), scale_sigma=window.scale_sigma)
    assert window.prior_depth_m is not None and window.prior_weight is not None
    image, nothing = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8), np.zeros((_GRID.height, _GRID.width))
    slam_map.submaps.begin(0)
    for n in range(N):
        known = float(prior) * (window.prior_depth_m[n] > 0)
        maps = window.prior_depth_m[n] * known, known, window.prior_weight[n] * known, nothing
        slam_map.append(Keyframe(n, 0.1 * n, image, f"image {n}", None, window.poses[n], window.inv_depth[n], *maps))
    predicted(slam_map, 1, damping=np.full((_GRID.height, _GRID.width), 0.01))
    for e, (i, j) in enumerate(zip(window.source.tolist(), window.target.tolist(), strict=True)):
        confidence = window.confidence[e] if axes == 2 else window.confidence[e, ..., 0]
        slam_map.graph.add_matched(i, j, Correspondence(window.flow_target[e], confidence))
    slam_map.graph.set_baseline(BaselineFactor(0, 1, 0.4, 0.05))
    return slam_map


def predicted(slam_map: SlamMap, position: int, *, damping: object = None, weights: object = None) -> None:
    """What a recurrent model says of a keyframe."""
    nothing = np.zeros((_GRID.height, _GRID.width, 2))
    slam_map.set_network_output(position, Correspondence(nothing, nothing, damping, weights), dense=True)


def poses(slam_map: SlamMap) -> np.ndarray:
    return slam_map.pose_vectors(range(N))


def same_maps(found: SlamMap, expected: SlamMap, tolerance: float = TOLERANCE) -> None:
    """The same poses, depths and scales."""
    np.testing.assert_allclose(poses(found), poses(expected), atol=tolerance)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.inv_depth, other.inv_depth, atol=tolerance)
        assert isinstance(one.inv_depth, np.ndarray) and one.inv_depth.base is None
        assert one.prior_log_scale == pytest.approx(other.prior_log_scale, abs=tolerance)


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("axes", [1, 2])
def test_problems_are_those_of_the_host(cuda: CudaKernels, step: int, axes: int) -> None:
    slam_map, on_cpu = make_map(cuda, axes=axes), make_map(None, axes=axes)
    for one in (slam_map, on_cpu):
        one.evict_before(0, 2)  # some matches come from the disk
        one.graph.set_matches(3, 1, unpacked(on_cpu.graph.matches_of(2, 3)[..., :3]))  # one that has other channels
    slam_map.evict_before(1, 0)
    found, expected = (
        one.graph.window([2, 0, 1, 3], {0}, cell_step=step, depth_free={1, 2}) for one in (slam_map, on_cpu)
    )
    for name, value in vars(expected).items():
        if name in MAPS:
            tensor = getattr(found, name)
            assert isinstance(tensor, torch.Tensor) and tensor.device == cuda.device and tensor.is_contiguous()
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
def test_a_solve_gives_what_the_host_gives(cuda: CudaKernels, config: dict[str, object]) -> None:
    slam_map, on_cpu = (make_map(a, **config) for a in (cuda, None))
    before = poses(slam_map), [k.inv_depth.copy() for k in slam_map]
    reports = [one.solve(0, N, {0}, 3) for one in (slam_map, on_cpu)]
    assert reports[0].status == reports[1].status and reports[0].iterations == reports[1].iterations
    same_maps(slam_map, on_cpu)
    assert (poses(slam_map)[1:] != before[0][1:]).any() and (slam_map[2].inv_depth != before[1][2]).any()
    assert slam_map.graph.status_counts == on_cpu.graph.status_counts


def test_a_solve_uploads_what_is_new_and_downloads_once(cuda: CudaKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    slam_map = make_map(cuda)
    uploaded: list[int] = []

    def solving(*arguments: object, **options: object) -> object:
        with unnoticed():  # what it downloads is its own affair
            return solve_window(*arguments, **options)

    def counting(self: CudaKernels, array: object, dtype: object = None) -> torch.Tensor:
        if isinstance(array, np.ndarray):
            uploaded.append(array.size)
        return upload(self, array, dtype)

    slam_map.solve(0, N, {0}, 1)
    upload = CudaKernels.upload
    monkeypatch.setattr("metric_slam.optimization.cuda.solver.solve_window", solving)
    monkeypatch.setattr(CudaKernels, "upload", counting)
    window = slam_map.graph.window(range(N), {0})
    assert not uploaded, "everything is there"
    assert window.inv_depth.shape == (N, _GRID.height, _GRID.width)
    with noticed(cuda.device, may_wait=True) as called:
        slam_map.solve(0, N, {0}, 1)
    assert called == ["cpu", "numpy"]


def test_matches_live_on_the_device_until_they_retire(cuda: CudaKernels) -> None:
    slam_map = make_map(cuda)
    graph, on_cpu = slam_map.graph, make_map(None).graph
    pairs = [tuple(pair) for pair in graph.pairs().tolist()]
    edges = {pair: graph.edges[pair] for pair in pairs}
    assert all(isinstance(edge.matches, torch.Tensor) for edge in edges.values())
    np.testing.assert_array_equal(graph.confidence_of(1), on_cpu.confidence_of(1))
    slam_map.evict_before(0, 2)
    assert isinstance(edges[0, 1].matches, DiskArray) and isinstance(edges[2, 1].matches, torch.Tensor)
    for pair in pairs:
        np.testing.assert_array_equal(graph.matches_of(*pair), on_cpu.matches_of(*pair))
    np.testing.assert_array_equal(graph.confidence_of(1), on_cpu.confidence_of(1))
    there = cuda.upload(np.full((_GRID.height, _GRID.width, 4), 0.25, np.float32))
    for pair in ((0, 1), (2, 1)):
        graph.set_matches(*pair, unpacked(there))
        assert edges[2, 1].matches.device == cuda.device
        np.testing.assert_array_equal(graph.matches_of(*pair), on_host(there))


def test_a_checkpoint_brings_matches_back_to_the_device(cuda: CudaKernels) -> None:
    slam_map = make_map(cuda)
    predicted(slam_map, 0, damping=cuda.upload(np.full((_GRID.height, _GRID.width), 0.02)))
    predicted(slam_map, 2, weights=cuda.upload(np.ones((3, _GRID.height, _GRID.width), np.float16)))
    slam_map.evict_before(0, 2)
    other = scene.make_map(
        Told(), camera=CAMERA, solver=solver_of(cuda), scale_sigma=problem().scale_sigma, disk=slam_map.disk
    )
    other.restore(slam_map.state(), lambda index: (f"image {index}", None))
    edges = other.graph.edges
    assert isinstance(edges[2, 3].matches, torch.Tensor) and isinstance(edges[0, 1].matches, DiskArray)
    for i, j in slam_map.graph.pairs().tolist():
        np.testing.assert_array_equal(other.graph.matches_of(i, j), slam_map.graph.matches_of(i, j))
    assert other[2].upsample_weights.dtype == np.float16 and other[2].upsample_weights.all()
    for one in (slam_map, other):
        one.solve(0, N, {0}, 2)
    same_maps(other, slam_map, 1e-12)


def test_what_a_model_said_on_the_device_leaves_it_with_the_window(cuda: CudaKernels) -> None:
    slam_map = make_map(cuda)
    damping = np.random.default_rng(0).uniform(size=(_GRID.height, _GRID.width))
    weights = np.random.default_rng(1).uniform(size=(3, _GRID.height, _GRID.width)).astype(np.float16)
    for position in (0, 3):
        predicted(slam_map, position, damping=cuda.upload(damping), weights=cuda.upload(weights))
    slam_map.evict_before(2, 0)
    assert isinstance(slam_map[0].depth_damping, np.ndarray) and isinstance(slam_map[0].upsample_weights, DiskArray)
    assert isinstance(slam_map[3].depth_damping, torch.Tensor) and isinstance(
        slam_map[3].upsample_weights, torch.Tensor
    )
    np.testing.assert_array_equal(slam_map[0].depth_damping, damping)
    predicted(slam_map, 1, weights=cuda.upload(weights))
    assert isinstance(slam_map[1].upsample_weights, DiskArray), "of a keyframe that has left memory"
    for position in (0, 1, 3):
        np.testing.assert_array_equal(on_host(slam_map[position].upsample_weights), weights)


def test_pairs_are_matched_from_where_the_device_sees_them(cuda: CudaKernels) -> None:
    graph, on_cpu = (make_map(a).graph for a in (cuda, None))
    for one in (graph, on_cpu):
        one.match_pairs([(0, 3), (3, 1)])
    asked, expected = graph._model.asked, on_cpu._model.asked
    for one, other in zip(asked, expected, strict=True):
        assert isinstance(one.predicted, np.ndarray), "it matches on the CPU"
        assert (one.source, one.target, one.neighbours) == (other.source, other.target, other.neighbours)
        np.testing.assert_allclose(one.predicted, other.predicted, atol=1e-9)
    assert isinstance(graph.edges[3, 1].matches, torch.Tensor)


@pytest.fixture(params=["much moves", "little moves"])
def moving(request: pytest.FixtureRequest) -> Iterator[np.ndarray]:
    """A mask, uint8 [h, w]: of half of the cells, or of one."""
    mask = np.zeros((_GRID.height, _GRID.width), np.uint8)
    mask[2:, :5] = 25 if request.param == "much moves" else 0
    mask[2, 1] = 25
    yield mask


@pytest.mark.parametrize("axes", [1, 2])
def test_cells_that_move_are_left_out_by_the_device(cuda: CudaKernels, moving: np.ndarray, axes: int) -> None:
    window = problem()
    confidence = window.confidence if axes == 2 else window.confidence[..., 0]
    host = [Correspondence(window.flow_target[e], confidence[e]) for e in range(4)]
    there = [unpacked(cuda.upload(packed(match))) for match in host]
    masks = [moving, np.zeros_like(moving), moving, np.roll(moving, 2, axis=1)]
    with noticed(cuda.device) as called:
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


def test_cells_that_turn_out_to_move_leave_their_edges(cuda: CudaKernels, moving: np.ndarray) -> None:
    there, here = maps = [make_map(a) for a in (cuda, None)]
    for slam_map in maps:
        slam_map.set_moving(1, moving)
        slam_map.graph.mask_moving_cells(1)
    for i, j in there.graph.pairs().tolist():
        assert isinstance(there.graph.edges[i, j].matches, torch.Tensor)
        np.testing.assert_allclose(there.graph.matches_of(i, j), here.graph.matches_of(i, j), rtol=1e-6)


@pytest.mark.parametrize("step", [1, 2])
def test_the_whole_trajectory_is_solved_there_as_well(
    cuda: CudaKernels, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GlobalBundleAdjustment, "_affordable_step", lambda *_: step)
    maps = [make_map(a) for a in (cuda, None)]
    for slam_map in maps:
        global_ba = GlobalBundleAdjustment(slam_map, GlobalBaConfig())
        slam_map.evict_before(0, N)
        global_ba.optimise(2)
        global_ba.refine_depths(0.1)
    same_maps(*maps)
