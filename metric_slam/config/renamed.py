"""Configuration keys that have a new name, so that an old file or option gets an answer that names it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

RENAMED_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "frontend": "sliding_window",
        "backend": "global_ba",
        "dis.round_trip_sigma_px": "dis.forward_backward_sigma_px",
        "dis.max_round_trip_px": "dis.max_forward_backward_px",
        "dis.max_round_trip_relative": "dis.max_forward_backward_relative",
        "droid.backend_threshold_cells": "droid.global_threshold_cells",
        "droid.backend_radius": "droid.global_radius",
        "droid.backend_suppression": "droid.global_suppression",
        "droid.backend_edges_per_keyframe": "droid.global_edges_per_keyframe",
        "droid.backend_max_edges": "droid.global_max_edges",
        "bundle_adjustment.backend_ridge": "bundle_adjustment.global_ridge",
        "bundle_adjustment.backend_step_damping": "bundle_adjustment.global_step_damping",
        "ground_plane.corridor_m": "ground_plane.corridor_heights in camera heights",
        "ground_plane.wide_corridor_m": "ground_plane.wide_corridor_heights in camera heights",
        "ground_plane.nearest_m": "ground_plane.nearest_heights in camera heights",
        "ground_plane.farthest_m": "ground_plane.farthest_heights in camera heights",
        "ground_plane.min_baseline_m": "ground_plane.min_baseline_heights in camera heights",
        "loop.min_path_m": "loop.min_detour in changes of the view, not metres",
        "loop.drift_floor_m": "loop.drift_floor in median depths of the scene, not metres",
    }
)
"""Old dotted key -> new one. A section stands for all its keys; what follows a space after the new key is a note, e.g.
of another unit: ``"ground_plane.corridor_heights in camera heights"``."""


def renamed_key(key: str) -> str | None:
    """One line that names the new key of ``key``, or of the longest renamed section around it; None if it has none."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        new = RENAMED_KEYS.get(".".join(parts[:length]))
        if new is not None:
            new, _, note = new.partition(" ")
            now = ".".join([new, *parts[length:]])
            return f"configuration key '{key}' is now '{now}'" + (f" ({note})" if note else "")
    return None
