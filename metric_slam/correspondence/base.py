"""The protocol of dense matching: where does every grid cell of one image lie in another, and how sure is that?

Where bundle adjustment runs on a device, a recurrent model is asked and answers there: fields that are arrays are torch
tensors then, targets and confidences in single precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from metric_slam.errors import InputError
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.grid_array import Array, on_host

_AXES = 2  # no grid is that narrow


@dataclass(frozen=True)
class Correspondence:
    """Targets of the cells of one directed edge, on the 1/8 grid."""

    target: Array
    """Where each source cell lies in the target image, grid cells (x, y), float64 [h, w, 2]."""

    confidence: Array
    """0..1 per cell, float64 [h, w], or [h, w, 2] of x and of y; 0 where the match must not be used."""

    depth_damping: Array | None = None
    """Damping of the source's inverse depths, float64 [h, w], from models that predict it."""

    upsample_weights: Array | None = None
    """With what :meth:`RecurrentModel.upsampled` spreads the source's inverse depths over the pixels, float16
    [channels, h, w], from models that predict it; edges of one source share the array."""


class HostMatches(NamedTuple):
    """Matches in memory."""

    target: np.ndarray
    """Grid cells (x, y), [h, w, 2]."""

    confidence: np.ndarray
    """0..1, [h, w] or [h, w, 2]."""


def in_memory(match: Correspondence) -> HostMatches:
    """Target and confidence in memory; not copied if they are there."""
    return HostMatches(on_host(match.target), on_host(match.confidence))


@dataclass(frozen=True)
class EdgeQuery:
    """One directed edge to be matched."""

    source: Any
    """Features of the source image, as the model's ``encode`` returned them."""

    target: Any
    """Features of the target image."""

    predicted: Array | None = None
    """Present reprojection of the source cells, grid cells, float64 [h, w, 2]: the model refines it. None: unknown.
    Only a recurrent model takes it on its device, and then answers there."""

    neighbours: bool = True
    """True if the two keyframes are consecutive. Their flow determines the scale and is computed at the finest level;
    wider pairs steady the rotation, for which coarser flow is enough."""

    source_ignored: np.ndarray | None = None
    """Cells of the source that must not be matched (the vehicle itself), bool [h, w]; None: no cell."""

    target_ignored: np.ndarray | None = None
    """Cells of the target that must not be matched with, bool [h, w]."""


class CorrespondenceModel(Protocol):
    """Dense matching; features are opaque to everyone but the model itself."""

    name: str

    recurrent: bool
    """Is it a :class:`RecurrentModel` as well, which refines its edges together with the bundle adjustment?"""

    def encode(self, image: np.ndarray, camera: PinholeCamera) -> Any:
        """Features of one working-resolution image, uint8 [H, W, 3] RGB."""
        ...

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """Match directed edges, in the given order. An edge and its reverse in one call may share work."""
        ...


@dataclass(frozen=True)
class EdgeMemory:
    """What a recurrent model carries along with an edge from one update to the next."""

    hidden: Any
    """State of the model; opaque."""

    target: Array
    """Where the latest update put the cells, grid cells, float32 [h, w, 2]; at the start the present reprojection."""


@runtime_checkable
class RecurrentModel(CorrespondenceModel, Protocol):
    """Dense matching in small steps: after each one the bundle adjustment says how far it agrees."""

    def begin(self, query: EdgeQuery) -> EdgeMemory:
        """The memory of a new edge: as the source's image has it, with ``query.predicted`` as its last target."""
        ...

    def update(self, queries: list[EdgeQuery], memories: list[EdgeMemory]) -> list[tuple[Correspondence, EdgeMemory]]:
        """One step for all edges; edges from the same source agree on its depth damping. Every ``predicted`` is set."""
        ...

    def upsampled(self, inv_depth: np.ndarray, upsample_weights: np.ndarray) -> np.ndarray:
        """Inverse depth of every pixel, float32 [H, W], from that of the cells [h, w] and what the model said of it."""
        ...

    def motion_px(self, source: Any, target: Any) -> float:
        """Mean length of the flow that one step sees between two images, pixels at working resolution."""
        ...

    def memory_to_array(self, memory: EdgeMemory) -> np.ndarray:
        """The hidden state as a plain array, for a checkpoint."""
        ...

    def memory_from_array(self, hidden: np.ndarray, target: np.ndarray) -> EdgeMemory:
        """The memory whose hidden state and target these are."""
        ...


def confidence_per_cell(confidence: Array) -> Array:
    """[h, w] of [h, w] or [h, w, 2] (or with leading axes ``[..., h, w, 2]``): the lesser of the two axes."""
    if confidence.shape[-1] != _AXES:
        return confidence
    return confidence.amin(dim=-1) if isinstance(confidence, Tensor) else confidence.min(axis=-1)


def confidence_per_axis(confidence: Array) -> Array:
    """[..., h, w, 2] of [..., h, w] or [..., h, w, 2]."""
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
    finite = np.isfinite(target).all(axis=-1)
    if not finite.all() or not np.isfinite(confidence).all():
        usable = finite if confidence.ndim == 2 else finite[..., None]
        confidence = np.where(usable & np.isfinite(confidence), confidence, 0.0)
        target = np.where(finite[..., None], target, 0.0)
    return replace(match, target=target, confidence=confidence)


def masked_by_ignored(queries: list[EdgeQuery], matches: list[Correspondence]) -> list[Correspondence]:
    """The matches without those of ignored cells, and without those that lead into ignored cells."""
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
    """Target and confidence in single precision, float32 [h, w, 3], or [h, w, 4] with a confidence for each axis."""
    confidence = match.confidence if match.confidence.ndim == 3 else match.confidence[..., None]
    if isinstance(confidence, Tensor):
        return torch.cat([match.target, confidence], dim=-1).float()
    return np.concatenate([match.target, confidence], axis=-1).astype(np.float32)


def unpacked(matches: Array) -> Correspondence:
    """The inverse of :func:`packed`."""
    confidence = matches[..., 2] if matches.shape[-1] == 3 else matches[..., 2:]
    if isinstance(matches, Tensor):
        return Correspondence(matches[..., :2], confidence)
    return Correspondence(matches[..., :2].astype(np.float64), confidence.astype(np.float64))
