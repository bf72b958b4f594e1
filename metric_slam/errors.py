"""Errors that a user can cause or resolve; the command line prints their one line and exits with code 2.

Mistakes of the programmer are assertions with the offending value. Numerical failures are not exceptions: a solve
reports them as a status and leaves the state unchanged.
"""


class MetricSlamError(Exception):
    """Base of all errors of the package. The message is one line: what is wrong, where, and the remedy."""


class InputError(MetricSlamError, ValueError):
    """An argument given to the library has the wrong type, shape, range or unit."""


class DatasetError(MetricSlamError):
    """A sequence, its images or its side files are missing, empty or inconsistent."""


class CalibrationError(MetricSlamError):
    """The calibration is missing, has the wrong number of values or describes an impossible camera."""


class ImageError(MetricSlamError):
    """An image cannot be decoded, or its size differs from that of the calibration."""


class ConfigError(MetricSlamError):
    """An option or a configuration key is unknown, out of range, or contradicts another one."""


class OutputError(MetricSlamError):
    """Results cannot be written, or would overwrite existing ones."""


class ResumeError(MetricSlamError):
    """A run cannot be resumed: no checkpoint, another sequence, version or configuration, or damaged files."""


class WeightsError(MetricSlamError):
    """Weights are missing, damaged, of another network, or cannot be downloaded."""


class MissingDependencyError(MetricSlamError):
    """An optional package, a system library or a compiled module is missing."""


class EvaluationError(MetricSlamError):
    """Two trajectories, or two depth maps, cannot be compared."""
