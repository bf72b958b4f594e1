"""How good a trajectory or a depth map is: drift, ATE, RPE, scale; depth errors. Numbers come with their protocol."""

from metric_slam.evaluation.metrics import evaluate, evaluate_files, write_metrics
from metric_slam.evaluation.table import format_table

__all__ = ["evaluate", "evaluate_files", "format_table", "write_metrics"]
