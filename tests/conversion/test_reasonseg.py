"""visionr1 convert reasonseg: labels, encodings and polygons as LISA's reader takes them, bad files, the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from refused import bad_entry, mentions
from scene_sets.base import opened, rows_in, target

from verl_visionr1.conversion.datasets import reasonseg
from verl_visionr1.masks import Mask
from verl_visionr1.tools.doctor import check_parquet

WH = (160, 96)
A, B = [[10, 20], [50, 20], [50, 60], [10, 60]], [[90, 30], [120, 40], [100, 80]]


class Dataset:
    """ReasonSeg/train in a folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self.folder = folder / "ReasonSeg", folder / "ReasonSeg" / "train"
        self.folder.mkdir(parents=True)
        self.out = folder / "out.parquet"

    def add(
        self,
        *shapes: Any,
        text: Any = ("the tool",),
        name: str = "1_abc_o",
        encoding: str = "utf-8",
        exif: int | None = None,
        suffix: str = ".jpg",
        **more: Any,
    ) -> Path:
        shapes = shapes or (shape(A),)
        text = list(text) if isinstance(text, tuple) else text
        path = self.folder / f"{name}.json"
        entry = {"text": text, "is_sentence": False, "shapes": list(shapes), **more}
        path.write_bytes(json.dumps(entry, ensure_ascii=False).encode(encoding))
        picture = Image.new("RGB", WH, (90, 90, 90))
        tags = Image.Exif()
        if exif is not None:
            tags[0x0112] = exif
        for made in shapes:
            if isinstance(made, dict) and len(made.get("points", ())) > 2:
                ImageDraw.Draw(picture).polygon([tuple(point) for point in made["points"]], fill=(255, 0, 0))
        picture.save(self.folder / f"{name}{suffix}", format="PNG", exif=tags)
        return path

    def convert(self, folder: Path | None = None, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        report = reasonseg.convert(folder or self.folder, self.out, reasonseg.Options(**options))
        assert check_parquet(self.out) == []
        return rows_in(report), report

    def bad(self, message: str, **options: Any) -> None:
        """It fails with this message; with --on-error skip, the good file beside it is left."""
        self.add(name="2_good", text=("the good one",))
        error, found, _ = bad_entry(self.convert, **options)
        assert mentions(error, message), error
        assert [target(row).labels for row in found] == [("the good one",)]


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def shape(points: Sequence[Sequence[float]], label: str = "target", **more: Any) -> dict[str, Any]:
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": points, **more}


def boxes(row: dict[str, Any]) -> list[tuple[float, ...]]:
    return [tuple(box) for box in target(row).boxes_xyxy]


def test_union_of_all_polygons_or_a_box_of_each(data: Dataset) -> None:
    data.add(shape(A), shape(B))
    (row,), _ = data.convert()
    assert boxes(row) == [(10, 20, 120, 80)]
    (row,), _ = data.convert(boxes="polygon")
    assert boxes(row) == [(10, 20, 50, 60), (90, 30, 120, 80)]


def test_flag_shapes_mean_nothing(data: Dataset) -> None:
    data.add(shape([[0, 0]], "flag"), shape(A), shape([[150, 90], [151, 91]], "Flag"))
    (row,), report = data.convert(boxes="polygon")
    assert boxes(row) == [(10, 20, 50, 60)]
    assert target(row).ignore_xyxy == ()
    assert report.ledger.notes["shape labelled flag: skipped"] == 2


def test_ignore_polygons_are_neither_right_nor_wrong(data: Dataset) -> None:
    data.add(shape(A), shape(B, "ignore"))
    (row,), _ = data.convert()
    assert boxes(row) == [(10, 20, 50, 60)]
    assert target(row).ignore_xyxy == ((90, 30, 120, 80),)


def test_cp1252(data: Dataset) -> None:
    path = data.add(text=("the caf\xe9\x92s sign".replace("\x92", "\u2019"),), encoding="cp1252")
    assert b"caf\xe9\x92s" in path.read_bytes()
    data.add(name="2_utf8", text=("the caf\xe9",))
    found, report = data.convert()
    assert [target(row).labels for row in found] == [("the caf\xe9\u2019s sign",), ("the caf\xe9",)]
    assert report.ledger.notes["json is not UTF-8: read as cp1252"] == 1


@pytest.mark.parametrize("exif", [3, 6])
def test_polygons_are_drawn_on_the_upright_image(data: Dataset, exif: int) -> None:
    """LISA reads images with cv2, which turns them."""
    points = [[10, 20], [50, 20], [50, 60], [10, 60]]
    data.add(shape(points), exif=exif)
    (row,), _ = data.convert()
    assert boxes(row) == [(10, 20, 50, 60)]
    assert opened(row).size == ((96, 160) if exif == 6 else WH)


def test_pointing_keeps_the_masks(data: Dataset) -> None:
    data.add(shape(A), shape(B))
    (row,), _ = data.convert(task="pointing")
    assert row["ability"] == "pointing"
    assert target(row).masks == (Mask(polygons=((10, 20, 50, 20, 50, 60, 10, 60), (90, 30, 120, 40, 100, 80))),)
    assert boxes(row) == [(10, 20, 120, 80)]
    (row,), _ = data.convert(task="pointing", boxes="polygon")
    assert len(target(row).masks) == 2


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([shape(B, "ignore")], ""),
        ([shape([[9, 9], [20, 9]], shape_type="circle")], "shape 'target' of type circle with 2 points"),
        ([shape([])], "shape 'target' of type polygon with 0 points"),
        ([{"label": "target"}], "Object missing required field `points`"),
        ([shape([[1, 2, 3]])], "Expected `array` of length 2 - at `$.shapes[0].points[0]`"),
    ],
)
def test_bad_shapes(data: Dataset, shapes: list[Any], reason: str) -> None:
    path = data.add(*shapes)
    data.bad(f"{path}: {reason}")


def test_masks_lie_on_their_pixels(data: Dataset) -> None:
    data.add(shape(A))
    (row,), _ = data.convert(task="pointing")
    ys, xs = np.nonzero(np.asarray(opened(row))[:, :, 0] > 200)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == boxes(row)[0]  # Pillow paints the far corner too, as cv2


def test_a_garbled_json(data: Dataset) -> None:
    path = data.add()
    path.write_bytes(path.read_bytes()[:-4])
    data.bad(f"{path}: Input data was truncated")
