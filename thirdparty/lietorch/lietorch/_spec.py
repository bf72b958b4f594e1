"""What distinguishes the four groups: their sizes and their place inside Sim3, of which all are subgroups."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GroupSpec:
    """Sizes of one group.

    ``stored`` and ``tangent`` are the half-open ranges that its numbers take among those of Sim3: stored
    (t 0:3, q_xyzw 3:7, s 7), tangent (tau 0:3, phi 3:6, sigma 6).
    """

    name: str
    number: int  # as the compiled module counts them
    stored: tuple[int, int]
    tangent: tuple[int, int]

    @property
    def N(self) -> int:
        """Numbers stored per element."""
        return self.stored[1] - self.stored[0]

    @property
    def K(self) -> int:
        """Degrees of freedom."""
        return self.tangent[1] - self.tangent[0]

    @property
    def identity(self) -> tuple[float, ...]:
        """The neutral element as stored."""
        return (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)[self.stored[0] : self.stored[1]]


SO3_SPEC = GroupSpec("SO3", 1, (3, 7), (3, 6))
RXSO3_SPEC = GroupSpec("RxSO3", 2, (3, 8), (3, 7))
SE3_SPEC = GroupSpec("SE3", 3, (0, 7), (0, 6))
SIM3_SPEC = GroupSpec("Sim3", 4, (0, 8), (0, 7))
