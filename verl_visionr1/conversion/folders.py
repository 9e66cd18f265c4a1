"""Data sets that are folders of small files: which images and annotation files are there, and lists of names."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from verl_visionr1.conversion.sources import read_bytes
from verl_visionr1.files import RowsError, walk

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
"""Of files that can be the image of a row, in lower case."""


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


_NO_NAMES = {
    "an index of settings": re.compile(r"\w+\s*=.*|\[\w+\]|#.*"),
    "JSON": re.compile(r"[\[{].*|.*[\]}],?|\"[^\"]*\"\s*:.*|\"[^\"]*\",?"),
    "a table": re.compile(r".*[,;\t]\s*\d+"),
    "a list of images": re.compile(rf".*(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})", re.IGNORECASE),
    "a file of boxes": re.compile(r"\d+(?:\s+\S*\d\S*){4,}"),
}
"""What every line of a data set's other files looks like."""
