"""The numbers of loop closure, with their units and where they come from.

Lengths are in units of the scene, so that one set of numbers holds from a desk (median depth 0.6-1 m) through a room
(2 m) to a road (10-15 m, which is where today's metres were tuned: a length is those metres over 12.5 m).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LoopLimits:
    """When two keyframes make a loop. ``depths``: multiples of the median depth of the scene."""

    same_view_rad: float = float(np.radians(40.0))
    """Largest angle between the optical axes of two keyframes that may share a view, rad; half of a usual field of
    view, insensitive."""

    forward_depths: float = 6.0
    """Forward travel that replaces the view, depths, where sideways one depth does and a turn of 1 rad: a camera that
    moves forward keeps most of its view. 6 depths are 75 m on a road."""

    neighbours: int = 12
    """Keyframes before and after a match among which the nearest to the query is taken."""

    decoy_depths: float = 0.5
    """Distance beyond which a keyframe shows another place, depths; 6 m on a road, about the width of a house."""

    decoy_view_changes: float = 0.55
    """Way (see Route.way) within which the map is sure of that distance, view changes."""

    decoy_error_depths: float = 0.25
    """Error of a verified pose between such keyframes that proves a repetitive scene, depths."""

    decoys: int = 3
    """Keyframes that are tried as decoys; each costs a verification."""

    decoys_apart: int = 4
    """Positions between two of them, at least."""

    candidates_apart: int = 10
    """Positions between two candidates, at least: nearer ones show the same place."""

    min_fit: float = 0.15
    """Cells of the dense matches that must fit the pose, share of all cells."""

    min_inliers: float = 0.6
    """Confidence of the dense matches that must fit the pose, share."""

    agreement_depths: float = 0.075
    """Distance of the poses from dense matches in both directions, depths of the match; 0.9 m on a road."""

    agreement_rad: float = float(np.radians(1.5))
    """Angle between those poses, rad."""

    move_depths: float = 0.025
    """Correction below which a loop waits for the next pose graph, depths; it decides when, not whether."""

    move_rad: float = float(np.radians(0.3))
    """The same for the rotation, rad."""

    large: float = 5.0
    """Multiple of it from which the pose graph runs at once and decides on the loop."""

    patience: int = 24
    """Keyframes between two pose graphs for corrections between these limits."""

    same_move_depths: float = 0.125
    """Distance of the moves that two loops between the same submaps ask for, depths; 1.5 m on a road."""

    same_move_rad: float = float(np.radians(5.0))
    """Angle between those moves, rad."""

    stretch_depths: float = 0.125
    """Correction up to which a stretch that was just recognised is followed without a new verification, depths."""

    accepted_weight: float = 0.5
    """Weight of the pose graph from which a loop counts as true; weights are nearly always 0 or 1."""

    unknown_scale_drift: float = 0.5
    """Drift of the position where nothing metric holds the scale, share of the way: the scale may drift by a factor."""


@dataclass(frozen=True)
class VerificationLimits:
    """What makes a pair of images one place. benchmarks/loop_verification.py counts what is found and what is false."""

    features: int = 700
    """SIFT features per image; time grows with their square."""

    features_kept: int = 64
    """Keyframes whose features stay in memory, 0.4 MB each."""

    ratio: float = 0.8
    """Lowe's ratio test of the first matches."""

    min_confidence: float = 0.05
    """Confidence of an inverse depth that places a point."""

    min_inv_depth: float = 1e-3
    """Inverse depth over the median of the keyframe, below which a point is too far to place the camera."""

    max_depth_step: float = 0.3
    """Relative difference of the inverse depths around a point; beyond it lies a depth edge."""

    seed_px: float = 3.0
    """Reprojection error of RANSAC, pixels."""

    pixel_sigma_px: float = 1.0
    """Standard deviation of a feature's position, pixels."""

    depth_sigma: float = 0.08
    """Relative standard deviation of a single depth; it moves the predicted position of a point along a line."""

    gate: float = 9.21
    """Squared Mahalanobis distance that 99 % of true matches stay below, chi-squared with 2 degrees of freedom."""

    search_gate: float = 16.0
    """The same around the first pose, which is less accurate."""

    max_descriptor_distance: float = 0.6
    """Of unit vectors. By chance less than a tenth of the points find one that near, with a true pose a third."""

    min_depth_ratio: float = 0.05
    """Depth in the other camera over depth in its own, below which a point is all but beside the camera."""

    refinements: int = 8
    """Gauss-Newton iterations at most."""

    min_seeds: int = 8
    """Matches, found without a predicted position, that fit the first pose."""

    min_inliers: int = 30
    """Points found again, in each direction."""

    min_share: float = 0.12
    """Share of the points in view that are found again, in the worse direction."""

    min_better_share: float = 0.22
    """The same in the better direction."""

    min_spread: float = 0.2
    """Share of the image's 8 x 4 fields that hold an inlier."""

    max_disagreement: float = 0.085
    """Distance of the poses of the two directions, share of the median depth of the inliers; 1 m on a road."""

    max_disagreement_rad: float = float(np.radians(2.0))
    """Angle between them, rad."""

    max_log_scale: float = 0.25
    """Ratio of the two depth maps, as a logarithm, where both are metric."""

    rival: float = 0.6
    """Share of the winner's inliers from which another place makes it ambiguous."""

    other_place_depths: float = 0.65
    """Distance of another place from the winner, median depths of the scene; 8 m on a road."""


@dataclass(frozen=True)
class LinkSigmas:
    """Standard deviations of the links of the pose graph. ``depths``: multiples of the median depth of the scene.

    benchmarks/false_loops.py shows that with these steady drift costs no true loop and helps no false one.
    """

    step: float = 0.10
    """Of a step of the chain, share of its travel (see Route.travel); far above its scatter, since neighbouring steps
    err alike. Turns count because from flow they are hard to tell from sideways moves."""

    step_depths: float = 0.0008
    """Added to it, depths."""

    step_rad: float = 0.0015
    """Of its rotation, rad."""

    step_log_scale: float = 0.01
    """Of its change of scale."""

    loop: float = 0.02
    """Of a loop, share of the distance between its keyframes."""

    loop_depths: float = 0.004
    """Added to it, depths; about a pixel of a camera with a focal length of 250."""

    loop_rad: float = 0.004
    """Of its rotation, rad."""

    loop_log_scale: float = 0.03
    """Of its ratio of scales."""
