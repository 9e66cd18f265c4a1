"""Formats of detection sets that are folders of small files, or tables: Pascal VOC, YOLO, Open Images."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from scene_sets.base import NAMES, Picture, SceneFormat, counting, detection, grounding
from verl_visionr1.conversion.datasets import openimages, voc, yolo
from verl_visionr1.conversion.writing import Report


def voc_object(name: str, corners: Sequence[Any], *extra: str) -> str:
    """An `<object>`; corners xmin, ymin, xmax, ymax stand in the odd order of some files of 2012."""
    xmin, ymin, xmax, ymax = corners
    box = f"<xmax>{xmax}</xmax><xmin>{xmin}</xmin><ymax>{ymax}</ymax><ymin>{ymin}</ymin>"
    more = "".join(extra) or "<difficult>0</difficult>"
    return f"<object><name>{name}</name><pose>Unspecified</pose>{more}<bndbox>{box}</bndbox></object>"


def voc_xml(filename: str, size: tuple[int, int], objects: Sequence[str]) -> str:
    """A file of `Annotations/`."""
    width, height = size
    return (
        f"<annotation>\n<folder>VOC2012</folder><filename>{filename}</filename>"
        "<source><database>The VOC2008 Database</database></source>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size><segmented>0</segmented>\n"
        f"{''.join(objects)}\n</annotation>\n"
    )


def write_voc(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """VOCdevkit: boxes counted from 1 with their last pixel, one more image than the split lists."""
    root = folder / "VOCdevkit" / "VOC2012"
    for name in ("Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for picture in (*pictures, replace(pictures[0], number=1)):
        name = f"2008_{picture.number:06d}"
        picture.save(root / "JPEGImages", f"{name}.jpg", format="PNG")
        objects = [
            voc_object(it.label, (it.box[0] + 1, f"{it.box[1] + 1}.0", it.box[2], it.box[3])) for it in picture.things
        ]
        objects[0] = objects[0].replace(
            "</object>", "<part>" + voc_object("head", (2, 2, 5, 5))[8:-9] + "</part></object>"
        )
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(f"{name}.jpg", picture.size, objects))
    lines = "".join(f"2008_{picture.number:06d}\n" for picture in pictures)
    (root / "ImageSets/Main/trainval.txt").write_text(lines)
    (root / "ImageSets/Main/aeroplane_trainval.txt").write_text(lines.replace("\n", " -1\n"))
    return root / "Annotations", root / "JPEGImages"


def convert_voc(annotations: Path, images: Path, out: Path, options: voc.Options) -> Report:
    """With a file of names, whose path is known only here: one name is met in no scene."""
    names = annotations.parent / "names.txt"
    names.write_text("\n".join(NAMES))
    return voc.convert(annotations, images, out, replace(options, names=names))


def write_labelimg(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """LabelImg: edges counted from 0, xml among the images, wrong file names, sizes of 0."""
    for i, picture in enumerate(pictures):
        picture.save(folder)
        text = voc_xml(
            ("img.jpg", "", picture.file_name)[i % 3],
            (0, 0) if i % 2 else picture.size,
            [voc_object(it.label, it.box) for it in picture.things],
        )
        (folder / picture.file_name).with_suffix(".xml").write_text(text)
    return folder, folder


def yolo_lines(picture: Picture, *, polygons: bool = False) -> str:
    """A label file: boxes by centre and size, or polygons with a point on each side."""
    width, height = picture.size
    lines = []
    for it in picture.things:
        x1, y1, x2, y2 = it.box[0] / width, it.box[1] / height, it.box[2] / width, it.box[3] / height
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        numbers = (cx, y1, x2, cy, cx, y2, x1, cy) if polygons else (cx, cy, x2 - x1, y2 - y1)
        lines.append(" ".join(map(str, (NAMES.index(it.label), *numbers))))
    return "\n".join(lines)


def write_ultralytics(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """images/ and labels/, a `path` of another machine, names as a dictionary, an image without a label file."""
    for i, picture in enumerate((*pictures, replace(pictures[0], number=1))):
        picture.save(folder / "images" / "train2017")
        (folder / "labels" / "train2017").mkdir(parents=True, exist_ok=True)
        if i < len(pictures):
            text = yolo_lines(picture, polygons=i % 2 == 1)
            (folder / "labels" / "train2017" / picture.file_name).with_suffix(".txt").write_text(text)
    document = {"path": "../datasets/shapes", "train": "images/train2017", "val": "images/val2017", "test": None}
    (folder / "shapes.yaml").write_text(yaml.safe_dump({**document, "names": dict(enumerate(NAMES))}))
    return (folder / "shapes.yaml",)


def write_yolo_roboflow(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """Roboflow's export: train/images, a `../` too many, names as a list, a class of `nc`."""
    for picture in pictures:
        name = f"{picture.number}_png.rf.0a1b"
        picture.save(folder / "valid" / "images", f"{name}.png")
        (folder / "valid" / "labels").mkdir(exist_ok=True)
        (folder / "valid" / "labels" / f"{name}.txt").write_text(yolo_lines(picture))
    document = {"train": "../train/images", "val": "../valid/images", "nc": len(NAMES), "names": list(NAMES)}
    (folder / "data.yaml").write_text(yaml.safe_dump({**document, "roboflow": {"license": "CC BY 4.0", "version": 1}}))
    return (folder / "data.yaml",)


def write_darknet(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """CVAT's YOLO 1.1: labels beside the images, a list with another root, a file of names."""
    for picture in pictures:
        picture.save(folder / "obj_train_data")
        (folder / "obj_train_data" / picture.file_name).with_suffix(".txt").write_text(yolo_lines(picture) + "\n")
    lines = [f"data/obj_train_data/{picture.file_name}\n" for picture in pictures]
    (folder / "train.txt").write_text("".join(lines))
    (folder / "obj.names").write_text("\n".join(NAMES) + "\n")
    (folder / "obj.data").write_text("classes = 12\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    return folder / "obj.names", folder / "train.txt"


def convert_darknet(names: Path, images: Path, out: Path, options: yolo.Options) -> Report:
    """The list is an option, whose path is known only here."""
    return yolo.convert(names, out, replace(options, images=images))


MIDS = {name: f"/m/0{i:02d}abc" for i, name in enumerate(NAMES)}
BOX_COLUMNS = (
    *("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
)


def write_table(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """A csv file."""
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_openimages(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """The csv files; images in folders by their first character; all absent classes verified, in labels and a tree."""
    boxes: list[Sequence[Any]] = [BOX_COLUMNS]
    labels: list[Sequence[Any]] = [("ImageID", "Source", "LabelName", "Confidence")]
    for picture in pictures:
        name, (width, height) = f"{picture.number:016x}", picture.size
        picture.save(folder / "train" / "train_0", f"{name}.jpg", format="PNG")
        for it in picture.things:
            x1, y1, x2, y2 = it.box
            sides = (x1 / width, x2 / width, y1 / height, y2 / height)
            boxes.append((name, "xclick", MIDS[it.label], 1, *sides, 0, 1, 0, 0, 0))
        labels += [(name, "verification", MIDS[it], int(it in picture.labels)) for it in NAMES]
        labels.append((name, "crowdsource-verification", "/m/0notboxable", 1))
    write_table(folder / "oidv6-train-annotations-human-imagelabels.csv", labels)
    tree = {"LabelName": "/m/0bl9f", "Subcategory": [{"LabelName": mid} for mid in MIDS.values()]}
    (folder / "bbox_labels_600_hierarchy.json").write_text(json.dumps(tree))
    return (
        write_table(folder / "oidv6-train-annotations-bbox.csv", boxes),
        write_table(folder / "class-descriptions-boxable.csv", [(mid, name) for name, mid in MIDS.items()]),
        folder / "train",
    )


def convert_openimages(boxes: Path, classes: Path, images: Path, out: Path, options: openimages.Options) -> Report:
    """With labels and tree, whose paths are known only here."""
    folder = boxes.parent
    labels, tree = (next(folder.glob(pattern)) for pattern in ("*imagelabels.csv", "*hierarchy.json"))
    return openimages.convert(boxes, classes, images, out, replace(options, labels=labels, hierarchy=tree))


TRAINVAL: dict[str, Any] = {"split": "trainval"}
FORMATS = (
    SceneFormat("voc detection", write_voc, convert_voc, voc.Options(task="detection", **TRAINVAL), detection),
    SceneFormat("voc grounding", write_voc, voc.convert, voc.Options(task="grounding", **TRAINVAL), grounding),
    SceneFormat("voc counting", write_voc, voc.convert, voc.Options(task="counting", **TRAINVAL), counting),
    SceneFormat("labelimg", write_labelimg, convert_voc, voc.Options(task="detection", zero_based=True), detection),
    SceneFormat("ultralytics", write_ultralytics, yolo.convert, yolo.Options(task="detection"), detection),
    SceneFormat("ultralytics counting", write_ultralytics, yolo.convert, yolo.Options(task="counting"), counting),
    SceneFormat(
        "yolo of roboflow", write_yolo_roboflow, yolo.convert, yolo.Options(task="grounding", split="val"), grounding
    ),
    SceneFormat("darknet", write_darknet, convert_darknet, yolo.Options(task="detection"), detection),
    SceneFormat("openimages", write_openimages, convert_openimages, openimages.Options(task="detection"), detection),
    SceneFormat(
        "openimages grounding", write_openimages, openimages.convert, openimages.Options(task="grounding"), grounding
    ),
)
