"""Rows of other frameworks, which `records.py` reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scene_sets.base import Canon, Picture, Thing, grounding, pointing
from scene_sets.papers import bbox_2d
from scene_sets.row_files import Row, asked, own, png, scaled, write_jsonl, write_parquet
from verl_visionr1.answers import FORMATS as ANSWER_FORMATS
from verl_visionr1.targets import Target

VISUAL_RFT = (
    "Detect all objects belonging to the category '{0}' in the image, and provide the bounding boxes (between 0 and "
    "1000, integer) and confidence (between 0 and 1, with two decimal places).\nIf no object belonging to the category "
    "'{0}' in the image, return 'No Objects'.\nOutput the thinking process in <think> </think> and final answer in "
    "<answer> </answer> tags.The output answer format should be as follows:\n<think> ... </think> "
    "<answer>[{{'Position': [x1, y1, x2, y2], 'Confidence': number}}, ...]</answer>\nPlease strictly follow the format."
)


def write_ms_swift(pictures: Sequence[Picture], folder: Path, *, what: str) -> tuple[Any, ...]:
    """ms-swift: phrases and their boxes (pixels), fractions, or points."""
    rows = []
    for picture, label, things in asked(pictures):
        path = str(picture.save(folder))
        boxes = [scaled(it, picture, (1, 1)) if what == "norm1" else list(it.box) for it in things]
        boxes = [list(it.centre) for it in things] if what == "points" else boxes
        turns = [
            {"role": "user", "content": "<image>Find <ref-object>"},
            {"role": "assistant", "content": "<bbox>" * len(things)},
        ]
        objects = {"ref": [label], "bbox": boxes, **({"bbox_type": "norm1"} if what == "norm1" else {})}
        rows.append({"messages": turns, "images": [path], "objects": objects})
    return (write_jsonl(folder / "swift.jsonl", rows),)


def write_visual_rft(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """Visual-RFT's parquet: Python's literals, 0-1000."""
    rows = []
    for picture, label, things in asked(pictures):
        found = [{"Position": scaled(it, picture, (1000, 1000)), "Confidence": 1} for it in things]
        image = {"bytes": png(picture, folder), "path": None}
        problem = VISUAL_RFT.format(label)
        rows.append({"image": image, "problem": problem, "solution": f"<answer>{found}</answer>"})
    return (write_parquet(folder / "train-00000-of-00001.parquet", rows),)


def write_seg_zero(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """VisionReasoner's parquet, boxes on 840 x 840; the images as they were before the warp."""
    rows = []
    for i, (picture, label, things) in enumerate(asked(pictures)):
        found = [{"bbox_2d": scaled(it, picture, (840, 840)), "point_2d": [420, 420]} for it in things]
        image = {"bytes": png(picture, folder), "path": None}
        size = {"img_height": picture.size[1], "img_width": picture.size[0]}
        rows.append({"id": f"r{i}", "problem": label, "solution": json.dumps(found), "image": image, **size})
    return (write_parquet(folder / "train-00000-of-00001.parquet", rows),)


def write_rex_thinker(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """Rex-Thinker's json lines."""
    rows = []
    for picture, label, things in asked(pictures):
        picture.save(folder / "images")
        boxes = [list(it.box) for it in things]
        row = {"image_name": picture.file_name, "ans": boxes, "referring": label, "category": "shape"}
        rows.append({**row, "candidate_boxes": [list(it.box) for it in picture.things]})
    return (write_jsonl(folder / "humanref.jsonl", rows),)


CLICK = 'Click on the element: "{}".'
QUESTION = "How many {}s are there in the image?"


def write_r1_v(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """R1-V's parquet."""
    rows = [
        {
            "image": {"bytes": png(picture, folder), "path": "a.png"},
            "problem": QUESTION.format(label),
            "solution": f"<answer> {len(things)} </answer>",
        }
        for picture, label, things in asked(pictures)
    ]
    return (write_parquet(folder / "train-00000-of-00001.parquet", rows),)


def write_easyr1(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """EasyR1: paths in lists, <image> in the problem."""
    rows = []
    for picture, label, things in asked(pictures):
        picture.save(folder / "images")
        problem = f"<image>{QUESTION.format(label)}"
        rows.append({"images": [picture.file_name], "problem": problem, "answer": str(len(things))})
    path = folder / "train.json"
    path.write_text(json.dumps(rows))
    return (path,)


def write_llamafactory(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """LLaMA-Factory's turns; boxes in the answer."""
    rows = []
    for picture, label, things in asked(pictures):
        turns = [
            {"from": "human", "value": f"<image>{QUESTION.format(label)}"},
            {"from": "gpt", "value": bbox_2d(things)},
        ]
        rows.append({"conversations": turns, "images": [str(picture.save(folder))]})
    path = folder / "data.json"
    path.write_text(json.dumps(rows))
    return (path,)


def write_gui_r1(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """GUI-R1's parquet: fractions; typing is no place."""
    rows = []
    for picture, label, things in asked(pictures):
        row = {
            "image": {"bytes": png(picture, folder), "path": None},
            "gt_bbox": scaled(things[0], picture, (1, 1)),
            "instruction": label,
            "id": str(picture.number),
            "gt_action": "click",
            "gt_input_text": "no input text",
            "history": "None",
            "task_type": "low",
        }
        rows += [row] if len(things) == 1 else []
    rows.append({**rows[0], "gt_action": "type"})
    return (write_parquet(folder / "train.parquet", rows),)


def with_question(
    pictures: Sequence[Picture], question: str, answer_format: str, truth: Callable[[str, list[Thing]], Row | None]
) -> list[Canon]:
    """One row for each image and label that asks the set's own question."""
    rows = []
    for picture, label, things in asked(pictures):
        target = truth(label, things)
        if target is not None:
            text = f"<image>{question.format(label)} {ANSWER_FORMATS[answer_format].then}"
            made = Target(size_wh=picture.size, **target)
            rows.append((str(picture.number), made.task, text, made.to_json()))
    return rows


def counted(_: str, things: list[Thing]) -> Row:
    return {"task": "counting", "count": len(things)}


def clicked(label: str, things: list[Thing]) -> Row | None:
    truth = {"boxes_xyxy": [things[0].box], "labels": [label], "categories": [label]}
    return {"task": "pointing", **truth} if len(things) == 1 else None


def boxed(label: str, things: list[Thing]) -> Row:
    """The label in the answer is the phrase."""
    labels = [label] * len(things)
    return {"task": "grounding", "boxes_xyxy": [it.box for it in things], "labels": labels, "categories": [label]}


FORMATS = (
    own("ms-swift real", partial(write_ms_swift, what="real"), grounding, preset="ms-swift"),
    own("ms-swift norm1", partial(write_ms_swift, what="norm1"), grounding, preset="ms-swift"),
    own("ms-swift points", partial(write_ms_swift, what="points"), pointing, preset="ms-swift"),
    own("visual-rft", write_visual_rft, grounding, preset="visual-rft", embeds=True),
    own("seg-zero", write_seg_zero, grounding, preset="seg-zero", embeds=True),
    own("rex-thinker", write_rex_thinker, grounding, preset="rex-thinker"),
    own(
        "r1-v",
        write_r1_v,
        lambda pictures: with_question(pictures, QUESTION, "count", counted),
        preset="r1-v",
        embeds=True,
    ),
    own(
        "easyr1",
        write_easyr1,
        lambda pictures: with_question(pictures, QUESTION, "count", counted),
        preset="easyr1",
        column=["count=answer"],
    ),
    own(
        "llamafactory",
        write_llamafactory,
        lambda pictures: with_question(pictures, QUESTION, "qwen-json", boxed),
        preset="llamafactory",
        box_format="xyxy-abs",
    ),
    own(
        "gui-r1",
        write_gui_r1,
        lambda pictures: with_question(pictures, CLICK, "point", clicked),
        preset="gui-r1",
        embeds=True,
    ),
)
