"""Open Images boxes -> parquet rows for verl: detection (a category list), grounding, counting (one phrase).

    visionr1 convert openimages validation-annotations-bbox.csv class-descriptions-boxable.csv validation \\
        openimages_val.parquet --split val --hierarchy bbox_labels_600_hierarchy.json \\
        --labels validation-annotations-human-imagelabels-boxable.csv

    oidv6-train-annotations-bbox.csv                        ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,...
    class-descriptions-boxable.csv                          /m/011k07,Tortoise (V7 has a header)
    train-annotations-human-imagelabels-boxable.csv         ImageID,Source,LabelName,Confidence: 1 there, 0 not there
    bbox_labels_600_hierarchy.json                          a tree of LabelName, Subcategory, Part
    train/000026e7ee790996.jpg                              anywhere below the folder of images; the name is the ImageID

On each image only some classes were checked. Without `--labels` these are the classes with a box on it. With `--labels`
they include classes verified as absent; classes verified as present but without a box are not asked for. Boxes are
drawn for the most specific class: with `--hierarchy` no class is asked for on an image with one of its subclasses (a
dog's box implies an animal without a box). So give both files.

Boxes are fractions of the stored pixels. `Rotation` (in the csv of image ids) applies to the display of image *and*
boxes; neither is rotated here. A group box (IsGroupOf 1) is a region to ignore; depictions, occluded and truncated
objects are normal objects. `annotation_ids` of rows are line numbers of the csv.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource
from verl_visionr1.conversion.image_files import files_in
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.planning import BOX_TASKS, VocabularyFlags, plan_reading
from verl_visionr1.conversion.sources import read_csv, read_json
from verl_visionr1.conversion.vocabulary import LEFT_OUT, AnnotatedImage, Annotations, Columns, named_once
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import boxes_to_upright, read_size, upright_size

SIDES = ("XMin", "YMin", "XMax", "YMax")
"""Columns of a box, in our order; the file has XMin, XMax, YMin, YMax."""
HEADER = ("LabelName", "DisplayName")
"""Header of V7's file of classes; earlier versions have none."""


@dataclass(frozen=True, kw_only=True)
class Options(VocabularyFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/openimages_{task}"
    labels: Annotated[Path | None, "Human-verified image-level labels (csv), for absent classes."] = None
    hierarchy: Annotated[
        Path | None, "Tree of classes (json): ancestors of a class in the image are not asked for."
    ] = None
    partial: Annotated[bool, "The folder has only some of the images; leave out the others."] = False


def read_openimages(boxes: Path, classes: Path, images_dir: Path, options: Options, ledger: Ledger) -> Annotations:
    """Read and check the csv files; image sizes are read from the headers of the image files."""
    names, place_of = _classes(classes, ledger)
    columns = options.columns(boxes.name, names, ledger, NAMED["xyxy-norm1"])
    images = _Images(columns, images_dir, options.partial)
    for line, record in _table(boxes, ("ImageID", "LabelName", *SIDES, "IsGroupOf"), ledger):
        with ledger.skipping():
            _add_box(line, record, columns, images, place_of)
    there, absent = defaultdict[int, set[int]](set), defaultdict[int, set[int]](set)
    if options.labels is not None:
        for number, place, is_there in _labels(options.labels, images, place_of, ledger):
            (there if is_there else absent)[number].add(place)
    above = _ancestors(options.hierarchy, place_of) if options.hierarchy is not None else {}
    return _with_checked(columns.finish(), there, absent, above, ledger)


def _table(path: Path, needed: Sequence[str], ledger: Ledger) -> Iterator[tuple[int, dict[str, str]]]:
    for number, (line, record) in enumerate(read_csv(path)):
        if isinstance(record, RowError):
            ledger.skip(record)
            continue
        missing = [name for name in needed if name not in record]
        if number == 0 and missing:
            raise RowsError(f"{path}: no column {missing[0]}; it has {', '.join(record)[:100]}; is it the right file?")
        yield line, record


def _classes(path: Path, ledger: Ledger) -> tuple[list[str], dict[str, int]]:
    """Return display names, each once, and the index of each LabelName among them."""
    name_of: dict[str, str] = {}
    for line, record in read_csv(path, HEADER):
        label, name = ("", "") if isinstance(record, RowError) else (record[key].strip() for key in HEADER)
        if line == 1 and (label, name) == HEADER:
            continue
        if not label.startswith("/") or not name:
            shown = str(record)[:80]
            raise RowsError(f"{path}: line {line}: {shown}: needs lines as '/m/011k07,Tortoise'; is it the right file?")
        name_of[label] = name
    names, places = named_once(list(name_of.values()), ledger)
    return names, dict(zip(name_of, places, strict=True))


class _Images:
    """The images of the csv files, added to the columns on first use.

    Attributes:
        orientation: EXIF orientation of images that are not stored upright.
    """

    def __init__(self, columns: Columns, images_dir: Path, partial: bool) -> None:
        self.columns, self.images_dir, self.partial = columns, images_dir, partial
        self.orientation: dict[int, int] = {}
        self._files_of: dict[str, list[str]] = defaultdict(list)
        for name in files_in(images_dir):
            self._files_of[PurePosixPath(name).stem].append(name)

    def has_file(self, image_id: str) -> bool:
        """Whether the folder has this image."""
        return image_id in self._files_of

    def number_of(self, image_id: str, where: str) -> int:
        """Return the number of an image, or `LEFT_OUT`."""
        if image_id not in self.columns.number_of:
            self.columns.leave_out(image_id)  # in case it fails
            self._add(image_id, where)
        return self.columns.number_of[image_id]

    def _add(self, image_id: str, where: str) -> None:
        names = self._files_of.get(image_id, [])
        if self.columns.excludes(image_id, names[0] if len(names) == 1 else f"{image_id}.jpg"):
            return
        if self.partial and not names:
            self.columns.ledger.left_out["image that is not in the folder (--partial)"] += 1
            return
        if not names:
            reason = f"no {image_id}.jpg in or below {self.images_dir}"
            raise RowError("image file missing", f"{where}: {reason}; check IMAGES_DIR, or give --partial")
        if len(names) > 1:
            reason = f"several files are named {image_id} below {self.images_dir}"
            raise RowError("two images of one name", f"{where}: {reason}; remove all but one")
        path = self.images_dir.absolute() / names[0]
        size_wh, orientation = read_size(path)
        entry = AnnotatedImage(image_id, names[0], path, upright_size(size_wh, orientation))
        number = self.columns.add_image(entry)
        if orientation != 1:
            self.orientation[number] = orientation

    def upright(self, box: list[float], image: int) -> list[float]:
        """Rotate a box from the stored pixels with its image; both in the convention of the source."""
        orientation, convention = self.orientation.get(image, 1), self.columns.convention
        if orientation == 1:
            return box
        stored_wh = upright_size(self.columns.images[image].size_wh, orientation)  # rotated back
        width, height = convention.fixed_wh or stored_wh
        (turned,) = boxes_to_upright([tuple(convention.as_corners(box))], orientation, (int(width), int(height)))
        return convention.as_written(turned)


def _add_box(
    line: int, record: Mapping[str, str], columns: Columns, images: _Images, place_of: Mapping[str, int]
) -> None:
    where = f"{columns.name}: line {line}"
    image = images.number_of(record["ImageID"], where)
    if image == LEFT_OUT:
        columns.ledger.left_out["box of an image left out"] += 1
        return
    place = place_of.get(record["LabelName"])
    if place is None:
        reason = f"LabelName {record['LabelName']!r} is not in the file of classes"
        raise RowError("unknown class", f"{where}: {reason}; use the file of the same version")
    written = ", ".join(f"{side} {record[side] or 'missing'}" for side in SIDES)
    try:
        box = [float(record[side]) for side in SIDES]
    except ValueError:
        columns.add(image, place, None, line, written=written)
        return
    is_group = record["IsGroupOf"].strip()
    columns.ledger.notes["box that may be a group (IsGroupOf -1): used as one object"] += is_group == "-1"
    mark = "IsGroupOf" if is_group == "1" else ""
    columns.add(image, place, images.upright(box, image), line, mark=mark, written=written)


def _labels(
    path: Path, images: _Images, place_of: Mapping[str, int], ledger: Ledger
) -> Iterator[tuple[int, int, bool]]:
    """Yield (number of the image, index of the class, whether present) of each verified image-level label."""
    for line, record in _table(path, ("ImageID", "LabelName", "Confidence"), ledger):
        where = f"{path.name}: line {line}"
        confidence = record["Confidence"].strip()
        if confidence not in ("0", "1", "0.0", "1.0"):
            reason = f"Confidence {confidence!r}: not a verified label"
            raise RowsError(f"{where}: {reason}; give the file of human-verified labels, with 0 and 1")
        place = place_of.get(record["LabelName"])
        if place is None:
            ledger.notes["image-level label of a class without boxes"] += 1
            continue
        if not images.has_file(record["ImageID"]):  # the file also has images without boxes
            ledger.left_out["image-level label of an image that is not in the folder"] += 1
            continue
        with ledger.skipping():
            image = images.number_of(record["ImageID"], where)
            if image != LEFT_OUT:
                yield image, place, float(confidence) == 1


class _Node(msgspec.Struct, rename="pascal"):
    """A class of the hierarchy. A subcategory is a kind of it; a part is not."""

    label_name: str
    subcategory: list[_Node] = msgspec.field(default_factory=list)
    part: list[_Node] = msgspec.field(default_factory=list)


def _ancestors(path: Path, place_of: Mapping[str, int]) -> dict[int, frozenset[int]]:
    """Return the indexes of all ancestors of each class; a class may occur several times in the tree."""
    above: dict[int, frozenset[int]] = defaultdict(frozenset)
    waiting: list[tuple[_Node, frozenset[int]]] = [(read_json(path, _Node), frozenset())]
    while waiting:
        node, ancestors = waiting.pop()
        place = place_of.get(node.label_name)
        if place is not None:
            above[place] |= ancestors
            ancestors |= {place}
        waiting += [(child, ancestors) for child in node.subcategory]
        waiting += [(part, frozenset()) for part in node.part]
    return {place: ancestors - {place} for place, ancestors in above.items()}


def _with_checked(
    data: Annotations,
    verified: Mapping[int, set[int]],
    absent: Mapping[int, set[int]],
    above: Mapping[int, frozenset[int]],
    ledger: Ledger,
) -> Annotations:
    """Return the images with the classes that may be asked for: from their boxes and their verified labels."""
    images = list(data.images)
    for number, image in enumerate(images):
        present, missing = data.categories_on(number), absent.get(number, set[int]())
        there = present | verified.get(number, set())
        ledger.notes["class verified as absent, but with a box: not asked for"] += len(there & missing)
        implied = frozenset[int]().union(*(above.get(place, ()) for place in there))
        images[number] = replace(image, checked=present | missing, unsure=image.unsure | implied | (there & missing))
    return replace(data, images=images)


@converter(
    *BOX_TASKS, example="train-annotations-bbox.csv class-descriptions-boxable.csv train openimages.parquet --partial"
)
def convert(
    boxes: Annotated[Path, "*-annotations-bbox.csv."],
    classes: Annotated[Path, "class-descriptions-boxable.csv."],
    images_dir: Annotated[Path, "Folder with <ImageID>.jpg, at any depth."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of the csv files."""
    data = read_openimages(boxes, classes, images_dir, options, ledger)
    files = [path for path in (boxes, classes, options.labels, options.hierarchy) if path is not None]
    return plan_reading(data, options, ledger, files)
