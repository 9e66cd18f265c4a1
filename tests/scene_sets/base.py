"""The scenes, and the rows that any converter must make of them: written down here without any converter's code."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from verl_visionr1.answers import FORMATS as ANSWER_FORMATS
from verl_visionr1.conversion.scenes import COLOURS, draw_scene, scene_rng
from verl_visionr1.conversion.writing import Report
from verl_visionr1.rows import read_rows
from verl_visionr1.targets import Target

NAMES = tuple(sorted(f"{colour} {shape}" for colour in COLOURS for shape in ("circle", "square", "triangle")))
"""The vocabulary, in the order in which every format lists it."""
SIZES = ((160, 120), (96, 128), (200, 90), (128, 128))
N_SCENES = 8


@dataclass(frozen=True)
class Thing:
    """One object: its label and its box in pixels, 0-based, half-open."""

    label: str
    box: tuple[int, int, int, int]

    @property
    def xywh(self) -> list[int]:
        x1, y1, x2, y2 = self.box
        return [x1, y1, x2 - x1, y2 - y1]

    @property
    def centre(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True)
class Picture:
    """One drawn image: a number that data sets make its id of, its size and its objects."""

    number: int
    size: tuple[int, int]
    things: tuple[Thing, ...]
    pixels: bytes = field(repr=False)

    @property
    def file_name(self) -> str:
        return f"{self.number:012d}.png"

    @property
    def labels(self) -> list[str]:
        """Labels that are there, in the vocabulary's order."""
        return [name for name in NAMES if any(thing.label == name for thing in self.things)]

    def of(self, label: str) -> list[Thing]:
        """Objects of one label, from left to right: the order of rows."""
        return sorted((thing for thing in self.things if thing.label == label), key=lambda thing: thing.box)

    def image(self) -> Image.Image:
        return Image.frombytes("RGB", self.size, self.pixels)

    def save(self, folder: Path, name: str | None = None, **options: Any) -> Path:
        """Write the image file."""
        path = folder / (name or self.file_name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.image().save(path, **options)
        return path


@cache
def pictures() -> tuple[Picture, ...]:
    """The scenes: each has at least one object; some labels come twice."""
    made = []
    for i in range(N_SCENES):
        image, scene = draw_scene(scene_rng(7, "val", i), size_wh=SIZES[i % len(SIZES)], objects_min=2, objects_max=5)
        things = tuple(Thing(item.category, item.box_xyxy) for item in scene.objects)
        made.append(Picture(1000 + 17 * i, image.size, things, image.tobytes()))
    return tuple(made)


Canon = tuple[str, str, str, str]
"""What every converter must agree on: number of the image, task, prompt, ground truth."""


def _canon(picture: Picture, answer_format: str, allow_none: bool, **target: Any) -> Canon:
    made = Target(size_wh=picture.size, **target)
    instruct = ANSWER_FORMATS[answer_format].instruct
    assert instruct is not None
    question = instruct(made.task, list(made.categories), allow_none=allow_none)
    return str(picture.number), made.task, "<image>" + question, made.to_json()


def detection(pictures: Sequence[Picture], *, allow_none: bool = False) -> list[Canon]:
    """One row for each image: all objects of the whole vocabulary."""
    rows = []
    for picture in pictures:
        things = [thing for label in NAMES for thing in picture.of(label)]
        boxes, labels = [thing.box for thing in things], [thing.label for thing in things]
        truth = {"task": "detection", "boxes_xyxy": boxes, "labels": labels, "categories": NAMES}
        rows.append(_canon(picture, "qwen-json", allow_none, **truth))
    return rows


def grounding(pictures: Sequence[Picture], *, single: bool = False, allow_none: bool = False) -> list[Canon]:
    """One row for each image and label in it; `single`: only labels that are there once."""
    rows = []
    for picture in pictures:
        for label in picture.labels:
            boxes = [thing.box for thing in picture.of(label)]
            truth = {"task": "grounding", "boxes_xyxy": boxes, "labels": [label] * len(boxes), "categories": [label]}
            if len(boxes) == 1 or not single:
                rows.append(_canon(picture, "qwen-json", allow_none, **truth))
    return rows


def counting(
    pictures: Sequence[Picture], *, boxes: bool = True, points: bool = False, allow_none: bool = False
) -> list[Canon]:
    """One row for each image and label in it: how many; with the objects' boxes or centres, or the number alone."""
    rows = []
    for picture in pictures:
        for label in picture.labels:
            things = picture.of(label)
            truth: dict[str, Any] = {"task": "counting", "categories": [label], "count": len(things)}
            if boxes or points:
                truth["labels"] = [label] * len(things)
            if boxes:
                truth["boxes_xyxy"] = [thing.box for thing in things]
            if points:
                truth["points_xy"] = sorted(thing.centre for thing in things)
            rows.append(_canon(picture, "count", allow_none, **truth))
    return rows


def pointing(pictures: Sequence[Picture], *, allow_none: bool = False) -> list[Canon]:
    """One row for each image and label in it: the centres of its objects."""
    rows = []
    for picture in pictures:
        for label in picture.labels:
            centres = sorted(thing.centre for thing in picture.of(label))
            truth = {"points_xy": centres, "labels": [label] * len(centres), "categories": [label]}
            rows.append(_canon(picture, "qwen-points", allow_none, task="pointing", **truth))
    return rows


@dataclass(frozen=True)
class SceneFormat:
    """A data set's format: how the scenes are written in it, converted, and what must come out.

    Attributes:
        write: (pictures, folder) -> the converter's positional arguments (without the output file).
        convert: (*arguments, out, options) -> Report.
        options: for `convert`.
        expected: pictures -> rows.
        embeds: the source holds the images' bytes: paths of rows are then named by content, not by number.
    """

    name: str
    write: Callable[[Sequence[Picture], Path], tuple[Any, ...]]
    convert: Callable[..., Report]
    options: Any
    expected: Callable[[Sequence[Picture]], list[Canon]]
    embeds: bool = False


def rows_in(report: Report) -> list[dict[str, Any]]:
    """All rows of a conversion."""
    return list(read_rows(report.written.file))


def target(row: dict[str, Any]) -> Target:
    """The ground truth of a row."""
    return Target.from_json(row["reward_model"]["ground_truth"])


def prompt(row: dict[str, Any]) -> str:
    """What a row asks, without its image."""
    return row["prompt"][0]["content"].removeprefix("<image>")


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def canon_of(row: dict[str, Any]) -> Canon:
    """The part of a row that every converter must agree on. The image is known by its pixels."""
    (turn,) = row["prompt"]
    assert turn["role"] == "user"
    return number_of(opened(row)), row["ability"], turn["content"], row["reward_model"]["ground_truth"]


def opened(row: dict[str, Any]) -> Image.Image:
    """The image of a row, as verl opens it."""
    (image,) = row["images"]
    if isinstance(image, dict):
        return Image.open(io.BytesIO(image["bytes"])).convert("RGB")
    assert Path(image).is_absolute()
    return Image.open(image).convert("RGB")


def number_of(image: Image.Image) -> str:
    """Which picture an image is: the nearest one, for formats that keep JPEG."""
    pixels = np.asarray(image, dtype=float)
    same = [it for it in pictures() if it.size == image.size]
    errors = [float(np.abs(pixels - np.asarray(it.image(), dtype=float)).mean()) for it in same]
    assert errors, f"no picture of size {image.size}"
    assert min(errors) < 12, "none of the pictures"
    return str(same[int(np.argmin(errors))].number)


def remeasured(row: dict[str, Any]) -> Iterator[tuple[tuple[float, ...], tuple[float, ...]]]:
    """(box of the truth, bounds of its colour in and around it) of each labelled box in a row."""
    truth = json.loads(row["reward_model"]["ground_truth"])
    pixels = np.asarray(opened(row), dtype=int)
    boxes = truth.get("boxes_xyxy", [])
    for box, label in zip(boxes, truth.get("labels", []) if boxes else [], strict=True):
        colour = COLOURS[re.split(r"\W", label)[0]]
        left, top = (max(int(v) - 2, 0) for v in box[:2])
        window = pixels[top : int(box[3]) + 2, left : int(box[2]) + 2]
        ys, xs = np.nonzero((np.abs(window - colour) < 60).all(axis=-1))
        yield (
            tuple(box),
            (float(xs.min() + left), float(ys.min() + top), float(xs.max() + left + 1), float(ys.max() + top + 1)),
        )
