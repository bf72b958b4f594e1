"""benchmarks/override.py: another value inside the block, the old one after it, for every way to hold a constant."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = {
    "__init__": "",
    "numbers_of": """
from dataclasses import dataclass

_PRIVATE = 0.15
PUBLIC = 1.5
ENABLED = True

@dataclass(frozen=True)
class Limits:
    needed: str
    share: float = 0.8
    seeds: int = 8

@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    width: float = 3.0

DEFAULT = Limits("x")

def private(): return _PRIVATE
def shared(limits=DEFAULT): return limits.share
""",
    "user": """
from house_of_numbers.numbers_of import PUBLIC
_PRIVATE = 0.15
def public(): return PUBLIC
def private(): return _PRIVATE
""",
}


@pytest.fixture
def override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/override.py, beside a package that holds constants in every way."""
    folder = tmp_path / "house_of_numbers"
    folder.mkdir()
    for name, text in PACKAGE.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [key for key in sys.modules if key.startswith("house_of_numbers")]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("override")


def module(name: str) -> ModuleType:
    return importlib.import_module(f"house_of_numbers.{name}")


def test_a_number_of_a_module(override: ModuleType) -> None:
    numbers, user = module("numbers_of"), module("user")
    with override.overridden("house_of_numbers.numbers_of:_PRIVATE", 0.2):
        assert numbers.private() == 0.2 and user.private() == 0.15, "a private name of another module is another number"
    assert numbers.private() == 0.15
    with override.overridden("house_of_numbers.numbers_of:PUBLIC", 2.0):
        assert user.public() == 2.0
    assert user.public() == 1.5


def test_a_default_of_a_dataclass_changes_old_and_new_instances(override: ModuleType) -> None:
    numbers = module("numbers_of")
    own = numbers.Limits("y", share=0.5)
    with override.overridden("house_of_numbers.numbers_of:Limits.share", 0.9):
        assert numbers.Limits("x").share == 0.9 and numbers.Limits("x").seeds == 8
        assert numbers.shared() == 0.9 and own.share == 0.5, "a value that was given stays"
    assert numbers.Limits("x").share == 0.8 and numbers.shared() == 0.8
    with override.overridden("house_of_numbers.numbers_of:Settings.width", 4.0):
        assert numbers.Settings().width == 4.0
    assert numbers.Settings().width == 3.0


def test_a_field_of_an_instance(override: ModuleType) -> None:
    numbers = module("numbers_of")
    with override.overridden("house_of_numbers.numbers_of:DEFAULT.share", 0.7):
        assert numbers.shared() == 0.7 and numbers.Limits("x").share == 0.8
    assert numbers.shared() == 0.8


def test_the_old_value_comes_back_after_an_error(override: ModuleType) -> None:
    with pytest.raises(ZeroDivisionError), override.overridden("house_of_numbers.numbers_of:_PRIVATE", 0.2):
        raise ZeroDivisionError
    assert module("numbers_of").private() == 0.15


@pytest.mark.parametrize("name", ["numbers_of:ABSENT", "numbers_of:Limits.absent", "absent:X", "numbers_of:ENABLED"])
def test_what_is_no_number_is_refused(override: ModuleType, name: str) -> None:
    target = f"house_of_numbers.{name}"
    with pytest.raises(LookupError), override.overridden(target, 1.0):
        pass
    assert override.first_of((target, "house_of_numbers.numbers_of:PUBLIC")) == "house_of_numbers.numbers_of:PUBLIC"
    with pytest.raises(LookupError, match="no constant is called"):
        override.first_of((target,))
