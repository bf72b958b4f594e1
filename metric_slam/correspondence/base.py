"""Protocol of dense matching: the position of every grid cell of one image in another, with a confidence.

Where bundle adjustment runs on a GPU, queries and answers of a recurrent model stay there: fields that are arrays are
torch tensors then, targets and confidences in single precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from metric_slam.errors import InputError
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.geometry.grid_array import Array, on_host

_AXES = 2  # no grid is that narrow

_Features = TypeVar("_Features")


@dataclass(frozen=True)
class Correspondence:
    """Targets of the cells of one directed edge, on the 1/8 grid."""

    target: Array
    """Position of each source cell in the target image, grid cells (x, y), float64 [h, w, 2]."""

    confidence: Array
    """0..1 per cell, float64 [h, w], or [h, w, 2] for x and y; 0 where the match must not be used."""

    depth_damping: Array | None = None
    """Damping of the source's inverse depths, float64 [h, w], from models that predict it."""

    upsample_weights: Array | None = None
    """Weights with which :meth:`RecurrentModel.upsampled` spreads the source's inverse depths over the pixels, float16
    [channels, h, w], from models that predict them; edges of one source share the array."""


class HostMatches(NamedTuple):
    """Matches in memory."""

    target: np.ndarray
    """Grid cells (x, y), [h, w, 2]."""

    confidence: np.ndarray
    """0..1, [h, w] or [h, w, 2]."""


def in_memory(match: Correspondence) -> HostMatches:
    """Return target and confidence in memory; not copied if they are there."""
    return HostMatches(on_host(match.target), on_host(match.confidence))


@dataclass(frozen=True)
class EdgeQuery:
    """A directed edge to be matched."""

    source: object
    """Features of the source image, as the model's ``encode`` returned them."""

    target: object
    """Features of the target image."""

    predicted: Array | None = None
    """Present reprojection of the source cells, grid cells, float64 [h, w, 2], which the model refines; None: unknown.
    Only a recurrent model takes a tensor on its device, and then its answer lies there too."""

    neighbours: bool = True
    """True if the two keyframes are consecutive. Their flow determines the scale and is computed at the finest level;
    wider pairs stabilise the rotation, for which coarser flow is enough."""

    source_ignored: np.ndarray | None = None
    """Cells of the source that must not be matched (the vehicle itself), bool [h, w]; None: no cell."""

    target_ignored: np.ndarray | None = None
    """Cells of the target that must not be matched with, bool [h, w]."""

    def ends(self, kind: type[_Features]) -> tuple[_Features, _Features]:
        """Return source and target as features of type ``kind``. Raises InputError for those of another model."""
        if not isinstance(self.source, kind) or not isinstance(self.target, kind):
            found = f"{type(self.source).__name__} and {type(self.target).__name__}"
            raise InputError(f"source and target are {found}, expected {kind.__name__}: features of the same model")
        return self.source, self.target


class CorrespondenceModel(Protocol):
    """Dense matching; features are opaque to everyone but the model itself."""

    name: str

    recurrent: bool
    """True for a :class:`RecurrentModel`, which refines its edges in alternation with the bundle adjustment."""

    def encode(self, image: np.ndarray, camera: PinholeCamera) -> object:
        """Compute the features of one working-resolution image, uint8 [H, W, 3] RGB."""
        ...

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """Match directed edges, in the given order. An edge and its reverse in one call may share work."""
        ...


@dataclass(frozen=True)
class EdgeMemory:
    """State of an edge between two updates of a recurrent model."""

    hidden: object
    """Hidden state of the model; opaque."""

    target: Array
    """Positions of the cells after the latest update, float32 [h, w, 2], grid cells; at first their reprojection."""


@runtime_checkable
class RecurrentModel(CorrespondenceModel, Protocol):
    """Dense matching in small steps, each followed by bundle adjustment, whose reprojections the next one refines."""

    def begin(self, query: EdgeQuery) -> EdgeMemory:
        """Return the memory of a new edge: the source's first hidden state, with ``query.predicted`` as last target."""
        ...

    def update(self, queries: list[EdgeQuery], memories: list[EdgeMemory]) -> list[tuple[Correspondence, EdgeMemory]]:
        """Refine all edges once; edges with the same source share its depth damping. Every ``predicted`` is set."""
        ...

    def upsampled(self, inv_depth: np.ndarray, upsample_weights: np.ndarray) -> np.ndarray:
        """Return the inverse depth of every pixel, float32 [H, W], from that of the cells [h, w] and their weights."""
        ...

    def motion_px(self, source: object, target: object) -> float:
        """Return the mean length of the flow between two images after one step, pixels at working resolution."""
        ...

    def memory_to_array(self, memory: EdgeMemory) -> np.ndarray:
        """Return the hidden state as a plain array, for a checkpoint."""
        ...

    def memory_from_array(self, hidden: np.ndarray, target: np.ndarray) -> EdgeMemory:
        """Rebuild a memory from its hidden state and target."""
        ...


def confidence_per_cell(confidence: Array) -> Array:
    """Reduce [h, w] or [..., h, w, 2] to one confidence per cell: the lesser of the two axes."""
    if confidence.shape[-1] != _AXES:
        return confidence
    return confidence.amin(dim=-1) if isinstance(confidence, Tensor) else confidence.min(axis=-1)


def confidence_per_axis(confidence: Array) -> Array:
    """Expand [..., h, w] or [..., h, w, 2] to a confidence per axis, [..., h, w, 2]."""
    if confidence.shape[-1] == _AXES:
        return confidence
    if isinstance(confidence, Tensor):
        return confidence[..., None].expand(*confidence.shape, _AXES)
    return np.repeat(confidence[..., None], _AXES, axis=-1)


def checked_matches(model: CorrespondenceModel, queries: list[EdgeQuery]) -> list[Correspondence]:
    """Matches of a model for directed edges, checked, and without those of ignored cells.

    Raises InputError in one line where the model returns other shapes than :class:`Correspondence` says.
    """
    return masked_by_ignored(queries, [_checked(model.name, match) for match in model.track(queries)])


def _checked(name: str, match: Correspondence) -> Correspondence:
    """The match in double precision; cells whose target or confidence is not finite are not used."""
    if isinstance(match.target, Tensor) or isinstance(match.confidence, Tensor):
        return match
    target, confidence = np.asarray(match.target, np.float64), np.asarray(match.confidence, np.float64)
    if target.ndim != 3 or target.shape[-1] != _AXES:
        raise InputError(f"matcher {name}: target has shape {target.shape}, give [h, w, 2] in grid cells (x, y)")
    if confidence.shape not in (target.shape[:2], target.shape):
        raise InputError(
            f"matcher {name}: confidence has shape {confidence.shape} beside target {target.shape}, "
            "give [h, w] or [h, w, 2] in 0..1"
        )
    finite = np.asarray(np.isfinite(target).all(axis=-1))
    if not finite.all() or not np.isfinite(confidence).all():
        usable = finite if confidence.ndim == 2 else finite[..., None]
        confidence = np.where(usable & np.isfinite(confidence), confidence, 0.0)
        target = np.where(finite[..., None], target, 0.0)
    return replace(match, target=target, confidence=confidence)


def masked_by_ignored(queries: list[EdgeQuery], matches: list[Correspondence]) -> list[Correspondence]:
    """Remove the matches of ignored cells, and those that lead into ignored cells."""
    return [
        match if query.source_ignored is None and query.target_ignored is None else _masked(query, match)
        for query, match in zip(queries, matches, strict=True)
    ]


def _masked(query: EdgeQuery, match: Correspondence) -> Correspondence:
    target = on_host(match.target)
    h, w = target.shape[:2]
    keep = np.ones((h, w), bool) if query.source_ignored is None else ~query.source_ignored
    if query.target_ignored is not None:
        finite = np.nan_to_num(target, nan=-1.0, posinf=-1.0, neginf=-1.0)
        u, v = (np.rint(finite[..., k]).astype(int).clip(0, n - 1) for k, n in ((0, w), (1, h)))
        keep = keep & ~query.target_ignored[v, u]
    if match.confidence.ndim == 3:
        keep = keep[..., None]
    if isinstance(match.confidence, Tensor):
        kept: Array = torch.from_numpy(keep).to(match.confidence.device)
    else:
        kept = keep
    return replace(match, confidence=match.confidence * kept)


def packed(match: Correspondence) -> Array:
    """Stack target and confidence in single precision, float32 [h, w, 3], or [h, w, 4] with a confidence per axis."""
    confidence = match.confidence if match.confidence.ndim == 3 else match.confidence[..., None]
    if isinstance(confidence, Tensor) and isinstance(match.target, Tensor):
        return torch.cat([match.target, confidence], dim=-1).float()
    return np.concatenate([on_host(match.target), on_host(confidence)], axis=-1).astype(np.float32)


def unpacked(matches: Array) -> Correspondence:
    """Invert :func:`packed`."""
    channels = 2 if matches.shape[-1] == 3 else slice(2, None)
    if isinstance(matches, Tensor):
        return Correspondence(matches[..., :2], matches[..., channels])
    return Correspondence(matches[..., :2].astype(np.float64), matches[..., channels].astype(np.float64))
