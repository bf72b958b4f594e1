"""A whole Metric3D network: normalised image in, depth of the canonical camera out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metric_slam.depth.metric3d.convnext import ConvNext
from metric_slam.depth.metric3d.dinov2 import DinoV2
from metric_slam.depth.metric3d.hourglass import HourglassDecoder
from metric_slam.depth.metric3d.raft_decoder import RaftDecoder
from metric_slam.depth.metric3d.specs import (
    SPECS,
    ConvNextSpec,
    HourglassSpec,
    Metric3DSpec,
    ModelName,
    RaftSpec,
    VitSpec,
)


@dataclass(frozen=True)
class Prediction:
    """Output of a network for N images of H x W pixels, for a camera with the canonical focal length."""

    depth: Tensor
    """Along z, float [N, H, W]: metres if the focal length of the image were 1000 pixels."""

    confidence: Tensor
    """Float [N, H, W]; trained towards 1 - |relative error|, not bounded."""

    normals: Tensor | None = None
    """Unit vectors in camera axes, float [N, 3, H, W]; None: version 1 has none."""

    normal_kappa: Tensor | None = None
    """Concentration of the normals, positive, float [N, H, W]."""


class Metric3D(nn.Module):
    """One of the five released networks, by name or as a specification of one's own.

    Weights start at random; :func:`metric_slam.depth.metric3d.weights.load_metric3d` reads released ones. All names
    in the state begin with ``depth_model.``, as they do in the files.
    """

    def __init__(self, model: ModelName | Metric3DSpec) -> None:
        super().__init__()
        self.spec = model if isinstance(model, Metric3DSpec) else SPECS[model]
        self.depth_model = nn.ModuleDict({"encoder": _encoder(self.spec), "decoder": _decoder(self.spec)})

    def forward(self, images: Tensor) -> Prediction:
        """``images`` normalised float [N, 3, H, W] (:mod:`metric_slam.depth.metric3d.canonical`).

        H and W have to be multiples of 32 for version 1, of 14 for version 2; of ``spec.multiple_px`` for an output of
        exactly that size.
        """
        features = self.encode(images)
        decoder = self.depth_model["decoder"]
        if isinstance(decoder, RaftDecoder):
            depth, confidence, normals, kappa = decoder(features, self.patch_grid(images))
            return Prediction(depth[:, 0], confidence[:, 0], normals, kappa[:, 0])
        depth, confidence = decoder(features)
        return Prediction(depth[:, 0], confidence[:, 0])

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps that the decoder reads."""
        sides, spec = tuple(images.shape[2:]), self.spec
        unit_px = spec.encoder.patch_px if isinstance(spec.encoder, VitSpec) else spec.multiple_px
        assert all(side % unit_px == 0 for side in sides), (sides, unit_px)
        return self.depth_model["encoder"](images)

    def first_round(self, images: Tensor) -> Tensor:
        """Depth [N, H, W] after one round of refinement instead of all; networks of version 2 only."""
        decoder = self.depth_model["decoder"]
        assert isinstance(decoder, RaftDecoder), self.spec.name
        state, hidden = next(decoder.rounds(self.encode(images), self.patch_grid(images)))
        return decoder.at_full_size(state, hidden)[0][:, 0]

    def patch_grid(self, images: Tensor) -> tuple[int, int]:
        """(rows, columns) of the patches of ``images`` [N, 3, H, W]; networks of version 2 only."""
        assert isinstance(self.spec.encoder, VitSpec), self.spec.name
        patch_px = self.spec.encoder.patch_px
        return images.shape[2] // patch_px, images.shape[3] // patch_px


def empty_metric3d(model: ModelName | Metric3DSpec) -> Metric3D:
    """The network without memory for its weights: names and shapes alone, for loading into."""
    with torch.device("meta"):
        return Metric3D(model)


def _encoder(spec: Metric3DSpec) -> nn.Module:
    return ConvNext(spec.encoder) if isinstance(spec.encoder, ConvNextSpec) else DinoV2(spec.encoder)


def _decoder(spec: Metric3DSpec) -> nn.Module:
    if isinstance(spec.decoder, HourglassSpec):
        return HourglassDecoder(spec.decoder)
    assert isinstance(spec.decoder, RaftSpec), spec
    return RaftDecoder(spec.decoder)
