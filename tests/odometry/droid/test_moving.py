"""A vehicle ahead where a recurrent network matches: what moves with the camera is found by the road and left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metric_slam.config.schema import Config
from metric_slam.correspondence.droid.model import DroidCorrespondence
from metric_slam.depth.ground_plane.prior import GroundPlane
from metric_slam.depth.no_prior import NoPrior
from metric_slam.disk_store import DiskStore
from metric_slam.frame import CameraMount
from metric_slam.slam import Slam
from tests.oracle import DROID, OracleNetwork, config, rmse_m
from tests.scene import HEIGHT_M, Drive, Street, feed, rotation, slam_of, straight

DRIVE = Drive(Street(waves=10), straight(16, 2.0, R=rotation(0.01, 0.0)))
VEHICLE = slice(5, 12), slice(16, 24)
"""Cells that stay where they are in the image, whatever the camera does."""


class _WithVehicle:
    def __init__(self, truth: object) -> None:
        self._truth = truth

    def lookup(self, coords: torch.Tensor) -> torch.Tensor:
        """As the oracle has it, without motion in the vehicle's cells."""
        found = self._truth.lookup(coords)
        y, x = torch.meshgrid(*(torch.arange(n, dtype=coords.dtype) for n in coords.shape[1:3]), indexing="ij")
        still = torch.stack([x, y], dim=-1) - coords
        flow = found[:, :2]
        flow[(..., *VEHICLE)] = still.permute(0, 3, 1, 2)[(..., *VEHICLE)].to(found.dtype)
        found[(slice(None), 2, *VEHICLE)] = 1.0
        return found


def slam_behind_a_vehicle(prior: object, disk: DiskStore | None = None, **settings: object) -> Slam:
    cfg = config(**settings)
    network = OracleNetwork(DRIVE)
    model = DroidCorrespondence(network, cfg.droid, correlate=lambda *ends: _WithVehicle(network.correlate(*ends)))
    return slam_of(cfg, prior, model, disk)


def road() -> GroundPlane:
    return GroundPlane(Config().ground_plane, CameraMount(HEIGHT_M))


def test_its_cells_are_found_and_left_out() -> None:
    slam = slam_behind_a_vehicle(road())
    feed(slam, DRIVE)
    newest = slam._parts.slam_map[-1]
    lower = newest.moving_cells[VEHICLE][3:6]
    assert (lower > 0).mean() > 0.8
    outside = newest.moving_cells.copy()
    outside[4:11, 15:25] = 0
    assert (outside > 0).mean() < 0.1
    result = slam.finish()
    for keyframe in result.keyframes[6:]:
        assert (keyframe.confidence[VEHICLE][3:6] == 0).mean() > 0.8
        assert (keyframe.confidence[6:11, :14] > 0).mean() > 0.5
    assert rmse_m(result.T_world_cam, DRIVE, scale=True) < 0.05


def test_the_last_word_of_the_network_does_not_bring_them_back() -> None:
    slam = slam_behind_a_vehicle(road(), global_ba={"updates": [1, 1]}, droid={**DROID, "window": 4, "warm_up": 4})
    feed(slam, DRIVE)
    masks = [keyframe.moving_cells > 0 for keyframe in slam._parts.slam_map]
    assert sum(mask.any() for mask in masks) > 4
    for keyframe, mask in zip(slam.finish().keyframes, masks, strict=True):
        assert not keyframe.confidence[mask].any()


def test_without_a_road_nothing_is_believed_to_move() -> None:
    slam = slam_behind_a_vehicle(NoPrior())
    feed(slam, DRIVE)
    assert not any(keyframe.moving_cells.any() for keyframe in slam._parts.slam_map)


@pytest.mark.parametrize("at", [11])
def test_masks_survive_a_stop(at: int) -> None:
    disk = DiskStore()
    first, second = (slam_behind_a_vehicle(road(), disk) for _ in range(2))
    feed(first, DRIVE, range(at))
    second.restore(first.state(), DRIVE.__getitem__)
    for one, other in zip(first._parts.slam_map, second._parts.slam_map, strict=True):
        np.testing.assert_array_equal(one.moving_cells, other.moving_cells)
    for slam in (first, second):
        feed(slam, DRIVE, range(at, len(DRIVE)))
    np.testing.assert_array_equal(first.finish().T_world_cam, second.finish().T_world_cam)
