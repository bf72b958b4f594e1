"""The map under construction: keyframes, factor graph, submaps and disk; the only writer of keyframe fields."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from metric_slam.checkpointable import StateTree, tree_in
from metric_slam.correspondence.base import Correspondence, CorrespondenceModel
from metric_slam.disk_store import DiskStore
from metric_slam.geometry import lie
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.geometry.grid_array import Array, on_host
from metric_slam.graph.factor_graph import FactorGraph
from metric_slam.graph.keyframe_state import Rebuild, keyframes_from_state, keyframes_to_state
from metric_slam.graph.keyframes import Keyframe, KeyframeStore
from metric_slam.graph.offload import Offloader
from metric_slam.graph.submaps import Submaps
from metric_slam.optimization.bundle_adjustment import BaReport, BaWindow, SolveStatus
from metric_slam.optimization.solver import Solver


@dataclass(frozen=True)
class PriorGrids:
    """What a depth prior gives for one keyframe, each float64 [h, w], zeros where nothing is known."""

    depth_m: np.ndarray
    confidence: np.ndarray
    """0..1."""

    weight: np.ndarray
    """Confidence over the variance of the relative error."""


class SlamMap:
    """Owns the state that odometry and loops share. Poses are matrices [4, 4] here, vectors only inside the store."""

    def __init__(
        self,
        camera: PinholeCamera,
        model: CorrespondenceModel,
        solver: Solver,
        *,
        scale_sigma: float = 0.0,
        disk: DiskStore | None = None,
    ) -> None:
        """``scale_sigma``: standard deviation of the prior's log-scale per keyframe. ``disk`` takes what leaves memory;
        None: a temporary file.
        """
        self.camera = camera
        """Working camera; every frame is resized to it."""

        self.solver = solver
        self.disk = DiskStore() if disk is None else disk
        self.submaps = Submaps()
        self._store = KeyframeStore(camera, Offloader(self.disk))
        self.graph = FactorGraph(self._store, model, solver, scale_sigma)

    # ------------------------------------------------------------------ read

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, position: int) -> Keyframe:
        return self._store[position]

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._store)

    @property
    def keyframes(self) -> Sequence[Keyframe]:
        """All keyframes in order."""
        return list(self._store)

    def T_cam_world(self, positions: slice | Sequence[int] = slice(None)) -> np.ndarray:
        """Poses of keyframes, float64 [N, 4, 4]; a copy."""
        if isinstance(positions, slice):
            positions = range(*positions.indices(len(self._store)))
        vectors = np.array([self._store[i].pose for i in positions]).reshape(-1, 7)
        return lie.pose_vec_to_matrix(vectors)

    def T_world_cam(self, positions: slice | Sequence[int] = slice(None)) -> np.ndarray:
        """Inverted poses of keyframes, float64 [N, 4, 4]; a copy."""
        return lie.inverse(self.T_cam_world(positions))

    def pose_vectors(self, positions: Sequence[int]) -> np.ndarray:
        """T_cam_world as the solver takes it: t xyz, q xyzw, float64 [N, 7]; a copy."""
        return np.array([self._store[i].pose for i in positions]).reshape(-1, 7)

    def motion(self, source: int, target: int) -> np.ndarray:
        """T_target_source of two keyframes, float64 [4, 4]."""
        return np.asarray(self._store[target].T_cam_world @ lie.inverse(self._store[source].T_cam_world))

    def image(self, position: int) -> np.ndarray:
        """Image uint8 [H, W, 3] RGB, read-only; decoded if it is no longer in memory."""
        return self._store.offloader.image(self._store[position].image)

    def has_prior(self, position: int) -> bool:
        """True if bundle adjustment gives the prior of this keyframe any weight."""
        return self._store.has_prior(position)

    def stacked_on_host(self, field: str, positions: Sequence[int]) -> np.ndarray:
        """One grid of these keyframes, [N, h, w], in memory; a copy."""
        return np.stack([np.asarray(getattr(self._store[i], field)) for i in positions])

    def median_depth(self, position: int) -> float:
        """One over the median inverse depth of a keyframe: the length unit of the scene around it."""
        return 1.0 / max(self._store[position].median_inv_depth, 1e-12)

    # ------------------------------------------------------------------ write

    def append(self, keyframe: Keyframe) -> int:
        """Add a keyframe and return its position."""
        return self._store.append(keyframe)

    def begin_submap(self, T_cam_world: np.ndarray) -> int:
        """Begin a submap with the next keyframe, at T_cam_world [4, 4]; returns its number."""
        count = len(self._store)
        gap = T_cam_world @ lie.inverse(self._store[count - 1].T_cam_world) if count else None
        return self.submaps.begin(count, gap)

    def remove(self, position: int) -> None:
        """Remove a keyframe of the window with its edges; those behind it move up by one."""
        self.graph.remove_keyframe(position)
        self._store.remove(position)

    def evict_before(self, keyframes: int, edges: int) -> None:
        """Offload keyframes before position ``keyframes`` and matches between keyframes before ``edges``."""
        self._store.evict_before(keyframes)
        self.graph.edges.evict_before(edges)

    def set_inv_depth(self, position: int, inv_depth: np.ndarray) -> None:
        """Replace the inverse depths [h, w] of a keyframe."""
        self._store.replace(position, inv_depth=inv_depth)

    def set_prior_weight(self, position: int, weight: np.ndarray) -> None:
        """Replace the weight [h, w] of a keyframe's prior depth in bundle adjustment."""
        self._store.replace(position, prior_weight=weight)

    def set_moving(self, position: int, moving: np.ndarray) -> None:
        """Replace the moving mask uint8 [h, w] of a keyframe."""
        self._store.replace(position, moving=moving)

    def set_road(self, position: int, road_depth_m: np.ndarray | None) -> None:
        """Note the depth of the measured road plane [h, w], 0 where there is none; None withdraws it."""
        self._store.replace(position, road_depth_m=self._store.zeros if road_depth_m is None else road_depth_m)

    def set_network_output(self, position: int, match: Correspondence, *, dense: bool) -> None:
        """Note what a recurrent model predicted of a keyframe: damping, and with ``dense`` its upsampling weights."""
        changes: dict[str, object] = {"depth_damping": match.depth_damping}
        if dense and match.upsample_weights is not None:
            evicted = position < self._store.evicted
            changes["upsample_weights"] = (
                self._store.offloader.put(match.upsample_weights) if evicted else match.upsample_weights
            )
        self._store.replace(position, **changes)

    def set_poses(self, T_world_cam: np.ndarray, log_scale: np.ndarray | None = None) -> None:
        """Replace all poses [N, 4, 4]; ``log_scale`` [N]: lengths around each keyframe grow by exp of it."""
        vectors = lie.matrix_to_pose_vec(lie.inverse(T_world_cam))
        for position, vector in enumerate(vectors):
            factor = 1.0 if log_scale is None else float(np.exp(log_scale[position]))
            self._rescaled(position, vector, factor)

    def move(self, positions: Iterable[int], T_new_old: np.ndarray) -> None:
        """Move keyframes, as one rigid piece, by a motion [4, 4] of the world that they lie in."""
        T_old_new = lie.inverse(T_new_old)
        for position in positions:
            T_cam_world = self._store[position].T_cam_world @ T_old_new
            self._store.replace(position, pose=lie.matrix_to_pose_vec(T_cam_world))

    def rescale(self, factor: float, begin: int = 0) -> None:
        """Multiply every length of the map from keyframe ``begin`` on; the camera of that one stays where it is."""
        T_world_cam = self.T_world_cam(slice(begin, None))
        centres = T_world_cam[:, :3, 3]
        T_world_cam[:, :3, 3] = centres[0] + factor * (centres - centres[0])
        for offset, vector in enumerate(lie.matrix_to_pose_vec(lie.inverse(T_world_cam))):
            self._rescaled(begin + offset, vector, factor)

    def _rescaled(self, position: int, pose: np.ndarray, factor: float) -> None:
        keyframe = self._store[position]
        if factor == 1.0:
            self._store.replace(position, pose=pose)
            return
        self._store.replace(
            position, pose=pose, inv_depth=keyframe.inv_depth / factor, length_scale=keyframe.length_scale * factor
        )

    # ------------------------------------------------------------------ solve

    def solve(self, begin: int, end: int, fixed: Collection[int], iterations: int) -> BaReport:
        """Optimise keyframes begin..end-1 in place; the poses of those in ``fixed`` stay."""
        positions = range(begin, end)
        if not any(begin <= t < end for i in positions for t in self.graph.targets_of(i)):
            return self.graph.count(BaReport(SolveStatus.NOTHING_TO_DO))
        window, report = self.solver.solve(self.graph.window(positions, fixed), iterations=iterations)
        self.take_over(positions, window)
        return self.graph.count(report)

    def take_over(self, positions: Sequence[int], window: BaWindow, *, depths: bool = True) -> None:
        """Store what was solved of these keyframes, the first ones of a window; without ``depths`` theirs stay."""
        n = len(positions)
        solved: Array = window.inv_depth[:n]
        found = on_host(solved) if depths else None  # one download for all
        scales = window.prior_log_scale
        for offset, position in enumerate(positions):
            changes: dict[str, object] = {"pose": window.poses[offset].copy()}
            if scales is not None:
                changes["prior_log_scale"] = float(scales[offset])
            if found is not None:
                changes["inv_depth"] = found[offset].copy()
            self._store.replace(position, **changes)
            if found is not None:
                self.solver.remember(self._store[position].inv_depth, solved[offset])

    # ------------------------------------------------------------------ checkpoint

    def state(self) -> StateTree:
        """Arrays for a checkpoint; what is large goes to the disk first."""
        return {
            "keyframes": keyframes_to_state(self._store),
            "graph": self.graph.state(),
            "submaps": self.submaps.state(),
        }

    def restore(self, state: StateTree, rebuild: Rebuild) -> None:
        """Replace an empty map by what :meth:`state` returned; ``rebuild(index)`` computes the features and the prior
        state of a recent frame again.
        """
        keyframes_from_state(self._store, tree_in(state, "keyframes"), rebuild)
        self.graph.restore(tree_in(state, "graph"))
        self.submaps.restore(tree_in(state, "submaps"))
