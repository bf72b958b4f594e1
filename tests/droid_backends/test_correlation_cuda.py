"""Correlation lookup by the kernels for GPUs: the numbers of the C++ ones, forward and backward, in any order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from metric_slam.correspondence.droid.correlation import CorrelationOnTheFly, CorrelationVolume
from metric_slam.geometry.cuda_kernels import CudaKernels
from tests.droid_backends.on_device import in_every_order, kernels_of
from tests.droid_backends.test_correlation import arrays_of, random_coords, random_features

ROUNDING, SPLIT = 1e-6, 2e-6
"""Of the largest value: what another order of sums costs in float32, and what 22 bits of 24 do."""

SOURCE, TARGET = torch.tensor([0, 2, 0]), torch.tensor([1, 0, 0])


def smooth_coords(edges: int, height: int, width: int) -> Tensor:
    """A flow as of a camera that moves: neighbours look at neighbours, here and there an edge, [E, h, w, 2]."""
    y, x = torch.meshgrid(torch.arange(height) * 1.1 - 1.3, torch.arange(width) * 0.9 + 1.4, indexing="ij")
    coords = torch.stack([x, y], dim=-1).expand(edges, -1, -1, -1).clone()
    coords[:, : height // 2, width // 2 :, 0] -= 4.7
    return coords + 0.3 * torch.arange(edges)[:, None, None, None]


def forms(
    features: Tensor, source: Tensor, target: Tensor, levels: int = 4, radius: int = 3
) -> tuple[CorrelationVolume, CorrelationOnTheFly]:
    volume = CorrelationVolume(features[source], features[target], levels, radius)
    return volume, CorrelationOnTheFly(features, source, target, levels, radius)


def looked_up(cuda: CudaKernels, features: Tensor, coords: Tensor, **options: int) -> list[Tensor]:
    """By both forms, on the device."""
    edges = SOURCE[: len(coords)], TARGET[: len(coords)]
    with kernels_of(cuda):
        found = [form.lookup(coords.to(cuda.device)) for form in forms(features.to(cuda.device), *edges, **options)]
    assert all(tensor.device.type == cuda.device.type for tensor in found)
    return [tensor.cpu() for tensor in found]


def expected(features: Tensor, coords: Tensor, **options: int) -> list[Tensor]:
    """The same by the kernels for the CPU."""
    edges = SOURCE[: len(coords)], TARGET[: len(coords)]
    return [form.lookup(coords) for form in forms(features, *edges, **options)]


def assert_same(found: list[Tensor], wanted: list[Tensor], bounds: tuple[float, ...]) -> None:
    """Up to a share of the largest value, of each."""
    for ours, theirs, bound in zip(found, wanted, bounds, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert float((ours - theirs).abs().max()) <= bound * float(theirs.abs().max())


@pytest.mark.parametrize("size", [(9, 13), (4, 5), (1, 3)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_both_forms_give_the_numbers_of_the_cpu(cuda: CudaKernels, size: tuple[int, int]) -> None:
    """Few channels, positions in and around the grid, levels without cells."""
    features, coords = random_features(3, 13, *size), random_coords(3, *size)
    assert_same(looked_up(cuda, features, coords), expected(features, coords), (ROUNDING, SPLIT))


@pytest.mark.parametrize("channels", [128, 130])
@pytest.mark.parametrize("flow", ["smooth", "random"])
def test_channels_of_the_network(cuda: CudaKernels, channels: int, flow: str) -> None:
    """Pixels that share rectangles and pixels whose windows lie apart; 130 are read one by one and in two goes."""
    features = random_features(3, channels, 9, 19)
    coords = smooth_coords(1, 9, 19) if flow == "smooth" else random_coords(1, 9, 19)
    bounds = ROUNDING, SPLIT
    assert_same(looked_up(cuda, features, coords, levels=2), expected(features, coords, levels=2), bounds)


@pytest.mark.parametrize("radius", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [5, 64])
def test_any_radius_in_double_precision(cuda: CudaKernels, radius: int, channels: int) -> None:
    features, coords = random_features(3, channels, 8, 9, torch.float64), random_coords(2, 8, 9, torch.float64)
    options = {"levels": 2, "radius": radius}
    assert_same(looked_up(cuda, features, coords, **options), expected(features, coords, **options), (1e-14, 1e-14))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [24, 128])
def test_half_precision_is_added_up_in_full(cuda: CudaKernels, dtype: torch.dtype, channels: int) -> None:
    features, coords = random_features(3, channels, 8, 9).to(dtype), smooth_coords(2, 8, 9)
    volume, on_the_fly = looked_up(cuda, features, coords, levels=1)
    exact = expected(features.float(), coords, levels=1)[0]
    assert volume.dtype == on_the_fly.dtype == dtype
    digits = torch.finfo(dtype).eps
    torch.testing.assert_close(on_the_fly.float(), exact, rtol=0.51 * digits, atol=1e-6)  # rounded once, at the end
    torch.testing.assert_close(volume.float(), exact, rtol=digits, atol=2 * digits * float(exact.abs().max()))


@pytest.mark.parametrize("far", [float("nan"), float("inf"), 1e30, -1e9])
def test_positions_far_outside_read_zeros(cuda: CudaKernels, far: float) -> None:
    features, coords = random_features(3, 128, 8, 9), smooth_coords(1, 8, 9)
    strange = coords.clone()
    strange[0, 2, 3, 0] = strange[0, 5, 0, 1] = far
    usual, found = (looked_up(cuda, features, c, levels=2) for c in (coords, strange))
    for wanted, ours in zip(usual, found, strict=True):
        wanted[0, :, 2, 3] = wanted[0, :, 5, 0] = 0.0
        assert torch.equal(ours, wanted)


def gradients(cuda: CudaKernels | None, features: Tensor, coords: Tensor, **options: int) -> list[Tensor]:
    """Of features and positions, in both forms; by the kernels for the CPU without a CUDA device."""
    device = torch.device("cpu") if cuda is None else cuda.device
    features = features.to(device).requires_grad_(True)
    coords = coords.to(device).requires_grad_(True)
    found: list[Tensor] = []
    for form in forms(features, SOURCE, TARGET, **options):
        out = form.lookup(coords)
        weights = torch.linspace(-1, 2, out.numel()).view_as(out).to(out)  # no edge is like another
        found += torch.autograd.grad((out * weights).sum(), (features, coords))
    return [tensor.cpu() for tensor in found]


@pytest.mark.parametrize(
    ("channels", "dtype", "radius"),
    [(128, torch.float32, 3), (70, torch.float32, 1), (64, torch.float64, 2), (3, torch.float64, 4)],
)
def test_gradients_are_those_of_the_cpu(cuda: CudaKernels, channels: int, dtype: torch.dtype, radius: int) -> None:
    """Edges share features, and one of them is of a keyframe with itself."""
    features, coords = random_features(3, channels, 6, 10, dtype), smooth_coords(3, 6, 10).to(dtype)
    options = {"levels": 2, "radius": radius}
    wanted = gradients(None, features, coords, **options)
    with kernels_of(cuda):
        found = gradients(cuda, features, coords, **options)
    assert all(float(gradient.abs().max()) > 0 for gradient in found)
    exact = ROUNDING if dtype == torch.float32 else 1e-13
    assert_same(found, wanted, (exact, exact, exact, SPLIT))  # features and positions of one form, then of the other


def test_gradients_of_half_precision(cuda: CudaKernels) -> None:
    features, coords = random_features(3, 16, 6, 5), smooth_coords(3, 6, 5)
    wanted = gradients(None, features.half().float(), coords, levels=1)
    with kernels_of(cuda):
        found = gradients(cuda, features.half(), coords, levels=1)
    assert [gradient.dtype for gradient in found] == [torch.float16, torch.float32] * 2
    for ours, theirs in zip(found, wanted, strict=True):
        assert float((ours.float() - theirs).abs().max()) < 5e-3 * float(theirs.abs().max())


def test_order_does_not_change_a_bit(cuda: CudaKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    features, coords = random_features(3, 128, 5, 6), smooth_coords(3, 5, 6)
    coords[1] = random_coords(1, 5, 6)

    def run() -> list[Tensor]:
        with kernels_of(cuda):
            lookups = looked_up(cuda, features, coords, levels=2)
            return lookups + gradients(cuda, features, coords, levels=1)

    first, *others = in_every_order(run, monkeypatch)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_no_edges(cuda: CudaKernels) -> None:
    for found in looked_up(cuda, random_features(3, 8, 8, 8), torch.zeros(0, 8, 8, 2)):
        assert found.shape == (0, 196, 8, 8)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_edges_of_features_that_are_not_there(cuda: CudaKernels, wrong: int) -> None:
    features, right = random_features(3, 8, 8, 8).to(cuda.device), torch.tensor([0, 1])
    with kernels_of(cuda):
        for edges in ((torch.tensor([0, wrong]), right), (right, torch.tensor([wrong, 0]))):
            with pytest.raises(ValueError, match=r"outside 0\.\.2"):
                CorrelationOnTheFly(features, *edges)


@pytest.mark.parametrize("lookup", ["lookup_volume", "lookup_features"])
def test_what_does_not_fit_is_refused(cuda: CudaKernels, lookup: str) -> None:
    names = ("volume",) if lookup == "lookup_volume" else ("features_source", "features_target", "source", "target")

    def call(level: int = 0, radius: int = 3, **changes: np.ndarray) -> Tensor:
        tensors = {name: cuda.upload(array) for name, array in (arrays_of() | changes).items()}
        arguments = [tensors[name] for name in (*names, "coords", "out")]
        cuda.call(lookup, *arguments, level=level, radius=radius)
        return tensors["out"].cpu()

    assert (call() == 0.0).all()
    with pytest.raises(TypeError):
        call(coords=np.zeros((2, 5, 6, 2)))
    with pytest.raises(ValueError, match="output must be"):
        call(level=1)
    with pytest.raises(ValueError, match="radius"):
        call(radius=5)
