"""Options of the recurrent network and of the way of working around it (section ``droid``).

Defaults are those of DROID-SLAM's demo; what its scripts use on single data sets stands in configs/droid_*.yaml.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from metric_slam.config.section import Section


class DroidConfig(Section):
    """Matching with the recurrent network of DROID-SLAM.

    Lengths of flow are cells of the 1/8 grid (8 pixels at working resolution), as in DROID-SLAM. Takes the place of
    `motion_filter` and `frontend` (but for `frontend.max_lost`) where `correspondence` is `droid`. Maps are densified
    with DIS flow as without it, from where the network's own upsampling leads.
    """

    weights: str | None = Field(
        None, description="file with the network's weights; none: where `metric-slam weights` looks for droid.pth"
    )
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="of the network's convolutions; auto: float16 on a GPU, float32 on a CPU, where bfloat16 takes "
        "half the time if the processor knows it",
    )
    iterations: int = Field(
        12, ge=1, description="updates where an edge is matched once for all: across loops, without poses in between"
    )
    edges_at_once: int = Field(
        48, ge=1, description="edges in one pass of the network: bounds its memory; those of one source stay together"
    )
    motion_threshold_cells: float = Field(
        2.4, gt=0, description="mean length of one update's correction that makes a frame a keyframe, cells"
    )
    keyframe_threshold_cells: float = Field(
        4.0, ge=0, description="the second newest keyframe goes when it is nearer than this to the one before it, cells"
    )
    edge_threshold_cells: float = Field(
        16.0, gt=0, description="keyframes nearer than this in mean flow may share an edge, cells"
    )
    motion_weight: float = Field(
        0.3, ge=0, le=1, description="share of the whole flow in that distance (beta); the rest is flow by translation"
    )
    window: int = Field(25, ge=4, description="keyframes among which new edges are sought")
    source_window: int = Field(5, ge=2, description="newest of them from which new edges start")
    warm_up: int = Field(8, ge=3, description="keyframes that are optimised together at the start")
    warm_up_updates: int = Field(8, ge=1, description="updates of each of the two rounds there")
    warm_up_radius: int = Field(3, ge=1, description="keyframes this near are matched in the first of them")
    warm_up_suppression: int = Field(2, ge=0, description="suppression in the second of them")
    radius: int = Field(2, ge=1, description="keyframes up to one farther than this are always matched")
    suppression: int = Field(1, ge=0, description="an edge keeps others away that differ by this many keyframes")
    motion_damping: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the last step between keyframes with which a new one starts beyond the "
        "last one; 0: it starts there (0.5 in DROID-SLAM's scripts for TUM, ETH3D and TartanAir since 2025)",
    )
    max_edges: int = Field(48, ge=4, description="edges that the network refines; the oldest retire for new ones")
    max_age: int = Field(25, ge=1, description="updates after which an edge retires: its matches stay as they are")
    updates: int = Field(4, ge=1, description="updates for a new keyframe (3 in DROID-SLAM since 2025)")
    more_updates: int = Field(2, ge=0, description="further ones when no keyframe was removed")
    frame_updates: int = Field(6, ge=1, description="updates that place the frames between keyframes")
    frames_at_once: int = Field(16, ge=1, description="frames that are placed together")
    solver_iterations: int = Field(2, ge=1, description="iterations of bundle adjustment after every update")
    first_inv_depth: float = Field(
        1.0, gt=0, description="inverse depth from which the first keyframes start where no prior knows better"
    )
    backend_threshold_cells: float = Field(22.0, gt=0, description="edge_threshold_cells of the whole trajectory")
    backend_radius: int = Field(2, ge=1, description="radius of the whole trajectory")
    backend_suppression: int = Field(3, ge=0, description="suppression of the whole trajectory")
    backend_edges_per_keyframe: int = Field(16, ge=2, description="most edges over the whole trajectory, a keyframe")
    backend_max_edges: int = Field(
        6000,
        ge=20,
        description="edges there in all beyond which those updates are left out: each keeps a hidden "
        "state in memory, 1 MB at 960x288 in half precision",
    )
    dense_depth: bool = Field(
        True,
        description="keep what the network says of the pixels between cells, for the map: of every keyframe 18 "
        "bytes a pixel on the disk, 5 MB at 960x288",
    )
    features_in_memory: int = Field(
        64, ge=2, description="keyframes whose features are kept while the whole trajectory is updated"
    )
