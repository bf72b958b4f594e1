"""What a finished run hands to fusion, evaluation and the report: plain arrays, no references into the solver.

A result can be pickled, kept in memory (:meth:`SlamResult.materialised`) and saved to a folder; until then the images
of its keyframes may lie in a file of the run, which goes away with the process that wrote it.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import numpy as np

from metric_slam.disk_store import DiskArray, DiskImage
from metric_slam.errors import InputError, OutputError
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.trajectory import write_tum

RESULT_FILE = "result.npz"
KEYFRAMES_FOLDER = "keyframes"

Writer = Callable[[Path], None]
"""Writes one file to the given path."""


@dataclass(frozen=True)
class FrameState:
    """What is known of a frame right after it was processed; later frames improve its pose."""

    index: int
    """Frame index."""

    time_s: float
    T_world_cam: np.ndarray
    """Pose, float64 [4, 4]; in metres where ``scale_known``."""

    tracked: bool
    """False: nothing could be matched, the pose is the motion model's."""

    is_keyframe: bool
    scale_known: bool
    """True while the prior's measurements make the map metric."""

    inlier_ratio: float
    """Share of the reference keyframe's cells whose match fits the pose, 0..1."""


@dataclass(frozen=True)
class KeyframeResult:
    """One keyframe after the last optimisation, at working resolution (H, W) and on its 1/8 grid (h, w)."""

    index: int
    """Frame index in the data set."""

    time_s: float
    T_world_cam: np.ndarray
    """Pose, float64 [4, 4]."""

    camera: PinholeCamera
    """Intrinsics of ``image`` (working resolution)."""

    image: np.ndarray | DiskImage | None
    """Colour, uint8 [H, W, 3] RGB, or as png in memory or on the disk: see :attr:`pixels`. None in a result that was
    loaded from files without images."""

    inv_depth: np.ndarray
    """Optimised inverse depth in 1/m (1/unit where the scale is unknown), float32 [h, w], cells of the 1/8 grid."""

    confidence: np.ndarray
    """0..1, float32 [h, w]: how well flow supports the inverse depth; 0 where it is only a guess."""

    prior_depth_m: np.ndarray | None
    """Depth of the prior in metres, float32 [h, w], 0 where it has no depth; None without a prior."""

    prior_confidence: np.ndarray | None
    """Confidence of the prior 0..1, float32 [h, w]; None without a prior."""

    prior_log_scale: float
    """Bounded log-scale of the prior, s_k (0 without a prior)."""

    dense_inv_depth: np.ndarray | DiskArray | None = None
    """``inv_depth`` upsampled to every pixel by a recurrent model, float32 [H, W], in memory or on the disk
    (``np.asarray`` reads it); None where no such model matched, or loaded from files without images."""

    consistent_views: np.ndarray | None = None
    """Number of keyframes, among those it shares matches with, with the same depth to about 5 %: uint8 [h, w]."""

    ignore_cells: np.ndarray | None = None
    """Cells that show the vehicle itself or anything else that must not be used, bool [h, w]; None: none do."""

    @property
    def pixels(self) -> np.ndarray:
        """Colour, uint8 [H, W, 3] RGB; decoded on every access where it is kept as png. InputError without an image."""
        if self.image is None:
            raise InputError(
                f"keyframe {self.index} was saved without its image: load a result of save(folder, images=True), or "
                "read the image from the data set"
            )
        return self.image.load() if isinstance(self.image, DiskImage) else self.image

    def materialised(self) -> KeyframeResult:
        """The same keyframe without references to a file of the run."""
        image = self.image.in_memory() if isinstance(self.image, DiskImage) else self.image
        dense = None if self.dense_inv_depth is None else np.asarray(self.dense_inv_depth)
        return replace(self, image=image, dense_inv_depth=dense)

    def arrays(self, *, images: bool = False) -> dict[str, np.ndarray]:
        """Content of keyframes/NNNNNN.npz: pose, intrinsics [fx fy cx cy] and size of the camera, maps on the 1/8 grid.

        ``grid_camera`` are the intrinsics of that grid. With ``images`` also what has a value at every pixel: the image
        as ``image_png`` (bytes, uint8) and ``dense_inv_depth``. What the keyframe lacks is left out.
        """
        found: dict[str, object] = {
            "index": self.index,
            "time_s": self.time_s,
            "T_world_cam": self.T_world_cam,
            "camera": self.camera.vector(),
            "size": self.camera.size,
            "grid_camera": self.camera.grid().vector(),
            "inv_depth": self.inv_depth,
            "confidence": self.confidence,
            "prior_log_scale": self.prior_log_scale,
            "prior_depth_m": self.prior_depth_m,
            "prior_confidence": self.prior_confidence,
            "consistent_views": self.consistent_views,
            "ignore_cells": self.ignore_cells,
        }
        if images and self.image is not None:
            image = self.image if isinstance(self.image, DiskImage) else DiskImage.of(self.image)
            found |= {"image_png": image.encoded, "dense_inv_depth": self.dense_inv_depth}
        return {name: np.asarray(value) for name, value in found.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> KeyframeResult:
        """The keyframe of :meth:`arrays`. Raises KeyError where one of them is missing."""
        fx, fy, cx, cy = arrays["camera"].tolist()
        width, height = arrays["size"].tolist()
        return cls(
            index=int(arrays["index"]),
            time_s=float(arrays["time_s"]),
            T_world_cam=arrays["T_world_cam"],
            camera=PinholeCamera(fx, fy, cx, cy, width, height),
            image=DiskImage(arrays["image_png"]) if "image_png" in arrays else None,
            inv_depth=arrays["inv_depth"],
            confidence=arrays["confidence"],
            prior_depth_m=arrays.get("prior_depth_m"),
            prior_confidence=arrays.get("prior_confidence"),
            prior_log_scale=float(arrays["prior_log_scale"]),
            dense_inv_depth=arrays.get("dense_inv_depth"),
            consistent_views=arrays.get("consistent_views"),
            ignore_cells=arrays.get("ignore_cells"),
        )


@dataclass(frozen=True)
class ScaleObservation:
    """One measurement of the metric scale on the way, for the report's plot of scale over time."""

    index: int
    """Frame index in the data set."""

    log_ratio: float
    """log(measured metric length / length in the trajectory at that moment); 0 means agreement."""

    sigma: float
    """Standard deviation of ``log_ratio`` as its source states it."""

    used: bool
    """False where the source withdrew it (thin support, uneven road)."""


@dataclass(frozen=True)
class LoopResult:
    """A place that was recognised and verified."""

    index: int
    """Frame index of the later visit."""

    match_index: int
    """Frame index of the earlier visit."""

    distance_m: float
    """Between the two cameras, as verified."""

    correction_m: float
    """Displacement of the map there when the loop was closed."""

    weight: float
    """0..1: weight of the loop in the robust pose graph."""

    @property
    def accepted(self) -> bool:
        """False: the loop contradicted the rest of the map and was removed again."""
        return self.weight >= 0.5


@dataclass(frozen=True)
class SlamResult:
    """The trajectory of every processed frame and the keyframes of the map."""

    frame_indices: np.ndarray
    """Data set indices of the processed frames, int64 [N]."""

    times_s: np.ndarray
    """Time stamps, float64 [N]."""

    T_world_cam: np.ndarray
    """Pose of every processed frame, float64 [N, 4, 4]; the first is the identity."""

    is_keyframe: np.ndarray
    """bool [N]."""

    tracked: np.ndarray
    """bool [N]; False where the pose is predicted by the motion model because nothing could be matched."""

    keyframes: list[KeyframeResult]
    scale_source: str
    """Name of the prior that set the scale, or ``"unknown"``."""

    scale_observations: list[ScaleObservation] = field(default_factory=list)
    solver_status_counts: dict[str, int] = field(default_factory=dict)
    """How often each BA status came back, e.g. ``{"converged": 140, "max_iterations": 3}``."""

    inlier_ratio: np.ndarray | None = None
    """Share of the reference keyframe's cells whose match fits the frame's pose, float64 [N], 0..1."""

    submap: np.ndarray | None = None
    """int64 [N]: submap of each frame; a new one begins where tracking was lost. Submaps that a loop has connected
    carry the number of the first of them; the poses of unconnected ones come from the motion model."""

    loops: list[LoopResult] = field(default_factory=list)
    timings_s: dict[str, float] = field(default_factory=dict)
    """Seconds spent per stage inside the SLAM system (correspondence, prior, bundle_adjustment, ...)."""

    def __post_init__(self) -> None:
        count = len(self.frame_indices)
        for name in ("frame_indices", "times_s", "is_keyframe", "tracked", "inlier_ratio", "submap"):
            value = getattr(self, name)
            if value is not None and np.shape(value) != (count,):
                raise InputError(f"{name} has shape {np.shape(value)}, expected ({count},) as frame_indices")
        if np.shape(self.T_world_cam) != (count, 4, 4):
            raise InputError(f"T_world_cam has shape {np.shape(self.T_world_cam)}, expected ({count}, 4, 4)")

    @property
    def submap_count(self) -> int:
        """Number of submaps that no loop connects to another."""
        return 1 if self.submap is None else len(np.unique(self.submap))

    @property
    def consistent_share(self) -> float | None:
        """Share of the cells supported by flow that another keyframe confirms; None without such cells."""
        counts = [k.consistent_views[k.confidence > 0] for k in self.keyframes if k.consistent_views is not None]
        total = sum(count.size for count in counts)
        return sum(int(np.count_nonzero(count)) for count in counts) / total if total else None

    def materialised(self) -> SlamResult:
        """The same result with everything in memory, for use after the run's temporary file is gone."""
        return replace(self, keyframes=[keyframe.materialised() for keyframe in self.keyframes])

    def trajectory_files(self) -> Iterator[tuple[str, Writer]]:
        """Name and writer of the files about frames: text for other programs, and the exact arrays for :meth:`load`."""
        yield "trajectory.tum", partial(write_tum, times_s=self.times_s, T_world_cam=self.T_world_cam)
        yield "frames.csv", partial(_write_text, text=frames_csv(self))
        yield "loops.csv", partial(_write_text, text=loops_csv(self))
        yield RESULT_FILE, partial(_write_arrays, arrays=self._arrays())

    def keyframe_files(self, *, images: bool) -> Iterator[tuple[str, Writer]]:
        """Name and writer of keyframes/NNNNNN.npz, see :meth:`KeyframeResult.arrays`; one is in memory at a time."""
        for keyframe in self.keyframes:
            name = f"{KEYFRAMES_FOLDER}/{keyframe.index:06d}.npz"
            yield name, partial(_write_keyframe, keyframe=keyframe, images=images)

    def save(self, folder: Path | str, *, images: bool = True, overwrite: bool = False) -> Path:
        """Write the result to ``folder`` and return it; :meth:`load` gives an equal one.

        Files: trajectory.tum, frames.csv and loops.csv for other programs, result.npz (the exact arrays of every frame)
        and keyframes/NNNNNN.npz. With ``images`` the latter hold the images as png, lossless, and any dense depth.
        Raises OutputError where the folder cannot be written or holds a result and ``overwrite`` is not given.
        """
        folder = Path(folder)
        old = [folder / RESULT_FILE, *sorted((folder / KEYFRAMES_FOLDER).glob("*.npz"))]
        if not overwrite and any(path.exists() for path in old):
            raise OutputError(f"{folder} already holds a result: choose another folder or give overwrite=True")
        try:
            (folder / KEYFRAMES_FOLDER).mkdir(parents=True, exist_ok=True)
            for path in old:
                path.unlink(missing_ok=True)
            for files in (self.keyframe_files(images=images), self.trajectory_files()):
                for name, write in files:
                    partial_path = (folder / name).with_name(f".{Path(name).stem}.partial{Path(name).suffix}")
                    write(partial_path)
                    os.replace(partial_path, folder / name)
        except OSError as error:
            raise OutputError(f"cannot write {error.filename or folder}: {error.strerror}; choose another") from error
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> SlamResult:
        """The result that :meth:`save`, or a run, wrote to ``folder``.

        Images are kept as png in memory and decoded when :attr:`KeyframeResult.pixels` is read. Raises InputError where
        the folder holds no result or a damaged one.
        """
        path = Path(folder) / RESULT_FILE
        if not path.is_file():
            raise InputError(f"folder {folder} holds no result: there is no {RESULT_FILE}")
        try:
            arrays = _read_arrays(path)
            facts = json.loads(str(arrays.pop("facts")))
            names = facts.pop("keyframes")
            facts["scale_observations"] = [ScaleObservation(**row) for row in facts["scale_observations"]]
            facts["loops"] = [LoopResult(**row) for row in facts["loops"]]
            keyframes = []
            for name in names:
                path = Path(folder) / name
                keyframes.append(KeyframeResult.from_arrays(_read_arrays(path)))
            return cls(**{**arrays, **facts, "keyframes": keyframes})
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path} is missing or damaged ({type(error).__name__}): save the result again") from error

    def _arrays(self) -> dict[str, np.ndarray]:
        """Content of result.npz: every array by its name, and all else as JSON in ``facts``."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "keyframes"}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        facts = {name: value for name, value in values.items() if name not in arrays and value is not None}
        facts["scale_observations"] = [asdict(entry) for entry in self.scale_observations]
        facts["loops"] = [asdict(entry) for entry in self.loops]
        facts["keyframes"] = [name for name, _ in self.keyframe_files(images=False)]
        return {**arrays, "facts": np.array(json.dumps(facts))}


def frames_csv(result: SlamResult) -> str:
    """One line per frame: whether it was tracked, its inlier ratio and its submap."""
    n = len(result.times_s)
    inlier_ratio = np.full(n, np.nan) if result.inlier_ratio is None else result.inlier_ratio
    submap = np.zeros(n, int) if result.submap is None else result.submap
    rows = zip(
        result.frame_indices, result.times_s, result.tracked, result.is_keyframe, inlier_ratio, submap, strict=True
    )
    lines = [f"{i},{t:.6f},{int(tracked)},{int(key)},{q:.3f},{s}" for i, t, tracked, key, q, s in rows]
    return "\n".join(["index,time_s,tracked,keyframe,inlier_ratio,submap", *lines]) + "\n"


def loops_csv(result: SlamResult) -> str:
    """One line per loop that was closed."""
    lines = [
        f"{loop.index},{loop.match_index},{loop.distance_m:.3f},{loop.correction_m:.3f},{loop.weight:.3f}"
        for loop in result.loops
    ]
    return "\n".join(["index,match_index,distance_m,correction_m,weight", *lines]) + "\n"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_keyframe(path: Path, keyframe: KeyframeResult, images: bool) -> None:
    _write_arrays(path, keyframe.arrays(images=images))


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # stubs: allow_pickle, new in numpy 2.2


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
