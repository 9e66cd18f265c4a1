"""FSC-147 -> parquet rows for verl: counting and pointing, one class per image.

    visionr1 convert fsc147 annotation_FSC147_384.json Train_Test_Val_FSC_147.json ImageClasses_FSC147.txt \\
        images_384_VarV2 fsc_train.parquet

The count is the number of points. They are in pixels of `images_384_VarV2`, whose images are 384 high; other images are
refused. The exemplar boxes (3 or more per image) are not the ground truth, and are ignored. Classes are plurals ("sea
shells"; underscores become blanks), and disjoint between the splits train, val and test. FSCD-147's
`instances_{val,test}.json` (`--boxes`, COCO layout) has boxes of all objects. An image's boxes replace its points if
their number is equal and they enclose the points.

Counts range from 7 to 3731, hence `--max-instances` 50. Some images have several names, also across splits (arXiv
2205.10203); `visionr1 doctor train.parquet --val val.parquet` finds them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from verl_visionr1.boxes import Point
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.counts import CountFlags, points_inside
from verl_visionr1.conversion.flags import DataSource, MaxInstances
from verl_visionr1.conversion.image_files import find_image, require_images
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import read_json, read_lines
from verl_visionr1.conversion.values import points_of
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import read_size

Boxes = list[list[float]]
HEIGHT = 384
"""Height of the images in whose pixels the points are."""


@dataclass(frozen=True, kw_only=True)
class Options(CountFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/fsc147_{task}"
    max_instances: MaxInstances = 50
    boxes: Annotated[Path | None, "FSCD-147's instances_{val,test}.json: boxes of all objects."] = None


def _classes(path: Path) -> dict[str, str]:
    """Read file name -> class; each line has both, separated by a tab."""
    names: dict[str, str] = {}
    for line in read_lines(path):
        file_name, *rest = line.split("\t" if "\t" in line else None, 1)
        name = " ".join("".join(rest).replace("_", " ").split())
        if not name or names.setdefault(file_name.strip(), name) != name:
            raise RowsError(f"{path}: line {line.strip()[:80]!r}: needs a file name and its one class; correct it")
    return names


def _all_boxes(path: Path) -> dict[str, Boxes]:
    """Read file name -> its boxes as x1, y1, x2, y2; the file has x, y, width, height."""
    boxes: dict[str, Boxes] = defaultdict(list)
    document = read_json(path, dict[str, Any])
    try:
        name_of = {image["id"]: image["file_name"] for image in document["images"]}
        for annotation in document["annotations"]:
            x, y, width, height = map(float, annotation["bbox"])
            boxes[name_of[annotation["image_id"]]].append([x, y, x + width, y + height])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"not COCO's layout ({type(error).__name__}: {error})"
        raise RowsError(f"{path}: {reason}; is it instances_val.json or instances_test.json of FSCD-147?") from None
    return dict(boxes)


def _items(
    name: str,
    where: str,
    entry: Any,
    plural: str | None,
    boxes: Boxes,
    images_dir: Path,
    options: Options,
    ledger: Ledger,
) -> Iterator[Item]:
    """Yield the rows of an image; `entry` is its annotation, and `plural` the class to count."""
    path = find_image(images_dir, name, where)
    if not isinstance(entry, dict) or plural is None:
        missing = "annotation" if plural is not None else "class"
        raise RowError(f"image without {missing}", f"{where}: it is in the split, but has no {missing}; correct it")
    points = points_of(entry.get("points"), where)
    size_wh, _ = read_size(path)
    _check_frame(where, entry, size_wh)
    boxes = _fitting_boxes(boxes, points, ledger)
    for task in options.tasks:
        places = points if task == "pointing" else [] if boxes else points_inside(points, size_wh, ledger)
        yield Item(
            where=where,
            image=path,
            task=task,
            phrases=(plural,),
            question=options.how_many(plural, task),
            boxes_xyxy=boxes if task == "counting" else [],
            points_xy=places,
            count=len(points),
            image_id=name.partition(".")[0],
            file_name=name,
            source_ann={"file": where.partition(":")[0]},
        )


def _check_frame(where: str, entry: Mapping[str, Any], size_wh: tuple[int, int]) -> None:
    """Refuse an image whose size differs from the frame of the points."""
    if size_wh[1] == HEIGHT:
        return
    pairs = [(entry.get("W"), entry.get("ratio_w")), (entry.get("H"), entry.get("ratio_h"))]
    numbers = (int, float)
    scaled = [side * ratio for side, ratio in pairs if isinstance(side, numbers) and isinstance(ratio, numbers)]
    if len(scaled) == 2 and all(abs(scaled[i] - size_wh[i]) <= 1 for i in (0, 1)):
        return
    reason = f"the image is {size_wh[0]} x {size_wh[1]}, but the points are in pixels of an image {HEIGHT} pixels high"
    raise RowError("image of another size", f"{where}: {reason}; use images_384_VarV2")


def _fitting_boxes(boxes: Boxes, points: list[Point], ledger: Ledger) -> Boxes:
    """Return the boxes if there is one for each point and most enclose one; else none."""
    held = sum(any(x1 <= x <= x2 and y1 <= y <= y2 for x, y in points) for x1, y1, x2, y2 in boxes)
    if len(boxes) == len(points) and 2 * held > len(boxes):
        return boxes
    if boxes:
        ledger.notes["boxes that do not fit the points of their image: points used"] += len(boxes)
    return []


@converter(
    "counting",
    "pointing",
    example="annotation_FSC147_384.json Train_Test_Val_FSC_147.json ImageClasses_FSC147.txt images_384_VarV2 a.parquet",
)
def convert(
    annotations: Annotated[Path, "annotation_FSC147_384.json."],
    splits: Annotated[Path, "Train_Test_Val_FSC_147.json."],
    classes: Annotated[Path, "ImageClasses_FSC147.txt."],
    images_dir: Annotated[Path, "images_384_VarV2."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of a split."""
    require_images(images_dir)
    entries, names_of = read_json(annotations, dict[str, Any]), read_json(splits, dict[str, list[str]])
    plurals, boxes = _classes(classes), _all_boxes(options.boxes) if options.boxes else {}
    names = names_of.get(options.split)
    if names is None:
        raise RowsError(f"--split {options.split}: not in the splits file; give one of {', '.join(names_of)}")
    facts = (
        (name, f"{annotations.name}: {name!r}", entries.get(name), plurals.get(name), boxes.get(name, []))
        for name in names
    )
    items = ledger.each(_items, ((*it, images_dir, options, ledger) for it in facts))
    files = [annotations, splits, classes, *filter(None, [options.boxes])]
    return Reading(items=items, files=files, total=len(names) * len(options.tasks))
