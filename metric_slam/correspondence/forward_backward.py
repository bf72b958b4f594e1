"""Forward-backward check of optical flow, shared by the flow matchers: texture, reverse edges, confidence.

The confidence of a cell follows from the distance between the cell and where forward and backward flow, one after the
other, lead. Without texture the two can agree by chance, so texture counts as well.
"""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

from metric_slam.config.schema import DisConfig
from metric_slam.correspondence.base import Correspondence, EdgeQuery
from metric_slam.geometry.camera import FEATURE_STRIDE, GRID_OFFSET_PX, PinholeCamera


def grey_and_texture(image: np.ndarray, camera: PinholeCamera) -> tuple[np.ndarray, np.ndarray]:
    """Compute the grey image, uint8 [H, W], and its RMS gradient per cell, grey levels per pixel, float32 [h, w].

    ``image`` is uint8 [H, W, 3] RGB.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    h, w = camera.height // FEATURE_STRIDE, camera.width // FEATURE_STRIDE
    gx = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    gy = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    energy = (gx * gx + gy * gy)[: h * FEATURE_STRIDE, : w * FEATURE_STRIDE]
    return grey, np.sqrt(cv2.resize(energy, (w, h), interpolation=cv2.INTER_AREA))


def image_size(grey: np.ndarray | Tensor) -> tuple[int, int]:
    """Return height and width of an image [H, W]."""
    H, W = grey.shape
    return H, W


def with_reverses(edges: list[EdgeQuery]) -> dict[tuple[int, int], EdgeQuery]:
    """Return every edge and its reverse once, by :func:`key_of`."""
    wanted = {key_of(edge): edge for edge in edges}
    for edge in edges:  # the check needs the reverse, which has no prediction unless it is an edge itself
        reverse = EdgeQuery(edge.target, edge.source, None, edge.neighbours)
        wanted.setdefault(key_of(reverse), reverse)
    return wanted


def key_of(edge: EdgeQuery) -> tuple[int, int]:
    """Return the identities of the features of source and target."""
    return id(edge.source), id(edge.target)


def key_of_reverse(edge: EdgeQuery) -> tuple[int, int]:
    """Return the key of the edge from target to source."""
    return id(edge.target), id(edge.source)


def cell_flow(predicted: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Convert predicted coordinates on the grid to flow in pixels, float32 [h, w, 2], finite; ``shape`` is (H, W)."""
    h, w = predicted.shape[:2]
    y, x = np.mgrid[0:h, 0:w]
    flow = (predicted - np.stack([x, y], axis=-1)) * FEATURE_STRIDE
    limit = max(shape)  # the prediction of a point behind the camera is arbitrary
    return np.clip(np.nan_to_num(flow), -limit, limit).astype(np.float32)


def landing_px(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the centres of the cells land, pixels (x, y), float32 [h, w] each; ``flow`` [h, w, 2] in pixels."""
    h, w = flow.shape[:2]
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    return x * FEATURE_STRIDE + GRID_OFFSET_PX + flow[..., 0], y * FEATURE_STRIDE + GRID_OFFSET_PX + flow[..., 1]


def checked_by_return(
    config: DisConfig, flow: np.ndarray, back: np.ndarray, texture: np.ndarray, shape: tuple[int, int]
) -> Correspondence:
    """Compute the targets of the cells and their confidence by the forward-backward check.

    ``flow`` [h, w, 2] leads from the cells to the target image, ``back`` [h, w, 2] from where they land back to the
    source, both in pixels; ``texture`` [h, w] is the source's; ``shape`` is (H, W).
    """
    H, W = shape
    landing_x, landing_y = landing_px(flow)
    error = np.linalg.norm(flow + back, axis=-1)
    length = np.linalg.norm(flow, axis=-1)
    inside = (landing_x >= 0) & (landing_y >= 0) & (landing_x <= W - 1) & (landing_y <= H - 1)
    usable = inside & (error < config.max_forward_backward_px + config.max_forward_backward_relative * length)
    soft = 1.0 / (1.0 + (error / config.forward_backward_sigma_px) ** 2)
    energy = texture**2
    soft *= energy / (energy + config.texture_floor**2)
    target = np.stack([landing_x, landing_y], axis=-1).astype(np.float64)
    return Correspondence(
        target=(target - GRID_OFFSET_PX) / FEATURE_STRIDE,
        confidence=np.where(usable, soft, 0.0).astype(np.float64),
    )
