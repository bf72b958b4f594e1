"""The five released Metric3D networks as numbers: one row each, from which the modules are built.

Facts: configuration files of github.com/YvanYin/Metric3D (mono/configs/HourglassDecoder and mono/configs/_base_),
the ConvNeXt and DINOv2 constructors in mono/model/backbones, and the input sizes of its hubconf.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ModelName = Literal["convnext_tiny", "convnext_large", "vit_small", "vit_large", "vit_giant2"]


@dataclass(frozen=True)
class ConvNextSpec:
    """A ConvNeXt encoder: four stages at 1/4, 1/8, 1/16 and 1/32 of the image."""

    blocks: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]


@dataclass(frozen=True)
class HourglassSpec:
    """The decoder of version 1."""

    features: tuple[int, int, int, int]
    """Channels of the encoder's stages, finest first."""

    channels: tuple[int, int, int]
    """Own channels at 1/4, 1/8 and 1/16 (the file's first entry of four is not used)."""

    bins: int = 512
    nearest_m: float = 0.3
    farthest_m: float = 150.0


@dataclass(frozen=True)
class VitSpec:
    """A DINOv2 vision transformer with registers, patches of 14 pixels."""

    channels: int
    blocks: int
    heads: int
    swiglu: bool = False
    """Gated feed-forward layers instead of plain ones."""

    intermediate: bool = False
    """Gives the tokens after each quarter of the blocks, not normalised, instead of four times the last, normalised."""

    registers: int = 4
    patch_px: int = 14
    trained_grid: int = 37
    """Patches along a side of the images (518 pixels) whose positions were learned."""


@dataclass(frozen=True)
class RaftSpec:
    """The recurrent decoder of version 2; depths in canonical metres."""

    tokens: int
    """Channels of the encoder's tokens."""

    features: tuple[int, int, int, int]
    """Channels of the maps made from tokens, at 1/4, 1/7, 1/14, 1/14; the last two must equal what comes in or out."""

    channels: tuple[int, int, int, int]
    """Own channels at 1/4, 1/7, 1/14, 1/14 (the file's first entry of five is not used)."""

    hidden: int
    iterations: int
    registers: int = 4
    bins: int = 256
    nearest_m: float = 0.1
    farthest_m: float = 200.0


@dataclass(frozen=True)
class Metric3DSpec:
    """One released network."""

    name: ModelName
    encoder: ConvNextSpec | VitSpec
    decoder: HourglassSpec | RaftSpec
    input_size: tuple[int, int]
    """(width, height) in pixels that the network is published for."""

    multiple_px: int
    """Both sides of an input must be multiples of this."""

    @property
    def weights(self) -> str:
        """Name of its file in :mod:`metric_slam.weights.released`."""
        return "metric3d-" + self.name.replace("_", "-")


_CONVNEXT_INPUT, _CONVNEXT_MULTIPLE = (1216, 544), 32
_VIT_INPUT, _VIT_MULTIPLE = (1064, 616), 28


def _convnext(
    name: ModelName, blocks: tuple[int, int, int, int], width: int, decoder: tuple[int, int, int]
) -> Metric3DSpec:
    channels = (width, 2 * width, 4 * width, 8 * width)
    return Metric3DSpec(
        name, ConvNextSpec(blocks, channels), HourglassSpec(channels, decoder), _CONVNEXT_INPUT, _CONVNEXT_MULTIPLE
    )


def _vit(name: ModelName, encoder: VitSpec, decoder: RaftSpec) -> Metric3DSpec:
    return Metric3DSpec(name, encoder, decoder, _VIT_INPUT, _VIT_MULTIPLE)


SPECS: dict[ModelName, Metric3DSpec] = {
    spec.name: spec
    for spec in (
        _convnext("convnext_tiny", (3, 3, 9, 3), 96, (64, 128, 256)),
        _convnext("convnext_large", (3, 3, 27, 3), 192, (128, 256, 512)),
        _vit(
            "vit_small",
            VitSpec(384, blocks=12, heads=6),
            RaftSpec(384, (96, 192, 384, 768), (96, 192, 384, 384), hidden=48, iterations=4),
        ),
        _vit(
            "vit_large",
            VitSpec(1024, blocks=24, heads=16),
            RaftSpec(1024, (256, 512, 1024, 1024), (256, 512, 1024, 1024), hidden=128, iterations=8),
        ),
        _vit(
            "vit_giant2",
            VitSpec(1536, blocks=40, heads=24, swiglu=True, intermediate=True),
            RaftSpec(1536, (384, 768, 1536, 1536), (384, 768, 1536, 1536), hidden=192, iterations=8),
        ),
    )
}
"""All networks by name."""
