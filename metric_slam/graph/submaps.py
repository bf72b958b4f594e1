"""Submaps: stretches of the video without matches between them, which begin where tracking was lost."""

from __future__ import annotations

import numpy as np

from metric_slam.checkpointable import StateTree, array_in


class Submaps:
    """Where submaps begin, and which of them share a frame of reference."""

    def __init__(self) -> None:
        self.begins: list[int] = []
        """Positions of their first keyframes: 0, and more where tracking was lost."""

        self.gaps: list[np.ndarray] = []
        """Predicted motion where tracking was lost: T_first_before [4, 4] of each submap's first keyframe and the
        keyframe before it; the identity for the first submap."""

        self._component: list[int] = []  # lowest submap that each is joined with

    def begin(self, position: int, T_first_before: np.ndarray | None = None) -> int:
        """Begin a submap with the keyframe at ``position``; returns its number."""
        assert not self.begins or position > self.begins[-1], (position, self.begins)
        self.begins.append(position)
        self.gaps.append(np.eye(4) if T_first_before is None else T_first_before)
        self._component.append(len(self._component))
        return len(self.begins) - 1

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def current_begin(self) -> int:
        """Position of the first keyframe of the latest submap."""
        return self.begins[-1]

    def range(self, submap: int, count: int) -> range:
        """Positions of the keyframes of a submap when there are ``count`` in all."""
        end = self.begins[submap + 1] if submap + 1 < len(self.begins) else count
        return range(self.begins[submap], end)

    def component(self, submap: int) -> int:
        """The lowest submap that this one is joined with, directly or through others; its own number if with none."""
        return self._component[submap]

    def joined(self, first: int, second: int) -> bool:
        """True if two submaps share a frame of reference."""
        return self._component[first] == self._component[second]

    def join(self, first: int, second: int) -> None:
        """Let two submaps, and those joined with them, share a frame of reference."""
        low, high = sorted((self._component[first], self._component[second]))
        self._component = [low if c == high else c for c in self._component]

    def members(self, submap: int) -> list[int]:
        """All submaps that share the frame of reference of this one, itself included."""
        return [s for s in range(len(self)) if self.joined(s, submap)]

    def sharing(self, submap: int, count: int) -> list[int]:
        """Positions of all keyframes, of ``count`` in all, that share the frame of reference of this submap."""
        return [position for member in self.members(submap) for position in self.range(member, count)]

    def anchors(self) -> set[int]:
        """Positions of one keyframe for each frame of reference: the first."""
        return {self.begins[s] for s in range(len(self)) if self._component[s] == s}

    def state(self) -> StateTree:
        """Arrays for a checkpoint."""
        return {
            "begins": np.array(self.begins, np.int64),
            "gaps": np.array(self.gaps, np.float64).reshape(-1, 4, 4),
            "component": np.array(self._component, np.int64),
        }

    def restore(self, state: StateTree) -> None:
        """Replace everything by what :meth:`state` returned."""
        self.begins, self._component = array_in(state, "begins").tolist(), array_in(state, "component").tolist()
        self.gaps = list(array_in(state, "gaps"))
