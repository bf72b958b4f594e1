"""Dense matching as a row of bench_gpu.py: the edges that a new keyframe of a drive without a network brings.

"CUDA" and "torch GPU" are the same inverse search, whose GPU kernels are torch's own; "C++" is OpenCV's DIS on as many
threads as a run takes, "torch CPU" the inverse search there. Both at the settings of ``--preset fast``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import cv2
import numpy as np
from gpu_machine import GPU_SIDES, SIDES, Case, Machine, Side
from kernel_floors import FLOAT32_BYTES

from metric_slam.config.schema import DisConfig
from metric_slam.correspondence.base import CorrespondenceModel, EdgeQuery
from metric_slam.correspondence.dis import DisCorrespondence
from metric_slam.correspondence.inverse_search import InverseSearch
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera

WIDTH, HEIGHT = 640, 192
STEP_PX = 6
PAIRS = ((1, 2), (2, 1), (0, 2), (2, 0))
"""The new keyframe with the two before it, there and back."""


def matching_case(machine: Machine, width: int = WIDTH, height: int = HEIGHT) -> Case:
    """One call of ``track``; timed, not compared, for the two searches differ by what one of them refines."""
    cells = width * height // FEATURE_STRIDE**2
    images, answers = 3 * width * height, len(PAIRS) * cells * 4 * FLOAT32_BYTES  # flow there and back
    sides: dict[str, Side] = {side: matching_side(side, machine, width, height) for side in SIDES}
    name = f"matching {len(PAIRS)} edges, {width}x{height}"
    return Case(name, images + answers, sides, tolerance=None)


def matching_side(side: str, machine: Machine, width: int, height: int) -> Side:
    """Features are made beforehand: a frame's are there before it becomes a keyframe."""

    def prepared() -> Callable[[], object]:
        config = DisConfig(finest_scale=1)
        model: CorrespondenceModel
        if side == "C++":
            model = DisCorrespondence(config, threads=min(4, os.cpu_count() or 1))
        else:
            device = machine.gpu if side in GPU_SIDES and machine.gpu is not None else machine.need(side)
            model = InverseSearch(config, device)
        camera = PinholeCamera(0.8 * width, 0.8 * width, width / 2, height / 2, width, height)
        features = [model.encode(image, camera) for image in drifting_images(width, height)]
        edges = [EdgeQuery(features[i], features[j], None, abs(i - j) == 1) for i, j in PAIRS]
        return lambda: model.track(edges)

    return prepared


def drifting_images(width: int, height: int) -> list[np.ndarray]:
    """Three views of a texture that passes by, uint8 [height, width, 3]."""
    noise = np.random.default_rng(0).uniform(-1, 1, (height, width + 2 * STEP_PX)).astype(np.float32)
    texture = sum(scale * cv2.GaussianBlur(noise, (0, 0), scale) for scale in (1, 2, 4, 8, 16))
    grey = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return [np.repeat(grey[:, STEP_PX * i : STEP_PX * i + width, None], 3, axis=-1) for i in range(3)]
