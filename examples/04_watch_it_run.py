"""Watch a run: callbacks, and trajectory, keyframes and cloud at any moment, not only at the end.

python examples/04_watch_it_run.py [--frames 60]
"""

import argparse

import numpy as np

import metric_slam
from metric_slam import FrameState
from metric_slam.datasets.synthetic import DriveSpec, open_demo
from metric_slam.result import LoopResult


def on_keyframe(state: FrameState) -> None:
    """Called as soon as a frame has become a keyframe."""
    print(f"keyframe at {state.time_s:.1f} s, {state.inlier_ratio:.0%} of its cells fit the pose")


def on_loop(loop: LoopResult) -> None:
    """Called when a place was recognised and the loop is closed."""
    print(f"frame {loop.index} shows the place of frame {loop.match_index}; the map moved by {loop.correction_m:.2f} m")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--frames", type=int, default=60)
drive = open_demo(DriveSpec(frames=parser.parse_args().frames))
bonnet = np.zeros((drive.camera.height, drive.camera.width), bool)
bonnet[int(0.95 * drive.camera.height) :] = True  # pixels that must not be used, should your own vehicle be in sight

with metric_slam.Slam(
    drive.camera,
    prior="ground_plane",
    camera_height_m=1.65,
    preset="fast",
    on_keyframe=on_keyframe,
    on_loop=on_loop,
) as slam:
    for frame in (drive[i] for i in range(len(drive))):
        slam.process(frame.image, frame.time_s, mask=bonnet)
        if frame.index % 20 == 19:
            so_far = slam.trajectory()
            length_m = np.linalg.norm(np.diff(so_far.T_world_cam[:, :3, 3], axis=0), axis=1).sum()
            points = slam.point_cloud(min_consistent_views=2).points_m
            print(f"after {len(so_far)} frames: {length_m:.1f} m driven, {len(points)} points")
    slam.finish()
print({stage: round(seconds, 2) for stage, seconds in slam.timings_s.items()})
