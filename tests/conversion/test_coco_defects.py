"""visionr1 convert coco: what is wrong in a file stops it, or is left out and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from coco_set import BLUE, COLOURS, GREEN, RED, A, B, C, Dataset, measured
from refused import mentions
from scene_sets.base import target

from verl_visionr1.conversion.datasets import coco
from verl_visionr1.rows import RowError, RowsError, read_rows


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "set")


BAD_BOXES = {
    "zero height": [5, 5, 10, 0],
    "wholly outside": [500, 5, 10, 10],
    "three numbers": [1, 2, 3],
    "no bbox": None,
    "text in bbox": [1, 2, "3", 4],
}
BAD_IMAGES = {
    "another size": {"width": 320},
    "width is text": {"width": "wide"},
    "no file_name": {"file_name": None},
    "same image id": {"id": 100},
    "traversal": {"file_name": "../instances.json"},
}


def spoil(data: Dataset, what: str) -> None:
    """A set of one good image and one thing wrong."""
    data.image((RED, A))
    if what in BAD_BOXES:
        data.annotate(100, GREEN, BAD_BOXES[what])
    elif what in BAD_IMAGES:
        data.image((RED, A), **BAD_IMAGES[what])
    elif what == "unknown image":
        data.annotate(999, RED, A)
    elif what == "unknown category":
        data.annotate(100, 999, A)
    elif what == "no image file":
        (data.images_dir / data.image((RED, A))["file_name"]).unlink()
    else:
        assert what == "not an object"
        data.document["annotations"].append("annotation")


@pytest.mark.parametrize(
    ("what", "kind", "values"),
    [
        ("zero height", "box without extent", ("annotation id 1001 (image id 100)", [5, 5, 10, 0])),
        ("wholly outside", "box outside its image", ("annotation id 1001", [500, 5, 10, 10], (160, 96))),
        ("three numbers", "box malformed", ("annotation id 1001", "bbox", [1, 2, 3])),
        ("no bbox", "box malformed", ("annotation id 1001", "bbox None")),
        ("text in bbox", "box malformed", ("annotation id 1001", "bbox", [1, 2, "3", 4])),
        ("not an object", "malformed entry", ("annotations[1]", '"annotation"')),
        ("unknown image", "unknown image_id", ("annotations[1] (id 1001)", "image_id 999", "(ids 100)")),
        ("unknown category", "unknown category_id", ("annotations[1] (id 1001)", "category_id 999", "3, 7, 90")),
        ("no image file", "image file missing", ("image id 117", "000000000117.png")),
        ("another size", "annotated size differs", ("image id 117", (320, 96), (160, 96))),
        ("no file_name", "image without id or file_name", ("images[1] (id 117, file_name None)",)),
        ("traversal", "file_name outside the images folder", ("../instances.json", "'..'")),
        ("width is text", "image without size", ("images[1] (id 117", ("wide", 96))),
    ],
)
def test_bad_entry_stops_or_is_counted(data: Dataset, what: str, kind: str, values: tuple[object, ...]) -> None:
    spoil(data, what)
    assert data.bad(*values).kind == kind
    (row,), report = data.convert(task="detection", on_error="skip")
    assert target(row).boxes_xyxy == ((8, 16, 48, 40),)
    assert report.ledger.skipped == {kind: 1}
    assert report.skipped_list is not None
    assert report.skipped_list.read_text().splitlines() == report.ledger.listed
    assert len(report.ledger.listed) == 1


@pytest.mark.parametrize(
    ("key", "folder", "what", "place", "left_out"),
    [
        ("id", "", "image id twice", "images[1] (id 100", 1),
        ("file_name", "", "image file twice", "images[1] (id 117", 2),
        ("file_name", "images/", "image file twice", "images[1] (id 117", 2),
    ],
)
def test_what_two_images_share_is_left_out(
    data: Dataset, key: str, folder: str, what: str, place: str, left_out: int
) -> None:
    """Each of the two entries has a part of its objects: neither row would be right."""
    for box in (A, B, C):
        data.image((RED, box))
    first, second, _ = data.document["images"]
    second[key] = folder + first[key] if folder else first[key]
    assert data.bad(place).kind == what
    (row,), report = data.convert(task="detection", on_error="skip")
    assert target(row).boxes_xyxy[0] == measured(row, COLOURS["red box"])
    assert report.ledger.skipped[what] == 1
    assert report.ledger.left_out["annotation of an image left out"] == left_out


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("aerosol_can", "aerosol can"),
        ("T-shirt", "t shirt"),
        ("caf\u00e9", "cafe\u0301"),
        ("\ufb01sh", "fish"),
        ("dog\u200b", "dog"),
    ],
)
def test_names_that_look_alike_are_one_category(data: Dataset, first: str, second: str) -> None:
    data.document["categories"] += [{"id": 91, "name": first}, {"id": 92, "name": second}]
    entry = data.image((RED, A))
    data.annotate(entry["id"], 91, B)
    data.annotate(entry["id"], 92, C)
    (row,), report = data.convert(task="detection")
    assert target(row).categories == (*COLOURS, first)
    assert target(row).labels == ("red box", first, first)
    assert sum(report.ledger.notes.values()) == 1


@pytest.mark.parametrize("box", [[5, 5, 10, 0], [1, 2, None, 4], "1 2 3 4", [1, 2, "3", 4]])
def test_what_has_only_a_bad_box_is_not_asked_for(data: Dataset, box: Any) -> None:
    """Not in a category list either: the truth would say that it is not there."""
    data.image((RED, A))
    data.annotate(100, GREEN, box)
    found, report = data.convert(task="detection", on_error="skip")
    assert [target(row).categories for row in found] == [("red box", "blue box")]
    found, _ = data.convert(task="grounding", on_error="skip", negatives=0.5)
    assert sorted(target(row).categories[0] for row in found) == ["blue box", "red box"]
    assert report.ledger.notes["category with only a bad box on an image: not asked for"] == 1


def outlined(box: list[float]) -> list[list[float]]:
    """A triangle that reaches all sides of a box."""
    x, y, w, h = box
    return [[x, y, x + w, y, x + w / 2, y + h]]


MEASURES = {  # of a box x, y, width, height
    "area": lambda box: {"area": box[2] * box[3], "segmentation": []},
    "mask": lambda box: {"area": 0.6 * box[2] * box[3], "segmentation": outlined(box)},
    "mask of whole pixels": lambda box: {"segmentation": outlined([*box[:3], box[3] + 0.4])},
}
SMALL = [[20, 12, 24, 16], [30, 20, 32, 12], [12, 24, 20, 18], [25, 9, 22, 30]]  # inside as x, y, width, height too


@pytest.mark.parametrize("what", MEASURES)
def test_corners_are_told_by_their_areas(data: Dataset, what: str) -> None:
    """Few boxes, all inside their images in either reading."""
    for box in SMALL:
        x, y, w, h = box
        data.annotate(data.image()["id"], RED, [x, y, x + w, y + h], iscrowd=0, **MEASURES[what](box))
    with pytest.raises(RowsError) as caught:
        data.convert()
    assert not isinstance(caught.value, RowError)
    values = ("instances.json", "4 of 4", "annotation id 1000: 20 12 44 28", "--box-format xyxy-abs")
    assert mentions(caught.value, *values), caught.value
    rows, _ = data.convert(task="detection", box_format="xyxy-abs")
    assert sorted(target(row).boxes_xyxy[0] for row in rows) == sorted((x, y, x + w, y + h) for x, y, w, h in SMALL)
    rows, _ = data.convert(task="detection", box_format="xywh-abs")  # confirmed
    assert len(rows) == 4


SOUND = MEASURES | {
    "no area": lambda box: {},
    "area 1": lambda box: {"area": 1, "segmentation": []},
    "mask alone": lambda box: {"area": 0.4 * box[2] * box[3]},
    "area of corners, and polygons": lambda box: {
        "area": (box[2] - box[0]) * (box[3] - box[1]),
        "segmentation": outlined(box),
    },
    "crowd": lambda box: {
        "area": (box[2] - box[0]) * (box[3] - box[1]) + 7,
        "segmentation": {"counts": [1, 2], "size": [96, 160]},
        "iscrowd": 1,
    },
}


@pytest.mark.parametrize("what", SOUND)
def test_areas_of_sound_boxes_are_no_sign_of_corners(data: Dataset, what: str) -> None:
    for number, box in enumerate([[5, 4, 60, 50], [4, 5, 40, 70], [0, 0, 50, 60], [70, 30, 60, 20]]):
        entry = data.image((RED, A))
        sound = "area" if what == "crowd" and number else what
        data.annotate(entry["id"], RED, box, **SOUND[sound](box))
    rows, report = data.convert(task="detection")
    assert len(rows) == 4
    assert not [kind for kind in report.ledger.notes if "doubt" in kind]


EMPTY: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
NO_LIST = [json.dumps({key: value for key, value in EMPTY.items() if key != missing}) for missing in EMPTY]
LISTS = ("images, annotations and categories",)


def with_categories(*categories: Any) -> str:
    return json.dumps(EMPTY | {"categories": list(categories)})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (None, ()),
        ("", ("empty",)),
        ('{"images": [], "annotations": [{"id": 1', ("truncated",)),
        ('{"images": [], "annotations": [{"id": NaN}], "categories": []}', ("NaN", "byte 38")),
        ('{"images": [], "annotations": [{"bbox": [1, -Infinity]}]}', ("-Infinity", "byte")),
        ("version https://git-lfs.github.com/spec/v1", ("byte 0",)),
        ('[{"image_id": 1, "caption": "a cat"}]', ("`object`", "`array`", *LISTS)),
        *((text, (f"`{key}`", *LISTS)) for key, text in zip(EMPTY, NO_LIST, strict=True)),
        (with_categories("a"), ("$.categories[0]", *LISTS)),
        (with_categories(), ("category",)),
        (with_categories({"id": 1}), ("category 0", "''")),
        (with_categories({"name": "a"}), ("categories[0]", None)),
        (with_categories({"id": 1, "name": "<image>"}), ("category 0", "'<image>'")),
        (with_categories({"id": 1, "name": "a"}, {"id": 1, "name": "b"}), ("categories[1]", "id 1")),
        (with_categories({"id": 1, "name": "a"}), ()),
    ],
)
def test_annotation_files_that_are_not_coco(data: Dataset, text: str | None, values: tuple[object, ...]) -> None:
    path = data.folder / "bad.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RowsError) as caught:
        coco.convert(path, data.images_dir, data.folder / "a.parquet")
    shown = str(caught.value)
    assert shown.startswith((f"{path}: ", f"{path.name}: ", f"{data.folder}/a.parquet: "))
    assert mentions(shown, *values), shown
    assert "\n" not in shown
    assert not isinstance(caught.value, RowError)


def test_category_with_only_a_bad_box_is_not_called_absent(data: Dataset) -> None:
    """The thing is there, only its box is not: a row that says "none" would be wrong."""
    for _ in range(20):
        entry = data.image((RED, A))
        data.annotate(entry["id"], GREEN, [5, 5, 10, 0])
        data.annotate(entry["id"], BLUE, C, iscrowd=1)
    found, report = data.convert(task="grounding", negatives=0.5, on_error="skip")
    assert {target(row).labels for row in found} == {("red box",)}
    assert report.ledger.notes["grounding negatives missing: too few absent categories"] == 20


@pytest.mark.parametrize("spoiled", ['"id": [4]', '"bbox": [1e400, 2, 3, 4]', '"bbox": [1, 2, 3]'])
def test_what_a_malformed_annotation_is_about_is_not_called_absent(data: Dataset, spoiled: str) -> None:
    for _ in range(9):
        entry = data.image((RED, A), (BLUE, C))
        data.annotate(entry["id"], GREEN, None)
    path, out = data.write(), data.folder / "out.parquet"
    path.write_text(path.read_text().replace('"bbox": null', spoiled))
    report = coco.convert(path, data.images_dir, out, coco.Options(task="grounding", negatives=0.5, on_error="skip"))
    assert {target(row).labels for row in read_rows(out)} == {("red box",), ("blue box",)}
    assert sum(report.ledger.skipped.values()) == 9
    assert mentions(report.ledger.listed[0], spoiled.partition(" ")[2])
