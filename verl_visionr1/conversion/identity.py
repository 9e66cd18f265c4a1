"""Identities of images across data sets, and lists of images to leave out, against leakage.

A name or number means nothing outside its own collection. An *identity* is `collection:number` (`coco:139`), the same
for every data set that has the image.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

import msgspec

from verl_visionr1.files import RowsError

_COCO_NAME = re.compile(r"(?:COCO_[a-z]+20\d\d_)?0*(\d+)(?:_\d+)?")
_VG_FOLDER = re.compile(r"VG_100K(?:_2)?")
COMMENT = re.compile(r"(?:^|\s)#|#(?!\S*\.\w)")
"""Start of a comment in a list; a # inside a file name (`a#1.jpg`) starts none."""
_COMMENT_BESIDE_URL = re.compile(r"(?:^|\s)#")  # a # in a URL starts its fragment


def normal_image_id(text: str) -> str:
    """Normalize an image id for comparison: without the leading zeros of file names.

    >>> normal_image_id("000000000139"), normal_image_id("000"), normal_image_id("0a")
    ('139', '0', '0a')
    """
    return text.lstrip("0") or "0" if text.isdigit() else text


def identity_of_name(file_name: str) -> str | None:
    """Return the identity in a file name or URL, or None.

    COCO's names are recognized by their prefix or twelve digits, Visual Genome's by their folder.

    >>> identity_of_name("train2014/COCO_train2014_000000581857_16.jpg"), identity_of_name("val2017/000000000139.jpg")
    ('coco:581857', 'coco:139')
    >>> identity_of_name("VG_100K_2/2410408.jpg"), identity_of_name("000139.jpg")
    ('vg:2410408', None)
    """
    path = PurePosixPath(file_name.replace("\\", "/"))
    stem, folder = path.name.partition(".")[0], path.parent.name
    found = _COCO_NAME.fullmatch(stem)
    if found is None:
        return None
    if _VG_FOLDER.fullmatch(folder):
        return f"vg:{found[1]}"
    return f"coco:{found[1]}" if stem.startswith("COCO_") or is_bare_coco_name(file_name) else None


def is_bare_coco_name(file_name: str) -> bool:
    """Whether a name is twelve digits, as COCO's are since 2017; other data sets may use such names too."""
    digits = PurePosixPath(file_name.replace("\\", "/")).name.partition(".")[0].partition("_")[0]
    return len(digits) == 12 and digits.isdecimal()


def normal_spelling(name: str) -> str:
    """Return a file name without percent-encoding, in Unicode form NFC."""
    return unicodedata.normalize("NFC", unquote(name))


def path_name(name: str) -> str:
    """Normalize a file name for comparison: folders and name joined by /, in `normal_spelling`; a URL is unchanged.

    Label Studio's `/data/local-files/?d=` is dropped: it is the folder that it serves.

    >>> path_name("/data/a/b.jpg"), path_name("a\\\\b.jpg"), path_name("https://x.org/a/1.jpg?x=2#y")
    ('data/a/b.jpg', 'a/b.jpg', 'https://x.org/a/1.jpg?x=2#y')
    >>> path_name("..\\\\..\\\\media\\\\a%20b.jpg"), path_name("/data/local-files/?d=a%5Cb.jpg")
    ('media/a b.jpg', 'a/b.jpg')
    """
    name = name.removeprefix("file://").rpartition("/data/local-files/?d=")[2]
    if "://" in name:
        return name
    path = PureWindowsPath(normal_spelling(name))  # takes both / and \\ for separators
    return "/".join(part for part in path.parts[bool(path.anchor) :] if part != "..")


def path_tails(name: str) -> list[str]:
    """Return a file name with all of its folders, with fewer, and with none; only a URL can lead out of a folder.

    >>> path_tails("x/a/b.jpg"), path_tails("https://x.org/../b.jpg?size=9")
    (['x/a/b.jpg', 'a/b.jpg', 'b.jpg'], ['https://x.org/../b.jpg?size=9', 'b.jpg'])
    """
    name = path_name(name)
    below = path_name(re.split(r"[?#]", name.partition("://")[2])[0]) if "://" in name else name
    parts = below.split("/")
    tails = ["/".join(parts[first:]) for first in range(len(parts))]
    return [name, *tails[1:]] if name else []


def without_comment(line: str) -> str:
    """Return a line of a list without its comment.

    >>> without_comment("a#1.jpg # one"), without_comment("https://x.org/1#y  # two")
    ('a#1.jpg', 'https://x.org/1#y')
    """
    return (_COMMENT_BESIDE_URL if "://" in line.partition(" #")[0] else COMMENT).split(line)[0].strip()


class Exclusion:
    """A set of images to leave out.

    An entry is an identity, an id in the data set, a URL, or a file name. A file name with an identity means that
    identity. Other file names match by the folders that both give: `a/b.jpg` matches `x/a/b.jpg` and `b.jpg`, but not
    `c/b.jpg`; `b.jpg` matches all of them. A URL matches only itself.

    >>> excluded = Exclusion(["coco:139", "0042", "b.jpg", "train2014/COCO_train2014_000000000007.jpg"])
    >>> excluded.holds("139", "val2017/000000000139.jpg"), excluded.holds("42", "a.jpg"), excluded.holds("139", "a.jpg")
    (True, True, False)
    >>> excluded.holds("1", "images/b.jpg"), excluded.holds("7", "000000000007.jpg")
    (True, True)
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.ids = frozenset(map(_normal_entry, ids))
        self.collections = frozenset(entry.partition(":")[0] for entry in self.ids if ":" in entry)
        paths = (entry for entry in self.ids if "/" in entry and "://" not in entry)
        self._tails = frozenset(tail for path in paths for tail in path_tails(path)[1:])

    def __bool__(self) -> bool:
        return bool(self.ids)

    def holds(self, image_id: str, file_name: str = "", identities: Iterable[str] = ()) -> bool:
        """Whether an image is on the list, by its id in the data set, its file name, or further identities."""
        if not self.ids:
            return False
        names = [*path_tails(file_name), identity_of_name(file_name)]
        known = (normal_image_id(image_id), *identities, *names)
        return any(key in self.ids for key in known if key) or path_name(file_name) in self._tails


def _normal_entry(entry: str) -> str:
    if named := identity_of_name(entry) if "." in entry else None:
        return named
    if "/" in entry or "\\" in entry:
        return path_name(entry)
    collection, is_identity, number = entry.partition(":")
    return f"{collection}:{normal_image_id(number)}" if is_identity else normal_image_id(entry)


def read_exclusion(path: Path) -> Exclusion:
    """Read an exclusion list: a JSON list, or text with one entry per line, blank lines and # comments; `RowsError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RowsError(f"--exclude-image-ids {path}: cannot be read: {error}; check the path") from None
    if text.lstrip().startswith(("[", "{")):
        try:
            ids = msgspec.json.decode(text, type=list[int | str])
        except msgspec.DecodeError as error:
            advice = "make it with `visionr1 convert exclusion`"
            raise RowsError(f"--exclude-image-ids {path}: needs a list of ids: {error}; {advice}") from None
        return Exclusion(map(str, ids))
    lines = map(without_comment, text.splitlines())
    return Exclusion(line for line in lines if line)
