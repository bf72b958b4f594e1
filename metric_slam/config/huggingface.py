"""Options of the depth prior from Hugging Face models (section ``huggingface``)."""

from __future__ import annotations

from pydantic import Field

from metric_slam.config.section import Section


class HuggingFaceConfig(Section):
    """Depth from a metric model of the library transformers (prior ``huggingface``; extra ``huggingface``)."""

    model: str | None = Field(
        None, description="folder of the model, or its name on the hub if it is in the local cache"
    )
    allow_download: bool = Field(False, description="download a model that is neither a folder nor in the cache")
    assume_metric: bool = Field(
        False,
        description="accept a model whose configuration does not state that its depth is metric (DPT trained on metric "
        "depth); models that state relative depth are refused in any case",
    )
    max_depth_m: float = Field(80.0, gt=0, description="farther depths are dropped, metres")
    sigma: float = Field(0.15, gt=0, description="assumed relative error of one cell")
    scale_sigma: float = Field(
        0.10,
        ge=0,
        description="assumed relative error common to all cells of an image; large, because these models do not take "
        "the focal length into account",
    )
