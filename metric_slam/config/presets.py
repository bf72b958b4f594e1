"""The presets: named sets of values that a configuration starts from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel

Preset = Literal["fast", "accurate"]

PRESETS: Mapping[str, Mapping[str, bool | int | float | str]] = MappingProxyType(
    {
        "accurate": {},
        "fast": {
            "input.pixel_budget_px": 640 * 192,
            "dis.finest_scale": 1,
            "sliding_window.window": 6,
            "sliding_window.iterations": 2,
        },
    }
)
"""What a preset changes against the defaults of the schema: dotted key -> value. ``accurate`` is the defaults."""


def over_preset(name: str, values: Mapping[str, object]) -> dict[str, object]:
    """Overlay the preset ``name`` with ``values``: field -> value, where sections are mappings or models.

    What a section given as a model leaves at its default comes from the preset. An unknown preset changes nothing;
    the schema refuses its name.
    """
    merged = dict(values)
    for key, value in PRESETS.get(name, {}).items():
        section, leaf = key.split(".")
        given = merged.get(section, {})
        if isinstance(given, BaseModel):
            given = {field: getattr(given, field) for field in given.model_fields_set}
        if isinstance(given, Mapping):
            merged[section] = {leaf: value, **given}
    return merged
