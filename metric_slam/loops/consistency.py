"""Loops of a pose graph that can be true together, found before any of them may bend the trajectory.

A loop and the chain between its ends form a cycle that ought to close; so do two loops and the chains between their
ends. The closing error of each cycle is compared with the covariances along it, to first order. A robust kernel cannot
do this: it weighs the residual of the loop alone, and a long chain yields until little of it remains.

The standard deviation of a step has two parts: scatter, whose sum grows with the root of the number of steps, and
steady errors (of scale, of heading), whose sum grows with their number. Kept apart, a short way is certain and a long
one may drift; the steady errors of a way and of the same way travelled again cancel.

Mangelson et al., *Pairwise consistent measurement set maximization for robust multi-robot map merging*, ICRA 2018; as
there, loops that contradict others leave until all pairs agree, but one by one (greedy) instead of by largest clique.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import chi2

from metric_slam.loops.groups import LieGroup, of_kind

_SCATTER, _STEADY = 0.3, 0.2
"""Shares of a step's standard deviation: new in every step, and common to all steps."""

_IMPROBABLE = 1e-9  # probability of a cycle between true loops; first-order covariances are too rough for more


@dataclass(frozen=True)
class Motions:
    """Measured motions between keyframes, L of them."""

    source: np.ndarray
    """int64 [L]."""

    target: np.ndarray
    """int64 [L]."""

    T_target_source: LieGroup
    """``lie.SE3`` or ``lie.Sim3`` of batch shape [L], float64."""

    variance: np.ndarray
    """Diagonal covariance in the tangent space of the source camera, in the order of the group, float64 [L, K]."""


def pieces(count: int, chain: Motions) -> np.ndarray:
    """Number of the piece of the chain that each of ``count`` keyframes belongs to, int64 [N], rising.

    Every link must lead from a keyframe to the next.
    """
    assert (chain.target == chain.source + 1).all(), "a link of the chain leads from a keyframe to the next"
    assert len(np.unique(chain.source)) == len(chain.source), "two links of the chain begin at one keyframe"
    begins = np.ones(count, np.int64)
    begins[chain.target] = 0
    return np.cumsum(begins) - 1


def closing_errors(T_world_cam: LieGroup, loops: Motions) -> LieGroup:
    """Motions T_target_world T_source_world^-1 by every loop, a group of batch shape [L].

    Each brings the source's side of the map to where the target's side has it: the identity where the loop agrees with
    the poses [N].
    """
    return T_world_cam[loops.target] * loops.T_target_source * T_world_cam[loops.source].inv()


def agreeing_loops(T_world_cam: LieGroup, chain: Motions, loops: Motions) -> np.ndarray:
    """Loops that fit the chain and one another, bool [L].

    ``T_world_cam``: ``lie.SE3`` or ``lie.Sim3`` of batch shape [N], the poses along the chain. Every link of the chain
    leads from a keyframe to the next. Where a link is missing the chain has two pieces, and loops between them are
    compared only with loops between the same two pieces.
    """
    sides = _Sides.of(T_world_cam, chain, loops)
    limit = chi2.isf(_IMPROBABLE, sides.error.shape[-1])
    inside = sides.piece[:, 0] == sides.piece[:, 1]
    alone = np.where(inside, sides.against_chain(), 0.0 * sides.error[:, 0])
    keep = alone <= limit  # false for NaN
    apart = np.zeros((len(keep), len(keep)), bool)
    for a in np.flatnonzero(keep).tolist():
        others = np.flatnonzero(keep & (np.arange(len(keep)) > a) & (sides.piece == sides.piece[a]).all(axis=1))
        apart[a, others] = apart[others, a] = ~(sides.against(a, others) <= limit)
    while apart.any():
        worst = np.lexsort((alone, apart.sum(axis=1)))[-1]  # contradicts most others; then: fits the chain worst
        keep[worst] = False
        apart[worst] = apart[:, worst] = False
    return keep


@dataclass(frozen=True)
class _Sides:
    """Loops in the world frame, directed from their earlier end to their later one."""

    early: np.ndarray
    late: np.ndarray
    piece: np.ndarray  # [L, 2] of the two ends
    error: np.ndarray  # [L, K] logarithms of the closing errors
    motion: LieGroup  # the closing errors
    covariance: np.ndarray  # [L, K, K] of the measurements
    scatter: np.ndarray  # [N, K, K] covariance of the chain from the first keyframe on
    steady: np.ndarray  # [N, K, K] error of the chain there for one standard deviation of each steady error

    @classmethod
    def of(cls, T_world_cam: LieGroup, chain: Motions, loops: Motions) -> _Sides:
        count = T_world_cam.shape[0]
        piece = pieces(count, chain)
        scatter = np.zeros((count, chain.variance.shape[1], chain.variance.shape[1]))
        scatter[chain.target] = _spread(T_world_cam[chain.source], _SCATTER**2 * chain.variance)
        steady = np.zeros_like(scatter)
        steady[chain.target] = _adjoint(T_world_cam[chain.source]) * (_STEADY * np.sqrt(chain.variance))[:, None, :]
        motion = closing_errors(T_world_cam, loops)
        covariance = _spread(T_world_cam[loops.target] * loops.T_target_source, loops.variance)
        backward = loops.source > loops.target
        if backward.any():
            turned = motion.inv()
            Ad = _adjoint(turned)
            covariance = np.where(backward[:, None, None], Ad @ covariance @ Ad.swapaxes(1, 2), covariance)
            data = torch.where(torch.from_numpy(backward)[:, None], turned.data, motion.data)
            motion = of_kind(motion, data)
        early, late = np.minimum(loops.source, loops.target), np.maximum(loops.source, loops.target)
        ends = np.stack([piece[early], piece[late]], axis=1)
        sums = np.cumsum(scatter, axis=0), np.cumsum(steady, axis=0)
        return cls(early, late, ends, motion.log().numpy(), motion, covariance, *sums)

    def against_chain(self) -> np.ndarray:
        """Squared Mahalanobis length of every closing error, [L]; without meaning where the chain is interrupted."""
        steady = self.steady[self.late] - self.steady[self.early]
        scatter = self._scatter_between(self.early, self.late)
        return _mahalanobis(self.error, self.covariance + scatter + steady @ steady.swapaxes(1, 2))

    def against(self, a: int, others: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis length of the cycles through loop ``a`` and every one of ``others`` [M], [M]."""
        error = (self.motion[[a]] * self.motion[others].inv()).log().numpy()
        Ad = _adjoint(self.motion[[a]])[0]
        begins = Ad @ self._scatter_between(self.early[a], self.early[others]) @ Ad.T
        ends = self._scatter_between(self.late[a], self.late[others])
        steady = Ad @ (self.steady[self.early[others]] - self.steady[self.early[a]])
        steady = steady - (self.steady[self.late[others]] - self.steady[self.late[a]])
        chain = begins + ends + steady @ steady.swapaxes(1, 2)
        return _mahalanobis(error, self.covariance[a] + self.covariance[others] + chain)

    def _scatter_between(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Covariance of the chain between keyframes, [..., K, K]."""
        return self.scatter[np.maximum(i, j)] - self.scatter[np.minimum(i, j)]


def _adjoint(T: LieGroup) -> np.ndarray:
    """Adjoint matrices [L, K, K] of a group of batch shape [L]."""
    K = T.manifold_dim
    basis = torch.eye(K, dtype=torch.float64).expand(T.shape[0], K, K)
    return T[:, None].adj(basis).numpy().swapaxes(1, 2)


def _spread(T: LieGroup, variance: np.ndarray) -> np.ndarray:
    """Covariances [L, K, K] in the world of diagonal ones in frames T [L]."""
    Ad = _adjoint(T)
    return (Ad * variance[:, None, :]) @ Ad.swapaxes(1, 2)


def _mahalanobis(error: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """error^T covariance^-1 error, [L]."""
    return np.einsum("lk,lk->l", error, np.linalg.solve(covariance, error[..., None])[..., 0])
