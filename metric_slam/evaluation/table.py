"""The metrics as a table that fits one screen."""

from __future__ import annotations

from rich.table import Table

from metric_slam.evaluation.metrics import Figures

ROWS = {
    "none": "no alignment",
    "scale": "scale, sum(x.y)/sum(x.x)",
    "scale_7dof": "scale, Umeyama",
    "6dof": "SE(3)",
    "7dof": "Sim(3)",
}
"""Order and wording of the alignments in the table."""


_COLUMNS = (
    *("t_rel\n%", "r_rel\n°/100 m", "n", "covers\nm"),
    *("ATE\nrmse m", "RPE\nm/frame", "25 m\nt_rel %", "50 m\nt_rel %"),
)
_KEYS = ("t_rel_percent", "r_rel_deg_per_100m", "n_segments", "covered_m", "ate_rmse_m", "rpe_mean_m")
_DECIMALS = (2, 3, 0, 0, 3, 4, 2, 2)


def format_table(metrics: Figures) -> Table:
    """Lay out the result of :func:`metric_slam.evaluation.evaluate` as a rich table, one row an alignment."""
    headline = metrics["headline"]["alignment"]
    table = Table(title=_title(metrics), caption=_caption(metrics), caption_justify="left", title_justify="left")
    table.add_column("alignment")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for name, label in ROWS.items():
        figures = metrics["kitti"]["alignments"][name]
        short = metrics["short_segments"]["alignments"][name]["per_length_m"] or {}
        values = [figures[key] for key in _KEYS]
        values += [short.get(length, {}).get("t_rel_percent") for length in ("25", "50")]
        cells = [format_number(value, digits) for value, digits in zip(values, _DECIMALS, strict=True)]
        table.add_row(label, *cells, style="bold" if name == headline else "")
    return table


def format_number(value: float | None, decimals: int) -> str:
    """Return a number with fixed decimals, a dash for null."""
    return "–" if value is None else f"{value:.{decimals}f}"


def missing_figures(metrics: Figures) -> list[str]:
    """Collect every distinct reason for a null among the figures, in order."""
    reasons: list[str] = []

    def collect(node: object) -> None:
        if isinstance(node, dict):
            reason = node.get("reason")
            if reason and reason not in reasons:
                reasons.append(reason)
            for child in node.values():
                collect(child)

    collect(metrics)
    return reasons


def _title(metrics: Figures) -> str:
    length_m, bridged_m = metrics["path_length_m"]["value"], metrics["path_length_m"]["bridged_m"]
    scale = metrics["fitted_scale"]["value"]
    end_percent = metrics["end_point"]["error_percent"]
    parts = [
        f"{metrics['n_poses_compared']} of {metrics['n_poses']} poses",
        f"true path {format_number(length_m, 1)} m" + (f" ({bridged_m:.1f} m in gaps)" if bridged_m else ""),
        f"fitted scale {format_number(scale, 4)}",
        f"end-point error {format_number(end_percent, 2)} %",
    ]
    return ", ".join(parts)


def _caption(metrics: Figures) -> str:
    unknown = "" if metrics["scale_known"] else " (scale unknown: only scale-fitted figures are in metres)"
    lines = [
        "bold: headline" + unknown,
        "t_rel, r_rel: mean over n KITTI segments of 100..800 m, start every 10 poses; covers: distinct metres in them",
        "25 m, 50 m: the same over short segments; ATE: RMSE of positions; RPE: mean over neighbouring poses",
        "fitted scale: Sim(3) Umeyama, truth = c R estimate + t",
    ]
    if metrics["headline"]["left_out"]:
        lines.append(f"left out: {metrics['headline']['left_out']}")
    if "association" in metrics:
        lines.append(f"pairing: {metrics['association']}")
    shown = {key: value for key, value in metrics.items() if not key.startswith(("ate", "rpe"))}  # evo's have no column
    return "\n".join(lines + [f"–  {reason}" for reason in missing_figures(shown)])
