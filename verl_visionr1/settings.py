"""Convert plain data of YAML files and command lines to records; errors name the key, the value and what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

S = TypeVar("S", bound=msgspec.Struct)


class SettingsError(ValueError):
    """An invalid setting; one line."""


def decoded(plain: object, struct: type[S], where: str = "") -> S:
    """Convert plain dicts, lists and scalars of YAML or a command line to a record.

    A null for a key that does not allow it counts as not set: YAML yields it for a key followed only by comments.
    `where` is the prefix of keys in messages, for example "presets.mine". SettingsError: not a mapping, an unknown key
    (with the nearest known one), or a value of the wrong type.
    """
    plain = _normalize(plain, struct, where)
    try:
        return msgspec.convert(plain, struct)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        key = path.rstrip("`").replace("[...]", "").lstrip(".")
        dotted = ".".join(filter(None, (where, key)))
        value = _at(plain, key)
        raise SettingsError(f"{dotted} = {value!r}: {_advice(struct, key, value, reason)}") from None


def _normalize(plain: object, struct: type[msgspec.Struct], where: str) -> dict[str, Any]:
    """Check the keys, decode nested records, drop null, and read false as `off`: YAML yields it for a bare `off`."""
    if not isinstance(plain, Mapping):
        raise SettingsError(f"{where or 'settings'} = {plain!r}: needs keys below it")
    plain = {"off" if key is False else key: value for key, value in plain.items()}
    refuse_unknown(plain, struct.__struct_fields__, where)
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    meant: dict[str, Any] = {}
    for key, value in plain.items():
        hint, inner = fields[key].type, _struct_in(fields[key].type)
        dotted = f"{where}.{key}" if where else str(key)
        if value is None and not fields[key].required and type(None) not in get_args(hint):
            continue
        if value is False and "off" in choices_of(hint):
            value = "off"
        elif isinstance(value, Mapping) and get_origin(hint) is dict:
            value = {
                str(name): below if inner is None or below is None else decoded(below, inner, f"{dotted}.{name}")
                for name, below in value.items()
            }
        elif inner is not None and value is not None:
            value = decoded(value, inner, dotted)
        meant[key] = value
    return meant


def choices_of(hint: Any) -> tuple[Any, ...]:
    """Values of a `Literal` in an annotation."""
    return next((get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal), ())


def _struct_in(hint: Any) -> type[msgspec.Struct] | None:
    """The record type in an annotation such as `X | None` or `dict[str, X | None]`."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    if get_origin(hint) in (Union, UnionType, dict):
        return next(filter(None, map(_struct_in, get_args(hint))), None)
    return None


def refuse_unknown(plain: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
    """Raise SettingsError for the first unknown key."""
    known = list(known)
    for key in plain:
        if key not in known:
            hint = did_you_mean(key, known) or f"known keys: {', '.join(known)}"
            raise SettingsError(f"{where}{'.' if where else ''}{key}: unknown key; {hint}")


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Suggest the nearest known name as a question; "" if none is near."""
    near = difflib.get_close_matches(str(given), list(known), n=1)
    return f"did you mean {near[0]}?" if near else ""


def needs_one_of(given: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known ones, and the nearest."""
    known = list(known)
    return "; ".join(filter(None, (f"needs one of {', '.join(known)}", did_you_mean(given, known))))


def _advice(struct: Any, dotted: str, value: object, reason: str) -> str:
    """What is allowed: the choices of a key, or msgspec's reason."""
    hint: Any = struct
    for key in dotted.split("."):
        inner = _struct_in(hint)
        hint = get_type_hints(inner).get(key) if inner is not None else None
    choices = choices_of(hint)
    if not choices:
        return reason
    others = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    if all(part is type(None) or get_origin(part) is Literal for part in others):
        return needs_one_of(value, choices)
    if isinstance(value, str):  # msgspec compares it with the choices alone
        kinds = " | ".join(_kind(part) for part in others if get_origin(part) is not Literal)
        reason = f"needs {kinds}"
    return f"{reason}, or {', '.join(choices)}"


def _kind(hint: Any) -> str:
    return "a number" if hint in (float, int) else "keys below it"


def _at(plain: Any, dotted: str) -> Any:
    for key in re.findall(r"[^.\[\]]+", dotted):
        if isinstance(plain, Mapping):
            plain = plain.get(key)
        elif isinstance(plain, list | tuple) and key.isdecimal():
            plain = plain[int(key)]
    return plain
