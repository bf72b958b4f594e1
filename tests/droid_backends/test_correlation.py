"""Correlation lookup: both forms against grid_sample, gradients against differences, layout of the reference."""

from __future__ import annotations

from pathlib import Path

import droid_backends as native
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metric_slam.correspondence.droid import correlation_reference as reference
from metric_slam.correspondence.droid.correlation import CorrelationOnTheFly, CorrelationVolume
from tests.droid_backends.threads import on_threads, only_with_openmp

FIXTURE = Path(__file__).parents[2] / ".." / "shared" / "parity" / "droid_network.npz"

SIZES = [(8, 8), (9, 13), (30, 11), (4, 5), (1, 3)]
"""Grids; the last two have levels without cells."""


def random_features(n: int, channels: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, channels, height, width, dtype=dtype, generator=torch.Generator().manual_seed(n + channels))


def random_coords(edges: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Positions in and around the grid, [E, h, w, 2]."""
    unit = torch.rand(edges, height, width, 2, dtype=dtype, generator=torch.Generator().manual_seed(edges))
    return unit * (torch.tensor([width, height]) + 8.0) - 4.0


def by_grid_sample(source: Tensor, target: Tensor, coords: Tensor, levels: int = 4, radius: int = 3) -> Tensor:
    """One entry of one level of the pooled volume at a time."""
    E, C, h, w = source.shape
    level = torch.einsum("ecp,ecq->epq", source.flatten(2) / 4, target.flatten(2) / 4).reshape(E * h * w, 1, h, w)
    out = []
    for k in range(levels):
        hk, wk = level.shape[2:]
        for dx in range(-radius, radius + 1):
            for dy in range(-radius, radius + 1):
                if hk == 0 or wk == 0:
                    out.append(torch.zeros(E, h, w, dtype=source.dtype))
                    continue
                at = coords.reshape(-1, 1, 1, 2) / 2**k + torch.tensor([dx, dy], dtype=coords.dtype)
                unit = (2 * at + 1) / torch.tensor([wk, hk], dtype=coords.dtype) - 1
                out.append(F.grid_sample(level, unit, align_corners=False).reshape(E, h, w))
        level = F.avg_pool2d(level, 2) if min(hk, wk) > 1 else level[:, :, : hk // 2, : wk // 2]
    return torch.stack(out, dim=1)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_both_forms_are_grid_sample_on_the_pooled_volume(size: tuple[int, int]) -> None:
    features, source, target = random_features(3, 13, *size), torch.tensor([0, 2, 0, 1]), torch.tensor([1, 0, 0, 1])
    coords = random_coords(4, *size)
    expected = by_grid_sample(features[source], features[target], coords)
    volume = CorrelationVolume(features[source], features[target]).lookup(coords)
    on_the_fly = CorrelationOnTheFly(features, source, target).lookup(coords)
    assert volume.shape == (4, 4 * 49, *size) and volume.dtype == torch.float32
    torch.testing.assert_close(volume, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(on_the_fly, volume, rtol=0, atol=1e-5)


@pytest.mark.parametrize("radius", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [1, 3])
def test_any_radius_and_number_of_levels(levels: int, radius: int) -> None:
    features, ends = random_features(2, 8, 12, 10, torch.float64), (torch.tensor([0, 1]), torch.tensor([1, 0]))
    coords = random_coords(2, 12, 10, torch.float64)
    expected = by_grid_sample(features[ends[0]], features[ends[1]], coords, levels, radius)
    volume = CorrelationVolume(features[ends[0]], features[ends[1]], levels, radius)
    for form in (volume, CorrelationOnTheFly(features, *ends, levels, radius)):
        torch.testing.assert_close(form.lookup(coords), expected, rtol=0, atol=1e-12)


def test_torch_formulas_serve_what_the_kernels_cannot_read() -> None:
    """The kernels agree with the shared twin, and half precision goes there."""
    features, source, target = random_features(3, 16, 9, 8), torch.tensor([0, 2]), torch.tensor([1, 0])
    coords = random_coords(2, 9, 8)
    ours = CorrelationOnTheFly(features, source, target).lookup(coords)
    torch.testing.assert_close(
        ours, reference.CorrelationVolume(features[source], features[target]).lookup(coords), rtol=0, atol=1e-5
    )
    half = features.to(torch.bfloat16)
    for form in (CorrelationVolume(half[source], half[target]), CorrelationOnTheFly(half, source, target)):
        assert form.lookup(coords).dtype == torch.bfloat16
        torch.testing.assert_close(form.lookup(coords).float(), ours, rtol=0.02, atol=0.1)


def test_dx_is_the_slow_index() -> None:
    """A target that differs from zero in one cell lights up one entry of each window that sees it."""
    source, target = torch.ones(1, 16, 8, 8), torch.zeros(1, 16, 8, 8)
    target[..., 5, 6] = 1.0  # y = 5, x = 6
    coords = torch.tensor([4.0, 3.0]).expand(1, 8, 8, 2)
    for form in (
        CorrelationVolume(source, target, levels=1),
        CorrelationOnTheFly(torch.cat([source, target]), torch.tensor([0]), torch.tensor([1]), levels=1),
    ):
        windows = form.lookup(coords)[0].reshape(7, 7, 64)
        assert (windows[3 + 2, 3 + 2] == 1.0).all()  # 16 / 16 at (dx, dy) = (2, 2)
        assert int(windows.count_nonzero()) == 64


@pytest.mark.parametrize("far", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e9, -40.0])
def test_positions_far_outside_read_zeros(far: float) -> None:
    features, ends = random_features(2, 4, 8, 9), (torch.tensor([0]), torch.tensor([1]))
    usual = random_coords(1, 8, 9)
    strange = usual.clone()
    strange[0, 2, 3, 0] = strange[0, 5, 0, 1] = far
    features.requires_grad_(True)
    for form in (CorrelationVolume(features[:1], features[1:]), CorrelationOnTheFly(features, *ends)):
        expected, found = form.lookup(usual).detach(), form.lookup(strange)
        expected[0, :, 2, 3] = expected[0, :, 5, 0] = 0.0
        assert torch.equal(found.detach(), expected)
        (gradient,) = torch.autograd.grad(found.sum(), features)
        assert gradient.isfinite().all()


def test_gradients_of_the_volume() -> None:
    coords = random_coords(2, 3, 4, torch.float64).requires_grad_(True)
    source, target = (random_features(2, c, 3, 4, torch.float64)[:, :3].clone() for c in (3, 4))
    inputs = source.requires_grad_(True), target.requires_grad_(True), coords

    def lookup(source: Tensor, target: Tensor, coords: Tensor) -> Tensor:
        return CorrelationVolume(source, target, levels=2, radius=2).lookup(coords)

    assert torch.autograd.gradcheck(lookup, inputs, fast_mode=False)


@pytest.mark.parametrize("channels", [3, 8])
def test_gradients_on_the_fly(channels: int) -> None:
    """Edges share features, and one of them is of a keyframe with itself."""
    features = random_features(3, channels, 4, 3, torch.float64).requires_grad_(True)
    source, target = torch.tensor([0, 0, 2, 1]), torch.tensor([1, 2, 1, 1])
    coords = random_coords(4, 4, 3, torch.float64).requires_grad_(True)

    def lookup(features: Tensor, coords: Tensor) -> Tensor:
        return CorrelationOnTheFly(features, source, target, levels=2, radius=1).lookup(coords)

    assert torch.autograd.gradcheck(lookup, (features, coords))


def test_both_forms_have_the_same_gradients() -> None:
    """In float32 at the size of the network, where all vector code is used."""
    features, source, target = random_features(3, 40, 16, 20), torch.tensor([0, 2, 0]), torch.tensor([1, 0, 1])
    coords = random_coords(3, 16, 20).requires_grad_(True)
    features.requires_grad_(True)
    forms = CorrelationVolume(features[source], features[target]), CorrelationOnTheFly(features, source, target)
    pairs = [torch.autograd.grad(form.lookup(coords).square().sum(), (features, coords)) for form in forms]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@only_with_openmp
def test_number_of_threads_does_not_change_a_bit() -> None:
    features = random_features(3, 40, 16, 21).requires_grad_(True)
    source, target, coords = torch.tensor([0, 2, 0]), torch.tensor([1, 0, 1]), random_coords(3, 16, 21)
    volume = CorrelationVolume(features[source], features[target]).volumes[0].detach().requires_grad_(True)

    def run() -> tuple[Tensor, ...]:
        on_the_fly = CorrelationOnTheFly(features, source, target).lookup(coords)
        out = on_the_fly.new_empty(3, 49, 16, 21)
        native.lookup_volume(volume.detach(), coords, out, level=0, radius=3)
        grad_volume = torch.zeros_like(volume)
        native.lookup_volume_backward(volume.detach(), coords, out, grad_volume, level=0, radius=3)
        return on_the_fly.detach(), out, grad_volume, *torch.autograd.grad(on_the_fly.square().sum(), features)

    first, *others = on_threads(run)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_no_edges() -> None:
    none, features = torch.zeros(0, dtype=torch.int64), random_features(2, 8, 8, 8)
    coords = torch.zeros(0, 8, 8, 2)
    assert CorrelationOnTheFly(features, none, none).lookup(coords).shape == (0, 196, 8, 8)
    assert CorrelationVolume(features[none], features[none]).lookup(coords).shape == (0, 196, 8, 8)


@pytest.mark.skipif(not FIXTURE.exists(), reason="the parity fixtures are not on this machine")
def test_agrees_with_the_reference() -> None:
    with np.load(FIXTURE) as data:
        features, coords = torch.from_numpy(data["fmaps"]).float(), torch.from_numpy(data["coords"]).float()
        source, target = torch.from_numpy(data["ii"]).long(), torch.from_numpy(data["jj"]).long()
        half, first = torch.from_numpy(data["corr_f16"]).float(), torch.from_numpy(data["corr_edge0"])
    volume = CorrelationVolume(features[source], features[target]).lookup(coords)
    on_the_fly = CorrelationOnTheFly(features, source, target).lookup(coords)
    torch.testing.assert_close(volume, on_the_fly, rtol=0, atol=5e-5)
    torch.testing.assert_close(volume[0], first, rtol=0, atol=5e-5)
    torch.testing.assert_close(volume, half, rtol=1e-3, atol=1e-3)


# ---- the bindings


def arrays_of(dtype: type = np.float32) -> dict[str, np.ndarray]:
    """Arguments of both lookups that fit."""
    return {
        "volume": np.zeros((2, 5, 6, 4, 3), dtype),
        "coords": np.zeros((2, 5, 6, 2), dtype),
        "out": np.ones((2, 49, 5, 6), dtype),
        "features_source": np.zeros((3, 5, 6, 7), dtype),
        "features_target": np.zeros((4, 4, 3, 7), dtype),
        "source": np.array([0, 2]),
        "target": np.array([3, 0]),
    }


def call(lookup: str, level: int = 0, radius: int = 3, **changes: np.ndarray) -> np.ndarray:
    """One call of a kernel; its output."""
    names = ("volume",) if lookup == "lookup_volume" else ("features_source", "features_target", "source", "target")
    arrays = {**arrays_of(), **changes}
    getattr(native, lookup)(*(arrays[n] for n in (*names, "coords", "out")), level=level, radius=radius)
    return arrays["out"]


@pytest.mark.parametrize("lookup", ["lookup_volume", "lookup_features"])
def test_what_does_not_fit_is_refused(lookup: str) -> None:
    assert (call(lookup) == 0.0).all()
    good = arrays_of()
    with pytest.raises(TypeError):
        call(lookup, coords=good["coords"].astype(np.float64))
    with pytest.raises(TypeError):
        call(lookup, coords=np.zeros((2, 5, 6, 3), np.float32))
    with pytest.raises(TypeError):  # not contiguous: a copy would lose the result
        call(lookup, out=np.zeros((2, 49, 6, 5), np.float32).transpose(0, 1, 3, 2))
    with pytest.raises(ValueError, match="output must be"):
        call(lookup, level=1)
    with pytest.raises(ValueError, match="output must be"):
        call(lookup, out=np.zeros((2, 49, 6, 5), np.float32))
    for radius in (0, 5):
        with pytest.raises(ValueError, match="radius"):
            call(lookup, radius=radius)
    with pytest.raises(ValueError, match="level"):
        call(lookup, level=-1)
    with pytest.raises(ValueError, match="begin with the same|the grid of coords"):
        call(lookup, coords=np.zeros((2, 6, 5, 2), np.float32))


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="channels C"):
        call("lookup_features", features_target=np.zeros((4, 4, 3, 8), np.float32))
    with pytest.raises(ValueError, match="source names features outside"):
        call("lookup_features", source=np.array([0, 3]))
    with pytest.raises(ValueError, match="target names features outside"):
        call("lookup_features", target=np.array([-1, 0]))
    with pytest.raises(ValueError, match="length E"):
        call("lookup_features", target=np.array([0]))
    with pytest.raises(TypeError):
        call("lookup_features", source=np.array([0, 2], np.int32))


def test_gradients_that_do_not_fit_are_refused() -> None:
    a = arrays_of()
    with pytest.raises(ValueError, match="grad_volume"):
        native.lookup_volume_backward(
            a["volume"], a["coords"], a["out"], np.zeros((2, 5, 6, 3, 4), np.float32), level=0, radius=3
        )
    features = (a["features_source"], a["features_target"], a["source"], a["target"], a["coords"], a["out"])
    with pytest.raises(ValueError, match="grad_target"):
        native.lookup_features_backward(*features, None, a["features_source"].copy(), level=0, radius=3)
    with pytest.raises(ValueError, match="grad_coords"):
        native.lookup_features_backward(*features, grad_coords=a["coords"][:1].copy(), level=0, radius=3)
