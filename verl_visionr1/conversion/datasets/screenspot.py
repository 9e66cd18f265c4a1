"""ScreenSpot and related data sets -> parquet rows for verl: one click on a screenshot, or the box of the element.

    visionr1 convert screenspot screenspot_mobile.json screenspot_web.json clicks.parquet --images-dir imgs
    visionr1 convert screenspot test-00000-of-00002.parquet clicks.parquet

The preset `gui-click` scores a click (inside the element's box): `data_source: {visionr1/screenspot*: gui-click}` in
the reward's configuration.

The keys determine the layout and its box format (`--box-format` overrides it):

    ScreenSpot v1, v2   json with data_type, data_source         x, y, width, height in pixels       xywh
    ScreenSpot-Pro      json with img_size                       x1, y1, x2, y2 in pixels            xyxy
    SeeClick            json of img_filename, instruction, bbox; x1, y1, x2, y2 as fractions (0-1)   fractions
                        its web data: a list of elements for each image
    ScreenSpot on HF    parquet with bbox and the image's bytes  x1, y1, x2, y2 as fractions         fractions

GUI-R1's rows (gt_bbox) are read by `visionr1 convert records --preset gui-r1`, with the same prompts.

Assumption, not stated on any card: newer revisions of the parquet on HF have fractions (older ones whole pixels).
Therefore numbers are checked against the screenshot: boxes that contradict the table are errors, and a file with many
of them is refused, also with `--on-error skip`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource, Flags, checked_format
from verl_visionr1.conversion.image_files import embedded_image, find_image, require_images
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import read_json, read_records
from verl_visionr1.conversion.values import is_numbers, numbers_of, record_of, size_of, text_of
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import EmbeddedImage, read_size

FORMATS = {"xywh": NAMED["xywh-abs"], "xyxy": NAMED["xyxy-abs"], "fractions": NAMED["xyxy-norm1"]}
"""Names of `--box-format` -> box conventions."""
MISFIT = "box in another format than its file"
MOST_MISFITS = 0.05
"""Above this share of misfits, the file has another format."""
_PIXELS_OVER, _FRACTIONS_OVER = 0.05, 1.0  # crawled pages have elements off-screen
"""How far over the edge, in sides of the image, a box may extend and still be clipped."""


@dataclass(frozen=True, kw_only=True)
class Options(Flags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/screenspot_{task}"
    task: Annotated[Literal["pointing", "grounding"], "pointing: where to click; grounding: the element's box."] = (
        "pointing"
    )
    box_format: Annotated[
        Literal["xywh", "xyxy", "fractions"] | None,
        "Box format: pixels (xywh, xyxy), or fractions (x1 y1 x2 y2, 0-1). Default: by the keys.",
    ] = None

    images_dir: Annotated[Path | None, "Folder that img_filename is relative to; parquet files embed their images."] = (
        None
    )

    def format_of(self, task: str) -> str:
        """As `Flags.format_of`; a click is one point, for `gui-click`."""
        return checked_format("--answer-format", self.answer_format or ("point" if task == "pointing" else None), task)


# ---------------------------------------------------------------------------------------------- entries


def _items(path: Path, images_dir: Path | None, options: Options, ledger: Ledger) -> Iterator[Item]:
    n_entries, misfits_before = 0, ledger.skipped[MISFIT]
    for where, record in _records(path):
        for part, element in _elements(where, record):
            n_entries += 1
            with ledger.skipping():
                yield _item(part, element, images_dir, options)
    misfits = ledger.skipped[MISFIT] - misfits_before
    if misfits > max(1, MOST_MISFITS * n_entries):
        first = next(line for line in ledger.listed if line.startswith(path.name) and "--box-format" in line)
        raise RowsError(f"{misfits} of {n_entries} boxes: the file has another box format. The first: {first}")


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, record); a long json list is decoded entry by entry."""
    if path.suffix.lower() != ".json":
        yield from read_records(path)
        return
    for number, raw in enumerate(read_json(path, list[msgspec.Raw])):
        yield f"{path.name}: entry {number}", msgspec.json.decode(raw)


def _elements(where: str, record: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entry itself, or each element of a web page."""
    if isinstance(record, dict) and isinstance(record.get("elements"), list):
        for number, element in enumerate(record["elements"]):
            inherited = {"img_filename": record.get("img_filename"), "elements": True}
            part = f"{where}: element {number}"
            yield part, {**element, **inherited} if isinstance(element, dict) else element
    else:
        yield where, record


def _item(where: str, record: Any, images_dir: Path | None, options: Options) -> Item:
    """Make the item of an entry."""
    record = record_of(record, where)
    if "gt_bbox" in record:
        reason = "gt_bbox: rows of GUI-R1; convert them with `visionr1 convert records --preset gui-r1`"
        raise RowsError(f"{where}: {reason}")
    instruction = text_of(record, ["instruction"], where)
    written = options.box_format or _format_by_keys(where, record)
    image = _image(where, record, images_dir)
    numbers = numbers_of(record.get("bbox"), 4, where)
    annotated_wh = _image_size(record.get("img_size"), where)
    size_wh = (1, 1) if written == "fractions" else annotated_wh or _size_of(where, image)
    file_name = record.get("img_filename") or record.get("file_name") or ""
    verb = "Click on" if options.task == "pointing" else "Locate"
    return Item(
        where=where,
        image=image,
        task=options.task,
        phrases=(instruction,),
        # a user's template gets the bare instruction
        question=None if options.prompt_template else f'{verb} the element: "{instruction}".',
        annotated_wh=annotated_wh,
        whole_wh=(1, 1) if written == "fractions" else None,
        boxes_xyxy=[_place(where, numbers, written, size_wh)],
        image_id=str(record.get("id") or file_name),
        file_name=str(file_name),
        source_ann={key: record[key] for key in ("data_type", "data_source", "ui_type", "platform") if key in record},
    )


def _format_by_keys(where: str, record: Mapping[str, Any]) -> str:
    if "img_size" in record:
        return "xyxy"
    if "elements" in record or not isinstance(record.get("image", ""), str):
        return "fractions"
    if "img_filename" in record:
        return "xywh" if "data_type" in record and "data_source" in record else "fractions"
    reason = f"keys {', '.join(sorted(record))[:120]}: not of a known layout"
    raise RowError("unknown layout", f"{where}: {reason}; give --box-format")


def _image(where: str, record: Mapping[str, Any], images_dir: Path | None) -> Path | EmbeddedImage:
    name = record.get("img_filename")
    if not isinstance(name, str) or not name:
        return embedded_image(record.get("image") or record.get("file_name"), where, images_dir)
    if images_dir is None:
        raise RowsError(f"{where}: img_filename {name!r}: the images are files; add --images-dir")
    return find_image(images_dir, name, where)


# ---------------------------------------------------------------------------------------------- places


def _image_size(value: Any, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    width, height = value if is_numbers(value, 2) else (value, None)
    return size_of(width, height, f"{where}: img_size")


def _place(where: str, numbers: list[float], written: str, size_wh: tuple[int, int]) -> list[float]:
    """Convert to x1, y1, x2, y2 in the file's unit, in which the whole image is `size_wh`."""
    place = FORMATS[written].as_corners(numbers)
    xs, ys = place[0::2], place[1::2]
    sides = [x / size_wh[0] for x in xs] + [y / size_wh[1] for y in ys]
    in_pixels = written != "fractions"
    over = _PIXELS_OVER if in_pixels else _FRACTIONS_OVER
    reason = None
    if not all(-over <= side <= 1 + over for side in sides):
        outside = f"it extends outside the image of {size_wh[0]} x {size_wh[1]}"
        reason = outside if in_pixels else "it extends far outside 0-1"
    elif xs[0] > xs[-1] or ys[0] > ys[-1]:
        reason = "its corners are in the wrong order"
    elif in_pixels and max(numbers) <= 1:
        reason = "all numbers are within 0-1"
    if reason is not None:
        others = ", ".join(other for other in FORMATS if other != written)
        advice = f"correct it; if the whole file has another box format, give --box-format ({others})"
        raise RowError(MISFIT, f"{where}: box {numbers} is not {written}: {reason}; {advice}")
    return place


def _size_of(where: str, image: Path | EmbeddedImage) -> tuple[int, int]:
    try:
        return read_size(image)[0]
    except RowError as error:
        raise RowError(error.kind, f"{where}: {error}") from None


@converter("pointing", "grounding", example="screenspot_desktop.json clicks.parquet --images-dir screenspot_imgs")
def convert(annotations: Annotated[list[Path], "json or parquet files."], options: Options, ledger: Ledger) -> Reading:
    """The rows of annotation files."""
    if options.images_dir is not None:
        require_images(options.images_dir, "--images-dir")
    items = (item for path in annotations for item in _items(path, options.images_dir, options, ledger))
    return Reading(items=items, files=annotations)
