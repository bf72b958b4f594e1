"""Every option of the program: typed, strict, with units and reasons; one section per stage.

A configuration is the preset (``fast`` or ``accurate``) overlaid with explicit values, whether they come from Python
(``Config(preset="fast", ...)``), a YAML file or ``key=value`` settings; a run writes the result next to its outputs.
No module sees the whole tree: each gets its own section. This file is the schema alone;
:mod:`metric_slam.config.resolve` reads files and settings, :mod:`metric_slam.config.documentation` writes
docs/configuration.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from metric_slam.config.bundle_adjustment import BundleAdjustmentConfig as BundleAdjustmentConfig
from metric_slam.config.droid import DroidConfig
from metric_slam.config.huggingface import HuggingFaceConfig
from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.config.presets import PRESETS as PRESETS
from metric_slam.config.presets import Preset as Preset
from metric_slam.config.presets import over_preset
from metric_slam.config.section import Section as Section
from metric_slam.config.section import size_from_text

PriorName = Literal["auto", "metric3d", "ground_plane", "sensor", "precomputed", "huggingface", "none"]
CorrespondenceName = Literal["auto", "dis", "inverse_search", "droid"]


class InputConfig(Section):
    """Which frames are processed and at which size."""

    size: tuple[int, int] | None = Field(
        None, description="working size (width, height) in pixels; none: from the preset's pixel budget, aspect kept"
    )
    pixel_budget_px: int = Field(
        960 * 288, gt=64 * 64, description="upper bound on width x height when size is not given"
    )
    start: int = Field(0, ge=0, description="first frame")
    end: int | None = Field(None, ge=1, description="one past the last frame; none: all")
    stride: int = Field(1, ge=1, description="process every stride-th frame")

    @field_validator("size", mode="before")
    @classmethod
    def _size_from_text(cls, value: object) -> object:
        """Accept ``640x192`` as well as a pair of numbers."""
        return size_from_text(value)

    @model_validator(mode="after")
    def _possible(self) -> InputConfig:
        """Refuse sizes of too few cells of the 1/8 grid, and selections without a frame."""
        if self.size is not None and min(self.size) < 64:
            raise ValueError(f"size {self.size[0]}x{self.size[1]} is too small; both sides need at least 64 pixels")
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end {self.end} must be greater than start {self.start}")
        return self


class DisConfig(Section):
    """Matching with DIS optical flow: OpenCV's (`dis`), or the same search in torch (`inverse_search`)."""

    preset: Literal["ultrafast", "fast", "medium"] = Field(
        "medium", description="OpenCV's preset for patches, iterations and variational refinement; used by `dis` only"
    )
    finest_scale: int = Field(
        0, ge=0, le=5, description="finest pyramid level of the inverse search: 0 full resolution, 1 half"
    )
    wide_finest_scale: int = Field(
        1,
        ge=0,
        le=5,
        description="finest level for pairs of keyframes that are not direct neighbours: they constrain rotation, for "
        "which coarser flow is enough",
    )
    patch_stride: int | None = Field(
        None, ge=1, le=8, description="pixels between DIS patches; none: the preset's own, 4 for `inverse_search`"
    )
    warm_start: bool = Field(
        True, description="start the search from the flow that the current poses and depths predict"
    )
    forward_backward_sigma_px: float = Field(
        0.5, gt=0, description="forward-backward error at which the confidence is one half, pixels"
    )
    max_forward_backward_px: float = Field(
        1.0, gt=0, description="forward-backward error beyond which a match is dropped, pixels"
    )
    max_forward_backward_relative: float = Field(
        0.02, ge=0, description="share of the flow's length that is added to max_forward_backward_px"
    )
    texture_floor: float = Field(
        1.0, ge=0, description="RMS gradient at which the confidence is one half, grey levels per pixel"
    )


class MotionFilterConfig(Section):
    """Conditions under which a frame becomes a keyframe."""

    min_flow_px: float = Field(
        6.0,
        gt=0,
        description="mean flow since the last keyframe from which a frame becomes one, pixels at working resolution",
    )
    min_coverage: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the last keyframe's cells with a match below which a frame becomes a keyframe",
    )
    max_gap: int = Field(30, ge=1, description="moving frames after which one becomes a keyframe at the latest")
    still_flow_px: float = Field(
        0.5, ge=0, description="mean flow below which the camera counts as standing, which makes no keyframe, pixels"
    )


class SlidingWindowConfig(Section):
    """The sliding window of keyframes that is optimised while frames come in."""

    window: int = Field(8, ge=3, description="keyframes optimised together")
    fixed: int = Field(
        2,
        ge=1,
        description="oldest poses that stay fixed where no metric measurement constrains the scale of the window; "
        "with one, a single pose is fixed",
    )
    radius: int = Field(2, ge=1, description="number of previous keyframes with which a new one is matched")
    warm_up: int = Field(6, ge=2, description="keyframes up to which the whole start is optimised and scaled again")
    max_lost: int = Field(5, ge=1, description="consecutive frames without tracking after which a new submap starts")
    iterations: int = Field(3, ge=1, description="solver iterations per new keyframe")


class GlobalBaConfig(Section):
    """Bundle adjustment over the whole trajectory."""

    iterations: int = Field(
        12,
        ge=0,
        description="solver iterations over the whole trajectory; 0: no iterations, all other final steps remain",
    )
    updates: tuple[int, int] = Field(
        (0, 0),
        description="updates of the droid network over the whole trajectory at the end, in two rounds that each choose "
        "their edges (7, 12 in DROID-SLAM); an update is a pass over all edges: minutes on a CPU",
    )
    max_cells: int = Field(
        12_000_000,
        ge=100_000,
        description="largest number of cells, over all edges, in one solve (32 bytes each); for a longer drive only "
        "every second, third ... row and column of the grid takes part and the other depths are interpolated",
    )
    growth: float = Field(
        1.5, gt=1, description="growth of the map, in keyframes, after which a loop starts another global optimisation"
    )


class LoopConfig(Section):
    """Recognising places and closing loops."""

    enabled: bool = Field(True, description="close loops")
    every: int = Field(4, ge=1, description="keyframes between two searches for loops")
    min_detour: float = Field(
        0.5,
        gt=0,
        description="shortest detour between two visits of a place, changes of the view: 1 is a turn of 1 rad, a "
        "sideways move of the median depth of the scene, or a forward move of six of them",
    )
    drift: float = Field(
        0.03,
        gt=0,
        description="expected drift of the position, share of the way: bounds how far off a place may be; a turn of "
        "1 rad counts as much as a sideways move of the median depth",
    )
    drift_floor: float = Field(0.15, gt=0, description="added to it, median depths of the scene")
    candidates: int = Field(4, ge=1, description="places that are verified for each search")
    min_similarity: float = Field(
        0.0, ge=-1, le=1, description="cosine between the descriptors of two places from which they are verified"
    )


class StateConfig(Section):
    """Files of a run that exist only while it lasts."""

    checkpoint_s: float = Field(
        20.0, ge=0, description="seconds between two checkpoints, from which --resume continues; 0: no checkpoints"
    )
    disk_budget_gb: float = Field(
        30.0, gt=0, description="largest size of the images and matches of a run on disk; they are deleted at its end"
    )


class SensorConfig(Section):
    """Depth images of the data set (prior ``sensor``)."""

    min_depth_m: float | None = Field(None, ge=0, description="drop nearer measurements, metres; none: keep them all")
    max_depth_m: float | None = Field(None, gt=0, description="drop farther measurements, metres; none: keep them all")
    sigma: float = Field(0.03, gt=0, description="assumed relative error of one cell")
    scale_sigma: float = Field(0.005, ge=0, description="assumed relative error common to all cells of an image")


class PrecomputedConfig(Section):
    """Depth maps from other programs (prior ``precomputed``)."""

    folder: str | None = Field(
        None, description="folder with one map per image, same stem: png 16 bit, npy, npz or exr"
    )
    png_scale: float = Field(256.0, gt=0, description="values per metre in 16-bit png")
    min_depth_m: float | None = Field(None, ge=0, description="drop nearer values, metres; none: keep them all")
    max_depth_m: float | None = Field(None, gt=0, description="drop farther values, metres; none: keep them all")
    sigma: float = Field(0.10, gt=0, description="assumed relative error of one cell")
    scale_sigma: float = Field(0.03, ge=0, description="assumed relative error common to all cells of an image")


class GroundPlaneConfig(Section):
    """Metric scale from the road and the known height of the camera (prior ``ground_plane``).

    Lengths are multiples of that height: the same numbers hold for a car and for a robot whose camera is 0.3 m high.
    """

    camera_height_m: float | None = Field(
        None, gt=0, description="height of the camera above the road, metres; none: from the data set"
    )
    corridor_heights: float = Field(
        1.33, gt=0, description="half width of the road patch that is aligned, camera heights"
    )
    wide_corridor_heights: float = Field(
        3.0,
        gt=0,
        description="half width where a vehicle ahead hides the road, so that other lanes count, camera heights",
    )
    nearest_heights: float = Field(3.0, gt=0, description="near end of the patch, camera heights ahead")
    farthest_heights: float = Field(12.1, gt=0, description="far end of the patch, camera heights ahead")
    samples: int = Field(4000, ge=200, description="pixels of the patch that are used")
    blur_px: float = Field(
        0.7,
        gt=0,
        description="Gaussian blur before alignment, pixels of the original image; more blur makes the road seem lower",
    )
    pitch_sigma_deg: float = Field(
        0.15, gt=0, description="deviation of the road's pitch from the direction of travel, degrees"
    )
    roll_sigma_deg: float = Field(
        0.4, gt=0, description="deviation of the road's roll from the camera's own zero, degrees"
    )
    observation_sigma: float = Field(
        0.05, gt=0, description="assumed error of log(height) of one pair of keyframes, besides its own noise"
    )
    min_baseline_heights: float = Field(
        0.06, gt=0, description="pairs with a shorter baseline are not measured, camera heights"
    )
    cell_sigma: float = Field(0.02, gt=0, description="assumed relative error of a road cell's depth in the map")


class FusionConfig(Section):
    """From keyframe depths to map.ply and mesh.ply."""

    enabled: bool = Field(True, description="write map.ply and mesh.ply")
    voxel_m: float | None = Field(
        None, gt=0, description="edge of a TSDF voxel in metres; none: as fine as pixels and depth noise allow"
    )
    max_depth_medians: float = Field(
        3.0, gt=0, description="depths beyond so many median depths of the scene are not fused"
    )
    max_depth_m: float | None = Field(
        None, gt=0, description="depths beyond are not fused, metres, instead of fusion.max_depth_medians; none: unused"
    )
    min_views: int = Field(2, ge=1, description="other keyframes that must agree with a depth")
    max_relative_error: float = Field(
        0.05, gt=0, description="relative depth difference that still counts as agreement"
    )
    fine_flow: bool = Field(
        False,
        description="match keyframes at full resolution: 13 % less depth error on KITTI, 1.5 to 1.8 times the time",
    )


class Config(Section):
    """The whole configuration tree.

    ``Config(preset="fast", fusion=FusionConfig(enabled=False))`` and ``Config.preset("fast", ...)`` are the preset with
    the explicit values over it. Raises ConfigError with one line that names the key.
    """

    preset_name: Preset = Field(
        "accurate",
        alias="preset",
        description="fast: about real time (10 Hz) on two cores; accurate: finer flow",
    )
    """Key ``preset`` in files, on the command line and in the constructor."""

    prior: PriorName = Field(
        "auto",
        description="source of metric depth; auto: the best one available, with the reason in the log and in run.json",
    )
    correspondence: CorrespondenceName = Field(
        "auto",
        description="dense matching; auto: droid with weights and a GPU, else dis; inverse_search: the same "
        "search in torch, for GPUs",
    )
    device: str = Field(
        "auto",
        description="torch device of networks, and of bundle adjustment where that is a GPU and the CUDA kernels are "
        "built; auto: cuda where present, else cpu",
    )
    seed: int = Field(0, description="seed of every random generator")
    input: InputConfig = InputConfig()
    dis: DisConfig = DisConfig()
    droid: DroidConfig = DroidConfig()
    motion_filter: MotionFilterConfig = MotionFilterConfig()
    sliding_window: SlidingWindowConfig = SlidingWindowConfig()
    global_ba: GlobalBaConfig = GlobalBaConfig()
    loop: LoopConfig = LoopConfig()
    state: StateConfig = StateConfig()
    sensor: SensorConfig = SensorConfig()
    precomputed: PrecomputedConfig = PrecomputedConfig()
    metric3d: Metric3DConfig = Metric3DConfig()
    huggingface: HuggingFaceConfig = HuggingFaceConfig()
    ground_plane: GroundPlaneConfig = GroundPlaneConfig()
    bundle_adjustment: BundleAdjustmentConfig = BundleAdjustmentConfig()
    fusion: FusionConfig = FusionConfig()

    @classmethod
    def preset(cls, name: Preset | str, **sections: object) -> Config:
        """The preset ``name`` overlaid with explicit ``sections`` and options, as in the constructor.

        Raises ConfigError where there is no such preset.
        """
        build: Callable[..., Config] = cls
        return build(preset=name, **sections)

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, values: object) -> object:
        """Fill in what the preset changes wherever there is no explicit value."""
        if not isinstance(values, Mapping):
            return values
        name = values.get("preset", cls.model_fields["preset_name"].default)
        return over_preset(name, values) if isinstance(name, str) else values
