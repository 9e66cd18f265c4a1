"""YOLO label files -> parquet rows for verl: detection (a category list), grounding, counting (one phrase).

    visionr1 convert yolo data.yaml yolo_train.parquet --split train
    visionr1 convert yolo obj.names yolo_train.parquet --images train.txt

    data.yaml                  names (a list or a dictionary); train, val, test: folders of images, or lists of them
    images/train/a.jpg         Ultralytics; train/images/a.jpg (Roboflow)
    labels/train/a.txt                      train/labels/a.txt
    obj_train_data/a.jpg, .txt darknet, CVAT: without a folder `images`, labels are beside the images

A line is `class cx cy w h`, or a polygon `class x1 y1 x2 y2 x3 y3 ...`, which is converted to its bounding box. Numbers
are fractions of the upright image, after EXIF orientation. If data.yaml has `kpt_shape`, key points follow the box and
are not read as a polygon. An image without a label file has no objects (`--min-instances 0` or `--negatives` ask for
it); a set without any label file is refused.

Paths in data.yaml are relative to its `path`, and that to the yaml's folder; if `path` does not exist (it is often from
another machine), to the yaml's folder. Roboflow's `../train/images` is found without its `../`. Lines of an image list
must be inside its folder or the data set's; absolute paths are searched there by their end.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from verl_visionr1.conversion.conventions import NAMED, Convention
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource
from verl_visionr1.conversion.identity import path_name
from verl_visionr1.conversion.image_files import files_in, find_below, find_image
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.planning import BOX_TASKS, VocabularyFlags, plan_reading
from verl_visionr1.conversion.sources import read_lines
from verl_visionr1.conversion.vocabulary import AnnotatedImage, Annotations, Columns, named_once
from verl_visionr1.conversion.yolo_yaml import Description, describe
from verl_visionr1.files import RowError, RowsError, read_bytes
from verl_visionr1.images import read_size, upright_size


@dataclass(frozen=True, kw_only=True)
class Options(VocabularyFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/yolo_{task}"
    images: Annotated[
        Path | None, "Folder of images, or image list (.txt), instead of the split's entry in data.yaml."
    ] = None
    labels: Annotated[Path | None, "Folder of label files. Default: images/ in a path becomes labels/."] = None


class _Listed(NamedTuple):
    """An image of the split: its path, its name in the data set, and its label file."""

    path: Path
    file_name: str
    labels: Path


def _of_split(described: Description, options: Options, ledger: Ledger) -> Iterator[_Listed]:
    """Yield the images of the split, each once."""
    seen: set[Path] = set()
    for images in described.images:
        if images.is_file():
            found = _in_list(images, described.root, ledger)
        else:
            found = ((images.absolute() / name, name) for name in files_in(images))
        for path, name in found:
            if path in seen:
                ledger.notes["image listed again"] += 1
                continue
            seen.add(path)
            file_name = os.path.relpath(path, described.root.absolute()).replace(os.sep, "/")
            file_name = name if file_name.startswith("..") else file_name
            yield _Listed(path, file_name, _labels_of(path, name, options.labels))


def _in_list(path: Path, root: Path, ledger: Ledger) -> Iterator[tuple[Path, str]]:
    """Yield (path, name) of each line of an image list, searched in the list's and the data set's folder."""
    for name in map(str.strip, read_lines(path)):
        with ledger.skipping():
            found = find_below(path.parent, name) or find_below(root, name)
            yield found or find_image(path.parent, name, f"{path.name}: {name!r}"), path_name(name)


def _labels_of(image: Path, name: str, folder: Path | None) -> Path:
    """Return the label file of an image: in a given folder, or by YOLO's rule (the last `images` becomes `labels`)."""
    if folder is not None:
        return find_below(folder, f"{os.path.splitext(name)[0]}.txt") or folder / f"{image.stem}.txt"
    folders, found, rest = str(image.with_suffix(".txt")).rpartition(f"{os.sep}images{os.sep}")
    path = Path(f"{folders}{os.sep}labels{os.sep}{rest}") if found else Path(rest)
    return find_below(path.parent, path.name) or path


def read_yolo(
    name: str, described: Description, listed: list[_Listed], options: Options, ledger: Ledger
) -> Annotations:
    """Read and check the label files of some images.

    Args:
        name: of the source, for messages.
    """
    if not listed:
        raise RowsError(f"{', '.join(map(str, described.images))}: no images found; check the paths")
    if not any(it.labels.is_file() for it in listed):
        reason = f"none of {len(listed)} images has a label file, for example {listed[0].labels}"
        raise RowsError(f"{name}: {reason}; check the folders, or give --labels")
    names, places = named_once(list(described.names.values()), ledger)
    place_of = dict(zip(described.names, places, strict=True))
    columns = options.columns(name, names, ledger, NAMED["cxcywh-norm1"])
    owners: dict[Path, list[Path]] = defaultdict(list)
    for it in listed:
        owners[it.labels].append(it.path)
    for it in listed:
        image_id = it.path.stem
        if columns.excludes(image_id, it.file_name):
            continue
        with ledger.skipping():
            _require_own(it, owners[it.labels])
            lines = _lines(it.labels)
            upright_wh = upright_size(*read_size(it.path))
            image = columns.add_image(AnnotatedImage(image_id, it.file_name, it.path, upright_wh))
            ledger.notes["image without a label file: nothing in it"] += lines is None
            for number, line in lines or ():
                with ledger.skipping():
                    where = f"{it.labels.parent.name}/{it.labels.name} line {number}"
                    _add_line(columns, image, place_of, where, line, described.key_points)
    _note_unused(listed, ledger)
    return columns.finish()


def _require_own(it: _Listed, owners: list[Path]) -> None:
    """Refuse a label file that belongs to several images."""
    if len(owners) > 1 and it.labels.is_file():
        other = next(path for path in owners if path != it.path)
        reason = f"its label file {it.labels} also belongs to {other}"
        advice = "give each image its own: rename one, or use the same folders for labels and images"
        raise RowError("label file of two images", f"{it.path}: {reason}; {advice}")


def _lines(path: Path) -> list[tuple[int, str]] | None:
    """Return the non-empty lines of a label file, counted from 1; None without a file."""
    if not path.is_file():
        return None
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise RowError("label file unreadable", f"{path}: not text: {error}; fetch it again") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _add_line(
    columns: Columns, image: int, place_of: dict[int, int], where: str, line: str, key_points: int | None
) -> None:
    shown = repr(line.strip() if len(line) < 100 else f"{line[:100]}...")
    blanks = "needs numbers separated by blanks; correct it"
    first, *others = line.split()
    kind, values = _number(first), [value for text in others if (value := _number(text)) is not None]
    if kind is None:
        raise RowError("malformed line", f"{where}: {shown}: {blanks}")
    if kind not in place_of:
        reason = f"class {kind:g} has no name (names are {min(place_of)} to {max(place_of)})"
        raise RowError("unknown class", f"{where}: {shown}: {reason}; correct it")
    place = place_of[int(kind)]
    box = _box(values, key_points, columns.convention) if len(values) == len(others) else None
    if box is not None:
        columns.add(image, place, box, where, written=shown)
        return
    layout = "cx cy w h, or class and three or more points"
    if key_points is not None:
        layout = f"cx cy w h and {key_points} numbers of key points"
    needed = f"{len(values) + 1} numbers: needs class {layout}; correct it"
    error = RowError("malformed line", needed if len(values) == len(others) else blanks)
    columns.refuse(image, place, where, error, written=shown)


def _number(text: str) -> float | None:
    """Parse a number, or return None."""
    try:
        return float(text)
    except ValueError:
        return None


def _box(values: list[float], key_points: int | None, convention: Convention) -> list[float] | None:
    """Return a line's box as written, or that of its polygon; None for another number of values."""
    if len(values) == 4 or (key_points is not None and len(values) == 4 + key_points):
        return values[:4]
    if key_points is not None or len(values) < 6 or len(values) % 2:
        return None
    xs, ys = values[::2], values[1::2]
    return convention.as_written([min(xs), min(ys), max(xs), max(ys)])


def _note_unused(listed: list[_Listed], ledger: Ledger) -> None:
    """Count label files, in the folders of those read, that belong to no image."""
    used = {it.labels for it in listed}
    folders = {it.labels.parent for it in listed} - {it.path.parent for it in listed}
    files = (path for folder in sorted(folders) for path in folder.glob("*.txt") if path.name != "classes.txt")
    ledger.notes["label file of no image of the split"] += sum(path not in used for path in files)


@converter(*BOX_TASKS, example="coco128/data.yaml yolo_train.parquet --task grounding")
def convert(
    source: Annotated[Path, "data.yaml, or a file of names, one per line."], options: Options, ledger: Ledger
) -> Reading:
    """The rows of a data set's description."""
    described = describe(source, options.split, options.images)
    listed = list(_of_split(described, options, ledger))
    data = read_yolo(source.name, described, listed, options, ledger)
    return plan_reading(data, options, ledger, [source, *(it.labels for it in listed if it.labels.is_file())])
