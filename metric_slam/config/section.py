"""What every section of the configuration has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """Base of all sections: unknown keys are errors and a resolved configuration cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _none_by_name(cls, values: Any) -> Any:
        """``none`` and ``auto`` typed by a user mean None where None is the default (YAML knows only ``null``)."""
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {
            key: None if value in ("none", "auto") and key in fields and fields[key].default is None else value
            for key, value in values.items()
        }


def size_from_text(value: Any) -> Any:
    """``640x192`` as a pair of numbers; what is no text stays as it is. Raises ValueError for other texts."""
    if not isinstance(value, str):
        return value
    width, _, height = value.lower().partition("x")
    if not (width.strip().isdigit() and height.strip().isdigit()):
        raise ValueError(f"'{value}' is no size; write it as WIDTHxHEIGHT in pixels, e.g. 640x192")
    return int(width), int(height)
