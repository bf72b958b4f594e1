"""The recurrent model around a small network with weights of chance: batches, memory, devices' types."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metric_slam.config.droid import DroidConfig
from metric_slam.correspondence.base import (
    EdgeMemory,
    EdgeQuery,
    confidence_per_axis,
    confidence_per_cell,
    packed,
    unpacked,
)
from metric_slam.correspondence.droid.model import DroidCorrespondence, DroidFeatures, by_source
from metric_slam.correspondence.droid.network import DroidNetwork
from metric_slam.correspondence.droid.widths import DroidWidths
from tests.device_guard import noticed
from tests.scene import CAMERA, Street, exact_matches, pose

GRID = CAMERA.grid()
POSES = [pose(z_m=0.3 * i) for i in range(3)]
STREET = Street(waves=6)


def model(**settings: object) -> DroidCorrespondence:
    torch.manual_seed(3)
    widths = DroidWidths(
        stages=(8, 8, 16), features=16, hidden=16, context=16, correlation_code=16, motion_code=8, correlation_levels=4
    )
    network = DroidNetwork(widths).eval().requires_grad_(False)
    return DroidCorrespondence(network, DroidConfig.model_validate({"iterations": 2, **settings}))


def encoded(droid: DroidCorrespondence) -> list[DroidFeatures]:
    return [droid.encode(STREET.render(T)[0], CAMERA) for T in POSES]


def queries(features: list[DroidFeatures]) -> list[EdgeQuery]:
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    return [EdgeQuery(features[i], features[j], exact_matches(STREET, POSES[i], POSES[j])[0]) for i, j in pairs]


def test_an_update_says_what_the_graph_needs() -> None:
    droid = model()
    edges = queries(encoded(droid))
    memories = [droid.begin(edge) for edge in edges]
    for (match, memory), edge in zip(droid.update(edges, memories), edges, strict=True):
        assert match.target.shape == match.confidence.shape == (GRID.height, GRID.width, 2)
        assert match.target.dtype == np.float64 and match.confidence.dtype == np.float64
        assert (match.confidence > 0).all() and (match.confidence < 1).all()
        assert match.depth_damping is not None and match.depth_damping.shape == (GRID.height, GRID.width)
        assert (match.depth_damping > 0).all()
        np.testing.assert_array_equal(memory.target, match.target.astype(np.float32))
        assert np.isfinite(match.target).all() and edge.predicted is not None
    first, second = (droid.update(edges, memories)[e][0] for e in (0, 1))
    assert np.array_equal(first.depth_damping, second.depth_damping), "they leave the same image"


def test_edges_that_are_asked_on_the_device_are_answered_there() -> None:
    """With the numbers of those that are asked from the host, and without a look at them."""
    droid = model()
    edges = queries(encoded(droid))
    there = [EdgeQuery(edge.source, edge.target, torch.from_numpy(edge.predicted)) for edge in edges]
    known, found = [droid.begin(edge) for edge in edges], []
    with noticed(torch.device("cpu")) as called:
        memories = [droid.begin(edge) for edge in there]
        for _ in range(2):
            found = droid.update(there, memories)
            memories = [memory for _, memory in found]
    assert called == []
    for _ in range(2):
        expected = droid.update(edges, known)
        known = [memory for _, memory in expected]
    for (match, memory), (other, remembered) in zip(found, expected, strict=True):
        for name in ("target", "confidence", "depth_damping", "upsample_weights"):
            np.testing.assert_array_equal(getattr(match, name).numpy(), getattr(other, name))
        assert match.target.dtype == match.confidence.dtype == torch.float32
        assert match.depth_damping.dtype == torch.float64 and match.upsample_weights.dtype == torch.float16
        np.testing.assert_array_equal(memory.target.numpy(), remembered.target)
    from_host = [EdgeMemory(memory.hidden, memory.target.numpy()) for memory in memories[:2]]
    for (one, _), (other, _) in zip(
        droid.update(there, from_host + memories[2:]), droid.update(there, memories), strict=True
    ):
        assert torch.equal(one.target, other.target), "memories of a checkpoint are arrays"
    tracked, as_well = droid.track(there[:2]), droid.track(edges[:2])
    for one, other in zip(tracked, as_well, strict=True):
        assert isinstance(one.target, torch.Tensor) and isinstance(other.target, np.ndarray)
        np.testing.assert_array_equal(one.target.numpy(), other.target)
        np.testing.assert_array_equal(packed(one).numpy(), packed(other))


def test_batches_do_not_matter_and_the_same_call_gives_the_same_bits() -> None:
    whole, parts = model(), model(edges_at_once=2)
    results = []
    for droid in (whole, whole, parts):
        edges = queries(encoded(droid))
        results.append(droid.update(edges, [droid.begin(edge) for edge in edges]))
    for (one, _), (again, _), (part, _) in zip(*results, strict=True):
        np.testing.assert_array_equal(one.target, again.target)
        np.testing.assert_allclose(part.target, one.target, atol=1e-3)
        np.testing.assert_allclose(part.depth_damping, one.depth_damping, atol=1e-5)


def test_edges_of_one_source_stay_together() -> None:
    a, b, c = (DroidFeatures(np.zeros(1), torch.zeros(1)) for _ in range(3))
    edges = [EdgeQuery(s, a) for s in (a, b, a, c, b, a, c)]
    assert by_source(edges, 5) == [[0, 2, 5, 1, 4], [3, 6]]
    assert by_source(edges, 2) == [[0, 2, 5], [1, 4], [3, 6]]
    assert by_source([], 2) == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_memory_matters_and_survives_a_checkpoint(precision: str) -> None:
    droid = model(precision=precision)
    edges = queries(encoded(droid))
    fresh = [droid.begin(edge) for edge in edges]
    used = [memory for _, memory in droid.update(edges, fresh)]
    saved = [droid.memory_from_array(droid.memory_to_array(memory), memory.target) for memory in used]
    for (by_fresh, _), (by_used, _), (by_saved, _) in zip(
        droid.update(edges, fresh), droid.update(edges, used), droid.update(edges, saved), strict=True
    ):
        np.testing.assert_array_equal(by_saved.target, by_used.target)
        assert not np.array_equal(by_fresh.target, by_used.target)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_tracking_needs_no_prediction(precision: str) -> None:
    droid = model(precision=precision)
    features = encoded(droid)
    forward, backward = droid.track([EdgeQuery(features[0], features[1]), EdgeQuery(features[1], features[0])])
    assert np.isfinite(forward.target).all() and forward.confidence.shape == (GRID.height, GRID.width, 2)
    (again,) = droid.track([EdgeQuery(features[1], features[0])])
    np.testing.assert_allclose(again.target, backward.target, atol=1e-3 if precision == "float32" else 0.1)
    assert droid.track([]) == []


def test_half_precision_on_a_cpu_is_a_choice_and_comes_near() -> None:
    found = {}
    for precision in ("auto", "float32", "bfloat16"):
        droid = model(precision=precision)
        assert droid._network.precision == (torch.bfloat16 if precision == "bfloat16" else torch.float32)
        edges = queries(encoded(droid))
        memories = [droid.begin(edge) for edge in edges]
        for _ in range(2):
            stepped = droid.update(edges, memories)
            memories = [memory for _, memory in stepped]
        assert droid.motion_px(edges[0].source, edges[0].target) > 0
        found[precision] = [match for match, _ in stepped]
    for auto, full, half in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(auto.target, full.target)
        np.testing.assert_allclose(half.target, full.target, atol=0.02)
        np.testing.assert_allclose(half.confidence, full.confidence, atol=0.01)
        np.testing.assert_allclose(half.depth_damping, full.depth_damping, rtol=0.02)
        assert not np.array_equal(half.target, full.target)
        assert half.upsample_weights.dtype == np.float16 and half.confidence.dtype == np.float64
        np.testing.assert_allclose(half.upsample_weights.astype(float), full.upsample_weights.astype(float), atol=0.02)


def test_a_pixel_lies_between_the_cells_around_it() -> None:
    droid = model()
    match = droid.update(*(lambda edges: (edges, [droid.begin(e) for e in edges]))(queries(encoded(droid))))[0][0]
    inv_depth = np.random.default_rng(0).uniform(0.1, 1.0, (GRID.height, GRID.width))
    dense = droid.upsampled(inv_depth, match.upsample_weights)
    assert dense.shape == (CAMERA.height, CAMERA.width) and dense.dtype == np.float32
    assert inv_depth.min() < dense.min() and dense.max() < inv_depth.max()
    wild = np.full_like(match.upsample_weights, -1e4)
    wild[4 * 64 : 5 * 64] = 1e4
    np.testing.assert_allclose(droid.upsampled(inv_depth, wild), inv_depth.repeat(8, 0).repeat(8, 1), rtol=1e-6)


def test_points_behind_the_camera_do_no_harm() -> None:
    droid = model()
    features = encoded(droid)
    wild = np.full((GRID.height, GRID.width, 2), np.nan)
    wild[0], wild[1] = np.inf, -1e30
    edge = EdgeQuery(features[0], features[1], wild)
    ((match, _),) = droid.update([edge], [droid.begin(edge)])
    assert np.isfinite(match.target).all()


def test_motion_is_in_pixels_of_the_working_image() -> None:
    droid = model()
    features = encoded(droid)
    y, x = np.mgrid[0 : GRID.height, 0 : GRID.width]
    cells = np.stack([x, y], axis=-1).astype(np.float64)
    edge = EdgeQuery(features[0], features[1], cells)
    ((match, _),) = droid.update([edge], [droid.begin(edge)])
    expected = 8.0 * np.linalg.norm(match.target - cells, axis=-1).mean()
    assert droid.motion_px(features[0], features[1]) == pytest.approx(expected, rel=1e-4)


def test_confidences_of_one_or_two_axes() -> None:
    droid = model()
    edges = queries(encoded(droid))
    match = droid.update(edges, [droid.begin(edge) for edge in edges])[0][0]
    stored = packed(match)
    assert stored.shape == (GRID.height, GRID.width, 4) and stored.dtype == np.float32
    np.testing.assert_array_equal(unpacked(stored).confidence, match.confidence.astype(np.float32))
    there = torch.from_numpy(stored)
    for tensor in (there, there[..., :3]):
        assert torch.equal(packed(unpacked(tensor)), tensor)
        one, other = unpacked(tensor).confidence, unpacked(tensor.numpy()).confidence
        for convert in (confidence_per_cell, confidence_per_axis):
            np.testing.assert_array_equal(convert(one).numpy(), convert(other))
    one = unpacked(stored[..., :3])
    assert one.confidence.ndim == 2 and packed(one).shape[-1] == 3
    np.testing.assert_array_equal(confidence_per_axis(one.confidence)[..., 1], one.confidence)
    np.testing.assert_array_equal(confidence_per_cell(match.confidence), match.confidence.min(axis=-1))
    assert confidence_per_cell(one.confidence) is one.confidence
    assert confidence_per_axis(match.confidence) is match.confidence
