"""Dense matching with OpenCV's DIS optical flow, for machines without a GPU.

DIS (Kroeger et al., *Fast Optical Flow using Dense Inverse Search*, ECCV 2016) runs in both directions; the distance
between a pixel and the way there and back again is its confidence. Neighbouring cells share patches, so their errors
are not independent: the bundle adjustment lowers the weight of flow accordingly (``flow_sigma_px``).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from metric_slam.config import DisConfig
from metric_slam.correspondence.base import Correspondence, EdgeQuery
from metric_slam.geometry.camera import FEATURE_STRIDE, GRID_OFFSET_PX, PinholeCamera

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@dataclass(frozen=True, eq=False)
class DisFeatures:
    """What DIS needs of an image."""

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
        # by finest scale and warm or cold: after a warm start OpenCV's object starts every later search from that flow
        self._idle: dict[tuple[int, bool], list[cv2.DISOpticalFlow]] = {
            (scale, warm): [] for scale in (config.finest_scale, config.wide_finest_scale) for warm in (False, True)
        }

    def _new_flow(self, finest_scale: int) -> cv2.DISOpticalFlow:
        flow = cv2.DISOpticalFlow_create(_PRESETS[self._config.preset])
        flow.setFinestScale(finest_scale)
        if self._config.patch_stride:
            flow.setPatchStride(self._config.patch_stride)
        return flow

    def encode(self, image: np.ndarray, camera: PinholeCamera) -> DisFeatures:
        """Grey image and its texture per cell."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        h, w = camera.height // FEATURE_STRIDE, camera.width // FEATURE_STRIDE
        gx = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
        gy = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
        energy = (gx * gx + gy * gy)[: h * FEATURE_STRIDE, : w * FEATURE_STRIDE]
        return DisFeatures(grey, np.sqrt(cv2.resize(energy, (w, h), interpolation=cv2.INTER_AREA)))

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """Flow of every edge and of its reverse; both are computed once when both are asked for."""
        wanted: dict[tuple[int, int], EdgeQuery] = {}
        for edge in edges:
            wanted[id(edge.source), id(edge.target)] = edge
        for edge in edges:  # the reverse is needed for the check, without a prediction if nobody asked for it
            reverse = EdgeQuery(edge.target, edge.source, None, edge.neighbours)
            wanted.setdefault((id(edge.target), id(edge.source)), reverse)
        jobs = {key: self._pool.submit(self._flow, edge) for key, edge in wanted.items()}
        flows = {key: job.result() for key, job in jobs.items()}
        return [
            self._correspondence(
                edge, flows[id(edge.source), id(edge.target)], flows[id(edge.target), id(edge.source)]
            )
            for edge in edges
        ]

    def _flow(self, edge: EdgeQuery) -> np.ndarray:
        """Flow from source to target in pixels, float32 [H, W, 2]."""
        initial = None
        if edge.predicted is not None and self._config.warm_start:
            initial = _grid_to_image_flow(edge.predicted, edge.source.grey.shape)
        finest_scale = self._config.finest_scale if edge.neighbours else self._config.wide_finest_scale
        idle = self._idle[finest_scale, initial is not None]
        try:
            maker = idle.pop()  # list.pop is atomic; DIS objects keep scratch memory and are not shared
        except IndexError:
            maker = self._new_flow(finest_scale)
        flow = maker.calc(edge.source.grey, edge.target.grey, initial)
        idle.append(maker)
        return flow

    def _correspondence(self, edge: EdgeQuery, forward: np.ndarray, backward: np.ndarray) -> Correspondence:
        cfg = self._config
        H, W = edge.source.grey.shape
        h, w = edge.source.texture.shape
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        flow = _sample_cells(forward, h, w)  # [h, w, 2]
        landing_x = x * FEATURE_STRIDE + GRID_OFFSET_PX + flow[..., 0]
        landing_y = y * FEATURE_STRIDE + GRID_OFFSET_PX + flow[..., 1]
        back = cv2.remap(backward, landing_x, landing_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        error = np.linalg.norm(flow + back, axis=-1)
        length = np.linalg.norm(flow, axis=-1)
        inside = (landing_x >= 0) & (landing_y >= 0) & (landing_x <= W - 1) & (landing_y <= H - 1)
        usable = inside & (error < cfg.max_round_trip_px + cfg.max_round_trip_relative * length)
        soft = 1.0 / (1.0 + (error / cfg.round_trip_sigma_px) ** 2)
        texture = edge.source.texture**2
        soft *= texture / (texture + cfg.texture_floor**2)
        target = np.stack([landing_x, landing_y], axis=-1).astype(np.float64)
        return Correspondence(
            target=(target - GRID_OFFSET_PX) / FEATURE_STRIDE,
            confidence=np.where(usable, soft, 0.0).astype(np.float64),
        )


def _sample_cells(image: np.ndarray, h: int, w: int) -> np.ndarray:
    """Mean of the four pixels around every cell centre, which lies between pixels; [H, W, C] -> [h, w, C]."""
    a = FEATURE_STRIDE // 2 - 1
    rows = image[a : h * FEATURE_STRIDE : FEATURE_STRIDE] + image[a + 1 : h * FEATURE_STRIDE : FEATURE_STRIDE]
    cells = rows[:, a : w * FEATURE_STRIDE : FEATURE_STRIDE] + rows[:, a + 1 : w * FEATURE_STRIDE : FEATURE_STRIDE]
    return 0.25 * cells


def _grid_to_image_flow(predicted: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Predicted coordinates on the grid [h, w, 2] to an initial flow in pixels, float32 [H, W, 2]."""
    h, w = predicted.shape[:2]
    y, x = np.mgrid[0:h, 0:w]
    flow = (predicted - np.stack([x, y], axis=-1)) * FEATURE_STRIDE
    limit = max(shape)  # a pixel behind the camera is predicted anywhere
    flow = np.clip(np.nan_to_num(flow), -limit, limit).astype(np.float32)
    return np.ascontiguousarray(cv2.resize(flow, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR))
