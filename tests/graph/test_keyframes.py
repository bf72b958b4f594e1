"""The map owns its arrays and keeps them in step; only its verbs change a keyframe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from metric_slam.correspondence.base import Correspondence
from metric_slam.disk_store import DiskArray, DiskImage, DiskStore
from metric_slam.errors import InputError
from metric_slam.geometry import lie
from metric_slam.graph.keyframes import PRIOR_FIELDS, Keyframe
from metric_slam.graph.offload import Offloader
from metric_slam.graph.slam_map import SlamMap
from metric_slam.optimization.bundle_adjustment import BaWindow
from tests.scene import CAMERA, ExactMatching, Street, make_map, pose_vec
from tests.scene import pose as T_at

GRID = CAMERA.grid()
SHAPE = (GRID.height, GRID.width)
MODEL = ExactMatching(Street())


def keyframe(seed: int) -> Keyframe:
    random = np.random.default_rng(seed)
    T = lie.renormalise(np.eye(4) + 0.1 * random.normal(size=(4, 4)))
    image = random.integers(0, 255, (CAMERA.height, CAMERA.width, 3), np.uint8)
    inv_depth, depth, road = random.uniform(0.02, 1, SHAPE), random.uniform(1, 9, SHAPE), random.uniform(1, 9, SHAPE)
    pose, confidence, weight = lie.matrix_to_pose_vec(T), np.full(SHAPE, 0.7), np.full(SHAPE, 70.0)
    return Keyframe(seed, 0.1 * seed, image, "features", "state", pose, inv_depth, depth, confidence, weight, road)


@pytest.fixture
def slam_map() -> SlamMap:
    filled = make_map(MODEL)
    assert [filled.append(keyframe(seed)) for seed in range(5)] == list(range(5))
    return filled


def poses(slam_map: SlamMap) -> np.ndarray:
    return slam_map.pose_vectors(range(len(slam_map)))


def window_of(slam_map: SlamMap, positions: list[int], **solved: object) -> BaWindow:
    """The problem over these keyframes with some of its fields replaced."""
    return replace(slam_map.graph.window(positions, set()), **solved)


# ---------------------------------------------------------------- reading


def test_positions_are_in_order_and_slices_half_open(slam_map: SlamMap) -> None:
    assert len(slam_map) == 5 and [k.index for k in slam_map] == list(range(5))
    np.testing.assert_array_equal(slam_map.pose_vectors(range(1, 4)), [slam_map[i].pose for i in (1, 2, 3)])
    np.testing.assert_array_equal(slam_map.stacked_on_host("inv_depth", range(3, 5))[1], slam_map[4].inv_depth)
    assert slam_map.pose_vectors(range(2, 2)).shape == (0, 7) and slam_map.T_cam_world(slice(2, 2)).shape == (0, 4, 4)
    np.testing.assert_array_equal(slam_map.T_cam_world(slice(1, 4)), slam_map.T_cam_world([1, 2, 3]))
    np.testing.assert_allclose(
        slam_map.T_world_cam() @ slam_map.T_cam_world(), np.tile(np.eye(4), (5, 1, 1)), atol=1e-9
    )
    np.testing.assert_allclose(slam_map.motion(1, 3) @ slam_map[1].T_cam_world, slam_map[3].T_cam_world, atol=1e-12)
    assert slam_map.median_depth(2) == pytest.approx(1.0 / np.median(slam_map[2].inv_depth))


def test_what_is_handed_out_is_a_copy(slam_map: SlamMap) -> None:
    pose, inv_depth = slam_map[2].pose.copy(), slam_map[2].inv_depth.copy()
    slam_map.pose_vectors([2])[:] = 0
    slam_map.T_cam_world([2])[:] = 0
    slam_map.stacked_on_host("inv_depth", [2])[:] = 0
    np.testing.assert_array_equal(slam_map[2].pose, pose)
    np.testing.assert_array_equal(slam_map[2].inv_depth, inv_depth)


# ---------------------------------------------------------------- one writer


def test_nobody_else_can_exchange_a_field(slam_map: SlamMap) -> None:
    for field in fields(Keyframe):
        with pytest.raises(FrozenInstanceError):
            setattr(slam_map[1], field.name, None)


def test_nobody_can_write_into_a_stored_array(slam_map: SlamMap) -> None:
    """Copies on the disk and on a device are recognised by identity: content that changed would be missed."""
    slam_map.set_moving(1, np.ones(SHAPE, np.uint8))
    slam_map.set_inv_depth(1, np.full(SHAPE, 0.3))
    slam_map.set_road(1, np.full(SHAPE, 5.0))
    names = [f.name for f in fields(Keyframe) if isinstance(getattr(slam_map[1], f.name), np.ndarray)]
    assert set(names) >= {"image", "pose", "inv_depth", "moving", *PRIOR_FIELDS}
    for name in names:
        with pytest.raises(ValueError, match="read-only"):
            getattr(slam_map[1], name)[...] = 1


VERBS: dict[str, Callable[[SlamMap], object]] = {
    "set_inv_depth": lambda m: m.set_inv_depth(2, np.full(SHAPE, 0.5)),
    "set_moving": lambda m: m.set_moving(2, np.ones(SHAPE, np.uint8)),
    "set_prior_weight": lambda m: m.set_prior_weight(2, np.full(SHAPE, 5.0)),
    "set_road": lambda m: m.set_road(2, np.full(SHAPE, 5.0)),
    "move": lambda m: m.move([2], T_at(z_m=1.0)),
    "rescale": lambda m: m.rescale(2.0, 2),
    "take_over": lambda m: m.take_over([2], window_of(m, [2], inv_depth=np.full((1, *SHAPE), 0.5))),
    "set_network_output": lambda m: m.set_network_output(
        2, Correspondence(np.zeros((*SHAPE, 2)), np.zeros(SHAPE), np.full(SHAPE, 0.01)), dense=False
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_replaces_the_keyframe_and_leaves_the_one_that_was_handed_out(slam_map: SlamMap, verb: str) -> None:
    """Whoever holds a keyframe holds one state of it, never half of the next."""
    held = slam_map[2]
    before = {f.name: np.copy(getattr(held, f.name)) for f in fields(Keyframe)}
    earlier = slam_map[1]
    VERBS[verb](slam_map)
    assert slam_map[2] is not held and slam_map[1] is earlier
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(held, name), value)


def test_arrays_that_came_from_outside_are_never_written_to() -> None:
    slam_map, first = make_map(MODEL), keyframe(1)
    pose, inv_depth = first.pose, first.inv_depth
    kept = pose.copy(), inv_depth.copy()
    slam_map.append(first)
    slam_map.rescale(3.0)
    np.testing.assert_array_equal(pose, kept[0])
    np.testing.assert_array_equal(inv_depth, kept[1])
    assert (slam_map[0].inv_depth != kept[1]).all()


def test_results_are_written_to_the_keyframes_they_belong_to(slam_map: SlamMap) -> None:
    before = [slam_map[i].pose.copy() for i in range(5)]
    poses, inv_depth = np.full((2, 7), 3.0), np.full((2, *SHAPE), 0.5)
    solved = window_of(slam_map, [2, 3], poses=poses, inv_depth=inv_depth, prior_log_scale=np.array([0.01, -0.02]))
    slam_map.take_over([2, 3], solved)
    poses[:], inv_depth[:] = 0, 0
    assert (slam_map[2].pose == 3.0).all() and (slam_map[3].inv_depth == 0.5).all(), "a copy was written"
    assert slam_map[3].prior_log_scale == -0.02
    for untouched in (0, 1, 4):
        np.testing.assert_array_equal(slam_map[untouched].pose, before[untouched])
    depth = slam_map[2].inv_depth
    slam_map.take_over([2], window_of(slam_map, [2], poses=np.full((1, 7), 2.0), inv_depth=inv_depth), depths=False)
    assert (slam_map[2].pose == 2.0).all() and slam_map[2].inv_depth is depth


def test_the_road_has_a_field_of_its_own(slam_map: SlamMap) -> None:
    """What bundle adjustment uses of a prior stays as it is."""
    prior = {name: getattr(slam_map[1], name) for name in ("prior_depth_m", "prior_confidence", "prior_weight")}
    slam_map.set_road(1, np.full(SHAPE, 4.0))
    assert (slam_map[1].road_depth_m == 4.0).all() and (slam_map[0].road_depth_m != 4.0).any()
    slam_map.set_road(2, None)
    assert not slam_map[2].road_depth_m.any() and slam_map[3].road_depth_m.any()
    assert all(getattr(slam_map[1], name) is array for name, array in prior.items())
    without = make_map(MODEL)
    without.append(replace(keyframe(0), prior_weight=np.zeros(SHAPE)))
    without.set_road(0, np.full(SHAPE, 4.0))
    assert not without.has_prior(0) and slam_map.has_prior(1)
    assert without.graph.window([0], set()).prior_depth_m is None


def test_a_depth_map_of_another_size_is_refused_by_name(slam_map: SlamMap) -> None:
    with pytest.raises(InputError, match=r"inv_depth has shape \(3, 3\).*\(12, 40\)"):
        slam_map.append(replace(keyframe(7), inv_depth=np.ones((3, 3))))
    assert len(slam_map) == 5


# ---------------------------------------------------------------- moving and rescaling


@pytest.mark.parametrize("begin", [0, 2, 4])
def test_rescaling_moves_no_pixel(slam_map: SlamMap, begin: int) -> None:
    def pixel_of_cell(source: int, target: int, row: int, column: int) -> np.ndarray:
        X = GRID.rays()[row, column] / slam_map[source].inv_depth[row, column]
        Y = slam_map.motion(source, target) @ [*X, 1.0]
        return GRID.project(Y[:3])

    pairs = [(i, j) for i in range(begin, 5) for j in range(begin, 5)]
    before = [pixel_of_cell(i, j, 5, 7) for i, j in pairs]
    centres = slam_map.T_world_cam()[:, :3, 3]
    slam_map.rescale(2.5, begin)
    np.testing.assert_allclose([pixel_of_cell(i, j, 5, 7) for i, j in pairs], before, rtol=1e-9)
    after = slam_map.T_world_cam()[:, :3, 3]
    np.testing.assert_allclose(after[begin], centres[begin], atol=1e-12)
    np.testing.assert_allclose(after[begin:] - after[begin], 2.5 * (centres[begin:] - centres[begin]), atol=1e-12)
    assert [k.length_scale for k in slam_map] == [1.0] * begin + [2.5] * (5 - begin)


def test_rescaling_a_submap_leaves_the_earlier_ones_and_metric_priors_alone(slam_map: SlamMap) -> None:
    names = ("inv_depth", "prior_depth_m", "road_depth_m")
    before = poses(slam_map)[:2], *(slam_map.stacked_on_host(name, range(5)) for name in names)
    slam_map.rescale(0.4, 2)
    np.testing.assert_array_equal(poses(slam_map)[:2], before[0])
    np.testing.assert_array_equal(slam_map.stacked_on_host("inv_depth", range(2)), before[1][:2])
    np.testing.assert_allclose(slam_map.stacked_on_host("inv_depth", range(2, 5)), before[1][2:] / 0.4)
    np.testing.assert_array_equal(slam_map.stacked_on_host("prior_depth_m", range(5)), before[2], "metres already")
    np.testing.assert_array_equal(slam_map.stacked_on_host("road_depth_m", range(5)), before[3], "metres already")


def test_rescalings_multiply(slam_map: SlamMap) -> None:
    slam_map.rescale(2.0)
    slam_map.rescale(3.0, 3)
    assert [k.length_scale for k in slam_map] == [2.0] * 3 + [6.0] * 2
    depth = slam_map.stacked_on_host("inv_depth", range(5))
    slam_map.set_poses(slam_map.T_world_cam(), np.log([1.0, 2.0, 1.0, 0.5, 1.0]))
    np.testing.assert_allclose([k.length_scale for k in slam_map], [2.0, 4.0, 2.0, 3.0, 6.0])
    np.testing.assert_allclose(slam_map[1].inv_depth, depth[1] / 2.0)
    np.testing.assert_allclose(slam_map[3].inv_depth, depth[3] / 0.5)


def test_moving_keeps_what_lies_between_those_that_move(slam_map: SlamMap) -> None:
    before, motion = slam_map.T_world_cam(), slam_map.motion(1, 3)
    T_new_old = T_at(3.0, -2.0, y_m=0.4)
    slam_map.move([1, 3], T_new_old)
    np.testing.assert_allclose(slam_map.motion(1, 3), motion, atol=1e-9)
    np.testing.assert_allclose(slam_map.T_world_cam([1, 3]), T_new_old @ before[[1, 3]], atol=1e-9)
    np.testing.assert_array_equal(slam_map.T_world_cam([0, 2, 4]), before[[0, 2, 4]])


def test_poses_can_be_set_at_once(slam_map: SlamMap) -> None:
    path = np.stack([T_at(0.1 * i, 0.5 * i) for i in range(5)])
    depth = slam_map[1].inv_depth
    slam_map.set_poses(path)
    np.testing.assert_allclose(slam_map.T_world_cam(), path, atol=1e-12)
    np.testing.assert_allclose(slam_map[4].pose, pose_vec(path[4]), atol=1e-12)
    assert slam_map[1].inv_depth is depth and {k.length_scale for k in slam_map} == {1.0}


# ---------------------------------------------------------------- what leaves memory


def test_evicted_keyframes_let_go_of_features_but_not_of_the_map(slam_map: SlamMap) -> None:
    before = {name: slam_map.stacked_on_host(name, range(5)) for name in PRIOR_FIELDS}
    slam_map.evict_before(3, 0)
    assert [k.features for k in slam_map] == [None] * 3 + ["features"] * 2
    assert [k.prior_state for k in slam_map] == [None] * 3 + ["state"] * 2
    assert all(np.isfinite(k.inv_depth).all() and k.image is not None for k in slam_map)
    assert isinstance(slam_map[0].prior_depth_m, DiskArray) and isinstance(slam_map[3].prior_depth_m, np.ndarray)
    for name, array in before.items():
        np.testing.assert_array_equal(slam_map.stacked_on_host(name, range(5)), array)
    slam_map.evict_before(1, 0)
    slam_map.evict_before(99, 0)
    assert all(k.features is None for k in slam_map)


def test_an_image_is_decoded_once_while_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slam_map, decoded = make_map(MODEL), []
    load = DiskImage.load
    monkeypatch.setattr(DiskImage, "load", lambda self: decoded.append(self) or load(self))
    images = [keyframe(seed).image for seed in range(3)]
    for seed, image in enumerate(images):
        slam_map.append(replace(keyframe(seed), image=image.copy()))
    slam_map.evict_before(2, 0)
    assert isinstance(slam_map[0].image, DiskImage) and isinstance(slam_map[2].image, np.ndarray)
    for _ in range(3):
        for position, image in enumerate(images):
            np.testing.assert_array_equal(slam_map.image(position), image)
            with pytest.raises(ValueError, match="read-only"):
                slam_map.image(position)[0] = 0
    assert decoded == [], "what has just been written is still in memory"
    assert slam_map.image(0) is slam_map.image(0)


def test_the_images_in_memory_are_bounded_and_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metric_slam.graph.offload._IMAGES_IN_MEMORY", 2)
    offloader, decoded = Offloader(DiskStore()), []
    load = DiskImage.load
    monkeypatch.setattr(DiskImage, "load", lambda self: decoded.append(self) or load(self))
    stored = [offloader.put_image(keyframe(seed).image) for seed in range(3)]
    for where in (stored[1], stored[2], stored[1]):
        offloader.image(where)
    assert decoded == []
    offloader.image(stored[0])  # takes the place of the one that was not asked for the longest
    offloader.image(stored[1])
    assert decoded == [stored[0]]
    offloader.image(stored[2])
    assert decoded == [stored[0], stored[2]] and len(offloader._decoded) == 2
    np.testing.assert_array_equal(offloader.image(stored[2]), keyframe(2).image)


def test_an_array_is_written_once(slam_map: SlamMap) -> None:
    offloader = Offloader(slam_map.disk)
    array, image = np.arange(6.0), keyframe(0).image
    first, first_image = offloader.put(array), offloader.put_image(image)
    length = slam_map.disk.byte_count
    assert offloader.put(array) is first and offloader.put_image(image) is first_image and offloader.put(first) is first
    assert slam_map.disk.byte_count == length
    assert offloader.put(array.copy()) is not first and slam_map.disk.byte_count > length


def restored(slam_map: SlamMap) -> SlamMap:
    other = make_map(MODEL, disk=slam_map.disk)
    other.restore(slam_map.state(), lambda index: (f"features {index}", f"state {index}"))
    return other


def test_a_checkpoint_keeps_every_field(slam_map: SlamMap) -> None:
    slam_map.submaps.begin(0)
    slam_map.rescale(2.0, 3)
    slam_map.set_road(3, None)
    slam_map.evict_before(2, 0)
    other = restored(slam_map)
    for one, two in zip(slam_map, other, strict=True):
        for name in ("index", "time_s", "prior_log_scale", "length_scale", "submap"):
            assert getattr(one, name) == getattr(two, name)
        for name in ("pose", "inv_depth", *PRIOR_FIELDS):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
            assert isinstance(getattr(one, name), DiskArray) == isinstance(getattr(two, name), DiskArray)
        assert (two.features, two.prior_state) == (
            (f"features {two.index}", f"state {two.index}") if two.index > 1 else (None, None)
        )
    for position in range(5):
        np.testing.assert_array_equal(other.image(position), slam_map.image(position))
    with pytest.raises(ValueError, match="read-only"):
        other[4].inv_depth[:] = 0
    length = slam_map.disk.byte_count
    other.state()
    assert slam_map.disk.byte_count == length, "nothing is written again"


def test_cells_that_move_are_kept_by_a_checkpoint_and_beyond_the_window(slam_map: SlamMap) -> None:
    assert not slam_map[4].moving_cells.any() and slam_map[4].moving_cells.shape == SHAPE, "none is said to move"
    for position in (1, 3):
        moving = np.zeros(SHAPE, np.uint8)
        moving[2:7, 4 : 9 + position] = 40 - position
        slam_map.set_moving(position, moving)
    slam_map.evict_before(2, 0)
    assert slam_map[0].moving is None and slam_map[1].moving_cells.max() == 39, (
        "a network may match it again at the end"
    )
    other = restored(slam_map)
    for position in range(5):
        np.testing.assert_array_equal(other[position].moving_cells, slam_map[position].moving_cells)
    assert other[3].moving_cells.dtype == np.uint8 and other[3].moving_cells.max() == 37
    other.set_moving(3, np.zeros(SHAPE, np.uint8))
    assert slam_map[3].moving_cells.any(), "a copy"


def test_ignored_cells_are_kept_by_a_checkpoint(slam_map: SlamMap) -> None:
    ignored = np.zeros(SHAPE, bool)
    ignored[10:] = True
    slam_map.append(replace(keyframe(5), ignored=ignored))
    other = restored(slam_map)
    assert other[4].ignored is None and other[5].ignored.dtype == bool
    np.testing.assert_array_equal(other[5].ignored, ignored)
