"""Pascal VOC xml -> parquet rows for verl: detection (a category list), grounding, counting (one phrase).

    cd VOCdevkit/VOC2012
    visionr1 convert voc Annotations JPEGImages voc_train.parquet --split train

    VOCdevkit/VOC2012/Annotations/2007_000027.xml      one per image
                      JPEGImages/2007_000027.jpg       of the same name
                      ImageSets/Main/{train,val,trainval,test}.txt

If `ImageSets/Main` is beside the folder of xml files, `--split` names one of its lists, or `--image-list` gives
another. Otherwise (LabelImg, Roboflow, where xml files may be among the images) all xml files are used.

VOC counts pixels from 1 and its boxes include their last pixel, so xmin and ymin are shifted by one. LabelImg, CVAT and
Roboflow write VOC's xml with edges counted from 0, and the file does not show it: give `--zero-based`. (A 0 in a file
that is read as VOC's own is noted.) Objects marked difficult are regions to ignore, as in VOC's evaluation; the boxes
of `<part>`s (head, hand, foot) are no objects. An image is found by the name of its xml; `<filename>`, which is often
wrong, is used only if no image has that name. A missing size is read from the image.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Annotated, NamedTuple
from xml.etree.ElementTree import Element

from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource
from verl_visionr1.conversion.image_files import files_in, find_image, read_names, size_of_unturned
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.planning import BOX_TASKS, VocabularyFlags, plan_reading
from verl_visionr1.conversion.sources import read_lines, read_xml
from verl_visionr1.conversion.values import parsed_number
from verl_visionr1.conversion.vocabulary import AnnotatedImage, Annotations, named_once, visible_form
from verl_visionr1.files import RowError, RowsError

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, kw_only=True)
class Options(VocabularyFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/voc_{task}"
    zero_based: Annotated[bool, "The xml is from LabelImg, CVAT or Roboflow: edges counted from 0."] = False
    names: Annotated[
        Path | None,
        "File of the category names, one per line, in the order to ask. Default: those of the split, sorted.",
    ] = None
    image_list: Annotated[Path | None, "List of images, one id per line, instead of ImageSets/Main/<split>.txt."] = None


class _Object(NamedTuple):
    """An `<object>`; its corners as written, or None if they are not numbers."""

    number: int
    name: str
    corners: list[float] | None
    is_difficult: bool
    written: str


@dataclass(slots=True)
class _Folders:
    """The images by name without suffix, and the xml that uses each."""

    images_dir: Path
    by_stem: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    taken_by: dict[Path, str] = field(default_factory=dict)


def listed_xml(annotations: Path, options: Options, ledger: Ledger) -> tuple[list[str], bool]:
    """Return the xml files of the split, in the order of its list, and whether they are the whole folder."""
    found = files_in(annotations, (".xml",))
    if not found:
        raise RowsError(f"{annotations}: no xml file in it; check ANNOTATIONS")
    path = options.image_list or _list_of_split(annotations, options.split)
    if path is None:
        return found, True
    known = set(found)
    names: dict[str, None] = {}
    for line in map(str.strip, read_lines(path)):
        if re.fullmatch(r"\S+\s+(-1|0|1)", line):
            raise RowsError(f"{path}: {line!r}: a list of one category's images; give the list of the whole split")
        name = line.strip('"') + ".xml"
        if name in known:
            ledger.notes["image listed again"] += name in names
            names[name] = None
        else:
            message = f"{path.name}: {line!r}: no {name} in {annotations}; correct the list, or fetch the file"
            ledger.skip(RowError("xml file missing", message))
    return list(names), False


def _list_of_split(annotations: Path, split: str) -> Path | None:
    folder = annotations.absolute().parent / "ImageSets" / "Main"
    if not folder.is_dir():
        return None
    path = folder / f"{split}.txt"
    if not path.is_file():
        lists = [it.stem for it in sorted(folder.glob("*.txt")) if "_" not in it.stem]  # not aeroplane_train
        raise RowsError(f"{folder}: no {path.name}; give --split one of {', '.join(lists)}, or --image-list")
    return path


def _image_of(stem: str, filename: str, where: str, folders: _Folders, ledger: Ledger) -> Path:
    """Find the image of an xml file by the name of the xml, else by its `<filename>`."""
    own = folders.by_stem.get(stem, [])
    named = PureWindowsPath(filename).name  # takes both / and \\ for separators
    if len(own) > 1:
        own = [name for name in own if os.path.basename(name) == named] or own
    if len(own) > 1:
        raise RowError("two images of one name", f"{where}: image {' or '.join(own)}? Rename one, and its xml")
    if own:
        path = folders.images_dir.absolute() / own[0]
        if filename and named != path.name:
            ledger.notes["xml with another <filename>: image found by the name of the xml"] += 1
    else:
        path = find_image(folders.images_dir, filename or stem, where)
        if not os.path.isfile(path):
            reason = f"no image named {stem}.* or {filename!r} (its <filename>) in {folders.images_dir}"
            raise RowError("image file missing", f"{where}: {reason}; check IMAGES_DIR")
    if path in folders.taken_by:
        raise RowsError(f"{where}: its image {path.name} is also that of {folders.taken_by[path]}; remove one of them")
    folders.taken_by[path] = where
    return path


def read_voc(
    annotations: Path, names: list[str], is_whole: bool, images_dir: Path, options: Options, ledger: Ledger
) -> Annotations:
    """Read and check the listed xml files."""
    folders = _Folders(images_dir)
    for name in files_in(images_dir):
        folders.by_stem[os.path.splitext(name)[0]].append(name)
    read: list[tuple[AnnotatedImage, list[_Object]]] = []
    for name in names:
        with ledger.skipping():
            root = read_xml(annotations / name)
            if root.tag != "annotation":
                raise RowError("not VOC xml", f"{name}: its root is <{root.tag}>, needs <annotation>; is it VOC's?")
            stem = os.path.splitext(name)[0]
            path = _image_of(stem, _text(root, "filename"), name, folders, ledger)
            file_name = os.path.relpath(path, images_dir.absolute()).replace(os.sep, "/")
            if options.excluded.holds(stem, file_name):
                ledger.left_out["image on the exclusion list (--exclude-image-ids)"] += 1
                continue
            read.append((AnnotatedImage(stem, file_name, path, _size_of(root, path, name, ledger)), []))
            _read_objects(root, name, read[-1][1], ledger)
    if is_whole:
        stems = {os.path.splitext(name)[0] for name in names}
        unnamed = [name for stem, group in folders.by_stem.items() if stem not in stems for name in group]
        taken = {path.name for path in folders.taken_by}
        ledger.notes["image without an xml file"] += sum(os.path.basename(name) not in taken for name in unnamed)
    return _in_columns(annotations.absolute().name, read, options, ledger)


def _size_of(root: Element, path: Path, where: str, ledger: Ledger) -> tuple[int, int]:
    """Return the size of the boxes' frame; from the image if the xml gives none (0, or not a number)."""
    width, height = (parsed_number(_text(root, f"size/{side}")) for side in ("width", "height"))
    if width and height and width >= 1 and height >= 1:
        return int(width), int(height)
    size_wh = size_of_unturned(path, where)
    ledger.notes["xml without the image's size: size taken from the image"] += 1
    return size_wh


def _read_objects(root: Element, where: str, into: list[_Object], ledger: Ledger) -> None:
    for number, element in enumerate(root.findall("object"), 1):  # not iter(): a <part> has its own <bndbox>
        texts = [_text(element, f"bndbox/{corner}") for corner in CORNERS]  # by name: the order varies
        written = ", ".join(f"{corner} {text or 'missing'}" for corner, text in zip(CORNERS, texts, strict=True))
        name = _text(element, "name")
        if not name:
            message = f"{where}: object {number} ({written}): no <name>; correct it"
            ledger.skip(RowError("object without a name", message))
            continue
        numbers = [parsed_number(text) for text in texts]
        corners = [value for value in numbers if value is not None]
        is_difficult = _text(element, "difficult").lower() in ("1", "1.0", "true", "yes", "y")
        into.append(_Object(number, name, corners if len(corners) == 4 else None, is_difficult, written))


def _text(element: Element, path: str) -> str:
    """Return the text of a child element, on one line; empty if missing."""
    return " ".join(element.findtext(path, "").split())


def _in_columns(
    name: str, read: list[tuple[AnnotatedImage, list[_Object]]], options: Options, ledger: Ledger
) -> Annotations:
    """Return the objects as columns; VOC's corners become edges counted from 0."""
    found = sorted({it.name for _, objects in read for it in objects})
    names, _ = named_once(read_names(options.names) if options.names else found, ledger)
    place_of = {visible_form(known): place for place, known in enumerate(names)}
    columns = options.columns(name, names, ledger, NAMED["xyxy-abs"])
    shift = 0 if options.zero_based or columns.convention.fixed_wh else 1
    for entry, objects in read:
        image = columns.add_image(entry)
        for it in objects:
            where = f"{entry.image_id}.xml object {it.number}"
            box = it.corners and [it.corners[0] - shift, it.corners[1] - shift, *it.corners[2:]]
            if shift and box and min(box) < 0:
                ledger.notes["box that begins before VOC's first pixel, 1: from LabelImg or CVAT? (--zero-based)"] += 1
            place = place_of.get(visible_form(it.name))
            if place is not None:
                columns.add(image, place, box, where, mark="difficult" if it.is_difficult else "", written=it.written)
            else:
                reason = f"{where}: name {it.name!r} is not in {options.names}"
                ledger.skip(RowError("unknown name", f"{reason}; add it there, or correct the xml"))
    return columns.finish()


@converter(*BOX_TASKS, example="VOC2012/Annotations VOC2012/JPEGImages voc_val.parquet --split val")
def convert(
    annotations: Annotated[Path, "Folder of xml files."],
    images_dir: Annotated[Path, "Folder of images; may be the same."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of a folder of xml files."""
    names, is_whole = listed_xml(annotations, options, ledger)
    data = read_voc(annotations, names, is_whole, images_dir, options, ledger)
    files = [path for path in (options.names, options.image_list) if path is not None]
    return plan_reading(data, options, ledger, [*files, *(annotations / name for name in names)])
