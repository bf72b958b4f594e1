"""Metric depth of single images with a Metric3D network: reads images, and writes depth, normals and a cloud.

Images have 8 or 16 bits a channel (16 are reduced to 8), are grey (three equal channels) or in colour, and may have an
alpha channel without transparent pixels. Everything else is refused. JPEGs are turned to their EXIF orientation first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from metric_slam.config.metric3d import Metric3DConfig
from metric_slam.datasets.images import read_rgb, write_depth_m, write_rgb
from metric_slam.depth.metric3d.canonical import canonical_view
from metric_slam.depth.metric3d.locate import input_size, located
from metric_slam.depth.metric3d.predictor import DepthPredictor, ImageDepth
from metric_slam.errors import ConfigError, ImageError, InputError, OutputError
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.reconstruction.ply import PlyWriter
from metric_slam.run.results_folder import ResultsFolder
from metric_slam.single_image.camera import FocalOptions, camera_of_image
from metric_slam.single_image.measure import Measurement

DEPTH_UNITS_PER_METRE = 256.0
"""Scale of the 16-bit png, as in KITTI's depth benchmark."""

MAX_CLOUD_POINTS = 2_000_000
"""Larger images are thinned out: more points than this only make the file slow to open."""

UNKNOWN_GREY = 207
"""Grey level of pixels without depth."""

_MARK_RGB = (255, 60, 30)

Predict = Callable[[np.ndarray, PinholeCamera], ImageDepth]


class Input(NamedTuple):
    """An image file with its camera and the origin of that, in words."""

    path: Path
    camera: PinholeCamera
    camera_source: str


@dataclass(frozen=True)
class Outputs:
    """The files written for one image; None where its network has no such output."""

    depth_png: Path
    depth_npy: Path
    picture: Path
    cloud: Path
    normals_npy: Path | None
    normals_picture: Path | None

    @property
    def paths(self) -> list[Path]:
        """All files that are not None."""
        return [path for path in vars(self).values() if path is not None]


def read_image(path: Path) -> np.ndarray:
    """Read an image, uint8 [H, W, 3] RGB. Raises ImageError unless it has 8 or 16 bits and no transparent pixel.

    The colour of a transparent pixel has no meaning.
    """
    # the file is read unchanged first, since converting floats fails with a message that does not name the cause
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if raw is not None and raw.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"image {path} has pixels of type {raw.dtype}: convert it to 8 bits a channel")
    image = read_rgb(path)
    opaque = 255 if raw is not None and raw.dtype == np.uint8 else 65535
    if raw is not None and raw.ndim == 3 and raw.shape[2] == 4 and raw[..., 3].min() < opaque:
        raise ImageError(f"image {path} is transparent in places: give it a background (remove the alpha channel)")
    return image


def collect_inputs(paths: list[Path], options: FocalOptions) -> list[Input]:
    """Read all images and their cameras, so that mistakes show before a network is loaded.

    Raises ImageError, CalibrationError and ConfigError as :func:`read_image` and
    :func:`metric_slam.single_image.camera.camera_of_image`, ConfigError for two images of one name.
    """
    options.check()
    names: dict[str, Path] = {}
    for path in paths:
        if path.stem in names:
            raise ConfigError(f"{names[path.stem]} and {path} would write the same files: give them one by one")
        names[path.stem] = path
    found = []
    for path in paths:
        height, width = read_image(path).shape[:2]
        found.append(Input(path, *camera_of_image(path, (width, height), options)))
    return found


def load_predictor(config: Metric3DConfig, device: str, inputs: list[Input]) -> tuple[Predict, str]:
    """Load the configured network to a torch device; returns it with its description in words.

    Raises as :func:`metric_slam.depth.metric3d.prior.make_metric3d_prior`, and CalibrationError where a camera
    does not fit its image.
    """
    spec, path = located(config)
    size = input_size(config, spec)
    for item in inputs:
        canonical_view(item.camera, size)  # refuses wrong calibrations before gigabytes are read
    from metric_slam.depth.metric3d.prior import load_network, precision_of

    network = load_network(spec, path, size, device)
    what = f"{spec.name} at {size[0]}x{size[1]} with {path}, on {device}"
    return DepthPredictor(network, size, spec.decoder.farthest_m, device, precision_of(config)), what


def predicted(predict: Predict, inputs: list[Input], at_once: int) -> Iterator[tuple[Input, np.ndarray, ImageDepth]]:
    """Predict the depth of every input; up to ``at_once`` successive images of one camera go in one pass."""
    for camera, group in itertools.groupby(inputs, key=lambda item: item.camera):
        for batch in _pieces(list(group), at_once):
            images = [read_image(item.path) for item in batch]
            if isinstance(predict, DepthPredictor):
                found = predict.batch(images, camera)
            else:
                found = [predict(image, camera) for image in images]
            yield from zip(batch, images, found, strict=True)


def _pieces(inputs: list[Input], at_once: int) -> list[list[Input]]:
    return [inputs[begin : begin + at_once] for begin in range(0, len(inputs), at_once)]


def refuse_existing(out: Path, inputs: list[Input], overwrite: bool) -> None:
    """Raise OutputError where a file to be written exists already and ``overwrite`` is False."""
    there = [p for item in inputs for p in _outputs(out, item.path.stem, True).paths if p.exists()]
    if there and not overwrite:
        raise OutputError(f"{there[0]} exists already: choose another folder with --out or replace with --overwrite")


def write_outputs(out: Path, stem: str, image: np.ndarray, camera: PinholeCamera, found: ImageDepth) -> Outputs:
    """Write all outputs of one image (uint8 [H, W, 3]) into the folder ``out``, every file whole.

    Raises InputError where image, depth and camera differ in size, OutputError or ImageError where writing fails.
    """
    _refuse_sizes(image, camera, found)
    outputs = _outputs(out, stem, found.normals is not None)
    folder = ResultsFolder.prepare(out, overwrite=True)
    try:
        with folder.whole_file(outputs.depth_png.name) as path:
            write_depth_m(path, found.depth_m, DEPTH_UNITS_PER_METRE)
        with folder.whole_file(outputs.depth_npy.name) as path:
            np.save(path, found.depth_m.astype(np.float32))
        with folder.whole_file(outputs.picture.name) as path:
            write_rgb(path, depth_picture(found.depth_m))
        if found.normals is not None and outputs.normals_npy is not None and outputs.normals_picture is not None:
            with folder.whole_file(outputs.normals_npy.name) as path:
                np.save(path, found.normals)
            with folder.whole_file(outputs.normals_picture.name) as path:
                write_rgb(path, normals_picture(found.normals))
        write_cloud(outputs.cloud, image, camera, found)
    finally:
        folder.release()
    return outputs


def write_cloud(path: Path, image: np.ndarray, camera: PinholeCamera, found: ImageDepth) -> int:
    """Write the pixels with known depth as coloured points in metres, camera axes; returns their number.

    Raises InputError where image, depth and camera differ in size, OutputError where the file cannot be written.
    """
    _refuse_sizes(image, camera, found)
    points = camera.rays() * found.depth_m[..., None]
    normals = found.normals if found.normals is not None else surface_normals(points)
    known = found.depth_m > 0
    step = max(1, ceil(sqrt(np.count_nonzero(known) / MAX_CLOUD_POINTS)))
    chosen = np.zeros_like(known)
    chosen[::step, ::step] = known[::step, ::step]
    writer = PlyWriter(path, with_faces=False)
    try:
        writer.append(points[chosen], normals[chosen], image[chosen])
        writer.finish("metres; x right, y down, z forward")
    finally:
        writer.close()
    return int(chosen.sum())


def surface_normals(points: np.ndarray) -> np.ndarray:
    """Unit normals towards the camera, float64 [H, W, 3], of ``points`` [H, W, 3], from the neighbours of each."""
    if min(points.shape[:2]) < 2:
        return np.zeros_like(points)
    normals = np.cross(np.gradient(points, axis=0), np.gradient(points, axis=1))
    normals *= np.where((normals * points).sum(axis=-1, keepdims=True) > 0, -1.0, 1.0)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)


def depth_picture(depth: np.ndarray) -> np.ndarray:
    """Colour a depth image [H, W] (0: none), uint8 [H, W, 3]: red is near, blue far, logarithmic; grey is unknown."""
    known = depth > 0
    picture = np.full((*depth.shape, 3), UNKNOWN_GREY, np.uint8)
    if known.any():
        low, high = np.log(np.percentile(depth[known], [1, 99]))
        share = (np.log(np.where(known, depth, 1.0)) - low) / max(high - low, 1e-6)
        level = np.rint(255.0 * (1.0 - np.clip(share, 0.0, 1.0))).astype(np.uint8)
        colours = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
        picture[known] = colours[known]
    return picture


def normals_picture(normals: np.ndarray) -> np.ndarray:
    """Colour unit normals [H, W, 3], uint8 [H, W, 3]: x, y, z from -1..1 to red, green, blue from 0..255."""
    return np.clip(np.rint(127.5 * (1.0 + normals)), 0, 255).astype(np.uint8)


def measurement_picture(image: np.ndarray, measurement: Measurement) -> np.ndarray:
    """Draw the two points, the line between them and the distance into a copy of the image, uint8 [H, W, 3]."""
    picture = image.copy()
    height, width = picture.shape[:2]
    thick = max(1, round(width / 600))
    a, b = ((round(p.pixel[0]), round(p.pixel[1])) for p in (measurement.first, measurement.second))
    cv2.line(picture, a, b, _MARK_RGB, thick, cv2.LINE_AA)
    for point in (a, b):
        cv2.circle(picture, point, 3 * thick, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(picture, point, 3 * thick, _MARK_RGB, thick, cv2.LINE_AA)
    scale = max(0.35, width / 1200)
    font = cv2.FONT_HERSHEY_SIMPLEX
    text = measurement.text.replace("±", "+-")  # the font has ASCII only
    (text_width, text_height), _ = cv2.getTextSize(text, font, scale, thick)
    x = int(np.clip((a[0] + b[0] - text_width) // 2, 2, max(2, width - text_width - 2)))
    y = int(np.clip((a[1] + b[1]) // 2 - 4 * thick, text_height + 2, height - 4))
    margin = 3 * thick
    corners = (x - margin, y - text_height - margin), (x + text_width + margin, y + 2 * margin)
    cv2.rectangle(picture, *corners, (30, 30, 30), -1)
    cv2.putText(picture, text, (x, y), font, scale, (255, 255, 255), thick, cv2.LINE_AA)
    return picture


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write one png (uint8 [H, W, 3]) whole. Raises OutputError or ImageError."""
    folder = ResultsFolder.prepare(path.parent, overwrite=True)
    try:
        with folder.whole_file(path.name) as temporary:
            write_rgb(temporary, picture)
    finally:
        folder.release()


def _refuse_sizes(image: np.ndarray, camera: PinholeCamera, found: ImageDepth) -> None:
    shape = (camera.height, camera.width)
    if image.shape != (*shape, 3) or image.dtype != np.uint8:
        raise InputError(f"image is {image.dtype} {image.shape}, expected uint8 {(*shape, 3)} as its camera has")
    if found.depth_m.shape != shape:
        raise InputError(f"depth_m has shape {found.depth_m.shape}, expected {shape} as its camera has")


def _outputs(out: Path, stem: str, with_normals: bool) -> Outputs:
    return Outputs(
        depth_png=out / f"{stem}_depth.png",
        depth_npy=out / f"{stem}_depth.npy",
        picture=out / f"{stem}_depth_colour.png",
        cloud=out / f"{stem}_cloud.ply",
        normals_npy=out / f"{stem}_normals.npy" if with_normals else None,
        normals_picture=out / f"{stem}_normals.png" if with_normals else None,
    )
