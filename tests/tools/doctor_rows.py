"""Data sets for `visionr1 doctor`: rows made by hand, and the faults of a converted one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import wraps
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


def change_rows(path: Path, change: Callable[[dict[str, Any], Truth, int], None]) -> None:
    """Rewrite a file with each row changed in place: (row, its truth as a dictionary, number)."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    for number, row in enumerate(rows):
        truth = json.loads(row["reward_model"]["ground_truth"])
        change(row, truth, number)
        row["reward_model"]["ground_truth"] = json.dumps(truth)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def of_rows(change: Callable[[dict[str, Any], Truth, int], None]) -> Callable[[Path], None]:
    """The fault of a data set whose training rows are changed so."""
    return wraps(change)(lambda folder: change_rows(folder / "train.parquet", change))


def of_boxes(name: str, form: Callable[[list[float], int, int], list[float]]) -> Callable[[Path], None]:
    """The fault of a data set whose boxes are written so, from box and size."""

    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        truth["boxes_xyxy"] = [form(box, *truth["size_wh"]) for box in truth.get("boxes_xyxy", [])]

    change.__name__ = name
    return of_rows(change)


FORMS: dict[str, Callable[[list[float], int, int], list[float]]] = {
    "xyxy-abs": lambda b, w, h: b,
    "xywh-abs": lambda b, w, h: [b[0], b[1], b[2] - b[0], b[3] - b[1]],
    "yxyx-abs": lambda b, w, h: [b[1], b[0], b[3], b[2]],
    "xyxy-norm1": lambda b, w, h: [b[0] / w, b[1] / h, b[2] / w, b[3] / h],
    "xyxy-norm1000": lambda b, w, h: [round(1000 * v / side) for v, side in zip(b, (w, h) * 2, strict=True)],
}
fractions = of_boxes("fractions", FORMS["xyxy-norm1"])
thousandths = of_boxes("thousandths", FORMS["xyxy-norm1000"])
corner_and_size = of_boxes("corner_and_size", FORMS["xywh-abs"])
y_before_x = of_boxes("y_before_x", FORMS["yxyx-abs"])


@of_rows
def inverted(row: dict[str, Any], truth: Truth, number: int) -> None:
    if truth.get("boxes_xyxy") and number < 9:
        x1, y1, x2, y2 = truth["boxes_xyxy"][0]
        truth["boxes_xyxy"][0] = [x2, y1, x1, y2]


@of_rows
def zero_area(row: dict[str, Any], truth: Truth, number: int) -> None:
    if truth.get("boxes_xyxy") and number < 9:
        truth["boxes_xyxy"][0][3] = truth["boxes_xyxy"][0][1]


@of_rows
def duplicate_boxes(row: dict[str, Any], truth: Truth, number: int) -> None:
    if truth.get("boxes_xyxy") and number < 9:
        truth["boxes_xyxy"].append(truth["boxes_xyxy"][0])
        truth["labels"].append(truth["labels"][0])


def processed_pixels(folder: Path) -> None:
    def form(box: list[float], w: int, h: int) -> list[float]:
        new_w, new_h = processed_size((w, h), "qwen2.5-vl")
        return [round(v * scale) for v, scale in zip(box, (new_w / w, new_h / h) * 2, strict=True)]

    annotations = scenes.write_split(folder / "scenes", "train", count=N_IMAGES, seed=3, size_wh=(240, 160))
    coco.convert(annotations, folder / "scenes" / "train", folder / "train.parquet")
    of_boxes("processed_pixels", form)(folder)


@of_rows
def unnamed_labels(row: dict[str, Any], truth: Truth, number: int) -> None:
    truth["labels"] = [label.replace("circle", "disk") for label in truth.get("labels", [])]


@of_rows
def silent_negatives(row: dict[str, Any], truth: Truth, number: int) -> None:
    for turn in row["prompt"]:
        turn["content"] = turn["content"].replace(" If there is none, output [].", "")


@of_rows
def no_placeholder(row: dict[str, Any], truth: Truth, number: int) -> None:
    row["prompt"][0]["content"] = row["prompt"][0]["content"].removeprefix("<image>" if number % 2 else "")


@of_rows
def moved_images(row: dict[str, Any], truth: Truth, number: int) -> None:
    row["images"] = ["/nowhere/a.png"]


def other_image(folder: Path, name: str, write: Callable[[Image.Image, Path], None]) -> None:
    """Every third row shows a changed copy of its image."""

    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        if number % 3 == 0:
            with Image.open(row["images"][0]) as image:
                write(image, folder / f"{number}{name}")
            row["images"] = [str(folder / f"{number}{name}")]

    change_rows(folder / "train.parquet", change)


def rotated(folder: Path) -> None:
    other_image(folder, ".jpg", lambda image, path: image.save(path, exif=exif(6)))


def cut_off(folder: Path) -> None:
    def write(image: Image.Image, path: Path) -> None:
        image.save(path)
        path.write_bytes(path.read_bytes()[:-200])

    other_image(folder, ".png", write)


def shrunk(folder: Path) -> None:
    other_image(folder, ".png", lambda image, path: image.resize((100, 60)).save(path))


@of_rows
def long_answers(row: dict[str, Any], truth: Truth, number: int) -> None:
    if truth["task"] == "detection":
        truth["boxes_xyxy"] = [[i, i, i + 20, i + 20.5] for i in range(60)]
        truth["labels"] = [truth["categories"][0]] * 60


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


def convert_again(folder: Path, split: str, to: Path, options: coco.Options) -> None:
    """The drawn scenes of a split, in another way."""
    scene = Path(str(next(read_rows(folder / "train.parquet"))["images"][0])).parents[1]
    coco.convert(scene / "annotations" / f"instances_{split}.json", scene / split, to, options)


def always_one(folder: Path) -> None:
    convert_again(folder, "train", folder / "train.parquet", coco.Options(task="counting"))


def of_another_project(folder: Path) -> None:
    table = pq.read_table(folder / "train.parquet")
    truth = pa.array([{"style": "rule", "ground_truth": [1.0, 2.0, 3.0, 4.0]}] * len(table))
    at = table.schema.get_field_index("reward_model")
    pq.write_table(table.set_column(at, "reward_model", truth), folder / "train.parquet")


BROKEN: list[tuple[Callable[[Path], None], int, str]] = [
    (inverted, 2, r"error: inverted box \(\d\).*row \d: boxes_xyxy\[0\] = .*x1 > x2"),
    (zero_area, 2, r"error: zero-area box \(\d\)"),
    (duplicate_boxes, 1, r"warning: duplicate box \(\d\).*is listed twice"),
    (fractions, 1, r"coordinates.*boxes_xyxy.*look like x1 y1 x2 y2 in fractions"),
    (thousandths, 2, r"coordinates.*boxes_xyxy: \d+ % of \d+ boxes.*look like x1 y1 x2 y2 in 0-1000"),
    (corner_and_size, 2, r"coordinates.*boxes_xyxy: \d+ % of \d+ boxes.*look like x y width height in pixels"),
    (y_before_x, 2, r"coordinates.*look like y1 x1 y2 x2 in pixels"),
    (processed_pixels, 2, r"coordinates.*processor"),
    (unnamed_labels, 1, r"label not in the prompt \(\d+\).*label '\w+ disk' is not in the prompt"),
    (silent_negatives, 1, r"empty truth \(\d+\)"),
    (no_placeholder, 2, r"placeholders \(\d+\).*prompt has 0 '<image>' for 1 images"),
    (moved_images, 2, r"no such image \(\d+\).*/nowhere/a.png"),
    (rotated, 2, r"rotated image \(\d+\).*EXIF orientation 6"),
    (cut_off, 2, r"unreadable image \(\d+\)"),
    (shrunk, 2, r"another size \(\d+\).*\(100, 60\).*\(200, 120\)"),
    (long_answers, 1, r"answer too long \(\d+\).*takes about \d{4} tokens \(60 objects\).*1024"),
    (repeated_rows, 1, r"repeated row \(2\).*row \d"),
    (leaking, 1, r"train/validation overlap.*5 images are .*train.parquet"),
    (always_one, 1, r"unbalanced.*of \d+ counting rows \(\d\d %\) are 1"),
    (of_another_project, 2, r"column of another type.*'reward_model' is struct"),
]
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
