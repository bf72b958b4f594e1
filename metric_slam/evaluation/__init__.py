"""How good a trajectory is: KITTI drift, ATE and RPE, fitted scale; a number never travels without its protocol."""

from metric_slam.evaluation.metrics import evaluate, evaluate_files, write_metrics
from metric_slam.evaluation.table import format_table

__all__ = ["evaluate", "evaluate_files", "format_table", "write_metrics"]
