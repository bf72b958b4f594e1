"""What a finished run hands out of every keyframe: its estimate, how sure that is, and who confirms it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import numpy as np

from metric_slam.correspondence.base import CorrespondenceModel, RecurrentModel
from metric_slam.disk_store import DiskArray
from metric_slam.errors import OutputError
from metric_slam.geometry import lie
from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.keyframes import KeyframeStore
from metric_slam.optimization.cuda.arrays import on_host
from metric_slam.reconstruction.consistent_views import consistent_views
from metric_slam.result import KeyframeResult

log = logging.getLogger(__name__)


def keyframe_results(
    store: KeyframeStore,
    graph: FactorGraph,
    model: CorrespondenceModel,
    timed: Callable[[str], AbstractContextManager[None]],
) -> list[KeyframeResult]:
    """One result for each keyframe of the store, in its order; ``timed(stage)`` clocks what takes long."""
    count = len(store)
    T_world_cam = lie.inverse(lie.pose_vec_to_matrix(store.poses(0, count)))
    confidence = [graph.confidence_of(position).astype(np.float32) for position in range(count)]
    with timed("view_consistency"):
        confirmed = consistent_views(store, graph, confidence)
    with timed("dense_depth"):
        dense = _dense_inv_depths(store, model)
    return [
        _result(store, position, T_world_cam[position], confidence[position], confirmed[position], dense[position])
        for position in range(count)
    ]


def _dense_inv_depths(store: KeyframeStore, model: CorrespondenceModel) -> list[DiskArray | None]:
    """Of every keyframe the inverse depth of all pixels where the model says it; they lie on the disk."""
    found: list[DiskArray | None] = [None] * len(store)
    try:
        for position, keyframe in enumerate(store):
            if keyframe.upsample_weights is not None:
                weights = on_host(keyframe.upsample_weights)
                found[position] = store.disk.put(cast(RecurrentModel, model).upsampled(keyframe.inv_depth, weights))
    except OutputError as error:  # the map can do without
        log.warning("no dense depths of the network from keyframe %d on: %s", position, error)
    return found


def _result(
    store: KeyframeStore,
    position: int,
    T_world_cam: np.ndarray,
    confidence: np.ndarray,
    confirmed: np.ndarray | None,
    dense_inv_depth: DiskArray | None,
) -> KeyframeResult:
    keyframe = store[position]
    prior_depth_m, prior_confidence = np.asarray(keyframe.prior_depth_m), np.asarray(keyframe.prior_confidence)
    has_prior = bool(prior_confidence.any())
    return KeyframeResult(
        index=keyframe.index,
        time_s=keyframe.time_s,
        T_world_cam=T_world_cam,
        camera=store.camera,
        image=keyframe.image,
        inv_depth=keyframe.inv_depth.astype(np.float32),
        confidence=confidence,
        prior_depth_m=prior_depth_m.astype(np.float32) if has_prior else None,
        prior_confidence=prior_confidence.astype(np.float32) if has_prior else None,
        prior_log_scale=keyframe.prior_log_scale,
        confirmed=confirmed,
        dense_inv_depth=dense_inv_depth,
    )
