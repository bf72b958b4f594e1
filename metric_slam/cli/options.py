"""The options shared by every command that runs the SLAM, defined once: type, help and configuration key.

``with_run_options`` adds them to the signature of a typer command; ``metric-slam run`` and scripts/run_kitti.py use it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict, get_args, get_type_hints

import typer

from metric_slam.config.resolve import Setting, resolve_config
from metric_slam.config.schema import Config, CorrespondenceName, Preset, PriorName
from metric_slam.errors import ConfigError


def _choices(literal: object) -> str:
    return "|".join(get_args(literal))


PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset", metavar=_choices(Preset), help="fast: about real time on two cores; accurate: finer flow."
    ),
]
ConfigFileOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file of configuration keys; metric-slam config lists them."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one configuration key; can be repeated.")
]


class DataOptions(TypedDict):
    """Keyword arguments of :func:`metric_slam.datasets.open_dataset`; None where the option was not given."""

    camera: tuple[float, ...] | None
    depth_scale: float | None
    rate_hz: float | None


_KEYS = {
    "preset": "preset",
    "prior": "prior",
    "correspondence": "correspondence",
    "device": "device",
    "start": "input.start",
    "end": "input.end",
    "stride": "input.stride",
    "size": "input.size",
    "precomputed_depth": "precomputed.folder",
    "camera_height": "ground_plane.camera_height_m",
}
"""Option -> the configuration key that it sets."""


@dataclass(frozen=True)
class RunOptions:
    """The options as typed; None where one was not given, so that the value of a configuration file stays."""

    out: Annotated[Path | None, typer.Option("--out", help="Results folder.", show_default="results/NAME")] = None
    preset: PresetOption = None
    prior: Annotated[
        str | None,
        typer.Option(
            "--prior",
            metavar=_choices(PriorName),
            help="Source of the metric scale; auto takes the best one available.",
        ),
    ] = None
    correspondence: Annotated[
        str | None,
        typer.Option(
            "--correspondence",
            metavar=_choices(CorrespondenceName),
            help="Dense matching; auto: droid with weights and a GPU, else dis.",
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option("--device", help="Device of networks and bundle adjustment: auto, cpu, cuda, cuda:1 ..."),
    ] = None
    start: Annotated[int | None, typer.Option("--start", help="First frame, counted from 0.")] = None
    end: Annotated[int | None, typer.Option("--end", help="Stop before this frame.")] = None
    stride: Annotated[int | None, typer.Option("--stride", help="Process every N-th frame.")] = None
    size: Annotated[str | None, typer.Option("--size", metavar="WxH", help="Working size in pixels, e.g. 640x192.")] = (
        None
    )
    no_fusion: Annotated[
        bool, typer.Option("--no-fusion", help="Only the trajectory: write no map.ply and no mesh.ply.")
    ] = False
    precomputed_depth: Annotated[
        Path | None,
        typer.Option(
            "--precomputed-depth", metavar="DIR", help="Folder of depth maps, one per image; --prior auto uses them."
        ),
    ] = None
    camera: Annotated[
        str | None,
        typer.Option(
            "--camera", metavar="FX,FY,CX,CY", help="Intrinsics in pixels, for data without a calibration file."
        ),
    ] = None
    depth_scale: Annotated[
        float | None, typer.Option("--depth-scale", help="Values per metre in the depth images of the data.")
    ] = None
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="HZ", help="Frames per second, for data without time stamps.")
    ] = None
    camera_height: Annotated[
        float | None,
        typer.Option("--camera-height", metavar="M", help="Height of the camera above the road in metres."),
    ] = None
    config: ConfigFileOption = None
    settings: SetOption = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False
    resume: Annotated[bool, typer.Option("--resume", help="Continue the unfinished run in the results folder.")] = False

    def resolve(self) -> Config:
        """Resolve these options to a configuration. Raises ConfigError."""
        given: dict[str, Setting] = {}
        for option, key in _KEYS.items():
            value = getattr(self, option)
            if value is not None:
                value = str(value) if isinstance(value, Path) else value
                given[key] = Setting(value, f"--{option.replace('_', '-')}")
        if self.no_fusion:
            given["fusion.enabled"] = Setting(False, "--no-fusion")
        if self.resume and self.overwrite:
            raise ConfigError("--resume continues a run and --overwrite starts a new one: give one of them")
        return resolve_config(self.config, self.settings or (), given)

    def data_options(self) -> DataOptions:
        """Options of the data set. Raises ConfigError."""
        return {"camera": self._camera_numbers(), "depth_scale": self.depth_scale, "rate_hz": self.rate}

    def _camera_numbers(self) -> tuple[float, ...] | None:
        if self.camera is None:
            return None
        try:
            return tuple(float(number) for number in self.camera.replace(",", " ").split())
        except ValueError as error:
            raise ConfigError(f"--camera {self.camera}: give numbers, e.g. --camera 718.9,718.9,607.2,185.2") from error


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options to the parameters of ``command(..., options: RunOptions)``, for typer."""
    own = [p for name, p in inspect.signature(command, eval_str=True).parameters.items() if name != "options"]
    hints = get_type_hints(RunOptions, include_extras=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in dataclasses.fields(RunOptions)
    ]

    build: Callable[..., RunOptions] = RunOptions

    @functools.wraps(command)
    def wrapper(**values: object) -> None:
        options = build(**{p.name: values.pop(p.name) for p in shared})
        command(**values, options=options)

    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
    )
    return wrapper
