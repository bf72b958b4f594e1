"""Each new frame against the last keyframe: dense matches in both directions, then its pose by motion-only BA.

Input: the keyframe store and the frame's features. Output: :class:`TrackedFrame`; if the frame becomes a keyframe its
matches are the first two edges of the factor graph, so nothing is computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from metric_slam.correspondence.base import (
    Correspondence,
    CorrespondenceModel,
    EdgeQuery,
    checked_matches,
    confidence_per_axis,
    confidence_per_cell,
    in_memory,
)
from metric_slam.geometry import lie
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera
from metric_slam.geometry.grid_array import on_host
from metric_slam.graph.keyframes import Keyframe
from metric_slam.graph.moving_mask import mask_moving
from metric_slam.graph.slam_map import SlamMap
from metric_slam.optimization.bundle_adjustment import BaWindow, reproject
from metric_slam.optimization.solver import Solver


@dataclass(frozen=True)
class TrackingLimits:
    """When a frame counts as tracked."""

    min_matches: int = 30
    """Cells that must be matched for any pose."""

    inlier_px: float = 3.0
    """Distance between match and reprojection up to which a cell fits the pose, pixels."""

    enough_inliers: float = 0.5
    """Share of inliers below which the start of the motion model is not trusted and PnP gives a second one."""

    lost_inliers: float = 0.25
    """Share of inliers below which a frame is lost."""

    lost_coverage: float = 0.12
    """Share of matched cells below which a frame is lost: unrelated images match by chance in up to a tenth of their
    cells, views of one place in most."""

    textured_confidence: float = 0.2
    """Confidence of a cell that can be matched."""

    textured_share: float = 0.2
    """Share of such cells from which an image can be matched at all."""

    min_parallax_px: float = 1.0
    """Median parallax below which two views only turned: any translation explains them."""

    iterations: int = 8
    """Solver iterations for one pose."""

    pnp_points: int = 1500
    """Cells that PnP looks at, evenly spread."""


class MatchableFrame(Protocol):
    """What matching needs of a frame or of a keyframe."""

    @property
    def features(self) -> object:
        """Of the correspondence model."""
        ...

    @property
    def ignored(self) -> np.ndarray | None:
        """Cells that must not be matched, bool [h, w]."""
        ...


@dataclass(frozen=True)
class TrackedFrame:
    """A frame matched with the last keyframe."""

    forward: Correspondence
    """Keyframe -> frame, without the keyframe's cells that move with the camera."""

    backward: Correspondence
    """Frame -> keyframe, all cells."""

    T_cam_world: np.ndarray
    """float64 [4, 4]."""

    mean_flow_px: float
    """Mean length of confident flow, pixels at working resolution."""

    coverage: float
    """Share of the keyframe's cells that are matched, of those that are not left out because they move."""

    tracked: bool
    """False: the pose is only the prediction."""

    inlier_ratio: float = 0.0
    """Share of the keyframe's cells whose match fits the pose, 0..1; all that match where no depth is known yet."""


class FrameTracker:
    """Matches frames with the last keyframe of the map and finds their poses."""

    def __init__(
        self, slam_map: SlamMap, model: CorrespondenceModel, solver: Solver, limits: TrackingLimits | None = None
    ) -> None:
        """``solver`` of the CPU: six unknowns and a few thousand cells, and the answer decides what comes next."""
        self._map, self._model, self._solver = slam_map, model, solver
        self._limits = limits or TrackingLimits()

    def track(self, frame: MatchableFrame, T_predicted: np.ndarray, *, depth_known: bool) -> TrackedFrame:
        """Match a frame with the last keyframe and solve its pose.

        ``T_predicted`` T_cam_world [4, 4] is the motion model's; without ``depth_known`` (second frame of a video
        without depth) only the matches are found and the prediction is returned.
        """
        keyframe, limits = self._map[-1], self._limits
        queried, backward = self.match_both(keyframe, frame, T_predicted if depth_known else None)
        forward = mask_moving(queried, keyframe.moving_cells)
        target, weight = in_memory(forward)
        T_cam_world, inliers, fitting = T_predicted, 1.0, float((weight > 0).mean())
        if depth_known:
            T_cam_world, inliers, fitting = self._pose(keyframe, forward, T_predicted)
        flow = target - _cells(target)
        total = float(weight.sum())
        mean_flow = float((np.linalg.norm(flow, axis=-1) * weight).sum() / total) if total > 0 else 0.0
        matched = int((weight > 0).sum())
        # an empty frame is "matched" by cells that stay where they are; it has no texture of its own to match back
        matched_back = int((in_memory(backward).confidence > 0).sum())
        left_out = 0 if forward is queried else int(np.count_nonzero(keyframe.moving_cells))
        if keyframe.ignored is not None:
            left_out += int(np.count_nonzero(keyframe.ignored))
        usable = max(weight.size - left_out, 1)
        enough = max(limits.min_matches, limits.lost_coverage * usable)
        tracked = min(matched, matched_back) >= enough and inliers >= limits.lost_inliers
        return TrackedFrame(
            forward=forward,
            backward=backward,
            T_cam_world=T_cam_world if tracked else T_predicted,
            mean_flow_px=mean_flow * FEATURE_STRIDE,
            coverage=matched / usable,
            tracked=tracked,
            inlier_ratio=fitting,
        )

    def match(self, keyframe: Keyframe, frame: MatchableFrame, T_cam_world: np.ndarray) -> Correspondence:
        """Matches keyframe -> frame for a frame at about T_cam_world [4, 4]."""
        return mask_moving(self.match_both(keyframe, frame, T_cam_world)[0], keyframe.moving_cells)

    def match_both(
        self, keyframe: Keyframe, frame: MatchableFrame, T_cam_world: np.ndarray | None
    ) -> tuple[Correspondence, Correspondence]:
        """Matches keyframe -> frame and back, searched around what T_cam_world [4, 4] of the frame predicts."""
        predicted = self._predict(keyframe, T_cam_world) if T_cam_world is not None else None
        backwards = invert_matches(predicted) if predicted is not None else None
        here, there = keyframe.ignored, frame.ignored
        queries = [
            EdgeQuery(keyframe.features, frame.features, predicted, source_ignored=here, target_ignored=there),
            EdgeQuery(frame.features, keyframe.features, backwards, source_ignored=there, target_ignored=here),
        ]
        forward, backward = checked_matches(self._model, queries)
        return forward, backward

    def is_textured(self, features: object) -> bool:
        """True if the image shows enough to be matched at all: it is matched with itself."""
        limits = self._limits
        (match,) = self._model.track([EdgeQuery(features, features)])
        return bool((in_memory(match).confidence > limits.textured_confidence).mean() > limits.textured_share)

    def _predict(self, keyframe: Keyframe, T_cam_world: np.ndarray) -> np.ndarray:
        coords, _, _ = reproject(
            np.stack([keyframe.pose, lie.matrix_to_pose_vec(T_cam_world)]),
            np.stack([keyframe.inv_depth] * 2),
            self._map.camera.grid().vector(),
            np.array([0]),
            np.array([1]),
        )
        return np.asarray(coords[0])

    def _pose(
        self, keyframe: Keyframe, match: Correspondence, T_predicted: np.ndarray
    ) -> tuple[np.ndarray, float, float]:
        """As :meth:`refine`: from the motion model, and from PnP as well where that one does not fit."""
        found = self.refine([(keyframe, match)], T_predicted)
        if found[1] >= self._limits.enough_inliers:
            return found
        start = pose_from_depth(keyframe, match, self._map.camera, self._limits)
        if start is None:
            return found
        second = self.refine([(keyframe, match)], start)
        return second if second[1] > found[1] else found

    def refine(
        self, views: list[tuple[Keyframe, Correspondence]], T_start: np.ndarray
    ) -> tuple[np.ndarray, float, float]:
        """Motion-only bundle adjustment of a frame against the depth of keyframes, from T_cam_world ``T_start`` [4, 4].

        ``views``: keyframes and their matches keyframe -> frame. Returns T_cam_world [4, 4], the share of the matches'
        confidence that fits it within 3 px, and the share of the keyframes' cells that do.
        """
        n, limits = len(views), self._limits
        matches = [in_memory(match) for _, match in views]
        confidence, target = np.stack([m.confidence for m in matches]), np.stack([m.target for m in matches])
        weight = on_host(confidence_per_cell(confidence))
        window = BaWindow(
            intrinsics=self._map.camera.grid().vector(),
            poses=np.stack([*(keyframe.pose for keyframe, _ in views), lie.matrix_to_pose_vec(T_start)]),
            inv_depth=np.stack([*(keyframe.inv_depth for keyframe, _ in views), views[0][0].inv_depth]),
            source=np.arange(n),
            target=np.full(n, n),
            flow_target=target,
            confidence=confidence_per_axis(confidence),
            pose_free=np.arange(n + 1) == n,
            depth_free=np.zeros(n + 1, bool),
        )
        window, _ = self._solver.solve(window, iterations=limits.iterations, motion_only=True)
        coords, _, valid = reproject(window.poses, window.inv_depth, window.intrinsics, window.source, window.target)
        error_px = np.linalg.norm(coords - target, axis=-1) * FEATURE_STRIDE
        fits = valid & (error_px < limits.inlier_px)
        inliers = float((weight * fits).sum() / max(weight.sum(), 1e-9))
        return lie.pose_vec_to_matrix(window.poses[n]), inliers, float((fits & (weight > 0)).mean())


_DEFAULT = TrackingLimits()


def _cells(grid: np.ndarray) -> np.ndarray:
    """Coordinates (x, y) of all cells of an array [h, w, ...]."""
    y, x = np.mgrid[0 : grid.shape[0], 0 : grid.shape[1]].astype(np.float64)
    return np.stack([x, y], axis=-1)


def invert_matches(coords: np.ndarray) -> np.ndarray:
    """Where the cells of the target lie in the source, by fixed-point iteration; both float64 [h, w, 2]."""
    cells = _cells(coords)
    limit = float(max(coords.shape))
    flow = np.clip(np.nan_to_num(coords - cells), -limit, limit).astype(np.float32)
    inverse = cells.astype(np.float32)
    for _ in range(4):
        at = cv2.remap(flow, inverse[..., 0], inverse[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        inverse = (cells - at).astype(np.float32)
    return inverse.astype(np.float64)


def pose_from_depth(
    keyframe: Keyframe, match: Correspondence, camera: PinholeCamera, limits: TrackingLimits = _DEFAULT
) -> np.ndarray | None:
    """T_cam_world [4, 4] of a matched frame from the keyframe's depth by PnP with RANSAC; None if it finds none."""
    grid = camera.grid()
    target, confidence = in_memory(match)
    good = confidence > limits.textured_confidence
    if good.sum() < limits.min_matches:
        return None
    points = (grid.rays() / keyframe.inv_depth[..., None])[good]
    pixels = target[good]
    step = max(1, len(points) // limits.pnp_points)
    found, rotation, translation, _ = cv2.solvePnPRansac(
        points[::step],
        pixels[::step],
        grid.K,
        None,
        iterationsCount=100,
        reprojectionError=limits.inlier_px / FEATURE_STRIDE,
        flags=cv2.SOLVEPNP_EPNP,
    )
    if not found:
        return None
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(rotation)[0], translation.ravel()
    return np.asarray(T @ keyframe.T_cam_world)


def motion_from_matches(
    match: Correspondence, camera: PinholeCamera, limits: TrackingLimits = _DEFAULT
) -> tuple[np.ndarray, np.ndarray] | None:
    """Relative pose of two frames without depth, up to scale: essential matrix with RANSAC.

    Returns T_target_source [4, 4] with a translation of length 1 and the inverse depth of the source cells in that
    unit [h, w] (NaN where not triangulated); None where the images do not show enough parallax.
    """
    grid = camera.grid()
    target, confidence = in_memory(match)
    good = confidence > limits.textured_confidence
    if good.sum() < limits.min_matches:
        return None
    first, second = _cells(target)[good], target[good]
    if _parallax_px(first, second, grid) < limits.min_parallax_px:
        return None
    E, mask = cv2.findEssentialMat(first, second, grid.K, cv2.RANSAC, 0.999, 0.7 / FEATURE_STRIDE)
    if E is None or E.shape != (3, 3):
        return None
    count, R, t, mask, points = cv2.recoverPose(
        E, first, second, grid.K, distanceThresh=1e3, mask=mask, triangulatedPoints=None
    )
    if count < 0.3 * len(first):
        return None
    z = points[2] / points[3]
    inv_depth = np.full(good.shape, np.nan)
    inv_depth[good] = np.where((mask.ravel() > 0) & (z > 0), 1.0 / np.maximum(z, 1e-3), np.nan)
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t.ravel()
    return T, inv_depth


def _parallax_px(first: np.ndarray, second: np.ndarray, grid: PinholeCamera) -> float:
    """Median length of what a turning camera leaves unexplained of matches between cells, both [P, 2]; in pixels."""
    rays = [np.column_stack([(c - (grid.cx, grid.cy)) / (grid.fx, grid.fy), np.ones(len(c))]) for c in (first, second)]
    a, b = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in rays)
    R_second_first, _ = Rotation.align_vectors(b, a)
    left = np.linalg.norm(R_second_first.apply(a) - b, axis=1)
    return float(np.median(left)) * grid.fx * FEATURE_STRIDE


def transfer_depth(
    keyframe: Keyframe, T_cam_world: np.ndarray, backward: Correspondence, camera: PinholeCamera
) -> np.ndarray:
    """Inverse depth of the cells of a frame at T_cam_world [4, 4] from the keyframe that they match, float64 [h, w].

    ``backward`` are the matches frame -> keyframe; going through them leaves no holes, unlike projecting forward.
    """
    grid = camera.grid()
    target = in_memory(backward).target
    u = np.clip(target[..., 0], 0, grid.width - 1).astype(np.float32)
    v = np.clip(target[..., 1], 0, grid.height - 1).astype(np.float32)
    d = cv2.remap(keyframe.inv_depth.astype(np.float32), u, v, cv2.INTER_LINEAR).astype(np.float64)
    rays = np.stack([(u - grid.cx) / grid.fx, (v - grid.cy) / grid.fy, np.ones_like(u)], axis=-1)
    T = T_cam_world @ lie.inverse(keyframe.T_cam_world)
    z = rays @ T[2, :3] + T[2, 3] * d  # depth in the frame over depth in the keyframe
    return np.asarray(d / np.clip(z, 0.1, 10.0))
