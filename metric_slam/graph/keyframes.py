"""The keyframe store: the only owner of poses and inverse depths. Everyone else gets copies and hands results back.

What a keyframe needs for good (pose, inverse depth on the 1/8 grid) stays in memory; features go when the sliding
window has passed, image and prior go to the disk then and are read again when the map is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from metric_slam.depth.base import CurrentDepth
from metric_slam.disk_store import DiskArray, DiskImage, DiskStore
from metric_slam.geometry import lie
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.optimization.cuda.arrays import Array, on_host

_PRIOR_FIELDS = ("prior_depth_m", "prior_confidence", "prior_weight")
_NOT_STORED = -1  # of an array of zeros
_NOTHING = (_NOT_STORED, 0, 0)


@dataclass
class Keyframe:
    """One keyframe and its present estimate."""

    index: int
    """Frame index in the data set."""

    time_s: float
    image: np.ndarray | DiskImage
    """uint8 [H, W, 3] RGB at working resolution."""

    features: Any
    """Of the correspondence model; opaque; None once the window has passed."""

    prior_state: Any
    """Of the depth prior; opaque; None once the window has passed."""

    pose: np.ndarray
    """T_cam_world: t xyz, q xyzw, float64 [7]."""

    inv_depth: np.ndarray
    """1/m, float64 [h, w]; replaced, never written into."""

    prior_depth_m: np.ndarray | DiskArray
    """float64 [h, w], 0 where the prior says nothing."""

    prior_confidence: np.ndarray | DiskArray
    """0..1, float64 [h, w]."""

    prior_weight: np.ndarray | DiskArray
    """What the bundle adjustment gives it: confidence over variance, float64 [h, w]; 0 for depth that is only shown."""

    prior_log_scale: float = 0.0
    """s_k."""

    submap: int = 0
    """Number of the piece of the video that it belongs to: a new one begins where tracking was lost."""

    depth_damping: Array | None = None
    """Of inverse depths, from a recurrent model, float64 [h, w]; replaced, never written into. It stays on the device
    where the model said it until the window has passed: the next update may well replace it."""

    moving: np.ndarray | None = None
    """For how many keyframes more each cell is believed to move with the camera, uint8 [h, w]; None: none does."""

    upsample_weights: Array | DiskArray | None = None
    """How a recurrent model would spread the inverse depths over the pixels, float16 [channels, h, w]; on the disk once
    the window has passed, and until then on the device where the model said it."""

    stored_image: DiskImage | None = None
    stored_inv_depth: tuple[np.ndarray, DiskArray] | None = None
    """The array that was stored, and where: out of date when ``inv_depth`` is another one."""

    stored_depth_damping: tuple[Array, DiskArray] | None = None
    """The same of ``depth_damping``."""

    @property
    def moving_cells(self) -> np.ndarray:
        """``moving``, zeros where it is None."""
        return np.zeros(self.inv_depth.shape, np.uint8) if self.moving is None else self.moving

    @property
    def current_depth(self) -> CurrentDepth:
        """What matching says about it now; a snapshot, for arrays are replaced and not written into."""
        return CurrentDepth(self.inv_depth, self.moving_cells > 0)


class KeyframeStore:
    """An ordered, growing list of keyframes that share one working camera; ``disk`` takes what leaves memory."""

    def __init__(self, camera: PinholeCamera, disk: DiskStore | None = None) -> None:
        self.camera = camera
        self.disk = DiskStore() if disk is None else disk
        self._keyframes: list[Keyframe] = []
        self._evicted = 0
        grid = camera.grid()
        self._zeros = np.zeros((grid.height, grid.width))
        self._zeros.setflags(write=False)

    def __len__(self) -> int:
        return len(self._keyframes)

    def __getitem__(self, position: int) -> Keyframe:
        return self._keyframes[position]

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._keyframes)

    def append(self, keyframe: Keyframe) -> int:
        """Adds a keyframe and returns its position."""
        assert keyframe.inv_depth.shape == self._zeros.shape, keyframe.inv_depth.shape
        self._keyframes.append(keyframe)
        return len(self._keyframes) - 1

    def remove(self, position: int) -> Keyframe:
        """Takes a keyframe of the window out; those behind it move up by one."""
        assert self._evicted <= position < len(self._keyframes), (self._evicted, position, len(self._keyframes))
        return self._keyframes.pop(position)

    def image(self, position: int) -> np.ndarray:
        """uint8 [H, W, 3] RGB, from the disk if need be."""
        image = self._keyframes[position].image
        return image.load() if isinstance(image, DiskImage) else image

    def set_shown_prior(self, position: int, depth_m: np.ndarray, confidence: np.ndarray) -> None:
        """Notes a prior depth [h, w] that maps and reports use, and the bundle adjustment does not."""
        self._keyframes[position].prior_depth_m = depth_m
        self._keyframes[position].prior_confidence = confidence

    def set_upsample_weights(self, position: int, weights: Array) -> None:
        """New ones of a keyframe; on the disk, where old ones stay as well, if its window has passed."""
        evicted = position < self._evicted
        self._keyframes[position].upsample_weights = self.disk.put(on_host(weights)) if evicted else weights

    def has_prior(self, position: int) -> bool:
        """Does the bundle adjustment give the prior of this keyframe any weight?"""
        weight = self._keyframes[position].prior_weight
        return isinstance(weight, DiskArray) or bool(weight.any())  # zeros are not stored

    def poses(self, begin: int, end: int) -> np.ndarray:
        """T_cam_world of keyframes begin..end-1, float64 [N, 7]; a copy."""
        return np.array([k.pose for k in self._keyframes[begin:end]]).reshape(-1, 7)

    def stacked(self, field: str, positions: Sequence[int], cell_step: int = 1) -> np.ndarray:
        """Every ``cell_step``-th cell of one array field of these keyframes, stacked [N, ...]; a copy."""
        step = slice(cell_step // 2, None, cell_step)
        return np.stack([np.asarray(getattr(self._keyframes[i], field))[step, step] for i in positions])

    def update(
        self, positions: Sequence[int], poses: np.ndarray, inv_depth: np.ndarray | None, prior_log_scale: np.ndarray
    ) -> None:
        """Writes results of an optimisation of these keyframes back; ``inv_depth`` None: it stays."""
        for offset, position in enumerate(positions):
            keyframe = self._keyframes[position]
            keyframe.pose = poses[offset].copy()
            keyframe.prior_log_scale = float(prior_log_scale[offset])
            if inv_depth is not None:
                keyframe.inv_depth = inv_depth[offset].copy()

    def evict_before(self, position: int) -> None:
        """Lets go of what only matching and measuring need of keyframes before ``position``: features, prior state;
        image and prior depth go to the disk."""
        while self._evicted < min(position, len(self._keyframes)):
            keyframe = self._keyframes[self._evicted]
            keyframe.features = keyframe.prior_state = None
            keyframe.moving = keyframe.moving if keyframe.moving_cells.any() else None  # a network may match it again
            keyframe.image = self._store_image(keyframe)
            for field in _PRIOR_FIELDS:
                setattr(keyframe, field, self._put_away(getattr(keyframe, field)))
            if not isinstance(keyframe.upsample_weights, DiskArray | None):
                keyframe.upsample_weights = self.disk.put(on_host(keyframe.upsample_weights))
            if isinstance(keyframe.depth_damping, Tensor):
                keyframe.depth_damping = on_host(keyframe.depth_damping)
            self._evicted += 1

    def motion_from_last(self, pose: np.ndarray) -> np.ndarray | None:
        """T_cam_last [4, 4] of a camera at T_cam_world ``pose`` [7] and the last keyframe; None: there is none."""
        if not self._keyframes:
            return None
        return lie.pose_vec_to_matrix(pose) @ lie.inverse(lie.pose_vec_to_matrix(self._keyframes[-1].pose))

    def move(self, positions: Iterable[int], T_new_old: np.ndarray) -> None:
        """Carries keyframes, as one rigid piece, by a motion [4, 4] of the world that they lie in."""
        T_old_new = lie.inverse(T_new_old)
        for position in positions:
            keyframe = self._keyframes[position]
            keyframe.pose = lie.matrix_to_pose_vec(lie.pose_vec_to_matrix(keyframe.pose) @ T_old_new)

    def rescale(self, factor: float, begin: int = 0) -> None:
        """Multiplies every length of the map from keyframe ``begin`` on; the camera of that one stays where it is."""
        T_world_cam = lie.inverse(lie.pose_vec_to_matrix(self.poses(begin, len(self))))
        centres = T_world_cam[:, :3, 3]
        T_world_cam[:, :3, 3] = centres[0] + factor * (centres - centres[0])
        for keyframe, pose in zip(
            self._keyframes[begin:], lie.matrix_to_pose_vec(lie.inverse(T_world_cam)), strict=True
        ):
            keyframe.pose = pose
            keyframe.inv_depth = keyframe.inv_depth / factor

    # ------------------------------------------------------------------ disk

    def _put_away(self, array: np.ndarray | DiskArray) -> np.ndarray | DiskArray:
        if isinstance(array, DiskArray):
            return array
        return self.disk.put(array) if array.any() else self._zeros

    def _store_image(self, keyframe: Keyframe) -> DiskImage:
        if keyframe.stored_image is None:
            keyframe.stored_image = self.disk.put_image(keyframe.image)
        return keyframe.stored_image

    def state(self) -> dict[str, np.ndarray]:
        """Everything as plain arrays for a checkpoint; what is large goes to the disk first."""
        rows = {name: [] for name in ("image", "inv_depth", "depth_damping", *_PRIOR_FIELDS)}
        for keyframe in self._keyframes:
            rows["image"].append(_row(self._store_image(keyframe).encoded))
            if keyframe.stored_inv_depth is None or keyframe.stored_inv_depth[0] is not keyframe.inv_depth:
                keyframe.stored_inv_depth = keyframe.inv_depth, self.disk.put(keyframe.inv_depth)
            rows["inv_depth"].append(_row(keyframe.stored_inv_depth[1]))
            damping = keyframe.depth_damping
            if damping is not None and (
                keyframe.stored_depth_damping is None or keyframe.stored_depth_damping[0] is not damping
            ):
                keyframe.stored_depth_damping = damping, self.disk.put(on_host(damping))
            rows["depth_damping"].append(_NOTHING if damping is None else _row(keyframe.stored_depth_damping[1]))
            for field in _PRIOR_FIELDS:
                stored = self._put_away(getattr(keyframe, field))
                rows[field].append(_row(stored) if isinstance(stored, DiskArray) else _NOTHING)
        state = {name: np.array(row, np.int64).reshape(-1, 3) for name, row in rows.items()}
        state["index"] = np.array([k.index for k in self._keyframes], np.int64)
        state["time_s"] = np.array([k.time_s for k in self._keyframes])
        state["pose"] = self.poses(0, len(self))
        state["prior_log_scale"] = np.array([k.prior_log_scale for k in self._keyframes])
        state["submap"] = np.array([k.submap for k in self._keyframes], np.int64)
        moving = {i: k.moving_cells for i, k in enumerate(self._keyframes) if k.moving_cells.any()}
        state["moving_positions"] = np.array(list(moving), np.int64)
        state["moving"] = np.array(list(moving.values()), np.uint8)
        return state | self._upsample_state() | {"evicted": np.array(self._evicted)}

    def _upsample_state(self) -> dict[str, np.ndarray]:
        """Weights that are still in memory are handed out, not appended to the disk: they change until they retire."""
        everywhere = [k.upsample_weights for k in self._keyframes]
        recent = {i: on_host(w) for i, w in enumerate(everywhere) if not isinstance(w, DiskArray | None)}
        rows = [_row(weights) if isinstance(weights, DiskArray) else _NOTHING for weights in everywhere]
        return {
            "upsample_weights": np.array(rows, np.int64).reshape(-1, 3),
            "upsample_recent": np.array(list(recent), np.int64),
            "upsample_recent_weights": np.array(list(recent.values()), np.float16),
        }

    def _restore_upsample(self, state: Mapping[str, np.ndarray]) -> None:
        h, w = self._zeros.shape
        for keyframe, row in zip(self._keyframes, state["upsample_weights"], strict=True):
            if row[0] != _NOT_STORED:
                shape = (int(row[1]) // (h * w * np.dtype(np.float16).itemsize), h, w)
                keyframe.upsample_weights = self._found(row, "<f2", shape)
        for position, weights in zip(state["upsample_recent"], state["upsample_recent_weights"], strict=True):
            self._keyframes[position].upsample_weights = weights.copy()

    def restore(self, state: Mapping[str, np.ndarray], rebuild: Callable[[int], tuple[Any, Any]]) -> None:
        """Takes over a :meth:`state`; ``rebuild(index)`` gives features and prior state of recent keyframes."""
        assert not self._keyframes, len(self._keyframes)
        self._evicted = int(state["evicted"])
        for i in range(len(state["index"])):
            old, index = i < self._evicted, int(state["index"][i])
            image = DiskImage(self._found(state["image"][i], "|u1", (int(state["image"][i][1]),)))
            inv_depth = self._grid_array(state["inv_depth"][i])
            prior = [
                self._zeros if row[0] == _NOT_STORED else self._grid_array(row)
                for row in (state[field][i] for field in _PRIOR_FIELDS)
            ]
            if not old:
                prior = [np.array(array) for array in prior]
            features, prior_state = (None, None) if old else rebuild(index)
            depth, row = inv_depth.load(), state["depth_damping"][i]
            damping = None if row[0] == _NOT_STORED else self._grid_array(row)
            known = None if damping is None else (damping.load(), damping)
            self._keyframes.append(
                Keyframe(
                    index,
                    float(state["time_s"][i]),
                    image if old else image.load(),
                    features,
                    prior_state,
                    state["pose"][i].copy(),
                    depth,
                    *prior,
                    prior_log_scale=float(state["prior_log_scale"][i]),
                    submap=int(state["submap"][i]),
                    stored_image=image,
                    stored_inv_depth=(depth, inv_depth),
                    depth_damping=None if known is None else known[0],
                    stored_depth_damping=known,
                )
            )
        for position, moving in zip(state["moving_positions"], state["moving"], strict=True):
            self._keyframes[position].moving = moving.copy()
        self._restore_upsample(state)

    def _grid_array(self, row: np.ndarray) -> DiskArray:
        return self._found(row, self._zeros.dtype.str, self._zeros.shape)

    def _found(self, row: np.ndarray, dtype: str, shape: tuple[int, ...]) -> DiskArray:
        return DiskArray(self.disk, int(row[0]), dtype, shape, int(row[2]))


def _row(stored: DiskArray) -> tuple[int, int, int]:
    return stored.offset, stored.byte_count, stored.checksum
