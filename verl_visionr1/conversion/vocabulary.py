"""Boxes of a vocabulary of categories (COCO, VOC, YOLO, LVIS, ...) as compact columns: large sets have millions.

*Federated* sets check only some categories on each image: the others are unknown there, neither present nor absent.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from verl_visionr1.boxes import Box
from verl_visionr1.conversion.box_check import BoxCheck
from verl_visionr1.conversion.conventions import Convention
from verl_visionr1.conversion.identity import Exclusion
from verl_visionr1.conversion.items import clean_box
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.values import is_numbers
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rows import PLACEHOLDERS
from verl_visionr1.targets import normalize_text

_BETWEEN_WORDS = re.compile(r"(?<=\w)[\s_\u2010-\u2015-]+(?=\w)|_+")
Key = int | str | float | None
LEFT_OUT = -1
"""Number of every image that was left out."""
BOX, CROWD, BAD, DUPLICATE = range(4)
"""Kind of an annotation: box, region to ignore, invalid box, repeated box."""


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """One image of a data set; categories are indexes."""

    image_id: str
    file_name: str
    path: Path
    size_wh: tuple[int, int]  # the frame of its boxes
    checked: frozenset[int] | None = None  # federated sets: the checked categories (present or not); None: all
    unsure: frozenset[int] = frozenset()  # may be present without a box, or have only an invalid one: never asked for


@dataclass(frozen=True, slots=True)
class Annotations:
    """A whole data set as compact columns; the N annotations are grouped by image."""

    name: str
    images: Sequence[AnnotatedImage]
    names: Sequence[str]  # of the categories
    never_asked: frozenset[int]  # categories without objects (Roboflow exports have a root category)
    starts: Sequence[int]  # annotations of image i are starts[i]:starts[i + 1]
    boxes_xyxy: np.ndarray  # (N, 4) float64 in the annotated frame, clipped to the image
    category: Sequence[int]  # N indexes into `names`
    kind: Sequence[int]  # N of BOX, CROWD, BAD or DUPLICATE
    annotation_ids: Sequence[Key]  # N, as in the source
    own_negatives: bool = (
        False  # the data set names absent objects of each image; all are asked for without --negatives
    )

    def of_image(self, image: int) -> range:
        """The indexes of one image's annotations."""
        return range(self.starts[image], self.starts[image + 1])

    def categories_on(self, image: int) -> frozenset[int]:
        """The categories with any annotation on one image."""
        return frozenset(self.category[j] for j in self.of_image(image))


class Columns:
    """Builder of `Annotations`.

    Args:
        names: category names, each once (`named_once`); `RowsError` for none, or one that cannot be asked for.
        boxes: collects all boxes as written, and knows their convention.
        keeps_marked: marked annotations (crowd, difficult ...) are normal objects, not regions to ignore.
        excluded: images to leave out.

    Attributes:
        number_of: key of each image so far -> its number, or `LEFT_OUT`.
    """

    def __init__(
        self, name: str, names: Sequence[str], ledger: Ledger, boxes: BoxCheck, keeps_marked: bool, excluded: Exclusion
    ) -> None:
        if not names:
            raise RowsError(f"{name}: no category: detection needs at least one; list the names in the source")
        for number, category in enumerate(names):
            if not category.strip() or any(text in category for text in PLACEHOLDERS):
                reason = f"category {number} is named {category!r}"
                raise RowsError(f"{name}: {reason}: needs a name without {', '.join(PLACEHOLDERS)}; correct it")
        self.name, self.names, self.ledger = name, names, ledger
        self.written, self.keeps_marked, self.excluded = boxes, keeps_marked, excluded
        self.images: list[AnnotatedImage] = []
        self.number_of: dict[str, int] = {}
        self.convention = boxes.convention
        self._image, self._category, self._kind, self._boxes = array("i"), array("i"), array("b"), array("d")
        self._ids: list[Key] = []
        self._errors: list[RowError] = []

    def excludes(self, image_id: str, file_name: str) -> bool:
        """Whether an image is on the exclusion list; if so, count it and leave it out."""
        found = self.excluded.holds(image_id, file_name)
        if found:
            self.ledger.left_out["image on the exclusion list (--exclude-image-ids)"] += 1
            self.number_of[image_id] = LEFT_OUT
        return found

    def add_image(self, image: AnnotatedImage, key: str | None = None) -> int:
        """Add an image and return its number. Its key is by default its id."""
        self.images.append(image)
        self.number_of[image.image_id if key is None else key] = number = len(self.images) - 1
        return number

    def leave_out(self, key: str, reason: str = "") -> None:
        """Accept no annotation of an image, and ask for nothing on it if it was added (counted under `reason`)."""
        number = self.number_of.get(key, LEFT_OUT)
        self.number_of[key] = LEFT_OUT
        if number != LEFT_OUT:
            self.images[number] = replace(self.images[number], unsure=frozenset(range(len(self.names))))
            if reason:
                self.ledger.left_out[reason] += 1

    def add(
        self, image: int, category: int, box: Any, annotation_id: Key, *, mark: str = "", written: object = None
    ) -> None:
        """Add one annotation. One with an invalid box is kept as BAD, so that its category never counts as absent.

        Args:
            box: its four numbers, in `convention`; anything else is a bad box.
            mark: the mark that sets it apart from other objects ("iscrowd"); "" if unmarked.
            written: the box as in the source, for messages; None: as `box`.
        """
        size_wh = self.images[image].size_wh
        try:
            if not is_numbers(box, 4):
                raise RowError("box malformed", "needs four finite numbers; correct or remove the annotation")
            self.written.add(f"annotation id {annotation_id!r}", box, size_wh)
            clean = clean_box(_to_pixels(box, self.convention, size_wh), size_wh, self.ledger)
        except RowError as error:
            self.refuse(image, category, annotation_id, error, written)
            return
        is_crowd = bool(mark) and not self.keeps_marked
        if mark:
            used_as = "a region to ignore (--marked objects keeps it)" if is_crowd else "an object (--marked objects)"
            self.ledger.notes[f"annotation marked {mark}: used as {used_as}"] += 1
        self._append(image, category, CROWD if is_crowd else BOX, clean, annotation_id)

    def refuse(
        self, image: int, category: int, annotation_id: Key, error: RowError | None, written: object = None
    ) -> None:
        """Add an annotation without a usable box, as BAD; `finish` reports the error, if the ledger lacks it."""
        self._append(image, category, BAD, (0, 0, 0, 0), annotation_id)
        if error is not None:
            where = f"{self.name}: annotation id {annotation_id!r} (image id {self.images[image].image_id})"
            where += "" if written is None else f": {written}"
            self._errors.append(RowError(error.kind, f"{where}: {error}"))

    def _append(self, image: int, category: int, kind: int, box: Box, annotation_id: Key) -> None:
        self._image.append(image)
        self._category.append(category)
        self._kind.append(kind)
        self._boxes.extend(box)
        self._ids.append(annotation_id)

    def finish(self, never_asked: Collection[int] = ()) -> Annotations:
        """Group the annotations by image and mark repeated boxes. Categories with only a bad box are `unsure`.

        Raises `RowsError`: boxes are in another convention. RowError: a bad box, if the ledger does not skip.
        """
        self.written.require(self.ledger)
        for error in self._errors:
            self.ledger.skip(error)
        boxes = np.frombuffer(self._boxes).reshape(-1, 4)
        category, kind, image = map(np.array, (self._category, self._kind, self._image))
        self._mark_unsure(category, kind, image)
        columns = (*boxes.T, category, kind, image)
        order = np.lexsort(columns)
        again = kind[order[1:]] == BOX
        for column in columns:
            again &= column[order[1:]] == column[order[:-1]]
        if again.any():
            self.ledger.notes["repeated box (same image, category and numbers) dropped"] += int(again.sum())
        kind[order[1:][again]] = DUPLICATE
        by_image = np.argsort(image, kind="stable")
        starts = np.searchsorted(image[by_image], np.arange(len(self.images) + 1))
        return Annotations(
            name=self.name,
            images=self.images,
            names=self.names,
            never_asked=frozenset(never_asked),
            starts=array("q", starts.tobytes()),  # arrays: single items of numpy's are slow
            boxes_xyxy=boxes[by_image],
            category=array("i", category[by_image].tobytes()),
            kind=array("b", kind[by_image].tobytes()),
            annotation_ids=[self._ids[i] for i in by_image],
        )

    def _mark_unsure(self, category: np.ndarray, kind: np.ndarray, image: np.ndarray) -> None:
        """Mark a category that has only a bad box on an image: it is not absent, but its place is unknown."""
        bad, good = (set(zip(image[kind == it], category[kind == it], strict=True)) for it in (BAD, BOX))
        for number, only_bad in bad - good:
            entry = self.images[number]
            self.images[number] = replace(entry, unsure=entry.unsure | {int(only_bad)})
        self.ledger.notes["category with only a bad box on an image: not asked for"] += len(bad - good)


def _to_pixels(box: Sequence[float], convention: Convention, size_wh: tuple[int, int]) -> list[float]:
    if convention.unit == "1":
        corners = convention.as_corners(box)
        if any(not -0.5 <= value <= 1.5 for value in corners if math.isfinite(value)):
            reason = f"box = {list(corners)}: needs fractions of the image, 0 to 1; correct it"
            raise RowError("box not in fractions", reason)
    return convention.in_pixels(box, size_wh)


def key_of(value: Key) -> str | None:
    """Return an id as text: 7, 7.0 and "7" are the same id.

    >>> key_of(7.0), key_of("7"), key_of(None)
    ('7', '7', None)
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value)


@lru_cache(maxsize=65536)
def visible_form(name: str) -> str:
    """Normalize a name to its look: ignores case, Unicode forms, invisible signs and word separators.

    >>> visible_form("Aerosol_can"), visible_form("aerosol\u00a0can\u200b"), visible_form("Cafe\u0301")
    ('aerosol can', 'aerosol can', 'caf\u00e9')
    """
    return normalize_text(_BETWEEN_WORDS.sub(" ", normalize_text(name)))


def named_once(names: Sequence[str], ledger: Ledger | None = None) -> tuple[list[str], list[int]]:
    """Return names without look-alikes (noted in the ledger), and the index of each given name among them.

    >>> named_once(["cat", "aerosol_can", "cat ", "Aerosol can"])
    (['cat', 'aerosol_can'], [0, 1, 0, 1])
    """
    kept: list[str] = []
    index: dict[str, int] = {}
    places = []
    for name in map(str.strip, names):
        place = index.setdefault(visible_form(name), len(index))
        places.append(place)
        if place == len(kept):
            kept.append(name)
        elif name != kept[place] and ledger is not None:
            ledger.notes[f"category {name!r} merged with {kept[place]!r}, which looks the same"] += 1
    return kept, places
