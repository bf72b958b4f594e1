"""plots/*.png and report.html of a finished run: one self-contained page for somebody who was not there."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from metric_slam.errors import EvaluationError, OutputError
from metric_slam.evaluation.along_path import PathComparison, compare_paths
from metric_slam.evaluation.kitti import path_distances_m
from metric_slam.evaluation.table import ROWS, format_number, missing_figures
from metric_slam.report.depth_panels import plot_depth_panels
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
    "map": "The mesh and the trajectory in it: green start, red end. map.ply and mesh.ply open in any mesh viewer.",
    "trajectory": "The camera's path seen from above.",
    "position": "Position in the frame of the first camera (x right, y down, z forward) and heading.",
    "drift": "Left: mean translational error over all segments of a length, in percent of the length. "
    "Right: distance between estimated and true position.",
    "scale": "Factor between a metric length and the same length in the trajectory. "
    "Filled: measurements that held the scale, as they saw it at that moment; hollow: withdrawn by their source; "
    "line: fitted against the truth afterwards.",
    "tracking": "How well each frame fits the keyframe before it; red: not tracked; dotted: a new submap begins that "
    "nothing ties to the one before; triangles: places that were recognised.",
    "depth": "Keyframes from the beginning to the end. Grey: no depth. "
    "The prior is drawn at the scale the optimisation gave it.",
    "timings": "Where the time went.",
}
"""Name of each picture and what it shows, in their order on the page; all but the map are files in plots/."""


@dataclass(frozen=True)
class Card:
    """One large number at the top of the page."""

    label: str
    value: str
    unit: str
    note: str


def write_report(
    results_dir: Path | str,
    result: SlamResult,
    truth: np.ndarray | None,
    metrics: dict[str, Any] | None,
    run_info: Mapping[str, Any],
    map_picture: Path | None = None,
) -> Path:
    """Write ``plots/*.png`` and ``report.html`` below ``results_dir``; returns the page's path.

    ``truth`` [N, 4, 4]: ``T_world_cam`` of the result's frames, NaN rows where unknown, or None. ``metrics``: what
    :func:`metric_slam.evaluation.evaluate` returned for them, or None. ``run_info``: ``sequence`` (title), ``command``,
    ``warnings`` (list of lines), ``config`` (nested mapping), ``timings_s`` (per stage of the whole run; default: the
    result's), and anything else, shown as a table. ``map_picture``: a PNG of the map, if there is one. Raises
    OutputError if a file cannot be written.
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
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def headline_cards(result: SlamResult, metrics: dict[str, Any] | None) -> list[Card]:
    """The large numbers: drift, scale, ATE where there is truth; length and counts always."""
    cards = [] if metrics is None else _accuracy_cards(metrics)
    length = float(path_distances_m(result.T_world_cam)[-1])
    unit = "m" if result.scale_source != "unknown" else "units"
    cards.append(Card("path", f"{length:.1f}", unit, "length of the estimated trajectory"))
    cards.append(Card("frames", str(len(result.times_s)), "", f"{int(result.is_keyframe.sum())} keyframes"))
    return cards


def _accuracy_cards(metrics: dict[str, Any]) -> list[Card]:
    headline = metrics["headline"]
    alignment = ROWS[headline["alignment"]]
    cards = []
    if headline["t_rel_percent"] is not None:
        t_rel, r_rel = headline["t_rel_percent"], headline["r_rel_deg_per_100m"]
        cards.append(Card("t_rel", f"{t_rel:.2f}", "%", f"KITTI segments 100–800 m, {alignment}"))
        cards.append(Card("r_rel", f"{r_rel:.3f}", "°/100 m", f"KITTI segments 100–800 m, {alignment}"))
    else:
        for length, t_rel in drift_per_length(metrics, headline["alignment"]).items():
            cards.append(Card(f"drift over {length} m", f"{t_rel:.2f}", "%", f"{length} m segments only, {alignment}"))
    if headline["ate_rmse_m"] is not None:
        cards.append(Card("ATE", f"{headline['ate_rmse_m']:.2f}", "m", f"RMSE of positions, {alignment}"))
    if headline["fitted_scale"] is not None:
        meaning = "1 is perfect" if metrics["scale_known"] else "metres per arbitrary unit"
        note = f"Sim(3) fit truth / estimate; {meaning}"
        cards.append(Card("fitted scale", f"{headline['fitted_scale']:.4f}", "", note))
    return cards


def _comparison(result: SlamResult, truth: np.ndarray | None) -> PathComparison | None:
    """None where there is no truth to draw, or none that the estimate can be fitted to."""
    if truth is None:
        return None
    assert truth.shape == result.T_world_cam.shape, (truth.shape, result.T_world_cam.shape)
    try:
        return compare_paths(result.T_world_cam, truth, scale_known=result.scale_source != "unknown")
    except EvaluationError:
        # a path of unknown scale that does not move; the metrics give the reason and the page lists it
        return None


def _figures(
    result: SlamResult, paths: PathComparison | None, metrics: dict[str, Any] | None, run_info: Mapping[str, Any]
) -> dict[str, Figure]:
    """Every plot that has something to show, by name."""
    scale_known = result.scale_source != "unknown"
    figures = {
        "trajectory": plot_top_view(result, paths),
        "position": plot_position_over_time(result, paths),
        "drift": None if paths is None or metrics is None else plot_drift(metrics, paths),
        "scale": plot_scale(result, paths),
        "tracking": plot_tracking(result),
        "depth": plot_depth_panels(result.keyframes, scale_known=scale_known),
        "timings": plot_timings(run_info.get("timings_s") or result.timings_s, len(result.times_s)),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _render(
    result: SlamResult, metrics: dict[str, Any] | None, run_info: Mapping[str, Any], images: Mapping[str, bytes]
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metric_slam.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = format_number
    plots = {name: (base64.b64encode(images[name]).decode(), CAPTIONS[name]) for name in CAPTIONS if name in images}
    handled = ("sequence", "warnings", "config", "timings_s", "command", "solver_status_counts")
    facts = {key: value for key, value in run_info.items() if key not in handled and value is not None}
    return environment.get_template("report.html").render(
        sequence=run_info.get("sequence", "sequence"),
        command=run_info.get("command"),
        scale_source=result.scale_source,
        cards=headline_cards(result, metrics),
        warnings=_warnings(result, run_info),
        gaps=[] if metrics is None else missing_figures(metrics),
        plots=plots,
        metrics=metrics,
        rows=ROWS,
        config=flatten(run_info.get("config", {})),
        facts=flatten(facts),
        solver=result.solver_status_counts,
    )


def _warnings(result: SlamResult, run_info: Mapping[str, Any]) -> list[str]:
    """What the reader must know before believing the numbers."""
    warnings = list(run_info.get("warnings", []))
    if result.scale_source == "unknown":
        warnings.append("The scale is unknown: no source of metric depth was used. Lengths are in an arbitrary unit.")
    lost = int((~result.tracked).sum())
    if lost:
        total = len(result.tracked)
        warnings.append(f"{lost} of {total} frames were not tracked; their poses come from the motion model.")
    return warnings


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Rows (dotted key, value as text) of a nested mapping, in its order."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _text(value)))
    return rows


def _text(value: Any) -> str:
    """A value as a configuration file would write it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
