"""Do two images show the same place, and where was the camera? Local features and the metric depth of both keyframes.

    SIFT, mutual matches -> P3P in RANSAC -> pose -> every point whose depth is known is sought where the pose puts it
    -> pose from all that were found -> are enough of the visible ones among them? -> do both directions agree?

SIFT matches (Lowe, IJCV 2004) whose points lie in space by the depth of one keyframe give the pose of the other; the
same is done the other way round. Metric depth makes this strict: a place that only looks alike, larger or smaller or a
house further on, does not fit. The second search makes it complete: from a few metres away a ratio test finds few
matches of many, and what tells the place is not their number but the share of the points that are where they must be.
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
_SEED_PX = 3.0  # of the first pose, whose points have depths as they are
_PIXEL_SIGMA_PX = 1.0
_DEPTH_SIGMA = 0.08  # relative, of one point: it moves where a point is expected along a line
_GATE = 9.21  # squared Mahalanobis distance that 99 % of true matches keep
_SEARCH_GATE = 16.0  # around the first pose, which is rougher
_MAX_DESCRIPTOR_DISTANCE = 0.6  # of unit vectors: chance finds less than a tenth of the points, a true pose a third
_MIN_DEPTH_RATIO = 0.05  # a point that comes so much nearer is all but beside the camera
_REFINEMENTS = 8
_KEPT = 64  # keyframes whose features are remembered
_RIVAL = 0.6  # share of the winner's inliers at which another place makes it ambiguous
_OTHER_PLACE_M = 8.0


@dataclass(frozen=True)
class VerificationLimits:
    """What makes a pair of images one place."""

    min_seeds: int = 8
    """Matches, found without knowing where to look, that fit the first pose."""

    min_inliers: int = 30
    """Points found again, in each direction."""

    min_share: float = 0.12
    min_better_share: float = 0.22
    """Of the points that must be visible: in the worse direction, and in the better one."""

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
    descriptors: np.ndarray  # float32 [P, 128], unit vectors


@dataclass(frozen=True)
class _Side:
    """The points of one image in the camera: X [P, 3], their pixels [P, 2], and which have a depth [P]."""

    X: np.ndarray
    pixels: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class _Located:
    """Where one camera stands by the points of the other, and the points it found: rows [M, 2] of (point, feature)."""

    T: np.ndarray
    rows: np.ndarray
    share: float


class LoopVerifier:
    """Compares keyframes; remembers the features of the latest ones."""

    def __init__(self, camera: PinholeCamera, limits: VerificationLimits | None = None) -> None:
        self._camera, self._limits = camera, limits or VerificationLimits()
        self._sift = cv2.SIFT_create(_FEATURES, contrastThreshold=0.02)
        self._known: OrderedDict[int, _Described] = OrderedDict()

    def verify(self, query: LoopView, match: LoopView, *, metric: bool = True) -> VerifiedLoop | LoopRejection:
        """Is it one place? ``metric``: the depths of both are in metres and must agree in scale."""
        limits, now, then = self._limits, self._described(query), self._described(match)

        def rejected(reason: str) -> LoopRejection:
            return LoopRejection(query.position, match.position, reason)

        if min(len(now.pixels), len(then.pixels)) < limits.min_inliers:
            return rejected("too few features")
        alike = then.descriptors @ now.descriptors.T  # [P of match, P of query]
        pairs = _mutual(alike)
        if len(pairs) < limits.min_seeds:
            return rejected(f"{len(pairs)} matches")
        here, there = self._side(query, now.pixels), self._side(match, then.pixels)
        forward = self._locate(there, here.pixels, pairs, alike)
        back = None if forward is None else self._locate(here, there.pixels, pairs[:, ::-1], alike.T)
        if forward is None or back is None:
            return rejected("no pose")
        found = sorted((len(forward.rows), len(back.rows)))
        if found[0] < limits.min_inliers:
            return rejected(f"{found[0]} points found again")
        shares = sorted((forward.share, back.share))
        if shares[0] < limits.min_share or shares[1] < limits.min_better_share:
            return rejected(f"{shares[0]:.2f} and {shares[1]:.2f} of the visible points found again")
        spread = self._spread(here.pixels[forward.rows[:, 1]])
        if spread < limits.min_spread:
            return rejected(f"spread {spread:.2f}")
        both = forward.rows[here.known[forward.rows[:, 1]]]
        if len(both) < limits.min_inliers // 2:
            return rejected(f"{len(both)} points with both depths")
        X_there = there.X[both[:, 0]]
        log_scale = self._log_scale(forward.T, X_there, here.X[both[:, 1]])
        if metric and abs(log_scale) > limits.max_log_scale:
            return rejected(f"scale differs by {np.exp(log_scale):.2f}")
        if not self._agree(forward.T, back.T, log_scale, X_there):
            return rejected("the two directions disagree")
        return VerifiedLoop(query.position, match.position, forward.T, log_scale, found[0], spread)

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

    def _side(self, view: LoopView, pixels: np.ndarray) -> _Side:
        """Points of pixels [P, 2] by the depth of their keyframe."""
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
        return _Side(rays / np.maximum(d, 1e-6)[:, None], pixels.astype(np.float64), sure & smooth & (d > 1e-4))

    def _locate(self, source: _Side, pixels: np.ndarray, pairs: np.ndarray, alike: np.ndarray) -> _Located | None:
        """The camera that sees the points of ``source`` at some of ``pixels`` [Q, 2].

        ``pairs`` [M, 2]: rows (point, pixel) that match; ``alike`` [P, Q]: cosine between all descriptors.
        """
        seeds = pairs[source.known[pairs[:, 0]]]
        T = self._first_pose(source.X[seeds[:, 0]], pixels[seeds[:, 1]])
        if T is None:
            return None
        points = np.flatnonzero(source.known)
        for gate in (_SEARCH_GATE, _GATE):
            expected, precision, inside = self._expected(T, source.X[points])
            visible = points[inside]
            rows = _sought(expected[inside], precision[inside], pixels, alike[visible], gate)
            rows[:, 0] = visible[rows[:, 0]]
            if len(rows) < self._limits.min_seeds:
                return None
            T = self._refined(T, source.X[rows[:, 0]], pixels[rows[:, 1]])
        return _Located(T, rows, len(rows) / len(visible))

    def _first_pose(self, X: np.ndarray, pixels: np.ndarray) -> np.ndarray | None:
        """Pose [4, 4] that puts most points [M, 3] near their pixels [M, 2]; None if they are too few."""
        if len(X) < self._limits.min_seeds:
            return None
        cv2.setRNGSeed(0)
        found, rotation, translation, fits = cv2.solvePnPRansac(
            X,
            pixels,
            self._camera.K,
            None,
            iterationsCount=300,
            reprojectionError=_SEED_PX,
            confidence=0.999,
            flags=cv2.SOLVEPNP_P3P,
        )
        if not found or fits is None or len(fits) < self._limits.min_seeds:
            return None
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = cv2.Rodrigues(rotation)[0], translation.ravel()
        return self._refined(T, X[fits.ravel()], pixels[fits.ravel()])

    def _expected(self, T: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where a camera sees points [P, 3]: pixels [P, 2], their precisions [P, 2, 2], are they in the image, [P]."""
        camera, turned = self._camera, X @ T[:3, :3].T
        Y = turned + T[:3, 3]
        front = Y[:, 2] > _MIN_DEPTH_RATIO * X[:, 2]
        Y = np.where(front[:, None], Y, (0.0, 0.0, 1.0))
        pixels = camera.project(Y)
        # a longer ray moves the point along its ray, R X
        along = np.einsum("pij,pj->pi", self._projection_jacobian(Y), turned) * _DEPTH_SIGMA
        variance = _PIXEL_SIGMA_PX**2 + (along**2).sum(axis=1)[:, None, None]
        precision = (np.eye(2) - along[:, :, None] * along[:, None, :] / variance) / _PIXEL_SIGMA_PX**2
        inside = front & (pixels >= 0).all(axis=1) & (pixels < (camera.width, camera.height)).all(axis=1)
        return pixels, precision, inside

    def _projection_jacobian(self, Y: np.ndarray) -> np.ndarray:
        """Derivatives of pixels by points [P, 3] in front of the camera, [P, 2, 3]."""
        J = np.zeros((len(Y), 2, 3))
        J[:, 0, 0], J[:, 1, 1] = self._camera.fx / Y[:, 2], self._camera.fy / Y[:, 2]
        J[:, :, 2] = -J[:, (0, 1), (0, 1)] * Y[:, :2] / Y[:, 2:]
        return J

    def _refined(self, T: np.ndarray, X: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Gauss-Newton from pose T [4, 4]; residuals are whitened by what depths and pixels are worth, outliers lose
        their weight (Geman and McClure)."""
        T = T.copy()
        for _ in range(_REFINEMENTS):
            expected, precision, inside = self._expected(T, X)
            Y = X @ T[:3, :3].T + T[:3, 3]
            if inside.sum() < 6:
                return T
            r, W, Y = (pixels - expected)[inside], precision[inside], Y[inside]
            weight = 1.0 / (1.0 + np.einsum("pi,pij,pj->p", r, W, r) / _GATE) ** 2
            cross = np.zeros((len(Y), 3, 3))
            cross[:, (2, 0, 1), (1, 2, 0)], cross[:, (1, 2, 0), (2, 0, 1)] = Y, -Y
            J = self._projection_jacobian(Y) @ np.concatenate([np.tile(np.eye(3), (len(Y), 1, 1)), -cross], axis=2)
            JW = np.einsum("pji,pjk,p->pik", J, W, weight)
            H = np.einsum("pij,pjk->ik", JW, J)
            step = np.linalg.solve(H + 1e-9 * np.trace(H) * np.eye(6), np.einsum("pij,pj->i", JW, r))
            move = np.eye(4)
            move[:3, :3], move[:3, 3] = cv2.Rodrigues(step[3:])[0], step[:3]
            T = move @ T
            if np.abs(step).max() < 1e-4:
                break
        return T

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


def _mutual(alike: np.ndarray) -> np.ndarray:
    """Pairs [M, 2] of rows and columns of cosines [P, Q] that are nearest to each other and pass the ratio test."""
    two = np.partition(alike, -2, axis=0)[-2:]  # of every column
    distance = np.sqrt(np.maximum(2.0 - 2.0 * two, 0.0))
    row_of = np.argmax(alike, axis=0)
    columns = np.arange(alike.shape[1])
    good = (np.argmax(alike, axis=1)[row_of] == columns) & (distance[1] < _RATIO * distance[0])
    return np.column_stack([row_of[good], columns[good]])


def _sought(
    expected: np.ndarray, precision: np.ndarray, pixels: np.ndarray, alike: np.ndarray, gate: float
) -> np.ndarray:
    """Pairs [M, 2] of points expected at pixels [P, 2], with precisions [P, 2, 2], and of features at pixels [Q, 2]:
    those that look most alike among all that lie in the gate, seen from both sides."""
    off = pixels - expected[:, None]  # [P, Q, 2]
    x, y = off[..., 0], off[..., 1]
    a, b, c = (precision[:, i, j, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    near = a * x * x + 2.0 * b * x * y + c * y * y < gate
    cosine = np.where(near & (alike > 1.0 - 0.5 * _MAX_DESCRIPTOR_DISTANCE**2), alike, -1.0)
    if cosine.size == 0:
        return np.zeros((0, 2), np.int64)
    best = np.argmax(cosine, axis=1)
    points = np.arange(len(cosine))
    good = (cosine[points, best] > 0) & (np.argmax(cosine, axis=0)[best] == points)
    return np.column_stack([points[good], best[good]])


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
