"""Keyframes as plain arrays for a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from metric_slam.checkpointable import StateTree, array_in, tree_in
from metric_slam.disk_store import DiskArray, DiskImage
from metric_slam.geometry.grid_array import on_host
from metric_slam.graph.keyframes import PRIOR_FIELDS, Keyframe, KeyframeStore
from metric_slam.graph.offload import stored_image

Rebuild = Callable[[int], tuple[object, object]]
"""Features and prior state of the frame with this index."""

_NOT_STORED = -1  # offset of a grid of zeros, or of one that is not there
_ABSENT = (_NOT_STORED, 0, 0)
_WEIGHTS_DTYPE = np.dtype(np.float16)


def keyframes_to_state(store: KeyframeStore) -> StateTree:
    """All keyframes; images and grids are named by their place on the disk."""
    put = store.offloader.put
    names = ("image", "inv_depth", "depth_damping", *PRIOR_FIELDS)
    rows: dict[str, list[tuple[int, int, int]]] = {name: [] for name in names}
    for k in store:
        rows["image"].append(_row(stored_image(store.offloader.put_image(k.image))))
        rows["inv_depth"].append(_row(put(k.inv_depth)))
        rows["depth_damping"].append(_ABSENT if k.depth_damping is None else _row(put(k.depth_damping)))
        for field in PRIOR_FIELDS:
            stored = store.offloaded(getattr(k, field))
            rows[field].append(_row(stored) if isinstance(stored, DiskArray) else _ABSENT)
    state: dict[str, np.ndarray | StateTree] = {
        name: np.array(row, np.int64).reshape(-1, 3) for name, row in rows.items()
    }
    state["index"] = np.array([k.index for k in store], np.int64)
    state["time_s"] = np.array([k.time_s for k in store])
    state["pose"] = store.poses(0, len(store))
    state["prior_log_scale"] = np.array([k.prior_log_scale for k in store])
    state["length_scale"] = np.array([k.length_scale for k in store])
    state["submap"] = np.array([k.submap for k in store], np.int64)
    state["evicted"] = np.array(store.evicted)
    for field in ("moving", "ignored"):
        masks = {i: mask for i, k in enumerate(store) if (mask := getattr(k, field)) is not None and mask.any()}
        state[field] = {
            "positions": np.array(list(masks), np.int64),
            "masks": np.array(list(masks.values()), np.uint8),
        }
    return state | {"upsample": _upsample_state(store)}


def _upsample_state(store: KeyframeStore) -> StateTree:
    """Weights in memory go into the state, not to the append-only disk: they change until they are evicted."""
    everywhere = [k.upsample_weights for k in store]
    recent = {i: on_host(w) for i, w in enumerate(everywhere) if w is not None and not isinstance(w, DiskArray)}
    rows = [_row(weights) if isinstance(weights, DiskArray) else _ABSENT for weights in everywhere]
    return {
        "rows": np.array(rows, np.int64).reshape(-1, 3),
        "recent_positions": np.array(list(recent), np.int64),
        "recent": np.array(list(recent.values()), _WEIGHTS_DTYPE),
    }


def keyframes_from_state(store: KeyframeStore, state: StateTree, rebuild: Rebuild) -> None:
    """Fill an empty store with what :func:`keyframes_to_state` returned."""
    assert not len(store), len(store)
    store.evicted = int(array_in(state, "evicted"))
    for position, index in enumerate(array_in(state, "index").tolist()):
        store.append(_keyframe(store, state, position, index, rebuild))
    for field, dtype in (("moving", np.uint8), ("ignored", bool)):
        tree = tree_in(state, field)
        for position, mask in zip(array_in(tree, "positions").tolist(), array_in(tree, "masks"), strict=True):
            store.replace(position, **{field: mask.astype(dtype)})
    _restore_upsample(store, tree_in(state, "upsample"))


def _keyframe(store: KeyframeStore, state: StateTree, position: int, index: int, rebuild: Rebuild) -> Keyframe:
    evicted = position < store.evicted
    image_row = array_in(state, "image")[position]
    image = DiskImage(_found(store, image_row, "|u1", (int(image_row[1]),)))
    pixels = None if evicted else image.load()
    if pixels is not None:
        store.offloader.note_image(pixels, image)
    inv_depth = _loaded(store, array_in(state, "inv_depth")[position])
    assert inv_depth is not None
    features, prior_state = (None, None) if evicted else rebuild(index)
    prior = {field: _prior_grid(store, array_in(state, field)[position], evicted) for field in PRIOR_FIELDS}
    return Keyframe(
        index=index,
        time_s=float(array_in(state, "time_s")[position]),
        image=image if pixels is None else pixels,
        features=features,
        prior_state=prior_state,
        pose=array_in(state, "pose")[position].copy(),
        inv_depth=inv_depth,
        prior_log_scale=float(array_in(state, "prior_log_scale")[position]),
        length_scale=float(array_in(state, "length_scale")[position]),
        submap=int(array_in(state, "submap")[position]),
        depth_damping=_loaded(store, array_in(state, "depth_damping")[position]),
        prior_depth_m=prior["prior_depth_m"],
        prior_confidence=prior["prior_confidence"],
        prior_weight=prior["prior_weight"],
        road_depth_m=prior["road_depth_m"],
    )


def _prior_grid(store: KeyframeStore, row: np.ndarray, evicted: bool) -> np.ndarray | DiskArray:
    if row[0] == _NOT_STORED:
        return store.zeros
    if evicted:
        return _found(store, row, store.zeros.dtype.str, store.zeros.shape)
    loaded = _loaded(store, row)
    assert loaded is not None
    return loaded


def _loaded(store: KeyframeStore, row: np.ndarray) -> np.ndarray | None:
    """A grid in memory whose place on the disk stays known; None where none was stored."""
    if row[0] == _NOT_STORED:
        return None
    where = _found(store, row, store.zeros.dtype.str, store.zeros.shape)
    array = where.load()
    store.offloader.note(array, where)
    return array


def _restore_upsample(store: KeyframeStore, state: StateTree) -> None:
    h, w = store.zeros.shape
    for position, row in enumerate(array_in(state, "rows")):
        if row[0] != _NOT_STORED:
            shape = (int(row[1]) // (h * w * _WEIGHTS_DTYPE.itemsize), h, w)
            store.replace(position, upsample_weights=_found(store, row, "<f2", shape))
    recent = zip(array_in(state, "recent_positions").tolist(), array_in(state, "recent"), strict=True)
    for position, weights in recent:
        store.replace(position, upsample_weights=weights.copy())


def _found(store: KeyframeStore, row: np.ndarray, dtype: str, shape: tuple[int, ...]) -> DiskArray:
    return DiskArray(store.offloader.disk, int(row[0]), dtype, shape, int(row[2]))


def _row(stored: DiskArray) -> tuple[int, int, int]:
    return stored.offset, stored.byte_count, stored.checksum
