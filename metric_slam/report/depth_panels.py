"""Draws a few keyframes side by side: image, optimised depth, depth of the prior, confidence."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, NullFormatter

from metric_slam.report.plots import TEXT, new_figure
from metric_slam.result import KeyframeResult

MAX_PANELS = 4
NOTHING = "#cfcfcf"
"""Colour of pixels without a depth."""

_TICKS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500)


def choose_keyframes(keyframes: list[KeyframeResult], count: int = MAX_PANELS) -> list[KeyframeResult]:
    """Choose up to ``count`` keyframes in the middles of equal stretches; the ends have the fewest neighbours."""
    count = min(count, len(keyframes))
    return [keyframes[int((slot + 0.5) * len(keyframes) / count)] for slot in range(count)]


def optimised_depth(keyframe: KeyframeResult) -> np.ndarray:
    """Depth [h, w] in metres (or the unknown unit); NaN in ignored cells and where it is a guess (confidence 0)."""
    known = (keyframe.inv_depth > 0) & (keyframe.confidence > 0)
    if keyframe.ignore_cells is not None:
        known &= ~keyframe.ignore_cells
    return np.where(known, 1.0 / np.where(known, keyframe.inv_depth, 1.0), np.nan)


def plot_depth_panels(keyframes: list[KeyframeResult], *, scale_known: bool) -> Figure | None:
    """One row a keyframe, one depth colour scale for the whole figure; None without keyframes."""
    chosen = choose_keyframes(keyframes)
    if not chosen:
        return None
    optimised = [optimised_depth(keyframe) for keyframe in chosen]
    priors = [_prior_depth(keyframe) for keyframe in chosen]
    with_prior = any(prior is not None for prior in priors)
    columns = 4 if with_prior else 3
    height, width = chosen[0].camera.height, chosen[0].camera.width
    figure = new_figure(12.0, len(chosen) * 12.0 / columns * height / width + 1.2)
    grid = figure.subplots(len(chosen), columns, squeeze=False)
    norm = _depth_norm(optimised + [prior for prior in priors if prior is not None])
    for row, keyframe in enumerate(chosen):
        cells = list(grid[row])
        if keyframe.image is None:
            _mark_missing(cells[0])
        else:
            cells[0].imshow(keyframe.pixels)
        cells[0].set_ylabel(f"frame {keyframe.index}", fontsize=9, color=TEXT)
        depth_image = _show(cells[1], optimised[row], norm, "turbo_r")
        if with_prior:
            prior = priors[row]
            _mark_missing(cells[2]) if prior is None else _show(cells[2], prior, norm, "turbo_r")
        confidence_image = _show(cells[-1], keyframe.confidence, Normalize(0, 1), "gray")
    titles = ["image", "optimised depth", *(["depth of the prior"] if with_prior else []), "confidence of the depth"]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=TEXT)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
    _colour_bars(figure, grid, depth_image, confidence_image, "depth [m]" if scale_known else "depth [unknown unit]")
    return figure


def _prior_depth(keyframe: KeyframeResult) -> np.ndarray | None:
    """Depth of the prior [h, w] as the optimisation used it (scaled by its log-scale), NaN where it has none."""
    if keyframe.prior_depth_m is None:
        return None
    scaled_m = keyframe.prior_depth_m * np.exp(keyframe.prior_log_scale)
    return np.where(keyframe.prior_depth_m > 0, scaled_m, np.nan)


def _depth_norm(depths: list[np.ndarray]) -> LogNorm:
    values = np.concatenate([depth[np.isfinite(depth)] for depth in depths])
    if len(values) == 0:
        return LogNorm(1.0, 100.0)
    low, high = np.percentile(values, [1, 98])
    return LogNorm(low, max(high, 1.5 * low))


def _show(axes: Axes, values: np.ndarray, norm: Normalize, colours: str) -> AxesImage:
    axes.set_facecolor(NOTHING)
    colour_map = colormaps[colours].with_extremes(bad=NOTHING)
    return axes.imshow(values, norm=norm, cmap=colour_map, interpolation="nearest")


def _mark_missing(axes: Axes) -> None:
    axes.set_facecolor(NOTHING)
    axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes, color=TEXT)


def _colour_bars(
    figure: Figure, grid: np.ndarray, depth_image: AxesImage, confidence_image: AxesImage, depth_label: str
) -> None:
    """Draw the colour bars below their columns."""
    below_depths = list(grid[:, :-1].ravel())
    bar = figure.colorbar(
        depth_image,
        ax=below_depths,
        location="bottom",
        pad=0.02,
        shrink=0.66,
        anchor=(1.0, 0.0),
        aspect=45,
        extend="both",
    )
    bar.set_label(f"{depth_label}, logarithmic; grey: no depth", fontsize=9)
    low, high = depth_image.get_clim()
    bar.set_ticks([tick for tick in _TICKS if (low or 0.0) <= tick <= (high or np.inf)])
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.xaxis.set_minor_formatter(NullFormatter())
    bar = figure.colorbar(confidence_image, ax=list(grid[:, -1].ravel()), location="bottom", pad=0.02, aspect=22)
    bar.set_label("0: a guess, 1: certain", fontsize=9)
