"""Other values for the constants of the program, by dotted name, for as long as a block lasts.

    "metric_slam.a.b:NAME"               a number at the top of a module
    "metric_slam.a.b:INSTANCE.field"     a field of a dataclass instance at the top of a module
    "metric_slam.a.b:Class.field"        the default of a dataclass field; instances that exist already change, too

Modules that took over the number with ``from ... import NAME`` see the new value as well, but defaults of function
parameters (``def f(x=NAME)``) do not: a constant without any effect on a result is reported by the caller.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from types import ModuleType

Number = int | float


def value_of(target: str) -> Number:
    """Return the number behind a dotted name. Raises LookupError where there is none."""
    owner, name = _owner_and_name(target)
    value = _field_default(owner, name) if isinstance(owner, type) else getattr(owner, name, None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LookupError(f"{target} is no number: {value!r}")
    return value


def first_of(targets: tuple[str, ...]) -> str:
    """Return the first of some dotted names that exists. Raises LookupError where none does."""
    for target in targets:
        try:
            value_of(target)
        except LookupError:
            continue
        return target
    raise LookupError(f"no constant is called {' or '.join(targets)}")


@contextmanager
def overridden(target: str, value: Number) -> Iterator[None]:
    """Give a constant another value within the block. Raises LookupError where there is none of that name."""
    old = value_of(target)
    owner, name = _owner_and_name(target)
    with ExitStack() as restore:
        if isinstance(owner, ModuleType):
            _set_in_modules(owner, name, old, value)
            restore.callback(_set_in_modules, owner, name, value, old)
        elif isinstance(owner, type):
            _set_default(owner, name, old, value)
            restore.callback(_set_default, owner, name, value, old)
        else:
            object.__setattr__(owner, name, value)  # frozen, and shared by everything that refers to it
            restore.callback(object.__setattr__, owner, name, old)
        yield


def _owner_and_name(target: str) -> tuple[object, str]:
    """Return the module, class or instance that holds the number, and the number's name in it."""
    path, _, dotted = target.partition(":")
    try:
        owner: object = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise LookupError(f"{target}: {error}") from error
    *parents, name = dotted.split(".")
    for parent in parents:
        if not hasattr(owner, parent):
            raise LookupError(f"{target}: there is no {parent}")
        owner = getattr(owner, parent)
    return owner, name


def _field_default(owner: type, name: str) -> object:
    if not is_dataclass(owner):
        raise LookupError(f"{owner.__name__} is no dataclass")
    return next((field.default for field in fields(owner) if field.name == name), None)


def _set_in_modules(owner: ModuleType, name: str, old: Number, value: Number) -> None:
    """Replace a module's number, and a public one also where other modules of its package imported it."""
    package = owner.__name__.partition(".")[0]
    others = [m for key, m in sys.modules.items() if key.partition(".")[0] == package and vars(m).get(name) is old]
    for module in [owner] if name.startswith("_") else [owner, *others]:
        setattr(module, name, value)


def _set_default(owner: type, name: str, old: Number, value: Number) -> None:
    """Replace the default of a field in new instances, and the value of those that have it."""
    field = next(field for field in fields(owner) if field.name == name)
    field.default = value
    if vars(owner).get(name) == old:  # not with slots, whose descriptors stand there
        setattr(owner, name, value)
    init = owner.__init__
    places = [field.name for field in fields(owner) if field.init and not field.kw_only]
    if init.__defaults__ and name in places:
        at = places.index(name) - (len(places) - len(init.__defaults__))
        init.__defaults__ = (*init.__defaults__[:at], value, *init.__defaults__[at + 1 :])
    if init.__kwdefaults__ and name in init.__kwdefaults__:
        init.__kwdefaults__ = {**init.__kwdefaults__, name: value}
    for instance in [thing for thing in gc.get_objects() if type(thing) is owner]:
        if getattr(instance, name) == old:
            object.__setattr__(instance, name, value)
