"""One row of a file, as the checks look at it: converted rows as they are, foreign ones as far as they can be read.

Of a foreign record the boxes are found by their shape, four numbers in a row, wherever they stand; what they mean is
for `conventions` to guess.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_visionr1.boxes import Point
from verl_visionr1.conversion.image_files import find_below
from verl_visionr1.conversion.sources import read_records
from verl_visionr1.files import RowError
from verl_visionr1.row_layouts import as_verl_row, framework_of
from verl_visionr1.rows import open_parquet, read_rows, target_of
from verl_visionr1.targets import Target, TargetError

Box = tuple[float, float, float, float]
OURS = ("prompt", "reward_model")
"""Columns that verl's layout has."""
IMAGE_KEYS = ("images", "image", "filename", "image_path", "img_filename", "file_name", "img_path")
_PROMPT_KEYS = ("problem", "question", "prompt", "query", "instruction")
_SIZE_KEYS = (("width", "height"), ("img_width", "img_height"), ("image_width", "image_height"))
_NUMBER = r"-?\d{1,7}(?:\.\d{1,12})?"
_BOX_TEXT = re.compile(r"[\[(]\s{0,4}" + r"\s{0,4},\s{0,4}".join([f"({_NUMBER})"] * 4) + r"\s{0,4}[\])]")
_MAX_DEPTH = 8
_MAX_CHARS = 100_000
MAX_SIDE = 10**9
"""No image has a side of so many pixels."""


@dataclass(slots=True)
class Sample:
    """One row.

    Attributes:
        file, number, unit: where it stands; `unit` is what `number` counts.
        prompt: the user's text.
        images: paths, or bytes.
        size_wh: of the image, as the row says it.
        boxes: boxes as they are written, by the place in the record: key -> boxes.
        points: points as they are written, likewise.
        target: ours only; None where it cannot be read (`truth_error` says why).
        info: ours: extra_info; foreign: the record.
    """

    file: str
    number: int
    unit: str
    prompt: str | None = None
    images: Sequence[str | bytes] = ()
    size_wh: tuple[int, int] | None = None
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    points: dict[str, list[Point]] = field(default_factory=dict)
    target: Target | None = None
    truth_error: str = ""
    data_source: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> str | bytes | None:
        """The image that the truth is about."""
        return self.images[self.image_index] if self.image_index < len(self.images) else None

    @property
    def image_index(self) -> int:
        """Its place among the images: the one that the truth names, else the first."""
        return (self.target.image if self.target is not None else None) or 0

    @property
    def split(self) -> str:
        """Name of the split, where the row says it."""
        return str(self.info.get("split") or "")


def framework_in(path: Path) -> str:
    """The framework other than verl that a file was converted for; "" for all other files.

    Raises:
        RowsError: a parquet file that cannot be read.
    """
    if path.name.endswith(".parquet"):
        with open_parquet(path) as parquet:
            return framework_of(parquet.schema_arrow.names)
    _, first = next(read_records(path), ("", None)) if path.name.endswith(".jsonl") else ("", None)
    return framework_of(first) if isinstance(first, Mapping) else ""


def is_ours(path: Path) -> bool:
    """Whether a file was converted here, or has columns that only files for verl have, be it not all of them.

    Raises:
        RowsError: a parquet file that cannot be read.
    """
    if framework_in(path):
        return True
    if not path.name.endswith(".parquet"):
        return False
    with open_parquet(path) as parquet:
        names = set(parquet.schema_arrow.names)
        return "reward_model" in names or {"prompt", "data_source"} <= names


def samples_of(path: Path, images_dir: Path | None = None) -> Iterator[Sample | RowError]:
    """The rows of a file; a record that cannot be read comes as an error.

    Args:
        images_dir: folder that the images of a foreign file are relative to; else that of the file.

    Raises:
        RowsError: the file cannot be read.
    """
    yield from _our_samples(path) if is_ours(path) else _foreign_samples(path, images_dir or path.parent)


# ---------------------------------------------------------------------------------------------- ours


def _our_samples(path: Path) -> Iterator[Sample | RowError]:
    is_parquet = path.name.endswith(".parquet")
    records = enumerate(read_rows(path, batch_rows=100)) if is_parquet else _numbered(path)
    for number, record in records:
        if isinstance(record, RowError):
            yield record
            continue
        row = as_verl_row(record)
        info = row.get("extra_info") if isinstance(row.get("extra_info"), Mapping) else {}
        unit = "row" if is_parquet else "line"
        sample = Sample(str(path), number, unit, info=info or {}, data_source=str(row.get("data_source") or ""))
        turns = row["prompt"] if isinstance(row["prompt"], list) else []
        sample.prompt = "".join(str(turn.get("content") or "") for turn in turns if isinstance(turn, Mapping))
        sample.images = [image for image in map(image_of, row.get("images") or ()) if image is not None]
        try:
            sample.target = target_of(row)
            sample.size_wh = sample.target.size_wh if max(sample.target.size_wh) < MAX_SIDE else None
            sample.boxes["boxes_xyxy"] = [tuple(box) for box in sample.target.boxes_xyxy]  # type: ignore[misc]
            if sample.target.ignore_xyxy:
                sample.boxes["ignore_xyxy"] = [tuple(box) for box in sample.target.ignore_xyxy]  # type: ignore[misc]
            sample.points["points_xy"] = [(x, y) for x, y in sample.target.points_xy]
        except (TargetError, TypeError, KeyError) as error:
            sample.truth_error = str(error)
            _read_broken_truth(sample, row)
        yield sample


def _numbered(path: Path) -> Iterator[tuple[int, Any]]:
    for place, record in read_records(path):
        yield int(place.rpartition(" ")[2]), record


def image_of(value: Any) -> str | bytes | None:
    """The path or the bytes of an image, as it stands in a row."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("image") or value.get("path")
    if isinstance(value, str):
        return value.removeprefix("file://")
    return value if isinstance(value, bytes) else None


def _read_broken_truth(sample: Sample, row: Mapping[str, Any]) -> None:
    """What can be read of a ground truth that is no `Target`: its boxes tell why."""
    model = row.get("reward_model")
    truth = model.get("ground_truth") if isinstance(model, Mapping) else None
    if isinstance(truth, str):
        with suppress(ValueError, RecursionError):
            truth = json.loads(truth)
    sample.boxes = _boxes_in(truth, "ground_truth")
    if isinstance(truth, Mapping):
        sample.boxes = {key.removeprefix("ground_truth."): boxes for key, boxes in sample.boxes.items()}
    sample.size_wh = _size_of(truth) or _size_of(sample.info)


# ---------------------------------------------------------------------------------------------- anybody's


def _foreign_samples(path: Path, images_dir: Path) -> Iterator[Sample | RowError]:
    unit = "line" if not path.name.endswith((".json", ".parquet", ".arrow")) else "row"
    for number, record in _numbered(path):
        if isinstance(record, RowError):
            yield record
            continue
        if not isinstance(record, Mapping):
            yield RowError(
                "malformed entry",
                f"{path.name}: {unit} {number}: {str(record)[:60]!r} is not an object; correct or drop it",
            )
            continue
        images = next((record[key] for key in IMAGE_KEYS if record.get(key)), ())
        images = images if isinstance(images, list) else [images]
        yield Sample(
            str(path),
            number,
            unit,
            prompt=_prompt_of(record),
            images=[_absolute(image, images_dir) for image in map(image_of, images) if image],
            size_wh=_size_of(record),
            boxes=_boxes_in(record, ""),
            points=_points_in(record, ""),
            info=record,
        )


def _absolute(image: str | bytes, images_dir: Path) -> str | bytes:
    """A path that is relative to a folder, where it lies there."""
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
            users = [
                turn
                for turn in turns
                if isinstance(turn, Mapping) and turn.get("role", turn.get("from")) in ("user", "human")
            ]
            return "".join(str(turn.get("content", turn.get("value", ""))) for turn in users)
    return None


def _size_of(record: Any) -> tuple[int, int] | None:
    if not isinstance(record, Mapping):
        return None
    candidates = [record.get("size_wh"), record.get("img_size")]
    candidates += [[record.get(key) for key in keys] for keys in _SIZE_KEYS]
    for size in candidates:
        if isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_side, size)):
            return int(size[0]), int(size[1])
    return None


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and 0 < value < MAX_SIDE


def _boxes_in(value: Any, place: str, depth: int = 0) -> dict[str, list[Box]]:
    """Everything in a value that is four numbers in a row, by the keys that lead to it."""
    found: dict[str, list[Box]] = {}
    if depth > _MAX_DEPTH:
        return found
    if isinstance(value, str):
        boxes = [tuple(map(float, match.groups())) for match in _BOX_TEXT.finditer(value[:_MAX_CHARS])]
        return {place: boxes} if boxes else {}  # type: ignore[dict-item]
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _merge(found, _boxes_in(inner, f"{place}.{key}" if place else str(key), depth + 1))
    elif isinstance(value, list | tuple):
        if len(value) == 4 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            return {place: [(_float(value[0]), _float(value[1]), _float(value[2]), _float(value[3]))]}
        for inner in value:
            _merge(found, _boxes_in(inner, place, depth + 1))
    return found


def _points_in(value: Any, place: str, depth: int = 0) -> dict[str, list[Point]]:
    """Everything in a value that is a list of pairs of numbers, by the keys that lead to it."""
    found: dict[str, list[Point]] = {}
    if depth > _MAX_DEPTH:
        return found
    if isinstance(value, Mapping):
        for key, inner in value.items():
            for where, points in _points_in(inner, f"{place}.{key}" if place else str(key), depth + 1).items():
                found.setdefault(where, []).extend(points)
    elif isinstance(value, list | tuple) and value and all(map(_is_pair, value)):
        return {place: [(_float(x), _float(y)) for x, y in value]}
    return found


def _is_pair(value: Any) -> bool:
    is_two = isinstance(value, list | tuple) and len(value) == 2
    return is_two and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _merge(found: dict[str, list[Box]], more: Mapping[str, list[Box]]) -> None:
    for key, boxes in more.items():
        found.setdefault(key, []).extend(boxes)
