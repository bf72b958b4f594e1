"""From presets, files and ``key=value`` settings to one resolved configuration, and from the schema to its docs.

Order, later wins: defaults, preset, YAML file, ``--set``, the options of the command line. Every value remembers where
it came from, so that a message about a bad one names the file or the option to change.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from metric_slam.config.schema import PRESETS, Config, Section
from metric_slam.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """One value on its way into the configuration and the place where the user wrote it."""

    value: Any
    source: str


def resolve_config(
    file: Path | None = None, settings: Sequence[str] = (), options: Mapping[str, Setting] | None = None
) -> Config:
    """Overlay preset, ``file``, ``settings`` (``"section.key=value"``) and ``options`` (dotted key -> value).

    Raises ConfigError with one line for an unknown key, a value out of range, an unreadable file or two sources on the
    command line that contradict each other.
    """
    from_file = read_config_file(file) if file is not None else {}
    explicit = _without_contradictions(parse_settings(settings), options or {})
    preset = _chosen_preset(from_file, explicit)
    layers = {key: Setting(value, f"preset {preset}") for key, value in PRESETS.get(preset, {}).items()}
    layers |= from_file | explicit
    try:
        return Config.model_validate(_nested({key: setting.value for key, setting in layers.items()}))
    except ValidationError as error:
        raise ConfigError(_one_line(error, layers)) from error


def read_config_file(path: Path) -> dict[str, Setting]:
    """Read a YAML file into dotted keys. Raises ConfigError naming the file."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}; check the path of --config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise ConfigError(f"{path}{line} is not valid YAML; see docs/configuration.md for the layout") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold 'key: value' pairs, not a {type(tree).__name__}; see configs/README.md")
    return {key: Setting(value, str(path)) for key, value in _flattened(tree, Config, "", str(path))}


def parse_settings(settings: Sequence[str]) -> dict[str, Setting]:
    """``["fusion.voxel_m=0.1"]`` to dotted keys; values are read as YAML. Raises ConfigError."""
    parsed: dict[str, Setting] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text}: write it as key=value, e.g. --set fusion.voxel_m=0.1")
        try:
            tree = {key.strip(): yaml.safe_load(value)}
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text}: the value cannot be read; quote it like a YAML value") from error
        parsed |= {dotted: Setting(leaf, "--set") for dotted, leaf in _flattened(tree, Config, "", "--set")}
    return parsed


def dump_yaml(config: Config) -> str:
    """The resolved configuration as YAML that ``--config`` reads back to an equal one."""
    header = "# resolved configuration; repeat the run with --config THIS_FILE\n"
    return header + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def walk_fields(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted key and pydantic field of every leaf option, in the order of the schema."""
    for name, field in section.model_fields.items():
        inner = _section_of(field)
        if inner is None:
            yield prefix + name, field
        else:
            yield from walk_fields(inner, f"{prefix}{name}.")


def config_markdown() -> str:
    """docs/configuration.md: every option with its default, what the ``fast`` preset changes, its range and meaning."""
    lines = [
        "# Configuration",
        "",
        "Written by `metric-slam config --markdown`; do not edit. Nothing here has to be set: the defaults run.",
        "",
        "Order, later wins: defaults, `--preset`, `--config FILE` (YAML), `--set key=value`, other options. `none` (or",
        "`auto`) as a value means the automatic choice wherever the default is `none`. `metric-slam config` prints the",
        "resolved configuration, and every run writes its own to `config.yaml` in the results folder.",
    ]
    lines += _markdown_section("Run", "", Config)
    for name, field in Config.model_fields.items():
        section = _section_of(field)
        if section is not None:
            lines += _markdown_section(f"`{name}`", f"{name}.", section)
    return "\n".join(lines) + "\n"


def _markdown_section(title: str, prefix: str, section: type[Section]) -> list[str]:
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


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "`[" + ", ".join(str(v) for v in value) + "]`"
    return f"`{yaml.safe_dump(value).splitlines()[0] if value is not None else 'none'}`"


def _allowed(field: FieldInfo) -> str:
    """Choices or range and type of an option, in words."""
    annotation = field.annotation
    inner = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    kind = inner[0] if type(None) in get_args(annotation) and len(inner) == 1 else annotation
    words = {bool: "true/false", int: "integer", float: "number", str: "text", Path: "path"}
    if get_origin(kind) is tuple:
        parts = [", ".join(words.get(a, str(a)) for a in get_args(kind))]
    else:
        parts = [words.get(kind, str(kind))]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for bound in field.metadata:
        parts += [f"{sign} {getattr(bound, name)}" for name, sign in signs.items() if hasattr(bound, name)]
    return ", ".join(parts)


def _section_of(field: FieldInfo) -> type[Section] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _flattened(tree: Mapping[Any, Any], section: type[Section], prefix: str, source: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and leaf values of a nested mapping; keys may be dotted themselves. ConfigError when unknown."""
    for name, value in tree.items():
        head, _, rest = str(name).partition(".")
        field = section.model_fields.get(head)
        inner = _section_of(field) if field is not None else None
        if field is None or (rest and inner is None):
            raise ConfigError(_unknown_key(f"{prefix}{name}", source))
        if inner is None:
            yield prefix + head, value
            continue
        values = {rest: value} if rest else value
        if values is None:
            continue
        if not isinstance(values, Mapping):
            example = next(walk_fields(inner, f"{prefix}{head}."))[0]
            raise ConfigError(f"'{prefix}{head}' in {source} is a section; set one of its keys, e.g. {example}")
        yield from _flattened(values, inner, f"{prefix}{head}.", source)


def _unknown_key(key: str, source: str) -> str:
    known = [name for name, _ in walk_fields()]
    by_leaf = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    close = by_leaf or difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "'metric-slam config' lists all"
    return f"unknown configuration key '{key}' in {source}; {hint}"


def _without_contradictions(settings: Mapping[str, Setting], options: Mapping[str, Setting]) -> dict[str, Setting]:
    for key in settings.keys() & options.keys():
        if settings[key].value != options[key].value:
            raise ConfigError(
                f"{options[key].source} {options[key].value} and --set {key}={settings[key].value} contradict "
                "each other; give one of them"
            )
    return {**settings, **options}


def _chosen_preset(from_file: Mapping[str, Setting], explicit: Mapping[str, Setting]) -> str:
    """The preset's name; a file that names one and an option that names another would silently mix two presets."""
    in_file, wanted = from_file.get("preset"), explicit.get("preset")
    if in_file is not None and wanted is not None and in_file.value != wanted.value:
        raise ConfigError(
            f"{in_file.source} is made for preset {in_file.value} but {wanted.source} asks for {wanted.value}; "
            "drop one of them"
        )
    chosen = wanted or in_file
    return str(chosen.value) if chosen is not None else str(Config.model_fields["preset"].default)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        branch = tree
        for name in sections:
            branch = branch.setdefault(name, {})
        branch[leaf] = value
    return tree


def _one_line(error: ValidationError, layers: Mapping[str, Setting]) -> str:
    """The first complaint of pydantic as one line with the key, the value and where it was written."""
    first = error.errors(include_url=False)[0]
    location = ".".join(str(part) for part in first["loc"])
    key = next((k for k in layers if location == k or location.startswith(k + ".")), location)
    message = first["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be")
    if key not in layers:
        return f"configuration section '{key}': {message}"
    return f"configuration key '{key}' from {layers[key].source}: {message}, not {layers[key].value!r}"
