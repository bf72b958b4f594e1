"""Errors of trajectories and depth maps, each with its protocol; called by run, report, cli and benchmarks."""

from metric_slam.evaluation.metrics import evaluate, evaluate_files, write_metrics
from metric_slam.evaluation.table import format_table

__all__ = ["evaluate", "evaluate_files", "format_table", "write_metrics"]
