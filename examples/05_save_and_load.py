"""Save a result, load it in another process, and evaluate it against the truth.

python examples/05_save_and_load.py [--frames 120] [--out results/example]
"""

import argparse
from pathlib import Path

import metric_slam
from metric_slam.datasets.synthetic import DriveSpec, open_demo
from metric_slam.evaluation import evaluate

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--frames", type=int, default=120)
parser.add_argument("--out", type=Path, default=Path("results/example"))
arguments = parser.parse_args()
drive = open_demo(DriveSpec(frames=arguments.frames))

with metric_slam.Slam(drive.camera, prior="ground_plane", camera_height_m=1.65, preset="fast") as slam:
    for frame in (drive[i] for i in range(len(drive))):
        slam.process(frame.image, frame.time_s)
    slam.finish().save(arguments.out)

result = metric_slam.SlamResult.load(arguments.out)
metrics = evaluate(
    result.T_world_cam,
    drive.T_world_cam_true[result.frame_indices],
    times_s=result.times_s,
    scale_known=result.scale_source != "unknown",
)
print(f"{len(result.keyframes)} keyframes in {arguments.out}; headline: {metrics['headline']}")
