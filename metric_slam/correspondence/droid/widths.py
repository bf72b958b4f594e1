"""Numbers of channels of the DROID network; the defaults are those of the released weights."""

from __future__ import annotations

from dataclasses import dataclass

UPSAMPLE_NEIGHBOURS = 9
"""Cells whose convex combination is a pixel's inverse depth: its own and the eight around it."""


@dataclass(frozen=True)
class DroidWidths:
    """Channels of every part. Smaller numbers give a compact network, which needs weights of its own."""

    stages: tuple[int, int, int] = (32, 64, 128)
    """Channels of an encoder at 1/2, 1/4 and 1/8 of the image size."""

    features: int = 128
    """Channels that are matched."""

    hidden: int = 128
    """State of the recurrent unit; also the inner width of the update operator."""

    context: int = 128
    """Input of the recurrent unit that describes the source image at every update."""

    correlation_code: int = 128
    motion_code: int = 64

    correlation_levels: int = 4
    correlation_radius: int = 3

    @property
    def correlation_channels(self) -> int:
        """Number of channels of a lookup: a square window on every level."""
        return self.correlation_levels * (2 * self.correlation_radius + 1) ** 2
