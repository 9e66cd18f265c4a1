"""Tables, imagefolders and files of phrases of nobody in particular, which `records.py` reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scene_sets.base import NAMES, Canon, Picture, SceneFormat, Thing, counting, detection, grounding, pointing
from scene_sets.row_files import Row, asked, own, png, scaled, write_jsonl, write_parquet
from verl_visionr1.conversion.datasets import records
from verl_visionr1.targets import Target


def write_csv(path: Path, rows: Sequence[Row], *, header: bool = True) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), dialect="excel-tab" if path.suffix == ".tsv" else "excel")
        if header:
            writer.writeheader()
        writer.writerows(rows)
    return path


def write_tf_csv(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """TensorFlow's and Roboflow's table, one box a line, its lines in no order of images."""
    rows = []
    for picture in pictures:
        picture.save(folder)
        for thing in picture.things:
            corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), thing.box, strict=True))
            size = {"width": picture.size[0], "height": picture.size[1]}
            rows.append({"filename": picture.file_name, **size, "class": thing.label, **corners})
    return (write_csv(folder / "_annotations.csv", rows[::2] + rows[1::2]),)


def write_retinanet(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """RetinaNet's table: absolute paths, no header; a line without box is an image without objects."""
    rows = []
    for picture in pictures:
        path = str(picture.save(folder / "far"))
        for thing in picture.things:
            rows.append({"path": path, **dict(zip("abcd", thing.box, strict=True)), "class": thing.label})
    empty = Picture(1, pictures[0].size, (), pictures[0].pixels)
    rows.append(dict.fromkeys(rows[0], "") | {"path": str(empty.save(folder / "far"))})
    return (write_csv(folder / "annotations.csv", rows, header=False),)


def write_imagefolder(
    pictures: Sequence[Picture], folder: Path, *, box: Callable[[Picture, Thing], list[float]]
) -> tuple[Any, ...]:
    """Hugging Face's imagefolder with `metadata.jsonl` in the folder of the split."""
    rows = []
    for picture in pictures:
        picture.save(folder / "train" / "a")
        boxes, labels = [box(picture, it) for it in picture.things], [it.label for it in picture.things]
        objects = {"id": list(range(len(boxes))), "area": [1.0] * len(boxes), "bbox": boxes, "categories": labels}
        rows.append({"file_name": f"a/{picture.file_name}", "objects": objects})
    write_jsonl(folder / "train" / "metadata.jsonl", rows)
    return (folder,)


def centred(picture: Picture, thing: Thing) -> list[float]:
    x1, y1, x2, y2 = scaled(thing, picture, (1, 1))
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


def write_class_labels(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """A parquet of Hugging Face: images in it, labels as numbers that its metadata name."""
    rows = []
    for picture in pictures:
        labels = [NAMES.index(it.label) for it in picture.things]
        objects = {"bbox": [list(map(float, it.xywh)) for it in picture.things], "category": labels}
        rows.append(
            {"image_id": picture.number, "image": {"bytes": png(picture, folder), "path": None}, "objects": objects}
        )
    names = {"feature": {"names": list(NAMES), "_type": "ClassLabel"}, "_type": "List"}
    features = {"objects": {"bbox": {"_type": "List"}, "category": names}}
    return (write_parquet(folder / "train-00000-of-00001.parquet", rows, features),)


def write_phrases(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """One phrase a line, with all its boxes and centres, and how many there are."""
    rows = []
    for picture, label, things in asked(pictures):
        picture.save(folder / "images")
        centres = [{"x": x, "y": y} for x, y in (it.centre for it in things)]
        meta = {"file": picture.file_name, "size": {"w": picture.size[0], "h": picture.size[1]}}
        boxes = [scaled(it, picture, (1000, 1000)) for it in things]
        rows.append({"meta": meta, "caption": label, "boxes": boxes, "centres": centres, "n": len(things)})
    return (write_jsonl(folder / "phrases.jsonl", rows),)


def write_phrase_table(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """One box a line, with its phrase: lines of one image and phrase belong together."""
    rows = []
    for picture, label, things in asked(pictures):
        picture.save(folder)
        rows += [{"img": picture.file_name, **dict(zip("xywh", it.xywh, strict=True)), "text": label} for it in things]
    return (write_csv(folder / "phrases.tsv", rows[::2] + rows[1::2]),)


WHAT = "Of which colour is the thing that is furthest to the left?"


def leftmost_colour(picture: Picture) -> str:
    return min(picture.things, key=lambda thing: thing.box).label.split()[0]


def write_answers(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """Questions with an answer in words."""
    rows = [{"image": picture.file_name, "q": WHAT, "a": leftmost_colour(picture)} for picture in pictures]
    for picture in pictures:
        picture.save(folder / "images")
    path = folder / "answers.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return (path,)


def answers(pictures: Sequence[Picture]) -> list[Canon]:
    """One row for each image: a question, and its answer in words."""
    prompt = f"<image>{WHAT} Answer with the final answer alone."
    truths = [Target(task="text", size_wh=picture.size, answer=leftmost_colour(picture)) for picture in pictures]
    return [
        (str(picture.number), "text", prompt, truth.to_json()) for picture, truth in zip(pictures, truths, strict=True)
    ]


PHRASE_COLUMNS = ["image=meta.file", "width=meta.size.w", "height=meta.size.h", "phrase=caption"]
CLASS_LABELS = records.Options(
    column=["image=image", "id=image_id", "label=objects.category", "boxes=objects.bbox"],
    box_format="xywh-abs",
    task="detection",
)


ALL = ",".join(NAMES)
TASKS = {"detection": detection, "grounding": grounding, "counting": counting}
FORMATS = (
    *(own(f"tf-csv {task}", write_tf_csv, TASKS[task], preset="tf-csv", task=task, class_names=ALL) for task in TASKS),
    own("retinanet-csv", write_retinanet, detection, preset="retinanet-csv", task="detection", class_names=ALL),
    *(
        own(
            f"imagefolder {name}",
            partial(write_imagefolder, box=box),
            detection,
            preset="imagefolder",
            box_format=name,
            task="detection",
            class_names=ALL,
        )
        for name, box in {
            "xywh-abs": lambda picture, it: it.xywh,
            "xyxy-norm1000": lambda picture, it: scaled(it, picture, (1000, 1000)),
            "cxcywh-norm1": centred,
        }.items()
    ),
    SceneFormat("records class labels", write_class_labels, records.convert, CLASS_LABELS, detection, True),
    own("phrases", write_phrases, grounding, column=[*PHRASE_COLUMNS, "boxes=boxes"], box_format="xyxy-norm1000"),
    own("points", write_phrases, pointing, column=[*PHRASE_COLUMNS, "points=centres"], box_format="xyxy-abs"),
    own("counts", write_phrases, partial(counting, boxes=False), column=[*PHRASE_COLUMNS, "count=n"]),
    own(
        "table of phrases",
        write_phrase_table,
        grounding,
        column=["image=img", "phrase=text", "boxes=x,y,w,h"],
        box_format="xywh-abs",
    ),
    own("answers", write_answers, answers, column=["image=image", "question=q", "answer=a"]),
)
