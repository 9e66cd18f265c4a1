"""data.yaml of YOLO, and obj.data of darknet: the names of classes, and where the images of a split are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from verl_visionr1.conversion.image_files import find_below, read_names
from verl_visionr1.files import RowsError, read_bytes

SPLIT_KEYS = {"val": ("val", "validation", "valid")}
"""Keys of data.yaml for a split that has several spellings."""


class Description(NamedTuple):
    """The description of a YOLO data set.

    Attributes:
        names: class number -> name.
        images: folders of images, and image lists.
        root: folder that file names are relative to.
        key_points: number of key point values after each box; None: no key points, and a long line is a polygon.
    """

    names: dict[int, str]
    images: list[Path]
    root: Path
    key_points: int | None


def describe(source: Path, split: str, images: Path | None = None) -> Description:
    """Read the description of a split from data.yaml, from obj.data, or, with `images`, from a file of names.

    Raises:
        RowsError: missing or garbled file, no names, no such split, or no images at the given path.
    """
    if images is not None and not images.exists():
        raise RowsError(f"--images {images}: no such folder or list; check the path")
    if source.suffix.lower() not in (".yaml", ".yml"):
        return _describe_darknet(source, split, images)
    document = _read_yaml(source)
    roots = [source.absolute().parent]
    given = document.get("path")
    if isinstance(given, str) and os.path.isdir(roots[0] / given):
        roots.insert(0, roots[0] / given)
    found = [images] if images is not None else _images(source, document, split, roots)
    return Description(_names(source, document), found, roots[0], _key_points(source, document))


def _describe_darknet(source: Path, split: str, images: Path | None) -> Description:
    """Read the description from an index (obj.data), or from a list of names with `images`."""
    index = _read_index(source)
    if index is not None:
        folder = source.absolute().parent
        names = read_names(_listed_file(source, index, "names"))
        _check_count(source, "classes", index.get("classes"), dict(enumerate(names)))
        key = _split_key(source, index, split) if images is None else ""
        return Description(dict(enumerate(names)), [images or _listed_file(source, index, key)], folder, None)
    if images is None:
        raise RowsError(f"{source}: not a data.yaml, which names the folder of images; give --images")
    root = images if images.is_dir() else images.absolute().parent
    return Description(dict(enumerate(read_names(source))), [images], root, None)


def _read_index(path: Path) -> dict[str, str] | None:
    """Return the settings of darknet's obj.data, `key = value` on every line; None for any other file."""
    try:
        lines = [line.strip() for line in read_bytes(path).decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        return None
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    settings = {key.strip(): value.strip() for key, _, value in pairs}
    return settings if "names" in settings and all(is_set for _, is_set, _ in pairs) else None


def _listed_file(source: Path, index: dict[str, str], key: str) -> Path:
    """Find a file that an index names; its folders may be those of another machine."""
    found = find_below(source.absolute().parent, index[key])
    if found is None:
        raise RowsError(
            f"{source}: {key} = {index[key]}: no such file in this folder; copy it there, or correct the path"
        )
    return found


def _split_key(source: Path, document: Mapping[Any, Any], split: str) -> str:
    """Return the key under which the images of a split are listed."""
    key = next((key for key in SPLIT_KEYS.get(split, (split,)) if document.get(key)), None)
    if key is None:
        there = [key for key in ("train", "val", "validation", "valid", "test", "minival") if document.get(key)]
        raise RowsError(f"{source}: no split {split!r}; --split one of {', '.join(there) or 'none'}, or give --images")
    return key


def _check_count(source: Path, key: str, count: Any, names: Mapping[int, str]) -> None:
    if str(count).isdecimal() and int(count) not in (len(names), max(names) + 1):
        raise RowsError(f"{source}: {key} is {count}, but names has {len(names)}; correct one of them")


def _read_yaml(path: Path) -> dict[Any, Any]:
    text = read_bytes(path)
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RowsError(f"{path}: not valid YAML: {' '.join(str(error).split())[:200]}; correct it") from None
    if not isinstance(document, dict):
        raise RowsError(f"{path}: has no keys such as names and train; is it the right file?")
    return document


def _names(source: Path, document: dict[Any, Any]) -> dict[int, str]:
    """Return names by class number, from a list or from a dictionary, which may have gaps."""
    given = document.get("names")
    if not isinstance(given, list | dict) or not given:
        raise RowsError(f"{source}: names: needs a list of names, or a dictionary from number to name; add it")
    names: dict[int, str] = {}
    for key, name in given.items() if isinstance(given, dict) else enumerate(given):
        is_name = isinstance(name, str | int | float) and not isinstance(name, bool)
        if not is_name or not str(key).isdecimal():
            reason = (
                "needs a number and a name; put yes, no, on, off in quotes" if not is_name else "needs a class number"
            )
            raise RowsError(f"{source}: names: {str(key)[:20]!r}: {str(name)[:40]!r}: {reason}; correct it")
        names[int(key)] = str(name)
    _check_count(source, "nc", document.get("nc"), names)
    return names


def _key_points(source: Path, document: dict[Any, Any]) -> int | None:
    shape = document.get("kpt_shape")
    if shape is None:
        return None
    if isinstance(shape, list) and len(shape) == 2 and all(type(it) is int and it > 0 for it in shape):
        return shape[0] * shape[1]
    raise RowsError(f"{source}: kpt_shape: needs two numbers, as in [17, 3]; correct it")


def _images(source: Path, document: dict[Any, Any], split: str, roots: list[Path]) -> list[Path]:
    """Return the image folders and lists of a split."""
    key = _split_key(source, document, split)
    entries = document[key] if isinstance(document[key], list) else [document[key]]
    if not all(isinstance(entry, str) for entry in entries):
        raise RowsError(f"{source}: {key}: needs a path, or a list of paths; correct it")
    return [_find_path(f"{source}: {key}", entry.replace("\\", "/"), roots) for entry in entries]


def _find_path(where: str, entry: str, roots: list[Path]) -> Path:
    """Return the folder or list of an entry. Roboflow writes a surplus `../`; if both paths exist, it is ambiguous."""
    names = dict.fromkeys((entry, entry.removeprefix("../")))
    for root in roots:
        found = [path for path in (root / name for name in names) if os.path.exists(path)]
        if len(found) == 1:
            return Path(os.path.abspath(found[0]))
        if found:
            raise RowsError(f"{where}: both {found[0]} and {found[1]} exist; correct the entry, or give --images")
    raise RowsError(f"{where}: no {roots[0] / entry}; correct `path` or the entry, or give --images")
