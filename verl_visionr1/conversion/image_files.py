"""Find image files by their names in annotation files, inside a given folder; list the files of a folder."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any

from verl_visionr1.conversion.identity import identity_of_name, normal_spelling, path_tails
from verl_visionr1.conversion.sources import read_bytes
from verl_visionr1.files import RowError, RowsError, walk
from verl_visionr1.images import EmbeddedImage, read_size

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
"""Suffixes of image files, in lower case."""
_NO_NAMES = {
    "an index of settings": re.compile(r"\w+\s*=.*|\[\w+\]|#.*"),
    "JSON": re.compile(r"[\[{].*|.*[\]}],?|\"[^\"]*\"\s*:.*|\"[^\"]*\",?"),
    "a table": re.compile(r".*[,;\t]\s*\d+"),
    "a list of images": re.compile(rf".*(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})", re.IGNORECASE),
    "a file of boxes": re.compile(r"\d+(?:\s+\S*\d\S*){4,}"),
}
"""Kind of file that is no list of names -> pattern of all its lines."""


def require_images(folder: Path, argument: str = "IMAGES_DIR") -> None:
    """Refuse a missing folder of images.

    Args:
        argument: command-line argument that named it.

    Raises:
        RowsError: no such folder; names the argument.
    """
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
    """Return width and height of an image whose annotations give no size.

    Raises:
        RowError: the image is stored rotated, so that the frame of its boxes is unknown; or it cannot be read.
    """
    size_wh, orientation = read_size(image)
    if orientation != 1:
        reason = f"no width and height are given, and the image file has EXIF orientation {orientation}"
        raise RowError("frame unknown", f"{where}: {reason}: add both, or store the image upright")
    return size_wh


# ------------------------------------------------------------------------------------------------ one file


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


# ------------------------------------------------------------------------------------------------ other spellings


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


# ------------------------------------------------------------------------------------------------ folders of files


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
        RowsError: unreadable or empty; a blank line before the last name, which shifts the numbers; or another kind of
            file: an index of settings, a list of images, or boxes.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise RowsError(f"{path}: cannot be read: {error}") from None
    names = [line.strip() for line in text.split("\n")]
    if "" in names:
        raise RowsError(f"{path}: line {names.index('') + 1} is blank: needs one name a line; correct it")
    kind = next((kind for kind, line in _NO_NAMES.items() if all(map(line.fullmatch, names))), None)
    if kind is not None:
        raise RowsError(f"{path}: {names[0]!r}: this is {kind}, not a list of names; give the file of names")
    _require_bare(path, names)
    return names


def _require_bare(path: Path, names: Sequence[str]) -> None:
    """Refuse names with a comment or number, which would be part of the prompt."""
    comment = next((i for i, name in enumerate(names) if re.match(r"#\s|//", name)), None)
    if comment is not None:
        reason = "a comment among the names shifts the numbers of those after it; remove it"
        raise RowsError(f"{path}: line {comment + 1}: {names[comment]!r}: {reason}")
    numbers = [re.match(r"(\d+)(?:\s*[:,.)=]\s*|\s+)(?=\S)", name) for name in names]
    numbered = [int(it[1]) for it in numbers if it is not None]
    if len(names) > 1 and numbered in ([*range(len(names))], [*range(1, len(names) + 1)]):
        reason = (
            "every name starts with its number, which would be part of the question; write only names, one per line"
        )
        raise RowsError(f"{path}: line 1: {names[0]!r}: {reason}")
