"""The constants that benchmarks/sensitivity.py varies: where each is found, and on which data it can matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from override import Number, first_of, value_of

from metric_slam.config.resolve import Setting, resolve_config
from metric_slam.config.schema import Config, Preset

Kind = Literal["any", "road", "traffic", "loop"]
"""any: every sequence; road: scale from the road; traffic: vehicles in motion; loop: a place is seen twice."""


@dataclass(frozen=True)
class Constant:
    """A number that was chosen by looking at results."""

    name: str
    kind: Kind

    targets: tuple[str, ...]
    """Where it is found, the first that exists: a configuration key, or a dotted name of :mod:`override`."""

    def target(self, preset: Preset) -> str:
        """Return the place that exists. Raises LookupError where none does."""
        for place in self.targets:
            if ":" not in place and _setting(_config(preset), place) is not None:
                return place
        return first_of(tuple(place for place in self.targets if ":" in place) or self.targets)

    def default(self, preset: Preset) -> Number:
        """Return its value under a preset. Raises LookupError where it cannot be found."""
        place = self.target(preset)
        value = _setting(_config(preset), place) if ":" not in place else value_of(place)
        assert value is not None, place
        return value

    def varied(self, preset: Preset, factor: float) -> Number:
        """Return the value times ``factor``; a whole number is rounded and changes by one at least."""
        value = self.default(preset)
        if isinstance(value, float):
            return value * factor
        return min(round(value * factor), value - 1) if factor < 1 else max(round(value * factor), value + 1)


def _config(preset: Preset) -> Config:
    return resolve_config(None, (), {"preset": Setting(preset, "benchmark")})


def _setting(config: Config, key: str) -> Number | None:
    """Return a number of the configuration; None where there is none of that key."""
    node: object = config
    for part in key.split("."):
        node = getattr(node, part, None)
    return node if isinstance(node, int | float) and not isinstance(node, bool) else None


def _key(key: str, kind: Kind = "any") -> Constant:
    return Constant(key, kind, (key,))


def _number(name: str, kind: Kind, place: str) -> Constant:
    return Constant(name, kind, (f"metric_slam.{place}",))


def _verification(field: str) -> Constant:
    return _number(f"loop verification, {field}", "loop", f"loops.limits:VerificationLimits.{field}")


CONSTANTS = (
    _key("motion_filter.min_flow_px"),
    _key("sliding_window.window"),
    _key("sliding_window.radius"),
    _key("bundle_adjustment.flow_sigma_px"),
    _key("bundle_adjustment.flow_loss_width_px"),
    _key("bundle_adjustment.prior_loss_width"),
    _key("bundle_adjustment.scale_step_sigma"),
    _key("bundle_adjustment.baseline_loss_width", "road"),
    _key("dis.forward_backward_sigma_px"),
    _key("dis.max_forward_backward_px"),
    _key("dis.texture_floor"),
    _key("ground_plane.corridor_heights", "road"),
    _key("ground_plane.wide_corridor_heights", "traffic"),
    _key("ground_plane.nearest_heights", "road"),
    _key("ground_plane.farthest_heights", "road"),
    _key("ground_plane.blur_px", "road"),
    _key("ground_plane.pitch_sigma_deg", "road"),
    _key("ground_plane.roll_sigma_deg", "road"),
    _key("ground_plane.observation_sigma", "road"),
    _number("road fit, distinctness", "road", "depth.ground_plane.prior:GroundPlaneSettings.max_distinctness"),
    _number("road cells, support", "road", "depth.ground_plane.prior:GroundPlaneSettings.min_cell_support"),
    _number("moving cells, largest share", "traffic", "graph.moving_mask:_MINORITY"),
    _number("moving cells, likeness to the road", "traffic", "graph.moving_mask:_LIKE_ROAD"),
    _key("loop.drift", "loop"),
    _key("loop.drift_floor", "loop"),
    _key("loop.min_detour", "loop"),
    _verification("min_seeds"),
    _verification("min_inliers"),
    _verification("min_share"),
    _verification("min_better_share"),
    _verification("ratio"),
    _verification("max_descriptor_distance"),
)
