"""Reading and cleaning of COCO-format detection json: every entry checked, what is left of it in compact columns.

COCO itself and what tools export as "COCO": sparse, string or zero ids, missing area, iscrowd, width or height, crowds
(kept as regions to ignore), images without annotations. Image files are opened only where the json gives no size.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

import msgspec
import numpy as np
from conversion import Ledger, normal_image_id

from verl_visionr1.boxes import Box
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import read_size
from verl_visionr1.rows import PLACEHOLDERS

T = TypeVar("T")
Key = int | str | float | None
BOX, CROWD, BAD, DUPLICATE = range(4)


class _Category(msgspec.Struct):
    id: Key = None
    name: str = ""
    supercategory: str | None = None


class _Image(msgspec.Struct):
    """Only the id is typed: whatever else is wrong, its annotations are then known to belong to it."""

    id: Key = None
    file_name: Any = None
    width: Any = None
    height: Any = None


class _Annotation(msgspec.Struct, gc=False):
    id: Key = None
    image_id: Key = None
    category_id: Key = None
    bbox: list[float] | None = None
    iscrowd: int | bool | None = 0


class _Document(msgspec.Struct):
    """Entries stay undecoded, so that a bad one costs only itself, and segmentations are never decoded."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[_Category]


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One entry of `images`; `size_wh` is the frame of its boxes."""

    image_id: str
    file_name: str
    size_wh: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Coco:
    """A whole annotation file as compact columns; the N annotations are grouped by image.

    Attributes:
        images_dir: absolute folder of `CocoImage.file_name`.
        names: C category names.
        roots: indexes of categories whose supercategory is "none": Roboflow exports hold one that nothing belongs to.
        starts: annotations of image i are `starts[i]:starts[i + 1]`.
        boxes_xyxy: (N, 4) float64 in the annotated frame, clipped to the image.
        category: N indexes into `names`.
        kind: N of BOX, CROWD, BAD (a box that cannot be used) or DUPLICATE.
        annotation_ids: N ids as they stand in the file.
    """

    name: str
    sha256: str
    images_dir: Path
    images: list[CocoImage]
    names: list[str]
    roots: frozenset[int]
    starts: Sequence[int]
    boxes_xyxy: np.ndarray
    category: Sequence[int]
    kind: Sequence[int]
    annotation_ids: Sequence[Key]

    def of_image(self, image: int) -> range:
        """The annotations of one image."""
        return range(self.starts[image], self.starts[image + 1])


def read_coco(path: Path, images_dir: Path, ledger: Ledger, exclude: frozenset[str] = frozenset()) -> Coco:
    """Read and check an annotation file; image files are opened only where the file gives no size.

    Args:
        exclude: image ids to leave out (leading zeros do not count).

    Raises:
        RowsError: missing or garbled file, or not COCO detection.
        RowError: a bad entry, where the ledger's policy is to fail.
    """
    if not images_dir.is_dir():
        raise RowsError(f"{images_dir}: no such folder of images; check IMAGES_DIR")
    text, document = _read_document(path)
    category_of, names = _read_categories(path, document)
    roots = frozenset(category_of[_key(c.id) or ""] for c in document.categories if c.supercategory == "none")
    image_of, images = _read_images(document.images, images_dir, ledger, exclude)
    columns = _Columns(path.name, images, image_of, category_of, ledger)
    for number, raw in enumerate(document.annotations):
        try:
            columns.add(number, raw)
        except RowError as error:
            ledger.skip(error)
    sha256 = hashlib.sha256(text).hexdigest()
    del document, text  # before sorting makes copies
    order, starts = columns.order()
    return Coco(
        name=path.name,
        sha256=sha256,
        images_dir=images_dir.absolute(),
        images=images,
        names=names,
        roots=roots,
        starts=starts,
        boxes_xyxy=np.frombuffer(columns.boxes).reshape(-1, 4)[order],
        category=_taken(columns.category, order),
        kind=_taken(columns.kind, order),
        annotation_ids=[columns.ids[i] for i in order],
    )


def _taken(column: array[int], order: np.ndarray) -> array[int]:
    """An `array`, because single items of a numpy array are slow."""
    return array(column.typecode, np.array(column)[order].tobytes())


def _read_document(path: Path) -> tuple[memoryview, _Document]:
    try:
        with open(path, "rb") as file:  # mapped, so that the text is the page cache's memory, not ours
            text = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        start = 3 if text[:3] == b"\xef\xbb\xbf" else 0  # a byte order mark
        return text, msgspec.json.decode(text[start:], type=_Document)
    except FileNotFoundError:
        raise RowsError(f"{path}: no such annotation file; check ANNOTATIONS") from None
    except msgspec.ValidationError as error:
        raise RowsError(f"{path}: not COCO detection json ({error}); needs images, annotations, categories") from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise RowsError(f"{path}: not whole JSON ({error}); fetch the file again") from None
    except OSError as error:
        raise RowsError(f"{path}: cannot be read: {error.strerror or error}") from None


def _key(value: Key) -> str | None:
    """An id as text: 7, 7.0 and "7" are one id, whoever wrote the file."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value)


def _read_categories(path: Path, document: _Document) -> tuple[dict[str, int], list[str]]:
    """Key of each category -> its index in the names; two ids of one name are one category."""
    category_of: dict[str, int] = {}
    names: dict[str, int] = {}
    for number, category in enumerate(document.categories):
        key, name = _key(category.id), category.name.strip()
        if key is None or not name or any(text in name for text in PLACEHOLDERS):
            reason = f"categories[{number}]: id {category.id!r}, name {category.name!r}"
            raise RowsError(f"{path}: {reason}: needs an id and a name without {', '.join(PLACEHOLDERS)}; mend it")
        if key in category_of:
            raise RowsError(f"{path}: categories[{number}]: id {category.id!r} is there twice; mend it")
        category_of[key] = names.setdefault(name, len(names))
    if not names:
        raise RowsError(f"{path}: categories is empty; detection needs at least one")
    return category_of, list(names)


def _read_images(
    entries: list[msgspec.Raw], images_dir: Path, ledger: Ledger, exclude: frozenset[str]
) -> tuple[dict[str, int], list[CocoImage]]:
    """Key of each image -> its index, or -1 where it is left out."""
    decode = msgspec.json.Decoder(_Image).decode
    exclude = frozenset(map(normal_image_id, exclude))
    image_of: dict[str, int] = {}
    images: list[CocoImage] = []
    for number, raw in enumerate(entries):
        key = None
        try:
            entry = _decoded(decode, raw, f"images[{number}]")
            key = _key(entry.id)
            if key is not None and normal_image_id(key) in exclude:
                image_of[key] = -1
                ledger.left_out["image on the exclusion list"] += 1
                continue
            image = _checked_image(number, entry, images_dir, image_of)
        except RowError as error:
            ledger.skip(error)
            if key is not None:
                image_of.setdefault(key, -1)
            continue
        image_of[image.image_id] = len(images)
        images.append(image)
    return image_of, images


def _decoded(decode: Callable[[msgspec.Raw], T], raw: msgspec.Raw, where: str) -> T:
    try:
        return decode(raw)
    except msgspec.DecodeError as error:
        shown = bytes(raw)[:100].decode("utf-8", "replace")
        raise RowError("malformed entry", f"{where} = {shown}: {error}; mend it") from None


def _checked_image(number: int, entry: _Image, images_dir: Path, image_of: dict[str, int]) -> CocoImage:
    key, name = _key(entry.id), entry.file_name
    where = f"images[{number}] (id {entry.id!r}, file_name {name!r})"
    if key is None or not name or not isinstance(name, str):
        raise RowError("image without id or file_name", f"{where}: needs both; mend it")
    if key in image_of:
        raise RowError("image id twice", f"{where}: this id is there twice; mend it")
    windows = PureWindowsPath(name)  # takes both / and \ for separators
    if windows.root or ".." in windows.parts or "\0" in name:
        raise RowError("file_name outside the images folder", f"{where}: must lie inside IMAGES_DIR; mend it")
    if entry.width is None or entry.height is None:
        size_wh, orientation = read_size(images_dir / name)
        if orientation != 1:
            reason = f"no width and height, and the file has EXIF orientation {orientation}"
            raise RowError("frame unknown", f"{where}: {reason}: the frame of its boxes is unknown; add both")
    else:
        size_wh = (entry.width, entry.height)
        if not all(isinstance(side, int | float) and side >= 1 for side in size_wh):
            raise RowError("image without size", f"{where}: width and height {size_wh}: need positive numbers; mend it")
        size_wh = (int(entry.width), int(entry.height))
    return CocoImage(key, name, size_wh)


class _Columns:
    """Annotations on their way into `Coco`, as plain arrays: a large file has millions."""

    def __init__(
        self,
        name: str,
        images: list[CocoImage],
        image_of: dict[str, int],
        category_of: dict[str, int],
        ledger: Ledger,
    ) -> None:
        self.name, self.images, self.ledger = name, images, ledger
        self.image_of, self.category_of = image_of, category_of
        self.decode = msgspec.json.Decoder(_Annotation).decode
        self.image, self.category, self.kind, self.boxes = array("i"), array("i"), array("b"), array("d")
        self.ids: list[Key] = []

    def add(self, number: int, raw: msgspec.Raw) -> None:
        """Take one entry of `annotations`.

        Raises:
            RowError: it cannot be used. Where its image and category are known it is kept as BAD: the category is in
                the image, so no row may say that it is not.
        """
        entry = _decoded(self.decode, raw, f"{self.name}: annotations[{number}]")
        image = self.image_of.get(_key(entry.image_id) or "")
        category = self.category_of.get(_key(entry.category_id) or "")
        if image is None or category is None:
            field, value = ("image_id", entry.image_id) if image is None else ("category_id", entry.category_id)
            where = f"{self.name}: annotations[{number}] (id {entry.id!r})"
            raise RowError(f"unknown {field}", f"{where}: {field} {value!r} is not in the file; mend it")
        if image < 0:
            self.ledger.left_out["annotation of an image left out"] += 1
            return
        size_wh = self.images[image].size_wh
        try:
            box, clipped = clip_box(entry.bbox, size_wh)
        except RowError as error:
            self._append(image, category, BAD, (0, 0, 0, 0), entry.id)
            where = f"{self.name}: annotation id {entry.id!r} (image id {self.images[image].image_id})"
            raise RowError(error.kind, f"{where}: {error}") from None
        self.ledger.notes["box clipped to its image"] += clipped
        self._append(image, category, CROWD if entry.iscrowd else BOX, box, entry.id)

    def _append(self, image: int, category: int, kind: int, box: Box, annotation_id: Key) -> None:
        self.image.append(image)
        self.category.append(category)
        self.kind.append(kind)
        self.boxes.extend(box)
        self.ids.append(annotation_id)

    def order(self) -> tuple[np.ndarray, array[int]]:
        """Mark repeated boxes; return the order by image, and where each image starts in it."""
        columns = (*np.frombuffer(self.boxes).reshape(-1, 4).T, *map(np.array, (self.category, self.kind, self.image)))
        order = np.lexsort(columns)
        again = np.frombuffer(self.kind, dtype=np.int8)[order[1:]] == BOX
        for column in columns:
            again &= column[order[1:]] == column[order[:-1]]
        for i in order[1:][again]:
            self.kind[i] = DUPLICATE
        if again.any():
            self.ledger.notes["repeated box (same image, category and numbers) dropped"] += int(again.sum())
        image = columns[-1]
        by_image = np.argsort(image, kind="stable")
        return by_image, array("q", np.searchsorted(image[by_image], np.arange(len(self.images) + 1)).tobytes())


def clip_box(box_xywh: Sequence[float] | None, size_wh: tuple[int, int]) -> tuple[Box, bool]:
    """COCO's x, y, width, height -> corners inside the image, and whether clipping moved an edge.

    Raises:
        RowError: not four finite numbers, no extent, or wholly outside; the message starts with the value.

    >>> clip_box([10, 20, 30, 40], (100, 50))
    ((10, 20, 40, 50), True)
    """
    advice = "mend or remove the annotation"
    if box_xywh is None or len(box_xywh) != 4 or not all(map(math.isfinite, box_xywh)):
        raise RowError("bbox malformed", f"bbox = {box_xywh}: needs four finite numbers x, y, width, height; {advice}")
    x, y, width, height = box_xywh
    if width <= 0 or height <= 0:
        raise RowError("bbox without extent", f"bbox = {box_xywh}: width and height must be positive; {advice}")
    box = (max(x, 0), max(y, 0), min(x + width, size_wh[0]), min(y + height, size_wh[1]))
    if not (box[0] < box[2] and box[1] < box[3]):
        raise RowError("bbox outside its image", f"bbox = {box_xywh}: outside the image of {size_wh}; {advice}")
    return box, box != (x, y, x + width, y + height)
