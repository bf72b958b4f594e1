"""Keyframes: frozen records of their estimate, and the store that replaces them.

Only :class:`metric_slam.graph.slam_map.SlamMap` writes to the store. Arrays of a keyframe are frozen when they are
stored, because copies on the disk and on a device are recognised by the identity of the array.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from metric_slam.depth.base import CurrentDepth
from metric_slam.disk_store import DiskArray, DiskImage
from metric_slam.errors import InputError
from metric_slam.geometry import lie
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.geometry.grid_array import Array, on_host
from metric_slam.graph.offload import Offloader

PRIOR_FIELDS = ("prior_depth_m", "prior_confidence", "prior_weight", "road_depth_m")
"""Grids [h, w] that leave memory with the window and are read again for global problems."""


@dataclass(frozen=True)
class Keyframe:
    """One keyframe and its present estimate; immutable, the store replaces it."""

    index: int
    """Frame index in the data set."""

    time_s: float
    image: np.ndarray | DiskImage
    """uint8 [H, W, 3] RGB at working resolution."""

    features: object
    """Of the correspondence model, opaque; None once the window has passed."""

    prior_state: object
    """Of the depth prior, opaque; None once the window has passed."""

    pose: np.ndarray
    """T_cam_world as the solver takes it: t xyz, q xyzw, float64 [7]; elsewhere :attr:`T_cam_world`."""

    inv_depth: np.ndarray
    """1/m, float64 [h, w]."""

    prior_depth_m: np.ndarray | DiskArray
    """Depth of the prior that bundle adjustment uses, float64 [h, w]; 0 where there is none."""

    prior_confidence: np.ndarray | DiskArray
    """0..1, float64 [h, w]."""

    prior_weight: np.ndarray | DiskArray
    """Confidence over the variance of the relative error, float64 [h, w]."""

    road_depth_m: np.ndarray | DiskArray
    """Depth of the measured road plane, float64 [h, w], 0 where there is none. Bundle adjustment leaves it out, because
    the flow of a single cell of asphalt is easily wrong; depth refinement, map and report use it."""

    prior_log_scale: float = 0.0
    """s_k, the bounded log-scale of the prior."""

    submap: int = 0
    """Number of the submap; a new one begins where tracking was lost."""

    length_scale: float = 1.0
    """Product of all factors by which the lengths around this keyframe were rescaled since it was added."""

    depth_damping: Array | None = None
    """Damping of the inverse depths from a recurrent model, float64 [h, w]; on the model's device until the window has
    passed, because the next update replaces it."""

    moving: np.ndarray | None = None
    """For how many more keyframes each cell counts as moving with the camera, uint8 [h, w]; None: no cell does."""

    ignored: np.ndarray | None = None
    """Cells that show the vehicle itself or a logo, bool [h, w]; None: no cell does."""

    upsample_weights: Array | DiskArray | None = None
    """Weights of a recurrent model that spread inverse depths over the pixels, float16 [channels, h, w]."""

    @property
    def T_cam_world(self) -> np.ndarray:
        """Pose as a matrix, float64 [4, 4]."""
        return lie.pose_vec_to_matrix(self.pose)

    @property
    def moving_cells(self) -> np.ndarray:
        """``moving`` [h, w], zeros where it is None."""
        return np.zeros(self.inv_depth.shape, np.uint8) if self.moving is None else self.moving

    @property
    def current_depth(self) -> CurrentDepth:
        """The estimate that a prior may look at."""
        return CurrentDepth(self.inv_depth, self.moving_cells > 0)

    @property
    def median_inv_depth(self) -> float:
        """Median inverse depth of all cells, 1/m."""
        return float(np.median(self.inv_depth))


class KeyframeStore:
    """An ordered, growing list of keyframes that share one working camera; ``offloader`` takes what leaves memory."""

    def __init__(self, camera: PinholeCamera, offloader: Offloader) -> None:
        self.camera = camera
        self.offloader = offloader
        self.evicted = 0
        """Number of leading keyframes whose features are gone and whose maps lie on the disk."""

        grid = camera.grid()
        self.zeros = np.zeros((grid.height, grid.width))
        self.zeros.setflags(write=False)
        self._keyframes: list[Keyframe] = []

    def __len__(self) -> int:
        return len(self._keyframes)

    def __getitem__(self, position: int) -> Keyframe:
        return self._keyframes[position]

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._keyframes)

    def append(self, keyframe: Keyframe) -> int:
        """Add a keyframe and return its position. Raises InputError for grids of another size."""
        if keyframe.inv_depth.shape != self.zeros.shape:
            raise InputError(
                f"keyframe {keyframe.index}: inv_depth has shape {keyframe.inv_depth.shape}, "
                f"the grid of the working camera is {self.zeros.shape}"
            )
        self._keyframes.append(frozen(keyframe))
        return len(self._keyframes) - 1

    def replace(self, position: int, **changes: object) -> None:
        """Exchange some fields of a keyframe."""
        self._keyframes[position] = frozen(replace(self._keyframes[position], **changes))  # type: ignore[arg-type]

    def remove(self, position: int) -> None:
        """Remove a keyframe of the window; those behind it move up by one."""
        assert self.evicted <= position < len(self._keyframes), (self.evicted, position, len(self._keyframes))
        del self._keyframes[position]

    def has_prior(self, position: int) -> bool:
        """True if bundle adjustment gives the prior of this keyframe any weight."""
        weight = self._keyframes[position].prior_weight
        return isinstance(weight, DiskArray) or bool(weight.any())  # zeros are not offloaded

    def poses(self, begin: int, end: int) -> np.ndarray:
        """T_cam_world vectors of keyframes begin..end-1, float64 [N, 7]; a copy."""
        return np.array([k.pose for k in self._keyframes[begin:end]]).reshape(-1, 7)

    def evict_before(self, position: int) -> None:
        """Drop features and prior state of keyframes before ``position`` and offload their images and grids."""
        while self.evicted < min(position, len(self._keyframes)):
            keyframe, offloader = self._keyframes[self.evicted], self.offloader
            weights, damping = keyframe.upsample_weights, keyframe.depth_damping
            self.replace(
                self.evicted,
                features=None,
                prior_state=None,
                moving=keyframe.moving if keyframe.moving_cells.any() else None,  # a network may match it again
                image=offloader.put_image(keyframe.image),
                upsample_weights=None if weights is None else offloader.put(weights),
                depth_damping=None if damping is None else on_host(damping),
                **{field: self.offloaded(getattr(keyframe, field)) for field in PRIOR_FIELDS},
            )
            self.evicted += 1

    def offloaded(self, array: np.ndarray | DiskArray) -> np.ndarray | DiskArray:
        """A grid on the disk; zeros stay in memory, all keyframes share them."""
        if isinstance(array, np.ndarray) and not array.any():
            return self.zeros
        return self.offloader.put(array)


def frozen(keyframe: Keyframe) -> Keyframe:
    """The keyframe with all its numpy arrays write-protected."""
    for value in vars(keyframe).values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return keyframe
