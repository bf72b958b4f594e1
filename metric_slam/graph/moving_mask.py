"""Detects cells that move with the camera or past it: vehicles.

A vehicle ahead that moves with the camera looks like points at infinity: it constrains rotation but not translation,
until it turns or brakes and corrupts the ego-motion. Moving cells contradict the road plane of a prior. If such a cell
stood still, then from its motion in the image

- it would lie below the road: a vehicle ahead, which hardly moves in the image and so seems far away; or
- it would float: nearer than the road that is seen below it, which it would have to hide; crossing and oncoming ones.

Cells found this way are propagated by their own matches for some keyframes, because a vehicle that turns away is not
detected all the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from metric_slam.correspondence.base import Correspondence, confidence_per_cell, in_memory
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera
from metric_slam.geometry.grid_array import on_host, uploaded
from metric_slam.geometry.triangulation import triangulate

MOVING_FOR = 40
"""Keyframes for which a cell counts as moving after it was last detected."""

_FLOW_SIGMA_PX = 1.0
_SURE = 2.0
"""How far, in standard deviations, a cell has to be beyond what is possible."""

_FAR, _NEAR = 2.0, 1.5
"""How many times farther or nearer than the road a cell has to be; matches on asphalt are not sure enough for less."""

_LIKE_ROAD = 1.3
"""Factor of the inverse depth within which a cell is road."""

_SURPRISE_PX, _SURPRISE = 1.5, 0.15
"""Pixels, and share of what its depth makes a cell move, by which it has to move otherwise than if it stood still."""

_FORGIVEN = 10
"""What a cell that moves as expected of one that stands still loses of its belief, in keyframes."""

_JOINING, _LIKE_PX = 3, 1.5
"""Rounds of joining neighbours in a keyframe; pixels by which flow may differ from that of neighbours that move."""

_FARTHEST = 1e-3
"""Inverse depth of what does not move at all in the image."""

_MINORITY = 0.15
"""Share of the confidence of a match from which on what moves can take the camera's motion with it."""

_SQUARE = np.ones((3, 3), np.uint8)


def propagate_mask(moving: np.ndarray, backward: Correspondence) -> np.ndarray:
    """Moving mask of a new keyframe, uint8 [h, w]: each cell takes over from the cell of the keyframe before that it
    matches (``backward``: new -> before), one keyframe older.
    """
    if not moving.any():
        return moving
    target, confidence = in_memory(backward)
    u, v = (target[..., k].astype(np.float32) for k in (0, 1))
    there = np.asarray(cv2.remap(moving, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0))
    return np.where((there > 0) & (confidence > 0), there - 1, 0).astype(np.uint8)


class MovingMask(NamedTuple):
    """Moving cells of a keyframe."""

    moving: np.ndarray
    """For how many more keyframes each cell counts as moving, uint8 [h, w]."""

    inv_depth: np.ndarray
    """Inverse depth [h, w]: of cells that move what this pair of views alone says, for bundle adjustment leaves them
    out; so the next look knows what to expect of those that stand still after all."""


def detect_moving(
    moving: np.ndarray,
    inv_depth: np.ndarray,
    expected_inv_depth: np.ndarray,
    backward: Correspondence,
    T_before_new: np.ndarray,
    road: np.ndarray,
    grid: PinholeCamera,
) -> MovingMask:
    """Detect the moving cells of a new keyframe, given the motion of the camera since the keyframe before.

    ``inv_depth`` [h, w] is the keyframe's present estimate, ``expected_inv_depth`` what the keyframe before handed on,
    and ``road`` that of the road in every cell, 0 where there is none. ``backward`` are the matches new -> before and
    ``T_before_new`` [4, 4] is the motion between them.
    """
    target, confidence = in_memory(backward)
    alone, px_per_inv_depth = triangulate(target, T_before_new, grid)
    error = _SURE * _FLOW_SIGMA_PX / np.maximum(px_per_inv_depth * FEATURE_STRIDE, 1e-9)
    matched = confidence > 0
    below = _without_specks(matched & (alone + error < road / _FAR))
    road_below = _seen_below(_within(inv_depth, road, _LIKE_ROAD), road)
    floats = _without_specks(matched & (road > 0) & (alone - error > _NEAR * road_below))
    found = _up_to_its_top(below, alone - error, alone) | _up_to_its_top(floats, -alone - error, -alone)
    px = px_per_inv_depth * FEATURE_STRIDE
    tolerance_px = _SURPRISE_PX + _SURPRISE * px * np.abs(expected_inv_depth)
    surprise = px * np.abs(alone - expected_inv_depth) / tolerance_px
    mask = np.where(found, MOVING_FOR, moving).astype(np.uint8)
    mask = _with_its_sides(mask, target, matched & (surprise > 1.0))
    as_expected = _without_specks(matched & (surprise < 0.5)) & ~found
    mask = np.where(as_expected, np.maximum(mask, _FORGIVEN) - _FORGIVEN, mask)
    mask = np.where(_without_specks(matched & _within(alone, road, _LIKE_ROAD)) & ~found, 0, mask).astype(np.uint8)
    # nearer than two baselines a point passes the camera before it is seen again, and says nothing of what comes
    nearest = 0.5 / max(float(np.linalg.norm(T_before_new[:3, 3])), 1e-6)
    return MovingMask(mask, np.where((mask > 0) & matched, alone.clip(_FARTHEST, nearest), inv_depth))


def _within(value: np.ndarray, reference: np.ndarray, factor: float) -> np.ndarray:
    return (value > reference / factor) & (value < reference * factor)


def _with_its_sides(mask: np.ndarray, target: np.ndarray, surprising: np.ndarray) -> np.ndarray:
    """A vehicle that turns shows a side that was not seen before: cells next to those that move join them where they
    move like them, and not as they would if they stood still.
    """
    h, w = mask.shape
    y, x = np.mgrid[0:h, 0:w]
    flow = (target - np.stack([x, y], axis=-1)).astype(np.float32)
    for _ in range(_JOINING):
        moves = (mask > 0).astype(np.float32)
        count = cv2.boxFilter(moves, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
        total = cv2.boxFilter(flow * moves[..., None], -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
        difference = np.linalg.norm(flow - total / np.maximum(count, 1.0)[..., None], axis=-1) * FEATURE_STRIDE
        joins = (mask == 0) & (count > 0) & surprising & (difference < _LIKE_PX)
        mask = np.where(joins, MOVING_FOR, mask).astype(np.uint8)
    return mask


def mask_moving(match: Correspondence, moving: np.ndarray) -> Correspondence:
    """The match of a keyframe without its moving cells and a margin of one cell, across which matches bleed.

    While moving cells are a minority the robust loss copes with them, and nothing is masked.
    """
    if not moving.any():
        return match
    if isinstance(match.confidence, Tensor):
        return mask_all_moving([match], [moving])[0]
    confidence = on_host(confidence_per_cell(match.confidence))
    if confidence[moving > 0].sum() < _MINORITY * confidence.sum():
        return match
    keep = (cv2.dilate(moving, _SQUARE) == 0).reshape(moving.shape + (1,) * (match.confidence.ndim - 2))
    return replace(match, confidence=match.confidence * keep)


def mask_all_moving(matches: Sequence[Correspondence], moving: Sequence[np.ndarray]) -> list[Correspondence]:
    """Apply :func:`mask_moving` to each match with its mask; on a device to all together, without waiting for it."""
    if not any(isinstance(match.confidence, Tensor) for match in matches):
        return [mask_moving(match, mask) for match, mask in zip(matches, moving, strict=True)]
    found = list(matches)
    where = [n for n, mask in enumerate(moving) if mask.any()]
    if where:
        confidence = torch.stack([torch.as_tensor(matches[n].confidence) for n in where])
        for n, left in zip(where, _without_moving(confidence, [moving[n] for n in where]), strict=True):
            found[n] = replace(matches[n], confidence=left)
    return found


def _without_moving(confidence: Tensor, moving: Sequence[np.ndarray]) -> Tensor:
    """Confidence [E, h, w] or [E, h, w, 2] without what moves where that has its share: the device decides."""
    masks = {id(mask): np.stack([mask > 0, cv2.dilate(mask, _SQUARE) == 0]) for mask in moving}
    moves, keep = uploaded(np.stack([masks[id(mask)] for mask in moving]), confidence.device).unbind(1)
    per_cell = torch.as_tensor(confidence_per_cell(confidence)).double()
    few = (per_cell * moves).sum((1, 2)) < _MINORITY * per_cell.sum((1, 2))
    keep = keep | few[:, None, None]
    return confidence * keep.reshape(*keep.shape, *[1] * (confidence.ndim - 3))


def _without_specks(mask: np.ndarray) -> np.ndarray:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _SQUARE) > 0


def _seen_below(is_road: np.ndarray, road: np.ndarray) -> np.ndarray:
    """Inverse depth of the farthest road that is seen below each cell in its column, [h, w]; infinite: none is."""
    far = np.where(is_road, road, np.inf)
    far[-1] = np.inf
    return np.minimum.accumulate(far[::-1], axis=0)[::-1]


def _up_to_its_top(found: np.ndarray, least: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Above the lowest part of a vehicle, which the road betrays, the rest seems as far away (or as near): every column
    is followed upwards as long as ``least`` does not exceed the mean ``value`` of what was ``found`` in it.
    """
    out = found.copy()
    limit = np.where(found, value, 0.0).sum(axis=0) / np.maximum(found.sum(axis=0), 1)
    for row in range(len(found) - 2, -1, -1):
        out[row] |= out[row + 1] & (least[row] < limit)
    return np.asarray(out)
