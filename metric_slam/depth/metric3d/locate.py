"""Choice of the Metric3D network and the place of its weights; imports no network, so it costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.depth.metric3d.specs import SPECS, Metric3DSpec, ModelName
from metric_slam.errors import ConfigError, WeightsError
from metric_slam.weights.released import find, released, weights_folder

PREFERENCE: tuple[ModelName, ...] = ("vit_large", "vit_giant2", "convnext_large", "vit_small", "convnext_tiny")
"""Which is taken where no model is named and several have weights: the giant gains little and costs three times."""


class Metric3DFile(NamedTuple):
    """A network and the file with its weights."""

    spec: Metric3DSpec
    path: Path


def locate(config: Metric3DConfig) -> Metric3DFile | None:
    """Find the configured network and its file; None where there is no file and none was configured.

    Raises:
        WeightsError: the configured file is not there.
        ConfigError: a file is configured and neither its name nor the configuration names the network.
    """
    if config.weights is not None:
        path = Path(config.weights).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"no weights at {path} (metric3d.weights): give another path, or see metric-slam weights"
            )
        return Metric3DFile(SPECS[config.model or _model_of(path)], path)
    for name in PREFERENCE if config.model is None else (config.model,):
        found = find(SPECS[name].weights)
        if found is not None:
            return Metric3DFile(SPECS[name], found)
    return None


def located(config: Metric3DConfig) -> Metric3DFile:
    """As :func:`locate`, but raise WeightsError with the place for the file where there is none."""
    found = locate(config)
    if found is None:
        spec = SPECS[config.model or "vit_small"]
        place = weights_folder() / released(spec.weights).file_name
        raise WeightsError(
            f"prior 'metric3d' needs its weights: put {place.name} at {place} (metric-slam weights download "
            f"{spec.weights}), or set metric3d.weights; or choose ground_plane, sensor, precomputed or none"
        )
    return found


def input_size(config: Metric3DConfig, spec: Metric3DSpec) -> tuple[int, int]:
    """(width, height) of the network's input. Raises ConfigError for a size that the network cannot take."""
    size = spec.input_size if config.input_size is None else config.input_size
    unit = spec.multiple_px
    if min(size) < 2 * unit or any(side % unit for side in size):
        near = "x".join(str(max(2, round(side / unit)) * unit) for side in size)
        raise ConfigError(
            f"metric3d.input_size {size[0]}x{size[1]}: both sides of the input of {spec.name} are multiples of {unit} "
            f"from {2 * unit} on; the nearest is {near}"
        )
    return size


def _model_of(path: Path) -> ModelName:
    for spec in SPECS.values():
        published = Path(released(spec.weights).file_name)
        if path.name in (published.name, f"{published.stem}.onnx", f"{spec.weights}.onnx"):
            return spec.name
    raise ConfigError(f"{path}: which network is it? set metric3d.model to one of {', '.join(SPECS)}")
