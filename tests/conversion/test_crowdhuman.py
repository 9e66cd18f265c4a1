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


def test_whole_bodies_are_the_default_and_the_name_may_be_another(data: Dataset) -> None:
    data.image(person())
    (target,), _ = data.convert(task="grounding", name="pedestrian")
    assert (target.boxes_xyxy, target.labels) == (((10, 20, 30, 50),), ("pedestrian",))


def test_body_beyond_the_edge_is_clipped(data: Dataset) -> None:
    data.image(person(fbox=[-20, 30, 60, 90]), person(50))
    (target,), report = data.convert(task="detection")
    assert target.boxes_xyxy[0] == (0, 30, 40, 80)
    assert report.ledger.notes["box clipped to its image"] == 1


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


def test_optional_attributes(data: Dataset) -> None:
    entry = person()
    del entry["extra"], entry["head_attr"]
    data.image(entry, person(40, extra={}, head_attr={}))
    (target,), _ = data.convert(task="detection", box="hbox")
    assert (len(target.boxes_xyxy), target.ignore_xyxy) == (2, ())


def test_an_image_with_a_crowd_is_not_counted(data: Dataset) -> None:
    data.image(person(), MASK)
    data.image(person(), person(40), name="284193,faa9000f2678b5e")
    (target,), report = data.convert(task="counting")
    assert target.count == 2
    assert report.ledger.left_out["counting row for a category with a crowd or a bad box (--marked)"] == 1


@pytest.mark.parametrize("images", ["Images", "."])
def test_image_is_id_and_jpg_in_images(data: Dataset, images: str) -> None:
    data.image(person())
    data.convert(images=images, task="detection")
    (row,) = read_rows(data.folder / "out.parquet")
    assert row["images"] == [str(data.folder / "Images" / f"{ID}.jpg")]
    assert (row["extra_info"]["image_id"], row["extra_info"]["file_name"]) == (ID, f"{ID}.jpg")


def test_most_images_hold_more_than_thirty(data: Dataset) -> None:
    data.image(*(person(x) for x in range(0, 62, 2)))
    with pytest.raises(RowsError, match=r"1 x .*--max-instances"):
        data.convert(task="detection")
    (target,), _ = data.convert(task="detection", max_instances=40)
    assert len(target.boxes_xyxy) == 31


def test_turned_image(data: Dataset) -> None:
    data.image(person())
    Image.new("RGB", WH).save(data.folder / "Images" / f"{ID}.jpg", exif=exif(6))
    with pytest.raises(RowError, match=r"line 1 .*EXIF orientation 6"):
        data.convert()


BAD_LINES = {
    "no json": ('{"ID": "x", "gtb', "malformed entry", r"annotation_val.odgt: line 2: .*is not JSON"),
    "a list": ("[1, 2]", "malformed entry", r"line 2: \'\[1, 2\]\'"),
    "no boxes": ('{"ID": "x"}', "malformed entry", "needs ID and a list gtboxes"),
    "no ID": ('{"gtboxes": []}', "no ID", "line 2: .*"),
    "twice": (json.dumps({"ID": ID, "gtboxes": []}), "image ID twice", r"line 2 \(ID '273271.*appears twice"),
    "traversal": (
        '{"ID": "../annotation_val", "gtboxes": []}',
        "file_name outside the images folder",
        r"file_name '\.\./annotation_val.jpg'",
    ),
    "no file": ('{"ID": "9,9", "gtboxes": []}', "image file missing", r"Images/9,9.jpg"),
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
        (person(fbox="10"), "box malformed", "fbox 10"),
        ({"tag": "person"}, "box malformed", "annotation id 1 .*fbox None"),
        ("person", "box malformed", "annotation id 1 .*fbox None"),
        (person(fbox=[1, 2, 0, 5]), "box without extent", r"fbox \[1, 2, 0, 5\]"),
        (person(fbox=[300, 2, 9, 5]), "box outside its image", r"fbox \[300, 2, 9, 5\]"),
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
