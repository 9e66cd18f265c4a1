"""Visual Genome's region descriptions -> parquet rows for verl: grounding of phrases.

    visionr1 convert visual_genome region_descriptions.json images vg.parquet --image-data image_data.json \\
        --limit 50000 --on-error skip

Needs `region_descriptions.json` and `image_data.json` as distributed (versions 1.0 to 1.4), and one folder with
`VG_100K/` and `VG_100K_2/` (the two image archives), or with their images together. Regions are whole-pixel xywh in the
frame of Visual Genome's own image files. About half of the images are also in COCO, at another resolution, so COCO's
copies are refused.

`image_data.json` has the folder, the size and the COCO id of each image (`coco_id`); exclusion lists of COCO-based test
sets need that id. Without the file, both folders are searched, sizes are read from the images, and a list with COCO
images is refused.

Regions were described separately, so a phrase ("a window") often fits several regions of its image. By default such
phrases are left out. A phrase that was written once may still fit other objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from verl_visionr1.boxes import Box, iou
from verl_visionr1.conversion.coco_json import decoded
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import BoxFlags, DataSource
from verl_visionr1.conversion.image_files import find_image, require_images
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import read_json
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.targets import normalize_label

FOLDERS = ("VG_100K", "VG_100K_2")
SAME_IOU = 0.7
"""Regions of one phrase with at least this IoU are one object: the first is used."""
_REGIONS = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, kw_only=True)
class Options(BoxFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/visual_genome"
    repeats: Annotated[
        Literal["drop", "merge"],
        "A phrase of several regions of an image: drop it, or merge them into a row with several boxes.",
    ] = "drop"
    image_data: Annotated[Path | None, "image_data.json: folder, size and COCO number of each image."] = None


class ImageData(msgspec.Struct, gc=False):
    """An entry of image_data.json; version 1.0 calls the number `id`."""

    image_id: int | None = None
    id: int | None = None
    url: str = ""
    width: int | None = None
    height: int | None = None
    coco_id: int | None = None


class _ImageRegions(msgspec.Struct, gc=False):
    """An entry of region_descriptions.json; regions stay undecoded, so that a bad one affects no other."""

    regions: msgspec.Raw
    image_id: int | None = None
    id: int | None = None


class _Region(msgspec.Struct, gc=False):
    phrase: str
    x: float
    y: float
    width: float
    height: float
    region_id: int | None = None


_ENTRY, _REGION = msgspec.json.Decoder(_ImageRegions), msgspec.json.Decoder(_Region)


def _number_of(entry: ImageData | _ImageRegions) -> int | None:
    return entry.id if entry.image_id is None else entry.image_id


def _check_exclusion(options: Options, images: Mapping[int, ImageData] | None) -> None:
    """Refuse a list of COCO images if no COCO ids are known: it would leave nothing out."""
    if "coco" not in options.excluded.collections:
        return
    named = f"--exclude-image-ids {options.exclude_image_ids} lists ids of COCO images"
    if images is None:
        raise RowsError(f"{named}, but only image_data.json has COCO ids; add --image-data")
    if all(entry.coco_id is None for entry in images.values()):
        reason = f"no entry in {options.image_data} has a coco_id"
        raise RowsError(f"{named}, but {reason}; use Visual Genome's own image_data.json")


def _items(
    where: str,
    raw: msgspec.Raw,
    images: Mapping[int, ImageData] | None,
    images_dir: Path,
    options: Options,
    ledger: Ledger,
) -> Iterator[Item]:
    entry = decoded(_ENTRY.decode, raw, where)
    image_id = _number_of(entry)
    if image_id is None:
        raise RowError("image without id", f"{where}: needs an image_id or id; correct it")
    where = f"{where} (image {image_id})"
    image = _image(image_id, images, images_dir, where)
    regions: list[_Region] = []
    for i, region in enumerate(decoded(_REGIONS.decode, entry.regions, f"{where}: regions")):
        with ledger.skipping():
            regions.append(decoded(_REGION.decode, region, f"{where}: regions[{i}]"))
    yield from _items_of_image(regions, where, image, options, ledger)


def _image(image_id: int, images: Mapping[int, ImageData] | None, images_dir: Path, where: str) -> dict[str, Any]:
    """Return the fields shared by all items of an image."""
    if images is None:
        names = [f"{folder}/{image_id}.jpg" for folder in FOLDERS]
        file_name = next((name for name in names if os.path.exists(images_dir / name)), names[0])
        path = find_image(images_dir, file_name, where)
        return {"image": path, "image_id": str(image_id), "file_name": file_name}
    entry = images.get(image_id)
    if entry is None:
        raise RowError("unknown image_id", f"{where}: not in image_data.json; use the file of the same version")
    file_name = "/".join(entry.url.split("/")[-2:])  # https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg
    if not file_name or entry.width is None or entry.height is None:
        raise RowError("image without size or url", f"{where}: image_data.json lacks url, width or height; correct it")
    return {
        "image": find_image(images_dir, file_name, where),
        "image_id": str(image_id),
        "file_name": file_name,
        "annotated_wh": (entry.width, entry.height),
        "identities": () if entry.coco_id is None else (f"coco:{entry.coco_id}",),
    }


def _items_of_image(
    regions: list[_Region], where: str, image: dict[str, Any], options: Options, ledger: Ledger
) -> Iterator[Item]:
    """Yield one item for each phrase, in the order of their first regions."""
    written = options.convention("xywh-abs")
    by_phrase: dict[str, list[_Region]] = {}
    for region in regions:
        by_phrase.setdefault(normalize_label(_shown(region.phrase)), []).append(region)
    for group in by_phrase.values():
        boxes = [written.as_corners((it.x, it.y, it.width, it.height)) for it in group]
        objects = _objects([(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes])
        ledger.notes["region of the same phrase and nearly the same box dropped"] += len(group) - len(objects)
        if len(objects) > 1 and options.repeats == "drop":
            ledger.left_out["phrase that several regions of its image have (--repeats)"] += 1
            continue
        phrase = _shown(group[0].phrase)
        yield Item(
            where=f"{where}: region {group[0].region_id} {phrase!r}",
            task="grounding",
            phrases=(phrase,),
            written=written,
            boxes_xyxy=objects,
            source_ann={"region_ids": [region.region_id for region in group]},
            **image,
        )


def _objects(boxes: list[Box]) -> list[Box]:
    """Return boxes of one phrase without those that overlap an earlier one."""
    objects: list[Box] = []
    for box in boxes:
        if not any(box == other or iou(box, other) >= SAME_IOU for other in objects):
            objects.append(box)
    return objects


def _shown(phrase: str) -> str:
    """Normalize a phrase for the prompt: without surplus blanks and a final full stop.

    >>> _shown(" a cat  sitting on a table. ")
    'a cat sitting on a table'
    """
    return " ".join(phrase.split()).rstrip(" .")


@converter(
    "grounding",
    example="region_descriptions.json images vg.parquet --image-data image_data.json --limit 50000 --on-error skip",
)
def convert(
    regions: Annotated[Path, "region_descriptions.json."],
    images_dir: Annotated[Path, "Folder of VG_100K and VG_100K_2."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of region descriptions, which are decoded image by image, as rows are written."""
    require_images(images_dir)
    images, files = None, [regions]
    if (image_data := options.image_data) is not None:
        entries: list[ImageData] = read_json(image_data, list[ImageData])
        images = {number: entry for entry in entries if (number := _number_of(entry)) is not None}
        files.append(image_data)
    _check_exclusion(options, images)
    raws = ((f"{regions.name}: entry {i}", raw) for i, raw in enumerate(read_json(regions, list[msgspec.Raw])))
    items = ledger.each(_items, ((*it, images, images_dir, options, ledger) for it in raws))
    return Reading(items=items, files=files)
