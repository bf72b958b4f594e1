"""The DROID network from image to upsampled inverse depth, on random weights that both sides derive from their names.

Every stage takes what our own stages before it gave, so a difference in one shows in all that follow. Differences are
relative to the largest magnitude of each array; those stored in half precision cannot be compared closer than 1e-3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from parity_checks import Fixture, FixtureError, Row, compare
from parity_checks.fixture_weights import set_fixture_weights

TOLERANCE = 1e-4
HALF_TOLERANCE = 1e-3
LOOKUP_TOLERANCE = 1e-6
"""Relative, too: values reach about 30, where one step of float32 is 2e-6."""


def check(data: Fixture) -> list[Row]:
    """One row for each output, and one for every other lookup against that of the volume in torch."""
    try:
        import torch

        from metric_slam.correspondence.droid import correlation as _  # noqa: F401 (the compiled lookups)
        from metric_slam.correspondence.droid.network import DroidNetwork
    except ImportError as error:
        raise FixtureError(f"the network cannot be imported ({error}): install the project") from error
    with torch.inference_mode():
        outputs, lookups = outputs_of(set_fixture_weights(DroidNetwork()).eval(), data)
    rows = [_relative(name, ours, data[name], _tolerance(name)) for name, ours in outputs.items()]
    volume = outputs["corr_f16"]
    return [*rows, *(_relative(f"{name} - volume", ours, volume, LOOKUP_TOLERANCE) for name, ours in lookups.items())]


def outputs_of(network: Any, data: Fixture) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(our outputs by the fixture's names, all edges by every other lookup) for the inputs of a fixture."""
    features = _features(network, data)
    volume, others = _lookups(features["fmaps"], data)
    outputs = features | {"corr_f16": volume, "corr_edge0": volume[0]} | _updates(network, features, volume, data)
    return tuple({name: ours.numpy() for name, ours in found.items()} for found in (outputs, others))


def _features(network: Any, data: Fixture) -> dict[str, Any]:
    import torch

    images_rgb = torch.from_numpy(np.ascontiguousarray(data["images_bgr_u8"][:, ::-1]))
    hidden, context = network.encode_context(images_rgb)
    return {"fmaps": network.encode(images_rgb), "net": hidden, "inp": context}


def _lookups(features: Any, data: Fixture) -> tuple[Any, dict[str, Any]]:
    """Of all edges, [E, 196, h, w] each: from the volume in torch, and by name without it and from compiled code."""
    from metric_slam.correspondence.droid import correlation as compiled
    from metric_slam.correspondence.droid import correlation_reference as reference

    ends = features[data["ii"]], features[data["jj"]]
    others = {
        "on the fly": reference.CorrelationOnTheFly(*ends),
        "compiled volume": compiled.CorrelationVolume(*ends),
        "compiled on the fly": compiled.CorrelationOnTheFly(features, _tensor(data, "ii"), _tensor(data, "jj")),
    }
    coords = _tensor(data, "coords")
    return reference.CorrelationVolume(*ends).lookup(coords), {name: it.lookup(coords) for name, it in others.items()}


def _updates(network: Any, features: dict[str, Any], correlation: Any, data: Fixture) -> dict[str, Any]:
    """An update of all edges with aggregation, and one of the first edge without motion and aggregation."""
    from metric_slam.correspondence.droid.upsample import upsample_inv_depth

    source = _tensor(data, "ii")
    hidden, context = features["net"][source], features["inp"][source]
    together = network.refine(hidden, context, correlation, _tensor(data, "motion"), source)
    alone = network.refine(hidden[:1], context[:1], correlation[:1])
    return {
        "net_out": together.hidden,
        "delta": together.delta,
        "weight": together.confidence,
        "eta": together.depth_damping,
        "upmask_f16": together.upsample_weights,
        "upmask_frame0": together.upsample_weights[0],
        "disp_up": upsample_inv_depth(_tensor(data, "disps"), together.upsample_weights),
        "net_out_noagg": alone.hidden[0],
        "delta_noagg": alone.delta[0],
        "weight_noagg": alone.confidence[0],
    }


def _tensor(data: Fixture, name: str) -> Any:
    import torch

    return torch.from_numpy(data[name])


def _tolerance(name: str) -> float:
    return HALF_TOLERANCE if name.endswith("_f16") else TOLERANCE


def _relative(name: str, ours: np.ndarray, reference: np.ndarray, tolerance: float) -> Row:
    largest = max(float(np.abs(reference).max(initial=0.0)), float(np.finfo(np.float32).tiny))
    return compare(name, ours / largest, np.asarray(reference, np.float64) / largest, tolerance, f"of {largest:.3g}")
