"""Presets, files and settings overlay in the stated order; every mistake is one line that names its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metric_slam.config.documentation import config_markdown
from metric_slam.config.explain import walk_fields
from metric_slam.config.presets import PRESETS, Preset
from metric_slam.config.resolve import RENAMED_KEYS, Setting, dump_yaml, read_config_file, resolve_config
from metric_slam.config.schema import Config, DisConfig, InputConfig, SlidingWindowConfig
from metric_slam.errors import ConfigError
from metric_slam.factory import library_config

ROOT = Path(__file__).resolve().parents[2]


def value_of(config: Config, key: str) -> object:
    """Value of a dotted key."""
    value: object = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my.yaml"


def test_without_anything_the_defaults_hold() -> None:
    assert resolve_config() == Config()


def test_every_preset_key_exists_and_changes_something() -> None:
    known = dict(walk_fields(Config))
    for preset, overrides in PRESETS.items():
        config = resolve_config(settings=[f"preset={preset}"])
        assert config.preset_name == preset
        for key, value in overrides.items():
            assert key in known, key
            assert value_of(config, key) == value
            assert value != known[key].default, f"{key} of preset {preset} repeats the default"


def fast_by_every_way(file: Path) -> dict[str, Config]:
    """The preset ``fast`` with one more key, in every way that a user has."""
    file.write_text("preset: fast\ninput:\n  stride: 2\n")
    return {
        "classmethod, section": Config.preset("fast", input=InputConfig(stride=2)),
        "classmethod, mapping": Config.preset("fast", input={"stride": 2}),
        "constructor": Config(preset="fast", input=InputConfig(stride=2)),
        "tree": Config.model_validate({"preset": "fast", "input": {"stride": 2}}),
        "option": resolve_config(
            options={"preset": Setting("fast", "--preset"), "input.stride": Setting(2, "--stride")}
        ),
        "Slam": library_config(Config(preset="fast", input={"stride": 2}), None, None, None, None),  # type: ignore[arg-type]
        "settings": resolve_config(settings=["preset=fast", "input.stride=2"]),
        "file": resolve_config(file),
    }


def test_the_preset_is_the_same_by_library_command_line_and_file(file: Path) -> None:
    for way, config in fast_by_every_way(file).items():
        assert config.preset_name == "fast", way
        assert config.input.stride == 2, way
        for key, value in PRESETS["fast"].items():
            assert value_of(config, key) == value, f"{key} by {way}"
        assert config == Config.preset("fast", input={"stride": 2}), way


def test_slam_takes_the_preset_by_name() -> None:
    assert library_config(None, "fast", None, None, None) == Config.preset("fast")
    config = library_config(None, "fast", "ground_plane", None, 1.2)
    assert (config.dis.finest_scale, config.prior, config.ground_plane.camera_height_m) == (1, "ground_plane", 1.2)
    with pytest.raises(ConfigError, match="'preset'"):
        library_config(None, "slow", None, None, None)


def test_an_explicit_value_wins_over_the_preset() -> None:
    """Also where it equals the default, which the preset changes."""
    assert Config(preset="fast", dis=DisConfig(finest_scale=0)).dis.finest_scale == 0
    assert Config.preset("fast", dis={"finest_scale": 0}).dis.finest_scale == 0
    window = Config(preset="fast", sliding_window=SlidingWindowConfig(radius=3)).sliding_window
    assert (window.radius, window.window, window.iterations) == (3, 6, 2)
    assert resolve_config(settings=["preset=fast", "dis.finest_scale=0"]).dis.finest_scale == 0


def test_a_configuration_survives_its_own_dump() -> None:
    config = Config.preset("fast", dis={"finest_scale": 0})
    assert Config.model_validate(config.model_dump()) == config
    assert config.model_dump()["preset"] == "fast"


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Config.preset("slow"), "'preset': must be 'fast' or 'accurate', not 'slow'"),  # type: ignore[arg-type]
        (lambda: Config(preset=3), "'preset'"),  # type: ignore[arg-type]
        (lambda: Config(dis={"finest_scale": 9}), "'dis.finest_scale': must be less than or equal to 5, not 9"),  # type: ignore[arg-type]
        (lambda: Config(dis={"finest": 1}), "unknown configuration key 'dis.finest'"),  # type: ignore[arg-type]
        (lambda: Config(frontend={"window": 5}), "'frontend.window' is now 'sliding_window.window'"),  # type: ignore[call-arg]
        (lambda: Config(dis=3), "section 'dis'"),  # type: ignore[arg-type]
        (lambda: DisConfig(finest_scale=9), "'finest_scale': must be less than or equal to 5, not 9"),
        (lambda: DisConfig(finest=9), "did you mean 'finest_scale'"),  # type: ignore[call-arg]
        (lambda: InputConfig(start=5, end=3), "end 3 must be greater than start 5"),
    ],
)
def test_constructors_answer_in_one_line(build: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        build()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("frontend.window", "sliding_window.window"),
        ("frontend.max_lost", "sliding_window.max_lost"),
        ("backend.iterations", "global_ba.iterations"),
        ("dis.round_trip_sigma_px", "dis.forward_backward_sigma_px"),
        ("dis.max_round_trip_px", "dis.max_forward_backward_px"),
        ("dis.max_round_trip_relative", "dis.max_forward_backward_relative"),
    ],
)
def test_an_old_key_is_answered_with_the_new_one(file: Path, old: str, new: str) -> None:
    section, leaf = old.split(".")
    expected = f"configuration key '{old}' is now '{new}'"
    for text in (f"{section}:\n  {leaf}: 5\n", f"{old}: 5\n"):
        file.write_text(text)
        with pytest.raises(ConfigError) as error:
            resolve_config(file)
        assert str(error.value) == f"{expected} in {file}"
    with pytest.raises(ConfigError) as error:
        resolve_config(settings=[f"{old}=5"])
    assert str(error.value) == f"{expected} in --set"


def test_a_new_unit_is_named(file: Path) -> None:
    file.write_text("ground_plane: {corridor_m: 2.2}\n")
    with pytest.raises(
        ConfigError, match=r"is now 'ground_plane\.corridor_heights' \(in camera heights\) in .*my\.yaml"
    ):
        resolve_config(file)


def test_every_renamed_key_leads_to_a_key_and_hides_none() -> None:
    known = {key for key, _ in walk_fields(Config)}
    sections = {key.rpartition(".")[0] for key in known}
    for old, new in RENAMED_KEYS.items():
        target = new.partition(" ")[0]
        assert target in known | sections, f"{old} -> {target}"
        assert old not in known | sections, f"{old} exists"
        assert (target in sections) == ("." not in old), f"{old} -> {target}: a section for a section"


def test_later_layers_win(file: Path) -> None:
    file.write_text("preset: fast\ninput:\n  pixel_budget_px: 90000\n  stride: 2\nfusion.voxel_m: 0.3\n")
    config = resolve_config(file, ["input.stride=3", "input.stride=4"], {"input.start": Setting(7, "--start")})
    assert config.preset_name == "fast"
    assert config.input.pixel_budget_px == 90000
    assert config.input.stride == 4
    assert config.input.start == 7
    assert config.fusion.voxel_m == 0.3


def test_dump_reads_back_to_the_same_configuration(file: Path) -> None:
    config = resolve_config(settings=["preset=fast", "input.size=640x192", "fusion.voxel_m=1e-1", "prior=none"])
    assert config.input.size == (640, 192)
    file.write_text(dump_yaml(config))
    assert resolve_config(file) == config


def test_empty_file_is_no_change(file: Path) -> None:
    file.write_text("# nothing\n")
    assert resolve_config(file) == Config()


def test_none_means_the_automatic_choice(file: Path) -> None:
    file.write_text("input: {size: 640x192, end: 10}\nfusion:\n")
    config = resolve_config(file, ["input.size=none", "input.end=none", "fusion.voxel_m=auto"])
    assert (config.input.size, config.input.end, config.fusion.voxel_m) == (None, None, None)
    assert resolve_config(settings=["prior=none"]).prior == "none"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("fusion.voxl_m=1", "did you mean 'fusion.voxel_m'"),
        ("voxel_m=1", "did you mean 'fusion.voxel_m'"),
        ("fusion=1", "is a section"),
        ("prior.height=1", "unknown configuration key 'prior.height'"),
        ("nonsense", "write it as key=value"),
        ("=3", "write it as key=value"),
        ("fusion.voxel_m=[1", "cannot be read"),
        ("fusion.voxel_m=-1", "'fusion.voxel_m' from --set: must be greater than 0, not -1"),
        ("input.stride=0", "'input.stride' from --set"),
        ("input.stride=much", "integer"),
        ("input.size=640", "'input.size'"),
        ("input.size=640*192", "WIDTHxHEIGHT"),
        ("input.size=64x32", "too small"),
        ("preset=slow", "must be 'fast' or 'accurate', not 'slow'"),
        ("prior=radar", "'ground_plane'"),
    ],
)
def test_bad_settings_are_named(setting: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_config(settings=[setting])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fusion:\n  voxl_m: 1\n", "unknown configuration key 'fusion.voxl_m' in"),
        ("fusion: [1, 2]\n", "is a section"),
        ("- a\n- b\n", "must hold 'key: value' pairs"),
        ("preset: fast\n a: [\n", "line 2 is not valid YAML"),
        ("input:\n  stride: -3\n", "'input.stride' from"),
        ("input: {start: 5, end: 3}\n", "end 3 must be greater than start 5"),
    ],
)
def test_bad_files_are_named(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        resolve_config(file)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_binary_files_are_named(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        read_config_file(tmp_path / "nowhere.yaml")
    file.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="my.yaml"):
        read_config_file(file)


def test_contradictions_are_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="--prior none and --set prior=sensor contradict"):
        resolve_config(settings=["prior=sensor"], options={"prior": Setting("none", "--prior")})
    assert resolve_config(settings=["prior=none"], options={"prior": Setting("none", "--prior")}).prior == "none"
    file.write_text(dump_yaml(resolve_config(settings=["preset=fast"])))
    with pytest.raises(ConfigError, match="made for preset fast"):
        resolve_config(file, options={"preset": Setting("accurate", "--preset")})


def test_a_resolved_configuration_cannot_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3  # type: ignore[misc]


def test_every_option_is_described() -> None:
    for key, field in walk_fields(Config):
        assert field.description, f"{key} has no description"


def test_documentation_is_up_to_date() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == config_markdown(), "run: make docs"


def test_shipped_files_resolve() -> None:
    files = sorted((ROOT / "configs").glob("*.yaml"))
    assert files
    for path in files:
        assert resolve_config(path).preset_name in PRESETS


@pytest.mark.parametrize("preset", ["fast", "accurate"])
def test_the_files_of_the_presets_are_the_presets(preset: Preset) -> None:
    assert resolve_config(ROOT / "configs" / f"{preset}.yaml") == Config.preset(preset)
