"""Find image files by their names in annotation files, inside a given folder; list the files of a folder."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any

from verl_visionr1.conversion.identity import identity_of_name, normal_spelling, path_tails
from verl_visionr1.files import RowError, RowsError, read_bytes, walk
from verl_visionr1.images import EmbeddedImage, read_size

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
"""Suffixes of image files, in lower case."""
_NO_NAME = re.compile(
    r"[\[{\"#]|//|.*=|.*[,;\t]\s*\d+$|\d+(?:\s+\S*\d\S*){4,}$"  # JSON, comment, setting, table, boxes
    rf"|.*(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})$",
    re.IGNORECASE,
)
"""First line of a file that is no list of names."""


def require_images(folder: Path, argument: str = "IMAGES_DIR") -> None:
    """Refuse a missing folder of images. Raises RowsError, which names the command-line argument."""
    if not folder.is_dir():
        raise RowsError(f"{folder}: no such folder of images; check {argument}")


def find_below(folder: Path, name: str) -> Path | None:
    """Find the file below a folder that matches a name, or the longest possible end of the name.

    Names come from other programs on other machines: absolute, with backslashes, through `..`, percent-encoded, in
    another Unicode form or another case. The file is always below the folder. An exact spelling wins; any other
    spelling must match only one file of its folder.

    Returns:
        An absolute path; None if no end of the name matches.
    """
    root = os.path.abspath(folder)
    literal = os.path.normpath(os.path.join(root, name))  # an absolute name replaces the root
    if literal.startswith(os.path.join(root, "")) and os.path.isfile(literal):
        return Path(literal)
    tails = [tail for tail in path_tails(name) if "://" not in tail]
    exact = (path for tail in tails if os.path.isfile(path := os.path.join(root, tail)))
    found = next(exact, None) or next(filter(None, (_find_other_spelling(root, tail) for tail in tails)), None)
    return None if found is None else Path(found)


def find_image(images_dir: Path, name: str, where: str) -> Path:
    """Find the image file of a name (`find_below`).

    Returns:
        An absolute path in `images_dir`. If nothing is found, the path of the unchanged name, which fails when opened.

    Raises:
        RowError: nothing is found, and the name is outside the folder.
    """
    found = find_below(images_dir, name)
    if found is not None:
        return found
    inside(name, where)
    return Path(os.path.abspath(os.path.join(images_dir, name.replace("\\", "/"))))


def inside(name: str, where: str) -> str:
    """Return a file name that stays inside its folder.

    Raises:
        RowError: the name leads out of the folder.

    >>> inside("train/a.jpg", "entry 1")
    'train/a.jpg'
    """
    path = PureWindowsPath(name)  # takes both / and \\ for separators
    ways = {
        "a NUL character": "\0" in name,
        f"the drive {path.drive!r}": path.drive,
        "an absolute path": path.root,
        "'..'": ".." in path.parts,
    }
    way = next((way for way, is_taken in ways.items() if is_taken), None)
    if way is None:
        return name
    way += ", with backslashes between folders" * ("\\" in name)
    reason = f"must be inside the images folder, but leads out by {way}"
    advice = "put the image there, or correct the name"
    raise RowError("file_name outside the images folder", f"{where}: file_name {name!r} {reason}; {advice}")


def embedded_image(value: Any, where: str, images_dir: Path | None = None) -> Path | EmbeddedImage:
    """Return the image of a record: a path, bytes, or a dictionary of them, as in Hugging Face data sets.

    Args:
        images_dir: folder in which paths are searched. None: paths are absolute, and used unchanged.

    Raises:
        RowError: none of these, a relative path without a folder, or a path outside the folder.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path") or value.get("image")
    if isinstance(value, bytes):
        return EmbeddedImage(where, value)
    if not isinstance(value, str) or not value:
        raise RowError("no image", f"{where}: image is {str(value)[:60]!r}: needs a path or bytes; correct it")
    value = value.removeprefix("file://")
    if images_dir is not None:
        return find_image(images_dir, value, where)
    if not os.path.isabs(value):
        raise RowError("image path without a folder", f"{where}: image {value!r}: give the folder of the images")
    return Path(value)


def size_of_unturned(image: Path | EmbeddedImage, where: str) -> tuple[int, int]:
    """Return width and height of an image whose annotations give no size. Raises RowError if it is stored rotated."""
    size_wh, orientation = read_size(image)
    if orientation != 1:
        reason = f"no width and height are given, and the image file has EXIF orientation {orientation}"
        raise RowError("frame unknown", f"{where}: {reason}: add both, or store the image upright")
    return size_wh


class ImageKeys:
    """Keys shared by all names of one image file (`a.jpg`, `./a.jpg`, `images/a.jpg`, in any Unicode form)."""

    def __init__(self) -> None:
        self._name_of: dict[str, str] = {}

    def key(self, name: str, path: Path) -> str:
        """Return the path; or the name, if that file was already found for a name of another image.

        Args:
            path: the file found for the name.
        """
        known = self._name_of.setdefault(str(path), name)
        if name == known:
            return str(path)
        if not may_be_one_image(name, known):
            return name
        self._name_of[str(path)] = max(known, name, key=lambda it: len(path_tails(it)))
        return str(path)


def may_be_one_image(name: str, other: str) -> bool:
    """Whether two names of one file may mean the same image: one is the end of the other, or their identity is equal.

    >>> may_be_one_image("a.jpg", "./x/a.jpg"), may_be_one_image("y/a.jpg", "x/a.jpg")
    (True, False)
    """
    tails, others = path_tails(name), path_tails(other)
    if not tails or not others or tails[0] in others or others[0] in tails:
        return True
    identity = identity_of_name(other)
    return identity is not None and identity == identity_of_name(name)


def _find_other_spelling(folder: str, tail: str) -> str | None:
    """Find a relative name, ignoring case, percent-encoding, Unicode form and surrounding blanks.

    None unless exactly one file matches.
    """
    for part in tail.split("/"):
        try:
            names = _names_in(folder, os.stat(folder).st_mtime_ns)[_key(part)]
        except (OSError, ValueError, KeyError):  # no such folder, an invalid name, or no such name
            return None
        if len(names) != 1:
            return None
        folder = os.path.join(folder, names[0])
    return folder if os.path.isfile(folder) else None


@lru_cache(maxsize=64)
def _names_in(folder: str, _modified_ns: int) -> Mapping[str, list[str]]:
    """The names in a folder, by `_key`; listed again after the folder changed."""
    names: dict[str, list[str]] = defaultdict(list)
    for name in os.listdir(folder):
        names[_key(name)].append(name)
    return dict(names)


def _key(name: str) -> str:
    return normal_spelling(name).casefold().strip()


def files_in(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[str]:
    """List all files with these suffixes in and below a folder: relative names with `/`, sorted.

    Hidden files (macOS leaves `._a.jpg` beside `a.jpg`) are left out.

    Raises:
        RowsError: no such folder.
    """
    if not folder.is_dir():
        raise RowsError(f"{folder}: no such folder; check the path")
    found: list[str] = []
    for root, names in walk(folder):
        below = os.path.relpath(root, folder).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        kept = (it for it in names if not it.startswith(".") and os.path.splitext(it)[1].lower() in suffixes)
        found += [prefix + name for name in kept]
    return sorted(found)


def read_names(path: Path) -> list[str]:
    """Read category names, one per line (classes.txt, obj.names); the line number is the category's number.

    Raises:
        RowsError: unreadable or empty; a blank line or comment before the last name, which shifts the numbers; numbers
            before the names; or another kind of file.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise RowsError(f"{path}: cannot be read: {error}") from None
    names = [line.strip() for line in text.split("\n")]
    numbers = [it[1] for name in names if (it := re.match(r"(\d+)(?:\s*[:,.)=]\s*|\s+)(?=\S)", name))]
    is_numbered = len(names) > 1 and numbers in ([str(i + first) for i in range(len(names))] for first in (0, 1))
    if is_numbered or _NO_NAME.match(names[0]):
        reason = "not a list of names, one per line, without numbers or comments"
        raise RowsError(f"{path}: line 1: {names[0]!r}: {reason}; give the file of names")
    odd = next((i for i, name in enumerate(names) if not name or re.match(r"#\s|//", name)), None)
    if odd is not None:
        raise RowsError(f"{path}: line {odd + 1}: {names[odd]!r}: a blank or comment shifts the numbers; remove it")
    return names
