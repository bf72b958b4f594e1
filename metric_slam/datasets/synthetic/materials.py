"""Painted textures of the ground, of plants and of plain things: float images in 0..1, made of layered noise."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Rng = np.random.Generator


def noise(rng: Rng, shape: tuple[int, int], cell_px: float | tuple[float, float]) -> np.ndarray:
    """Smooth noise of unit deviation whose features are ``cell_px`` wide (or (across rows, across columns)), [h, w]."""
    cell_y, cell_x = cell_px if isinstance(cell_px, tuple) else (cell_px, cell_px)
    if max(cell_y, cell_x) <= 1:
        return rng.standard_normal(shape, dtype=np.float32)
    rows, cols = int(shape[0] / cell_y) + 4, int(shape[1] / cell_x) + 4
    coarse = rng.standard_normal((rows, cols), dtype=np.float32)
    fine = cv2.resize(coarse, (int(cols * cell_x) + 1, int(rows * cell_y) + 1), interpolation=cv2.INTER_CUBIC)
    y, x = int(1.5 * cell_y), int(1.5 * cell_x)
    fine = fine[y : y + shape[0], x : x + shape[1]]
    return fine / max(float(fine.std()), 1e-6) if min(rows, cols) > 6 else fine


def layered(rng: Rng, shape: tuple[int, int], cells_px: Sequence[float], weights: Sequence[float]) -> np.ndarray:
    """Sum of noises with the given feature sizes and deviations, [h, w]."""
    total = np.zeros(shape, np.float32)
    for cell, weight in zip(cells_px, weights, strict=True):
        total += np.float32(weight) * noise(rng, shape, cell)
    return total


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Float [h, w, 3] in 0..1 to uint8."""
    return np.clip(image * 255.0 + 0.5, 0, 255).astype(np.uint8)


def tinted(grey: np.ndarray, colour: Sequence[float]) -> np.ndarray:
    """Grey factors [h, w] times one colour, [h, w, 3]."""
    return grey[..., None] * np.asarray(colour, np.float32)


def asphalt(
    rng: Rng,
    length_m: float,
    width_m: float,
    texel_m: float,
    lanes: bool,
    markings: str,
    dash_phase_m: float | None = None,
) -> np.ndarray:
    """A stretch of road, uint8 [width, length, 3]; rows run across the road, columns along it.

    Low-contrast grain down to a texel, tyre tracks, repairs, cracks, manholes; ``markings``: "town", "fast" or "none".
    ``dash_phase_m``: where within a period the dashes begin (None: at random).
    """
    shape = (round(width_m / texel_m), round(length_m / texel_m))
    cells = [1, 2.2, 0.12 / texel_m, 0.6 / texel_m, 3.0 / texel_m, 11 / texel_m]
    grey = 0.335 * (1 + layered(rng, shape, cells, [0.075, 0.05, 0.022, 0.022, 0.025, 0.035]))
    across_m = (np.arange(shape[0]) + 0.5) * texel_m - width_m / 2
    if lanes:
        grey *= _wear(rng, across_m, shape, texel_m)
    _repairs(rng, grey, texel_m)
    _cracks(rng, grey, texel_m)
    colour = tinted(grey, (1.0, 0.99, 0.965))
    _manholes(rng, colour, texel_m)
    if markings != "none":
        _lane_paint(rng, colour, across_m, texel_m, markings, dash_phase_m)
    return to_bytes(colour)


def even_asphalt(rng: Rng, length_m: float, width_m: float, texel_m: float) -> np.ndarray:
    """A new road without any feature but grain of low contrast and paint that repeats every 6 m; as ``asphalt``."""
    shape = (round(width_m / texel_m), round(length_m / texel_m))
    grey = 0.335 * (1 + layered(rng, shape, [1, 2.2, 0.12 / texel_m], [0.06, 0.04, 0.015]))
    colour = tinted(grey, (1.0, 0.99, 0.965))
    across_m = (np.arange(shape[0]) + 0.5) * texel_m - width_m / 2
    _lane_paint(rng, colour, across_m, texel_m, "even", 0.0)
    return to_bytes(colour)


def _wear(rng: Rng, across_m: np.ndarray, shape: tuple[int, int], texel_m: float) -> np.ndarray:
    """Darker oil traces in the middle of the lanes, polished lighter wheel tracks, darker gutters; factor [h, w]."""
    profile = np.ones_like(across_m)
    for lane in (-1.65, 1.65):
        profile -= 0.07 * np.exp(-(((across_m - lane) / 0.35) ** 2))
        for wheel in (-0.78, 0.78):
            profile += 0.06 * np.exp(-(((across_m - lane - wheel) / 0.28) ** 2))
    edge = np.abs(across_m).max() - np.abs(across_m)
    profile -= 0.14 * np.exp(-((edge / 0.25) ** 2))
    variation = 1 + 0.35 * noise(rng, shape, (0.8 / texel_m, 6.0 / texel_m))
    return (1 + (profile[:, None] - 1) * variation).astype(np.float32)


def _repairs(rng: Rng, grey: np.ndarray, texel_m: float) -> None:
    height, width = grey.shape
    for _ in range(int(width * texel_m / 9) + 1):
        w, h = int(rng.uniform(0.8, 6.0) / texel_m), int(rng.uniform(0.5, 2.2) / texel_m)
        x, y = int(rng.integers(0, max(1, width - w))), int(rng.integers(0, max(1, height - h)))
        piece = grey[y : y + h, x : x + w]
        piece *= rng.uniform(0.80, 1.12)
        piece += 0.012 * noise(rng, piece.shape, 3)
        seam = max(1, round(0.035 / texel_m))
        cv2.rectangle(grey, (x, y), (x + w, y + h), 0.20, seam, cv2.LINE_AA)


def _cracks(rng: Rng, grey: np.ndarray, texel_m: float) -> None:
    height, width = grey.shape
    for _ in range(int(width * texel_m / 4) + 1):
        steps = int(rng.uniform(1.5, 7) / 0.15)
        angle = rng.uniform(-0.6, 0.6) + (np.pi / 2 if rng.random() < 0.35 else 0)
        angles = angle + np.cumsum(rng.normal(0, 0.25, steps))
        points = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1) * 0.15 / texel_m, axis=0)
        points += [rng.uniform(0, width), rng.uniform(0, height)]
        line = np.round(points * 16).astype(np.int32)[:, None]
        cv2.polylines(grey, [line], False, float(rng.uniform(0.19, 0.26)), 1, cv2.LINE_AA, 4)


def _manholes(rng: Rng, colour: np.ndarray, texel_m: float) -> None:
    height, width = colour.shape[:2]
    for _ in range(int(width * texel_m / 22) + 1):
        radius = 0.32 / texel_m
        x, y = rng.uniform(radius, width - radius), rng.uniform(height * 0.25, height * 0.75)
        centre = (round(x * 16), round(y * 16))
        for factor, shade in ((1.18, 0.27), (1.0, 0.20), (0.86, 0.30), (0.78, 0.22)):
            cv2.circle(colour, centre, round(radius * factor * 16), (shade, shade, shade), -1, cv2.LINE_AA, 4)
        for k in range(-2, 3):
            offset = k * radius * 0.28
            half = np.sqrt(max((0.7 * radius) ** 2 - offset**2, 0))
            a, b = ((round(end * 16), round((y + offset) * 16)) for end in (x - half, x + half))
            cv2.line(colour, a, b, (0.33, 0.32, 0.31), max(1, round(0.03 / texel_m)), cv2.LINE_AA, 4)


def _lane_paint(
    rng: Rng, colour: np.ndarray, across_m: np.ndarray, texel_m: float, markings: str, dash_phase_m: float | None
) -> None:
    """Blend worn white lines into ``colour``: dashed middle, and for fast roads solid edges."""
    length_m = colour.shape[1] * texel_m
    along_m = (np.arange(colour.shape[1]) + 0.5) * texel_m
    dash, gap = {"fast": (6.0, 6.0), "even": (3.0, 3.0)}.get(markings, (3.0, 4.5))
    phase_m = rng.uniform(0, 4) if dash_phase_m is None else dash_phase_m
    lines = [(0.0, ((along_m + phase_m) % (dash + gap)) < dash)]
    edge = 3.45 if markings == "fast" else np.abs(across_m).max() - 2.15
    if markings == "fast":
        lines += [(side * edge, np.ones_like(along_m, bool)) for side in (-1, 1)]
    else:
        lines += [(side * edge, (along_m % 1.5) < 0.75) for side in (-1, 1)]
    assert length_m > 0
    for offset, on in lines:
        # the outline of the paint is softened by a texel, its area worn by noise
        cover = np.clip((0.075 - np.abs(across_m - offset)) / texel_m + 0.5, 0, 1)[:, None] * on[None, :]
        rows = np.flatnonzero(cover.max(axis=1) > 0)
        if not len(rows):
            continue
        part = colour[rows[0] : rows[-1] + 1]
        mask = cover[rows[0] : rows[-1] + 1].astype(np.float32)
        mask *= np.clip(0.82 + 0.22 * layered(rng, mask.shape, [2, 9, 60], [0.5, 0.6, 0.7]), 0, 1)
        part += mask[..., None] * (np.array([0.80, 0.79, 0.76], np.float32) - part)


def paving(rng: Rng, length_m: float, width_m: float, texel_m: float) -> np.ndarray:
    """A pavement of concrete slabs with individual shades and joints, uint8 [width, length, 3]."""
    shape = (round(width_m / texel_m), round(length_m / texel_m))
    slab = (max(2, round(rng.choice([0.4, 0.5, 0.6]) / texel_m)), max(2, round(rng.choice([0.4, 0.6, 0.8]) / texel_m)))
    rows, cols = -(-shape[0] // slab[0]), -(-shape[1] // slab[1]) + 1
    shades = 1 + 0.06 * rng.standard_normal((rows, cols), dtype=np.float32)
    y, x = np.arange(shape[0]), np.arange(shape[1])
    shift = (y // slab[0] % 2) * (slab[1] // 2)
    column = (x[None, :] + shift[:, None]) // slab[1]
    grey = 0.52 * shades[(y // slab[0])[:, None], column]
    joint = ((y % slab[0]) == 0)[:, None] | (((x[None, :] + shift[:, None]) % slab[1]) == 0)
    grey = np.where(joint, 0.72 * grey, grey)
    grey *= 1 + layered(rng, shape, [1, 4, 0.8 / texel_m, 5 / texel_m], [0.045, 0.03, 0.04, 0.05])
    return to_bytes(tinted(grey, (1.0, 0.975, 0.93)))


def kerbstone(rng: Rng, length_m: float, height_m: float, texel_m: float) -> np.ndarray:
    """A row of kerb stones, uint8 [height, length, 3]."""
    shape = (max(2, round(height_m / texel_m)), round(length_m / texel_m))
    stone = max(2, round(1.0 / texel_m))
    shades = 1 + 0.07 * rng.standard_normal(shape[1] // stone + 1, dtype=np.float32)
    x = np.arange(shape[1])
    grey = 0.56 * shades[x // stone] * np.where(x % stone == 0, 0.6, 1.0)
    grey = grey[None, :] * (1 + layered(rng, shape, [1, 5], [0.05, 0.05]))
    return to_bytes(tinted(grey, (1.0, 0.99, 0.97)))


def grass(rng: Rng, size_px: int) -> np.ndarray:
    """A lawn with lighter and darker tufts, uint8 [size, size, 3]."""
    shape = (size_px, size_px)
    value = 0.42 * (1 + layered(rng, shape, [1, 3, 12, 60, 200], [0.16, 0.12, 0.10, 0.08, 0.08]))
    dry = np.clip(0.35 + 0.18 * layered(rng, shape, [30, 130], [0.7, 0.7]), 0, 1)[..., None]
    colour = (1 - dry) * np.array([0.72, 1.0, 0.42]) + dry * np.array([1.0, 0.98, 0.58])
    return to_bytes(value[..., None] * colour)


def foliage(rng: Rng, size_px: int) -> np.ndarray:
    """Leaves close up, uint8 [size, size, 3]: small ellipses of many greens over dark."""
    image = np.full((size_px, size_px, 3), (0.16, 0.22, 0.09), np.float32)
    for _ in range(size_px * size_px // 40):
        x, y = rng.uniform(0, size_px, 2)
        shade = rng.uniform(0.55, 1.15)
        colour = tuple(float(c * shade) for c in (0.40 + rng.uniform(-0.06, 0.10), 0.54, 0.20))
        axes = (rng.uniform(2.0, 5.0), rng.uniform(1.2, 2.6))
        box = ((float(x), float(y)), (2 * float(axes[0]), 2 * float(axes[1])), float(rng.uniform(0, 180)))
        cv2.ellipse(image, box, colour, -1, cv2.LINE_AA)
    return to_bytes(image)


def plain(rng: Rng, size_px: int, roughness: float) -> np.ndarray:
    """Nearly white paint, metal or plaster to be tinted, uint8 [size, size, 3]."""
    shape = (size_px, size_px)
    grey = 0.92 * (1 + roughness * layered(rng, shape, [1, 3, 15, 80], [0.35, 0.35, 0.45, 0.6]))
    return to_bytes(tinted(grey, (1.0, 1.0, 1.0)))


def lettered_panel(rng: Rng, height_px: int, width_px: int, colour: Sequence[float] | np.ndarray) -> np.ndarray:
    """The painted side of a van: stripes, a badge, lines of something like letters, dirt; uint8 [h, w, 3]."""
    image = np.full((height_px, width_px, 3), colour, np.float32)
    for _ in range(3):
        band = rng.uniform(0.1, 0.9, 3)
        y, slope, thick = rng.uniform(0.1, 0.9) * height_px, rng.uniform(-0.5, 0.5), rng.uniform(0.03, 0.10) * height_px
        ends = [(0, round(y * 16)), (width_px * 16, round((y + slope * height_px) * 16))]
        cv2.line(image, ends[0], ends[1], tuple(map(float, band)), max(1, round(thick)), cv2.LINE_AA, 4)
    centre = (round(rng.uniform(0.15, 0.85) * width_px), round(rng.uniform(0.3, 0.7) * height_px))
    for radius, shade in ((0.20, rng.uniform(0.1, 0.9, 3)), (0.13, rng.uniform(0.1, 0.9, 3))):
        cv2.circle(image, centre, round(radius * height_px), tuple(map(float, shade)), -1, cv2.LINE_AA)
    ink = (0.9, 0.9, 0.86) if np.mean(colour) < 0.45 else (0.10, 0.10, 0.14)
    for row in rng.uniform(0.12, 0.88, 3):
        x = width_px * rng.uniform(0.04, 0.3)
        tall = rng.uniform(0.06, 0.14) * height_px
        while x < width_px * rng.uniform(0.6, 0.96):
            w = rng.uniform(0.4, 0.9) * tall
            a, b = (round(x), round(row * height_px)), (round(x + w), round(row * height_px + tall))
            cv2.rectangle(image, a, b, ink, -1 if rng.random() < 0.4 else max(1, round(0.2 * tall)), cv2.LINE_AA)
            x += 1.3 * w
    grain = layered(rng, (height_px, width_px), [1, 4, 25, 90], [0.02, 0.02, 0.03, 0.04])
    dirt = 1 - 0.3 * np.linspace(0, 1, height_px, dtype=np.float32)[:, None] ** 4
    return to_bytes(image * ((1 + grain) * dirt)[..., None])


def bark(rng: Rng, size_px: int) -> np.ndarray:
    """Tree bark, uint8 [size, size, 3]."""
    grey = 0.34 * (1 + 0.22 * noise(rng, (size_px, size_px), (24, 3)) + 0.10 * noise(rng, (size_px, size_px), 2))
    return to_bytes(tinted(grey, (1.0, 0.88, 0.72)))


def roof_tiles(rng: Rng, size_px: int) -> np.ndarray:
    """Rows of roof tiles to be tinted, uint8 [size, size, 3]."""
    row, column = 9, 7
    y, x = np.arange(size_px), np.arange(size_px)
    shades = 1 + 0.10 * rng.standard_normal((size_px // row + 1, size_px // column + 2), dtype=np.float32)
    shift = (y // row % 2) * (column // 2)
    grey = 0.80 * shades[(y // row)[:, None], (x[None, :] + shift[:, None]) // column]
    grey *= (0.72 + 0.28 * np.minimum((y % row) / 3.0, 1.0))[:, None]
    grey *= 1 + layered(rng, (size_px, size_px), [1, 20, 90], [0.05, 0.06, 0.08])
    return to_bytes(tinted(grey, (1.0, 1.0, 1.0)))


def sky(rng: Rng, height_px: int = 1024) -> np.ndarray:
    """Sky by direction, float32 [h, 4h, 3], linear light: columns azimuth 0..360, rows elevation 90 (top) to -10 deg.

    A gradient from deep blue to a pale horizon, sheets of cloud in perspective, and distant wooded hills.
    """
    width_px = 4 * height_px
    elevation = np.linspace(90, -10, height_px, dtype=np.float32)
    up = np.clip(np.sin(np.radians(elevation)), 0, 1)[:, None, None]
    zenith, horizon = np.array([0.16, 0.34, 0.74]), np.array([0.78, 0.85, 0.93])
    image = horizon + (zenith - horizon) * np.clip(up, 0, 1) ** 0.55 + np.zeros((1, width_px, 1))
    # a flat layer of cloud: positions on it grow with 1 / tan(elevation)
    azimuth = np.linspace(0, 2 * np.pi, width_px, endpoint=False, dtype=np.float32)
    reach = np.minimum(1 / np.tan(np.radians(np.maximum(elevation, 2.0))), 14)[:, None]
    plate = layered(rng, (2048, 2048), [10, 22, 50, 110, 220], [0.25, 0.4, 0.7, 1.0, 1.0])
    map_x = 1024 + 70 * reach * np.cos(azimuth)[None, :]
    map_y = 1024 + 70 * reach * np.sin(azimuth)[None, :]
    density = cv2.remap(plate, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR)
    cover = np.clip((density - 0.5) / 2.0, 0, 1)[..., None]
    cover = cover * np.clip((elevation - 3) / 12, 0, 1)[:, None, None] * 0.85
    cloud = np.array([1.0, 0.99, 0.98]) * (1.0 - 0.22 * np.clip((density - 1.4) / 3, 0, 1))[..., None]
    image = image + cover * (cloud - image)
    hills = 1.6 + 0.9 * noise(rng, (1, width_px), (1, 340))[0] + 0.25 * noise(rng, (1, width_px), (1, 40))[0]
    hills += 0.10 * noise(rng, (1, width_px), (1, 7))[0]
    behind = np.clip((np.maximum(hills, 0.4)[None, :] - elevation[:, None]) / 0.1, 0, 1)[..., None]
    return (image + behind * (np.array([0.36, 0.45, 0.50]) - image)).astype(np.float32)
