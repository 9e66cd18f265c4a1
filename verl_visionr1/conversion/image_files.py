"""Find the image files that names in annotation files stand for, without ever leaving the folder; what folders hold."""

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
"""Of files that can be the image of a row, in lower case."""
_NO_NAMES = {
    "an index of settings": re.compile(r"\w+\s*=.*|\[\w+\]|#.*"),
    "JSON": re.compile(r"[\[{].*|.*[\]}],?|\"[^\"]*\"\s*:.*|\"[^\"]*\",?"),
    "a table": re.compile(r".*[,;\t]\s*\d+"),
    "a list of images": re.compile(rf".*(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})", re.IGNORECASE),
    "a file of boxes": re.compile(r"\d+(?:\s+\S*\d\S*){4,}"),
}
"""What every line of a data set's other files looks like."""


def require_images(folder: Path, argument: str = "IMAGES_DIR") -> None:
    """Refuse a folder of images that is not there.

    Args:
        argument: of the command, by which it was given.

    Raises:
        RowsError: naming it.
    """
    if not folder.is_dir():
        raise RowsError(f"{folder}: no such folder of images; check {argument}")


def find_below(folder: Path, name: str) -> Path | None:
    """Find the file below a folder that a name stands for, or that the longest end of the name stands for.

    Names are written by other programs on other machines: absolute, with backslashes, through `..`, percent-encoded, in
    another Unicode form or another case. The file is always below the folder. Of several spellings the exact one wins;
    where only others are there, it must be the only one of its folder.

    Returns:
        An absolute path; None where no end of the name is there.
    """
    root = os.path.abspath(folder)
    literal = os.path.normpath(os.path.join(root, name))  # an absolute name replaces the root
    if literal.startswith(os.path.join(root, "")) and os.path.isfile(literal):
        return Path(literal)
    tails = [tail for tail in path_tails(name) if "://" not in tail]
    exact = (path for tail in tails if os.path.isfile(path := os.path.join(root, tail)))
    found = next(exact, None) or next(filter(None, (_spelled_otherwise(root, tail) for tail in tails)), None)
    return None if found is None else Path(found)


def find_image(images_dir: Path, name: str, where: str) -> Path:
    """Find the image file of a name (`find_below`).

    Returns:
        An absolute path in `images_dir`. Where nothing is found, that of the name as it is: its opening tells.

    Raises:
        RowError: nothing is found, and the name leads out of the folder.
    """
    found = find_below(images_dir, name)
    if found is not None:
        return found
    inside(name, where)
    return Path(os.path.abspath(os.path.join(images_dir, name.replace("\\", "/"))))


def inside(name: str, where: str) -> str:
    """A file name that stays inside its folder.

    Raises:
        RowError: it does not.

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
    reason = f"must lie inside the images folder, but leads out by {way}"
    advice = "put the image there, or correct the name"
    raise RowError("file_name outside the images folder", f"{where}: file_name {name!r} {reason}; {advice}")


def embedded_image(value: Any, where: str, images_dir: Path | None = None) -> Path | EmbeddedImage:
    """The image of a record: a path, bytes, or a dictionary of them, as Hugging Face data sets write it.

    Args:
        images_dir: folder in which paths are looked for. None: paths are absolute, and taken as they are.

    Raises:
        RowError: none of these, a path without a folder, or one that leads out of it.
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
    """Width and height of an image whose annotations give no size.

    Raises:
        RowError: it is stored turned, so that the frame of its boxes is unknown; or it cannot be read.
    """
    size_wh, orientation = read_size(image)
    if orientation != 1:
        reason = f"no width and height are given, and the image file has EXIF orientation {orientation}"
        raise RowError("frame unknown", f"{where}: {reason}: add both, or store the image upright")
    return size_wh


# ------------------------------------------------------------------------------------------------ one file


class ImageKeys:
    """Keys that all names of one image file share (`a.jpg`, `./a.jpg`, `images/a.jpg`, in any Unicode form)."""

    def __init__(self) -> None:
        self._name_of: dict[str, str] = {}

    def key(self, name: str, path: Path) -> str:
        """The path; or the name itself, where the path was found for a name that cannot be of the same image.

        Args:
            path: the file that was found for the name.
        """
        known = self._name_of.setdefault(str(path), name)
        if name == known:
            return str(path)
        if not may_be_one_image(name, known):
            return name
        self._name_of[str(path)] = max(known, name, key=lambda it: len(path_tails(it)))
        return str(path)


def may_be_one_image(name: str, other: str) -> bool:
    """Whether two names that led to one file may mean the same image: one is the end of the other, or COCO's is told.

    >>> may_be_one_image("a.jpg", "./x/a.jpg"), may_be_one_image("y/a.jpg", "x/a.jpg")
    (True, False)
    """
    tails, others = path_tails(name), path_tails(other)
    if not tails or not others or tails[0] in others or others[0] in tails:
        return True
    identity = identity_of_name(other)
    return identity is not None and identity == identity_of_name(name)


# ------------------------------------------------------------------------------------------------ other spellings


def _spelled_otherwise(folder: str, tail: str) -> str | None:
    """The file of a relative name, compared without case, percent-encoding, Unicode form and blanks around it.

    None where it is not the only one.
    """
    for part in tail.split("/"):
        try:
            names = _names_in(folder, os.stat(folder).st_mtime_ns)[_key(part)]
        except (OSError, ValueError, KeyError):  # no such folder, a name that none can have, or no such name
            return None
        if len(names) != 1:
            return None
        folder = os.path.join(folder, names[0])
    return folder if os.path.isfile(folder) else None


@lru_cache(maxsize=64)
def _names_in(folder: str, _modified_ns: int) -> Mapping[str, list[str]]:
    """What a folder holds, by `_key`; listed again when the folder has changed."""
    names: dict[str, list[str]] = defaultdict(list)
    for name in os.listdir(folder):
        names[_key(name)].append(name)
    return dict(names)


def _key(name: str) -> str:
    return normal_spelling(name).casefold().strip()


# ------------------------------------------------------------------------------------------------ folders of files


def files_in(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[str]:
    """Names of all files in and below a folder that end so, relative to it, with `/`, sorted.

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
    """Names of categories, one a line (classes.txt, obj.names): a category's number is that of its line.

    Raises:
        RowsError: it cannot be read, holds none, a blank line before the last name, after which no number would fit, or
            is another of a data set's files: an index of settings, a list of images, or boxes.
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
    """Refuse names with something beside them that a prompt would say."""
    comment = next((i for i, name in enumerate(names) if re.match(r"#\s|//", name)), None)
    if comment is not None:
        reason = "a comment among the names shifts the numbers of those behind it; take it out"
        raise RowsError(f"{path}: line {comment + 1}: {names[comment]!r}: {reason}")
    numbers = [re.match(r"(\d+)(?:\s*[:,.)=]\s*|\s+)(?=\S)", name) for name in names]
    numbered = [int(it[1]) for it in numbers if it is not None]
    if len(names) > 1 and numbered in ([*range(len(names))], [*range(1, len(names) + 1)]):
        reason = (
            "every name has its number in front, which would be part of the question; leave names alone, one a line"
        )
        raise RowsError(f"{path}: line 1: {names[0]!r}: {reason}")
