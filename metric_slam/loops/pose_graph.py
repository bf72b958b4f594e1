"""Pose graph over all keyframes: the chain of neighbours, and loops of which some may be false.

    loops -> those that fit the chain and one another (consistency) -> Levenberg-Marquardt
          -> residuals improbable? graduated non-convexity over the rest, and once more without the rejected

SE(3) where lengths are metres; Sim(3) where the unit of length drifts along the drive. Solved by GTSAM.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np
import torch
from scipy.stats import chi2

from metric_slam.errors import InputError
from metric_slam.geometry import lie
from metric_slam.loops.consistency import Motions, agreeing_loops, closing_errors, pieces
from metric_slam.loops.groups import LieGroup, identity, of_kind
from metric_slam.loops.gtsam_door import Factor, Graph, Values, load_gtsam

log = logging.getLogger(__name__)

_IMPROBABLE = 1e-4  # residual of a true loop at the optimum
_ANCHOR_SIGMA = 1e-6  # m, rad; far below that of any link, not so far that the equations lose digits
_MAX_ITERATIONS = 100


@dataclass(frozen=True)
class PoseLink:
    """A measured motion between two keyframes."""

    source: int
    target: int
    T_target_source: np.ndarray
    """Maps points of the source camera into the target camera, float64 [4, 4], lengths in the unit of the source."""

    sigma_m: float
    """Standard deviation of each coordinate of the translation."""

    sigma_rad: float
    """Standard deviation of the rotation about each axis."""

    log_scale: float = 0.0
    """log(a length in the unit of the source / the same length in the unit of the target); only for Sim(3)."""

    sigma_log_scale: float = 0.0
    """Standard deviation of ``log_scale``; only for Sim(3), where it must be positive."""


@dataclass(frozen=True)
class PoseGraphResult:
    """The optimised graph of N keyframes and L loops; after a failure the start, with weight 0 for every loop."""

    T_world_cam: np.ndarray
    """float64 [N, 4, 4]."""

    log_scale: np.ndarray
    """log(new unit / old unit) [N]: depths of a keyframe are to be multiplied by its exponential; zeros for SE(3)."""

    loop_weights: np.ndarray
    """Weight of each loop, 0..1, [L]."""

    iterations: int
    """Of Levenberg-Marquardt, all solves together."""

    cost_initial: float
    """Half the sum of squared residuals, in standard deviations, of chain and accepted loops at the start."""

    cost_final: float
    """The same at the end."""


def optimise_pose_graph(
    T_world_cam: np.ndarray,
    chain: Sequence[PoseLink],
    loops: Sequence[PoseLink],
    fixed: set[int],
    *,
    scale_known: bool,
) -> PoseGraphResult:
    """Optimise poses over the chain and the loops that prove true.

    ``T_world_cam`` [N, 4, 4] is the start and goes along the chain (gaps between its pieces may be wrong: a piece
    without a fixed pose is moved as a whole to where the loops put it). ``chain`` leads from keyframes to the next
    ones and is never rejected. ``fixed`` poses stay exactly; a part of the graph that holds none keeps its first pose.

    Raises:
        MissingDependencyError: GTSAM is not installed.
        InputError: an array has the wrong shape, a link names a missing keyframe or has no standard deviation.
    """
    gtsam = load_gtsam()
    if np.ndim(T_world_cam) != 3 or np.shape(T_world_cam)[1:] != (4, 4):
        raise InputError(f"T_world_cam must be [N, 4, 4], not {list(np.shape(T_world_cam))}")
    graph = _Graph(np.asarray(T_world_cam, dtype=np.float64), list(chain), list(loops), fixed, scale_known, gtsam)
    if not loops:
        return graph.unchanged()
    try:
        keep = agreeing_loops(graph.start, graph.chain_motions, graph.loop_motions)
        if not keep.any():
            return graph.unchanged()
        solution = graph.solve(keep.astype(float))
        if (graph.loop_errors(solution.values, keep) > graph.limit).any():
            weights = graph.graduated_weights(solution.values, keep)
            if not weights.any():
                return graph.unchanged()
            solution = graph.solve(weights, before=solution.iterations)
        result = graph.result(solution)
    except (RuntimeError, np.linalg.LinAlgError) as error:  # GTSAM: an undetermined system
        reason = str(error).strip().split("\n")[0]
        log.warning("the pose graph could not be solved (%s): the map stays as it is", reason)
        return graph.unchanged()
    numbers = (result.T_world_cam, result.log_scale, result.cost_final)
    if not all(np.isfinite(n).all() for n in numbers):
        log.warning("the pose graph has no finite solution: the map stays as it is")
        return graph.unchanged()
    return result


@dataclass(frozen=True)
class _Solution:
    values: Values
    weights: np.ndarray
    iterations: int
    cost_initial: float
    cost_final: float


@dataclass(frozen=True)
class _Graph:
    """One problem in the terms of GTSAM."""

    T_world_cam: np.ndarray
    chain: list[PoseLink]
    loops: list[PoseLink]
    fixed: set[int]
    scale_known: bool
    gtsam: ModuleType

    @property
    def limit(self) -> float:
        """Squared residual beyond which a loop is rejected."""
        return float(chi2.isf(_IMPROBABLE, 6 if self.scale_known else 7))

    # ---- in lie's terms

    @cached_property
    def start(self) -> LieGroup:
        """Start poses, of batch shape [N]."""
        return self._group(self.T_world_cam, np.zeros(len(self.T_world_cam)))

    @cached_property
    def chain_motions(self) -> Motions:
        return self._motions(self.chain)

    @cached_property
    def loop_motions(self) -> Motions:
        return self._motions(self.loops)

    def _group(self, T: np.ndarray, log_scale: np.ndarray) -> LieGroup:
        vec = lie.matrix_to_pose_vec(T)
        if self.scale_known:
            return lie.SE3(torch.from_numpy(vec))
        return lie.Sim3(torch.from_numpy(np.concatenate([vec, np.exp(log_scale)[:, None]], axis=1)))

    def _motions(self, links: list[PoseLink]) -> Motions:
        T = np.array([link.T_target_source for link in links], dtype=np.float64).reshape(-1, 4, 4)
        shrink = np.array([0.0 if self.scale_known else -link.log_scale for link in links])
        T[:, :3, 3] *= np.exp(shrink)[:, None]
        sigma = np.array([[link.sigma_m] * 3 + [link.sigma_rad] * 3 + [link.sigma_log_scale] for link in links])
        sigma = sigma.reshape(-1, 7)[:, : 6 if self.scale_known else 7]
        if not (sigma > 0).all():
            raise InputError("standard deviations of links must be positive")
        ends = np.array([[link.source, link.target] for link in links], np.int64).reshape(-1, 2)
        if not ((ends >= 0) & (ends < len(self.T_world_cam))).all():
            raise InputError("a link names a keyframe that is not in T_world_cam")
        return Motions(ends[:, 0], ends[:, 1], self._group(T, shrink), sigma**2)

    # ---- in GTSAM's terms

    def solve(self, weights: np.ndarray, before: int = 0) -> _Solution:
        """Levenberg-Marquardt with weighted loops; those of weight 0 are left out."""
        graph, values = self._build(weights)
        optimizer = self.gtsam.LevenbergMarquardtOptimizer(graph, values, self._parameters())
        cost_initial = graph.error(self._values(self.start))
        solved = optimizer.optimize()
        return _Solution(solved, weights, before + optimizer.iterations(), cost_initial, graph.error(solved))

    def graduated_weights(self, values: Values, keep: np.ndarray) -> np.ndarray:
        """Weights [L] of the loops by graduated non-convexity (truncated least squares) from ``values`` on.

        Yang et al., *Graduated non-convexity for robust spatial perception*, IEEE RA-L 5(2), 2020.
        """
        graph, _ = self._build(keep.astype(float))
        certain = graph.size() - int(keep.sum())
        parameters = self.gtsam.GncLMParams(self._parameters())
        parameters.setLossType(self.gtsam.GncLossType.TLS)
        parameters.setKnownInliers(list(range(certain)))
        gnc = self.gtsam.GncLMOptimizer(graph, values, parameters)
        gnc.setInlierCostThresholds(0.5 * self.limit)
        gnc.optimize()
        weights = np.zeros(len(keep))
        weights[keep] = np.clip(gnc.getWeights()[certain:], 0.0, 1.0)
        return weights

    def loop_errors(self, values: Values, keep: np.ndarray) -> np.ndarray:
        """Squared residuals, in standard deviations, of some loops."""
        return np.array([2.0 * self._between(self.loops[n], 1.0).error(values) for n in np.flatnonzero(keep)])

    def result(self, solution: _Solution) -> PoseGraphResult:
        """Poses and scales of a solution; fixed poses to the last digit."""
        T, log_scale = np.tile(np.eye(4), (len(self.T_world_cam), 1, 1)), np.zeros(len(self.T_world_cam))
        for n in range(len(T)):
            if self.scale_known:
                T[n] = solution.values.atPose3(n).matrix()
                continue
            similarity = solution.values.atSimilarity3(n)
            T[n, :3, :3] = similarity.rotation().matrix()
            T[n, :3, 3] = similarity.scale() * similarity.translation()
            log_scale[n] = np.log(similarity.scale())
        stays = sorted(self.fixed)
        T = lie.renormalise(T)
        T[stays], log_scale[stays] = self.T_world_cam[stays], 0.0
        return PoseGraphResult(
            T, log_scale, solution.weights, solution.iterations, solution.cost_initial, solution.cost_final
        )

    def unchanged(self) -> PoseGraphResult:
        """The start, with weight 0 for every loop."""
        count = len(self.T_world_cam)
        return PoseGraphResult(self.T_world_cam.copy(), np.zeros(count), np.zeros(len(self.loops)), 0, 0.0, 0.0)

    def _build(self, weights: np.ndarray) -> tuple[Graph, Values]:
        """(factors, start): anchors, chain, and then the loops of positive weight."""
        gtsam, graph = self.gtsam, self.gtsam.NonlinearFactorGraph()
        accepted = [n for n in range(len(self.loops)) if weights[n] > 0]
        placed, anchors = self._place_pieces(accepted)
        values = self._values(placed)
        dimensions = 6 if self.scale_known else 7
        hold = gtsam.noiseModel.Isotropic.Sigma(dimensions, _ANCHOR_SIGMA)
        prior = gtsam.PriorFactorPose3 if self.scale_known else gtsam.PriorFactorSimilarity3
        at = values.atPose3 if self.scale_known else values.atSimilarity3
        for n in anchors:
            graph.add(prior(n, at(n), hold))
        for link in self.chain:
            graph.add(self._between(link, 1.0))
        for n in accepted:
            graph.add(self._between(self.loops[n], float(weights[n])))
        return graph, values

    def _place_pieces(self, accepted: list[int]) -> tuple[LieGroup, list[int]]:
        """(start poses, anchors): pieces of the chain without a fixed pose moved to where the first loop puts them."""
        piece = pieces(len(self.T_world_cam), self.chain_motions)
        ends = piece[np.stack([self.loop_motions.source, self.loop_motions.target], axis=1)]
        closing = closing_errors(self.start, self.loop_motions)
        unmoved = identity(closing)
        anchors = sorted(self.fixed)
        moves = {int(p): unmoved for p in piece[anchors]}
        for number, first in enumerate(np.flatnonzero(np.diff(piece, prepend=-1)).tolist()):
            self._reach(moves, ends, closing, accepted)
            if number not in moves:  # nothing leads there from a fixed pose
                moves[number] = unmoved
                anchors.append(first)
        self._reach(moves, ends, closing, accepted)
        steps = torch.stack([moves[int(p)].data for p in piece])
        return of_kind(self.start, steps) * self.start, anchors

    def _reach(self, moves: dict[int, LieGroup], ends: np.ndarray, closing: LieGroup, accepted: list[int]) -> None:
        """Adds to ``moves`` T_new_old of all pieces that loops connect with those in it."""
        grows = True
        while grows:
            grows = False
            for n in accepted:
                source, target = ends[n].tolist()
                if source in moves and target not in moves:
                    moves[target] = moves[source] * closing[n].inv()
                elif target in moves and source not in moves:
                    moves[source] = moves[target] * closing[n]
                else:
                    continue
                grows = True

    def _values(self, poses: LieGroup) -> Values:
        """Poses of batch shape [N] as GTSAM's values, keys 0..N-1."""
        gtsam, values = self.gtsam, self.gtsam.Values()
        data = poses.data.numpy()
        T = lie.pose_vec_to_matrix(data[:, :7])
        for n in range(len(T)):
            if self.scale_known:
                values.insert(n, gtsam.Pose3(T[n]))
            else:
                values.insert(n, self._similarity(T[n], data[n, 7]))
        return values

    def _similarity(self, T: np.ndarray, scale: float) -> object:
        """X -> scale R x + t; GTSAM multiplies t by the scale too."""
        return self.gtsam.Similarity3(self.gtsam.Rot3(T[:3, :3]), T[:3, 3] / scale, float(scale))

    def _between(self, link: PoseLink, weight: float) -> Factor:
        """The factor of a link. GTSAM's measurement is T_first_second, so the target comes first."""
        gtsam = self.gtsam
        sigmas = np.array([link.sigma_rad] * 3 + [link.sigma_m] * 3) / np.sqrt(weight)
        if self.scale_known:
            noise = gtsam.noiseModel.Diagonal.Sigmas(sigmas)
            return gtsam.BetweenFactorPose3(link.target, link.source, gtsam.Pose3(link.T_target_source), noise)
        scale = float(np.exp(-link.log_scale))
        T = np.array(link.T_target_source, dtype=np.float64)
        T[:3, 3] *= scale
        noise = gtsam.noiseModel.Diagonal.Sigmas(np.append(sigmas, link.sigma_log_scale / np.sqrt(weight)))
        return gtsam.BetweenFactorSimilarity3(link.target, link.source, self._similarity(T, scale), noise)

    def _parameters(self) -> object:
        parameters = self.gtsam.LevenbergMarquardtParams()
        parameters.setMaxIterations(_MAX_ITERATIONS)
        parameters.setRelativeErrorTol(1e-6)
        return parameters
