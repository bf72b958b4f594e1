"""The DROID network as a correspondence model: features of images, refinement of edges in small steps.

Tensors stay on the network's device. Results are numpy arrays on the 1/8 grid, or tensors for edges whose reprojections
are tensors on the device, which then does not wait for the host. Edges are refined in batches of bounded size; those
with the same source are never separated, because the network averages over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from metric_slam.config.droid import DroidConfig
from metric_slam.correspondence.base import Correspondence, EdgeMemory, EdgeQuery
from metric_slam.correspondence.droid.correlation import CorrelationOnTheFly
from metric_slam.correspondence.droid.network import default_precision, motion_features, pixel_grid
from metric_slam.correspondence.droid.update import UpdateResult
from metric_slam.correspondence.droid.upsample import upsample_inv_depth
from metric_slam.errors import InputError
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera
from metric_slam.geometry.grid_array import Array, on_host, uploaded

_FAR_CELLS = 1e4  # bound on positions, whose prediction is arbitrary behind the camera; beyond this nothing changes

_LARGEST_LOGIT = 1e4  # half precision ends at 65504; the softmax is the same

_PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Network(Protocol):
    """Interface of the network; shapes as in :class:`metric_slam.correspondence.droid.network.DroidNetwork`."""

    precision: torch.dtype

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features [N, C, h, w] of uint8 RGB images [N, 3, H, W]."""
        ...

    def encode_context(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute initial hidden state and context, [N, C, h, w] each."""
        ...

    def context_gates(self, context: torch.Tensor) -> torch.Tensor:
        """Compute what ``refine`` takes instead of the context."""
        ...

    def refine(
        self,
        hidden: torch.Tensor,
        context: torch.Tensor | None,
        correlation: torch.Tensor,
        motion: torch.Tensor | None = None,
        source: torch.Tensor | None = None,
        *,
        context_gates: torch.Tensor | None = None,
    ) -> UpdateResult:
        """Update E edges once."""
        ...


class Correlation(Protocol):
    """Correlation of the features of E edges."""

    def lookup(self, coords: torch.Tensor) -> torch.Tensor:
        """Read windows around positions [E, h, w, 2]: [E, channels, h, w]."""
        ...


Correlate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Correlation]
"""Features of images [N, C, h, w], sources and targets of edges among them int64 [E] on the host, to the edges'
correlation."""


@dataclass(eq=False)
class DroidFeatures:
    """Features of an image for the network."""

    image: np.ndarray
    """uint8 [H, W, 3] RGB."""

    features: torch.Tensor
    """[C, h, w]."""

    start: tuple[torch.Tensor, torch.Tensor] | None = None
    """First hidden state [C, h, w] and gates of the context [3 C, h, w] of edges with this source; made on demand."""


class DroidCorrespondence:
    """A :class:`metric_slam.correspondence.base.RecurrentModel`; the same calls give the same bits."""

    name = "droid"
    recurrent = True

    def __init__(
        self, network: Network, config: DroidConfig, device: str = "cpu", correlate: Correlate | None = None
    ) -> None:
        self._network, self._config, self._device = network, config, torch.device(device)
        self._correlate: Correlate = CorrelationOnTheFly if correlate is None else correlate
        chosen = _PRECISIONS.get(config.precision)
        network.precision = default_precision(self._device) if chosen is None else chosen

    @torch.inference_mode()
    def encode(self, image: np.ndarray, camera: PinholeCamera) -> DroidFeatures:
        """Compute the features of one image; what only sources need follows on demand."""
        return DroidFeatures(image, self._network.encode(self._batch(image))[0])

    @torch.inference_mode()
    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """Match edges by updates alone, as optical flow: without bundle adjustment in between, and without depths."""
        there = bool(edges) and all(isinstance(edge.predicted, torch.Tensor) for edge in edges)
        memories = [self.begin(self._with_prediction(edge)) for edge in edges]
        found: list[Correspondence] = []
        for _ in range(self._config.iterations):
            queries = [
                EdgeQuery(edge.source, edge.target, memory.target) for edge, memory in zip(edges, memories, strict=True)
            ]
            stepped = self._step(queries, memories, dense=False)
            found, memories = [match for match, _ in stepped], [memory for _, memory in stepped]
        found = [Correspondence(match.target, match.confidence) for match in found]
        return found if there else [_on_host(match) for match in found]

    @torch.inference_mode()
    def begin(self, query: EdgeQuery) -> EdgeMemory:
        """Return the source's first hidden state as the memory of an edge. Raises InputError without ``predicted``."""
        source, _ = query.ends(DroidFeatures)
        return EdgeMemory(self._start(source)[0], _predicted(query))

    @torch.inference_mode()
    def update(self, queries: list[EdgeQuery], memories: list[EdgeMemory]) -> list[tuple[Correspondence, EdgeMemory]]:
        """Update every edge once, ``edges_at_once`` at a time."""
        return self._step(queries, memories, dense=self._config.dense_depth)

    def _step(
        self, queries: list[EdgeQuery], memories: list[EdgeMemory], *, dense: bool
    ) -> list[tuple[Correspondence, EdgeMemory]]:
        found: dict[int, tuple[Correspondence, EdgeMemory]] = {}
        for chunk in by_source(queries, self._config.edges_at_once):
            stepped = self._refined([queries[e] for e in chunk], [memories[e] for e in chunk], dense)
            found |= dict(zip(chunk, stepped, strict=True))
        return [found[e] for e in range(len(queries))]

    @torch.inference_mode()
    def upsampled(self, inv_depth: np.ndarray, upsample_weights: np.ndarray) -> np.ndarray:
        """Return each pixel as a convex combination of the cells around it that lie in the image."""
        cells, weights = (
            torch.from_numpy(np.array(array))[None].to(self._device, torch.float32)
            for array in (inv_depth, upsample_weights)  # copies: stored arrays are read-only, which torch does not know
        )
        return upsample_inv_depth(cells, weights, inside_only=True)[0].cpu().numpy()

    @torch.inference_mode()
    def motion_px(self, source: object, target: object) -> float:
        """Measure the flow of one update that starts at the identity, as DROID-SLAM's motion filter does."""
        first, second = EdgeQuery(source, target).ends(DroidFeatures)
        hidden, gates = self._start(first)
        h, w = hidden.shape[-2:]
        coords = pixel_grid(h, w, device=self._device)[None]
        ends = torch.stack([first.features, second.features]), *torch.arange(2).split(1)
        correlation = self._correlate(*ends).lookup(coords)
        result = self._network.refine(hidden[None], None, correlation, context_gates=gates[None])
        return float(result.delta.norm(dim=-1).mean()) * FEATURE_STRIDE

    def memory_to_array(self, memory: EdgeMemory) -> np.ndarray:
        """Return float16 or float32 [C, h, w], as the network computes; bfloat16, which numpy lacks, as float32."""
        hidden = _hidden(memory)
        return on_host(hidden.float() if hidden.dtype == torch.bfloat16 else hidden)

    def memory_from_array(self, hidden: np.ndarray, target: np.ndarray) -> EdgeMemory:
        """Rebuild a memory on the device."""
        state = torch.from_numpy(hidden.copy()).to(self._device, self._network.precision)
        return EdgeMemory(state, target.astype(np.float32))

    # ------------------------------------------------------------------ private

    def _batch(self, image: np.ndarray) -> torch.Tensor:
        return uploaded(image, self._device).permute(2, 0, 1)[None]

    def _start(self, features: DroidFeatures) -> tuple[torch.Tensor, torch.Tensor]:
        if features.start is None:
            hidden, context = self._network.encode_context(self._batch(features.image))
            hidden = hidden.to(self._network.precision)  # one for every edge: half precision halves the memory
            features.start = hidden[0], self._network.context_gates(context)[0]
        return features.start

    def _with_prediction(self, edge: EdgeQuery) -> EdgeQuery:
        if edge.predicted is not None:
            return EdgeQuery(edge.source, edge.target, uploaded(_bounded(edge.predicted), self._device))
        h, w = edge.ends(DroidFeatures)[0].features.shape[-2:]
        return EdgeQuery(edge.source, edge.target, pixel_grid(h, w, device=self._device))

    def _refined(
        self, queries: Sequence[EdgeQuery], memories: Sequence[EdgeMemory], dense: bool
    ) -> list[tuple[Correspondence, EdgeMemory]]:
        order: dict[int, int] = {}
        rank = [order.setdefault(id(query.source), len(order)) for query in queries]
        coords = self._stacked([_predicted(query) for query in queries])
        last = self._stacked([memory.target for memory in memories])
        grid = pixel_grid(*coords.shape[1:3], device=self._device)
        correlation = self._correlation(queries)
        result = self._network.refine(
            torch.stack([_hidden(memory) for memory in memories]),
            None,
            correlation.lookup(coords),
            motion_features(coords, grid, last),
            torch.tensor(rank),  # on the host, which needs the number of sources
            context_gates=torch.stack([self._start(query.ends(DroidFeatures)[0])[1] for query in queries]),
        )
        on_device = all(isinstance(query.predicted, torch.Tensor) for query in queries)

        def answer(tensor: torch.Tensor, dtype: torch.dtype) -> Array:
            return tensor if on_device else on_host(tensor.to(dtype))

        assert result.depth_damping is not None
        new_targets = (coords + result.delta).float()
        target, remembered = (answer(new_targets, dtype) for dtype in (torch.float64, torch.float32))
        confidence = answer(result.confidence.float(), torch.float64)
        damping = answer(result.depth_damping.double(), torch.float64)
        kept = _kept_weights(result.upsample_weights if dense else None, len(damping))
        weights = [None if source is None else answer(source, source.dtype) for source in kept]
        return [
            (
                Correspondence(target[e], confidence[e], damping[rank[e]], weights[rank[e]]),
                EdgeMemory(result.hidden[e], remembered[e]),
            )
            for e in range(len(queries))
        ]

    def _correlation(self, queries: Sequence[EdgeQuery]) -> Correlation:
        images = {id(end): end for query in queries for end in query.ends(DroidFeatures)}
        place = {key: n for n, key in enumerate(images)}
        source, target = (
            torch.tensor([place[id(end)] for end in ends])
            for ends in ([query.source for query in queries], [query.target for query in queries])
        )
        return self._correlate(torch.stack([image.features for image in images.values()]), source, target)

    def _stacked(self, targets: list[Array]) -> torch.Tensor:
        """Stack targets from host or device, or some from either: those of a checkpoint are arrays."""
        arrays = [target for target in targets if isinstance(target, np.ndarray)]
        if len(arrays) == len(targets):
            return uploaded(np.stack(arrays), self._device)
        return torch.stack([uploaded(target, self._device) for target in targets])


def by_source(queries: Sequence[EdgeQuery], at_once: int) -> list[list[int]]:
    """Group the positions of edges into batches of at most ``at_once``, more only where a single source has more."""
    groups: dict[int, list[int]] = {}
    for e, query in enumerate(queries):
        groups.setdefault(id(query.source), []).append(e)
    chunks: list[list[int]] = []
    for group in groups.values():
        if chunks and len(chunks[-1]) + len(group) <= at_once:
            chunks[-1] += group
        else:
            chunks.append(list(group))
    return chunks


def _kept_weights(logits: torch.Tensor | None, count: int) -> list[torch.Tensor] | list[None]:
    """Upsampling weights of each source [576, h, w], every one an array of its own, evicted on its own."""
    if logits is None:
        return [None] * count
    return [half.clone() for half in logits.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT).half()]


def _hidden(memory: EdgeMemory) -> torch.Tensor:
    """Hidden state of an edge. Raises InputError for the memory of another model."""
    if not isinstance(memory.hidden, torch.Tensor):
        raise InputError(f"memory holds a {type(memory.hidden).__name__}, expected the tensor of the DROID network")
    return memory.hidden


def _predicted(query: EdgeQuery) -> Array:
    """Present reprojection of an edge, finite and in single precision. Raises InputError where there is none."""
    if query.predicted is None:
        raise InputError("the query has no predicted positions: an update starts from the present reprojection")
    return _bounded(query.predicted)


def _bounded(coords: Array) -> Array:
    """Positions, finite and in single precision, as the network takes them."""
    if isinstance(coords, torch.Tensor):
        return coords.nan_to_num(nan=_FAR_CELLS).clamp(-_FAR_CELLS, _FAR_CELLS).float()
    return np.nan_to_num(coords, nan=_FAR_CELLS).clip(-_FAR_CELLS, _FAR_CELLS).astype(np.float32)


def _on_host(match: Correspondence) -> Correspondence:
    """Target and confidence in memory, in double precision."""
    return Correspondence(*(on_host(field).astype(np.float64) for field in (match.target, match.confidence)))
