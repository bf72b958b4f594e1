"""Writes plots/*.png and report.html of a finished run: one self-contained page that explains itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure

from metric_slam.errors import EvaluationError, InputError, OutputError
from metric_slam.evaluation.along_path import PathComparison, compare_paths
from metric_slam.evaluation.kitti import path_distances_m
from metric_slam.evaluation.table import ROWS, format_number, missing_figures
from metric_slam.report.depth_panels import plot_depth_panels
from metric_slam.report.lookup import Tree, branch, lookup, number, significant
from metric_slam.report.plots import (
    drift_per_length,
    plot_drift,
    plot_position_over_time,
    plot_scale,
    plot_timings,
    plot_top_view,
    plot_tracking,
)
from metric_slam.result import SlamResult

PLOTS_FOLDER = "plots"
REPORT_FILE = "report.html"

CAPTIONS = {
    "map": "The mesh with the path of the camera: green start, red end. map.ply and mesh.ply open in any mesh viewer.",
    "trajectory": "Path of the camera seen from above.",
    "position": "Position in the frame of the first camera (x right, y down, z forward) and heading.",
    "drift": "Left: mean translational error over all segments of a length, in percent of the length. "
    "Right: distance between estimated and true position.",
    "scale": "Ratio of a metric length to the same length in the trajectory; 1 means agreement. "
    "Filled: measurements that the optimisation used, as they were at that moment. "
    "Hollow: measurements that the prior withdrew. Line: fit to the ground truth, for comparison only.",
    "tracking": "Inlier ratio: share of the cells of the reference keyframe whose matches fit the pose of the frame. "
    "Red: frames that were not tracked. Dotted: start of a new submap that nothing connects to the one before. "
    "Triangles: closed loops; crosses: rejected loops.",
    "depth": "Keyframes from beginning to end. Grey: no depth. "
    "The depth of the prior is drawn at the scale that the optimisation estimated for it.",
    "timings": "Processing time of each stage.",
}
"""Name of each picture and what it shows, in their order on the page; all but the map are files in plots/."""


@dataclass(frozen=True)
class Card:
    """A large number at the top of the page."""

    label: str
    value: str
    unit: str
    note: str


def write_report(
    results_dir: Path | str,
    result: SlamResult,
    truth: np.ndarray | None,
    metrics: Tree | None,
    run_info: Tree,
    map_picture: Path | None = None,
) -> Path:
    """Write ``plots/*.png`` and ``report.html`` below ``results_dir``; returns the page's path.

    ``truth`` [N, 4, 4]: ``T_world_cam`` of the result's frames, NaN rows where unknown, or None. ``metrics``: what
    :func:`metric_slam.evaluation.evaluate` returned for them, or None. ``run_info``: ``sequence`` (title), ``command``,
    ``warnings`` (list of lines), ``config`` (nested mapping), ``timings_s`` (per stage of the whole run; default: the
    result's), and anything else, shown as a table. ``map_picture``: a PNG of the map, if there is one. Raises
    OutputError if a file cannot be written, InputError for a truth of another shape.
    """
    results_dir = Path(results_dir)
    paths = _comparison(result, truth)
    images = {name: png_bytes(figure) for name, figure in _figures(result, paths, metrics, run_info).items()}
    on_page = images if map_picture is None else {**images, "map": map_picture.read_bytes()}
    page = _render(result, metrics, run_info, on_page)
    try:
        (results_dir / PLOTS_FOLDER).mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            (results_dir / PLOTS_FOLDER / f"{name}.png").write_bytes(image)
        (results_dir / REPORT_FILE).write_text(page, encoding="utf-8")
    except OSError as error:
        message = f"{results_dir}: the report cannot be written ({error.strerror}): choose another folder"
        raise OutputError(message) from error
    return results_dir / REPORT_FILE


def png_bytes(figure: Figure) -> bytes:
    """Encode the figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def headline_cards(result: SlamResult, metrics: Tree | None) -> list[Card]:
    """Choose the large numbers: drift, ATE and scale where there is ground truth; path length and counts always."""
    cards = [] if metrics is None else _accuracy_cards(metrics)
    unit = "m" if result.scale_source != "unknown" else "units"
    length = significant(float(path_distances_m(result.T_world_cam)[-1]))
    cards.append(Card("path", length, unit, "length of the estimated trajectory"))
    cards.append(Card("frames", str(len(result.times_s)), "", f"{int(result.is_keyframe.sum())} keyframes"))
    return cards


def _accuracy_cards(metrics: Tree) -> list[Card]:
    """Cards of the figures against ground truth, each with its count, the path length and r_rel."""
    alignment = str(lookup(metrics, "headline", "alignment"))
    label, whole = ROWS[alignment], branch(metrics, "kitti", "alignments", alignment)
    drifts = drift_per_length(metrics, alignment)
    r_rel, over = number(whole, "r_rel_deg_per_100m"), ""
    if r_rel is None and drifts:
        longest = list(drifts)[-1]
        r_rel, over = number(drifts[longest], "r_rel_deg_per_100m"), f" over {longest} m"
    path = f"path {significant(number(metrics, 'path_length_m', 'value'))} m"
    r_rel_text = f"r_rel {format_number(r_rel, 3)} °/100 m{over}"
    poses = f"n = {format_number(number(metrics, 'n_poses_compared'), 0)} poses, {path}, {r_rel_text}"
    cards = _drift_cards(whole, drifts, label, path)
    ate_m = number(metrics, "headline", "ate_rmse_m")
    if ate_m is not None:
        cards.append(Card("ATE", significant(ate_m), "m", f"RMSE of positions, {label}; {poses}"))
    scale = number(metrics, "headline", "fitted_scale")
    if scale is not None:
        meaning = "1 is perfect" if lookup(metrics, "scale_known") else "metres per arbitrary unit"
        note = f"Sim(3) fit truth / estimate, {meaning}; {poses}"
        cards.append(Card("fitted scale", f"{scale:.4f}", "", note))
    return cards


def _drift_cards(whole: Tree, drifts: Mapping[str, Tree], label: str, path: str) -> list[Card]:
    """Cards of KITTI's drift, or of the short segments where the path holds no segment of 100 m."""
    if number(whole, "t_rel_percent") is None:
        cards = []
        for length, drift in drifts.items():
            r_rel = f"r_rel {format_number(number(drift, 'r_rel_deg_per_100m'), 3)} °/100 m"
            note = f"only segments of {length} m, {label}; {_segments(drift)}, {path}, {r_rel}"
            t_rel = format_number(number(drift, "t_rel_percent"), 2)
            cards.append(Card(f"drift over {length} m", t_rel, "%", note))
        return cards
    t_rel = format_number(number(whole, "t_rel_percent"), 2)
    r_rel = format_number(number(whole, "r_rel_deg_per_100m"), 3)
    note = f"KITTI segments 100–800 m, {label}; {_segments(whole)}, {path}"
    return [Card("t_rel", t_rel, "%", f"{note}, r_rel {r_rel} °/100 m"), Card("r_rel", r_rel, "°/100 m", note)]


def _segments(drift: Tree) -> str:
    """Count of segments, and the distinct metres that they cover where that is known."""
    covered_m = number(drift, "covered_m")
    covered = "" if covered_m is None else f" that cover {significant(covered_m)} m"
    return f"n = {format_number(number(drift, 'n_segments'), 0)} segments{covered}"


def _comparison(result: SlamResult, truth: np.ndarray | None) -> PathComparison | None:
    """Compare estimate and truth; None without truth, or where the estimate cannot be fitted to it."""
    if truth is None:
        return None
    if truth.shape != result.T_world_cam.shape:
        raise InputError(f"truth has shape {truth.shape}, but the poses of the result {result.T_world_cam.shape}")
    try:
        return compare_paths(result.T_world_cam, truth, scale_known=result.scale_source != "unknown")
    except EvaluationError:
        # a path of unknown scale that does not move; the metrics give the reason and the page lists it
        return None


def _figures(
    result: SlamResult, paths: PathComparison | None, metrics: Tree | None, run_info: Tree
) -> dict[str, Figure]:
    """Draw every plot for which there is data, by name."""
    scale_known = result.scale_source != "unknown"
    figures = {
        "trajectory": plot_top_view(result, paths),
        "position": plot_position_over_time(result, paths),
        "drift": None if paths is None or metrics is None else plot_drift(metrics, paths),
        "scale": plot_scale(result, paths),
        "tracking": plot_tracking(result),
        "depth": plot_depth_panels(result.keyframes, scale_known=scale_known),
        "timings": plot_timings(_timings_s(run_info) or result.timings_s, len(result.times_s)),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _timings_s(run_info: Tree) -> dict[str, float]:
    """Seconds of each stage of the whole run; empty where they are not given."""
    stages = branch(run_info, "timings_s")
    return {stage: seconds for stage in stages if (seconds := number(stages, stage)) is not None}


def _render(result: SlamResult, metrics: Tree | None, run_info: Tree, images: Mapping[str, bytes]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metric_slam.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": format_number, "significant": significant}
    plots = {name: (base64.b64encode(images[name]).decode(), CAPTIONS[name]) for name in CAPTIONS if name in images}
    handled = ("sequence", "warnings", "config", "timings_s", "command", "solver_status_counts")
    facts = {key: value for key, value in run_info.items() if key not in handled and value is not None}
    return environment.get_template("report.html").render(
        sequence=run_info.get("sequence", "sequence"),
        command=run_info.get("command"),
        scale_source=result.scale_source,
        cards=headline_cards(result, metrics),
        warnings=_warnings(result, run_info),
        gaps=[] if metrics is None else missing_figures(dict(metrics)),
        plots=plots,
        metrics=metrics,
        rows=ROWS,
        config=flatten(branch(run_info, "config")),
        facts=flatten(facts),
        solver=result.solver_status_counts,
    )


def _warnings(result: SlamResult, run_info: Tree) -> list[str]:
    """Collect what limits the meaning of the numbers."""
    given = lookup(run_info, "warnings")
    warnings = [str(line) for line in given] if isinstance(given, Sequence) else []
    if result.scale_source == "unknown":
        warnings.append("The scale is unknown: no source of metric depth was used. Lengths are in an arbitrary unit.")
    lost = int((~result.tracked).sum())
    if lost:
        total = len(result.tracked)
        warnings.append(f"{lost} of {total} frames were not tracked; their poses come from the motion model.")
    return warnings


def flatten(tree: Tree, prefix: str = "") -> list[tuple[str, str]]:
    """List a nested mapping as rows (dotted key, value as text), in its order."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _text(value)))
    return rows


def _text(value: object) -> str:
    """A value as a configuration file would write it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
