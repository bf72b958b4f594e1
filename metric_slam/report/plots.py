"""The plots of a run, as matplotlib figures made without pyplot and so without global state.

One colour means one thing in all of them: grey the truth, blue the estimate, orange what was fitted to the truth, green
the prior, red what was lost.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metric_slam.evaluation.along_path import SCALE_WINDOW, PathComparison, local_scale, position_error_m
from metric_slam.evaluation.table import ROWS
from metric_slam.report.lookup import Tree, branch, lookup, number, significant
from metric_slam.result import ScaleObservation, SlamResult

LegendPlace = Literal["best", "upper left", "lower left"]

TRUTH, ESTIMATE, FITTED, PRIOR, LOST = "#555555", "#1b6ca8", "#e08214", "#2a9d6f", "#c0392b"
GRID, TEXT = "#dddddd", "#222222"
DPI = 110


def new_figure(width_in: float, height_in: float) -> Figure:
    """Create an empty figure on the Agg canvas."""
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def set_title(axes: Axes, title: str) -> None:
    """Write the title as all plots have it: bold, on the left."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=TEXT)


def style(axes: Axes, *, x: str, y: str, title: str = "") -> None:
    """Give axes the common style: labels with units, thin grid, no box."""
    axes.set_xlabel(x, color=TEXT)
    axes.set_ylabel(y, color=TEXT)
    set_title(axes, title)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def legend(axes: Axes, loc: LegendPlace = "best", ncols: int = 1) -> None:
    """Draw a frameless legend, if anything is labelled."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc=loc, ncols=ncols)


def plot_top_view(result: SlamResult, paths: PathComparison | None) -> Figure:
    """Draw the path from above: x and z of the first camera with equal axes, the longer extent across."""
    T, unit, note = _estimate(result, paths)
    position = T[:, :3, 3]
    everything = position if paths is None else np.concatenate([position, paths.truth[paths.known, :3, 3]])
    extent = np.maximum(np.ptp(everything[:, [0, 2]], axis=0), 1e-9)
    across, up = (2, 0) if extent[1] > extent[0] else (0, 2)
    ratio = float(np.clip(extent.min() / extent.max(), 0.22, 0.8))
    figure = new_figure(9.5, 9.5 * ratio + 1.0)
    axes = figure.add_subplot()
    if paths is not None:
        axes.plot(*paths.truth[:, [across, up], 3].T, color=TRUTH, linewidth=3.2, alpha=0.55, label="ground truth")
    axes.plot(*position[:, [across, up]].T, color=_color(paths), linewidth=1.6, label=f"estimate ({note})")
    lost = ~result.tracked
    if lost.any():
        axes.plot(*position[lost][:, [across, up]].T, ".", color=LOST, markersize=5, label="not tracked: motion model")
    for end, marker, color, size, label in ((0, "o", "white", 8, "start"), (-1, "s", TEXT, 7, "end")):
        x, y = position[end, [across, up]]
        axes.plot(x, y, marker, color=color, markersize=size, label=label, markeredgecolor=TEXT, zorder=5)
    axes.set_aspect("equal", adjustable="datalim")
    if up == 0:
        axes.invert_yaxis()  # driving to the right of the page, a right turn goes down: a map, not its mirror image
    names = {0: f"x, to the right [{unit}]", 2: f"z, forward [{unit}]"}
    origin = "the first camera" if paths is None else "the first camera with known truth"
    style(axes, x=names[across], y=names[up], title=f"Path from above, in the frame of {origin}")
    legend(axes, loc="best")
    return figure


def plot_position_over_time(result: SlamResult, paths: PathComparison | None) -> Figure:
    """Draw x, y, z and heading of the camera over time, with the truth where it is known."""
    T, unit, note = _estimate(result, paths)
    figure = new_figure(9.5, 7.0)
    all_axes = figure.subplots(4, 1, sharex=True)
    labels = [f"x, right\n[{unit}]", f"y, down\n[{unit}]", f"z, forward\n[{unit}]", "heading, right\n[degrees]"]
    time_s = result.times_s - result.times_s[0]
    curves, true_curves = _coordinates(T), None if paths is None else _coordinates(paths.truth)
    for row, (axes, label) in enumerate(zip(all_axes, labels, strict=True)):
        if true_curves is not None:
            axes.plot(time_s, true_curves[row], color=TRUTH, linewidth=3.0, alpha=0.55, label="ground truth")
        axes.plot(time_s, curves[row], color=_color(paths), linewidth=1.4, label=f"estimate ({note})")
        style(axes, x="time [s]" if row == 3 else "", y=label)
    set_title(all_axes[0], "Position and heading over time")
    legend(all_axes[0], loc="best", ncols=2)
    figure.align_ylabels(all_axes)
    return figure


def plot_drift(metrics: Tree, paths: PathComparison) -> Figure:
    """Draw the mean translational drift per segment length (left), and the position error along the path (right)."""
    figure = new_figure(9.5, 3.8)
    bars, curve = figure.subplots(1, 2)
    shown = ["none", "7dof"] if lookup(metrics, "scale_known") else ["7dof"]
    lengths: list[str] = []
    for slot, alignment in enumerate(shown):
        drift = drift_per_length(metrics, alignment)
        lengths, t_rel = list(drift), [number(figures, "t_rel_percent") or 0.0 for figures in drift.values()]
        offset = (slot - (len(shown) - 1) / 2) * 0.4
        color = ESTIMATE if alignment == "none" else FITTED
        bars.bar(np.arange(len(drift)) + offset, t_rel, 0.38, color=color, label=ROWS[alignment])
    bars.set_xticks(np.arange(len(lengths)), lengths)
    style(bars, x="segment length [m]", y="t_rel [%]", title="Drift per segment length")
    if lengths:
        legend(bars)
    else:
        length = significant(number(metrics, "path_length_m", "value"))
        bars.text(0.5, 0.5, f"path of {length} m:\nno segment of 25 m", ha="center", transform=bars.transAxes)
    distance_m, error_m = position_error_m(paths)
    curve.plot(distance_m, error_m, color=_color(paths), linewidth=1.4)
    curve.set_ylim(0, 1.2 * float(error_m.max()) or 1.0)
    style(curve, x="distance along the true path [m]", y="position error [m]", title="Position error along the path")
    curve.text(0.02, 0.95, paths.protocol, transform=curve.transAxes, fontsize=9, color=TEXT, va="top")
    return figure


def drift_per_length(metrics: Tree, alignment: str) -> dict[str, Tree]:
    """Collect the drift by segment length in metres, short ones and KITTI's; only lengths that the path holds."""
    drift: dict[str, Tree] = {}
    for part in ("short_segments", "kitti"):
        per_length = branch(metrics, part, "alignments", alignment, "per_length_m")
        found = {length: branch(per_length, length) for length in per_length}
        drift |= {length: figures for length, figures in found.items() if number(figures, "t_rel_percent") is not None}
    return drift


def plot_scale(result: SlamResult, paths: PathComparison | None) -> Figure | None:
    """Draw the scale over time: fitted to the truth in sliding windows, and the measurements of the prior.

    None where there is neither truth nor a measurement.
    """
    scale = None if paths is None else local_scale(paths.estimate, paths.truth)
    if scale is not None and not np.isfinite(scale).any():
        scale = None
    if scale is None and not result.scale_observations:
        return None
    figure = new_figure(9.5, 3.8)
    axes = figure.add_subplot()
    axes.axhline(1.0, color=TRUTH, linewidth=1.0)
    in_view = [1.0]
    if scale is not None:
        label = f"fitted to the truth over {SCALE_WINDOW} frames"
        axes.plot(result.frame_indices, scale, color=FITTED, linewidth=1.8, label=label, zorder=3)
        in_view += list(scale[np.isfinite(scale)])
    for used, face, label in ((True, PRIOR, "measured, used"), (False, "white", "withdrawn")):
        measured = [observation for observation in result.scale_observations if observation.used == used]
        if measured:
            _error_bars(axes, measured, face, label)
            in_view += [float(np.exp(observation.log_ratio)) for observation in measured] if used else []
    low, high = np.percentile(in_view, [1, 99])
    margin = max(0.05, 0.4 * (high - low))
    axes.set_ylim(min(low, 1.0) - margin, max(high, 1.0) + 1.6 * margin)
    style(axes, x="frame", y="scale factor (1: agrees)", title="Scale over time")
    legend(axes, loc="upper left", ncols=3)
    return figure


def plot_tracking(result: SlamResult) -> Figure | None:
    """Draw the inlier ratio of every frame, lost frames, starts of submaps and loops; None without inlier ratios."""
    if result.inlier_ratio is None:
        return None
    figure = new_figure(9.5, 3.0)
    axes = figure.add_subplot()
    frames = result.frame_indices
    axes.plot(
        frames,
        np.where(result.tracked, result.inlier_ratio, np.nan),
        color=ESTIMATE,
        linewidth=1.0,
        label="inlier ratio",
    )
    lost = frames[~result.tracked]
    if len(lost):
        axes.plot(lost, np.zeros(len(lost)), "|", color=LOST, markersize=12, label="not tracked")
    if result.submap is not None:
        for start in frames[1:][np.diff(result.submap) != 0]:
            axes.axvline(start, color=TEXT, linewidth=0.8, linestyle=":")
    for accepted, label in ((True, "loop closed"), (False, "loop rejected")):
        found = [loop.index for loop in result.loops if loop.accepted == accepted]
        if found:
            marker = "^" if accepted else "x"
            axes.plot(found, np.full(len(found), 1.04), marker, color=PRIOR, markersize=4, linestyle="", label=label)
    axes.set_ylim(-0.05, 1.1)
    style(axes, x="frame", y="share of cells that fit", title="Inlier ratio of tracking")
    legend(axes, loc="lower left", ncols=4)
    return figure


def plot_timings(timings_s: dict[str, float], n_frames: int) -> Figure | None:
    """Draw the seconds of each stage, longest first; None without timings."""
    stages = sorted(timings_s.items(), key=lambda item: item[1])
    if not stages:
        return None
    figure = new_figure(9.5, 1.0 + 0.34 * len(stages))
    axes = figure.add_subplot()
    names, seconds = [name.replace("_", " ") for name, _ in stages], [value for _, value in stages]
    bars = axes.barh(names, seconds, color=ESTIMATE, height=0.65)
    labels = [f"{value:.1f} s, {1000 * value / max(n_frames, 1):.1f} ms a frame" for value in seconds]
    axes.bar_label(bars, labels, padding=5, fontsize=9, color=TEXT)
    axes.margins(x=0.28)
    style(axes, x="time [s]", y="", title="Time per stage")
    axes.grid(visible=False, axis="y")
    return figure


def _error_bars(axes: Axes, observations: list[ScaleObservation], face: str, label: str) -> None:
    log_ratio = np.array([observation.log_ratio for observation in observations])
    sigma = np.array([observation.sigma for observation in observations])
    ratio = np.exp(log_ratio)
    bounds = np.stack([ratio - np.exp(log_ratio - sigma), np.exp(log_ratio + sigma) - ratio])
    axes.errorbar(
        [observation.index for observation in observations],
        ratio,
        yerr=bounds,
        fmt="o",
        markersize=4,
        color=PRIOR,
        markerfacecolor=face,
        elinewidth=0.7,
        alpha=0.85,
        label=f"{label} (±1σ)",
    )


def _estimate(result: SlamResult, paths: PathComparison | None) -> tuple[np.ndarray, str, str]:
    """Poses to draw, their unit, and their alignment in words."""
    if paths is not None:
        return paths.estimate, "m", paths.protocol if paths.fitted else "no alignment"
    scale_known = result.scale_source != "unknown"
    return result.T_world_cam, "m" if scale_known else "unknown unit", "metric" if scale_known else "scale unknown"


def _color(paths: PathComparison | None) -> str:
    return FITTED if paths is not None and paths.fitted else ESTIMATE


def _coordinates(T_world_cam: np.ndarray) -> list[np.ndarray]:
    """x, y, z and heading (about the down axis, positive to the right, degrees, unwrapped) of poses [N, 4, 4]."""
    heading_rad = np.arctan2(T_world_cam[:, 0, 2], T_world_cam[:, 2, 2])
    known = np.isfinite(heading_rad)
    heading_rad[known] = np.unwrap(heading_rad[known])
    return [T_world_cam[:, 0, 3], T_world_cam[:, 1, 3], T_world_cam[:, 2, 3], np.degrees(heading_rad)]
