"""Feed frames, get metres: images of one calibrated camera in, a metric trajectory and a point cloud out.

python examples/01_feed_frames.py [--frames 120]

The images come from a rendered drive here; put your own loop over (time, image) in its place.
"""

import argparse

import numpy as np

import metric_slam
from metric_slam.datasets.synthetic import DriveSpec, open_demo

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--frames", type=int, default=120)
drive = open_demo(DriveSpec(frames=parser.parse_args().frames))

with metric_slam.Slam(drive.camera, prior="ground_plane", camera_height_m=1.65, preset="fast") as slam:
    for frame in (drive[i] for i in range(len(drive))):
        state = slam.process(frame.image, frame.time_s)  # uint8 RGB [H, W, 3], seconds
        if state.is_keyframe and state.index % 20 == 0:
            x, y, z = state.T_world_cam[:3, 3]
            print(f"frame {state.index}: {z:.2f} m ahead, {x:.2f} m to the right, scale known: {state.scale_known}")
    result = slam.finish()

steps_m = np.linalg.norm(np.diff(result.T_world_cam[:, :3, 3], axis=0), axis=1)
true_m = np.linalg.norm(np.diff(drive.T_world_cam_true[:, :3, 3], axis=0), axis=1)
print(f"path {steps_m.sum():.2f} m, true {true_m.sum():.2f} m, scale from {result.scale_source}")
print(f"{len(slam.point_cloud().points_m)} points in metres")
