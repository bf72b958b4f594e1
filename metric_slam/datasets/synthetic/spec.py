"""What a rendered drive is made of: every parameter of the generator in one hashable record."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from metric_slam.errors import ConfigError
from metric_slam.geometry.camera import PinholeCamera

GENERATOR_VERSION = 2
"""Raised whenever the same spec would give other pixels, so that no stale cache is used."""

SHORTEST_TOWN_M, LONGEST_TOWN_M = 200.0, 6000.0
FIRST_LOOP_M, LOOP_M = 300.0, 300.0
"""A drive around one block takes about the first, and every loop takes about the second."""

STOP_DISTANCE_M = 100.0


@dataclass(frozen=True)
class DriveSpec:
    """Parameters of a rendered drive; equal specs give equal files."""

    route: Literal["block", "street", "town"] = "block"
    """block: once around a block and a little further; street: along one straight street; town: ``length_m`` through
    a grid of streets, with turns to both sides and ``loops`` returns."""

    frames: int | None = None
    """Number of frames, the first ones of the route (all of it if it has fewer); None: the whole route."""

    width: int = 640
    height: int = 192
    """Image size in pixels; the field of view is KITTI's (horizontally 81 degrees)."""

    camera_height_m: float = 1.65
    pitch_deg: float = -1.0
    """Mounting angle of the camera; negative looks down."""

    rate_hz: float = 10.0
    town_speed_mps: float = 14.5
    fast_speed_mps: float = 25.0
    corner_speed_mps: float = 6.5
    """Speeds on the streets, on the far side of the block, and in the corners; accelerations are those of a car."""

    block_length_m: float = 180.0
    block_depth_m: float = 32.0
    overlap_m: float = 22.0
    """How far the route goes on after the loop is closed."""

    body_motion: float = 1.0
    """Factor on the oscillation of the body: pitch and roll of some tenths of a degree, about a centimetre of heave."""

    noise_sigma: float = 1.0
    """Standard deviation of the sensor noise in grey levels."""

    seed: int = 0

    length_m: float = 1500.0
    """Length of the route "town"."""

    loops: int = 0
    """How often the route "town" comes back, after a detour, onto a street that it drove before the same way."""

    hills_m: float = 0.0
    """Most height between valleys and hilltops (0: flat); 8 gives grades of 6 to 8 % and crests of 150 m radius."""

    stops: int = 0
    """How often the car stops for some seconds, at crossings of the route "town"."""

    exposure_change: float = 0.0
    """Brightness wanders between factors exp(-this) and exp(this), with quick changes as if in and out of shade."""

    alike_houses: bool = False
    """Route "town" with one and the same house, tree and lamp every 12 m, so that many places look alike."""

    moving_cars: float = 0.0
    """Share of the image that vehicles in motion cover on average: one ahead in the own lane, others oncoming."""

    def __post_init__(self) -> None:
        if self.width < 64 or self.height < 32:
            raise ConfigError(f"rendered drive of {self.width}x{self.height} pixels: at least 64x32 are needed")
        if self.frames is not None and self.frames < 2:
            raise ConfigError(f"rendered drive of {self.frames} frames: at least 2 are needed")
        if self.block_length_m < 80 or self.block_depth_m < 30:
            raise ConfigError("a block must be at least 80 m x 30 m for its corners and houses")
        self._check_town()
        self._check_conditions()

    def _check_town(self) -> None:
        if self.route != "town":
            if self.loops or self.stops or self.alike_houses:
                raise ConfigError(f'loops, stops and alike_houses need route="town", not "{self.route}"')
            return
        if not SHORTEST_TOWN_M <= self.length_m <= LONGEST_TOWN_M:
            raise ConfigError(
                f"town drive of {self.length_m:g} m: {SHORTEST_TOWN_M:g} to {LONGEST_TOWN_M:g} m can be had"
            )
        needed_m = FIRST_LOOP_M + self.loops * LOOP_M if self.loops else 0.0
        if self.loops < 0 or self.length_m < needed_m:
            raise ConfigError(f"{self.loops} loops in {self.length_m:g} m: at least 0 loops, which need {needed_m:g} m")
        if not 0 <= self.stops <= self.length_m / STOP_DISTANCE_M:
            raise ConfigError(
                f"{self.stops} stops in {self.length_m:g} m: from 0 to one in {STOP_DISTANCE_M:g} m can be had"
            )

    def _check_conditions(self) -> None:
        limits = (("hills_m", 12.0), ("exposure_change", 1.5), ("moving_cars", 0.25))
        for name, high in limits:
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise ConfigError(f"rendered drive with {name}={value}: must be in 0..{high:g}")

    @property
    def camera(self) -> PinholeCamera:
        """Intrinsics of the rendered images: fx = fy = 0.58 width as in KITTI, centre in the middle."""
        f_px = 0.58 * self.width
        return PinholeCamera(f_px, f_px, (self.width - 1) / 2, (self.height - 1) / 2, self.width, self.height)

    @property
    def texel_m(self) -> float:
        """Edge of a ground texel: near the size of the nearest pixels on the road, bounded by memory (about 0.7 GB)."""
        return max(0.016, 0.02 * 640 / max(self.width, 320))

    def key(self) -> str:
        """Hash of all parameters and of the generator's version: name of the cache folder."""
        text = json.dumps({"version": GENERATOR_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
