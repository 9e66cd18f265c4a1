"""Rows of other frameworks and of nobody in particular: Vision-R1, VLM-R1, and what `records.py` reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scene_sets.base import NAMES, Canon, Picture, SceneFormat, Thing, counting, detection, grounding, pointing
from verl_visionr1.answers import FORMATS as ANSWER_FORMATS
from verl_visionr1.conversion.datasets import records, vision_r1, vlm_r1
from verl_visionr1.targets import Target

Row = dict[str, Any]
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
VISUAL_RFT = (
    "Detect all objects belonging to the category '{0}' in the image, and provide the bounding boxes (between 0 and "
    "1000, integer) and confidence (between 0 and 1, with two decimal places).\nIf no object belonging to the category "
    "'{0}' in the image, return 'No Objects'.\nOutput the thinking process in <think> </think> and final answer in "
    "<answer> </answer> tags.The output answer format should be as follows:\n<think> ... </think> "
    "<answer>[{{'Position': [x1, y1, x2, y2], 'Confidence': number}}, ...]</answer>\nPlease strictly follow the format."
)


def png(picture: Picture, folder: Path) -> bytes:
    """The bytes of an image file."""
    return picture.save(folder / "originals").read_bytes()


def write_jsonl(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Sequence[Row], features: Row | None = None) -> Path:
    """With the `huggingface` metadata that `datasets` writes, where features are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows))
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def asked(pictures: Sequence[Picture]) -> Iterator[tuple[Picture, str, list[Thing]]]:
    """(picture, label, its objects): one row each."""
    for picture in pictures:
        for label in picture.labels:
            yield picture, label, picture.of(label)


def scaled(thing: Thing, picture: Picture, whole: tuple[float, float]) -> list[float]:
    """A box where `whole` stands for the picture's size."""
    (width, height), (x1, y1, x2, y2) = picture.size, thing.box
    sx, sy = whole[0] / width, whole[1] / height
    return [x1 * sx, y1 * sy, x2 * sx, y2 * sy]


# ---------------------------------------------------------------------------------------------- Vision-R1


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


# ---------------------------------------------------------------------------------------------- VLM-R1


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


# ---------------------------------------------------------------------------------------------- tables


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


# ---------------------------------------------------------------------------------------------- frameworks


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


def own(name: str, write: Callable[..., tuple[Any, ...]], expected: Callable[..., list[Canon]], **options: Any) -> Any:
    """A format of `records.py`; images lie in `images/` where they are not named by path."""

    def convert(source: Path, out: Path, given: records.Options) -> Any:
        images = source.parent / "images"
        return records.convert(source, out, _in(given, images) if images.is_dir() else given)

    embeds = write in (write_class_labels, write_visual_rft, write_seg_zero, write_r1_v, write_gui_r1)
    return SceneFormat(f"records {name}", write, convert, records.Options(**options), expected, embeds)


def _in(options: records.Options, folder: Path) -> records.Options:
    return records.Options(**{**vars_of(options), "images_dir": folder})


def vars_of(options: records.Options) -> Row:
    """The fields of the options."""
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


ALL = ",".join(NAMES)
TASKS = {"detection": detection, "grounding": grounding, "counting": counting}
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
    own("ms-swift real", partial(write_ms_swift, what="real"), grounding, preset="ms-swift"),
    own("ms-swift norm1", partial(write_ms_swift, what="norm1"), grounding, preset="ms-swift"),
    own("ms-swift points", partial(write_ms_swift, what="points"), pointing, preset="ms-swift"),
    own("visual-rft", write_visual_rft, grounding, preset="visual-rft"),
    own("seg-zero", write_seg_zero, grounding, preset="seg-zero"),
    own("rex-thinker", write_rex_thinker, grounding, preset="rex-thinker"),
    own("r1-v", write_r1_v, lambda pictures: with_question(pictures, QUESTION, "count", counted), preset="r1-v"),
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
    own("gui-r1", write_gui_r1, lambda pictures: with_question(pictures, CLICK, "point", clicked), preset="gui-r1"),
)
