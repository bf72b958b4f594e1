import enum
from typing import Annotated, overload

import numpy
from numpy.typing import NDArray


@overload
def lookup_volume(volume: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order='C', device='cpu', writable=False)], coords: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, 2), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu')], *, level: int, radius: int) -> None: ...

@overload
def lookup_volume(volume: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None, None), order='C', device='cpu', writable=False)], coords: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None), order='C', device='cpu')], *, level: int, radius: int) -> None: ...

@overload
def lookup_volume_backward(volume: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order='C', device='cpu', writable=False)], coords: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, 2), order='C', device='cpu', writable=False)], grad_out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], grad_volume: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order='C', device='cpu')] | None = None, grad_coords: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, 2), order='C', device='cpu')] | None = None, *, level: int, radius: int) -> None: ...

@overload
def lookup_volume_backward(volume: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None, None), order='C', device='cpu', writable=False)], coords: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2), order='C', device='cpu', writable=False)], grad_out: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], grad_volume: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None, None), order='C', device='cpu')] | None = None, grad_coords: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2), order='C', device='cpu')] | None = None, *, level: int, radius: int) -> None: ...

@overload
def lookup_features(features_source: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], features_target: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], source: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], coords: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, 2), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu')], *, level: int, radius: int) -> None: ...

@overload
def lookup_features(features_source: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], features_target: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], source: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], coords: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None), order='C', device='cpu')], *, level: int, radius: int) -> None: ...

@overload
def lookup_features_backward(features_source: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], features_target: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], source: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], coords: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, 2), order='C', device='cpu', writable=False)], grad_out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], grad_source: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu')] | None = None, grad_target: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order='C', device='cpu')] | None = None, grad_coords: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, 2), order='C', device='cpu')] | None = None, *, level: int, radius: int) -> None: ...

@overload
def lookup_features_backward(features_source: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], features_target: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], source: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], coords: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2), order='C', device='cpu', writable=False)], grad_out: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None), order='C', device='cpu', writable=False)], grad_source: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None), order='C', device='cpu')] | None = None, grad_target: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, None), order='C', device='cpu')] | None = None, grad_coords: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2), order='C', device='cpu')] | None = None, *, level: int, radius: int) -> None: ...

def frame_distance(poses: Annotated[NDArray[numpy.float64], dict(shape=(None, 7), order='C', device='cpu', writable=False)], inv_depth: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order='C', device='cpu', writable=False)], intrinsics: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], source: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], distance: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')], *, translation_weight: float, bidirectional: bool) -> None: ...

def depth_filter(poses: Annotated[NDArray[numpy.float64], dict(shape=(None, 7), order='C', device='cpu', writable=False)], inv_depth: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order='C', device='cpu', writable=False)], intrinsics: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], keyframes: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], source: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], max_depth_error: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], count: Annotated[NDArray[numpy.int32], dict(shape=(None, None, None), order='C', device='cpu')], *, relative: bool = False) -> None: ...

class Loss(enum.Enum):
    NONE = 0

    HUBER = 1

    GEMAN_MCCLURE = 2

    CAUCHY = 3

class PriorMode(enum.Enum):
    NONE = 0

    METRIC = 1

    DROID = 2

class Damping(enum.Enum):
    BEFORE_SCHUR = 0

    AFTER_SCHUR = 1

    EVERY_BLOCK = 2

class Status(enum.Enum):
    CONVERGED = 0

    MAX_ITERATIONS = 1

    NOT_POSITIVE_DEFINITE = 2

    NO_PROGRESS = 3

    NOTHING_TO_DO = 4

class RobustLoss:
    def __init__(self, kind: Loss, width: float = 1.0) -> None: ...

    @property
    def kind(self) -> Loss: ...

    @kind.setter
    def kind(self, arg: Loss, /) -> None: ...

    @property
    def width(self) -> float: ...

    @width.setter
    def width(self, arg: float, /) -> None: ...

    def cost(self, n: float) -> float: ...

    def weight(self, n: float) -> float: ...

class DenseBaOptions:
    def __init__(self) -> None: ...

    @property
    def iterations(self) -> int: ...

    @iterations.setter
    def iterations(self, arg: int, /) -> None: ...

    @property
    def prior_mode(self) -> PriorMode: ...

    @prior_mode.setter
    def prior_mode(self, arg: PriorMode, /) -> None: ...

    @property
    def flow_loss(self) -> RobustLoss: ...

    @flow_loss.setter
    def flow_loss(self, arg: RobustLoss, /) -> None: ...

    @property
    def prior_loss(self) -> RobustLoss: ...

    @prior_loss.setter
    def prior_loss(self, arg: RobustLoss, /) -> None: ...

    @property
    def baseline_loss(self) -> RobustLoss: ...

    @baseline_loss.setter
    def baseline_loss(self, arg: RobustLoss, /) -> None: ...

    @property
    def flow_weight(self) -> float: ...

    @flow_weight.setter
    def flow_weight(self, arg: float, /) -> None: ...

    @property
    def droid_alpha(self) -> float: ...

    @droid_alpha.setter
    def droid_alpha(self, arg: float, /) -> None: ...

    @property
    def scale_sigma(self) -> float: ...

    @scale_sigma.setter
    def scale_sigma(self, arg: float, /) -> None: ...

    @property
    def scale_step_sigma(self) -> float: ...

    @scale_step_sigma.setter
    def scale_step_sigma(self, arg: float, /) -> None: ...

    @property
    def min_inv_depth(self) -> float: ...

    @min_inv_depth.setter
    def min_inv_depth(self, arg: float, /) -> None: ...

    @property
    def max_inv_depth(self) -> float: ...

    @max_inv_depth.setter
    def max_inv_depth(self, arg: float, /) -> None: ...

    @property
    def initial_damping(self) -> float: ...

    @initial_damping.setter
    def initial_damping(self, arg: float, /) -> None: ...

    @property
    def ridge(self) -> float: ...

    @ridge.setter
    def ridge(self, arg: float, /) -> None: ...

    @property
    def min_relative_decrease(self) -> float: ...

    @min_relative_decrease.setter
    def min_relative_decrease(self, arg: float, /) -> None: ...

    @property
    def invalid_residual(self) -> float: ...

    @invalid_residual.setter
    def invalid_residual(self, arg: float, /) -> None: ...

    @property
    def damping(self) -> Damping: ...

    @damping.setter
    def damping(self, arg: Damping, /) -> None: ...

class DenseBaReport:
    @property
    def status(self) -> Status: ...

    @property
    def iterations(self) -> int: ...

    @property
    def trials(self) -> int: ...

    @property
    def cost_initial(self) -> float: ...

    @property
    def cost_final(self) -> float: ...

class DenseBaProblem:
    def __init__(self, *, poses: Annotated[NDArray[numpy.float64], dict(shape=(None, 7), order='C', device='cpu')], inv_depth: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order='C', device='cpu')], scales: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')], intrinsics: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], source: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], flow_target: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2), order='C', device='cpu', writable=False)], confidence: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2), order='C', device='cpu', writable=False)], pose_free: Annotated[NDArray[numpy.bool_], dict(shape=(None,), order='C', device='cpu', writable=False)], depth_free: Annotated[NDArray[numpy.bool_], dict(shape=(None,), order='C', device='cpu', writable=False)], depth_damping: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order='C', device='cpu', writable=False)] | None = None, prior_depth: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order='C', device='cpu', writable=False)] | None = None, prior_weight: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order='C', device='cpu', writable=False)] | None = None, scale_anchor: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, baseline_pair: Annotated[NDArray[numpy.int64], dict(shape=(None, 2), order='C', device='cpu', writable=False)] | None = None, baseline_length: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, baseline_sigma: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, scale_previous: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None) -> None: ...

def solve_dense_ba(problem: DenseBaProblem, options: DenseBaOptions) -> DenseBaReport: ...

def dense_ba_step(problem: DenseBaProblem, options: DenseBaOptions, *, ridge: float, damping: float) -> Status: ...

def dense_ba_cost(problem: DenseBaProblem, options: DenseBaOptions) -> float: ...

def reproject(poses: Annotated[NDArray[numpy.float64], dict(shape=(None, 7), order='C', device='cpu')], inv_depth: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order='C', device='cpu')], intrinsics: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], source: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], coords: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2), order='C', device='cpu')], inv_depth_target: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order='C', device='cpu')], valid: Annotated[NDArray[numpy.bool_], dict(shape=(None, None, None), order='C', device='cpu')]) -> None: ...

def reproject_jacobians(poses: Annotated[NDArray[numpy.float64], dict(shape=(None, 7), order='C', device='cpu')], inv_depth: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None), order='C', device='cpu')], intrinsics: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)], source: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], Ji: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2, 6), order='C', device='cpu')], Jj: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2, 6), order='C', device='cpu')], Jz: Annotated[NDArray[numpy.float64], dict(shape=(None, None, None, 2), order='C', device='cpu')]) -> None: ...

def solve_parts(row: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], column: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], shape: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], values: Annotated[NDArray[numpy.float64], dict(shape=(None, 36), order='C', device='cpu', writable=False)], b: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')]) -> bool: ...

def envelope_solve(A: Annotated[NDArray[numpy.float64], dict(shape=(None, None), order='C', device='cpu', writable=False)], b: Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu')]) -> bool: ...
