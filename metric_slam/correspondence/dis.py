"""Dense matching with OpenCV's DIS optical flow, for machines without a GPU.

DIS (Kroeger et al., *Fast Optical Flow using Dense Inverse Search*, ECCV 2016) runs in both directions; the confidence
comes from the forward-backward check (:mod:`metric_slam.correspondence.forward_backward`). Neighbouring cells share
patches, so their errors are not independent: the bundle adjustment lowers the weight of flow accordingly
(``flow_sigma_px``).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.config.schema import DisConfig
from metric_slam.correspondence.base import Correspondence, EdgeQuery
from metric_slam.correspondence.forward_backward import (
    cell_flow,
    checked_by_return,
    grey_and_texture,
    image_size,
    key_of,
    key_of_reverse,
    landing_px,
    with_reverses,
)
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera
from metric_slam.geometry.grid_array import on_host

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@dataclass(frozen=True, eq=False)
class DisFeatures:
    """Features of an image for DIS."""

    grey: np.ndarray
    """uint8 [H, W]."""

    texture: np.ndarray
    """Root mean square gradient per cell, grey levels per pixel, float32 [h, w]."""


class DisCorrespondence:
    """DIS flow on whole images, sampled at the centres of the grid cells."""

    name = "dis"
    recurrent = False

    def __init__(self, config: DisConfig, threads: int = 2) -> None:
        self._config = config
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="dis")
        # by finest scale and kind of start: after a warm start OpenCV's object starts every later search from that flow
        self._idle: dict[tuple[int, bool], list[cv2.DISOpticalFlow]] = {
            (scale, warm): [] for scale in (config.finest_scale, config.wide_finest_scale) for warm in (False, True)
        }

    def _new_flow(self, finest_scale: int) -> cv2.DISOpticalFlow:
        flow = cv2.DISOpticalFlow.create(_PRESETS[self._config.preset])
        flow.setFinestScale(finest_scale)
        if self._config.patch_stride:
            flow.setPatchStride(self._config.patch_stride)
        return flow

    def encode(self, image: np.ndarray, camera: PinholeCamera) -> DisFeatures:
        """Compute the grey image and its texture per cell."""
        return DisFeatures(*grey_and_texture(image, camera))

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """Match edges by their flow and that of their reverses; an edge and its reverse in one call share both."""
        jobs = {key: self._pool.submit(self._flow, edge) for key, edge in with_reverses(edges).items()}
        flows = {key: job.result() for key, job in jobs.items()}
        return [self._correspondence(edge, flows[key_of(edge)], flows[key_of_reverse(edge)]) for edge in edges]

    def _flow(self, edge: EdgeQuery) -> np.ndarray:
        """Flow from source to target in pixels, float32 [H, W, 2]."""
        source, target = edge.ends(DisFeatures)
        initial = None
        if edge.predicted is not None and self._config.warm_start:
            initial = _grid_to_image_flow(on_host(edge.predicted), image_size(source.grey))
        finest_scale = self._config.finest_scale if edge.neighbours else self._config.wide_finest_scale
        idle = self._idle[finest_scale, initial is not None]
        try:
            maker = idle.pop()  # list.pop is atomic; DIS objects keep scratch memory and are not shared
        except IndexError:
            maker = self._new_flow(finest_scale)
        flow = maker.calc(source.grey, target.grey, initial)  # type: ignore[arg-type]  # None: cold, lacks in the stubs
        idle.append(maker)
        return flow

    def _correspondence(self, edge: EdgeQuery, forward: np.ndarray, backward: np.ndarray) -> Correspondence:
        source, _ = edge.ends(DisFeatures)
        texture = source.texture
        flow = _sample_cells(forward, *texture.shape)  # [h, w, 2]
        back = cv2.remap(backward, *landing_px(flow), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return checked_by_return(self._config, flow, back, texture, image_size(source.grey))


def _sample_cells(image: np.ndarray, h: int, w: int) -> np.ndarray:
    """Average the four pixels around every cell centre, which lies between pixels; [H, W, C] -> [h, w, C]."""
    a = FEATURE_STRIDE // 2 - 1
    rows = image[a : h * FEATURE_STRIDE : FEATURE_STRIDE] + image[a + 1 : h * FEATURE_STRIDE : FEATURE_STRIDE]
    cells = rows[:, a : w * FEATURE_STRIDE : FEATURE_STRIDE] + rows[:, a + 1 : w * FEATURE_STRIDE : FEATURE_STRIDE]
    return 0.25 * cells


def _grid_to_image_flow(predicted: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Turn predicted coordinates on the grid [h, w, 2] into an initial flow in pixels, float32 [H, W, 2]."""
    flow = cell_flow(predicted, shape)
    return np.ascontiguousarray(cv2.resize(flow, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR))
