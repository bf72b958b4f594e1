"""The rendered drive: our own town with exact poses and depths, in the layout of KITTI odometry.

spec (parameters) -> route (poses), build (mesh and textures) -> render -> drive (files, cache)
"""

from metric_slam.datasets.synthetic.depth_noise import degrade_depth
from metric_slam.datasets.synthetic.drive import cache_folder, open_demo, render_drive
from metric_slam.datasets.synthetic.revisits import revisits
from metric_slam.datasets.synthetic.spec import DriveSpec

__all__ = ["DriveSpec", "cache_folder", "degrade_depth", "open_demo", "render_drive", "revisits"]
