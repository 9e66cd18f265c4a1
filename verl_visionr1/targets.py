"""Ground truth of one item, and its JSON codec.

The parquet column `reward_model.ground_truth` holds `Target.to_json()`: one string type for every task, so that
files of all tasks concatenate. Bad ground truth is an error here, at conversion or load time, never at reward time.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from verl_visionr1.boxes import Box, Boxes

TASKS = ("detection", "grounding")
"""Tasks that have a reward; `Target.task` is one of them."""


class TargetError(ValueError):
    """Ground truth that cannot be scored; the message names the field and the offending value."""


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is really in the image.

    Frame of all geometry: float xyxy, 0-based, half-open, pixels of the EXIF-upright original image. Boxes may
    reach over the image's edge by rounding only (one pixel); converters clip before they build a Target.

    Attributes:
        task: one of `TASKS`.
        size_wh: width and height of the original image in pixels.
        boxes_xyxy: T boxes; empty where the asked-for thing is absent.
        labels: T labels, one a box (for grounding: the phrase).
        categories: what the prompt asked for; may hold labels that are not in the image.
        ignore_xyxy: regions (crowds) in which an unmatched prediction is neither right nor wrong.

    Raises:
        TargetError: unknown task, non-positive size, inverted/non-finite/outside box, missing label.

    >>> target = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
    >>> target.to_json()
    '{"task":"detection","size_wh":[640,480],"boxes_xyxy":[[100.0,100.0,200.0,200.0]],"labels":["cat"]}'
    >>> Target.from_json(target.to_json()) == target
    True
    >>> Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[200, 100, 100, 200]], labels=["cat"])
    Traceback (most recent call last):
    ...
    verl_visionr1.targets.TargetError: boxes_xyxy[0] = (200.0, 100.0, 100.0, 200.0): needs x1 < x2 and y1 < y2
    """

    task: str
    size_wh: tuple[int, int]
    boxes_xyxy: Sequence[Sequence[float]] = ()
    labels: Sequence[str] = ()
    categories: Sequence[str] = ()
    ignore_xyxy: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise TargetError(f"task = {self.task!r}: needs one of {', '.join(TASKS)}")
        size_wh = _size(self.size_wh)
        boxes_xyxy = _boxes("boxes_xyxy", self.boxes_xyxy, size_wh)
        labels = _texts("labels", self.labels)
        if len(labels) != len(boxes_xyxy):
            raise TargetError(f"labels has {len(labels)} entries for {len(boxes_xyxy)} boxes: needs one label a box")
        for field, value in (
            ("size_wh", size_wh),
            ("boxes_xyxy", boxes_xyxy),
            ("labels", labels),
            ("categories", _texts("categories", self.categories)),
            ("ignore_xyxy", _boxes("ignore_xyxy", self.ignore_xyxy, size_wh)),
        ):
            msgspec.structs.force_setattr(self, field, value)

    @property
    def normal_labels(self) -> tuple[str, ...]:
        """T labels as they are compared."""
        return _normal_labels(tuple(self.labels))

    @property
    def is_multilabel(self) -> bool:
        """Whether a label can be wrong: the target and its prompt know more than one."""
        if len(self.labels) <= 1 and not self.categories:
            return False
        return len({*self.normal_labels, *_normal_labels(tuple(self.categories))}) > 1

    def to_json(self) -> str:
        """One line of JSON; `from_json` is its inverse."""
        return _ENCODER.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Target:
        """Read what `to_json` wrote.

        Raises:
            TargetError: not JSON, an unknown or missing field, or a value that cannot be ground truth.
        """
        try:
            return _DECODER.decode(text)
        except (msgspec.DecodeError, UnicodeError) as error:  # ValidationError is a DecodeError
            shown = f"{text[:120]!r}..." if len(text) > 120 else repr(text)
            raise TargetError(f"ground truth {shown}: {error}") from error


def normal_label(label: str) -> str:
    """A label as it is compared: without case and surplus blanks.

    >>> normal_label("  Traffic   Light ")
    'traffic light'
    """
    return " ".join(label.lower().split())


@lru_cache(maxsize=4096)
def _normal_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(normal_label, labels))


def _size(value: Any) -> tuple[int, int]:
    try:
        width, height = map(operator.index, value)
    except (TypeError, ValueError):
        raise TargetError(f"size_wh = {value!r}: needs two whole numbers, width and height") from None
    if width <= 0 or height <= 0:
        raise TargetError(f"size_wh = {(width, height)}: needs positive width and height")
    return width, height


def _texts(field: str, values: Any) -> tuple[str, ...]:
    texts = _many(field, values, "texts")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise TargetError(f"{field}[{i}] = {text!r}: needs a non-empty text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise TargetError(f"{field}[{i}] = {text!r}: holds half a surrogate pair") from None
    return texts


def _boxes(field: str, values: Any, size_wh: tuple[int, int]) -> Boxes:
    return tuple([_box(f"{field}[{i}]", value, size_wh) for i, value in enumerate(_many(field, values, "boxes"))])


def _many(field: str, values: Any, what: str) -> tuple[Any, ...]:
    try:
        if not isinstance(values, str | bytes):
            return tuple(values)
    except TypeError:
        pass
    raise TargetError(f"{field} = {values!r}: needs a list of {what}")


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
        raise TargetError(f"{where} = {box}: reaches outside the image of size_wh {size_wh}; clip it, or mend size_wh")
    return box


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):  # float() would take them
        raise TypeError
    return float(value)


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Target)
