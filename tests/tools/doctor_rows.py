"""Data sets for `visionr1 doctor`: rows made by hand, and the faults of a converted one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scene_sets.base import exif
from typer.testing import CliRunner, Result

from verl_visionr1.cli import app
from verl_visionr1.conversion import scenes
from verl_visionr1.conversion.datasets import coco
from verl_visionr1.processed import processed_size
from verl_visionr1.rows import read_rows
from verl_visionr1.targets import Target
from verl_visionr1.tools.doctor.examination import examine

N_IMAGES = 24
SIZE = (200, 120)


def doctor(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["doctor", "--verl", "no", *map(str, arguments)])


Truth = dict[str, Any]
Change = Callable[[dict[str, Any], Truth, int], Any]
Form = Callable[[list[float], int, int], list[float]]


def change_rows(path: Path, change: Change) -> None:
    """Rewrite a file with each row changed in place: (row, its truth as a dictionary, number)."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    for number, row in enumerate(rows):
        truth = json.loads(row["reward_model"]["ground_truth"])
        change(row, truth, number)
        row["reward_model"]["ground_truth"] = json.dumps(truth)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def of_rows(change: Change) -> Callable[[Path], None]:
    """The fault of a data set whose training rows are changed so."""
    return lambda folder: change_rows(folder / "train.parquet", change)


def of_objects(change: Callable[[Truth], Any]) -> Callable[[Path], None]:
    """The fault of a data set where some rows with objects are changed so."""
    return of_rows(lambda row, truth, number: change(truth) if truth.get("boxes_xyxy") and number < 9 else None)


def of_boxes(form: Form) -> Callable[[Path], None]:
    """The fault of a data set whose boxes are written so, from box and size."""
    written = lambda truth: [form(box, *truth["size_wh"]) for box in truth.get("boxes_xyxy", [])]  # noqa: E731
    return of_rows(lambda row, truth, number: truth.update(boxes_xyxy=written(truth)))


def of_images(name: str, write: Callable[[Image.Image, Path], None]) -> Callable[[Path], None]:
    """The fault of a data set where every third row shows a changed copy of its image."""

    def spoil(folder: Path) -> None:
        def change(row: dict[str, Any], truth: Truth, number: int) -> None:
            if number % 3 == 0:
                with Image.open(row["images"][0]) as image:
                    write(image, folder / f"{number}{name}")
                row["images"] = [str(folder / f"{number}{name}")]

        change_rows(folder / "train.parquet", change)

    return spoil


FORMS: dict[str, Form] = {
    "xyxy-abs": lambda b, w, h: b,
    "xywh-abs": lambda b, w, h: [b[0], b[1], b[2] - b[0], b[3] - b[1]],
    "yxyx-abs": lambda b, w, h: [b[1], b[0], b[3], b[2]],
    "xyxy-norm1": lambda b, w, h: [b[0] / w, b[1] / h, b[2] / w, b[3] / h],
    "xyxy-norm1000": lambda b, w, h: [round(1000 * v / side) for v, side in zip(b, (w, h) * 2, strict=True)],
}


def convert_again(folder: Path, split: str, to: Path, options: coco.Options) -> None:
    """The drawn scenes of a split, in another way."""
    scene = Path(str(next(read_rows(folder / "train.parquet"))["images"][0])).parents[1]
    coco.convert(scene / "annotations" / f"instances_{split}.json", scene / split, to, options)


def processed_pixels(folder: Path) -> None:
    def form(box: list[float], w: int, h: int) -> list[float]:
        new_w, new_h = processed_size((w, h), "qwen2.5-vl")
        return [round(v * scale) for v, scale in zip(box, (new_w / w, new_h / h) * 2, strict=True)]

    annotations = scenes.write_split(folder / "scenes", "train", count=N_IMAGES, seed=3, size_wh=(240, 160))
    coco.convert(annotations, folder / "scenes" / "train", folder / "train.parquet")
    of_boxes(form)(folder)


def silence_negatives(row: dict[str, Any], truth: Truth, number: int) -> None:
    for turn in row["prompt"]:
        turn["content"] = turn["content"].replace(" If there is none, output [].", "")


def drop_placeholders(row: dict[str, Any], truth: Truth, number: int) -> None:
    row["prompt"][0]["content"] = row["prompt"][0]["content"].removeprefix("<image>" if number % 2 else "")


def answer_long(row: dict[str, Any], truth: Truth, number: int) -> None:
    if truth["task"] == "detection":
        boxes = [[i, i, i + 20, i + 20.5] for i in range(60)]
        truth.update(boxes_xyxy=boxes, labels=[truth["categories"][0]] * 60)


def repeated_rows(folder: Path) -> None:
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(3, 2)]), folder / "train.parquet")


def leaking(folder: Path) -> None:
    """Some training images are copied under another name into validation."""
    table = pq.read_table(folder / "val.parquet")
    rows = table.to_pylist()
    detection = [row for row in read_rows(folder / "train.parquet") if row["ability"] == "detection"]
    for number, row in enumerate(detection[:5]):
        shutil.copy(row["images"][0], folder / f"copy{number}.png")
        row["images"] = [str(folder / f"copy{number}.png")]
        row["extra_info"].update(split="val", index=row["extra_info"]["index"] + 7)
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / "val.parquet")


def of_another_project(folder: Path) -> None:
    table = pq.read_table(folder / "train.parquet")
    truth = pa.array([{"style": "rule", "ground_truth": [1.0, 2.0, 3.0, 4.0]}] * len(table))
    at = table.schema.get_field_index("reward_model")
    pq.write_table(table.set_column(at, "reward_model", truth), folder / "train.parquet")


def invert(truth: Truth) -> None:
    x1, y1, x2, y2 = truth["boxes_xyxy"][0]
    truth["boxes_xyxy"][0] = [x2, y1, x1, y2]


def repeat_object(truth: Truth) -> None:
    for name in ("boxes_xyxy", "labels"):
        truth[name].append(truth[name][0])


inverted, duplicate_boxes = of_objects(invert), of_objects(repeat_object)
fractions, rotated = of_boxes(FORMS["xyxy-norm1"]), of_images(".jpg", lambda im, path: im.save(path, exif=exif(6)))
unnamed_labels = of_rows(
    lambda row, truth, number: truth.update(labels=[it.replace("circle", "disk") for it in truth.get("labels", [])])
)
swapped_sides = of_rows(lambda row, truth, number: truth["size_wh"].reverse())
BROKEN: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "inverted": (inverted, 2, r"error: inverted box \(\d\).*row \d: boxes_xyxy\[0\] = .*x1 > x2"),
    "no area": (
        of_objects(lambda truth: truth["boxes_xyxy"].append([5, 5, 5, 9])),
        *(2, r"error: zero-area box \(\d\)"),
    ),
    "duplicates": (duplicate_boxes, 1, r"warning: duplicate box \(\d\).*is listed twice"),
    "fractions": (fractions, 1, r"coordinates.*boxes_xyxy.*look like x1 y1 x2 y2 in fractions"),
    "thousandths": (of_boxes(FORMS["xyxy-norm1000"]), 2, r"coordinates.*boxes_xyxy: \d+ % of .*x1 y1 x2 y2 in 0-1000"),
    "corner and size": (of_boxes(FORMS["xywh-abs"]), 2, r"coordinates.*boxes_xyxy: \d+ % of .*x y width height in pix"),
    "y before x": (of_boxes(FORMS["yxyx-abs"]), 2, r"coordinates.*look like y1 x1 y2 x2 in pixels"),
    "processed pixels": (processed_pixels, 2, r"coordinates.*processor"),
    "unnamed labels": (unnamed_labels, 1, r"label not in the prompt \(\d+\).*label '\w+ disk' is not in the prompt"),
    "silent negatives": (of_rows(silence_negatives), 1, r"empty truth \(\d+\)"),
    "no placeholder": (of_rows(drop_placeholders), 2, r"placeholders \(\d+\).*prompt has 0 '<image>' for 1 images"),
    "moved images": (
        of_rows(lambda row, truth, number: row.update(images=["/nowhere/a.png"])),
        *(2, r"no such image \(\d+\).*/nowhere/a.png"),
    ),
    "rotated": (rotated, 2, r"rotated image \(\d+\).*EXIF orientation 6"),
    "shrunk": (
        of_images(".png", lambda image, path: image.resize((100, 60)).save(path)),
        *(2, r"another size \(\d+\).*\(100, 60\).*\(200, 120\)"),
    ),
    "swapped sides": (swapped_sides, 2, r"outside the image of \(120, 200\); are width and height swapped\?"),
    "swapped size": (swapped_sides, 2, r"another size.*\(200, 120\), but \(120, 200\).*width and height are swapped"),
    "long answers": (of_rows(answer_long), 1, r"answer too long \(\d+\).*about \d{4} tokens \(60 objects\).*1024"),
    "repeated rows": (repeated_rows, 1, r"repeated row \(2\).*row \d"),
    "leaking": (leaking, 1, r"train/validation overlap.*5 images are .*train.parquet"),
    "always one": (
        lambda folder: convert_again(folder, "train", folder / "train.parquet", coco.Options(task="counting")),
        *(1, r"unbalanced.*of \d+ counting rows \(\d\d %\) are 1"),
    ),
    "another project's": (of_another_project, 2, r"unreadable truth.*needs a JSON.*column of another type.*is struct"),
}
"""Fault, exit code, what is printed."""


CAT = Target(task="grounding", size_wh=(100, 80), boxes_xyxy=[[1, 1, 50, 50]], labels=["cat"], categories=["cat"])
ASKED = [{"role": "user", "content": "<image>Locate the cat, or say none"}]


def a_row(folder: Path, number: int = 0, truth: str = CAT.to_json(), **changes: Any) -> dict[str, Any]:
    image = folder / "a.png"
    if not image.exists():
        Image.new("RGB", (100, 80), "red").save(image)
    info = {"split": "train", "index": number, "image_id": "a", "width": 100, "height": 80, "task": "grounding"}
    info |= {"question": "q", "file_name": "a.png", "source_ann": "{}"}
    row = {"data_source": "x", "prompt": ASKED, "images": [str(image)], "ability": "grounding"}
    return {**row, "reward_model": {"style": "rule", "ground_truth": truth}, "extra_info": info, **changes}


def a_text_row(folder: Path, number: int = 0, **changes: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "What?"}]
    return a_row(folder, number, Target(task="text", answer="B").to_json(), prompt=turns, images=[], **changes)


def write_rows(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def kinds_in(*paths: Path) -> list[str]:
    return [group.kind for group in examine(paths).found]


def embedded(folder: Path) -> dict[str, Any]:
    a_row(folder)
    return {"bytes": (folder / "a.png").read_bytes()}


LONG = "9" * 400
