"""The keys of a configuration, and what is wrong with one in a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from metric_slam.config.renamed import renamed_key


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section; None for an option."""
    annotation: object = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def fields_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section by the name that a user writes (the alias where there is one)."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def walk_fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted key and pydantic field of every leaf option, in the order of the schema."""
    for name, field in fields_of(section).items():
        inner = section_of(field)
        if inner is None:
            yield prefix + name, field
        else:
            yield from walk_fields(inner, f"{prefix}{name}.")


def unknown_key(key: str, section: type[BaseModel], source: str = "") -> str:
    """One line about a key that ``section`` lacks: its new name, or the most similar one; ``source`` is its place."""
    place = f" in {source}" if source else ""
    new = renamed_key(key)
    if new is not None:
        return new + place
    known = [name for name, _ in walk_fields(section)]
    by_leaf = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    close = by_leaf or difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "'metric-slam config' lists all"
    return f"unknown configuration key '{key}'{place}; {hint}"


def with_leaf(key: str, value: object) -> str:
    """The dotted key of the first option of the tree ``value`` below ``key``; ``key`` itself if it is no tree."""
    while isinstance(value, Mapping) and value:
        name, value = next(iter(value.items()))
        key = f"{key}.{name}"
    return key


def one_line(error: ValidationError, section: type[BaseModel], sources: Mapping[str, str] | None = None) -> str:
    """The first complaint of pydantic as one line with the key, the value and where it was written.

    ``sources``: dotted key -> place in the user's words, where it is known.
    """
    sources = sources or {}
    first = error.errors(include_url=False)[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown_key(with_leaf(location, first["input"]), section)
    known = [key for key, _ in walk_fields(section)]
    key = next((k for k in known if location == k or location.startswith(k + ".")), location)
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if key not in known:
        what = f"section '{key}'" if key else f"section {section.__name__}"
        return f"configuration {what}: {message}"
    place = f" from {sources[key]}" if key in sources else ""
    return f"configuration key '{key}'{place}: {message}, not {first['input']!r}"
