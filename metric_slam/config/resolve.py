"""From presets, files and ``key=value`` settings to one resolved configuration.

Order, later wins: defaults, preset, YAML file, ``--set``, the options of the command line. Every value remembers where
it came from, so that a message about a bad one names the file or the option to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from metric_slam.config.explain import fields_of, one_line, section_of, unknown_key, walk_fields, with_leaf
from metric_slam.config.renamed import RENAMED_KEYS as RENAMED_KEYS
from metric_slam.config.schema import Config
from metric_slam.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """One value on its way into the configuration and the place where the user wrote it."""

    value: object
    source: str


def resolve_config(
    file: Path | None = None, settings: Sequence[str] = (), options: Mapping[str, Setting] | None = None
) -> Config:
    """Overlay ``file``, ``settings`` (``"section.key=value"``) and ``options`` (dotted key -> value) on the preset.

    Raises ConfigError with one line for an unknown or renamed key, a value out of range, an unreadable file or two
    sources that contradict each other.
    """
    from_file = read_config_file(file) if file is not None else {}
    explicit = _without_contradictions(parse_settings(settings), options or {})
    _refuse_two_presets(from_file.get("preset"), explicit.get("preset"))
    layers = from_file | explicit
    try:
        return Config.model_validate(_nested({key: setting.value for key, setting in layers.items()}))
    except ValidationError as error:
        raise ConfigError(one_line(error, Config, {key: s.source for key, s in layers.items()})) from error


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
            tree: dict[object, object] = {key.strip(): yaml.safe_load(value)}
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text}: the value cannot be read; quote it like a YAML value") from error
        parsed |= {dotted: Setting(leaf, "--set") for dotted, leaf in _flattened(tree, Config, "", "--set")}
    return parsed


def dump_yaml(config: Config) -> str:
    """The resolved configuration as YAML that ``--config`` reads back to an equal one."""
    header = "# resolved configuration; repeat the run with --config THIS_FILE\n"
    return header + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _flattened(
    tree: Mapping[object, object], section: type[BaseModel], prefix: str, source: str
) -> Iterator[tuple[str, object]]:
    """Dotted keys and leaf values of a nested mapping; keys may be dotted themselves. ConfigError when unknown."""
    for name, value in tree.items():
        head, _, rest = str(name).partition(".")
        field = fields_of(section).get(head)
        inner = section_of(field) if field is not None else None
        if field is None or (rest and inner is None):
            raise ConfigError(unknown_key(with_leaf(f"{prefix}{name}", value), Config, source))
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


def _without_contradictions(settings: Mapping[str, Setting], options: Mapping[str, Setting]) -> dict[str, Setting]:
    for key in settings.keys() & options.keys():
        if settings[key].value != options[key].value:
            raise ConfigError(
                f"{options[key].source} {options[key].value} and --set {key}={settings[key].value} contradict "
                "each other; give one of them"
            )
    return {**settings, **options}


def _refuse_two_presets(in_file: Setting | None, wanted: Setting | None) -> None:
    """A file that names a preset and an option that names another would silently mix two presets."""
    if in_file is not None and wanted is not None and in_file.value != wanted.value:
        raise ConfigError(
            f"{in_file.source} is made for preset {in_file.value} but {wanted.source} asks for {wanted.value}; "
            "drop one of them"
        )


def _nested(flat: Mapping[str, object]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for key, value in flat.items():
        section, _, leaf = key.rpartition(".")
        if not section:
            tree[leaf] = value
            continue
        branch = tree.setdefault(section, {})
        assert isinstance(branch, dict), key
        branch[leaf] = value
    return tree
