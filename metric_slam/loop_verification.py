"""Do two images show the same place, and where was the camera? Local features and the metric depth of both keyframes.

SIFT matches (Lowe, IJCV 2004) whose points lie in space by the depth of one keyframe give the pose of the other by PnP
with RANSAC; the same is done the other way round, and both must agree. Metric depth makes this strict: a place that
only looks alike, larger or smaller or a house further on, does not fit.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.geometry import lie
from metric_slam.geometry.camera import FEATURE_STRIDE, GRID_OFFSET_PX, PinholeCamera

_FEATURES = 700
_RATIO = 0.8
_MIN_CONFIDENCE = 0.05
_MAX_DEPTH_STEP = 0.3  # relative difference of the cells around a point: beyond it lies a depth edge
_INLIER_PX = 2.5
_KEPT = 64  # keyframes whose features are remembered
_RIVAL = 0.6  # share of the winner's inliers at which another place makes it ambiguous
_OTHER_PLACE_M = 8.0


@dataclass(frozen=True)
class VerificationLimits:
    """What makes a pair of images one place."""

    min_inliers: int = 30
    min_inlier_share: float = 0.35
    """Of the feature matches that have a depth."""

    min_spread: float = 0.2
    """Share of the image's 8 x 4 fields that hold an inlier."""

    max_disagreement_m: float = 0.3
    max_disagreement: float = 0.06
    """Between the two directions: a length, plus a share of the median depth of the inliers."""

    max_disagreement_rad: float = float(np.radians(2.0))
    max_log_scale: float = 0.25
    """Of the two depth maps against each other, where both claim to be metric."""


@dataclass(frozen=True)
class LoopView:
    """One keyframe as the verifier sees it."""

    position: int
    image: np.ndarray
    """uint8 [H, W, 3] RGB, working resolution."""

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
    spread: float


@dataclass(frozen=True)
class LoopRejection:
    """Two keyframes that do not."""

    query: int
    match: int
    reason: str


@dataclass(frozen=True)
class _Described:
    pixels: np.ndarray  # float32 [P, 2]
    descriptors: np.ndarray


class LoopVerifier:
    """Compares keyframes; remembers the features of the latest ones."""

    def __init__(self, camera: PinholeCamera, limits: VerificationLimits | None = None) -> None:
        self._camera, self._limits = camera, limits or VerificationLimits()
        self._sift = cv2.SIFT_create(_FEATURES, contrastThreshold=0.02)
        self._matcher = cv2.BFMatcher(cv2.NORM_L2)
        self._known: OrderedDict[int, _Described] = OrderedDict()

    def verify(self, query: LoopView, match: LoopView, *, metric: bool = True) -> VerifiedLoop | LoopRejection:
        """Is it one place? ``metric``: the depths of both are in metres and must agree in scale."""
        now, then = self._described(query), self._described(match)
        pairs = self._matches(now, then)

        def rejected(reason: str) -> LoopRejection:
            return LoopRejection(query.position, match.position, reason)

        if len(pairs) < self._limits.min_inliers:
            return rejected(f"{len(pairs)} matches")
        here, there = now.pixels[pairs[:, 0]], then.pixels[pairs[:, 1]]
        X_there, known_there = self._points(match, there)
        X_here, known_here = self._points(query, here)
        forward = self._pose(X_there, known_there, here)
        back = self._pose(X_here, known_here, there)
        if forward is None or back is None:
            return rejected("no pose")
        T_query_match, fits = forward
        T_match_query, fits_back = back
        if min(fits.sum(), fits_back.sum()) < self._limits.min_inliers:
            return rejected(f"{fits.sum()} and {fits_back.sum()} inliers")
        share = min(fits.sum() / known_there.sum(), fits_back.sum() / known_here.sum())
        if share < self._limits.min_inlier_share:
            return rejected(f"inlier share {share:.2f}")
        spread = self._spread(here[fits])
        if spread < self._limits.min_spread:
            return rejected(f"spread {spread:.2f}")
        both = fits & fits_back
        if both.sum() < self._limits.min_inliers // 2:
            return rejected(f"{both.sum()} inliers both ways")
        log_scale = self._log_scale(T_query_match, X_there[both], X_here[both])
        if metric and abs(log_scale) > self._limits.max_log_scale:
            return rejected(f"scale differs by {np.exp(log_scale):.2f}")
        if not self._agree(T_query_match, T_match_query, log_scale, X_there[both]):
            return rejected("the two directions disagree")
        return VerifiedLoop(query.position, match.position, T_query_match, log_scale, int(both.sum()), spread)

    def _described(self, view: LoopView) -> _Described:
        if view.position in self._known:
            self._known.move_to_end(view.position)
            return self._known[view.position]
        grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
        points, descriptors = self._sift.detectAndCompute(grey, None)
        pixels = np.array([p.pt for p in points], np.float32).reshape(-1, 2)
        if descriptors is None:
            descriptors = np.zeros((0, 128), np.float32)
        roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
        self._known[view.position] = described = _Described(pixels, roots.astype(np.float32))
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return described

    def _matches(self, now: _Described, then: _Described) -> np.ndarray:
        """Rows of mutual nearest neighbours that pass the ratio test, int64 [M, 2]."""
        if min(len(now.pixels), len(then.pixels)) < 2:
            return np.zeros((0, 2), np.int64)
        there = {m.queryIdx: m.trainIdx for m, n in self._matcher.knnMatch(now.descriptors, then.descriptors, 2)
                 if m.distance < _RATIO * n.distance}
        back = {m.queryIdx: m.trainIdx for m in self._matcher.match(then.descriptors, now.descriptors)}
        pairs = [(i, j) for i, j in there.items() if back.get(j) == i]
        return np.array(pairs, np.int64).reshape(-1, 2)

    def _points(self, view: LoopView, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points [P, 3] of pixels in the camera and which of them have a depth, [P]."""
        cells = ((pixels - GRID_OFFSET_PX) / FEATURE_STRIDE).astype(np.float32)
        x, y = cells[:, :1], cells[:, 1:]
        inv_depth = view.inv_depth.astype(np.float32)
        d = cv2.remap(inv_depth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0].astype(np.float64)
        sure = cv2.remap(view.confidence.astype(np.float32), x, y, cv2.INTER_NEAREST)[:, 0] > _MIN_CONFIDENCE
        box = np.ones((3, 3), np.uint8)
        step = (cv2.dilate(inv_depth, box) - cv2.erode(inv_depth, box)) / np.maximum(inv_depth, 1e-6)
        smooth = cv2.remap(step, x, y, cv2.INTER_NEAREST)[:, 0] < _MAX_DEPTH_STEP
        camera = self._camera
        rays = np.column_stack([(pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy), np.ones(len(pixels))])
        return rays / np.maximum(d, 1e-6)[:, None], sure & smooth & (d > 1e-4)

    def _pose(self, X: np.ndarray, known: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Pose of the camera that sees points ``X`` at ``pixels``, and which of them fit, [P]."""
        if known.sum() < self._limits.min_inliers:
            return None
        cv2.setRNGSeed(0)
        found, rotation, translation, rows = cv2.solvePnPRansac(
            X[known], pixels[known].astype(np.float64), self._camera.K, None, iterationsCount=200,
            reprojectionError=_INLIER_PX, confidence=0.999, flags=cv2.SOLVEPNP_EPNP,
        )
        if not found or rows is None or len(rows) < 6:
            return None
        keep = np.flatnonzero(known)[rows.ravel()]
        rotation, translation = cv2.solvePnPRefineLM(
            X[keep], pixels[keep].astype(np.float64), self._camera.K, None, rotation, translation
        )
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = cv2.Rodrigues(rotation)[0], translation.ravel()
        Y = X @ T[:3, :3].T + T[:3, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            error_px = np.linalg.norm(self._camera.project(Y) - pixels, axis=1)
        return T, known & (Y[:, 2] > 0) & (error_px < _INLIER_PX)

    def _spread(self, pixels: np.ndarray) -> float:
        fields = (pixels / (self._camera.width / 8, self._camera.height / 4)).astype(int)
        return len(np.unique(fields, axis=0)) / 32

    @staticmethod
    def _log_scale(T_query_match: np.ndarray, X_match: np.ndarray, X_query: np.ndarray) -> float:
        """From the depths that both keyframes give the same points."""
        depth = (X_match @ T_query_match[:3, :3].T + T_query_match[:3, 3])[:, 2]
        return float(np.median(np.log(np.maximum(depth, 1e-6) / X_query[:, 2])))

    def _agree(self, T_query_match: np.ndarray, T_match_query: np.ndarray, log_scale: float, X: np.ndarray) -> bool:
        limits = self._limits
        inverse = lie.inverse(T_match_query)
        inverse[:3, 3] *= np.exp(log_scale)  # from the unit of the query to that of the match
        apart = float(np.linalg.norm(inverse[:3, 3] - T_query_match[:3, 3]))
        turn = inverse[:3, :3].T @ T_query_match[:3, :3]
        angle = float(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
        far = float(np.median(X[:, 2]))
        return apart < limits.max_disagreement_m + limits.max_disagreement * far and angle < limits.max_disagreement_rad


def choose(verified: list[VerifiedLoop], centres: np.ndarray) -> VerifiedLoop | None:
    """The loop with most inliers; None if another place fits nearly as well, as in a row of alike houses.

    ``centres`` [N, 3]: present positions of all keyframes, metres.
    """
    ranked = sorted(verified, key=lambda loop: -loop.inliers)
    best = ranked[0]
    for other in ranked[1:]:
        elsewhere = np.linalg.norm(centres[other.match] - centres[best.match]) > _OTHER_PLACE_M
        if elsewhere and other.inliers > _RIVAL * best.inliers and not _consistent(best, other, centres):
            return None
    return best


def _consistent(best: VerifiedLoop, other: VerifiedLoop, centres: np.ndarray) -> bool:
    """Do both say the same: two keyframes of one street, each as far away as it says?"""
    apart = float(np.linalg.norm(centres[other.match] - centres[best.match]))
    said = [lie.inverse(loop.T_query_match)[:3, 3] for loop in (best, other)]
    # the query seen from the two keyframes: their distance follows if both are of one place
    return abs(apart - float(np.linalg.norm(said[0] - said[1]))) < 0.3 * apart
