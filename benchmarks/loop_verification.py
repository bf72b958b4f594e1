#!/usr/bin/env python
"""How often are two keyframes of one place told to be one, and two of different places?

    python benchmarks/loop_verification.py --data DIR [raw0013 kitti04 7scenes town alike ...]

Keyframes, their depths and confidences are those of the pipeline (preset fast, no loops), distances those of the truth.
A pair counts as found if it is accepted with a pose that is right to 0.3 m and 10 % of the distance; as false if it is
accepted with another one, or if its images come from two different sequences. ``town`` and ``alike`` are rendered.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from metric_slam.config.resolve import Setting, resolve_config
from metric_slam.config.schema import Config
from metric_slam.datasets import open_dataset
from metric_slam.datasets.base import Dataset
from metric_slam.datasets.synthetic import DriveSpec, open_demo
from metric_slam.geometry import lie
from metric_slam.geometry.camera import PinholeCamera
from metric_slam.loops.place_recognition import PlaceIndex
from metric_slam.loops.verification import LoopVerifier, LoopView, VerifiedLoop
from metric_slam.run import pipeline

STREET_M, ROOM_M = (0.0, 2.0, 4.0, 6.0), (0.0, 0.3, 0.6, 1.0)
"""Distances between which true pairs are counted."""

SAME_VIEW = float(np.cos(np.radians(40.0)))
FALSE_M, FALSE_SHARE = 0.3, 0.10
AGAIN_M = 40.0
RENDERED = {
    "town": DriveSpec(route="town", length_m=1500.0, loops=3, seed=5),
    "alike": DriveSpec(route="town", length_m=900.0, loops=1, alike_houses=True, seed=6),
}
RAW_0013 = "kitti_raw/2011_09_26/2011_09_26_drive_0013_sync"


@dataclass(frozen=True)
class Sequence:
    """Keyframes of one run, with their true poses."""

    name: str
    camera: PinholeCamera
    views: list[LoopView]
    T_world_cam: np.ndarray  # [N, 4, 4]
    bins_m: tuple[float, ...]
    again: bool
    """Only places that the vehicle left in between: nearer keyframes of one passage are left out."""


def settings(**values: object) -> Config:
    """Preset fast without map and loops."""
    given = {"preset": "fast", "fusion.enabled": False, "loop.enabled": False}
    given |= {name.replace("__", "."): value for name, value in values.items()}
    return resolve_config(None, (), {key: Setting(value, "benchmark") for key, value in given.items()})


def open_case(name: str, data: Path) -> tuple[Dataset, Config, tuple[float, ...]]:
    """Data set, configuration and distances of a case."""
    road = settings(prior="ground_plane")
    if name == "raw0013":
        return open_dataset(data / RAW_0013, kind="kitti_raw"), road, STREET_M
    if name == "kitti04":
        return open_dataset(data / "kitti_odometry", kind="kitti", sequence="04"), road, STREET_M
    if name == "7scenes":
        camera = (525.0, 525.0, 320.0, 240.0)
        folder = data / "seven_scenes_redkitchen"
        room = settings(prior="sensor", input__size=(320, 240))
        return open_dataset(folder, kind="tum", camera=camera, depth_scale=1000.0), room, ROOM_M
    return open_demo(RENDERED[name]), road, STREET_M


def run(name: str, data: Path) -> Sequence:
    """The keyframes of a case."""
    dataset, config, bins_m = open_case(name, data)
    with tempfile.TemporaryDirectory() as out:
        result = pipeline.run(config, dataset, Path(out) / name).result
        views = [LoopView(k.index, k.pixels, k.inv_depth, k.confidence) for k in result.keyframes]
    assert dataset.T_world_cam_true is not None, name
    truth = dataset.T_world_cam_true[[k.index for k in result.keyframes]]
    return Sequence(name, result.keyframes[0].camera, views, truth, bins_m, name in RENDERED)


@dataclass
class Count:
    """Of one kind of pairs."""

    pairs: int = 0
    found: int = 0
    false: int = 0

    def add(self, answer: object, T_true: np.ndarray | None) -> None:
        """One answer of the verifier; ``T_true`` is what T_query_match ought to be, None for another world."""
        self.pairs += 1
        if isinstance(answer, VerifiedLoop):
            right = T_true is not None and is_right(answer, T_true)
            self.found += right
            self.false += not right


def is_right(answer: VerifiedLoop, T_true: np.ndarray) -> bool:
    """Is the camera where it truly is?"""
    off_m = np.linalg.norm(lie.inverse(answer.T_query_match)[:3, 3] - lie.inverse(T_true)[:3, 3])
    return bool(off_m < FALSE_M + FALSE_SHARE * np.linalg.norm(T_true[:3, 3]))


def kinds(sequence: Sequence) -> dict[str, list[tuple[int, int]]]:
    """Pairs (query, match) of a sequence by their distance, the query later; ``far``: beyond all of the distances."""
    centres, forward = sequence.T_world_cam[:, :3, 3], sequence.T_world_cam[:, :3, 2]
    pairs = np.array(list(combinations(range(len(centres)), 2)))[:, ::-1]
    apart_m = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1)
    alike = (forward[pairs[:, 0]] * forward[pairs[:, 1]]).sum(axis=1) > SAME_VIEW
    way_m = np.cumsum(np.linalg.norm(np.diff(centres, axis=0, prepend=centres[:1]), axis=1))
    if sequence.again:
        alike &= way_m[pairs[:, 0]] - way_m[pairs[:, 1]] > AGAIN_M
    chosen = {
        f"{low:g}-{high:g} m": pairs[alike & (apart_m >= low) & (apart_m < high)]
        for low, high in zip(sequence.bins_m[:-1], sequence.bins_m[1:], strict=True)
    }
    chosen["far"] = pairs[apart_m >= 2 * sequence.bins_m[-1]]
    return {kind: [(int(q), int(m)) for q, m in rows] for kind, rows in chosen.items()}


def some(pairs: list[tuple[int, int]], most: int, seed: int = 0) -> list[tuple[int, int]]:
    """At most so many of them, drawn at random."""
    rows = np.random.default_rng(seed).permutation(len(pairs))[:most]
    return [pairs[row] for row in sorted(rows)]


def inside(sequence: Sequence, most: int) -> dict[str, Count]:
    """Pairs of one sequence."""
    verifier, counts = LoopVerifier(sequence.camera), {}
    for kind, pairs in kinds(sequence).items():
        counts[kind] = Count()
        for query, match in some(pairs, most):
            T_true = lie.inverse(sequence.T_world_cam[query]) @ sequence.T_world_cam[match]
            counts[kind].add(verifier.verify(sequence.views[query], sequence.views[match]), T_true)
    return counts


def across(one: Sequence, other: Sequence, most: int) -> Count:
    """Pairs of two sequences, the images of the second brought to the size of the first."""
    verifier, count = LoopVerifier(one.camera), Count()
    size, grid = one.camera.size, one.views[0].inv_depth.shape[::-1]
    moved = [
        LoopView(
            100_000 + view.position,
            cv2.resize(view.image, size, interpolation=cv2.INTER_AREA),
            cv2.resize(view.inv_depth, grid, interpolation=cv2.INTER_NEAREST),
            cv2.resize(view.confidence, grid, interpolation=cv2.INTER_NEAREST),
        )
        for view in other.views
    ]
    pairs = [(q, m) for q in range(len(one.views)) for m in range(len(moved))]
    for query, match in some(pairs, most):
        count.add(verifier.verify(one.views[query], moved[match]), None)
    return count


def retrieval(sequence: Sequence, count: int = 5) -> dict[str, Count]:
    """Is a place among the ``count`` that look most alike if its nearest keyframe is so far away? False: it is not."""
    places, counts = PlaceIndex(), {f"retrieval from {low:g} m": Count() for low in sequence.bins_m[1:]}
    centres = sequence.T_world_cam[:, :3, 3]
    for query, view in enumerate(sequence.views):
        places.add(query, view.image)
        apart_m = np.linalg.norm(centres[:query] - centres[query], axis=1)
        for low, counted in zip(sequence.bins_m[1:], counts.values(), strict=True):
            before = np.flatnonzero(apart_m >= low)  # on a straight way: all up to the last of them
            if len(before) < 10 or apart_m[before[-1]] > 2 * low:
                continue
            found = places.query(query, exclude_after=int(before[-1]), count=count)
            good = any(apart_m[place.position] < 2 * low for place in found)
            counted.pairs += 1
            counted.found += good
            counted.false += not good
    return counts


def shown(name: str, counts: Iterable[tuple[str, Count]]) -> None:
    """One line each."""
    for kind, count in counts:
        figures = {"pairs": count.pairs, "found": round(count.found / max(count.pairs, 1), 3), "false": count.false}
        print(name, kind, json.dumps(figures), flush=True)


def main() -> None:
    """The command."""
    cases = ["raw0013", "kitti04", "7scenes", *RENDERED]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=cases, metavar="CASE", help=", ".join(cases))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=400, help="most of one kind")
    arguments = parser.parse_args()
    sequences = [run(name, arguments.data) for name in arguments.cases]
    for sequence in sequences:
        shown(sequence.name, (inside(sequence, arguments.pairs) | retrieval(sequence)).items())
    for one, other in combinations(sequences, 2):
        shown(f"{one.name}/{other.name}", [("across", across(one, other, arguments.pairs))])


if __name__ == "__main__":
    main()
