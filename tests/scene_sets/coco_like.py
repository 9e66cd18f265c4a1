"""Formats in COCO's json layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scene_sets.base import NAMES, Picture, SceneFormat, counting, detection, grounding
from verl_visionr1.conversion.datasets import coco

IDS = {name: 3 * i + 2 for i, name in enumerate(NAMES)}
"""Sparse category ids."""


def document(pictures: Sequence[Picture]) -> dict[str, Any]:
    """The scenes as COCO's json, with a crowd, an empty image and other things that no row may show."""
    images, annotations = [], []
    for picture in pictures:
        width, height = picture.size
        images.append({"id": picture.number, "file_name": picture.file_name, "width": width, "height": height})
        for thing in picture.things:
            number = len(annotations) + 1
            annotation = {"id": number, "image_id": picture.number, "category_id": IDS[thing.label]}
            annotations.append({**annotation, "bbox": thing.xywh, "area": 1.0, "iscrowd": 0})
    categories = [{"id": IDS[name], "name": name} for name in NAMES]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """instances.json and its images."""
    for picture in pictures:
        picture.save(folder / "images")
    path = folder / "instances.json"
    path.write_text(json.dumps(document(pictures)))
    return path, folder / "images"


def write_objects365(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """Objects365: `images/v1/patchN/` in front of file names that lie in `patchN/`."""
    made = document(pictures)
    for i, (picture, entry) in enumerate(zip(pictures, made["images"], strict=True)):
        picture.save(folder / "train" / f"patch{i % 3}", f"objects365_v1_{picture.file_name}")
        entry["file_name"] = f"images/v1/patch{i % 3}/objects365_v1_{picture.file_name}"
    path = folder / "zhiyuan_objv2_train.json"
    path.write_text(json.dumps(made))
    return path, folder / "train"


def write_roboflow(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """Roboflow's export: a root category 0 that nothing belongs to, images beside the json, blanks in names."""
    made = document(pictures)
    root = folder / "Aquarium Combined.v2-raw" / "train"
    made["categories"] = [{"id": 0, "name": "shapes", "supercategory": "none"}] + [
        {**category, "supercategory": "shapes"} for category in made["categories"]
    ]
    for picture, entry in zip(pictures, made["images"], strict=True):
        entry["file_name"] = f"IMG {picture.number}_png.rf.0a1b.png"
        picture.save(root, entry["file_name"])
    path = root / "_annotations.coco.json"
    path.write_text(json.dumps(made))
    return path, root


FORMATS = (
    SceneFormat("coco detection", write_coco, coco.convert, coco.Options(task="detection"), detection),
    SceneFormat("coco grounding", write_coco, coco.convert, coco.Options(task="grounding"), grounding),
    SceneFormat("coco counting", write_coco, coco.convert, coco.Options(task="counting"), counting),
    SceneFormat("objects365", write_objects365, coco.convert, coco.Options(task="detection"), detection),
    SceneFormat("roboflow", write_roboflow, coco.convert, coco.Options(task="detection"), detection),
)
