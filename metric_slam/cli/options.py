"""The options that every command which runs the SLAM shares, defined once: types, help and where they end up.

``with_run_options`` adds them to the signature of a typer command; ``metric-slam run`` and scripts/run_kitti.py use it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from metric_slam.config.resolve import Setting, resolve_config
from metric_slam.config.schema import Config, CorrespondenceName, Preset, PriorName
from metric_slam.errors import ConfigError


def _choices(literal: Any) -> str:
    return "|".join(get_args(literal))


PresetOption = Annotated[
    str | None, typer.Option("--preset", metavar=_choices(Preset), help="fast: about real time; accurate: finer flow.")
]
ConfigFileOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file; all keys: metric-slam config.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One configuration key; repeatable.")
]


def _option(key: str | None = None) -> Any:
    """A field that is None unless given, and the configuration key it sets."""
    return field(default=None, metadata={"key": key})


@dataclass(frozen=True)
class RunOptions:
    """What the user typed; None where an option was not given, so that a configuration file keeps its say."""

    out: Annotated[Path | None, typer.Option("--out", help="Results folder.", show_default="results/NAME")] = _option()
    preset: PresetOption = _option("preset")
    prior: Annotated[
        str | None, typer.Option("--prior", metavar=_choices(PriorName), help="Source of the metric scale.")
    ] = _option("prior")
    correspondence: Annotated[
        str | None,
        typer.Option("--correspondence", metavar=_choices(CorrespondenceName), help="Dense matching."),
    ] = _option("correspondence")
    device: Annotated[
        str | None, typer.Option("--device", help="Of networks and bundle adjustment: auto, cpu, cuda, cuda:1 ...")
    ] = _option("device")
    start: Annotated[int | None, typer.Option("--start", help="First frame, counted from 0.")] = _option("input.start")
    end: Annotated[int | None, typer.Option("--end", help="One past the last frame.")] = _option("input.end")
    stride: Annotated[int | None, typer.Option("--stride", help="Take every N-th frame.")] = _option("input.stride")
    size: Annotated[str | None, typer.Option("--size", metavar="WxH", help="Working size in pixels, e.g. 640x192.")] = (
        _option("input.size")
    )
    no_fusion: Annotated[bool, typer.Option("--no-fusion", help="Track only: no map.ply, no mesh.ply.")] = False
    precomputed_depth: Annotated[
        Path | None, typer.Option("--precomputed-depth", metavar="DIR", help="Depth maps; --prior auto takes them.")
    ] = _option("precomputed.folder")
    camera: Annotated[
        str | None,
        typer.Option("--camera", metavar="FX,FY,CX,CY", help="Intrinsics in pixels of data without calibration."),
    ] = _option()
    depth_scale: Annotated[
        float | None, typer.Option("--depth-scale", help="Units per metre of the data's depth images.")
    ] = _option()
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="HZ", help="Frames per second of data without time stamps.")
    ] = _option()
    camera_height: Annotated[
        float | None,
        typer.Option("--camera-height", metavar="M", help="Height of the camera above the road in metres."),
    ] = _option("ground_plane.camera_height_m")
    config: ConfigFileOption = None
    settings: SetOption = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run in the folder.")] = False

    def resolve(self) -> Config:
        """The configuration these options ask for. Raises ConfigError."""
        given: dict[str, Setting] = {}
        for option in dataclasses.fields(self):
            key, value = option.metadata.get("key"), getattr(self, option.name)
            if key is not None and value is not None:
                value = str(value) if isinstance(value, Path) else value
                given[key] = Setting(value, f"--{option.name.replace('_', '-')}")
        if self.no_fusion:
            given["fusion.enabled"] = Setting(False, "--no-fusion")
        if self.resume and self.overwrite:
            raise ConfigError("--resume goes on with a run and --overwrite begins anew: give one of them")
        return resolve_config(self.config, self.settings or (), given)

    def data_options(self) -> dict[str, Any]:
        """Keyword arguments of :func:`metric_slam.datasets.open_dataset`. Raises ConfigError."""
        return {"camera": self._camera_numbers(), "depth_scale": self.depth_scale, "rate_hz": self.rate}

    def _camera_numbers(self) -> tuple[float, ...] | None:
        if self.camera is None:
            return None
        try:
            return tuple(float(number) for number in self.camera.replace(",", " ").split())
        except ValueError as error:
            raise ConfigError(f"--camera {self.camera}: give numbers, e.g. --camera 718.9,718.9,607.2,185.2") from error


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(..., options: RunOptions)`` the shared options as parameters of its own, for typer."""
    own = [p for name, p in inspect.signature(command, eval_str=True).parameters.items() if name != "options"]
    hints = get_type_hints(RunOptions, include_extras=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in dataclasses.fields(RunOptions)
    ]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        options = RunOptions(**{p.name: values.pop(p.name) for p in shared})
        command(**values, options=options)

    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
    )
    return wrapper
