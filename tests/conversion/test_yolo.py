"""visionr1 convert yolo: fractions, polygons and key points, and which image and label file belong together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refused import mentions
from scene_sets.base import exif, rows_in
from yolo_set import A_XYXY, NAMES, WH, A, Folder, names_of

from verl_visionr1.answers import instruction
from verl_visionr1.files import RowError


@pytest.fixture
def data(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "set")


def test_row(data: Folder) -> None:
    data.add("images/train/000000000139", A)
    (truth,), report = data.convert()
    assert (truth.boxes_xyxy, truth.labels, truth.size_wh) == ((A_XYXY,), ("red box",), WH)
    (row,) = rows_in(report)
    assert row["data_source"] == "visionr1/yolo_detection"
    assert row["prompt"][0]["content"] == "<image>" + instruction("detection", NAMES)
    info = row["extra_info"]
    assert (info["image_id"], info["file_name"]) == ("000000000139", "images/train/000000000139.png")
    place = "train/000000000139.txt line 1"
    assert json.loads(info["source_ann"]) == {"file": "data.yaml", "annotation_ids": [place]}


@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 8])
def test_fractions_are_of_the_upright_image(data: Folder, orientation: int) -> None:
    data.add("images/train/a", "0 0.5 0.25 0.5 0.5", exif=exif(orientation))
    (truth,), _ = data.convert()
    width, height = truth.size_wh
    assert truth.size_wh == (WH if orientation < 5 else WH[::-1])
    assert truth.boxes_xyxy == ((width / 4, 0, width * 3 / 4, height / 2),)


def test_polygon_becomes_its_bounding_box(data: Folder) -> None:
    data.add("images/train/a", "1 0.05 0.3 0.3 0.25 0.1 0.5", "1 0.5 0.5 0.75 0.5 0.75 0.75 0.5 0.75", A)
    (truth,), _ = data.convert()
    assert truth.labels == ("red box", "green box", "green box")
    assert truth.boxes_xyxy == (A_XYXY, (8, 24, 48, 48), (80, 48, 120, 72))


def test_key_points_are_no_polygon(data: Folder) -> None:
    """Two points with two numbers each make nine columns, as a box at an angle has."""
    data.document["kpt_shape"] = [2, 2]
    data.add("images/train/a", f"{A} 0.9 0.9 0.8 0.8", A)
    (truth,), _ = data.convert()
    assert truth.boxes_xyxy == (A_XYXY,)
    data.add("images/train/a", "0 0.1 0.1 0.2 0.2 0.3 0.3")
    assert mentions(data.bad(), "train/a.txt line 1", "7 numbers", "4 numbers of key points")
    data.document["kpt_shape"] = 17
    assert mentions(data.bad(), f"{data.root}/data.yaml: kpt_shape: ", "[17, 3]")


def test_class_numbers_may_be_written_as_floats(data: Folder) -> None:
    data.add("images/train/a", "1.0 0.5 0.5 0.5 0.5", "")
    assert data.convert()[0][0].labels == ("green box",)


def test_box_over_the_edge_is_clipped(data: Folder) -> None:
    data.add("images/train/a", "0 0.1 0.5 0.5 0.5")
    (truth,), report = data.convert()
    assert truth.boxes_xyxy == ((0, 24, 56, 72),)
    assert report.ledger.notes["box clipped to its image"] == 1


BAD_LINES = {
    "confidence": ("1 0.5 0.5 0.1 0.1 0.93", "malformed line", ("6 numbers",)),
    "odd": ("1 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "malformed line", ("8 numbers",)),
    "class only": ("1", "malformed line", ("1 numbers",)),
    "pixels": ("1 80 48 40 24", "box not in fractions", ([60.0, 36.0, 100.0, 60.0], "0 to 1")),
    "pixels of a polygon": ("1 8 8 40 8 40 40", "box not in fractions", ([8.0, 8.0, 40.0, 40.0],)),
    "no width": ("1 0.5 0.5 0 0.1", "box without extent", ()),
    "negative": ("1 0.5 0.5 -0.1 0.1", "box without extent", ()),
    "nan": ("1 nan 0.5 0.1 0.1", "box malformed", ()),
}


@pytest.mark.parametrize(("line", "kind", "values"), BAD_LINES.values(), ids=BAD_LINES)
def test_bad_line(data: Folder, line: str, kind: str, values: tuple[object, ...]) -> None:
    """It loses only itself, and its class counts as there; a row error, so that the command tells of --on-error."""
    data.add("images/train/a", A, line)
    shown = data.bad(kind=RowError)
    assert shown.startswith(f"data.yaml: annotation id 'train/a.txt line 2' (image id a): {line!r}: ")
    assert mentions(shown, *values), shown
    found, report = data.convert(on_error="skip", task="grounding", negatives=0.5)
    assert [truth.labels for truth in found] == [("red box",)]
    assert report.ledger.skipped == {kind: 1}


BAD_CLASSES = {
    "2 0.5 0.5 0.1 0.1": ("unknown class", ("class 2", "0 to 1")),
    "0.5 0.5 0.5 0.1 0.1": ("unknown class", ("class 0.5",)),
    "-1 0.5 0.5 0.1 0.1": ("unknown class", ("class -1",)),
    "0,0.5,0.5,0.1,0.1": ("malformed line", ()),
    "red 0.5 0.5 0.1 0.1": ("malformed line", ()),
}


@pytest.mark.parametrize("line", BAD_CLASSES)
def test_line_of_an_unknown_class(data: Folder, line: str) -> None:
    kind, values = BAD_CLASSES[line]
    data.add("images/train/a", A, line)
    assert mentions(data.bad(), f"train/a.txt line 2: {line!r}: ", *values)
    (truth,), report = data.convert(on_error="skip")
    assert truth.labels == ("red box",)
    assert report.ledger.skipped == {kind: 1}


def test_label_file_that_is_no_text(data: Folder) -> None:
    path = data.add("images/train/a", labels=False)
    data.add("images/train/b", A)
    (data.root / "labels/train/a.txt").write_bytes(b"\xff\xfe0 0.5")
    assert mentions(data.bad(), "labels/train/a.txt: ", "utf-8")
    _, report = data.convert(on_error="skip", min_instances=0)
    assert str(path) not in [row["images"][0] for row in rows_in(report)], "nobody knows what is in it"
    assert report.ledger.skipped == {"label file unreadable": 1}


def test_missing_label_file_is_an_image_without_objects(data: Folder) -> None:
    data.add("images/train/a", A)
    data.add("images/train/b", labels=False)
    data.add("images/train/c")
    found, report = data.convert(min_instances=0)
    assert [len(truth.boxes_xyxy) for truth in found] == [1, 0, 0]
    assert report.ledger.notes["image without a label file: nothing in it"] == 1
    assert len(data.convert()[0]) == 1


def test_no_label_file_at_all_is_an_error(data: Folder) -> None:
    data.add("images/train/a", labels=False)
    assert mentions(data.bad(), "data.yaml: ", "1 images", f"{data.root}/labels/train/a.txt")


def test_only_the_last_images_becomes_labels(data: Folder) -> None:
    data.root = data.root / "images" / "mine"
    data.root.mkdir(parents=True)
    data.document["train"] = "images/train"
    data.add("images/train/sub/a", labels=False)
    (data.root / "labels/train/sub").mkdir(parents=True)
    (data.root / "labels/train/sub/a.txt").write_text(A)
    _, report = data.convert()
    assert names_of(report) == ["images/train/sub/a.png"]


def test_labels_folder_of_another_name(data: Folder) -> None:
    data.document["train"] = "pictures"
    data.add("pictures/sub/a", labels=False)
    data.add("pictures/b", labels=False)
    (data.root / "txt" / "sub").mkdir(parents=True)
    (data.root / "txt" / "sub" / "a.txt").write_text(A)
    (data.root / "txt" / "b.txt").write_text(A)
    assert len(data.convert(labels=data.root / "txt")[0]) == 2


@pytest.mark.parametrize("names", [("a.jpg", "a.png"), ("cam1/a.png", "cam2/a.png")])
def test_a_label_file_of_two_images_is_of_none(data: Folder, names: tuple[str, str]) -> None:
    data.add("images/train/b", A)
    for name in names:
        data.add(f"images/train/{name[:-4]}", labels=False).rename(data.root / "images/train" / name)
    labels = data.root / "labels/train"
    (labels / "a.txt").write_text(A)
    message = data.bad(kind=RowError, labels=labels)
    assert all(f"images/train/{name}" in message for name in names)
    found, report = data.convert(labels=labels, on_error="skip")
    assert (len(found), report.ledger.skipped) == (1, {"label file of two images": 2})
    (labels / "a.txt").unlink()
    assert data.convert(labels=labels)[1].ledger.notes["image without a label file: nothing in it"] == 2


def test_label_files_without_an_image_are_counted(data: Folder) -> None:
    data.add("images/train/a", A)
    for name in ("b.txt", "classes.txt"):
        (data.root / "labels/train" / name).write_text(A)
    assert data.convert()[1].ledger.notes["label file of no image of the split"] == 1


def test_hidden_files_are_no_images(data: Folder) -> None:
    path = data.add("images/train/a", A)
    (path.parent / "._a.png").write_bytes(b"macOS")
    (path.parent / ".cache").mkdir()
    (path.parent / ".cache" / "b.png").write_bytes(b"")
    assert len(data.convert()[0]) == 1


def test_bad_image(data: Folder) -> None:
    data.add("images/train/a", A)
    data.add("images/train/b", A).write_bytes(b"")
    assert data.bad().startswith(f"{data.root}/images/train/b.png: ")
    found, report = data.convert(on_error="skip")
    assert len(found) == 1
    assert report.ledger.skipped == {"image unreadable": 1}


def test_label_files_in_another_unicode_form(data: Folder) -> None:
    """macOS writes names decomposed: the image is not one without a label file."""
    data.add("images/train/cafe\u0301", A)
    label = data.root / "labels/train/cafe\u0301.txt"
    label.rename(label.with_name("caf\u00e9.txt"))
    assert data.convert()[0][0].labels == ("red box",)
