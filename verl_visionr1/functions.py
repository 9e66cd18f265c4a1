"""Loads functions by their place (in a package, or in a user's file), and reads versions of packages."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE_PREFIX = "pkg://"
_FILE_MODULE = "visionr1_file_"
_loaded: dict[int, tuple[Callable[..., Any], str]] = {}
"""Functions of `load_function` and their places, by id: a lambda or a partial has no place of its own."""


class FunctionError(ValueError):
    """A function that cannot be found or loaded; the message is one line with the remedy."""


def load_function(place: str) -> Callable[..., Any]:
    """Load the function at `pkg://package.module:function` or `path/to/file.py:function`, a file once per process.

    FunctionError: no such module, file or function, or an exception while it is loaded.
    """
    where, separator, name = place.removeprefix(PACKAGE_PREFIX).rpartition(":")
    if not separator or not where or not name:
        raise FunctionError(f"{place!r}: needs pkg://package.module:function or path/to/file.py:function")
    is_file = where.endswith(".py") and not place.startswith(PACKAGE_PREFIX)
    module = _file_module(Path(where).expanduser()) if is_file else _package_module(where, place)
    function = getattr(module, name, None)
    if not callable(function):
        near = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise FunctionError(f"{place!r}: {where} has no function {name!r}; it has {near or 'none'}")
    _loaded[id(function)] = function, f"{module.__file__ if is_file else PACKAGE_PREFIX + where}:{name}"
    return function


def locate_function(function: Callable[..., Any]) -> str:
    """Return the place of a function, as `load_function` reads it."""
    if id(function) in _loaded:
        return _loaded[id(function)][1]
    module = function.__module__
    if module.startswith(_FILE_MODULE):
        return f"{sys.modules[module].__file__}:{function.__qualname__}"
    return f"{PACKAGE_PREFIX}{module}:{function.__qualname__}"


def _package_module(where: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except Exception as error:
        hint = "" if place.startswith(PACKAGE_PREFIX) else "; for a file use path/to/file.py:function"
        raise FunctionError(f"{place!r}: {where} cannot be imported ({type(error).__name__}: {error}){hint}") from error


def _file_module(path: Path) -> ModuleType:
    path = path.resolve()
    name = _FILE_MODULE + hashlib.sha256(str(path).encode()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise FunctionError(f"{path}: no such file; use an absolute path, since workers may run in another folder")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise FunctionError(f"{path}: cannot be loaded ({type(error).__name__}: {error})") from error
    return module


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed.

    >>> list(installed_versions(["numpy", "no-such-package"]))
    ['numpy']
    """
    from importlib.metadata import distributions

    found = {name: next(iter(distributions(name=name)), None) for name in packages}
    return {name: each.version for name, each in found.items() if each is not None}
