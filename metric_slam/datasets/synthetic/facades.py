"""House fronts: every one painted on its own from a random style, so that no two are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metric_slam.datasets.synthetic.materials import Rng, layered, noise, to_bytes

WALL_COLOURS = (
    (0.86, 0.80, 0.68), (0.80, 0.66, 0.47), (0.88, 0.85, 0.79), (0.70, 0.55, 0.45), (0.76, 0.78, 0.76),
    (0.84, 0.70, 0.60), (0.66, 0.71, 0.70), (0.90, 0.84, 0.62), (0.62, 0.44, 0.36), (0.74, 0.72, 0.66),
    (0.78, 0.60, 0.52), (0.68, 0.74, 0.64), (0.92, 0.90, 0.87), (0.58, 0.60, 0.64),
)  # fmt: skip
BRICK_COLOURS = ((0.56, 0.30, 0.23), (0.62, 0.40, 0.28), (0.48, 0.27, 0.22), (0.70, 0.55, 0.40), (0.55, 0.38, 0.34))
PAINT_COLOURS = (
    (0.16, 0.26, 0.22), (0.42, 0.14, 0.12), (0.15, 0.20, 0.34), (0.36, 0.25, 0.16), (0.72, 0.70, 0.66),
    (0.12, 0.12, 0.13), (0.30, 0.38, 0.30), (0.62, 0.46, 0.18),
)  # fmt: skip


@dataclass(frozen=True)
class FacadeStyle:
    """What one house looks like."""

    wall: tuple[float, float, float]
    brick: bool
    frame: tuple[float, float, float]
    paint: tuple[float, float, float]
    bay_m: float
    floor_m: float
    window_m: tuple[float, float]
    shutters: bool
    shop: bool
    bands: bool
    modern: bool


def random_style(rng: Rng) -> FacadeStyle:
    """Draw a style."""
    brick, modern = bool(rng.random() < 0.38), bool(rng.random() < 0.22)
    palette = BRICK_COLOURS if brick else WALL_COLOURS
    wall = np.array(palette[rng.integers(len(palette))]) * rng.uniform(0.90, 1.06) * rng.uniform(0.97, 1.03, 3)
    wall = np.clip(0.82 * wall + 0.18 * wall.mean(), 0, 0.93)
    light_frame = rng.random() < 0.7
    return FacadeStyle(
        wall=(float(wall[0]), float(wall[1]), float(wall[2])),
        brick=brick,
        frame=(0.86, 0.85, 0.82) if light_frame else (0.20, 0.18, 0.17),
        paint=PAINT_COLOURS[rng.integers(len(PAINT_COLOURS))],
        bay_m=float(rng.uniform(2.1, 3.3)),
        floor_m=float(rng.uniform(2.9, 3.6)),
        window_m=(float(rng.uniform(1.5, 2.1)), 1.5) if modern else (float(rng.uniform(0.95, 1.35)), 1.75),
        shutters=bool(not modern and rng.random() < 0.3),
        shop=bool(rng.random() < 0.35),
        bands=bool(rng.random() < 0.6),
        modern=modern,
    )


class FacadePainter:
    """Paints one front in metres: x to the right, z up from the pavement."""

    def __init__(self, rng: Rng, style: FacadeStyle, width_m: float, height_m: float, texel_m: float) -> None:
        self.rng, self.style, self.width_m, self.height_m, self.texel_m = rng, style, width_m, height_m, texel_m
        shape = (round(height_m / texel_m), round(width_m / texel_m))
        self.image = wall_texture(rng, shape, style, texel_m)

    def paint(self) -> np.ndarray:
        """The finished front, uint8 [height, width, 3]."""
        style = self.style
        floors = max(1, int((self.height_m - 0.5) / style.floor_m))
        bays = max(1, int((self.width_m - 0.6) / style.bay_m))
        pitch = self.width_m / bays
        door_bay = int(self.rng.integers(bays))
        if style.bands:
            self._bands(floors)
        for floor in range(floors):
            for bay in range(bays):
                x = (bay + 0.5) * pitch
                base = floor * style.floor_m
                if floor == 0 and bay == door_bay:
                    self._door(x)
                elif floor == 0 and style.shop:
                    self._shop_window(x, pitch)
                else:
                    self._window(x, base + (0.75 if style.modern else 0.9))
        if style.shop:
            self._sign()
        self._weather()
        return to_bytes(self.image)

    def _px(self, x: float, z: float) -> tuple[int, int]:
        return round(x / self.texel_m), round((self.height_m - z) / self.texel_m)

    def _fill(self, x0: float, z0: float, x1: float, z1: float, colour: tuple[float, ...] | np.ndarray) -> None:
        (left, bottom), (right, top) = self._px(x0, z0), self._px(x1, z1)
        self.image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = colour

    def _bands(self, floors: int) -> None:
        lighter = np.clip(np.array(self.style.wall) * (1.25 if self.style.brick else 1.10) + 0.06, 0, 0.93)
        self._fill(0, 0, self.width_m, 0.55, np.array(self.style.wall) * 0.62)
        for floor in range(1, floors):
            z = floor * self.style.floor_m
            self._fill(0, z - 0.04, self.width_m, z + 0.22, lighter)
            self._fill(0, z - 0.10, self.width_m, z - 0.04, np.array(self.style.wall) * 0.6)
        self._fill(0, self.height_m - 0.4, self.width_m, self.height_m, lighter)
        self._fill(0, self.height_m - 0.48, self.width_m, self.height_m - 0.4, np.array(self.style.wall) * 0.55)

    def _glass(self, x0: float, z0: float, x1: float, z1: float) -> None:
        (left, bottom), (right, top) = self._px(x0, z0), self._px(x1, z1)
        top, left = max(top, 0), max(left, 0)
        pane = self.image[top:bottom, left:right]
        if not pane.size:
            return
        height, width = pane.shape[:2]
        down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
        along = np.linspace(0, 1, width, dtype=np.float32)[None, :]
        reflection = self.rng.uniform(0.08, 0.42) * (1 - down) + 0.10 * ((down + along * self.rng.uniform(-1, 1)) % 0.7)
        pane[:] = reflection[..., None] * np.array([0.80, 0.95, 1.10]) + np.array([0.07, 0.08, 0.09])
        if self.rng.random() < 0.55:  # curtains
            cut = self.rng.uniform(0.15, 0.45)
            cloth = np.array([0.72, 0.70, 0.64]) * (1 + 0.12 * np.sin(along * width * 0.9))[..., None]
            side = (along < cut) | (along > 1 - cut) if self.rng.random() < 0.6 else (along < 2)
            pane[:] = np.where(side[..., None], 0.55 * pane + 0.42 * cloth, pane)
        shade = max(1, round(0.10 / self.texel_m))
        pane[:shade] *= 0.45
        pane[:, : max(1, shade // 2)] *= 0.6

    def _window(self, x: float, z: float) -> None:
        style, (w, h) = self.style, self.style.window_m
        h = min(h, self.height_m - z - 0.35, style.floor_m - 1.15)
        if h < 0.5:
            return
        left, right = x - w / 2, x + w / 2
        surround = np.clip(np.array(style.wall) * 1.12 + 0.05, 0, 0.92)
        if not style.modern:
            self._fill(left - 0.14, z - 0.05, right + 0.14, z + h + 0.20, surround)
        if style.shutters:
            for a, b in ((left - 0.52, left - 0.06), (right + 0.06, right + 0.52)):
                self._fill(a, z, b, z + h, style.paint)
                for k in range(int(h / 0.16)):
                    slat = z + 0.08 + 0.16 * k
                    self._fill(a + 0.06, slat, b - 0.06, slat + 0.04, np.array(style.paint) * 0.6)
        self._fill(left, z, right, z + h, style.frame)
        self._glass(left + 0.07, z + 0.07, right - 0.07, z + h - 0.07)
        self._fill(x - 0.035, z, x + 0.035, z + h, style.frame)
        if not style.modern:
            self._fill(left, z + 0.68 * h, right, z + 0.68 * h + 0.06, style.frame)
        self._fill(left - 0.18, z - 0.13, right + 0.18, z - 0.03, np.clip(surround * 1.05, 0, 0.93))
        self._fill(left - 0.18, z - 0.19, right + 0.18, z - 0.13, np.array(style.wall) * 0.5)

    def _door(self, x: float) -> None:
        style = self.style
        self._fill(x - 0.72, 0, x + 0.72, 2.75, np.clip(np.array(style.wall) * 1.1 + 0.06, 0, 0.92))
        self._fill(x - 0.55, 0.12, x + 0.55, 2.55, style.paint)
        self._glass(x - 0.48, 2.15, x + 0.48, 2.48)
        for side in (-0.46, 0.06):
            for z0, z1 in ((0.3, 0.95), (1.1, 1.95)):
                self._fill(x + side, z0, x + side + 0.4, z1, np.array(style.paint) * 0.72)
                self._fill(x + side + 0.04, z0 + 0.04, x + side + 0.36, z1 - 0.04, np.array(style.paint) * 1.12)
        self._fill(x - 0.8, 0, x + 0.8, 0.14, (0.55, 0.54, 0.51))
        self._fill(x + 0.40, 1.0, x + 0.46, 1.12, (0.85, 0.75, 0.40))

    def _shop_window(self, x: float, pitch: float) -> None:
        half = pitch / 2 - 0.18
        self._fill(x - half, 0.35, x + half, 2.55, np.array(self.style.paint))
        self._glass(x - half + 0.1, 0.6, x + half - 0.1, 2.45)
        for _ in range(int(self.rng.integers(3, 9))):  # goods in the window
            w, h = self.rng.uniform(0.1, 0.45), self.rng.uniform(0.15, 0.8)
            left = self.rng.uniform(x - half + 0.15, x + half - 0.15 - w)
            self._fill(left, 0.66, left + w, 0.66 + h, self.rng.uniform(0.12, 0.75, 3))

    def _sign(self) -> None:
        z, paint = 2.68, np.array(self.style.paint)
        self._fill(0.3, z, self.width_m - 0.3, z + 0.52, paint)
        ink = (0.92, 0.88, 0.74) if paint.mean() < 0.45 else (0.14, 0.13, 0.12)
        x = self.width_m * self.rng.uniform(0.12, 0.3)
        while x < self.width_m * 0.8:  # something like letters
            w = self.rng.uniform(0.10, 0.26)
            if self.rng.random() < 0.86:
                self._fill(x, z + 0.12, x + 0.06, z + 0.40, ink)
                bar = z + self.rng.choice([0.12, 0.24, 0.35])
                self._fill(x, bar, x + w, bar + 0.06, ink)
                if self.rng.random() < 0.5:
                    self._fill(x + w - 0.06, z + 0.12, x + w, z + 0.40, ink)
            x += w + 0.09

    def _weather(self) -> None:
        """Stains: streaks that run down, dirt at the foot, large shades."""
        shape = self.image.shape[:2]
        streaks = 0.03 * noise(self.rng, shape, (1.8 / self.texel_m, 0.12 / self.texel_m))
        shades = 0.035 * noise(self.rng, shape, 1.3 / self.texel_m) + 0.02 * noise(self.rng, shape, 2)
        z = self.height_m * np.linspace(1, 0, shape[0], dtype=np.float32)[:, None]
        dirt = 1 - 0.22 * np.exp(-z / 0.5) - 0.10 * np.exp(-z / 2.5)
        self.image *= ((1 + streaks + shades) * dirt)[..., None]


def wall_texture(rng: Rng, shape: tuple[int, int], style: FacadeStyle, texel_m: float) -> np.ndarray:
    """A bare wall in plaster, panels or brick, float32 [h, w, 3]."""
    grey = 1 + layered(rng, shape, [1, 3, 0.5 / texel_m], [0.03, 0.025, 0.03])
    y, x = np.arange(shape[0]), np.arange(shape[1])
    if style.brick:
        rows, cols = max(2, round(0.083 / texel_m)), max(4, round(0.25 / texel_m))
        shades = 1 + 0.12 * rng.standard_normal((shape[0] // rows + 1, shape[1] // cols + 2), dtype=np.float32)
        shift = (y // rows % 2) * (cols // 2)
        column = (x[None, :] + shift[:, None]) // cols
        grey = grey * shades[(y // rows)[:, None], column]
        mortar = ((y % rows) == 0)[:, None] | (((x[None, :] + shift[:, None]) % cols) == 0)
        image = grey[..., None] * np.array(style.wall, np.float32)
        return np.where(mortar[..., None], 0.6 * image + 0.4 * np.array([0.62, 0.58, 0.52], np.float32), image)
    if style.modern:
        panel = (max(4, round(1.2 / texel_m)), max(4, round(2.4 / texel_m)))
        joint = ((y % panel[0]) == 0)[:, None] | ((x % panel[1]) == 0)[None, :]
        grey = np.where(joint, 0.6 * grey, grey)
    return (grey[..., None] * np.array(style.wall, np.float32)).astype(np.float32)


def side_wall(rng: Rng, style: FacadeStyle, width_m: float, height_m: float, texel_m: float) -> np.ndarray:
    """The plain flank of a house: bare wall, a few small windows, stains; uint8 [h, w, 3]."""
    painter = FacadePainter(rng, style, width_m, height_m, texel_m)
    for _ in range(int(rng.integers(0, 4))):
        painter._window(rng.uniform(1.0, max(1.1, width_m - 1.0)), rng.uniform(0.9, max(1.0, height_m - 2.2)))
    painter._weather()
    return to_bytes(painter.image)
