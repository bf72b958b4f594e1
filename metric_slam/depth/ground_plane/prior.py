"""Metres from the road: a vehicle's camera rides at a known height over a road that is flat for twenty metres.

For every pair of keyframes whose motion is known up to scale, the road patch is aligned photometrically
(:mod:`metric_slam.depth.ground_plane.road_alignment`); known height over measured height is an observation of the
metric length of the pair's baseline. The pitch of the camera against the road calibrates itself: a car drives parallel
to its road, so the road's normal is perpendicular to the mean direction of travel. Where support is thin, no height
stands out, or the patch lines up much worse than it lately did, a measurement is withdrawn rather than believed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from metric_slam.config.schema import GroundPlaneConfig
from metric_slam.depth.base import CurrentDepth, DepthPrediction, DepthPrior, MotionObservation
from metric_slam.depth.ground_plane.road_alignment import (
    PlanePrior,
    RoadFit,
    RoadImage,
    RoadPatch,
    fit_road,
    plane_normal,
    prepare_road_image,
)
from metric_slam.depth.ground_plane.road_cells import RoadCells, classify_cells
from metric_slam.frame import CameraMount, Frame
from metric_slam.geometry.camera import PinholeCamera

_FOLLOWED_MOTIONS = 10
"""Motions over which the direction of travel is averaged: braking and accelerating tilt the body by tenths of a degree
for a second or so, and the road's pitch in the camera tilts with it."""


class PitchCalibration:
    """Pitch of the camera against its direction of travel: robust mean over the latest straight motions."""

    def __init__(self, sigma_rad: float) -> None:
        self._sigma_rad = sigma_rad
        self.measured = np.zeros(0)
        """Pitch of the latest straight motions, rad."""

    def update(self, motions: np.ndarray) -> None:
        """``motions`` T_next_previous [M, 4, 4], up to scale. Turns and standing are left out: in a turn the camera,
        which is not on the axle that rolls, moves sideways and the direction of travel is not the road's."""
        R, t = motions[:, :3, :3], motions[:, :3, 3]
        length = np.linalg.norm(t, axis=1)
        moved = length > 0.25 * np.median(length) if len(length) else np.zeros(0, bool)
        R, t = R[moved], t[moved] / length[moved, None]
        travel = 0.5 * (-np.einsum("mji,mj->mi", R, t) - t)  # seen from both cameras of the pair
        travel *= np.sign(travel[:, 2:])  # a reversing car travels along the same line
        turn = np.arccos(np.clip((np.trace(R, axis1=1, axis2=2) - 1.0) / 2.0, -1.0, 1.0))
        straight = (travel[:, 2] > 0.9) & (turn < np.radians(3.0))
        if straight.any():  # in a long turn the last straight stretch still counts
            self.measured = np.arctan2(travel[straight, 1], travel[straight, 2])[-_FOLLOWED_MOTIONS:]

    @property
    def pitch_rad(self) -> float:
        """Best estimate; 0 before any measurement. Positive: the direction of travel lies below the optical axis."""
        return float(np.median(self.measured)) if len(self.measured) else 0.0

    @property
    def sigma_rad(self) -> float:
        """Uncertainty of one keyframe's pitch: the body's own movement plus what is not known yet."""
        unknown = np.radians(0.6) / np.sqrt(len(self.measured) + 1)
        return float(np.hypot(self._sigma_rad, unknown))


_ROAD_AHEAD_M = 10.0
"""Where the weight of the patch lies: a wrong pitch changes the height as if all of it were about this far ahead."""

_MAX_SIDEWAYS = 0.3

_SEARCHED_STEPS_M = np.geomspace(0.15, 4.0, 80)
"""Baselines that are tried when the scale is unknown: what a vehicle moves between two keyframes."""

_EXPECTED_RATIOS = np.array([0.55, 0.65, 0.75, 0.88, 0.91, 0.94, 0.97, 1.0, 1.03, 1.06, 1.09, 1.12, 1.35, 1.55, 1.8])
"""Measured over known height that is tried when the scale is about right; the outer ones are there for comparison."""

_HIDDEN, _MOSTLY_HIDDEN = 0.15, 0.5
"""Shares of the corridor behind a vehicle from which on its cells are left out, and other lanes are looked at as well.
These may lie a little higher or lower than the own one, so as long as enough of that is seen it alone counts."""

_LEAST_LOG_RATIO_BESIDE = -0.2
"""Beside a vehicle, a fit that makes the road much lower than the map has it has locked on what moves along."""

_MIN_CELL_SUPPORT = 0.75
"""Share of a cell's pixels that must fit the plane before it is called road; by chance a third of them do."""

_MAX_LOG_HEIGHT_SIGMA = 0.15
_MIN_INLIER_SHARE = 0.25
_MAX_DISTINCTNESS = 0.8
_MAX_COST_OVER_USUAL = 3.0
_USUAL = 30  # accepted fits that say what is usual


class GroundPlane(DepthPrior):
    """Metric prior for cameras on vehicles; no network."""

    name = "ground_plane"
    measures_motion = True

    def __init__(self, config: GroundPlaneConfig, mount: CameraMount) -> None:
        self._config = config
        self.height_m = config.camera_height_m or mount.height_m
        self.relative_sigma = config.cell_sigma
        self.scale_sigma = 0.02
        self.pitch = PitchCalibration(np.radians(config.pitch_sigma_deg))
        self._rolls: deque[float] = deque(maxlen=60)
        self._usual_costs: deque[float] = deque(maxlen=_USUAL)

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
        self,
        previous: RoadImage,
        current: RoadImage,
        T_current_previous: np.ndarray,
        camera: PinholeCamera,
        *,
        search: bool,
        current_depth: CurrentDepth | None = None,
    ) -> MotionObservation | None:
        """Known over measured height of one pair; see the base class."""
        baseline = float(np.linalg.norm(T_current_previous[:3, 3]))
        if baseline <= 0 or (not search and baseline < self._config.min_baseline_m):
            return None
        cells = self._free_cells(current_depth, baseline if search else None, camera)
        patch = self._patch(previous, current, T_current_previous, cells, camera.grid())
        fit = self._fit(patch, baseline, search)
        if fit is None:
            return None
        log_ratio = float(np.log(self.height_m / fit.height))
        beside = cells is not None and not search
        used = self._supported(fit) and not (beside and log_ratio < _LEAST_LOG_RATIO_BESIDE)
        if used:
            self._usual_costs.append(fit.cost)
            self._rolls.append(fit.roll_rad)
        return MotionObservation(
            log_ratio=log_ratio,
            sigma=float(np.hypot(self._config.observation_sigma, fit.log_height_sigma)),
            used=used,
            detail=(fit.pitch_rad, fit.dlog_height_dpitch),
            previous_depth_m=self._plane_depth(fit, patch, camera) if used else None,
        )

    def revised(self, observation: MotionObservation, path_ahead: np.ndarray) -> MotionObservation:
        """The road's pitch as the car found it: the camera rides at one height, so where it is ten metres later shows
        how the road ahead really lay. Until then the pitch was that of the road behind; on a crest of 1 km radius the
        two differ by half a degree, which is 5 % of the height."""
        travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path_ahead, axis=0), axis=1))])
        if travelled[-1] < _ROAD_AHEAD_M:
            return observation
        x, y, z = (np.interp(_ROAD_AHEAD_M, travelled, path_ahead[:, axis]) for axis in range(3))
        if abs(x) > _MAX_SIDEWAYS * z:
            return observation  # a turn: the patch ahead is not the road that was taken
        pitch_rad, dlog_height_dpitch = observation.detail
        correction = -dlog_height_dpitch * (float(np.arctan2(y, z)) - pitch_rad)
        return replace(observation, log_ratio=observation.log_ratio + correction)

    def state(self) -> dict[str, np.ndarray]:
        """Pitch, roll, and what fits usually cost; see the base class."""
        return {
            "pitch": self.pitch.measured,
            "rolls": np.array(self._rolls),
            "usual_costs": np.array(self._usual_costs),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        self.pitch.measured = state["pitch"].copy()
        self._rolls.extend(state["rolls"].tolist())
        self._usual_costs.extend(state["usual_costs"].tolist())

    def road_inv_depth(
        self, current_depth: CurrentDepth, camera: PinholeCamera, baseline: float | None
    ) -> np.ndarray | None:
        """Where most cells ahead agree on a plane; see the base class."""
        cells = self._sorted(current_depth, baseline, camera)
        return None if cells is None else cells.inv_depth

    def _free_cells(
        self, current_depth: CurrentDepth | None, baseline: float | None, camera: PinholeCamera
    ) -> RoadCells | None:
        """The cells in which to look for the road when a vehicle ahead hides it; None: the corridor is free."""
        cells = None if current_depth is None else self._sorted(current_depth, baseline, camera)
        return None if cells is None or cells.hidden < _HIDDEN else cells

    def _sorted(self, current_depth: CurrentDepth, baseline: float | None, camera: PinholeCamera) -> RoadCells | None:
        cfg, prior = self._config, self._plane_prior()
        ratios = _EXPECTED_RATIOS if baseline is None else baseline / _SEARCHED_STEPS_M
        return classify_cells(
            current_depth.inv_depth,
            current_depth.moving,
            camera.grid(),
            plane_normal(prior.pitch_rad, prior.roll_rad),
            inner=cfg.corridor_m / self.height_m,
            depths=(cfg.nearest_m / self.height_m, cfg.farthest_m / self.height_m),
            heights=(self.height_m * ratios.min(), self.height_m * ratios.max()),
        )

    def _patch(
        self,
        previous: RoadImage,
        current: RoadImage,
        T_current_previous: np.ndarray,
        cells: RoadCells | None,
        grid: PinholeCamera,
    ) -> RoadPatch:
        cfg, wide = self._config, cells is not None and cells.hidden > _MOSTLY_HIDDEN
        half_width_m = max(cfg.corridor_m, cfg.wide_corridor_m) if wide else cfg.corridor_m
        return RoadPatch(
            previous,
            current,
            T_current_previous,
            prior=self._plane_prior(),
            height_m=self.height_m,
            corridor=(half_width_m, cfg.nearest_m, cfg.farthest_m),
            samples=cfg.samples,
            cells=None if cells is None else (cells.free, grid),
        )

    def _fit(self, patch: RoadPatch, baseline: float, search: bool) -> RoadFit | None:
        ratios = baseline / _SEARCHED_STEPS_M if search else _EXPECTED_RATIOS
        return fit_road(patch, patch.prior, self.height_m * ratios)

    def _supported(self, fit: RoadFit) -> bool:
        """Is there a road that lines up, as well as it lately did?"""
        usual = float(np.median(self._usual_costs)) if self._usual_costs else np.inf
        return (
            fit.log_height_sigma < _MAX_LOG_HEIGHT_SIGMA
            and fit.inlier_share > _MIN_INLIER_SHARE
            and fit.distinctness < _MAX_DISTINCTNESS
            and fit.cost < _MAX_COST_OVER_USUAL * usual
        )

    def _plane_depth(self, fit: RoadFit, patch: RoadPatch, camera: PinholeCamera) -> np.ndarray:
        """Metric depth of the fitted plane in the cells whose pixels fit it, float64 [h, w]; 0 elsewhere: cars, kerbs
        and verges in the corridor are not road."""
        grid, cfg = camera.grid(), self._config
        rays = grid.rays()
        slope = rays @ plane_normal(fit.pitch_rad, fit.roll_rad)
        depth_m = self.height_m / np.maximum(slope, 1e-3)
        corridor = (depth_m < cfg.farthest_m) & (np.abs(rays[..., 0]) * depth_m < cfg.corridor_m)
        return np.where(corridor & (patch.support(fit, grid) > _MIN_CELL_SUPPORT), depth_m, 0.0)
