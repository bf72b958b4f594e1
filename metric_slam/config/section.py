"""What every section of the configuration has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from metric_slam.config.explain import one_line
from metric_slam.errors import ConfigError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class _OneLineErrors(ModelMetaclass):
    """Turns what a constructor refuses into one line; validation of trees (``model_validate``) is left as it is."""

    def __call__(cls, *args: object, **values: object) -> object:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            assert issubclass(cls, BaseModel)
            raise ConfigError(one_line(error, cls)) from error


class Section(BaseModel, metaclass=_OneLineErrors):
    """Base of all sections: unknown keys are errors and a resolved configuration cannot change.

    A constructor raises ConfigError with one line that names the key, the value and what is allowed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, serialize_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _none_by_name(cls, values: object) -> object:
        """``none`` and ``auto`` typed by a user mean None where None is the default (YAML knows only ``null``)."""
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {
            key: None if value in ("none", "auto") and key in fields and fields[key].default is None else value
            for key, value in values.items()
        }


def size_from_text(value: object) -> object:
    """``640x192`` as a pair of numbers; what is no text stays as it is. Raises ValueError for other texts."""
    if not isinstance(value, str):
        return value
    width, _, height = value.lower().partition("x")
    if not (width.strip().isdigit() and height.strip().isdigit()):
        raise ValueError(f"'{value}' is no size; write it as WIDTHxHEIGHT in pixels, e.g. 640x192")
    return int(width), int(height)
