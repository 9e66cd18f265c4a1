"""Sets that say themselves what to ask for, present or absent: LVIS, OVDEval, D3. And CrowdHuman: one category."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scene_sets.base import NAMES, Canon, Picture, SceneFormat, _canon, counting, detection, grounding, pictures
from scene_sets.coco_like import IDS, document
from verl_visionr1.conversion.datasets import crowdhuman, d3, lvis, ovdeval

Asked = Callable[[Picture], Sequence[str]]
"""What a data set asks for on an image."""


def asked_detection(pictures: Sequence[Picture], asked: Asked) -> list[Canon]:
    """One row for each image: all objects of its own list."""
    rows = []
    for picture in pictures:
        names = [name for name in NAMES if name in asked(picture)]
        things = [thing for name in names for thing in picture.of(name)]
        truth = {"boxes_xyxy": [thing.box for thing in things], "labels": [thing.label for thing in things]}
        rows.append(_canon(picture, "qwen-json", True, task="detection", categories=names, **truth))
    return rows


def asked_grounding(pictures: Sequence[Picture], asked: Asked) -> list[Canon]:
    """One row for each image and name of its own list, whether it is there or not."""
    rows = []
    for picture in pictures:
        for name in asked(picture):
            boxes = [thing.box for thing in picture.of(name)]
            truth = {"boxes_xyxy": boxes, "labels": [name] * len(boxes)}
            rows.append(_canon(picture, "qwen-json", True, task="grounding", categories=[name], **truth))
    return rows


def write_lvis(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """lvis_v1_val.json: no file_name, images of both of COCO's splits, everything else a known negative."""
    made = document(pictures)
    for i, (picture, entry) in enumerate(zip(pictures, made["images"], strict=True)):
        split = ("train2017", "val2017")[i % 2]
        picture.save(folder / "coco" / split)
        entry.pop("file_name")
        entry["coco_url"] = f"http://images.cocodataset.org/{split}/{picture.file_name}"
        entry["neg_category_ids"] = [IDS[name] for name in NAMES if name not in picture.labels]
        entry["not_exhaustive_category_ids"] = []
    for annotation in made["annotations"]:
        del annotation["iscrowd"]
        annotation["segmentation"] = [[1.5, 2.5, 3.5, 4.5, 5.5, 6.5]]
    for category in made["categories"]:
        name = category["name"].replace(" ", "_")
        category.update(name=name, synset=f"{name}.n.01", synonyms=[name], frequency="f", image_count=9)
        category["def"] = "a shape"
    path = folder / "lvis_v1_val.json"
    path.write_text(json.dumps(made))
    return path, folder / "coco"


def with_two_absent(picture: Picture) -> list[str]:
    """What is there, and two names that are not."""
    absent = [name for name in NAMES if name not in picture.labels]
    return [*picture.labels, *absent[:: len(absent) - 1]]


def write_ovdeval(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """annotations/color.json: category ids from 0, `text` and `neg_text` at the images."""
    made = document(pictures)
    made["categories"] = [{"supercategory": "object", "id": i, "name": name} for i, name in enumerate(NAMES)]
    for annotation in made["annotations"]:
        annotation["category_id"] = (annotation["category_id"] - 2) // 3
    for picture, entry in zip(pictures, made["images"], strict=True):
        picture.save(folder / "images" / "color")
        entry["text"] = picture.labels
        entry["neg_text"] = with_two_absent(picture)[len(picture.labels) :]
    path = folder / "annotations" / "color.json"
    path.parent.mkdir()
    path.write_text(json.dumps(made))
    return path, folder / "images" / "color"


def of_group(picture: Picture) -> list[str]:
    """The sentences of its group: every second name."""
    return list(NAMES[picture.number % 2 :: 2])


SENTENCE_OF = {name: i + 1 for i, name in enumerate(NAMES)}


def write_d3(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """d3_pkl: four dictionaries; boxes and areas are numpy arrays with one row, and belong to sentences."""
    groups = {
        1 + k: {
            "id": 1 + k,
            "pos_sent_id": [SENTENCE_OF[name] for name in NAMES[k::2]],
            "inner_sent_id": [SENTENCE_OF[name] for name in NAMES[k::2]],
            "outer_sent_id": [SENTENCE_OF[name] for name in NAMES[1 - k :: 2]],
            "img_id": [i for i, picture in enumerate(pictures) if picture.number % 2 == k],
            "scene": ["shapes"],
            "group_name": f"group {k}",
        }
        for k in (0, 1)
    }
    sentences = {
        i: {"id": i, "anno_id": [], "group_id": [], "is_negative": i % 4 == 0, "raw_sent": name, "raw_sent_zh": "红色"}
        for name, i in SENTENCE_OF.items()
    }
    annotations: dict[int, dict[str, Any]] = {}
    images = {}
    for i, picture in enumerate(pictures):
        picture.save(folder / "d3_images" / "shapes", f"{i}.png")
        width, height = picture.size
        entry = {"id": i, "file_name": f"shapes/{i}.png", "height": height, "width": width}
        images[i] = {**entry, "anno_id": [], "group_id": 1 + picture.number % 2, "license": "", "flickr_url": ""}
        for thing in picture.things:
            rle = [{"size": [height, width], "counts": b"abc0\xff"}]
            annotations[len(annotations)] = {
                "id": len(annotations),
                "sent_id": [SENTENCE_OF[thing.label]],
                "segmentation": rle,
                "area": np.array([7], dtype=np.uint32),
                "bbox": np.array([thing.xywh], dtype=float),
                "iscrowd": 0,
                "image_id": i,
                "group_id": 1 + picture.number % 2,
            }
    parts = {"sentences": sentences, "annotations": annotations, "images": images, "groups": groups}
    (folder / "d3_pkl").mkdir()
    for name, part in parts.items():
        (folder / "d3_pkl" / f"{name}.pkl").write_bytes(pickle.dumps(part, protocol=4))
    return folder / "d3_pkl", folder / "d3_images"


# ---------------------------------------------------------------------------------------------- CrowdHuman

PERSON = Counter(thing.label for picture in pictures() for thing in picture.things).most_common(1)[0][0]
"""The label that plays the people."""


def write_crowdhuman(pictures: Sequence[Picture], folder: Path, kind: str) -> tuple[Any, ...]:
    """annotation_val.odgt: a comma in names, PNG under .jpg, three boxes of which one is looked at."""
    lines = []
    for picture in pictures:
        image_id = f"273271,{picture.number:x}000d5146c15"
        picture.save(folder / "Images", f"{image_id}.jpg", format="PNG")
        boxes = []
        for thing in picture.of(PERSON)[::-1]:
            three = {key: [-5, 1, 7, 900] for key in ("fbox", "vbox", "hbox")} | {kind: thing.xywh}
            boxes.append({"tag": "person", **three, "extra": {"box_id": len(boxes), "occ": 0}, "head_attr": {"occ": 1}})
        lines.append(json.dumps({"ID": image_id, "gtboxes": boxes}))
    path = folder / "annotation_val.odgt"
    path.write_text("\n".join(lines) + "\n")
    return path, folder


def people(pictures: Sequence[Picture], reference: Callable[..., list[Canon]]) -> list[Canon]:
    """The rows of a reference for the label that plays the people."""
    return [row for row in reference(pictures) if json.loads(row[3])["categories"] == [PERSON]]


FORMATS = (
    SceneFormat("lvis detection", write_lvis, lvis.convert, lvis.Options(task="detection"), detection),
    SceneFormat("lvis grounding", write_lvis, lvis.convert, lvis.Options(task="grounding"), grounding),
    SceneFormat(
        "ovdeval detection",
        write_ovdeval,
        ovdeval.convert,
        ovdeval.Options(task="detection"),
        partial(asked_detection, asked=with_two_absent),
    ),
    SceneFormat(
        "ovdeval grounding",
        write_ovdeval,
        ovdeval.convert,
        ovdeval.Options(task="grounding"),
        partial(asked_grounding, asked=with_two_absent),
    ),
    SceneFormat(
        "d3 detection", write_d3, d3.convert, d3.Options(task="detection"), partial(asked_detection, asked=of_group)
    ),
    SceneFormat(
        "d3 grounding", write_d3, d3.convert, d3.Options(task="grounding"), partial(asked_grounding, asked=of_group)
    ),
    SceneFormat("d3 inter-group", write_d3, d3.convert, d3.Options(task="grounding", ask="inter"), grounding),
    *(
        SceneFormat(
            f"crowdhuman {kind}",
            partial(write_crowdhuman, kind=kind),
            crowdhuman.convert,
            crowdhuman.Options(task=task, box=kind, name=PERSON),
            partial(people, reference=reference),
        )
        for kind, task, reference in (
            ("fbox", "grounding", grounding),
            ("vbox", "grounding", grounding),
            ("hbox", "counting", counting),
        )
    ),
)
