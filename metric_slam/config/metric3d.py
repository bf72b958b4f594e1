"""Options of the learned depth prior (section ``metric3d``)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from metric_slam.config.section import Section, size_from_text


class Metric3DConfig(Section):
    """Depth from a Metric3D network (prior ``metric3d``)."""

    model: Literal["convnext_tiny", "convnext_large", "vit_small", "vit_large", "vit_giant2"] | None = Field(
        None, description="network; none: the best one with weights on this machine"
    )
    weights: str | None = Field(
        None,
        description="file of its weights, or the network as .onnx; none: the file that `metric-slam weights` shows",
    )
    input_size: tuple[int, int] | None = Field(
        None,
        description="size (width, height) of the network's input in pixels, multiples of 28 (vit) or 32 (convnext); "
        "none: 1064x616 or 1216x544, as published; smaller is faster",
    )
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="precision of the network; auto: float16 on a GPU, float32 on a CPU"
    )
    cache: str | None = Field(
        None,
        description="folder in which depth maps are kept, for later runs and for prior `precomputed`; none: no cache",
    )
    max_depth_m: float = Field(80.0, gt=0, description="farther depths are dropped, metres; beyond 150 is sky")
    sigma: float = Field(0.10, gt=0, description="assumed relative error of one cell")
    scale_sigma: float = Field(0.03, ge=0, description="assumed relative error common to all cells of an image")

    @field_validator("input_size", mode="before")
    @classmethod
    def _size_from_text(cls, value: object) -> object:
        """Accept ``1064x616`` as well as a pair of numbers."""
        return size_from_text(value)
