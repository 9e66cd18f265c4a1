"""visionr1 convert yolo: fractions, polygons and key points, data.yaml in all its dialects, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from scene_sets.base import exif, rows_in

from verl_visionr1.answers import instruction
from verl_visionr1.conversion.datasets import yolo
from verl_visionr1.conversion.writing import Report
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.targets import Target

WH = (160, 96)
NAMES = ["red box", "green box"]
A = "0 0.175 0.2916666666666667 0.25 0.25"  # 8, 16, 48, 40
A_XYXY = (8, 16, 48, 40)


class Folder:
    """images/train and labels/train under a data.yaml."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.document: dict[str, Any] = {"train": "images/train", "names": NAMES}
        root.mkdir()

    def add(self, name: str, *lines: str, labels: bool = True, **options: Any) -> Path:
        """images/<name>.png, and its label file by Ultralytics' rule."""
        path = self.root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", WH, (90, 90, 90)).save(path, **options)
        if labels:
            text = Path(str(path.with_suffix(".txt")).replace("/images/", "/labels/"))
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text("\n".join(lines))
        return path

    def convert(self, source: Path | None = None, **options: Any) -> tuple[list[Target], Report]:
        if source is None:
            source = self.root / "data.yaml"
            source.write_text(yaml.safe_dump(self.document))
        report = yolo.convert(source, self.root / "out.parquet", yolo.Options(**{"task": "detection", **options}))
        return [Target.from_json(row["reward_model"]["ground_truth"]) for row in rows_in(report)], report

    def bad(self, source: Path | None = None, **options: Any) -> str:
        """The message of a conversion that fails."""
        with pytest.raises(RowsError) as caught:
            self.convert(source, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def data(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "set")


def names_of(report: Report) -> list[str]:
    return [row["extra_info"]["file_name"] for row in rows_in(report)]


# ---------------------------------------------------------------------------------------------- lines


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
    assert "7 numbers: needs class cx cy w h and 4 numbers of key points; correct it" in data.bad()
    data.document["kpt_shape"] = 17
    assert data.bad() == f"{data.root}/data.yaml: kpt_shape: needs two numbers, as in [17, 3]; correct it"


def test_class_numbers_may_be_written_as_floats(data: Folder) -> None:
    data.add("images/train/a", "1.0 0.5 0.5 0.5 0.5", "")
    assert data.convert()[0][0].labels == ("green box",)


def test_box_over_the_edge_is_clipped(data: Folder) -> None:
    data.add("images/train/a", "0 0.1 0.5 0.5 0.5")
    (truth,), report = data.convert()
    assert truth.boxes_xyxy == ((0, 24, 56, 72),)
    assert report.ledger.notes["box clipped to its image"] == 1


BAD_LINES = {
    "confidence": ("1 0.5 0.5 0.1 0.1 0.93", "6 numbers: needs class cx cy w h, or class and three or more points"),
    "odd": ("1 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 numbers: needs class"),
    "class only": ("1", "1 numbers: needs class"),
    "pixels": ("1 80 48 40 24", "box = [60.0, 36.0, 100.0, 60.0]: needs fractions of the image, 0 to 1; correct it"),
    "pixels of a polygon": ("1 8 8 40 8 40 40", "needs fractions of the image"),
    "no width": ("1 0.5 0.5 0 0.1", "no extent; correct or remove the annotation"),
    "negative": ("1 0.5 0.5 -0.1 0.1", "no extent"),
    "nan": ("1 nan 0.5 0.1 0.1", "needs four finite numbers"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_bad_line(data: Folder, line: str, message: str) -> None:
    """It loses only itself, and its class counts as there."""
    data.add("images/train/a", A, line)
    shown = data.bad()
    assert shown.startswith(f"data.yaml: annotation id 'train/a.txt line 2' (image id a): {line!r}: ")
    assert message in shown
    found, report = data.convert(on_error="skip", task="grounding", negatives=0.5)
    assert [truth.labels for truth in found] == [("red box",)]
    assert sum(report.ledger.skipped.values()) == 1


BAD_CLASSES = {
    "2 0.5 0.5 0.1 0.1": "class 2 has no name (those are 0 to 1); correct it",
    "0.5 0.5 0.5 0.1 0.1": "class 0.5 has no name",
    "-1 0.5 0.5 0.1 0.1": "class -1 has no name",
    "0,0.5,0.5,0.1,0.1": "needs numbers with blanks between; correct it",
    "red 0.5 0.5 0.1 0.1": "needs numbers with blanks between; correct it",
}


@pytest.mark.parametrize(("line", "message"), BAD_CLASSES.items())
def test_line_of_an_unknown_class(data: Folder, line: str, message: str) -> None:
    data.add("images/train/a", A, line)
    assert data.bad().startswith(f"train/a.txt line 2: {line!r}: {message}")
    (truth,), report = data.convert(on_error="skip")
    assert truth.labels == ("red box",)
    assert sum(report.ledger.skipped.values()) == 1


def test_label_file_that_is_no_text(data: Folder) -> None:
    path = data.add("images/train/a", labels=False)
    data.add("images/train/b", A)
    (data.root / "labels/train/a.txt").write_bytes(b"\xff\xfe0 0.5")
    assert "labels/train/a.txt: no text: 'utf-8' codec" in data.bad()
    _, report = data.convert(on_error="skip", min_instances=0)
    assert str(path) not in [row["images"][0] for row in rows_in(report)], "nobody knows what is in it"
    assert report.ledger.skipped == {"label file unreadable": 1}


# ---------------------------------------------------------------------------------------------- images and labels


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
    message = f"none of 1 images has a label file, as {data.root}/labels/train/a.txt would be"
    assert data.bad() == f"data.yaml: {message}; check the folders, or give --labels"


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
    assert data.bad() == f"{data.root}/images/train/b.png: not an image of a known format; fetch it again"
    found, report = data.convert(on_error="skip")
    assert len(found) == 1
    assert report.ledger.skipped == {"image unreadable": 1}


# ---------------------------------------------------------------------------------------------- data.yaml


@pytest.mark.parametrize(
    "names", [NAMES, {0: NAMES[0], 1: NAMES[1]}, {"0": NAMES[0], "1": NAMES[1]}, {1: NAMES[1], 0: NAMES[0]}]
)
def test_names_as_list_or_dictionary(data: Folder, names: Any) -> None:
    data.document |= {"names": names, "nc": 2}
    data.add("images/train/a", A, "1 0.5 0.5 0.1 0.1")
    assert set(data.convert()[0][0].labels) == set(NAMES)


def test_names_with_gaps_repeats_and_numbers(data: Folder) -> None:
    data.document |= {"names": {0: "red box", 7: 12, 9: "red box "}, "nc": 10}
    data.add("images/train/a", A, "7 0.5 0.5 0.1 0.1", "9 0.75 0.75 0.1 0.1")
    (truth,), _ = data.convert()
    assert truth.labels == ("red box", "red box", "12")
    assert truth.categories == ("red box", "12")


BAD_YAML = {
    "no names": ("train: images/train\nnc: 2", "names: needs a list of names, or a dictionary from number to name"),
    "names of a file": ("names: obj.names", "names: needs a list of names"),
    "truth value": ("names: [yes, no]", "names: 0 is True: yes, no, on, off are no texts in YAML; put it in quotes"),
    "nested": ("names: [[a]]", "names: 0 is a list: needs a text; correct it"),
    "no number": ("names: {a: b}", "names: 'a': needs a class number; correct it"),
    "count": ("names: [a, b]\nnc: 3", "nc is 3, but names has 2; correct one of them"),
    "no mapping": ("- a\n- b", "holds no keys such as names and train; is it the right file?"),
    "broken": ("names: [a\ntrain: b: c", "no YAML: while parsing"),
    "code": ("names: !!python/object/apply:os.system ['touch hacked']", "no YAML: could not determine a constructor"),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b]", "names: 0 is a list: needs a text; correct it"),
    "no split": ("names: [a, b]\nval: images/val\ntest:", "no split 'train'; --split one of val, or give --images"),
    "no path": ("names: [a, b]\ntrain: [1]", "train: needs a path, or a list of paths; correct it"),
}


@pytest.mark.parametrize(("text", "message"), BAD_YAML.values(), ids=BAD_YAML)
def test_bad_yaml(data: Folder, text: str, message: str) -> None:
    data.add("images/train/a", A)
    path = data.root / "data.yaml"
    path.write_text(text if "train:" in text or "val:" in text else f"train: images/train\n{text}\n")
    if text.startswith("- "):
        path.write_text(text)
    assert data.bad(path).startswith(f"{path}: {message}")
    assert not Path("hacked").exists()


def test_path_of_data_yaml(data: Folder) -> None:
    data.add("images/train/a", A)
    for path in (".", "", str(data.root), "../set", "/content/datasets/shapes", "none", None):
        data.document["path"] = path
        assert names_of(data.convert()[1]) == ["images/train/a.png"], path
    data.add("inner/images/train/b", A)
    data.document["path"] = "inner"
    assert names_of(data.convert()[1]) == ["images/train/b.png"]


def test_roboflow_writes_one_folder_too_high(data: Folder) -> None:
    data.add("train/images/a", labels=False)
    (data.root / "train/labels").mkdir()
    (data.root / "train/labels/a.txt").write_text(A)
    data.document["train"] = "../train/images"
    assert names_of(data.convert()[1]) == ["train/images/a.png"]
    (data.root.parent / "train/images").mkdir(parents=True)
    both = f"{data.root}/../train/images and {data.root}/train/images"
    message = f"{data.root}/data.yaml: train: both {both} are there; correct the entry, or give --images"
    assert data.bad() == message


def test_missing_folder(data: Folder) -> None:
    data.document["train"] = "images\\none"
    message = f"{data.root}/data.yaml: train: no {data.root}/images/none; correct `path` or the entry, or give --images"
    assert data.bad() == message
    (data.root / "images/none").mkdir(parents=True)
    assert data.bad() == f"{data.root}/images/none: no image there; check the paths"
    assert data.bad(images=data.root / "x") == f"--images {data.root}/x: no such folder or list; check the path"


@pytest.mark.parametrize("key", ["val", "validation", "valid"])
def test_splits_and_lists_of_folders(data: Folder, key: str) -> None:
    for name in ("one/images/a", "two/images/a", "images/train/c"):
        data.add(name, A)
    data.document[key] = ["one/images", "two/images"]
    _, report = data.convert(split="val")
    assert names_of(report) == ["one/images/a.png", "two/images/a.png"]
    assert {row["extra_info"]["split"] for row in rows_in(report)} == {"val"}


@pytest.mark.parametrize(
    "line", ["./images/train/a.png", "images/train/a.png", "images\\train\\a.png", "data/images/train/a.png", "{root}"]
)
def test_lists_of_images(data: Folder, line: str) -> None:
    """Ultralytics' ./, darknet's data/, and absolute paths, those of another machine among them."""
    for name in ("a", "b"):
        data.add(f"images/train/{name}", A)
    line = line.replace("{root}", "/home/me/set/images/train/a.png")
    (data.root / "train.txt").write_text(f"{line}\n\n{data.root}/images/train/b.png\n{line}\n")
    data.document["train"] = "train.txt"
    _, report = data.convert()
    assert names_of(report) == ["images/train/a.png", "images/train/b.png"]
    assert report.ledger.notes["image listed again"] == 1


def test_lists_may_not_lead_out(data: Folder) -> None:
    data.add("images/train/a", A)
    Image.new("RGB", WH).save(data.root.parent / "secret.png")
    (data.root / "train.txt").write_text("../secret.png\nimages/train/a.png\nimages/train/none.png\n")
    data.document["train"] = "train.txt"
    advice = "must lie inside the images folder, but leads out by '..'; put the image there, or correct the name"
    assert data.bad() == f"train.txt: '../secret.png': file_name '../secret.png' {advice}"
    _, report = data.convert(on_error="skip")
    assert names_of(report) == ["images/train/a.png"]
    assert report.ledger.skipped == {"file_name outside the images folder": 1, "image file missing": 1}


def darknet(data: Folder, **changes: str) -> Path:
    """CVAT's YOLO export: obj.data names, with the folders of darknet, what lies beside it."""
    data.add("obj_train_data/a", A)
    data.add("obj_test_data/b", "1 0.5 0.5 0.5 0.5")
    (data.root / "train.txt").write_text("data/obj_train_data/a.png\n")
    (data.root / "test.txt").write_text("data/obj_test_data/b.png\n")
    (data.root / "obj.names").write_text("\n".join(NAMES))
    lines = {"classes": "2", "train": "data/train.txt", "valid": "data/test.txt", "names": "data/obj.names"} | changes
    path = data.root / "obj.data"
    path.write_text("".join(f"{key} = {value}\n" for key, value in lines.items() if value) + "backup = backup/\n")
    return path


def test_an_index_of_darknet_is_followed(data: Folder) -> None:
    """Its lines are no names: "classes = 20" would be one."""
    (truth,), report = data.convert(darknet(data))
    assert (truth.categories, truth.labels, truth.boxes_xyxy) == (tuple(NAMES), ("red box",), (A_XYXY,))
    assert names_of(report) == ["obj_train_data/a.png"]
    (truth,), _ = data.convert(data.root / "obj.data", split="val")
    assert truth.labels == ("green box",)
    (truth,), _ = data.convert(data.root / "obj.data", images=data.root / "obj_test_data")
    assert truth.labels == ("green box",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ""}, "an index of settings"),
        ({"names": "data/coco.names"}, "names = data/coco.names: no such file in this folder"),
        ({"names": "../obj.data"}, "an index of settings"),
        ({"classes": "3"}, "classes is 3, but names has 2"),
        ({"train": ""}, "no split 'train'; --split one of valid"),
    ],
)
def test_a_bad_index_of_darknet(data: Folder, changes: dict[str, str], message: str) -> None:
    path = darknet(data, **changes)
    if changes == {"names": ""}:
        assert message in data.bad(path, images=data.root / "train.txt")
    else:
        assert message in data.bad(path)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("train = data/train.txt\nvalid=data/test.txt", "an index of settings"),
        ("data/obj_train_data/a.jpg\nb c.PNG\n", "a list of images"),
        (f"{A}\n1 0.1 0.2 0.3 0.4 0.5 0.6", "a file of boxes"),
        ("[net]\nbatch=64\n# width\nwidth=416", "an index of settings"),
        ('{"categories": [{"id": 0, "name": "red box"}]}', "JSON"),
        ('[\n  "red box",\n  "green box"\n]', "JSON"),
        ("red box,0\ngreen box,1", "a table"),
    ],
)
def test_other_files_are_no_names(data: Folder, text: str, kind: str) -> None:
    data.add("images/train/a", A)
    path = data.root / "obj.txt"
    path.write_text(text)
    assert f"this is {kind}, not a list of names" in data.bad(path, images=data.root / "images")


def test_names_may_be_numbers_or_hold_signs(data: Folder) -> None:
    data.add("images/train/a", A)
    path = data.root / "obj.names"
    path.write_text("0\n1 2\na=b\nx.jpg or so")
    assert data.convert(path, images=data.root / "images")[0][0].labels == ("0",)


@pytest.mark.parametrize(
    ("text", "line"),
    [("# classes\nred box", 1), ("red box\n// others\ngreen box", 2)]
    + [
        (f"{first}{sign}red box\n{first + 1}{sign}green box", 1) for first in (0, 1) for sign in (" ", ": ", "\t", ". ")
    ],
)
def test_names_with_numbers_or_comments(data: Folder, text: str, line: int) -> None:
    """They would be asked for as they stand."""
    data.add("images/train/a", A)
    path = data.root / "classes.txt"
    path.write_text(text)
    assert data.bad(path, images=data.root / "images").startswith(f"{path}: line {line}: ")


def test_label_files_in_another_unicode_form(data: Folder) -> None:
    """macOS writes names decomposed: the image is not one without a label file."""
    data.add("images/train/cafe\u0301", A)
    label = data.root / "labels/train/cafe\u0301.txt"
    label.rename(label.with_name("caf\u00e9.txt"))
    assert data.convert()[0][0].labels == ("red box",)


def test_names_file(data: Folder) -> None:
    data.add("images/train/a", A)
    names = data.root / "classes.txt"
    names.write_text("red box\r\ngreen box\r\n")
    (truth,), report = data.convert(names, images=data.root / "images")
    assert truth.categories == tuple(NAMES)
    assert names_of(report) == ["train/a.png"]
    assert data.bad(names) == f"{names}: no data.yaml, which says where the images are: give --images"
    names.write_text("red box\n\ngreen box")
    message = f"{names}: line 2 is blank: needs one name a line; correct it"
    assert data.bad(names, images=data.root / "images") == message


def test_a_bad_line_is_a_row_error(data: Folder) -> None:
    """So that the command tells of --on-error skip."""
    data.add("images/train/a", "0")
    with pytest.raises(RowError):
        data.convert()
