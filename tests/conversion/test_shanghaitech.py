"""visionr1 convert shanghaitech: MATLAB files, points from 1 on, two names of a folder, grey images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refused import bad_entry
from scene_sets.counts import save_heads
from scipy.io import savemat

from verl_visionr1.conversion.datasets import shanghaitech
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rows import read_rows, target_of

HEADS = [(1.0, 1.0), (41.5, 21.25)]


class Source:
    """ShanghaiTech's part B in a folder."""

    def __init__(self, folder: Path, truth: str = "ground-truth") -> None:
        self.part, self.out, self.truth = folder / "part_B", folder / "out.parquet", truth

    def crowd(self, number: int, heads: Sequence[Any] | None, split: str = "train", mode: str = "RGB") -> Path:
        """An image, and its annotation file."""
        data = self.part / f"{split}_data"
        (data / "images").mkdir(parents=True, exist_ok=True)
        (data / self.truth).mkdir(parents=True, exist_ok=True)
        Image.new(mode, (80, 60)).save(data / "images" / f"IMG_{number}.jpg")
        annotation = data / self.truth / f"GT_IMG_{number}.mat"
        if heads is not None:
            save_heads(annotation, heads)
        return annotation

    def convert(self, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        report = shanghaitech.convert([self.part], self.out, shanghaitech.Options(**options))
        return list(read_rows(self.out)), report

    def bad(self, message: str) -> None:
        """The message of a bad file, and that skipping loses that file alone."""
        self.crowd(9, HEADS)
        error, rows, _ = bad_entry(self.convert)
        assert message in str(error)
        assert [row["extra_info"]["file_name"] for row in rows] == ["part_B/train_data/images/IMG_9.jpg"]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_points_are_counted_from_one(source: Source) -> None:
    source.crowd(1, HEADS)
    (row,), _ = source.convert()
    truth = target_of(row)
    assert truth.points_xy == ((0, 0), (40.5, 20.25))
    assert (truth.task, truth.count, truth.labels) == ("counting", 2, ("person", "person"))
    assert row["prompt"][0]["content"] == "<image>Count every person in the image and answer with the number alone."
    info = row["extra_info"]
    assert (info["image_id"], info["file_name"]) == ("part_B/train_data/IMG_1", "part_B/train_data/images/IMG_1.jpg")


def test_pointing_asks_for_heads(source: Source) -> None:
    source.crowd(1, HEADS)
    rows, _ = source.convert(task="both")
    assert [(target_of(row).task, target_of(row).categories) for row in rows] == [
        ("counting", ("person",)),
        ("pointing", ("head",)),
    ]
    assert target_of(rows[1]).labels == ("head", "head")


def test_splits(source: Source) -> None:
    source.crowd(1, HEADS)
    source.crowd(1, HEADS[:1], split="test")
    (row,), _ = source.convert(split="test")
    assert (target_of(row).count, row["extra_info"]["split"]) == (1, "test")
    with pytest.raises(RowsError) as caught:
        source.convert(split="val")
    assert str(caught.value).startswith(f"{source.part}/val_data: ")


def test_images_come_in_the_order_of_their_numbers(source: Source) -> None:
    for number in (10, 9, 1, 2):
        source.crowd(number, HEADS)
    rows, _ = source.convert()
    names = [row["extra_info"]["file_name"].rpartition("/")[2] for row in rows]
    assert names == [f"IMG_{number}.jpg" for number in (1, 2, 9, 10)]


def test_person_over_the_edge_is_counted(source: Source) -> None:
    source.crowd(1, [*HEADS, (81.9, 30), (85, 30)])
    (row,), report = source.convert()
    assert target_of(row).count == 4
    assert target_of(row).points_xy == ((0, 0), (40.5, 20.25), (80, 29))
    assert report.ledger.notes["point outside its image: counted without its place"] == 1
    with pytest.raises(RowError, match=r"GT_IMG_1\.mat: point = \[84\.0, 29\.0\].*\(80, 60\)"):
        source.convert(task="pointing")


def test_image_without_annotation_is_noted(source: Source) -> None:
    source.crowd(1, HEADS)
    source.crowd(2, None)
    rows, report = source.convert()
    assert len(rows) == 1
    assert report.ledger.left_out["image without an annotation file"] == 1


def test_v7_3_is_refused(source: Source) -> None:
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2024 HDF5 schema 1.00 ."
    annotation = source.crowd(1, None)
    annotation.write_bytes(header.ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(400))
    source.bad(f"{annotation}: MATLAB v7.3 (HDF5)")


@pytest.mark.parametrize("data", [b"", b"<html>404</html>" * 20, b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM\xff"])
def test_garbled_mat(source: Source, data: bytes) -> None:
    annotation = source.crowd(1, None)
    annotation.write_bytes(data)
    source.bad(f"{annotation}: ")


def test_mat_of_another_layout(source: Source) -> None:
    savemat(source.crowd(1, None), {"annPoints": np.ones((3, 2))})
    source.bad("part_B/train_data/IMG_1: GT_IMG_1.mat: needs image_info{1}.location")


def test_number_must_be_that_of_the_points(source: Source) -> None:
    inner = np.empty((1, 1), dtype=[("location", object), ("number", object)])
    inner[0, 0] = (np.ones((3, 2)), np.array([[4]]))
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = inner
    savemat(source.crowd(1, None), {"image_info": cell})
    source.bad("GT_IMG_1.mat: number is 4, points are 3")
