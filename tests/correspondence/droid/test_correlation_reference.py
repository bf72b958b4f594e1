"""Correlation lookup, with and without volume, against loops that follow the definition."""

from __future__ import annotations

import math

import pytest
import torch

from metric_slam.correspondence.droid import correlation_reference
from metric_slam.correspondence.droid.correlation_reference import CorrelationOnTheFly, CorrelationVolume, halved

FORMS = pytest.mark.parametrize("form", [CorrelationVolume, CorrelationOnTheFly])
Problem = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def problem(E: int, C: int, h: int, w: int, *, spread: float = 2.0, dtype: torch.dtype = torch.float64) -> Problem:
    """Random features of both ends and positions around the cells themselves, some outside."""
    random = torch.Generator().manual_seed(E + 10 * h + w)
    source, target = (torch.randn(E, C, h, w, generator=random, dtype=dtype) for _ in range(2))
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    grid = torch.stack([x, y], dim=-1).to(dtype)
    return source, target, grid + spread * torch.randn(E, h, w, 2, generator=random, dtype=dtype)


def by_definition(
    source: torch.Tensor, target: torch.Tensor, coords: torch.Tensor, levels: int, r: int
) -> torch.Tensor:
    """Entry by entry; features of the target are averaged, cells outside count as zero."""
    E, C, h, w = source.shape
    out = torch.zeros(E, levels * (2 * r + 1) ** 2, h, w, dtype=source.dtype)
    for level in range(levels):
        height, width = h // 2**level, w // 2**level
        cells = target[:, :, : height * 2**level, : width * 2**level]
        for _ in range(level):
            # a leftover row or column of any level is dropped there, so average what is left, pair by pair
            cells = cells[:, :, : cells.shape[2] // 2 * 2, : cells.shape[3] // 2 * 2]
            cells = (
                cells[:, :, ::2, ::2] + cells[:, :, 1::2, ::2] + cells[:, :, ::2, 1::2] + cells[:, :, 1::2, 1::2]
            ) / 4

        def at(e: int, y: int, x: int, cells: torch.Tensor = cells) -> torch.Tensor:
            inside = 0 <= y < cells.shape[2] and 0 <= x < cells.shape[3]
            return cells[e, :, y, x] if inside else torch.zeros(C, dtype=source.dtype)

        for e in range(E):
            for py in range(h):
                for px in range(w):
                    for dx in range(-r, r + 1):
                        for dy in range(-r, r + 1):
                            x = float(coords[e, py, px, 0]) / 2**level + dx
                            y = float(coords[e, py, px, 1]) / 2**level + dy
                            x0, y0 = math.floor(x), math.floor(y)
                            fx, fy = x - x0, y - y0
                            feature = (1 - fy) * ((1 - fx) * at(e, y0, x0) + fx * at(e, y0, x0 + 1)) + fy * (
                                (1 - fx) * at(e, y0 + 1, x0) + fx * at(e, y0 + 1, x0 + 1)
                            )
                            channel = (level * (2 * r + 1) + dx + r) * (2 * r + 1) + dy + r
                            out[e, channel, py, px] = source[e, :, py, px] @ feature / 16.0
    return out


@FORMS
@pytest.mark.parametrize(("h", "w"), [(4, 4), (5, 3), (3, 7)])
def test_every_entry_is_the_definition(form: type[CorrelationVolume], h: int, w: int) -> None:
    source, target, coords = problem(2, 3, h, w)
    ours = form(source, target, levels=3, radius=1).lookup(coords)
    torch.testing.assert_close(ours, by_definition(source, target, coords, levels=3, r=1))


@FORMS
def test_dx_is_the_slow_index_of_the_window(form: type[CorrelationVolume]) -> None:
    h, w = 8, 12
    source, target = torch.zeros(1, 1, h, w), torch.zeros(1, 1, h, w)
    source[..., 4, 5], target[..., 3, 7] = 4.0, 4.0  # two columns to the right, one row up
    coords = problem(1, 1, h, w, spread=0.0, dtype=torch.float32)[2]
    values = form(source, target).lookup(coords)[0, :, 4, 5]
    assert values.shape == (196,)
    assert values[:49].nonzero().item() == (2 + 3) * 7 + (-1 + 3)
    assert values[(2 + 3) * 7 + (-1 + 3)] == 1.0


@FORMS
@pytest.mark.parametrize(("h", "w"), [(8, 8), (8, 20), (5, 9), (2, 3), (1, 1)])
def test_small_maps_need_no_more_levels_than_they_have(form: type[CorrelationVolume], h: int, w: int) -> None:
    source, target, coords = problem(2, 4, h, w, dtype=torch.float32)
    values = form(source, target).lookup(coords)
    assert values.shape == (2, 196, h, w)
    assert values.isfinite().all()
    for level in range(4):
        vanished = min(h, w) // 2**level == 0
        assert bool((values[:, level * 49 : (level + 1) * 49] == 0).all()) == vanished


def test_with_and_without_volume_agree() -> None:
    source, target, coords = problem(3, 16, 11, 13, spread=6.0)
    volume, on_the_fly = (f(source, target).lookup(coords) for f in (CorrelationVolume, CorrelationOnTheFly))
    torch.testing.assert_close(volume, on_the_fly, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("edges", "values"), [(1, 2**24), (2, 1), (3, 300)])
def test_slices_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, edges: int, values: int) -> None:
    source, target, coords = problem(5, 4, 6, 7)
    whole = CorrelationOnTheFly(source, target).lookup(coords)
    monkeypatch.setattr(correlation_reference, "EDGES_AT_ONCE", edges)
    monkeypatch.setattr(correlation_reference, "VALUES_AT_ONCE", values)
    torch.testing.assert_close(CorrelationOnTheFly(source, target).lookup(coords), whole)


@FORMS
def test_far_outside_and_lost_positions_read_zeros(form: type[CorrelationVolume]) -> None:
    source, target, coords = problem(1, 4, 8, 10, dtype=torch.float32)
    lost = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 200.0, -200.0]
    for n, value in enumerate(lost):
        coords[0, n, 2, 0] = value
        coords[0, n, 3, 1] = value
    values = form(source, target).lookup(coords)
    assert values.isfinite().all()
    assert (values[0, :, : len(lost), 2:4] == 0).all()
    assert (values[0, :, : len(lost), 4] != 0).any()


@FORMS
def test_gradients_are_those_of_differences(form: type[CorrelationVolume]) -> None:
    source, target, coords = problem(1, 2, 3, 4)
    coords = coords.floor() + 0.1 + 0.8 * (coords - coords.floor())  # away from the kinks
    inputs = tuple(tensor.requires_grad_() for tensor in (source, target, coords))
    assert torch.autograd.gradcheck(lambda s, t, c: form(s, t, levels=2, radius=1).lookup(c), inputs)


@FORMS
def test_edges_do_not_know_each_other(form: type[CorrelationVolume]) -> None:
    source, target, coords = problem(4, 3, 6, 5)
    order = torch.tensor([2, 0, 3, 1])
    values = form(source, target).lookup(coords)
    torch.testing.assert_close(form(source[order], target[order]).lookup(coords[order]), values[order])
    assert form(source[:0], target[:0]).lookup(coords[:0]).shape == (0, 196, 6, 5)


@FORMS
def test_half_precision_stays_and_is_close(form: type[CorrelationVolume]) -> None:
    source, target, coords = problem(1, 8, 6, 7, dtype=torch.float32)
    half = form(source.bfloat16(), target.bfloat16()).lookup(coords)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), form(source, target).lookup(coords), rtol=0, atol=0.05)


@FORMS
def test_maps_that_do_not_fit_are_refused(form: type[CorrelationVolume]) -> None:
    source, target, coords = problem(2, 3, 4, 5)
    with pytest.raises(AssertionError):
        form(source, target[..., :4])
    with pytest.raises(AssertionError):
        form(source, target).lookup(coords[:, :3])


def test_halving_drops_what_is_left_over() -> None:
    maps = torch.arange(15.0).view(1, 1, 3, 5)
    assert halved(maps).tolist() == [[[[3.0, 5.0]]]]
    assert halved(maps[..., :1]).shape == (1, 1, 1, 0)
