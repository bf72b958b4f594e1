"""Errors that a user can cause or mend; the command line prints their one line and exits with code 2.

Programmer mistakes are assertions with the offending value. Numerical failures are no errors at all: they come back
as a status (see :class:`metric_slam.optimization.bundle_adjustment.BaReport`) and leave the state unchanged.
"""


class MetricSlamError(Exception):
    """Base of everything the user is told about. The message is one line: what is wrong, which file, the remedy."""


class InputError(MetricSlamError, ValueError):
    """An argument given to the library has the wrong type, shape, range or unit."""


class DatasetError(MetricSlamError):
    """A sequence, its images or its side files are missing, empty or do not fit together."""


class CalibrationError(MetricSlamError):
    """The calibration is missing, has the wrong count of numbers or describes an impossible camera."""


class ImageError(MetricSlamError):
    """An image cannot be decoded or has another size than the calibration says."""


class ConfigError(MetricSlamError):
    """An option or a configuration key is unknown, out of range, or contradicts another one."""


class OutputError(MetricSlamError):
    """Results cannot be written, or would overwrite existing ones."""


class ResumeError(MetricSlamError):
    """A run cannot be continued: nothing to continue, another sequence, version or configuration, damaged files."""


class WeightsError(MetricSlamError):
    """Weights of a network are missing, damaged, of another network, or cannot be downloaded."""


class MissingDependencyError(MetricSlamError):
    """An optional package, a system library or the compiled extension is absent."""


class EvaluationError(MetricSlamError):
    """Two trajectories, or two depth maps, cannot be compared."""
