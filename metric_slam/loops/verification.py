"""Verification of a loop: whether two keyframes show the same place, and the pose between them.

    SIFT, mutual matches -> P3P in RANSAC -> pose -> every point with depth is searched where the pose predicts it
    -> pose from all that were found -> are enough of the points in view among them? -> do both directions agree?

SIFT matches (Lowe, IJCV 2004) whose points are placed by the depth of one keyframe give the pose of the other, and the
other way round. Depth makes the check strict: a place that only looks alike, larger or smaller or a house further on,
does not fit. The guided search makes it complete: from a few metres away a ratio test finds few of many matches, and
the evidence is not their number but the share of the points in view that are found where they must be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.geometry import lie
from metric_slam.geometry.camera import FEATURE_STRIDE, GRID_OFFSET_PX, PinholeCamera
from metric_slam.loops.features import FeatureCache
from metric_slam.loops.limits import VerificationLimits
from metric_slam.loops.resection import Resection, Resector, ScenePoints
from metric_slam.loops.route import difference


@dataclass(frozen=True)
class LoopView:
    """One keyframe as the verifier takes it."""

    position: int
    image: np.ndarray | None
    """uint8 [H, W, 3] RGB, working resolution; None where the verifier has its features."""

    inv_depth: np.ndarray
    """float64 [h, w] on the 1/8 grid."""

    confidence: np.ndarray
    """0..1, [h, w]; 0 where the inverse depth is a guess."""


@dataclass(frozen=True)
class VerifiedLoop:
    """Two keyframes that show the same place."""

    query: int
    match: int
    T_query_match: np.ndarray
    """float64 [4, 4], lengths in the unit of the match."""

    log_scale: float
    """log(length in the map around the match / the same length around the query); near 0 where both are metric."""

    inliers: int
    """Points found again, in the worse direction."""

    spread: float
    """Share of the image's 8 x 4 fields that hold one of them."""


@dataclass(frozen=True)
class LoopRejection:
    """Two keyframes that do not show the same place, or not enough of it."""

    query: int
    match: int
    reason: str


class LoopVerifier:
    """Compares keyframes of one camera; features of the latest ones stay in memory."""

    def __init__(self, camera: PinholeCamera, limits: VerificationLimits | None = None) -> None:
        self._camera, self._limits = camera, limits or VerificationLimits()
        self._resector = Resector(camera, self._limits)
        self._features = FeatureCache(self._limits.features, self._limits.features_kept)

    def has_features(self, position: int) -> bool:
        """True if a view of this keyframe needs no image."""
        return position in self._features

    def verify(self, query: LoopView, match: LoopView, *, metric: bool = True) -> VerifiedLoop | LoopRejection:
        """Compare two keyframes; ``metric``: both depths are metres and must agree in scale."""
        limits = self._limits
        now, then = (self._features.get(view.position, view.image) for view in (query, match))

        def rejected(reason: str) -> LoopRejection:
            return LoopRejection(query.position, match.position, reason)

        if min(len(now.pixels), len(then.pixels)) < limits.min_inliers:
            return rejected("too few features")
        cosines = then.descriptors @ now.descriptors.T  # [P of match, P of query]
        pairs = _mutual(cosines, limits.ratio)
        if len(pairs) < limits.min_seeds:
            return rejected(f"{len(pairs)} matches")
        here, there = self._points(query, now.pixels), self._points(match, then.pixels)
        forward = self._resector.locate(there, here.pixels, pairs, cosines)
        back = None if forward is None else self._resector.locate(here, there.pixels, pairs[:, ::-1], cosines.T)
        if forward is None or back is None:
            return rejected("no pose")
        inliers = min(len(forward.rows), len(back.rows))
        spread = self._spread(here.pixels[forward.rows[:, 1]])
        reason = self._shortage(forward, back, spread)
        if reason is not None:
            return rejected(reason)
        both = forward.rows[here.has_depth[forward.rows[:, 1]]]
        if len(both) < limits.min_inliers // 2:
            return rejected(f"{len(both)} points with both depths")
        X_there = there.X[both[:, 0]]
        log_scale = _log_scale(forward.T, X_there, here.X[both[:, 1]])
        if metric and abs(log_scale) > limits.max_log_scale:
            return rejected(f"scale differs by {np.exp(log_scale):.2f}")
        if not self._agree(forward.T, back.T, log_scale, X_there):
            return rejected("the two directions disagree")
        return VerifiedLoop(query.position, match.position, forward.T, log_scale, inliers, spread)

    def choose(self, verified: Sequence[VerifiedLoop], centres: np.ndarray, scene_depth: float) -> VerifiedLoop | None:
        """The loop with most inliers; None if another place fits nearly as well, as in a row of alike houses.

        ``centres`` [N, 3]: present positions of all keyframes; ``scene_depth``: median depth around the query.
        """
        limits = self._limits
        if not verified:
            return None
        ranked = sorted(verified, key=lambda loop: -loop.inliers)
        best = ranked[0]
        for other in ranked[1:]:
            apart = float(np.linalg.norm(centres[other.match] - centres[best.match]))
            elsewhere = apart > limits.other_place_depths * scene_depth
            if elsewhere and other.inliers > limits.rival * best.inliers and not _consistent(best, other, apart):
                return None
        return best

    def _shortage(self, forward: Resection, back: Resection, spread: float) -> str | None:
        """What the points found in both directions lack; None if they are enough."""
        limits = self._limits
        found = min(len(forward.rows), len(back.rows))
        if found < limits.min_inliers:
            return f"{found} points found again"
        shares = sorted((forward.share, back.share))
        if shares[0] < limits.min_share or shares[1] < limits.min_better_share:
            return f"{shares[0]:.2f} and {shares[1]:.2f} of the points in view found again"
        return f"spread {spread:.2f}" if spread < limits.min_spread else None

    def _points(self, view: LoopView, pixels: np.ndarray) -> ScenePoints:
        """Points of pixels [P, 2] by the depth of their keyframe."""
        limits, camera = self._limits, self._camera
        cells = ((pixels - GRID_OFFSET_PX) / FEATURE_STRIDE).astype(np.float32)
        x, y = cells[:, :1], cells[:, 1:]
        inv_depth = view.inv_depth.astype(np.float32)
        d = cv2.remap(inv_depth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0].astype(np.float64)
        confidence = cv2.remap(view.confidence.astype(np.float32), x, y, cv2.INTER_NEAREST)[:, 0]
        box = np.ones((3, 3), np.uint8)
        step = (cv2.dilate(inv_depth, box) - cv2.erode(inv_depth, box)) / np.maximum(inv_depth, 1e-6)
        smooth = cv2.remap(step, x, y, cv2.INTER_NEAREST)[:, 0] < limits.max_depth_step
        rays = np.column_stack([(pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy), np.ones(len(pixels))])
        near = d > limits.min_inv_depth * float(np.median(inv_depth))
        has_depth = (confidence > limits.min_confidence) & smooth & near
        return ScenePoints(rays / np.maximum(d, 1e-6)[:, None], pixels.astype(np.float64), has_depth)

    def _spread(self, pixels: np.ndarray) -> float:
        fields = (pixels / (self._camera.width / 8, self._camera.height / 4)).astype(int)
        return len(np.unique(fields, axis=0)) / 32

    def _agree(self, T_query_match: np.ndarray, T_match_query: np.ndarray, log_scale: float, X: np.ndarray) -> bool:
        """True if the poses of both directions agree; ``X`` [M, 3]: points of the match."""
        inverse = lie.inverse(T_match_query)
        inverse[:3, 3] *= np.exp(log_scale)  # from the unit of the query to that of the match
        apart, angle = difference(inverse, T_query_match)
        limit = self._limits.max_disagreement * float(np.median(X[:, 2]))
        return apart < limit and angle < self._limits.max_disagreement_rad


def _mutual(cosines: np.ndarray, ratio: float) -> np.ndarray:
    """Pairs [M, 2] of rows and columns of cosines [P, Q] that are nearest to each other and pass the ratio test."""
    two = np.partition(cosines, -2, axis=0)[-2:]  # of every column
    distance = np.sqrt(np.maximum(2.0 - 2.0 * two, 0.0))
    row_of = np.argmax(cosines, axis=0)
    columns = np.arange(cosines.shape[1])
    good = (np.argmax(cosines, axis=1)[row_of] == columns) & (distance[1] < ratio * distance[0])
    return np.column_stack([row_of[good], columns[good]])


def _log_scale(T_query_match: np.ndarray, X_match: np.ndarray, X_query: np.ndarray) -> float:
    """Ratio of the depths that both keyframes give the same points [M, 3], as a logarithm."""
    depth = (X_match @ T_query_match[:3, :3].T + T_query_match[:3, 3])[:, 2]
    return float(np.median(np.log(np.maximum(depth, 1e-6) / X_query[:, 2])))


def _consistent(best: VerifiedLoop, other: VerifiedLoop, apart: float) -> bool:
    """True if both loops are of one place: two keyframes of one street, ``apart`` as far as the loops measure."""
    first, second = (lie.inverse(loop.T_query_match)[:3, 3] for loop in (best, other))
    return abs(apart - float(np.linalg.norm(first - second))) < 0.3 * apart
