"""What a finished run hands to fusion, evaluation and the report: plain arrays, no references into the solver."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from metric_slam.disk_store import DiskArray, DiskImage
from metric_slam.geometry.camera import PinholeCamera


@dataclass(frozen=True)
class FrameState:
    """What is known of a frame right after it was processed; later frames improve its pose."""

    index: int
    """Frame index."""

    time_s: float
    T_world_cam: np.ndarray
    """Pose, float64 [4, 4]; in metres where ``scale_known``."""

    tracked: bool
    """False: nothing could be matched, the pose is the motion model's."""

    is_keyframe: bool
    scale_known: bool
    """True while the prior's measurements make the map metric."""

    inlier_ratio: float
    """Share of the reference keyframe's cells whose match fits the pose, 0..1."""


@dataclass(frozen=True)
class KeyframeResult:
    """One keyframe after the last optimisation, at working resolution (H, W) and on its 1/8 grid (h, w)."""

    index: int
    """Frame index in the data set."""

    time_s: float
    T_world_cam: np.ndarray
    """Pose, float64 [4, 4]."""

    camera: PinholeCamera
    """Intrinsics of ``image`` (working resolution)."""

    image: np.ndarray | DiskImage
    """Colour, uint8 [H, W, 3] RGB, or where on the disk it lies: see :attr:`pixels`."""

    inv_depth: np.ndarray
    """Optimised inverse depth in 1/m (1/unit where the scale is unknown), float32 [h, w], cells of the 1/8 grid."""

    confidence: np.ndarray
    """0..1, float32 [h, w]: how well flow supports the inverse depth; 0 where it is only a guess."""

    prior_depth_m: np.ndarray | None
    """Depth of the prior in metres, float32 [h, w], 0 where it says nothing; None without a prior."""

    prior_confidence: np.ndarray | None
    """Confidence of the prior 0..1, float32 [h, w]; None without a prior."""

    prior_log_scale: float
    """Bounded log-scale of the prior, s_k (0 without a prior)."""

    dense_inv_depth: np.ndarray | DiskArray | None = None
    """``inv_depth`` at every pixel as a recurrent model spreads it, float32 [H, W], or where on the disk it lies
    (``np.asarray`` reads it); None where no such model matched."""

    confirmed: np.ndarray | None = None
    """How many keyframes, of those it shares matches with, have the same depth there to about 5 %: uint8 [h, w]."""

    @property
    def pixels(self) -> np.ndarray:
        """Colour, uint8 [H, W, 3] RGB; read from the disk each time if it lies there."""
        return self.image.load() if isinstance(self.image, DiskImage) else self.image


@dataclass(frozen=True)
class ScaleObservation:
    """One measurement of the metric scale on the way, for the report's plot of scale over time."""

    index: int
    """Frame index in the data set."""

    log_ratio: float
    """log(measured metric length / length in the trajectory at that moment); 0 means agreement."""

    sigma: float
    """Standard deviation of ``log_ratio`` as believed by its source."""

    used: bool
    """False where the source withdrew it (thin support, uneven road)."""


@dataclass(frozen=True)
class LoopResult:
    """A place that was recognised and verified."""

    index: int
    """Frame index at which the place was seen again."""

    match_index: int
    """Frame index at which it was seen before."""

    distance_m: float
    """Between the two cameras, as verified."""

    correction_m: float
    """How far the map moved there when the loop was closed."""

    weight: float
    """0..1: how much of it the robust pose graph believed."""

    @property
    def believed(self) -> bool:
        """False: it contradicted the rest of the map and was taken out again."""
        return self.weight >= 0.5


@dataclass(frozen=True)
class SlamResult:
    """The trajectory of every processed frame and the keyframes of the map."""

    frame_indices: np.ndarray
    """Data set indices of the processed frames, int64 [N]."""

    times_s: np.ndarray
    """Time stamps, float64 [N]."""

    T_world_cam: np.ndarray
    """Pose of every processed frame, float64 [N, 4, 4]; the first is the identity."""

    is_keyframe: np.ndarray
    """bool [N]."""

    tracked: np.ndarray
    """bool [N]; False where the pose is predicted by the motion model because nothing could be matched."""

    keyframes: list[KeyframeResult]
    scale_source: str
    """Name of the prior that set the scale, or ``"unknown"``."""

    scale_observations: list[ScaleObservation] = field(default_factory=list)
    solver_status_counts: dict[str, int] = field(default_factory=dict)
    """How often each BA status came back, e.g. ``{"converged": 140, "max_iterations": 3}``."""

    inlier_ratio: np.ndarray | None = None
    """Share of the reference keyframe's cells whose match fits the frame's pose, float64 [N], 0..1."""

    submap: np.ndarray | None = None
    """int64 [N]: piece of the video that a frame belongs to; a new one begins where tracking was lost. Submaps that a
    loop has tied together carry the number of the first of them; others stand where the motion model put them."""

    loops: list[LoopResult] = field(default_factory=list)
    timings_s: dict[str, float] = field(default_factory=dict)
    """Seconds spent per stage inside the SLAM system (correspondence, prior, bundle_adjustment, ...)."""

    @property
    def submap_count(self) -> int:
        """Pieces of the trajectory that nothing ties together."""
        return 1 if self.submap is None else len(np.unique(self.submap))

    @property
    def confirmed_share(self) -> float | None:
        """Of all cells that flow supports, the share that another keyframe confirms; None without such cells."""
        counts = [k.confirmed[k.confidence > 0] for k in self.keyframes if k.confirmed is not None]
        total = sum(count.size for count in counts)
        return sum(int(np.count_nonzero(count)) for count in counts) / total if total else None


def frames_csv(result: SlamResult) -> str:
    """One line a frame: was it tracked, how well, and to which piece of the trajectory does it belong?"""
    n = len(result.times_s)
    inlier_ratio = np.full(n, np.nan) if result.inlier_ratio is None else result.inlier_ratio
    submap = np.zeros(n, int) if result.submap is None else result.submap
    rows = zip(
        result.frame_indices, result.times_s, result.tracked, result.is_keyframe, inlier_ratio, submap, strict=True
    )
    lines = [f"{i},{t:.6f},{int(tracked)},{int(key)},{q:.3f},{s}" for i, t, tracked, key, q, s in rows]
    return "\n".join(["index,time_s,tracked,keyframe,inlier_ratio,submap", *lines]) + "\n"


def loops_csv(result: SlamResult) -> str:
    """One line for every loop that was closed."""
    lines = [
        f"{loop.index},{loop.match_index},{loop.distance_m:.3f},{loop.correction_m:.3f},{loop.weight:.3f}"
        for loop in result.loops
    ]
    return "\n".join(["index,match_index,distance_m,correction_m,weight", *lines]) + "\n"
