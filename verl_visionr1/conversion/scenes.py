"""Seeded scenes of coloured shapes, written as a COCO-format dataset.

The images have exact ground truth: every box is measured from the mask that painted the object.

    visionr1 convert scenes scenes --train 2000 --val 200 --seed 0

writes `scenes/{train,val}/000000.png ...` and `scenes/annotations/instances_{train,val}.json`, for
`visionr1 convert coco`. The same arguments give the same bytes; the first n scenes do not depend on how many follow.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, ImageDraw

from verl_visionr1.settings import needs_one_of

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (45, 80, 220),
    "yellow": (235, 205, 30),
}
"""Colour name -> RGB."""

SHAPES = ("circle", "square", "triangle")

CATEGORY_IDS: dict[str, int] = {
    f"{colour} {shape}": 10 * (1 + colour_index) + 3 * shape_index + 1
    for colour_index, colour in enumerate(COLOURS)
    for shape_index, shape in enumerate(SHAPES)
}
"""Category name -> COCO category id. The ids have gaps, as in real COCO."""

CATEGORIES = tuple(CATEGORY_IDS)
"""All category names, in the order of their ids."""

STREAMS = {"train": 0, "val": 1, "warm-start": 2, "held-out": 3, "habits": 4, "claims": 5}
"""Independent streams of scenes under one seed: the two splits, and those that `recipes/tiny` and `benchmarks/claims`
draw from."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One painted shape.

    Attributes:
        category: one of `CATEGORIES`.
        box_xyxy: the tight box of its mask: integer pixels, 0-based, half-open.
        area: number of pixels of its mask.
    """

    category: str
    box_xyxy: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of an image: its size in pixels, and its objects in the order of painting."""

    size_wh: tuple[int, int]
    objects: tuple[SceneObject, ...]

    def of(self, category: str) -> tuple[SceneObject, ...]:
        """Return the objects of one category."""
        return tuple(item for item in self.objects if item.category == category)


def scene_rng(seed: int, stream: str, index: int) -> np.random.Generator:
    """Return the random generator of scene `index` of one of the `STREAMS`.

    Streams never share a generator, so that train and val scenes are independent whatever their numbers.

    >>> bool(scene_rng(0, "val", 3).integers(1000) == scene_rng(0, "val", 3).integers(1000))
    True
    """
    return np.random.default_rng([seed, STREAMS[stream], index])


def draw_scene(
    rng: np.random.Generator,
    *,
    size_wh: tuple[int, int] = (128, 128),
    objects_min: int = 1,
    objects_max: int = 3,
    gap: int = 2,
) -> tuple[Image.Image, Scene]:
    """Draw one scene: a grey, lightly textured ground with coloured shapes whose boxes do not touch.

    Args:
        rng: the only source of randomness; see `scene_rng`.
        size_wh: width and height in pixels, at least 32 each.
        objects_min, objects_max: bounds of the number of objects (inclusive). A crowded scene may have fewer than
            drawn, because a shape without a free place is left out; it never has fewer than min(objects_min, 1).
        gap: least distance between two boxes in pixels. Negative: boxes may overlap by this many pixels, and an
            object hides part of earlier ones; its box remains that of its whole shape.

    Returns:
        An RGB image and its Scene. Shapes are 15 to 50 % of the image's shorter side.

    Raises:
        ValueError: a side below 32 pixels, or bounds that are not 0 <= objects_min <= objects_max.

    >>> image, scene = draw_scene(scene_rng(0, "val", 0), size_wh=(96, 64))
    >>> image.size, scene.size_wh, 1 <= len(scene.objects) <= 3
    ((96, 64), (96, 64), True)
    """
    width, height = size_wh
    if min(size_wh) < 32:
        raise ValueError(f"size_wh = {size_wh}: a scene needs at least 32 pixels per side")
    if not 0 <= objects_min <= objects_max:
        raise ValueError(f"objects_min = {objects_min}, objects_max = {objects_max}: needs 0 <= min <= max")
    pixels = _ground(rng, width, height)
    objects: list[SceneObject] = []
    for _ in range(int(rng.integers(objects_min, objects_max + 1))):
        category = _category(rng, objects)
        painted = _place(rng, size_wh, category, [item.box_xyxy for item in objects], gap)
        if painted is None:
            continue
        item, mask = painted
        left, top, right, bottom = item.box_xyxy
        region = pixels[top:bottom, left:right]
        region[mask[top:bottom, left:right]] = COLOURS[category.split()[0]]
        objects.append(item)
    return Image.fromarray(pixels, "RGB"), Scene(size_wh=size_wh, objects=tuple(objects))


def _ground(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return grey with faint noise: (height, width, 3) uint8, channels at most 4 levels apart."""
    grey = int(rng.integers(100, 236))
    noise = rng.integers(-8, 9, size=(height, width, 1)) + rng.integers(-2, 3, size=(height, width, 3))
    return np.clip(grey + noise, 0, 255).astype(np.uint8)


def _category(rng: np.random.Generator, objects: list[SceneObject]) -> str:
    """Draw a category; a third of the later objects repeat the first one's, so that a phrase can mean several."""
    if objects and rng.random() < 1 / 3:
        return objects[0].category
    return CATEGORIES[int(rng.integers(len(CATEGORIES)))]


def _place(
    rng: np.random.Generator,
    size_wh: tuple[int, int],
    category: str,
    taken_xyxy: list[tuple[int, int, int, int]],
    gap: int,
) -> tuple[SceneObject, np.ndarray] | None:
    """Find a free place for one shape, or None after 40 attempts that would touch another object's box."""
    width, height = size_wh
    for attempt in range(40):
        largest = 0.5 if attempt < 10 else 0.3  # in a crowded scene only a smaller shape fits
        side = max(5, round(min(size_wh) * float(rng.uniform(0.15, largest))))
        left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
        near = (left - gap, top - gap, left + side + gap, top + side + gap)
        if not any(near[0] < x2 and x1 < near[2] and near[1] < y2 and y1 < near[3] for x1, y1, x2, y2 in taken_xyxy):
            mask = _mask(size_wh, category.split()[1], left, top, side)
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box_xyxy = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            return SceneObject(category=category, box_xyxy=box_xyxy, area=int(mask.sum())), mask
    return None


def _mask(size_wh: tuple[int, int], shape: str, left: int, top: int, side: int) -> np.ndarray:
    """Return the pixels of one shape: (height, width) bool."""
    canvas = Image.new("1", size_wh)
    draw = ImageDraw.Draw(canvas)
    right, bottom = left + side - 1, top + side - 1  # PIL's corners are inclusive
    if shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=1)
    elif shape == "square":
        draw.rectangle((left, top, right, bottom), fill=1)
    else:
        draw.polygon([(left, bottom), (right, bottom), (left + (side - 1) // 2, top)], fill=1)
    return np.asarray(canvas)


def write_split(
    directory: Path,
    split: str,
    *,
    count: int,
    seed: int,
    size_wh: tuple[int, int] = (128, 128),
    objects_min: int = 1,
    objects_max: int = 3,
) -> Path:
    """Write `count` scenes under `directory/split` and their `directory/annotations/instances_<split>.json`.

    Args:
        split: "train" or "val" (any of `STREAMS`).

    Returns:
        The path of the annotation file: COCO keys images, annotations (bbox in xywh), categories; image ids have gaps.

    Raises:
        ValueError: an unknown split, a negative count, or what `draw_scene` refuses.
    """
    if split not in STREAMS:
        raise ValueError(f"split = {split!r}: {needs_one_of(split, STREAMS)}")
    if count < 0:
        raise ValueError(f"count = {count} for split {split!r}: needs 0 or more")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (directory / split).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image, scene = draw_scene(
            scene_rng(seed, split, index), size_wh=size_wh, objects_min=objects_min, objects_max=objects_max
        )
        record = image_record(index, scene)
        # level 1 compresses noise as well as level 6 does, at a fraction of the time
        image.save(directory / split / record["file_name"], compress_level=1)
        images.append(record)
        annotations.extend(annotation_records(scene, record["id"], len(annotations)))
    path = directory / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": category_records()}))
    return path


def image_record(index: int, scene: Scene) -> dict[str, Any]:
    """Return the COCO record of scene `index`: id, file name, width, height."""
    width, height = scene.size_wh
    return {"id": 7 * index + 9, "file_name": f"{index:06d}.png", "width": width, "height": height}


def annotation_records(scene: Scene, image_id: int, first: int) -> Iterator[dict[str, Any]]:
    """Yield the COCO annotations of a scene's objects; `first` is the number of earlier annotations."""
    for offset, item in enumerate(scene.objects):
        left, top, right, bottom = item.box_xyxy
        yield {
            "id": first + offset + 1,
            "image_id": image_id,
            "category_id": CATEGORY_IDS[item.category],
            "bbox": [left, top, right - left, bottom - top],
            "area": item.area,
            "iscrowd": 0,
        }


def category_records() -> list[dict[str, Any]]:
    """Return COCO's `categories`: all of `CATEGORY_IDS`."""
    return [{"id": id_, "name": name, "supercategory": name.split()[1]} for name, id_ in CATEGORY_IDS.items()]


def main(
    out_dir: Annotated[Path, typer.Argument(help="Folder to write; made if missing.")],
    train: Annotated[int, typer.Option(min=0, help="Number of training scenes.")] = 2000,
    val: Annotated[int, typer.Option(min=0, help="Number of validation scenes.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    size: Annotated[tuple[int, int], typer.Option(help="Width and height in pixels.")] = (128, 128),
    objects_min: Annotated[int, typer.Option(help="Fewest objects in a scene.")] = 1,
    objects_max: Annotated[int, typer.Option(help="Most objects in a scene.")] = 3,
) -> None:
    """Write COCO-format scenes: OUT_DIR/{train,val}/* and OUT_DIR/annotations/instances_{train,val}.json."""
    for split, count in (("train", train), ("val", val)):
        try:
            path = write_split(
                out_dir, split, count=count, seed=seed, size_wh=size, objects_min=objects_min, objects_max=objects_max
            )
        except (ValueError, OSError) as error:
            typer.echo(f"scenes: {error}", err=True)
            sys.exit(2)
        typer.echo(f"{path}: {count} scenes")
