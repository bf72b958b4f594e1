"""A matcher of your own: anything that finds where the cells of one image lie in another.

python examples/03_your_own_matcher.py [--frames 60]

This one is OpenCV's Farneback flow with a forward-backward check, in forty lines.
"""

import argparse

import cv2
import numpy as np

import metric_slam
from metric_slam.correspondence.base import Correspondence, EdgeQuery
from metric_slam.datasets.synthetic import DriveSpec, open_demo
from metric_slam.geometry.camera import FEATURE_STRIDE, PinholeCamera


class FarnebackMatcher:
    """Follows `metric_slam.correspondence.base.CorrespondenceModel`."""

    name = "farneback"
    recurrent = False

    def encode(self, image: np.ndarray, camera: PinholeCamera) -> np.ndarray:
        """Features of one image, uint8 [H, W, 3] RGB: here the grey image."""
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)

    def track(self, edges: list[EdgeQuery]) -> list[Correspondence]:
        """Targets [h, w, 2] in grid cells and confidences [h, w] of each directed edge."""
        return [self._match(edge.source, edge.target) for edge in edges]

    def _match(self, source: np.ndarray, target: np.ndarray) -> Correspondence:
        forward, backward = self._flow(source, target), self._flow(target, source)
        h, w = source.shape[0] // FEATURE_STRIDE, source.shape[1] // FEATURE_STRIDE
        y, x = np.mgrid[0:h, 0:w].astype(np.float64)
        centre = (FEATURE_STRIDE - 1) / 2
        u, v = (x * FEATURE_STRIDE + centre).astype(np.float32), (y * FEATURE_STRIDE + centre).astype(np.float32)
        flow = cv2.remap(forward, u, v, cv2.INTER_LINEAR)
        back = cv2.remap(backward, u + flow[..., 0], v + flow[..., 1], cv2.INTER_LINEAR)
        error_px = np.linalg.norm(flow + back, axis=-1)
        confidence = np.where(error_px < 1.0, 1.0 / (1.0 + (error_px / 0.5) ** 2), 0.0)
        inside = (u + flow[..., 0] < source.shape[1]) & (v + flow[..., 1] < source.shape[0])
        inside &= (u + flow[..., 0] >= 0) & (v + flow[..., 1] >= 0)
        return Correspondence(np.stack([x, y], -1) + flow / FEATURE_STRIDE, confidence * inside)

    def _flow(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        return cv2.calcOpticalFlowFarneback(
            source, target, np.zeros((*source.shape, 2), np.float32), 0.5, 5, 15, 3, 5, 1.2, 0
        )


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--frames", type=int, default=60)
drive = open_demo(DriveSpec(frames=parser.parse_args().frames))

with metric_slam.Slam(
    drive.camera, correspondence=FarnebackMatcher(), prior="ground_plane", camera_height_m=1.65, preset="fast"
) as slam:
    for frame in (drive[i] for i in range(len(drive))):
        slam.process(frame.image, frame.time_s)
    result = slam.finish()

end_m, true_m = (np.linalg.norm(T[-1, :3, 3]) for T in (result.T_world_cam, drive.T_world_cam_true))
print(f"{slam.choices['correspondence']}; distance from the start {end_m:.2f} m, true {true_m:.2f} m")
