"""Scenes: what the annotation says is what the pixels show."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from verl_visionr1.cli import app
from verl_visionr1.conversion.scenes import CATEGORIES, COLOURS, SceneObject, draw_scene, scene_rng, write_split

SIZES_WH = ((128, 128), (160, 96), (64, 200), (32, 32))


def colour_mask(pixels: np.ndarray, colour: str) -> np.ndarray:
    """(height, width) bool: which pixels have that colour; found without the generator's own masks."""
    distance = np.abs(pixels.astype(int) - np.array(COLOURS[colour])).max(axis=2)
    return distance == 0


def measure(pixels: np.ndarray, item: SceneObject) -> tuple[int, int, int, int]:
    """The box of the object's colour around the object: its box grown by one pixel (objects are two apart)."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = item.box_xyxy
    near = np.zeros((height, width), bool)
    near[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = True
    rows, columns = np.nonzero(colour_mask(pixels, item.category.split()[0]) & near)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), size_wh=st.sampled_from(SIZES_WH))
def test_boxes_and_areas_are_those_of_the_pixels(seed: int, size_wh: tuple[int, int]) -> None:
    image, scene = draw_scene(scene_rng(seed, "train", 0), size_wh=size_wh)
    pixels = np.asarray(image)
    assert image.size == scene.size_wh == size_wh
    assert 1 <= len(scene.objects) <= 3
    for item in scene.objects:
        assert measure(pixels, item) == item.box_xyxy
    for colour in COLOURS:
        areas = sum(item.area for item in scene.objects if item.category.split()[0] == colour)
        assert int(colour_mask(pixels, colour).sum()) == areas


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), size_wh=st.sampled_from(SIZES_WH))
def test_objects_lie_inside_apart_and_in_the_size_range(seed: int, size_wh: tuple[int, int]) -> None:
    scene = draw_scene(scene_rng(seed, "val", 1), size_wh=size_wh)[1]
    width, height = size_wh
    for index, item in enumerate(scene.objects):
        left, top, right, bottom = item.box_xyxy
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        side = max(right - left, bottom - top)
        assert 0.15 * min(size_wh) - 1 <= side <= 0.5 * min(size_wh) + 1
        for other in scene.objects[:index]:
            a, b = item.box_xyxy, other.box_xyxy
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_the_scenes_are_varied() -> None:
    scenes = [draw_scene(scene_rng(0, "train", index))[1] for index in range(120)]
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    assert {item.category for scene in scenes for item in scene.objects} == set(CATEGORIES)
    assert max(len(scene.of(name)) for scene in scenes for name in CATEGORIES) == 3
    assert all(any(not scene.of(name) for name in CATEGORIES) for scene in scenes)  # something absent to ask for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_wh": (31, 128)}, "31"),
        ({"objects_min": 3, "objects_max": 2}, "objects_min = 3"),
        ({"objects_min": -1}, "objects_min = -1"),
    ],
)
def test_impossible_scenes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_scene(scene_rng(0, "train", 0), **options)


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_and_splits_differ(tmp_path: Path) -> None:
    for name, seed, count in (("a", 0, 4), ("b", 0, 4), ("longer", 0, 6), ("other", 1, 4)):
        for split in ("train", "val"):
            write_split(tmp_path / name, split, count=count, seed=seed)
    a, b, longer, other = (digests(tmp_path / name) for name in ("a", "b", "longer", "other"))
    assert a == b
    pictures = {name: digest for name, digest in a.items() if name.endswith(".png")}
    assert len(set(pictures.values())) == 8  # no scene twice, in a split or across them
    assert pictures.items() <= longer.items()
    assert not set(pictures.values()) & set(other.values())


def test_the_dataset_is_coco_and_its_boxes_are_in_the_files(tmp_path: Path) -> None:
    path = write_split(tmp_path, "val", count=15, seed=3, size_wh=(160, 96))
    assert path == tmp_path / "annotations" / "instances_val.json"
    coco = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    images = {image["id"]: image for image in coco["images"]}
    assert len(images) == 15
    assert len({annotation["id"] for annotation in coco["annotations"]}) == len(coco["annotations"])
    assert {annotation["image_id"] for annotation in coco["annotations"]} == set(images)
    for annotation in coco["annotations"]:
        record = images[annotation["image_id"]]
        with Image.open(tmp_path / "val" / record["file_name"]) as image:
            assert image.size == (record["width"], record["height"]) == (160, 96)
            pixels = np.asarray(image.convert("RGB"))
        left, top, width, height = annotation["bbox"]
        item = SceneObject(names[annotation["category_id"]], (left, top, left + width, top + height), 0)
        assert measure(pixels, item) == item.box_xyxy
        assert annotation["iscrowd"] == 0
        assert 0 < annotation["area"] <= width * height


@pytest.mark.parametrize(("options", "message"), [({"split": "test"}, "'test'"), ({"count": -1}, "-1")])
def test_impossible_datasets_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    split = options.pop("split", "train")
    with pytest.raises(ValueError, match=message):
        write_split(tmp_path, split, **({"count": 1, "seed": 0} | options))


def test_the_command(tmp_path: Path) -> None:
    command = ["convert", "scenes", str(tmp_path / "out"), "--train", "3", "--val", "2", "--size", "96", "64"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "instances_train.json: 3 scenes" in done.stdout
    assert len(list((tmp_path / "out" / "train").glob("*.png"))) == 3
    bad = CliRunner().invoke(app, [*command[:3], "--size", "9", "9"])
    assert bad.exit_code == 2
    assert "size_wh = (9, 9)" in bad.stderr
