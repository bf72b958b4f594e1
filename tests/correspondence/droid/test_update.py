"""The update operator: gates, aggregation, heads."""

from __future__ import annotations

import math

import pytest
import torch

from metric_slam.correspondence.droid.update import (
    ConvGRU,
    GraphAggregation,
    UpdateOperator,
    _means_by_matrix,
    mean_by_source,
)
from metric_slam.correspondence.droid.widths import DroidWidths

H, W = 3, 4


def edges_of(widths: DroidWidths, E: int, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Random inputs of an update."""
    random = torch.Generator().manual_seed(E)

    def maps(channels: int) -> torch.Tensor:
        return torch.randn(E, channels, H, W, generator=random, dtype=dtype)

    return {
        "hidden": maps(widths.hidden).tanh(),
        "context": maps(widths.context).relu(),
        "correlation": maps(widths.correlation_channels),
        "motion": maps(4),
    }


@pytest.fixture
def operator(narrow: DroidWidths) -> UpdateOperator:
    torch.manual_seed(1)
    return UpdateOperator(narrow).double()


def test_the_unit_is_its_formula(random: torch.Generator) -> None:
    torch.manual_seed(2)
    unit = ConvGRU(3, 2, 4).double()
    h, context, inputs = (torch.randn(2, c, H, W, generator=random, dtype=torch.float64) for c in (3, 2, 4))
    x = torch.cat([context, inputs], dim=1)
    glance = (unit.w(h).sigmoid() * h).mean((2, 3), keepdim=True)
    z = (unit.convz(torch.cat([h, x], 1)) + unit.convz_glo(glance)).sigmoid()
    r = (unit.convr(torch.cat([h, x], 1)) + unit.convr_glo(glance)).sigmoid()
    q = (unit.convq(torch.cat([r * h, x], 1)) + unit.convq_glo(glance)).tanh()
    torch.testing.assert_close(unit(h, unit.context_gates(context), inputs), (1 - z) * h + z * q)


@pytest.mark.parametrize("size", [(8, 8), (5, 11)])
def test_shapes_of_all_results(size: tuple[int, int]) -> None:
    widths = DroidWidths()
    h, w = size
    hidden, context, correlation = (torch.rand(3, c, h, w) for c in (128, 128, 196))
    with torch.inference_mode():
        result = UpdateOperator(widths)(hidden, context, correlation, torch.rand(3, 4, h, w), torch.tensor([7, 2, 7]))
    assert result.hidden.shape == (3, 128, h, w)
    assert result.delta.shape == result.confidence.shape == (3, h, w, 2)
    assert result.depth_damping.shape == (2, h, w)
    assert result.upsample_weights.shape == (2, 576, h, w)
    assert ((result.confidence > 0) & (result.confidence < 1)).all()
    assert (result.depth_damping > 0).all()
    assert result.delta.is_contiguous() and result.confidence.is_contiguous()


def test_the_released_operator_has_these_weights() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in UpdateOperator().state_dict().items()}
    assert shapes["corr_encoder.0.weight"] == (128, 196, 1, 1)
    assert shapes["flow_encoder.0.weight"] == (128, 4, 7, 7)
    assert shapes["flow_encoder.2.weight"] == (64, 128, 3, 3)
    assert shapes["weight.2.weight"] == shapes["delta.2.weight"] == (2, 128, 3, 3)
    assert shapes["gru.convq.weight"] == (128, 448, 3, 3)
    assert shapes["gru.convz_glo.weight"] == shapes["gru.w.weight"] == (128, 128, 1, 1)
    assert shapes["agg.eta.0.weight"] == (1, 128, 3, 3)
    assert shapes["agg.upmask.0.weight"] == (576, 128, 1, 1)
    assert len(shapes) == 38


def test_no_motion_is_motion_of_zero(operator: UpdateOperator, narrow: DroidWidths) -> None:
    given = edges_of(narrow, 2)
    without = operator(given["hidden"], given["context"], given["correlation"])
    given["motion"] = torch.zeros_like(given["motion"])
    assert without.depth_damping is None and without.upsample_weights is None
    torch.testing.assert_close(without.delta, operator(**given).delta)


def test_context_gates_stand_in_for_the_context(operator: UpdateOperator, narrow: DroidWidths) -> None:
    given = edges_of(narrow, 3)
    gates = operator.context_gates(given["context"])
    other = operator(given["hidden"], None, given["correlation"], given["motion"], context_gates=gates)
    torch.testing.assert_close(other.hidden, operator(**given).hidden)
    with pytest.raises(AssertionError):
        operator(given["hidden"], None, given["correlation"])


def test_the_order_of_edges_does_not_matter(operator: UpdateOperator, narrow: DroidWidths) -> None:
    given, source = edges_of(narrow, 6), torch.tensor([4, 1, 4, 0, 1, 4])
    order = torch.tensor([5, 3, 0, 1, 4, 2])
    result = operator(**given, source=source)
    other = operator(**{name: maps[order] for name, maps in given.items()}, source=source[order])
    for name in ("hidden", "delta", "confidence"):
        torch.testing.assert_close(getattr(other, name), getattr(result, name)[order])
    torch.testing.assert_close(other.depth_damping, result.depth_damping)
    torch.testing.assert_close(other.upsample_weights, result.upsample_weights)


def test_keyframes_come_in_ascending_order_and_do_not_mix(operator: UpdateOperator, narrow: DroidWidths) -> None:
    given, source = edges_of(narrow, 5), torch.tensor([9, 2, 9, 5, 2])
    whole = operator(**given, source=source)
    for position, keyframe in enumerate((2, 5, 9)):
        own = {name: maps[source == keyframe] for name, maps in given.items()}
        alone = operator(**own, source=source[source == keyframe])
        torch.testing.assert_close(alone.depth_damping[0], whole.depth_damping[position])
        torch.testing.assert_close(alone.upsample_weights[0], whole.upsample_weights[position])


def test_means_by_source() -> None:
    maps = torch.tensor([1.0, 2.0, 3.0, 10.0]).view(4, 1, 1, 1)
    assert mean_by_source(maps, torch.tensor([3, 0, 3, 0])).flatten().tolist() == [6.0, 2.0]
    half = mean_by_source(torch.full((300, 1, 1, 1), 300.0, dtype=torch.float16), torch.zeros(300, dtype=torch.int64))
    assert half.dtype == torch.float16 and half.item() == 300.0, "the sum would overflow in half precision"
    with pytest.raises(AssertionError):
        mean_by_source(maps, torch.tensor([0, 1]))


def test_a_device_takes_the_means_in_one_product(random: torch.Generator) -> None:
    """In an order that does not change; sums by index have none on a GPU."""
    maps, source = torch.randn(7, 3, 2, 5, generator=random), torch.tensor([4, 1, 4, 0, 1, 4, 4])
    _, position, count = source.unique(return_inverse=True, return_counts=True)
    torch.testing.assert_close(_means_by_matrix(maps, position, count), mean_by_source(maps, source))
    with torch.autocast("cpu", torch.bfloat16):
        half = _means_by_matrix(maps.bfloat16(), position, count)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, mean_by_source(maps.bfloat16(), source))


def test_damping_is_a_hundredth_of_softplus(random: torch.Generator) -> None:
    aggregation = GraphAggregation(3)
    torch.nn.init.zeros_(aggregation.eta[0].weight)
    torch.nn.init.zeros_(aggregation.eta[0].bias)
    damping, _ = aggregation(torch.randn(2, 3, H, W, generator=random), torch.tensor([0, 0]))
    torch.testing.assert_close(damping, torch.full((1, H, W), 0.01 * math.log(2.0)))


def test_gradients_are_those_of_differences(operator: UpdateOperator, narrow: DroidWidths) -> None:
    given, source = edges_of(narrow, 2), torch.tensor([1, 0])
    inputs = [maps.requires_grad_() for maps in given.values()]
    weights = [operator.gru.convq_glo.weight, operator.gru.w.bias, operator.delta[2].bias, operator.agg.eta[0].bias]

    def results(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = operator(*tensors[:4], source)
        return result.hidden, result.delta, result.confidence, result.depth_damping, result.upsample_weights[:, ::37]

    assert torch.autograd.gradcheck(results, (*inputs, *weights), fast_mode=True)
    operator.zero_grad()
    sum(part.sum() for part in operator(*inputs, source)).backward()
    missing = [name for name, weight in operator.named_parameters() if weight.grad is None]
    assert not missing, missing
