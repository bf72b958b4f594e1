"""The encoder: sizes, names of weights, what its normalisation promises."""

from __future__ import annotations

import pytest
import torch

from metric_slam.correspondence.droid.encoder import FeatureEncoder, ResidualBlock, normalised

STAGES = (2, 3, 4)


@pytest.mark.parametrize(
    ("size", "grid"), [((64, 64), (8, 8)), ((40, 136), (5, 17)), ((96, 32), (12, 4)), ((61, 66), (8, 9))]
)
@pytest.mark.parametrize("norm", ["instance", "none"])
def test_maps_have_an_eighth_of_the_size(norm: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    maps = FeatureEncoder(5, norm, STAGES)(torch.rand(2, 3, *size))
    assert maps.shape == (2, 5, *grid)
    assert maps.isfinite().all()


def test_the_released_encoders_have_these_weights() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in FeatureEncoder(256, "none").state_dict().items()}
    assert shapes["conv1.weight"] == (32, 3, 7, 7)
    assert shapes["layer1.0.conv1.weight"] == (32, 32, 3, 3)
    assert shapes["layer2.0.downsample.0.weight"] == (64, 32, 1, 1)
    assert shapes["layer3.0.conv1.weight"] == (128, 64, 3, 3)
    assert shapes["layer3.1.conv2.bias"] == (128,)
    assert shapes["conv2.weight"] == (256, 128, 1, 1)
    assert not any(name.startswith("layer1") and "downsample" in name for name in shapes)
    assert len(shapes) == 32
    assert set(shapes) == set(FeatureEncoder(128, "instance").state_dict()), "the norm has no weights"


def test_instance_norm_is_mean_zero_and_variance_one_of_each_channel(random: torch.Generator) -> None:
    maps = 3.0 + 5.0 * torch.randn(2, 3, 6, 7, generator=random, dtype=torch.float64)
    ours = normalised(maps, "instance")
    mean, variance = maps.mean((2, 3), keepdim=True), maps.var((2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(ours, (maps - mean) / (variance + 1e-5).sqrt())
    assert normalised(maps, "none") is maps


def test_instance_norm_takes_contrast_away(random: torch.Generator) -> None:
    images = torch.randn(1, 3, 64, 48, generator=random, dtype=torch.float64)
    torch.manual_seed(0)
    normed, plain = FeatureEncoder(5, "instance", STAGES).double(), FeatureEncoder(5, "none", STAGES).double()
    torch.testing.assert_close(normed(images), normed(3.0 * images), rtol=0, atol=1e-2)
    assert (plain(images) - plain(3.0 * images)).abs().max() > 1e-2


def test_images_of_a_batch_do_not_know_each_other(random: torch.Generator) -> None:
    images = torch.randn(3, 3, 32, 40, generator=random)
    encoder = FeatureEncoder(5, "instance", STAGES)
    torch.testing.assert_close(encoder(images)[1:2], encoder(images[1:2]))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_with_silent_convolutions_is_its_shortcut(stride: int, random: torch.Generator) -> None:
    maps = torch.randn(1, 3, 8, 6, generator=random)
    block = ResidualBlock(3, 3, "none", stride)
    for convolution in (block.conv1, block.conv2):
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    shortcut = maps if stride == 1 else block.downsample(maps)
    torch.testing.assert_close(block(maps), shortcut.relu())
