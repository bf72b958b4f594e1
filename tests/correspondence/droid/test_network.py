"""The DROID network: weights by name, agreement with the reference, image conventions, precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from metric_slam.correspondence.droid.correlation_reference import CorrelationVolume
from metric_slam.correspondence.droid.network import DroidNetwork, default_precision, motion_features, pixel_grid
from metric_slam.correspondence.droid.update import UpdateResult
from metric_slam.correspondence.droid.widths import DroidWidths


def pattern(N: int, height: int, width: int) -> torch.Tensor:
    """Images made of integers, the same on every machine, uint8 [N, 3, H, W]."""
    n, c, y, x = np.ogrid[:N, :3, :height, :width]
    return torch.from_numpy(((7 * x + 13 * y + 29 * c + 3 * n + x * y // 5) % 256).astype(np.uint8))


def one_update(network: DroidNetwork, images: torch.Tensor) -> UpdateResult:
    """Both directed edges between two images, from cells that have not moved."""
    source, target = torch.tensor([1, 0]), torch.tensor([0, 1])
    features = network.encode(images)
    hidden, context = network.encode_context(images)
    grid = pixel_grid(*features.shape[2:])
    coords = grid.expand(2, *grid.shape)
    correlation = CorrelationVolume(features[source], features[target]).lookup(coords)
    return network.refine(hidden[source], context[source], correlation, motion_features(coords, grid, coords), source)


# ---- weights


def test_names_and_counts_of_the_released_weights() -> None:
    network = DroidNetwork()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert len(shapes) == 102
    assert sum(p.numel() for p in network.parameters()) == 4_002_565
    assert {name.split(".")[0] for name in shapes} == {"fnet", "cnet", "update"}
    assert shapes["fnet.conv2.weight"] == (128, 128, 1, 1)
    assert shapes["cnet.conv2.weight"] == (256, 128, 1, 1)
    assert shapes["update.gru.convz.weight"] == (128, 448, 3, 3)
    assert shapes["update.weight.2.bias"] == shapes["update.delta.2.bias"] == (2,)
    assert all(name.endswith((".weight", ".bias")) for name in shapes)


def test_names_and_shapes_are_those_of_the_reference(reference_keys: dict[str, Any]) -> None:
    ours = {name: list(tensor.shape) for name, tensor in DroidNetwork().state_dict().items()}
    assert ours == reference_keys["state_dict"]


# ---- numbers


def test_the_numbers_stay_what_they_were(network: DroidNetwork) -> None:
    """From this network when it agreed with the reference: guards it where the fixture is absent."""
    images = pattern(2, 64, 96)
    features = network.encode(images)
    result = one_update(network, images)
    ours = [
        features[0, 5, 3, 4],
        features[1, 100, 0, 11],
        result.hidden[0, 17, 4, 2],
        *result.delta[1, 6, 7],
        *result.confidence[0, 2, 9],
        1000.0 * result.depth_damping[0, 5, 5],
        result.upsample_weights[1, 300, 7, 0],
    ]
    np.testing.assert_allclose([float(v) for v in ours], FROZEN, rtol=0, atol=2e-4)


FROZEN = [-0.23453, 0.46957, -0.10609, 0.16431, 0.10518, 0.49662, 0.42338, 6.90523, 0.21385]


def test_agrees_with_the_reference_end_to_end(network: DroidNetwork, reference: dict[str, np.ndarray]) -> None:
    """One edge, from images to its update; all edges are compared by scripts/check_parity.py."""
    i, j = reference["ii"][0], reference["jj"][0]
    images = torch.from_numpy(reference["images_bgr_u8"][[i, j]][:, [2, 1, 0]])
    features = network.encode(images)
    hidden, context = network.encode_context(images[:1])
    correlation = CorrelationVolume(features[:1], features[1:]).lookup(torch.from_numpy(reference["coords"][:1]))
    result = network.refine(hidden, context, correlation)
    for ours, theirs in [
        (features, reference["fmaps"][[i, j]]),
        (hidden[0], reference["net"][i]),
        (context[0], reference["inp"][i]),
        (correlation[0], reference["corr_edge0"]),
        (result.hidden[0], reference["net_out_noagg"]),
        (result.delta[0], reference["delta_noagg"]),
        (result.confidence[0], reference["weight_noagg"]),
    ]:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


# ---- images


@pytest.mark.parametrize("size", [(64, 64), (72, 136)])
def test_any_size_from_8_x_8_cells_on(network: DroidNetwork, size: tuple[int, int]) -> None:
    result = one_update(network, pattern(2, *size))
    h, w = size[0] // 8, size[1] // 8
    assert result.delta.shape == (2, h, w, 2) and result.depth_damping.shape == (2, h, w)
    assert all(part.isfinite().all() for part in result)


def test_images_are_rgb_from_0_to_255_of_any_type(network: DroidNetwork) -> None:
    images = pattern(1, 64, 64)
    features = network.encode(images)
    torch.testing.assert_close(network.encode(images.float()), features)
    assert (network.encode(images.flip(1)) - features).abs().max() > 0.1, "the order of colours matters"
    gray = torch.full((1, 3, 8, 8), 255.0 * 0.456)
    torch.testing.assert_close(network._normalised(gray)[0, 1], torch.zeros(8, 8), rtol=0, atol=1e-6)
    torch.testing.assert_close(network._normalised(gray)[0, 0], torch.full((8, 8), (0.456 - 0.485) / 0.229))


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (1, 3, 64, 65), (3, 64, 64), (1, 1, 64, 64)])
def test_images_that_do_not_fit_are_refused(network: DroidNetwork, shape: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError):
        network.encode(torch.zeros(shape))


def test_hidden_and_context_are_bounded(network: DroidNetwork) -> None:
    hidden, context = network.encode_context(pattern(1, 64, 64))
    assert hidden.abs().max() <= 1 and context.min() == 0 and context.max() > 0


# ---- choices


def test_compact_widths_run_through(narrow: DroidWidths) -> None:
    torch.manual_seed(0)
    network, images = DroidNetwork(narrow), pattern(2, 64, 80)
    features = network.encode(images)
    hidden, context = network.encode_context(images)
    assert features.shape == (2, 4, 8, 10) and hidden.shape == (2, 3, 8, 10) and context.shape == (2, 2, 8, 10)
    grid = pixel_grid(8, 10)
    correlation = CorrelationVolume(
        features, features.flip(0), levels=narrow.correlation_levels, radius=narrow.correlation_radius
    ).lookup(grid.expand(2, 8, 10, 2))
    result = network.refine(hidden, context, correlation, source=torch.tensor([0, 1]))
    assert result.upsample_weights.shape == (2, 576, 8, 10)


def test_half_precision_is_the_callers_choice(network: DroidNetwork) -> None:
    images = pattern(2, 64, 64)
    half = DroidNetwork(precision=torch.bfloat16).eval()
    half.load_state_dict(network.state_dict())
    assert half.encode(images).dtype == half.encode_context(images)[0].dtype == torch.float32
    with torch.inference_mode():
        theirs, ours = one_update(network, images), one_update(half, images)
    assert all(part.dtype == torch.float32 for part in ours)
    error = (ours.delta - theirs.delta).abs().mean() / theirs.delta.abs().mean()
    assert 0 < error < 0.05
    assert default_precision(torch.device("cpu")) == torch.float32
    assert default_precision(torch.device("meta")) == torch.float16


def test_gates_of_the_context_can_be_kept(network: DroidNetwork, random: torch.Generator) -> None:
    hidden, context, correlation = (torch.rand(1, c, 8, 8, generator=random) for c in (128, 128, 196))
    gates = network.context_gates(context)
    assert gates.shape == (1, 384, 8, 8)
    kept, anew = (
        network.refine(hidden, None, correlation, context_gates=gates),
        network.refine(hidden, context, correlation),
    )
    torch.testing.assert_close(kept.delta, anew.delta)


def test_motion_is_flow_and_residual_within_limits() -> None:
    grid = pixel_grid(2, 3)
    assert grid[1, 2].tolist() == [2.0, 1.0]
    coords = grid.expand(1, 2, 3, 2) + torch.tensor([3.0, -100.0])
    motion = motion_features(coords, grid, coords + torch.tensor([0.5, 1000.0]))
    assert motion.shape == (1, 4, 2, 3)
    assert motion[0, :, 1, 2].tolist() == [3.0, -64.0, 0.5, 64.0]
