"""ScreenSpot and related data sets -> parquet rows for verl: one click on a screenshot, or the box of the element.

    visionr1 convert screenspot screenspot_mobile.json screenspot_web.json clicks.parquet --images-dir imgs
    visionr1 convert screenspot test-00000-of-00002.parquet clicks.parquet

The preset `gui-click` scores a click (inside the element's box): `data_source: {visionr1/screenspot*: gui-click}` in
the reward's configuration.

The keys determine the layout and its box format (`--box-format` overrides it):

    ScreenSpot v1, v2   json with data_type, data_source         x, y, width, height in pixels       xywh-abs
    ScreenSpot-Pro      json with img_size                       x1, y1, x2, y2 in pixels            xyxy-abs
    SeeClick            json of img_filename, instruction, bbox; x1, y1, x2, y2 as fractions (0-1)   xyxy-norm1
                        its web data: a list of elements for each image
    ScreenSpot on HF    parquet with bbox and the image's bytes  x1, y1, x2, y2 as fractions         xyxy-norm1

GUI-R1's rows (gt_bbox) are read by `visionr1 convert records --preset gui-r1`, with the same prompts.

Assumption, not stated on any card: newer revisions of the parquet on HF have fractions (older ones whole pixels). The
numbers of each file are checked: one in another format is refused, also with `--on-error skip`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from verl_visionr1.conversion.box_check import MOST_CLIPPED
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import BoxFlags, DataSource, checked_format
from verl_visionr1.conversion.image_files import embedded_image, find_image, require_images
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import read_json, read_records
from verl_visionr1.conversion.values import is_numbers, numbers_of, record_of, size_of, text_of
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import EmbeddedImage

_MISFIT = "box in another format than its file"


@dataclass(frozen=True, kw_only=True)
class Options(BoxFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/screenspot_{task}"
    task: Annotated[Literal["pointing", "grounding"], "pointing: where to click; grounding: the element's box."] = (
        "pointing"
    )
    images_dir: Annotated[Path | None, "Folder that img_filename is relative to; parquet files embed their images."] = (
        None
    )

    def format_of(self, task: str) -> str:
        """As `Flags.format_of`; a click is one point, for `gui-click`."""
        return checked_format("--answer-format", self.answer_format or ("point" if task == "pointing" else None), task)


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, element); a long json list is decoded entry by entry, and a web page has several elements."""
    records = read_records(path)
    if path.suffix.lower() == ".json":
        raws = enumerate(read_json(path, list[msgspec.Raw]))
        records = ((f"{path.name}: entry {number}", msgspec.json.decode(raw)) for number, raw in raws)
    for where, record in records:
        if not isinstance(record, dict) or not isinstance(record.get("elements"), list):
            yield where, record
            continue
        inherited = {"img_filename": record.get("img_filename"), "elements": True}
        for number, element in enumerate(record["elements"]):
            part = f"{where}: element {number}"
            yield part, {**element, **inherited} if isinstance(element, dict) else element


def _items_of(path: Path, options: Options, ledger: Ledger) -> Iterator[Item]:
    n_items, before = 0, ledger.skipped[_MISFIT]
    for item in ledger.each(_items, ((where, record, options) for where, record in _entries(path))):
        n_items += 1
        yield item
    misfits = ledger.skipped[_MISFIT] - before
    if misfits > max(1, MOST_CLIPPED * (n_items + misfits)):
        first = next(
            (line for line in ledger.listed if line.startswith(path.name) and "--box-format" in line), path.name
        )
        raise RowsError(f"{misfits} of {n_items + misfits} boxes: the file has another box format. The first: {first}")


def _items(where: str, record: Any, options: Options) -> Iterator[Item]:
    record = record_of(record, where)
    if "gt_bbox" in record:
        reason = "gt_bbox: rows of GUI-R1; convert them with `visionr1 convert records --preset gui-r1`"
        raise RowsError(f"{where}: {reason}")
    instruction = text_of(record, ["instruction"], where)
    written = options.convention(options.box_format or _format_by_keys(where, record))
    numbers = numbers_of(record.get("bbox"), 4, where)
    if written.unit == "pixels" and max(numbers) <= 1:
        reason = f"all its numbers are between 0 and 1, but {written.name} is in pixels"
        advice = "correct it; if the whole file has fractions, give --box-format xyxy-norm1"
        raise RowError(_MISFIT, f"{where}: box {numbers}: {reason}; {advice}")
    file_name = record.get("img_filename") or record.get("file_name") or ""
    verb = "Click on" if options.task == "pointing" else "Locate"
    yield Item(
        where=where,
        image=_image(where, record, options.images_dir),
        task=options.task,
        phrases=(instruction,),
        # a user's template gets the bare instruction
        question=None if options.prompt_template else f'{verb} the element: "{instruction}".',
        annotated_wh=_image_size(record.get("img_size"), where),
        written=written,
        boxes_xyxy=[written.as_corners(numbers)],
        image_id=str(record.get("id") or file_name),
        file_name=str(file_name),
        source_ann={key: record[key] for key in ("data_type", "data_source", "ui_type", "platform") if key in record},
    )


def _format_by_keys(where: str, record: Mapping[str, Any]) -> str:
    if "img_size" in record:
        return "xyxy-abs"
    if "elements" in record or not isinstance(record.get("image", ""), str):
        return "xyxy-norm1"
    if "img_filename" in record:
        return "xywh-abs" if "data_type" in record and "data_source" in record else "xyxy-norm1"
    reason = f"keys {', '.join(sorted(record))[:120]}: not of a known layout"
    raise RowError("unknown layout", f"{where}: {reason}; give --box-format")


def _image(where: str, record: Mapping[str, Any], images_dir: Path | None) -> Path | EmbeddedImage:
    name = record.get("img_filename")
    if not isinstance(name, str) or not name:
        return embedded_image(record.get("image") or record.get("file_name"), where, images_dir)
    if images_dir is None:
        raise RowsError(f"{where}: img_filename {name!r}: the images are files; add --images-dir")
    return find_image(images_dir, name, where)


def _image_size(value: Any, where: str) -> tuple[int, int] | None:
    width, height = value if is_numbers(value, 2) else (value, None)
    return size_of(width, height, f"{where}: img_size")


@converter("pointing", "grounding", example="screenspot_desktop.json clicks.parquet --images-dir screenspot_imgs")
def convert(annotations: Annotated[list[Path], "json or parquet files."], options: Options, ledger: Ledger) -> Reading:
    """The rows of annotation files."""
    if options.images_dir is not None:
        require_images(options.images_dir, "--images-dir")
    items = (item for path in annotations for item in _items_of(path, options, ledger))
    return Reading(items=items, files=annotations)
