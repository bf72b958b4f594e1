"""The networks: names, shapes, the reference's numbers, and what must hold whatever the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metric_slam.depth.metric3d.depth_bins import expected_depth
from metric_slam.depth.metric3d.model import Metric3D, empty_metric3d
from metric_slam.depth.metric3d.recurrence import upsampled
from metric_slam.depth.metric3d.specs import SPECS, Metric3DSpec
from metric_slam.depth.metric3d.token_maps import Residual
from metric_slam.weights.released import released
from tests.depth.metric3d.conftest import TINY_V1, TINY_V2, fixture_rule, small_network


@pytest.mark.parametrize("name", SPECS)
def test_names_and_shapes_are_those_of_the_reference(name: str, reference_keys: dict[str, Any]) -> None:
    network = empty_metric3d(name)
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == reference_keys[name]["state_dict"]
    assert {k for k, _ in network.named_buffers()} == set(reference_keys[name]["buffers"])
    assert sum(p.numel() for p in network.parameters()) == reference_keys[name]["n_parameters"]


def test_two_names_are_one_norm() -> None:
    state = Metric3D(TINY_V2).state_dict()
    twins = [name for name in state if ".norm3." in name]
    assert len(twins) == 12 - 2 * 2, "the maps at 1/4 have as many channels as the hidden state here"
    for name in twins:
        assert state[name].data_ptr() == state[name.replace("norm3", "downsample.1")].data_ptr()


def test_outputs_are_those_of_the_reference(reference: tuple[str, dict[str, np.ndarray]]) -> None:
    name, numbers = reference
    network = fixture_rule()(Metric3D(name), float(numbers["gain"])).eval()
    images = torch.from_numpy(numbers["input"].astype(np.float32))[None]
    with torch.inference_mode():
        found = network(images)
    assert np.ptp(numbers["depth"]) > 1.0, "a fixture with one depth everywhere proves nothing"
    np.testing.assert_allclose(found.depth[0], numbers["depth"], atol=2e-3, rtol=0)
    np.testing.assert_allclose(found.confidence[0], numbers["confidence"], atol=1e-4, rtol=0)
    if name == "convnext_tiny":
        assert found.normals is None and found.normal_kappa is None
        return
    with torch.inference_mode():
        first = network.first_round(images)
    np.testing.assert_allclose(first[0, ::8, ::8], numbers["depth_iter1"], atol=2e-3, rtol=0)
    np.testing.assert_allclose(found.normals[0], numbers["normal"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(found.normal_kappa[0], numbers["normal_kappa"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("sides", [(1, 1), (2, 3)])
def test_outputs_have_the_size_of_the_input(tiny_spec: Metric3DSpec, sides: tuple[int, int]) -> None:
    network, unit = small_network(tiny_spec), tiny_spec.multiple_px
    rows, columns = (2 * side * unit for side in sides)
    found = network(torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(0)))
    assert found.depth.shape == found.confidence.shape == (2, rows, columns)
    assert torch.isfinite(found.depth).all() and found.depth.dtype == torch.float32
    assert (found.normals is None) == (tiny_spec.name == "convnext_tiny")
    if found.normals is not None:
        assert found.normals.shape == (2, 3, rows, columns) and found.normal_kappa.shape == (2, rows, columns)
        torch.testing.assert_close(found.normals.norm(dim=1), torch.ones(2, rows, columns))
        assert (found.normal_kappa > 0).all()
        assert found.depth.min() >= tiny_spec.decoder.nearest_m and found.depth.max() <= tiny_spec.decoder.farthest_m


def test_images_of_a_batch_do_not_know_each_other(tiny_spec: Metric3DSpec) -> None:
    network = small_network(tiny_spec)
    width, height = tiny_spec.input_size
    images = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(1))
    together = network(images)
    for i in range(3):
        torch.testing.assert_close(network(images[i : i + 1]).depth[0], together.depth[i], atol=1e-3, rtol=1e-4)


def test_sides_that_do_not_fit_are_an_assertion(tiny_spec: Metric3DSpec) -> None:
    width, height = tiny_spec.input_size
    with pytest.raises(AssertionError, match=str(width + 1)):
        small_network(tiny_spec)(torch.zeros(1, 3, height, width + 1))


def test_a_second_pass_gives_the_same(tiny_spec: Metric3DSpec) -> None:
    network = small_network(tiny_spec)
    width, height = tiny_spec.input_size
    images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(2))
    kept = images.clone()
    assert torch.equal(network(images).depth, network(images).depth)
    assert torch.equal(images, kept), "an input was written into"


def test_every_weight_but_the_unused_token_takes_part(tiny_spec: Metric3DSpec) -> None:
    network = small_network(tiny_spec).requires_grad_(True)
    width, height = tiny_spec.input_size
    found = network(torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(3)))
    total = found.depth.sum() + found.confidence.sum()
    if found.normals is not None:
        total = total + found.normals.sum() + found.normal_kappa.sum()
    total.backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert all(name.endswith("mask_token") or "norm.weight" in name or "norm.bias" in name for name in idle), idle
    assert len(idle) <= 3


def test_expected_depth_is_a_mean_of_even_logarithms() -> None:
    scores = torch.full((1, 5, 1, 2), -1e4)
    scores[0, 2, 0, 0] = scores[0, [0, 4], 0, 1] = 0.0
    depth = expected_depth(scores, 1.0, 16.0)
    torch.testing.assert_close(depth, torch.tensor([[[[4.0, 8.5]]]]))


def test_convex_upsampling_takes_the_neighbour_it_is_told() -> None:
    state = torch.arange(12.0).view(1, 1, 3, 4)
    weights = torch.full((1, 9, 16, 3, 4), -1e4)
    weights[:, 4] = 0.0  # the cell itself
    weights[0, :, 5, 1, 1] = -1e4
    weights[0, 5, 5, 1, 1] = 0.0  # its right neighbour, for the fine pixel in row 1, column 1 of the cell
    fine = upsampled(state, weights.view(1, 144, 3, 4))
    expected = F.interpolate(state, scale_factor=4.0, mode="nearest")
    expected[0, 0, 5, 5] = 6.0
    torch.testing.assert_close(fine, expected)


def test_fusion_sees_the_positive_part_only() -> None:
    block = Residual(2)
    x = torch.tensor([[-1.0, 2.0]]).view(1, 2, 1, 1)
    torch.testing.assert_close(block(x), block(x.clamp(min=0)))


def test_the_table_agrees_with_the_list_of_weights() -> None:
    for spec in SPECS.values():
        entry = released(spec.weights)
        parameters = sum(p.numel() for p in empty_metric3d(spec).parameters())
        assert 0 < entry.size_bytes - 4 * parameters < 5e5, "a file holds the weights and little else"
        assert all(side % spec.multiple_px == 0 for side in spec.input_size)


def test_nothing_is_tied_to_a_device() -> None:
    with torch.device("meta"):
        for spec in (TINY_V1, TINY_V2):
            width, height = spec.input_size
            found = Metric3D(spec).eval()(torch.zeros(1, 3, height, width))
            assert found.depth.device.type == "meta" and found.depth.shape == (1, height, width)
