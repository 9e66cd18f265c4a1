"""visionr1 convert crowdhuman: three boxes a person, regions to ignore, names with commas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refused import bad_entry
from scene_sets.base import exif

from verl_visionr1.conversion.datasets import crowdhuman
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rows import read_rows
from verl_visionr1.targets import Target
from verl_visionr1.tools.doctor import check_parquet

ID = "273271,c9db000d5146c15"
WH = (100, 80)


def person(x: int = 10, **changes: Any) -> dict[str, Any]:
    boxes = {"fbox": [x, 20, 20, 30], "vbox": [x, 20, 20, 15], "hbox": [x + 5, 20, 8, 8]}
    entry = {"tag": "person", **boxes, "extra": {"box_id": 0, "occ": 0}}
    return {**entry, "head_attr": {"ignore": 0, "occ": 0, "unsure": 0}, **changes}


MASK = {
    "tag": "mask",
    "fbox": [60, 10, 30, 60],
    "vbox": [60, 10, 30, 60],
    "hbox": [61, 11, 2, 2],
    "extra": {"ignore": 1},
}


class Dataset:
    """An odgt file and Images/."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines = folder, []
        (folder / "Images").mkdir()

    def image(self, *boxes: Any, name: str = ID, **changes: Any) -> None:
        Image.new("RGB", WH).save(self.folder / "Images" / f"{name}.jpg")
        self.lines.append(json.dumps({"ID": name, "gtboxes": list(boxes), **changes}))

    def write(self) -> Path:
        path = self.folder / "annotation_val.odgt"
        path.write_text("\n".join(self.lines) + "\n")
        return path

    def convert(self, images: str = "Images", **options: Any) -> tuple[list[Target], Any]:
        out = self.folder / "out.parquet"
        report = crowdhuman.convert(self.write(), self.folder / images, out, crowdhuman.Options(**options))
        assert check_parquet(out) == []
        return [Target.from_json(row["reward_model"]["ground_truth"]) for row in read_rows(out)], report


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


@pytest.mark.parametrize(
    ("kind", "label", "box"),
    [("fbox", "person", (10, 20, 30, 50)), ("vbox", "person", (10, 20, 30, 35)), ("hbox", "head", (15, 20, 23, 28))],
)
def test_which_box(data: Dataset, kind: str, label: str, box: tuple[int, ...]) -> None:
    data.image(person())
    (target,), _ = data.convert(task="detection", box=kind)
    assert (target.boxes_xyxy, target.labels, target.categories) == ((box,), (label,), (label,))
    assert target.size_wh == WH


def test_mask_is_a_region_to_ignore(data: Dataset) -> None:
    data.image(person(), MASK)
    (target,), _ = data.convert(task="detection")
    assert target.boxes_xyxy == ((10, 20, 30, 50),)
    assert target.ignore_xyxy == ((60, 10, 90, 70),)
    (target,), _ = data.convert(task="detection", box="hbox")
    assert target.ignore_xyxy == ((60, 10, 90, 70),)  # the crowd, not the one head that its entry gives


def test_ignored_person_and_head(data: Dataset) -> None:
    data.image(person(), person(40, extra={"ignore": 1}), person(70, head_attr={"ignore": 1}))
    (target,), _ = data.convert(task="detection")
    assert (len(target.boxes_xyxy), target.ignore_xyxy) == (2, ((40, 20, 60, 50),))
    (target,), _ = data.convert(task="detection", box="hbox")
    assert (len(target.boxes_xyxy), target.ignore_xyxy) == (1, ((45, 20, 53, 28), (75, 20, 83, 28)))


BAD_LINES = {
    "no json": ('{"ID": "x", "gtb', "malformed entry", r"annotation_val.odgt: line 2: .*is not JSON"),
    "no boxes": ('{"ID": "x"}', "malformed entry", "needs ID and a list gtboxes"),
    "no ID": ('{"gtboxes": []}', "no ID", "line 2: .*"),
    "twice": (json.dumps({"ID": ID, "gtboxes": []}), "image ID twice", r"line 2 \(ID '273271.*appears twice"),
}


@pytest.mark.parametrize("what", BAD_LINES)
def test_bad_lines(data: Dataset, what: str) -> None:
    line, kind, message = BAD_LINES[what]
    data.image(person())
    data.lines.append(line)
    data.image(person(), name="9,8")
    with pytest.raises(RowError, match=message) as caught:
        data.convert()
    assert caught.value.kind == kind
    targets, report = data.convert(task="detection", on_error="skip")
    assert len(targets) == (1 if what == "twice" else 2)  # an ID of two images is left out
    assert report.ledger.skipped[kind] == 1


@pytest.mark.parametrize(
    ("entry", "kind", "message"),
    [
        (
            person(fbox=[1, 2, 3]),
            "box malformed",
            r"annotation id 1 \(image id 273271,c9db000d5146c15\): fbox \[1, 2, 3\]",
        ),
        ({"tag": "person"}, "box malformed", "annotation id 1 .*fbox None"),
        (person(fbox=[1, 2, 0, 5]), "box without extent", r"fbox \[1, 2, 0, 5\]"),
    ],
)
def test_bad_boxes(data: Dataset, entry: Any, kind: str, message: str) -> None:
    data.image(person(), entry)
    error, (target,), _ = bad_entry(data.convert, task="detection")
    assert error.kind == kind
    assert re.search(message, str(error))
    assert len(target.boxes_xyxy) == 1
    with pytest.raises(RowsError, match="--marked"):
        data.convert(task="counting", on_error="skip")


def test_optional_attributes(data: Dataset) -> None:
    entry = person()
    del entry["extra"], entry["head_attr"]
    data.image(entry, person(40, extra={}, head_attr={}))
    (target,), _ = data.convert(task="detection", box="hbox")
    assert (len(target.boxes_xyxy), target.ignore_xyxy) == (2, ())


def test_turned_image(data: Dataset) -> None:
    data.image(person())
    Image.new("RGB", WH).save(data.folder / "Images" / f"{ID}.jpg", exif=exif(6))
    with pytest.raises(RowError, match=r"line 1 .*EXIF orientation 6"):
        data.convert()
