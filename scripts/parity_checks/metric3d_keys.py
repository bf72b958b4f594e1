"""Names and shapes of the five Metric3D networks' weights, and whether files laid out like the released can be loaded.

Differences are counts. The networks are built without memory for their weights, so the largest costs nothing.
"""

from __future__ import annotations

from typing import Any

from parity_checks import Fixture, FixtureError, Row


def check(data: Fixture) -> list[Row]:
    """Rows for names, shapes, the count of parameters and the released file's name of every network."""
    try:
        from metric_slam.depth.metric3d.specs import SPECS
    except ImportError as error:
        raise FixtureError(f"the networks cannot be imported ({error}): install the project") from error
    rows = [_missing(sorted(set(data["models"]) ^ set(SPECS)))]
    for name in sorted(set(data["models"]) & set(SPECS)):
        rows += _rows_of(name, data["models"][name])
        rows.append(_file_row(SPECS[name].weights, name, data["checkpoint"]["files"][name]))
    return rows


def _missing(names: list[str]) -> Row:
    return Row("networks", len(names), 0, ", ".join(names))


def _rows_of(name: str, reference: dict[str, Any]) -> list[Row]:
    from metric_slam.depth.metric3d.model import empty_metric3d

    network = empty_metric3d(name)
    ours = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    theirs: dict[str, list[int]] = reference["state_dict"]
    parameters = sum(p.numel() for p in network.parameters()) - reference["n_parameters"]
    buffers = {key for key, _ in network.named_buffers()} ^ set(reference["buffers"])
    reshaped = sorted(key for key in set(ours) & set(theirs) if ours[key] != theirs[key])
    return [
        _count(f"{name} names", sorted(set(ours) ^ set(theirs)), f"{len(theirs)} in the reference"),
        _count(f"{name} shapes", reshaped),
        _count(f"{name} buffers", sorted(buffers)),
        Row(f"{name} parameters", abs(parameters), 0, f"{reference['n_parameters']} in the reference"),
    ]


def _file_row(entry: str, name: str, file_name: str) -> Row:
    from metric_slam.weights.released import released

    return Row(f"{name} file", int(released(entry).file_name != file_name), 0, file_name)


def _count(what: str, differing: list[str], note: str = "") -> Row:
    return Row(what, len(differing), 0, ", ".join(differing[:3]) if differing else note)
