"""Rows as Vision-R1 and VLM-R1 release theirs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from scene_sets.base import NAMES, Canon, Picture, SceneFormat, Thing, detection, grounding
from scene_sets.row_files import Row, asked, png, write_jsonl, write_parquet
from verl_visionr1.conversion.datasets import vision_r1, vlm_r1

OD = (
    "Examine the image for any objects from the category set. Report the coordinates of each detected object. "
    "The category set includes {}."
)
VG = "Locate the exact position of {} in the picture, if you can."
REC = "Can you point out {} in the image and provide the coordinates of its location?"
QWEN_OD = (
    "Locate every item from the category list in the image and output the coordinates in JSON format. "
    "The category set includes {}."
)
QWEN_ONE = "Locate every {} in the image and output the coordinates in JSON format."
VLM_OVD = (
    "Please carefully check the image and detect the following objects: {}. Output each detected target's bbox "
    "coordinates in JSON format. The format of the bbox coordinates is:\n```json\n"
    '[{{"bbox_2d": [x1, y1, x2, y2], "label": "target name"}}, ...]\n```\n'
    "If there are no such targets in the image, simply respond with None."
)


def vision_r1_row(picture: Picture, folder: Path, problem: str, labels: Sequence[str], asked: Sequence[str]) -> Row:
    """A row of JefferyZhan/Vision-R1-Data."""
    solution = [[label, [list(map(float, it.box)) for it in picture.of(label)]] for label in labels]
    return {
        "image": {"bytes": png(picture, folder), "path": None},
        "problem": problem,
        "solution": json.dumps(solution),
        "width": picture.size[0],
        "height": picture.size[1],
        "num_instances": sum(len(boxes) for _, boxes in solution),
        "target_id_maps": json.dumps({name: i for i, name in enumerate(asked, 1)}),
    }


def vision_r1_rows(
    pictures: Sequence[Picture], folder: Path, listed: str = OD, wordings: Sequence[str] = (VG, REC)
) -> list[Row]:
    rows = []
    names = f"{', '.join(NAMES[:-1])} and {NAMES[-1]}"
    for picture in pictures:
        rows.append(vision_r1_row(picture, folder, listed.format(names), picture.labels, NAMES))
    for i, (picture, label, _) in enumerate(asked(pictures)):
        rows.append(vision_r1_row(picture, folder, wordings[i % len(wordings)].format(label), [label], [label]))
    return rows


def write_vision_r1(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """Two parquet files in `data/`, and another split beside them."""
    rows = vision_r1_rows(pictures, folder)
    for i, some in enumerate((rows[:9], rows[9:])):
        write_parquet(folder / "data" / f"train-{i:05d}-of-00002.parquet", some)
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", rows[:1])
    return (folder / "data",)


def write_vision_r1_saved(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """`save_to_disk`: an Arrow stream and its state; problems as they are rewritten for Qwen."""
    rows = vision_r1_rows(pictures, folder, QWEN_OD, (QWEN_ONE,))
    table = pa.Table.from_pylist(rows)
    (folder / "saved").mkdir()
    with pa.ipc.new_stream(str(folder / "saved" / "data-00000-of-00001.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=7)
    (folder / "saved" / "state.json").write_text("{}")
    return (folder / "saved",)


def vision_r1_truth(pictures: Sequence[Picture]) -> list[Canon]:
    return detection(pictures, allow_none=True) + grounding(pictures, allow_none=True)


def rec_row(picture: Picture, label: str, thing: Thing) -> Row:
    """An entry of `rec_jsons_processed`: COCO's x, y, x + w, y + h in `solution`, a pixel less in `bbox_list`."""
    box = list(map(float, thing.box))
    (width, height), name = picture.size, f"train2014/COCO_train2014_{picture.file_name}"
    return {
        "height": height,
        "width": width,
        "id": 0,
        "original_id": 1719310,
        "dataset_name": "refcoco",
        "image_id": 0,
        "bbox_list": [[box[0], box[1], box[2] - 1, box[3] - 1]],
        "text_type": "caption",
        "image": name,
        "problem": f"{vlm_r1.REC} {label}.",
        "normal_caption": label,
        "solution": box,
        "normalized_solution": [
            int(v / side * 1000) for v, side in zip(box, (width, height, width, height), strict=True)
        ],
    }


def write_rec(pictures: Sequence[Picture], folder: Path, *drop: str) -> tuple[Any, ...]:
    """`refcoco_train.json`, without some keys."""
    rows = []
    for picture, label, things in asked(pictures):
        picture.save(folder / "coco" / "train2014", f"COCO_train2014_{picture.file_name}")
        if len(things) == 1:
            rows.append({key: v for key, v in rec_row(picture, label, things[0]).items() if key not in drop})
    path = folder / "rec_jsons_processed" / "refcoco_train.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(rows))
    return path, folder / "coco"


def conversation(picture: Picture, question: str, answer: Any, **more: Any) -> Row:
    """A row of a training .jsonl."""
    turns = [{"from": "human", "value": f"<image>{question}"}, {"from": "gpt", "value": answer}]
    return {"id": picture.number, "image": picture.file_name, "conversations": turns, **more}


def bbox_2d(things: Sequence[Thing]) -> str:
    """Boxes and labels as Qwen writes them, in a fence."""
    return f"```json\n{json.dumps([{'bbox_2d': it.box, 'label': it.label} for it in things])}\n```"


def write_conversations(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """An open-vocabulary file with images in lists of one, and one of expressions; joined by ":"."""
    ovd, rec = [], []
    for picture in pictures:
        picture.save(folder / "images")
        row = conversation(picture, VLM_OVD.format(", ".join(NAMES)), bbox_2d(picture.things))
        ovd.append({**row, "image": [picture.file_name], "accu_reward_method": "od_ap"})
    for picture, label, things in asked(pictures):
        if len(things) == 1:
            rec.append(conversation(picture, f"{vlm_r1.REC} {label}.", json.dumps(things[0].box)))
    files = [write_jsonl(folder / "ovd.jsonl", ovd), write_jsonl(folder / "rec.jsonl", rec)]
    return ":".join(map(str, files)), str(folder / "images")


def vlm_r1_truth(pictures: Sequence[Picture]) -> list[Canon]:
    return detection(pictures) + grounding(pictures, single=True)


FORMATS = (
    SceneFormat("vision_r1", write_vision_r1, vision_r1.convert, vision_r1.Options(), vision_r1_truth, True),
    SceneFormat("vision_r1 qwen", write_vision_r1_saved, vision_r1.convert, vision_r1.Options(), vision_r1_truth, True),
    SceneFormat("vlm_r1 rec", write_rec, vlm_r1.convert, vlm_r1.Options(), partial(grounding, single=True)),
    SceneFormat(
        "vlm_r1 rec, solution only",
        lambda pictures, folder: write_rec(pictures, folder, "bbox_list", "normal_caption", "width", "height"),
        vlm_r1.convert,
        vlm_r1.Options(),
        partial(grounding, single=True),
    ),
    SceneFormat("vlm_r1 conversations", write_conversations, vlm_r1.convert, vlm_r1.Options(), vlm_r1_truth),
)
