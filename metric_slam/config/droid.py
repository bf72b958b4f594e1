"""Options of the DROID network and of the odometry built on it (section ``droid``).

Defaults are those of DROID-SLAM's demo; configs/droid_*.yaml hold the settings of its scripts for single data sets.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from metric_slam.config.section import Section


class DroidConfig(Section):
    """Odometry with the recurrent network of DROID-SLAM, where `correspondence` is `droid`.

    Lengths of flow are in cells of the 1/8 grid (8 pixels at working resolution), as in DROID-SLAM. This section then
    replaces `motion_filter` and `sliding_window`, except for `sliding_window.max_lost`. Maps are densified with DIS
    flow in any case, starting from the network's own upsampling.
    """

    weights: str | None = Field(
        None,
        description="file of the network's weights; none: droid.pth in the folder that `metric-slam weights` shows",
    )
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="precision of the convolutions; auto: float16 on a GPU, float32 on a CPU, where bfloat16 takes "
        "half the time on processors that support it",
    )
    iterations: int = Field(
        12, ge=1, description="updates of an edge that is matched only once: across loops, without poses in between"
    )
    edges_at_once: int = Field(
        48,
        ge=1,
        description="edges per pass of the network, which bounds its memory; edges of one source stay together",
    )
    motion_threshold_cells: float = Field(
        2.4, gt=0, description="mean flow of one update from which a frame becomes a keyframe, cells"
    )
    keyframe_threshold_cells: float = Field(
        4.0, ge=0, description="distance to the keyframe before it below which the second newest one is removed, cells"
    )
    edge_threshold_cells: float = Field(
        16.0, gt=0, description="largest mean flow between two keyframes that may share an edge, cells"
    )
    motion_weight: float = Field(
        0.3,
        ge=0,
        le=1,
        description="weight of the whole flow in that distance (beta); the rest is flow by translation alone",
    )
    window: int = Field(25, ge=4, description="newest keyframes among which new edges are searched")
    source_window: int = Field(5, ge=2, description="newest keyframes from which new edges start")
    warm_up: int = Field(8, ge=3, description="keyframes that are collected for the first optimisation")
    warm_up_updates: int = Field(8, ge=1, description="updates in each of its two rounds")
    warm_up_radius: int = Field(
        3, ge=1, description="largest difference of keyframe numbers that are matched in the first round"
    )
    warm_up_suppression: int = Field(2, ge=0, description="suppression in the second round")
    radius: int = Field(
        2, ge=1, description="difference of keyframe numbers up to which, plus one, keyframes are always matched"
    )
    suppression: int = Field(
        1, ge=0, description="an edge suppresses others whose keyframe numbers differ by at most this"
    )
    motion_damping: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the last motion between keyframes that is added to the initial pose of a new one; 0: it "
        "starts at the last pose (0.5 in DROID-SLAM's scripts for TUM, ETH3D and TartanAir since 2025)",
    )
    max_edges: int = Field(
        48,
        ge=4,
        description="edges that the network refines at the same time; new ones replace the oldest, whose matches stay",
    )
    max_age: int = Field(25, ge=1, description="updates after which an edge is no longer refined; its matches stay")
    updates: int = Field(4, ge=1, description="updates for a new keyframe (3 in DROID-SLAM since 2025)")
    more_updates: int = Field(2, ge=0, description="further updates where no keyframe was removed")
    frame_updates: int = Field(6, ge=1, description="updates for the poses of the frames between keyframes")
    frames_at_once: int = Field(16, ge=1, description="frames between keyframes that are matched in one pass")
    solver_iterations: int = Field(2, ge=1, description="iterations of bundle adjustment after every update")
    first_inv_depth: float = Field(
        1.0, gt=0, description="initial inverse depth of the first keyframes where there is no prior"
    )
    global_threshold_cells: float = Field(
        22.0, gt=0, description="edge_threshold_cells of the updates over the whole trajectory"
    )
    global_radius: int = Field(2, ge=1, description="radius of the updates over the whole trajectory")
    global_suppression: int = Field(3, ge=0, description="suppression of the updates over the whole trajectory")
    global_edges_per_keyframe: int = Field(
        16, ge=2, description="largest number of edges per keyframe in the updates over the whole trajectory"
    )
    global_max_edges: int = Field(
        6000,
        ge=20,
        description="total number of edges beyond which the updates over the whole trajectory are skipped: each edge "
        "keeps a hidden state in memory, 1 MB at 960x288 in half precision",
    )
    dense_depth: bool = Field(
        True,
        description="keep the network's upsampling weights for the map: 18 bytes per pixel of every keyframe on the "
        "disk, 5 MB at 960x288",
    )
    features_in_memory: int = Field(
        64, ge=2, description="keyframes whose features are in memory during the updates over the whole trajectory"
    )
