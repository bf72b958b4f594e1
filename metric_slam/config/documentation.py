"""docs/configuration.md, written from the schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from metric_slam.config.explain import fields_of, section_of, walk_fields
from metric_slam.config.presets import PRESETS
from metric_slam.config.schema import Config

_WORDS = {bool: "true/false", int: "integer", float: "number", str: "text", Path: "path"}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def config_markdown() -> str:
    """docs/configuration.md: every option with its default, what the ``fast`` preset changes, its range and meaning."""
    lines = [
        "# Configuration",
        "",
        "Written by `metric-slam config --markdown`; do not edit. Nothing here has to be set: the defaults run.",
        "",
        "Order, later wins: defaults, `--preset`, `--config FILE` (YAML), `--set key=value`, other options. `none` (or",
        "`auto`) as a value means the automatic choice wherever the default is `none`. `metric-slam config` prints the",
        "resolved configuration, and every run writes its own to `config.yaml` in the results folder. In Python,",
        '`Config.preset("fast", fusion={"min_views": 3})` is the same tree.',
    ]
    lines += _section_lines("Run", "", Config)
    for name, field in fields_of(Config).items():
        section = section_of(field)
        if section is not None:
            lines += _section_lines(f"`{name}`", f"{name}.", section)
    return "\n".join(lines) + "\n"


def _section_lines(title: str, prefix: str, section: type[BaseModel]) -> list[str]:
    intro = " ".join((section.__doc__ or "").split()) if prefix else "Options of the whole run."
    rows = [
        f"| `{key}` | {_shown(field.default)} | {_shown_preset(key)} | {_allowed(field)} | {field.description or ''} |"
        for key, field in walk_fields(section, prefix)
        if prefix or "." not in key
    ]
    header = ["| key | default | `fast` | values | meaning |", "|---|---|---|---|---|"]
    return ["", f"## {title}", "", intro, "", *header, *rows]


def _shown_preset(key: str) -> str:
    fast = PRESETS["fast"]
    return _shown(fast[key]) if key in fast else ""


def _shown(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "`[" + ", ".join(str(v) for v in value) + "]`"
    return f"`{yaml.safe_dump(value).splitlines()[0] if value is not None else 'none'}`"


def _allowed(field: FieldInfo) -> str:
    """Choices or range and type of an option, in words."""
    annotation: object = field.annotation
    inner = [a for a in get_args(annotation) if a is not type(None)]
    kind = inner[0] if type(None) in get_args(annotation) and len(inner) == 1 else annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        parts = [", ".join(_word(a) for a in get_args(kind))]
    else:
        parts = [_word(kind)]
    for bound in field.metadata:
        parts += [f"{sign} {getattr(bound, name)}" for name, sign in _SIGNS.items() if hasattr(bound, name)]
    return ", ".join(parts)


def _word(kind: object) -> str:
    return _WORDS[kind] if isinstance(kind, type) and kind in _WORDS else str(kind)
