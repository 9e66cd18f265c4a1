"""ReasonSeg (LISA) -> parquet rows for verl: one row for each text, a phrase or a question that needs reasoning.

    visionr1 convert reasonseg ReasonSeg/train reasonseg_train.parquet
    visionr1 convert reasonseg ReasonSeg reasonseg_val.parquet --split val

As distributed: `ReasonSeg/{train,val,test}/x.jpg`, each with an `x.json` beside it, written in UTF-8 or cp1252:

    {"text": ["...", ...], "is_sentence": true, "shapes": [{"label": "target", "points": [[x, y], ...]}, ...]}

Labels are read as by LISA's reader: "flag" is skipped, one with "ignore" in it is a region that is neither right nor
wrong, all others are the target. Coordinates are pixels of the upright image (after EXIF), as in that reader. The
target is one box around all its polygons, since no file tells whether they are one object; `--boxes polygon` makes a
box of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from verl_visionr1.boxes import Box
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource, Flags
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.files import RowError, RowsError, read_bytes
from verl_visionr1.images import read_size, upright_size
from verl_visionr1.masks import Mask

_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


@dataclass(frozen=True, kw_only=True)
class Options(Flags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/reasonseg_{task}"
    task: Annotated[
        Literal["grounding", "pointing"], "grounding: the box of the target; pointing: a point in it (masks are kept)."
    ] = "grounding"
    boxes: Annotated[
        Literal["union", "polygon"], "union: one box around all polygons of the target; polygon: a box around each."
    ] = "union"


class _Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = None

    @property
    def outline(self) -> tuple[float, ...]:
        return tuple(value for point in self.points for value in point)


class _Entry(msgspec.Struct):
    text: list[str] | str
    shapes: list[_Shape]
    is_sentence: bool = False

    @property
    def texts(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text


def _items_of(path: Path, options: Options, ledger: Ledger) -> Iterator[Item]:
    entry = _read(path, ledger)
    targets, ignored = _shapes_of(path, entry, ledger)
    parts = [[shape] for shape in targets] if options.boxes == "polygon" else [targets]
    names = [path.with_suffix(suffix) for suffix in _SUFFIXES]
    image = next((name for name in names if name.exists()), names[0])  # a missing file fails when opened
    size_wh = upright_size(*read_size(image))
    for number, text in enumerate(entry.texts):
        where = f"{path.name}: text {number}"
        if not text.strip():
            ledger.skip(RowError("empty text", f"{where}: empty; remove it"))
            continue
        text = " ".join(text.split())
        yield Item(
            where=where,
            image=image,
            task=options.task,
            phrases=() if entry.is_sentence else (text,),
            question=text if entry.is_sentence else None,
            annotated_wh=size_wh,
            boxes_xyxy=list(map(_around, parts)),
            labels=[text] * len(parts),
            ignore_xyxy=[_around([shape]) for shape in ignored],
            masks=_masks(parts, where) if options.task == "pointing" else (),
            image_id=path.stem,
            file_name=image.name,
            source_ann={"file": path.name, "text": number, "is_sentence": entry.is_sentence},
        )


def _read(path: Path, ledger: Ledger) -> _Entry:
    """Read a file in either of its two encodings."""
    data = read_bytes(path)
    try:
        with suppress(UnicodeDecodeError):
            return msgspec.json.decode(data.decode("utf-8-sig"), type=_Entry)
        ledger.notes["json is not UTF-8: read as cp1252"] += 1
        return msgspec.json.decode(data.decode("cp1252"), type=_Entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RowError("malformed entry", f"{path}: {error}; correct it") from None


def _shapes_of(path: Path, entry: _Entry, ledger: Ledger) -> tuple[list[_Shape], list[_Shape]]:
    """Return the target's shapes, and those to ignore."""
    shapes = [shape for shape in entry.shapes if shape.label.lower() != "flag"]
    ledger.notes["shape labelled flag: skipped"] += len(entry.shapes) - len(shapes)
    for shape in shapes:
        if shape.shape_type == "circle" or not shape.points:
            reason = f"shape {shape.label!r} of type {shape.shape_type} with {len(shape.points)} points"
            raise RowError("shape without outline", f"{path}: {reason}: needs the corners of a polygon; correct it")
    targets = [shape for shape in shapes if "ignore" not in shape.label.lower()]
    if not targets:
        raise RowError("no target", f"{path}: no shape is a target; correct it, or leave it out")
    return targets, [shape for shape in shapes if "ignore" in shape.label.lower()]


def _around(shapes: Sequence[_Shape]) -> Box:
    xs, ys = zip(*(point for shape in shapes for point in shape.points), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _masks(parts: Sequence[Sequence[_Shape]], where: str) -> list[Mask]:
    try:
        return [Mask(polygons=tuple(shape.outline for shape in part)) for part in parts]
    except ValueError as error:
        raise RowError("mask malformed", f"{where}: {error}; correct or remove the shape") from None


@converter("grounding", "pointing", example="ReasonSeg/val reasonseg_val.parquet --split val")
def convert(
    folder: Annotated[Path, "Folder of x.jpg and x.json (that of a split), or that of all splits."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of a folder of images and json files."""
    if (folder / options.split).is_dir():
        folder = folder / options.split
    files = sorted(folder.glob("*.json"))
    if not files:
        raise RowsError(f"{folder}: no json file in it; needs ReasonSeg/train, or ReasonSeg and --split")
    items = ledger.each(_items_of, ((path, options, ledger) for path in files))
    return Reading(items=items, files=files, name=folder.name, allow_none=bool(options.negatives))
