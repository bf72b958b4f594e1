"""A depth prior of your own: any source of metric depth that looks at an image.

python examples/02_your_own_prior.py [--frames 60]

This one reads true depth from the rendered drive, spoils it by 10 % per frame, and shows what bundle adjustment makes
of it. Replace `prepare` by your network.
"""

import argparse

import numpy as np

import metric_slam
from metric_slam.datasets.synthetic import DriveSpec, open_demo
from metric_slam.depth.base import DepthPrediction, DepthPrior, depth_to_grid
from metric_slam.frame import Frame
from metric_slam.geometry.camera import PinholeCamera


class NoisyDepth(DepthPrior):
    """True depth times a random factor per frame."""

    name = "noisy_depth"
    relative_sigma = 0.05  # of one cell
    scale_sigma = 0.10  # common to all cells of an image

    def __init__(self, depth_of: dict[int, np.ndarray]) -> None:
        self._depth_of, self._random = depth_of, np.random.default_rng(0)

    def prepare(self, frame: Frame, camera: PinholeCamera) -> DepthPrediction:
        """Called once per keyframe; `depth_to_grid` brings a depth image of any size onto the 1/8 grid."""
        depth_m = self._depth_of[frame.index] * np.exp(self.scale_sigma * self._random.normal())
        return depth_to_grid(depth_m, camera)

    def predict(self, state: object, camera: PinholeCamera) -> DepthPrediction:
        """What `prepare` returned for the keyframe."""
        assert isinstance(state, DepthPrediction)
        return state


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--frames", type=int, default=60)
drive = open_demo(DriveSpec(frames=parser.parse_args().frames))
frames = [drive[i] for i in range(len(drive))]
prior = NoisyDepth({f.index: f.depth_m for f in frames if f.depth_m is not None})

with metric_slam.Slam(drive.camera, prior=prior, preset="fast") as slam:
    for frame in frames:
        slam.process(frame.image, frame.time_s)
    result = slam.finish()

end_m = np.linalg.norm(result.T_world_cam[-1, :3, 3])
true_m = np.linalg.norm(drive.T_world_cam_true[-1, :3, 3])
print(f"distance from the start {end_m:.2f} m, true {true_m:.2f} m, scale from {result.scale_source}")
