"""Metric scale from the road: a vehicle's camera rides at a known height over a road that is flat for twenty metres.

For every pair of keyframes whose motion is known up to scale, the road patch is aligned photometrically
(:mod:`metric_slam.depth.ground_plane.road_alignment`); known height over measured height is an observation of the
metric length of the pair's baseline. The pitch of the camera against the road calibrates itself
(:mod:`metric_slam.depth.ground_plane.pitch`). A measurement is rejected where support is thin, no height stands out, or
the patch lines up much worse than it lately did. All lengths are multiples of the camera's height, so that the same
numbers hold for a car and for a small robot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from metric_slam.config.schema import GroundPlaneConfig
from metric_slam.depth.base import CurrentDepth, DepthPrior, MotionObservation, PriorState
from metric_slam.depth.ground_plane.pitch import PitchCalibration
from metric_slam.depth.ground_plane.road_alignment import (
    Corridor,
    PlanePrior,
    RoadFit,
    RoadPatch,
    fit_road,
    plane_normal,
)
from metric_slam.depth.ground_plane.road_cells import RoadCells, classify_cells
from metric_slam.depth.ground_plane.road_image import RoadImage, prepare_road_image
from metric_slam.errors import InputError
from metric_slam.frame import CameraMount, Frame
from metric_slam.geometry.camera import PinholeCamera


@dataclass(frozen=True)
class GroundPlaneSettings:
    """Numbers of the measurement and of its acceptance. Heights are heights of the camera over the road."""

    search_steps: tuple[float, float, int] = (0.09, 2.4, 80)
    """Shortest and longest baseline in heights, and how many between them are tried while the scale is unknown: 0.15 to
    4 m between two keyframes of a car."""

    expected_ratios: tuple[float, ...] = (
        *(0.55, 0.65, 0.75, 0.88, 0.91, 0.94, 0.97, 1.0, 1.03, 1.06, 1.09, 1.12, 1.35, 1.55, 1.8),
    )
    """Measured over known height that is tried when the scale is about right; the outer ones serve as comparison."""

    road_ahead: float = 6.0
    """Distance in heights at which a wrong pitch changes the measured height as if the whole patch lay there."""

    max_sideways: float = 0.3
    """Sideways over forward travel from which the path leaves the patch: no correction by the path."""

    hidden: float = 0.15
    """Share of the corridor behind a vehicle from which on its cells are left out."""

    mostly_hidden: float = 0.5
    """The same share from which on other lanes are used as well; they may lie a little higher or lower than the own
    one, which therefore counts alone as long as enough of it is visible."""

    min_log_ratio_beside: float = -0.2
    """Least log ratio beside a vehicle: a fit that makes the road much lower than in the map has aligned the vehicle,
    which moves along."""

    min_cell_support: float = 0.75
    """Share of a cell's pixels that must fit the plane before the cell is road; by chance a third of them do."""

    max_log_height_sigma: float = 0.15
    """Largest standard deviation of log(height) of an accepted fit."""

    min_inlier_share: float = 0.25
    """Smallest share of inliers of an accepted fit."""

    max_distinctness: float = 0.8
    """Largest cost of an accepted fit relative to the cost at other heights."""

    max_cost_ratio: float = 3.0
    """Largest cost of an accepted fit relative to the median of the recent ones."""

    recent_costs: int = 30
    """Accepted fits that the median cost is taken over."""

    rolls: tuple[int, int] = (10, 60)
    """Fewest and most recent rolls that calibrate the roll of the camera."""

    scale_sigma: float = 0.02
    """Assumed relative error common to the road cells of one keyframe."""


class GroundPlane(DepthPrior):
    """Metric prior for cameras on vehicles and wheeled robots; no network."""

    name = "ground_plane"
    measures_motion = True

    def __init__(
        self, config: GroundPlaneConfig, mount: CameraMount, settings: GroundPlaneSettings | None = None
    ) -> None:
        """The height of ``config`` comes before that of ``mount``. Raises InputError unless it is positive."""
        self.height_m = config.camera_height_m or mount.height_m
        if not (np.isfinite(self.height_m) and self.height_m > 0):
            raise InputError(f"mount.height_m is {self.height_m}: the camera's height over the road must be positive")
        self._config, self._settings = config, settings or GroundPlaneSettings()
        self.relative_sigma = config.cell_sigma
        self.scale_sigma = self._settings.scale_sigma
        self.pitch = PitchCalibration(np.radians(config.pitch_sigma_deg))
        self._rolls: deque[float] = deque(maxlen=self._settings.rolls[1])
        self._recent_costs: deque[float] = deque(maxlen=self._settings.recent_costs)

    def prepare(self, frame: Frame, camera: PinholeCamera) -> RoadImage:
        """The lower part of the original image, normalised, without the frame's ignored pixels."""
        return prepare_road_image(frame.image, frame.camera, self._config.blur_px, frame.mask)

    def predict(self, state: PriorState, camera: PinholeCamera) -> None:
        """No depth: a single image does not show where the road is."""

    def calibrate(self, motions: np.ndarray) -> None:
        """Update the pitch against the road; see the base class."""
        self.pitch.update(motions)

    def observe(
        self,
        previous: PriorState,
        current: PriorState,
        T_current_previous: np.ndarray,
        camera: PinholeCamera,
        *,
        search: bool,
        current_depth: CurrentDepth | None = None,
    ) -> MotionObservation | None:
        """Known over measured height of one pair; see the base class."""
        assert isinstance(previous, RoadImage) and isinstance(current, RoadImage), (type(previous), type(current))
        baseline = float(np.linalg.norm(T_current_previous[:3, 3]))
        if baseline <= 0 or (not search and baseline < self._config.min_baseline_heights * self.height_m):
            return None
        cells = self._free_cells(current_depth, baseline if search else None, camera)
        patch = self._patch(previous, current, T_current_previous, cells, camera.grid())
        fit = fit_road(patch, patch.prior, self._start_heights(baseline if search else None))
        if fit is None:
            return None
        log_ratio = float(np.log(self.height_m / fit.height))
        beside = cells is not None and not search
        used = self._is_supported(fit) and not (beside and log_ratio < self._settings.min_log_ratio_beside)
        if used:
            self._recent_costs.append(fit.cost)
            self._rolls.append(fit.roll_rad)
        return MotionObservation(
            log_ratio=log_ratio,
            sigma=float(np.hypot(self._config.observation_sigma, fit.log_height_sigma)),
            used=used,
            detail=(fit.pitch_rad, fit.dlog_height_dpitch),
            previous_depth_m=self._plane_depth(fit, patch, camera) if used else None,
        )

    def revised(self, observation: MotionObservation, path_ahead: np.ndarray) -> MotionObservation:
        """Correct the pitch by the path: the camera rides at a constant height, so its later positions show how the
        road ahead lay.

        The calibrated pitch is that of the road behind. On a crest of 1 km radius the two differ by half a degree,
        which is 5 % of the height.
        """
        ahead_m = self._settings.road_ahead * self.height_m
        travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path_ahead, axis=0), axis=1))])
        if travelled[-1] < ahead_m:
            return observation
        x, y, z = (np.interp(ahead_m, travelled, path_ahead[:, axis]) for axis in range(3))
        if abs(x) > self._settings.max_sideways * z:
            return observation  # a turn: the patch ahead is not the road that was taken
        pitch_rad, dlog_height_dpitch = observation.detail
        correction = -dlog_height_dpitch * (float(np.arctan2(y, z)) - pitch_rad)
        return replace(observation, log_ratio=observation.log_ratio + correction)

    def state(self) -> dict[str, np.ndarray]:
        """Pitch, roll, and costs of recent fits; see the base class."""
        return {
            "pitch": self.pitch.measured,
            "rolls": np.array(self._rolls),
            "usual_costs": np.array(self._recent_costs),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        self.pitch.measured = state["pitch"].copy()
        self._rolls.extend(state["rolls"].tolist())
        self._recent_costs.extend(state["usual_costs"].tolist())

    def road_inv_depth(
        self, current_depth: CurrentDepth, camera: PinholeCamera, baseline: float | None
    ) -> np.ndarray | None:
        """Inverse depth of the plane on which most cells ahead agree; see the base class."""
        cells = self._classified(current_depth, baseline, camera)
        return None if cells is None else cells.inv_depth

    def _plane_prior(self) -> PlanePrior:
        return PlanePrior(
            pitch_rad=self.pitch.pitch_rad,
            roll_rad=float(np.median(self._rolls)) if len(self._rolls) >= self._settings.rolls[0] else 0.0,
            pitch_sigma_rad=self.pitch.sigma_rad,
            roll_sigma_rad=np.radians(self._config.roll_sigma_deg),
        )

    def _start_heights(self, baseline: float | None) -> np.ndarray:
        """Heights of the camera to try, in the unit of the baseline; ``baseline`` None: that unit is the metre."""
        if baseline is None:
            return self.height_m * np.array(self._settings.expected_ratios)
        return baseline / np.geomspace(*self._settings.search_steps)

    def _free_cells(
        self, current_depth: CurrentDepth | None, baseline: float | None, camera: PinholeCamera
    ) -> RoadCells | None:
        """The cells to look for the road in where a vehicle ahead hides it; None: the corridor is free."""
        cells = None if current_depth is None else self._classified(current_depth, baseline, camera)
        return None if cells is None or cells.hidden < self._settings.hidden else cells

    def _classified(
        self, current_depth: CurrentDepth, baseline: float | None, camera: PinholeCamera
    ) -> RoadCells | None:
        prior, heights = self._plane_prior(), self._start_heights(baseline)
        return classify_cells(
            current_depth.inv_depth,
            current_depth.moving,
            camera.grid(),
            plane_normal(prior.pitch_rad, prior.roll_rad),
            inner=self._config.corridor_heights,
            depths=(self._config.nearest_heights, self._config.farthest_heights),
            heights=(heights.min(), heights.max()),
        )

    def _patch(
        self,
        previous: RoadImage,
        current: RoadImage,
        T_current_previous: np.ndarray,
        cells: RoadCells | None,
        grid: PinholeCamera,
    ) -> RoadPatch:
        cfg, wide = self._config, cells is not None and cells.hidden > self._settings.mostly_hidden
        half_width = max(cfg.corridor_heights, cfg.wide_corridor_heights) if wide else cfg.corridor_heights
        return RoadPatch(
            previous,
            current,
            T_current_previous,
            prior=self._plane_prior(),
            corridor=Corridor(half_width, cfg.nearest_heights, cfg.farthest_heights),
            samples=cfg.samples,
            cells=None if cells is None else (cells.free, grid),
        )

    def _is_supported(self, fit: RoadFit) -> bool:
        """True if a road lines up, and about as well as it lately did."""
        limits = self._settings
        usual = float(np.median(self._recent_costs)) if self._recent_costs else np.inf
        return (
            fit.log_height_sigma < limits.max_log_height_sigma
            and fit.inlier_share > limits.min_inlier_share
            and fit.distinctness < limits.max_distinctness
            and fit.cost < limits.max_cost_ratio * usual
        )

    def _plane_depth(self, fit: RoadFit, patch: RoadPatch, camera: PinholeCamera) -> np.ndarray:
        """Metric depth of the fitted plane in the cells whose pixels fit it, float64 [h, w]; 0 elsewhere: cars, kerbs
        and verges in the corridor are not road.
        """
        grid, cfg = camera.grid(), self._config
        rays = grid.rays()
        # in camera heights
        depth = 1.0 / np.maximum(rays @ plane_normal(fit.pitch_rad, fit.roll_rad), 1e-3)
        corridor = (depth < cfg.farthest_heights) & (np.abs(rays[..., 0]) * depth < cfg.corridor_heights)
        supported = corridor & (patch.support(fit, grid) > self._settings.min_cell_support)
        return np.where(supported, self.height_m * depth, 0.0)
