"""Ground truth of one item, and its JSON codec.

The parquet column `reward_model.ground_truth` contains `Target.to_json()`: one string type for every task, so that
files of all tasks can be concatenated. Invalid ground truth raises at conversion or load time, never at reward time.
"""

from __future__ import annotations

import math
import operator
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any, cast

import msgspec

from verl_visionr1.assignment import IndexedBoxes
from verl_visionr1.boxes import Box, Boxes, Points
from verl_visionr1.masks import Mask, bounds_xyxy
from verl_visionr1.settings import needs_one_of

TASKS = ("detection", "grounding", "counting", "pointing", "text")
"""Tasks that have a reward; `Target.task` is one of them."""
NO_IMAGE = (0, 0)
"""`Target.size_wh` of a text row without an image."""


class TargetError(ValueError):
    """Invalid ground truth; the message names the field and the value."""


class Target(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True
):  # dict: for cached properties
    """The ground truth of one item.

    Frame of all geometry: float pixels of the EXIF-upright original image, 0-based; boxes are xyxy, half-open. Boxes
    and points may exceed the image by rounding only (one pixel); converters clip before they build a Target.

    Objects are given as boxes, masks or points; several of these describe the same objects in the same order.

    Attributes:
        task: one of `TASKS`.
        size_wh: width and height of the original image in pixels; `NO_IMAGE` for text without an image.
        boxes_xyxy: T boxes; empty if there is no object.
        labels: T labels, one per object (for grounding: the phrase); optional for counting and pointing.
        categories: categories of the prompt; may include labels that are not in the image.
        ignore_xyxy: regions (crowds) in which an unmatched prediction is neither right nor wrong.
        points_xy: T points, one per object: for pointing and counting.
        masks: T masks, one per object: for pointing.
        count: number of objects; required for counting (some or all objects may be missing).
        answer: the right answer in words; required for text.
        choices: texts of the options "A", "B", ... of a multiple-choice question.
        image: index of its image in the row, from 0; None: the only one. Size and geometry are of that image.

    Raises:
        TargetError: unknown task, non-positive size, inverted/non-finite/outside box or point, missing label, count
            or answer, lists of different lengths.

    >>> target = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
    >>> target.to_json()
    '{"task":"detection","size_wh":[640,480],"boxes_xyxy":[[100.0,100.0,200.0,200.0]],"labels":["cat"]}'
    >>> Target.from_json(target.to_json()) == target
    True
    >>> Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[200, 100, 100, 200]], labels=["cat"])
    Traceback (most recent call last):
    ...
    verl_visionr1.targets.TargetError: boxes_xyxy[0] = (200.0, 100.0, 100.0, 200.0): needs x1 < x2 and y1 < y2
    >>> Target(task="text", answer="B", choices=["a cat", "a dog"]).size_wh == NO_IMAGE
    True
    """

    task: str
    size_wh: tuple[int, int] = NO_IMAGE
    boxes_xyxy: Sequence[Sequence[float]] = ()
    labels: Sequence[str] = ()
    categories: Sequence[str] = ()
    ignore_xyxy: Sequence[Sequence[float]] = ()
    points_xy: Sequence[Sequence[float]] = ()
    masks: Sequence[Mask] = ()
    count: int | None = None
    answer: str | None = None
    choices: Sequence[str] = ()
    image: int | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise TargetError(f"task = {self.task!r}: {needs_one_of(self.task, TASKS)}")
        size_wh = _size(self.size_wh, allow_none=self.task == "text")
        for field, value in (
            ("size_wh", size_wh),
            ("boxes_xyxy", _boxes("boxes_xyxy", self.boxes_xyxy, size_wh)),
            ("labels", _texts("labels", self.labels)),
            ("categories", _texts("categories", self.categories)),
            ("ignore_xyxy", _boxes("ignore_xyxy", self.ignore_xyxy, size_wh)),
            ("points_xy", _points("points_xy", self.points_xy, size_wh)),
            ("masks", _masks("masks", self.masks, size_wh)),
            ("choices", _texts("choices", self.choices)),
        ):
            msgspec.structs.force_setattr(self, field, value)
        for field in ("count", "image"):
            if (number := getattr(self, field)) is not None:
                msgspec.structs.force_setattr(self, field, _count(number, field))
        self._check_objects()
        self._check_answer()

    def _check_objects(self) -> None:
        """Check that each list of objects has one entry per object."""
        n_objects = self.n_objects
        for field in ("masks", "points_xy"):
            n_given = len(getattr(self, field))
            if n_given and n_given != n_objects:
                raise TargetError(f"{field} has {n_given} entries for {n_objects} objects: expected one per object")
        may_lack_labels = self.task in ("counting", "pointing") and not self.labels
        if len(self.labels) != n_objects and not may_lack_labels:
            what = "objects" if self.masks or self.points_xy else "boxes"
            raise TargetError(f"labels has {len(self.labels)} entries for {n_objects} {what}: expected one label each")

    def _check_answer(self) -> None:
        """Check that the task's required fields are set."""
        if self.task == "counting" and self.count is None:
            raise TargetError("count = None: a counting target needs the number of objects")
        if self.task == "text" and self.answer is None:
            raise TargetError("answer = None: a text target needs the right answer")
        if self.answer is not None:
            _texts("answer", (self.answer,))

    @property
    def n_objects(self) -> int:
        """Number of objects T, given as boxes, masks or points."""
        return len(self.boxes_xyxy) or len(self.masks) or len(self.points_xy)

    @cached_property
    def normalized_labels(self) -> tuple[str, ...]:
        """T normalized labels."""
        return _normalized_labels(tuple(self.labels))

    @cached_property
    def indexed(self) -> IndexedBoxes:
        """The boxes, indexed for matching."""
        return IndexedBoxes.of(cast(Boxes, self.boxes_xyxy), self.labels, self.normalized_labels)

    @cached_property
    def is_multiclass(self) -> bool:
        """Whether the target and its prompt have more than one label, so that a label can be wrong."""
        if len(self.labels) <= 1 and not self.categories:
            return False
        return len({*self.normalized_labels, *_normalized_labels(tuple(self.categories))}) > 1

    def to_json(self) -> str:
        """Write one line of JSON; `from_json` is its inverse."""
        return _ENCODER.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes, key: str = "ground truth") -> Target:
        """Read the JSON of `to_json`.

        Args:
            key: name of the text, for messages.

        Raises:
            TargetError: not JSON, an unknown or missing field, or an invalid value.
        """
        try:
            return _DECODER.decode(text)
        except (msgspec.DecodeError, UnicodeError) as error:  # ValidationError is a DecodeError
            shown = f"{text[:120]!r}..." if len(text) > 120 else repr(text)
            raise TargetError(f"{key} {shown}: {error}") from error


read_target = lru_cache(maxsize=8192)(Target.from_json)
"""`Target.from_json`, cached: all rollouts of a prompt share their ground truth."""


def object_boxes(target: Target) -> Boxes:
    """A box around each object: its own, that of its mask, else a twentieth of the image around its point."""
    if target.boxes_xyxy:
        return cast(Boxes, tuple(target.boxes_xyxy))
    if target.masks:
        return tuple(bounds_xyxy(mask) for mask in target.masks)
    reach = max(target.size_wh) / 40.0
    return tuple((x - reach, y - reach, x + reach, y + reach) for x, y in target.points_xy)


def object_points(target: Target) -> Points:
    """A point on each object: its own, else the centre of its box or mask."""
    if target.points_xy:
        return cast(Points, tuple(target.points_xy))
    return tuple(((x1 + x2) / 2.0, (y1 + y2) / 2.0) for x1, y1, x2, y2 in object_boxes(target))


def is_validation_split(split: object) -> bool:
    """Whether a split (`extra_info.split`) is for validation, by its name.

    >>> [is_validation_split(name) for name in ("val", "testA", "minival", "train", None)]
    [True, True, True, False, False]
    """
    return isinstance(split, str) and split.lower().startswith(("val", "test", "dev", "eval", "minival"))


MAX_MARKS = 30
"""Consecutive combining marks; a word with more is not normalized, since ordering them takes quadratic time."""
_SHORT_WORD = 100
# Characters that nobody sees: zero width, soft hyphen, direction, joiners, variants (Unicode: default ignorable).
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]+")


def normalize_text(text: str, *, fold_case: bool = True) -> str:
    """Normalize a text for comparison: Unicode form NFKC, without surplus blanks and, by default, without case.

    Characters that nobody sees, such as the zero-width space, are removed.

    >>> normalize_text("Cafe\\u0301  STRASSE"), normalize_text("caf\\u00e9 stra\\u00dfe")
    ('caf\u00e9 strasse', 'caf\u00e9 strasse')
    """
    if text.isascii():
        return " ".join((text.lower() if fold_case else text).split())
    words = [_normalize_word(word, fold_case) for word in _INVISIBLE.sub("", text).split()]
    return " ".join(" ".join(words).split())  # compatibility forms of some signs contain blanks


def _normalize_word(word: str, fold_case: bool) -> str:
    if word.isascii():
        return word.lower() if fold_case else word
    if len(word) > _SHORT_WORD and not _has_few_marks(word):
        return word.casefold() if fold_case else word
    if not fold_case:
        return unicodedata.normalize("NFKC", word)
    # Unicode 3.13, D146: caseless in any normalization form.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", word).casefold())
    return unicodedata.normalize("NFKC", folded.casefold())


def _has_few_marks(word: str) -> bool:
    runs = (len(list(run)) for is_mark, run in groupby(word, lambda char: unicodedata.combining(char) > 0) if is_mark)
    return max(runs, default=0) <= MAX_MARKS


normalize_label = normalize_text
"""Normalize a label for comparison, as `normalize_text`."""


@lru_cache(maxsize=4096)
def _normalized_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(normalize_label, labels))


def _size(value: Any, *, allow_none: bool) -> tuple[int, int]:
    try:
        width, height = map(operator.index, value)
    except (TypeError, ValueError):
        raise TargetError(f"size_wh = {value!r}: needs two whole numbers, width and height") from None
    if (width <= 0 or height <= 0) and not (allow_none and (width, height) == NO_IMAGE):
        raise TargetError(f"size_wh = {(width, height)}: needs positive width and height")
    return width, height


def _count(value: Any, field: str) -> int:
    try:
        if not isinstance(value, bool) and (count := operator.index(value)) >= 0:
            return count
    except TypeError:
        pass
    raise TargetError(f"{field} = {value!r}: needs a whole number of at least 0")


def _many(field: str, values: Any, what: str) -> tuple[Any, ...]:
    try:
        if not isinstance(values, str | bytes):
            return tuple(values)
    except TypeError:
        pass
    raise TargetError(f"{field} = {values!r}: needs a list of {what}")


def _texts(field: str, values: Any) -> tuple[str, ...]:
    texts = _many(field, values, "texts")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise TargetError(f"{field}[{i}] = {text!r}: needs a non-empty text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise TargetError(f"{field}[{i}] = {text!r}: contains half a surrogate pair") from None
    return texts


def _boxes(field: str, values: Any, size_wh: tuple[int, int]) -> Boxes:
    return tuple([_box(f"{field}[{i}]", value, size_wh) for i, value in enumerate(_many(field, values, "boxes"))])


def _box(where: str, value: Any, size_wh: tuple[int, int]) -> Box:
    try:
        x1, y1, x2, y2 = map(_number, value)
    except (TypeError, ValueError, OverflowError):
        raise TargetError(f"{where} = {value!r}: needs four numbers x1, y1, x2, y2") from None
    box = (x1, y1, x2, y2)
    if not all(map(math.isfinite, box)):
        raise TargetError(f"{where} = {box}: needs finite numbers")
    if not (x1 < x2 and y1 < y2):
        raise TargetError(f"{where} = {box}: needs x1 < x2 and y1 < y2")
    if x1 < -1 or y1 < -1 or x2 > size_wh[0] + 1 or y2 > size_wh[1] + 1:
        advice = "clip it, or correct size_wh"
        raise TargetError(f"{where} = {box}: reaches outside the image of size_wh {size_wh}; {advice}")
    return box


def _points(field: str, values: Any, size_wh: tuple[int, int]) -> Points:
    return tuple([_point(f"{field}[{i}]", value, size_wh) for i, value in enumerate(_many(field, values, "points"))])


def _point(where: str, value: Any, size_wh: tuple[int, int]) -> tuple[float, float]:
    try:
        x, y = map(_number, value)
    except (TypeError, ValueError, OverflowError):
        raise TargetError(f"{where} = {value!r}: needs two numbers x, y") from None
    if not (-1 <= x <= size_wh[0] + 1 and -1 <= y <= size_wh[1] + 1):  # nan fails too
        raise TargetError(f"{where} = {(x, y)}: outside the image of size_wh {size_wh}")
    return x, y


def _masks(field: str, values: Any, size_wh: tuple[int, int]) -> tuple[Mask, ...]:
    masks: list[Mask] = []
    for i, value in enumerate(_many(field, values, "masks")):
        where = f"{field}[{i}]"
        try:
            mask = value if isinstance(value, Mask) else msgspec.convert(value, Mask)
        except (msgspec.ValidationError, ValueError) as error:
            needed = f"needs polygons, or size_hw and counts ({error})"
            raise TargetError(f"{where} = {str(value)[:80]}: {needed}") from None
        if mask.size_wh not in (None, size_wh):
            raise TargetError(f"{where} is for an image of size_wh {mask.size_wh}, this one has {size_wh}")
        _box(f"{where}, whose bounds are", bounds_xyxy(mask), size_wh)
        masks.append(mask)
    return tuple(masks)


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):  # float() would take them
        raise TypeError
    return float(value) + 0.0  # -0.0 becomes 0.0


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Target)
