"""`Item`, one question about one image, and its conversion to a `Row`.

The *annotated* frame is the frame of the data set's numbers. Rows use pixels of the upright image (`images.py`):

    numbers -> pixels (`whole_wh`) -> upright (`images.in_upright_frame`) -> clipped, rounded to 0.01, repeats dropped
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_visionr1.answers import FORMATS
from verl_visionr1.boxes import Box, Point
from verl_visionr1.conversion.conventions import Convention
from verl_visionr1.conversion.flags import Flags
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.values import is_finite
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import EmbeddedImage, RowImage, in_upright_frame
from verl_visionr1.masks import Mask
from verl_visionr1.rows import Row
from verl_visionr1.targets import Target, TargetError

DECIMALS = 2  # of all coordinates, in pixels: the precision of COCO's files
_ADVICE = "correct or remove the annotation"
_Object = tuple[str | None, Box | None, Point | None, Mask | None]
"""Label, box, point and mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question about one image, and its answer, as in the data set.

    Attributes:
        where: file and place in it, for messages.
        image: the image file, or its bytes if the source embeds them.
        task: one of `targets.TASKS`.
        phrases: the category list, or one phrase; the prompt asks for them ...
        question: ... or is this question of the data set, followed by the answer format ...
        prompt: ... or is exactly this text.
        annotated_wh: width and height in pixels of the frame of all geometry; None: that of the image file.
        whole_wh: numbers for the whole width and height if the geometry is neither in pixels nor in `written`:
            (1, 1) for fractions, (100, 100) for percent.
        written: box convention of the source, still to be checked against the numbers; None: already checked.
        boxes_xyxy, labels, ignore_xyxy, points_xy, masks, count, answer, choices: as in `Target`. Boxes may extend
            outside the image (they are clipped) and repeat (repeats are dropped). Objects may be in any order. Without
            labels, all objects have the one phrase. Only counting uses the count.
        image_id, file_name: the image's names in the data set; `identities`: its other names (`identity.py`).
        data_source, split: of this item; default: those of the flags.
        source_ann: reference to the source entry; JSON-able.
    """

    where: str
    image: Path | EmbeddedImage
    task: str
    phrases: tuple[str, ...] = ()
    question: str | None = None
    prompt: str | None = None
    annotated_wh: tuple[int, int] | None = None
    whole_wh: tuple[float, float] | None = None
    written: Convention | None = None
    boxes_xyxy: Sequence[Sequence[float]] = ()
    labels: Sequence[str] = ()
    ignore_xyxy: Sequence[Sequence[float]] = ()
    points_xy: Sequence[Sequence[float]] = ()
    masks: Sequence[Mask] = ()
    count: int | None = None
    answer: str | None = None
    choices: Sequence[str] = ()
    image_id: str = ""
    file_name: str = ""
    identities: tuple[str, ...] = ()
    data_source: str | None = None
    split: str | None = None
    source_ann: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_objects(self) -> int:
        """Number of objects in the right answer: the count, else the boxes, masks or points."""
        if self.count is not None:
            return self.count
        return len(self.boxes_xyxy) or len(self.masks) or len(self.points_xy)

    @property
    def is_negative(self) -> bool:
        """Whether it asks for absent objects."""
        return self.task != "text" and self.n_objects == 0


def row_of(item: Item, image: RowImage, flags: Flags, ledger: Ledger, *, allow_none: bool = False) -> Row:
    """Make the row of an item, with geometry in the frame of the prepared image.

    Raises `RowError`: an invalid box or point, an unknown frame, or no usable ground truth; names `item.where`.
    """
    try:
        target = _target(item, image, ledger)
        return Row(
            data_source=(item.data_source or flags.data_source).format(task=item.task),
            question=question_of(item, flags, allow_none=allow_none),
            image=image,
            target=target,
            split=item.split or flags.split,
            image_id=item.image_id,
            file_name=item.file_name,
            source_ann=json.dumps(item.source_ann, ensure_ascii=False),
        )
    except RowError as error:
        raise RowError(error.kind, f"{item.where}: {error}") from None
    except TargetError as error:
        raise RowError("no usable ground truth", f"{item.where}: {error}; {_ADVICE}") from None


def question_of(item: Item, flags: Flags, *, allow_none: bool = False) -> str:
    """Return the user's turn of an item; `RowsError` if the flags' answer format does not fit its task or question."""
    if item.prompt is not None:
        return item.prompt
    answer_format = FORMATS[flags.format_of(item.task)]
    if flags.prompt_template is not None:
        asked = item.question if item.question is not None else ", ".join(item.phrases)
        return flags.prompt_template.format(phrases=asked)
    if item.question is not None and item.task != "text":
        if not answer_format.then:
            able = [name for name, known in FORMATS.items() if known.then and item.task in known.tasks]
            reason = f"--answer-format {answer_format.name}: cannot follow the data set's own question"
            raise RowsError(f"{reason}; use one of {', '.join(able)}, or --prompt-template")
        return f"{item.question} {answer_format.then}"
    phrases = item.phrases if item.question is None else (item.question,)
    # a text question always has an answer; only places and counts can be empty
    return answer_format.instruct(item.task, phrases, allow_none=allow_none and item.task != "text")


# ---------------------------------------------------------------------------------------------- geometry


def _target(item: Item, image: RowImage, ledger: Ledger) -> Target:
    objects = _objects(item, image, ledger)
    order = {label: i for i, label in enumerate(item.phrases)}
    objects.sort(key=lambda it: (order.get(it[0] or "", len(order)), it[0] or "", it[1] or (), it[2] or ()))
    labels, boxes, points, masks = ([value for value in column if value is not None] for column in _columns(objects))
    ignored = [clean_box(box, image.size_wh, ledger) for box in _upright(item.ignore_xyxy, item, image)]
    return Target(
        task=item.task,
        size_wh=image.size_wh,
        boxes_xyxy=boxes,
        labels=labels,
        categories=item.phrases if item.task != "text" else (),
        ignore_xyxy=sorted(ignored),
        points_xy=points,
        masks=masks,
        count=(len(objects) if item.count is None else item.count) if item.task == "counting" else None,
        answer=item.answer,
        choices=item.choices,
    )


def _columns(objects: list[_Object]) -> Iterable[Iterable[Any]]:
    return zip(*objects, strict=True) if objects else ((),) * 4


def _objects(item: Item, image: RowImage, ledger: Ledger) -> list[_Object]:
    """Return the cleaned objects in the frame of the prepared image, each once."""
    boxes = [clean_box(box, image.size_wh, ledger) for box in _upright(item.boxes_xyxy, item, image)]
    corners = _upright([(x, y, x, y) for x, y in item.points_xy], item, image)
    points = [_clean_point(point[:2], image.size_wh) for point in corners]
    if item.masks and image.orientation != 1:
        reason = f"masks on an image of EXIF orientation {image.orientation}"
        raise RowError("turned masks", f"{reason}; store the image upright")
    columns: list[Sequence[Any]] = [item.labels, boxes, points, item.masks]
    n_objects = max(map(len, columns))
    if not item.labels and len(item.phrases) == 1:
        columns[0] = item.phrases * n_objects
    if any(len(column) not in (0, n_objects) for column in columns):
        lengths = ", ".join(str(len(column)) for column in columns)
        raise RowError("lists differ in length", f"labels, boxes, points, masks: {lengths} entries; {_ADVICE}")
    objects = list(zip(*(column or [None] * n_objects for column in columns), strict=True))
    once = list(dict.fromkeys(objects))
    ledger.notes["repeated object (same label and place) dropped"] += len(objects) - len(once)
    return once


def _upright(boxes_xyxy: Sequence[Sequence[float]], item: Item, image: RowImage) -> tuple[Box, ...]:
    """Return boxes in the frame of `image.size_wh`, not yet clipped."""
    for i, box in enumerate(boxes_xyxy):
        if len(box) != 4 or not all(isinstance(v, int | float) and is_finite(v) for v in box):
            raise RowError("box malformed", f"box {i} = {_shown(box)}: needs four finite numbers; {_ADVICE}")
    if item.annotated_wh is None and image.orientation != 1 and boxes_xyxy:
        name = item.image.name if isinstance(item.image, EmbeddedImage) else item.image
        reason = f"the annotations give no size, and {name} has EXIF orientation {image.orientation}"
        advice = "give width and height of the image as it was annotated, or store it upright"
        raise RowError("frame unknown", f"{reason}: the frame of the boxes is unknown; {advice}")
    annotated_wh = item.annotated_wh or image.size_wh
    whole_wh = item.whole_wh or (item.written and item.written.fixed_wh)
    if whole_wh is not None:
        sx, sy = annotated_wh[0] / whole_wh[0], annotated_wh[1] / whole_wh[1]
        boxes_xyxy = [(x1 * sx, y1 * sy, x2 * sx, y2 * sy) for x1, y1, x2, y2 in boxes_xyxy]
    return in_upright_frame(boxes_xyxy, image, annotated_wh)


def clean_box(box_xyxy: Sequence[float], size_wh: tuple[int, int], ledger: Ledger | None = None) -> Box:
    """Clip a box to its image and round it to 0.01; clipping beyond rounding is noted.

    Raises `RowError`: not four finite numbers, no extent, or completely outside; the message starts with the box.

    >>> clean_box([10, 20.004, 40, 60], (100, 50))
    (10.0, 20.0, 40.0, 50.0)
    >>> clean_box([40, 20, 40, 60], (100, 50))
    Traceback (most recent call last):
    ...
    verl_visionr1.files.RowError: box = [40, 20, 40, 60]: no extent; correct or remove the annotation
    """
    if len(box_xyxy) != 4 or not all(map(is_finite, box_xyxy)):
        raise _bad_box("malformed", box_xyxy, "needs four finite numbers")
    x1, y1, x2, y2 = (round(float(value), DECIMALS) for value in box_xyxy)
    if not (x1 < x2 and y1 < y2):
        raise _bad_box("without extent", box_xyxy, "no extent")
    width, height = size_wh
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise _bad_box("outside its image", box_xyxy, f"outside the image of {size_wh}")
    if ledger is not None and clipped != (x1, y1, x2, y2):
        ledger.notes["box clipped to its image"] += 1
    return clipped


def _bad_box(kind: str, box_xyxy: Sequence[float], reason: str) -> RowError:
    return RowError(f"box {kind}", f"box = {_shown(box_xyxy)}: {reason}; {_ADVICE}")


def _clean_point(point_xy: Sequence[float], size_wh: tuple[int, int]) -> Point:
    """Round a point; one that is outside by rounding is moved to the edge."""
    x, y = (round(float(value), DECIMALS) for value in point_xy)
    if not (-1 <= x <= size_wh[0] + 1 and -1 <= y <= size_wh[1] + 1):
        raise RowError("point outside its image", f"point = {_shown(point_xy)}: outside {size_wh}; {_ADVICE}")
    return min(max(x, 0.0), float(size_wh[0])), min(max(y, 0.0), float(size_wh[1]))


def _shown(value: Iterable[Any]) -> str:
    text = str(list(value))
    return text if len(text) <= 120 else f"{text[:120]}..."
