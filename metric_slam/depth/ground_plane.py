"""Metres from the road: a vehicle's camera rides at a known height over a road that is flat for twenty metres.

For every pair of keyframes whose motion is known up to scale, the road patch is aligned photometrically
(:mod:`metric_slam.depth.road_alignment`); known height over measured height is an observation of the metric length of
the pair's baseline. The pitch of the camera against the road calibrates itself: a car drives parallel to its road, so
the road's normal is perpendicular to the mean direction of travel. Where support is thin, the road bends, or a
measurement contradicts its neighbours, it is withdrawn rather than believed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from metric_slam.config import GroundPlaneConfig
from metric_slam.depth.base import DepthPrediction, DepthPrior, MotionObservation
from metric_slam.depth.road_alignment import (
    PlanePrior,
    RoadFit,
    RoadImage,
    RoadPatch,
    fit_road,
    plane_normal,
    prepare_road_image,
)
from metric_slam.frame import CameraMount, Frame
from metric_slam.geometry.camera import PinholeCamera


_FOLLOWED_MOTIONS = 10
"""Motions over which the direction of travel is averaged: braking and accelerating tilt the body by tenths of a degree
for a second or so, and the road's pitch in the camera tilts with it."""


class PitchCalibration:
    """Pitch of the camera against its direction of travel: robust mean over the latest straight motions."""

    def __init__(self, sigma_rad: float) -> None:
        self._sigma_rad = sigma_rad
        self._measured = np.zeros(0)

    def update(self, motions: np.ndarray) -> None:
        """``motions`` T_next_previous [M, 4, 4], up to scale. Turns and standing are left out: in a turn the camera,
        which is not on the axle that rolls, moves sideways and the direction of travel is not the road's."""
        R, t = motions[:, :3, :3], motions[:, :3, 3]
        length = np.linalg.norm(t, axis=1)
        moved = length > 0.25 * np.median(length) if len(length) else np.zeros(0, bool)
        R, t = R[moved], t[moved] / length[moved, None]
        travel = 0.5 * (-np.einsum("mji,mj->mi", R, t) - t)  # seen from both cameras of the pair
        turn = np.arccos(np.clip((np.trace(R, axis1=1, axis2=2) - 1.0) / 2.0, -1.0, 1.0))
        straight = (travel[:, 2] > 0.9) & (turn < np.radians(3.0))
        if straight.any():  # in a long turn the last straight stretch still counts
            self._measured = np.arctan2(travel[straight, 1], travel[straight, 2])[-_FOLLOWED_MOTIONS:]

    @property
    def pitch_rad(self) -> float:
        """Best estimate; 0 before any measurement. Positive: the direction of travel lies below the optical axis."""
        return float(np.median(self._measured)) if len(self._measured) else 0.0

    @property
    def sigma_rad(self) -> float:
        """Uncertainty of one keyframe's pitch: the body's own movement plus what is not known yet."""
        unknown = np.radians(0.6) / np.sqrt(len(self._measured) + 1)
        return float(np.hypot(self._sigma_rad, unknown))


@dataclass(frozen=True)
class _Accepted:
    log_height_ratio: float
    cost: float


class GroundPlane(DepthPrior):
    """Metric prior for cameras on vehicles; no network."""

    name = "ground_plane"

    def __init__(self, config: GroundPlaneConfig, mount: CameraMount) -> None:
        self._config = config
        self.height_m = config.camera_height_m or mount.height_m
        self.relative_sigma = config.cell_sigma
        self.scale_sigma = 0.02
        self.pitch = PitchCalibration(np.radians(config.pitch_sigma_deg))
        self._rolls: deque[float] = deque(maxlen=60)
        self._accepted: deque[_Accepted] = deque(maxlen=30)

    def prepare(self, frame: Frame, camera: PinholeCamera) -> RoadImage:
        """The lower part of the original image, normalised."""
        return prepare_road_image(frame.image, frame.camera, self._config.blur_px)

    def predict(self, state: RoadImage, camera: PinholeCamera) -> DepthPrediction | None:
        """Nothing: one image alone does not show where the road is."""
        return None

    def _plane_prior(self) -> PlanePrior:
        return PlanePrior(
            pitch_rad=self.pitch.pitch_rad,
            roll_rad=float(np.median(self._rolls)) if len(self._rolls) >= 10 else 0.0,
            pitch_sigma_rad=self.pitch.sigma_rad,
            roll_sigma_rad=np.radians(self._config.roll_sigma_deg),
        )

    def calibrate(self, motions: np.ndarray) -> None:
        """The pitch against the road; see the base class."""
        self.pitch.update(motions)

    def observe(
        self, previous: RoadImage, current: RoadImage, T_current_previous: np.ndarray, *, search: bool
    ) -> MotionObservation | None:
        """Known over measured height of one pair; see the base class."""
        baseline = float(np.linalg.norm(T_current_previous[:3, 3]))
        if baseline <= 0 or (not search and baseline < self._config.min_baseline_m):
            return None
        prior = self._plane_prior()
        fit = self._fit(previous, current, T_current_previous, prior, search)
        if fit is None:
            return None
        log_ratio = float(np.log(self.height_m / fit.height))
        sigma = float(np.hypot(self._config.observation_sigma, fit.log_height_sigma))
        return MotionObservation(log_ratio, sigma, self._believed(fit, log_ratio, search))

    def _fit(
        self, previous: RoadImage, current: RoadImage, T: np.ndarray, prior: PlanePrior, search: bool
    ) -> RoadFit | None:
        cfg = self._config
        patch = RoadPatch(
            previous,
            current,
            T,
            prior=prior,
            height_m=self.height_m,
            corridor=(cfg.corridor_m, cfg.nearest_m, cfg.farthest_m),
            samples=cfg.samples,
        )
        if search:  # the baseline is known only as "a car's": 0.15 to 4 m between keyframes
            baseline = np.linalg.norm(T[:3, 3])
            heights = baseline * self.height_m / np.geomspace(0.15, 4.0, 80)
        else:
            heights = self.height_m * np.array([0.88, 0.92, 0.96, 1.0, 1.04, 1.08, 1.12])
        return fit_road(patch, prior, heights)

    def _believed(self, fit: RoadFit, log_ratio: float, search: bool) -> bool:
        """Is the support good enough, and does the measurement agree with the recent ones?"""
        believed = fit.log_height_sigma < 0.15 and fit.inlier_share > 0.25
        if self._accepted:
            usual = float(np.median([a.cost for a in self._accepted]))
            believed = believed and fit.cost < 3.0 * usual
        if believed:
            self._accepted.append(_Accepted(log_ratio, fit.cost))
            self._rolls.append(fit.roll_rad)
        return believed

    def plane_depth(self, camera: PinholeCamera) -> np.ndarray:
        """Depth in metres of the calibrated plane for every grid cell, float64 [h, w]; 0 at and above the horizon."""
        prior = self._plane_prior()
        slope = camera.grid().rays() @ plane_normal(prior.pitch_rad, prior.roll_rad)
        return np.where(slope > 1e-3, self.height_m / np.maximum(slope, 1e-3), 0.0)
