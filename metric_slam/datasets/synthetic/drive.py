"""Rendering of a drive into the layout of KITTI odometry, on all cores, and the cache of rendered drives."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import yaml

from metric_slam.datasets.images import write_depth_m, write_rgb
from metric_slam.datasets.kitti import KITTI_DEPTH_SCALE, open_kitti
from metric_slam.datasets.sequence import ImageSequence
from metric_slam.datasets.synthetic.body import import_open3d
from metric_slam.datasets.synthetic.build import build_world
from metric_slam.datasets.synthetic.exposure import exposure_gains
from metric_slam.datasets.synthetic.render import Renderer
from metric_slam.datasets.synthetic.route import drive_motion
from metric_slam.datasets.synthetic.spec import DriveSpec
from metric_slam.datasets.synthetic.traffic import Traffic
from metric_slam.errors import OutputError
from metric_slam.frame import CameraMount

logger = logging.getLogger(__name__)

SEQUENCE = "demo"
CACHE_VARIABLE = "METRIC_SLAM_CACHE"
MAX_WORKERS = 16
"""Threads that render at most: each holds the rays of one frame, about 150 MB at 640 x 192 pixels."""

LOG_EVERY_S = 15.0
"""Seconds between two log lines with the remaining time, where no progress callback is given."""

Progress = Callable[[int, int], None]
"""Called with (frames done, frames in all)."""


def open_demo(
    spec: DriveSpec | None = None, *, cache: Path | None = None, progress: Progress | None = None
) -> ImageSequence:
    """The rendered drive of ``spec`` (default: the demo), rendered first if the cache does not hold it yet."""
    spec = DriveSpec() if spec is None else spec
    sequence = open_kitti(render_drive(spec, cache=cache, progress=progress), SEQUENCE)
    return replace(sequence, name=f"synthetic/{SEQUENCE}", mount=CameraMount(spec.camera_height_m))


def cache_folder() -> Path:
    """Folder of all rendered drives: $METRIC_SLAM_CACHE, else ``~/.cache/metric_slam``."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "metric_slam"


def worker_count() -> int:
    """Number of rendering threads: one for each core that this process may use, ``MAX_WORKERS`` at most."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MAX_WORKERS)


def render_drive(spec: DriveSpec, *, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """Render the drive of ``spec`` unless the cache holds it, and return its root folder (KITTI odometry layout).

    Written: ``sequences/demo/{calib.txt, times.txt, image_2, depth_2}`` and ``poses/demo.txt`` (first camera = world).
    The folder appears complete or not at all, and its bytes do not depend on the number of threads. Without
    ``progress`` the remaining time is logged. Raises MissingDependencyError (Open3D) and OutputError (disk).
    """
    folder = (cache or cache_folder()) / f"drive_{spec.key()}"
    if folder.is_dir():
        logger.info("rendered drive found in %s", folder)
        return folder
    import_open3d()
    logger.info("rendering the drive into %s with %d threads", folder, worker_count())
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".rendering_", dir=folder.parent))
    except OSError as error:
        raise OutputError(f"cannot write to {folder.parent}: {error.strerror}; set ${CACHE_VARIABLE}") from error
    try:
        _render_into(scratch, spec, progress)
        scratch.chmod(0o755)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster: its files are the same
                raise
    except OSError as error:
        raise OutputError(f"cannot write the drive to {folder}: {error.strerror}; set ${CACHE_VARIABLE}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _render_into(root: Path, spec: DriveSpec, progress: Progress | None) -> None:
    sequence = root / "sequences" / SEQUENCE
    images, depths, poses = sequence / "image_2", sequence / "depth_2", root / "poses"
    for folder in (images, depths, poses):
        folder.mkdir(parents=True)
    motion = drive_motion(spec)
    T_world_cam = motion.poses
    _write_side_files(sequence, poses, spec, T_world_cam)
    kit, gains = build_world(spec), exposure_gains(spec, len(T_world_cam))
    traffic = Traffic(kit, spec, motion) if spec.moving_cars else None
    renderer = Renderer(kit)
    del kit  # the parts of the finished mesh and atlas are large

    def render(index: int) -> None:
        seed, movers = spec.seed * 1_000_003 + index, None if traffic is None else traffic.at(index)
        image, depth_m = renderer.render(spec.camera, T_world_cam[index], spec.noise_sigma, seed, gains[index], movers)
        write_rgb(images / f"{index:06d}.png", image)
        write_depth_m(depths / f"{index:06d}.png", depth_m, KITTI_DEPTH_SCALE)

    report = _log_remaining() if progress is None else progress
    # numpy and OpenCV release the interpreter's lock; Open3D does not, but casts the rays of one frame on all cores
    pool = ThreadPoolExecutor(worker_count())
    try:
        for done, _ in enumerate(pool.map(render, range(len(T_world_cam))), start=1):
            report(done, len(T_world_cam))
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption must not wait for the frames that are left


def _log_remaining() -> Progress:
    """Progress that logs the frames done and the remaining time every ``LOG_EVERY_S`` seconds."""
    start = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LOG_EVERY_S and done < total:
            last = now
            logger.info("rendered %d of %d frames, %.0f s left", done, total, (now - start) / done * (total - done))

    return report


def _write_side_files(sequence: Path, poses: Path, spec: DriveSpec, T_world_cam: np.ndarray) -> None:
    camera = spec.camera
    P = np.column_stack([camera.K, np.zeros(3)]).ravel()
    numbers = " ".join(f"{value:.12e}" for value in P)
    (sequence / "calib.txt").write_text("".join(f"P{k}: {numbers}\n" for k in range(4)), encoding="utf-8")
    np.savetxt(sequence / "times.txt", np.arange(len(T_world_cam)) / spec.rate_hz, fmt="%.6e")
    relative = np.linalg.inv(T_world_cam[0]) @ T_world_cam
    np.savetxt(poses / f"{SEQUENCE}.txt", relative[:, :3].reshape(-1, 12), fmt="%.12e")
    (sequence / "spec.yaml").write_text(yaml.safe_dump(asdict(spec), sort_keys=False), encoding="utf-8")
