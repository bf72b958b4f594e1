"""Options of the depth prior from Hugging Face models (section ``huggingface``)."""

from __future__ import annotations

from pydantic import Field

from metric_slam.config.section import Section


class HuggingFaceConfig(Section):
    """Depth from a metric model of the library transformers (prior ``huggingface``; an extra of the installation)."""

    model: str | None = Field(
        None, description="folder of the model, or its name on the hub, where the local cache has it"
    )
    allow_download: bool = Field(False, description="fetch a model that is neither a folder nor in the cache")
    assume_metric: bool = Field(
        False,
        description="the model answers in metres although its configuration does not say so (DPT trained on metric "
        "depth); one that says relative is refused all the same",
    )
    max_depth_m: float = Field(80.0, gt=0, description="farther depths are dropped, metres")
    sigma: float = Field(0.15, gt=0, description="believed relative error of one cell")
    scale_sigma: float = Field(
        0.10,
        ge=0,
        description="believed relative error common to all cells of an image; wide, because these models do not know "
        "the focal length",
    )
