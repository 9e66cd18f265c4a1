"""Rows of a file for the checks: converted rows completely, foreign ones as far as they can be read.

In a foreign record, boxes are found anywhere by their shape, four numbers in a row; `conventions` guesses their
meaning.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from verl_visionr1.boxes import Point
from verl_visionr1.conversion.image_files import IMAGE_SUFFIXES, find_below
from verl_visionr1.conversion.sources import read_records
from verl_visionr1.files import RowError
from verl_visionr1.row_layouts import as_verl_row, framework_of
from verl_visionr1.rows import schema_of, target_of
from verl_visionr1.targets import Target, TargetError
from verl_visionr1.tools.doctor.problems import Problem, Severity

Box = tuple[float, float, float, float]
OURS = ("prompt", "reward_model")
"""Columns of verl's layout."""
IMAGE_KEYS = ("images", "image", "filename", "image_path", "img_filename", "file_name", "img_path", "img")
_PROMPT_KEYS = ("problem", "question", "prompt", "query", "instruction")
SIZE_KEYS = (("width", "height"), ("img_width", "img_height"), ("image_width", "image_height"), ("w", "h"))
_CORNERS = (
    *("xmin,ymin,xmax,ymax", "x_min,y_min,x_max,y_max", "x1,y1,x2,y2", "left,top,right,bottom"),
    *("x,y,w,h", "x,y,width,height"),
)
"""Columns of a box with a number in each."""
TABLES = (".csv", ".tsv")
_NUMBER = r"-?\d{1,7}(?:\.\d{1,12})?"
_BOX_TEXT = re.compile(r"[\[(]\s{0,4}" + r"\s{0,4},\s{0,4}".join([f"({_NUMBER})"] * 4) + r"\s{0,4}[\])]")
_MAX_DEPTH = 8
_MAX_CHARS = 100_000
MAX_SIDE = 10**9
"""In pixels; no image has such a side."""


@dataclass(slots=True)
class Sample:
    """One row.

    Attributes:
        file, number, unit: its place; `unit` is what `number` counts.
        layout: see `layout_of`.
        record: the row; ours in verl's columns.
        prompt: the user's text.
        images: paths, or bytes; None for an empty one. image_key: their column in a foreign record.
        size_wh: of the image, as given in the row.
        boxes, points: key in the record -> boxes or points as written.
        target: only ours; None if unreadable, with the reason in `truth_error`.
    """

    file: str
    number: int
    unit: str
    layout: str
    record: Mapping[str, Any]
    prompt: str | None = None
    images: Sequence[str | bytes | None] = ()
    image_key: str = ""
    size_wh: tuple[int, int] | None = None
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    points: dict[str, list[Point]] = field(default_factory=dict)
    target: Target | None = None
    truth_error: str = ""

    @property
    def info(self) -> Mapping[str, Any]:
        """What is known of its origin: `extra_info`, or the foreign record."""
        info = self.record.get("extra_info") if self.layout else self.record
        return info if isinstance(info, Mapping) else {}

    @property
    def data_source(self) -> str:
        """Name of its data source, or ""."""
        return str(self.record.get("data_source") or "") if self.layout else ""

    @property
    def split(self) -> str:
        """Name of its split, or ""."""
        return str(self.info.get("split") or "")

    @property
    def image_index(self) -> int:
        """Index of the image of the ground truth: as named there, else 0."""
        return (self.target.image if self.target is not None else None) or 0

    @property
    def image(self) -> str | bytes | None:
        """The image of the ground truth."""
        return self.images[self.image_index] if self.image_index < len(self.images) else None

    def problem(self, kind: str, reason: str, severity: Severity = Severity.ERROR) -> Problem:
        """Make a problem of this row."""
        return Problem(self.file, self.number, reason, kind, severity, self.unit)


def layout_of(path: Path) -> str:
    """Return "verl" (for any file with columns specific to it), another framework, or "" for a foreign file.

    Raises:
        RowsError: the file cannot be read.
    """
    if path.name.endswith(".parquet"):
        names = set(schema_of(path).names)
        is_verl = "reward_model" in names or {"prompt", "data_source"} <= names
        return framework_of(names) or ("verl" if is_verl else "")
    _, first = next(read_records(path), ("", None)) if path.name.endswith(".jsonl") else ("", None)
    return framework_of(first) if isinstance(first, Mapping) else ""


def samples_of(path: Path, layout: str, images_dir: Path | None = None) -> Iterator[Sample | RowError]:
    """Yield the rows of a file; an unreadable record is yielded as an error.

    Args:
        layout: that of the file, see `layout_of`.
        images_dir: folder that images of a foreign file are relative to; default: that of the file.

    Raises:
        RowsError: the file cannot be read.
    """
    is_plain = layout == "verl" and not has_image_features(path)
    for place, record in read_records(path):
        if isinstance(record, RowError):
            yield record
        elif not isinstance(record, Mapping):
            yield RowError("malformed entry", f"{place}: {str(record)[:60]!r} is not an object; correct or remove it")
        else:
            unit, number = place.split()[-2:]
            if path.suffix.lower() in TABLES:
                record = {name: _read_cell(text) for name, text in record.items()}
            sample = Sample(str(path), int(number), unit, layout, record)
            if layout:
                _read_ours(sample, is_plain)
            else:
                _read_foreign(sample, images_dir or path.parent)
            yield sample


def has_image_features(path: Path) -> bool:
    """Whether a parquet declares Hugging Face Image features: then verl reads images by their path, too."""
    return b'"Image"' in (schema_of(path).metadata or {}).get(b"huggingface", b"")


def _read_ours(sample: Sample, is_plain: bool) -> None:
    row = sample.record = as_verl_row(sample.record)
    turns = row.get("prompt")
    turns = turns if isinstance(turns, list) else []
    sample.prompt = "".join(str(turn.get("content") or "") for turn in turns if isinstance(turn, Mapping))
    images = row.get("images")
    sample.images = [_image_of(image, is_plain) for image in images] if isinstance(images, list) else []
    try:
        target = sample.target = target_of(row)
    except (TargetError, TypeError, KeyError) as error:
        sample.truth_error = str(error)
        _read_broken_truth(sample)
        return
    sample.size_wh = target.size_wh if max(target.size_wh) < MAX_SIDE else None
    sample.boxes["boxes_xyxy"] = [tuple(box) for box in target.boxes_xyxy]  # type: ignore[misc]
    if target.ignore_xyxy:
        sample.boxes["ignore_xyxy"] = [tuple(box) for box in target.ignore_xyxy]  # type: ignore[misc]
    sample.points["points_xy"] = [(x, y) for x, y in target.points_xy]


def _image_of(value: Any, is_plain: bool = False) -> str | bytes | None:
    """The path or bytes of an image in a row; `is_plain`: only what verl opens without Image features."""
    if isinstance(value, Mapping):
        names = ("bytes", "image", "path") if not is_plain else ("bytes",) if "bytes" in value else ("image",)
        value = next((value[name] for name in names if value.get(name)), None)
    elif is_plain and isinstance(value, bytes):
        return None
    if isinstance(value, str):
        return value.removeprefix("file://") or None
    return value if isinstance(value, bytes) and value else None


def _read_broken_truth(sample: Sample) -> None:
    """Read the boxes and size of an invalid ground truth, so that the checks can explain it."""
    model = sample.record.get("reward_model")
    truth = model.get("ground_truth") if isinstance(model, Mapping) else None
    if isinstance(truth, str):
        with suppress(ValueError, RecursionError):
            truth = json.loads(truth)
    sample.boxes = _found_in(truth, "" if isinstance(truth, Mapping) else "ground_truth", _read_boxes)
    sample.size_wh = _size_of(truth) or _size_of(sample.info)


def _read_foreign(sample: Sample, images_dir: Path) -> None:
    record = sample.record
    sample.image_key, images = _find_images(record, images_dir)
    sample.images = [_absolute(image, images_dir) for image in images]
    sample.prompt, sample.size_wh = _prompt_of(record), _size_of(record)
    sample.boxes = _found_in(record, "", _read_boxes)
    corners = ((names, [record.get(name) for name in names.split(",")]) for names in _CORNERS)
    sample.boxes |= next(({names: found} for names, box in corners if (found := _read_boxes(box))), {})
    sample.points = _found_in(record, "", _read_points, in_lists=False)


def _find_images(record: Mapping[str, Any], images_dir: Path) -> tuple[str, list[str | bytes]]:
    """Find the column of images, by its name, else by its values: names of files that are there, or of images."""
    for key in (*IMAGE_KEYS, *record):
        value = record.get(key)
        images = [image for image in map(_image_of, value if isinstance(value, list) else [value]) if image]
        if images and (key in IMAGE_KEYS or all(_is_image(image, images_dir) for image in images)):
            return key, images
    return "", []


def _is_image(value: str | bytes, images_dir: Path) -> bool:
    if isinstance(value, bytes):
        return True
    is_named_so = value.lower().endswith(tuple(IMAGE_SUFFIXES)) and "://" not in value
    return is_named_so or os.path.isfile(os.path.join(images_dir, value))


def _read_cell(text: str) -> str | int | float:
    """A number of a table as a number."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _absolute(image: str | bytes, images_dir: Path) -> str | bytes:
    """Make a path absolute if the file is in this folder."""
    if isinstance(image, bytes) or Path(image).is_absolute() or "\0" in image:
        return image
    return str(find_below(images_dir, image) or image)


def _prompt_of(record: Mapping[str, Any]) -> str | None:
    for key in _PROMPT_KEYS:
        if isinstance(record.get(key), str):
            return record[key]
    for key in ("messages", "conversations", "prompt"):
        turns = record.get(key)
        if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
            users = (turn for turn in turns if isinstance(turn, Mapping))
            users = (turn for turn in users if turn.get("role", turn.get("from")) in ("user", "human"))
            return "".join(str(turn.get("content", turn.get("value", ""))) for turn in users)
    return None


def _size_of(record: Any) -> tuple[int, int] | None:
    if not isinstance(record, Mapping):
        return None
    candidates = [record.get("size_wh"), record.get("img_size")]
    keys_of_image = () if {"x", "y"} <= record.keys() else SIZE_KEYS  # else width and height are a box's
    candidates += [[record.get(key) for key in keys] for keys in keys_of_image]
    for size in candidates:
        if _is_numbers(size, 2) and all(isinstance(side, int) and 0 < side < MAX_SIDE for side in size):
            return int(size[0]), int(size[1])
    return None


def _found_in(
    value: Any, place: str, read: Callable[[Any], list[Any]], depth: int = 0, *, in_lists: bool = True
) -> dict[str, list[Any]]:
    """Everything that `read` finds in a value, by its key path; lists are searched only `in_lists`."""
    if depth > _MAX_DEPTH:
        return {}
    if here := read(value):
        return {place: here}
    inside: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        inside = ((f"{place}.{key}" if place else str(key), it) for key, it in value.items())
    elif in_lists and isinstance(value, list | tuple):
        inside = ((place, it) for it in value)
    found: dict[str, list[Any]] = {}
    for at, it in inside:
        for key, some in _found_in(it, at, read, depth + 1, in_lists=in_lists).items():
            found.setdefault(key, []).extend(some)
    return found


def _read_boxes(value: Any) -> list[Box]:
    """Read four numbers in a row, or a text with such."""
    if isinstance(value, str):
        texts = (match.groups() for match in _BOX_TEXT.finditer(value[:_MAX_CHARS]))
        return [(float(a), float(b), float(c), float(d)) for a, b, c, d in texts]
    if not _is_numbers(value, 4):
        return []
    a, b, c, d = map(_float, value)
    return [(a, b, c, d)]


def _read_points(value: Any) -> list[Point]:
    """Read a list of pairs of numbers."""
    if not isinstance(value, list | tuple) or not all(_is_numbers(it, 2) for it in value):
        return []
    return [(_float(x), _float(y)) for x, y in value]


def _is_numbers(value: Any, n: int) -> TypeGuard[Sequence[float]]:
    is_list = isinstance(value, list | tuple) and len(value) == n
    return is_list and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf
