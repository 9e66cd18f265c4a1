"""visionr1 convert yolo: data.yaml in all its dialects, lists of images, darknet's index and files of names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refused import mentions
from scene_sets.base import rows_in
from yolo_set import A_XYXY, NAMES, WH, A, Folder, names_of


@pytest.fixture
def data(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "set")


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
    "no names": ("train: images/train\nnc: 2", ("names: ",)),
    "names of a file": ("names: obj.names", ("names: ",)),
    "truth value": ("names: [yes, no]", ("names: 0 ", True)),
    "nested": ("names: [[a]]", ("names: 0 ", "list")),
    "no number": ("names: {a: b}", ("names: 'a': ",)),
    "count": ("names: [a, b]\nnc: 3", ("nc", 3, "names", 2)),
    "no mapping": ("- a\n- b", ()),
    "broken": ("names: [a\ntrain: b: c", ("YAML", "line 2")),
    "code": ("names: !!python/object/apply:os.system ['touch hacked']", ("YAML", "os.system")),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b]", ("names: 0 ", "list")),
    "no split": ("names: [a, b]\nval: images/val\ntest:", ("'train'", "--split", "val", "--images")),
    "no path": ("names: [a, b]\ntrain: [1]", ("train: ",)),
}


@pytest.mark.parametrize(("text", "values"), BAD_YAML.values(), ids=BAD_YAML)
def test_bad_yaml(data: Folder, text: str, values: tuple[object, ...]) -> None:
    data.add("images/train/a", A)
    path = data.root / "data.yaml"
    path.write_text(text if "train:" in text or "val:" in text else f"train: images/train\n{text}\n")
    if text.startswith("- "):
        path.write_text(text)
    assert mentions(data.bad(path), f"{path}: ", *values)
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
    assert mentions(data.bad(), f"{data.root}/data.yaml: train: ", both, "--images")


def test_missing_folder(data: Folder) -> None:
    data.document["train"] = "images\\none"
    assert mentions(data.bad(), f"{data.root}/data.yaml: train: ", f"{data.root}/images/none", "`path`", "--images")
    (data.root / "images/none").mkdir(parents=True)
    assert data.bad().startswith(f"{data.root}/images/none: ")
    assert data.bad(images=data.root / "x").startswith(f"--images {data.root}/x: ")


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
    assert mentions(data.bad(), "train.txt: '../secret.png': ", "'..'")
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
    ("changes", "values"),
    [
        ({"names": ""}, ("an index of settings",)),
        ({"names": "data/coco.names"}, ("names = data/coco.names",)),
        ({"names": "../obj.data"}, ("an index of settings",)),
        ({"classes": "3"}, ("classes", 3, "names", 2)),
        ({"train": ""}, ("'train'", "--split", "valid")),
    ],
)
def test_a_bad_index_of_darknet(data: Folder, changes: dict[str, str], values: tuple[object, ...]) -> None:
    path = darknet(data, **changes)
    images = data.root / "train.txt" if changes == {"names": ""} else None
    assert mentions(data.bad(path, images=images), *values)


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
    assert mentions(data.bad(path, images=data.root / "images"), path, kind)


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


def test_names_file(data: Folder) -> None:
    data.add("images/train/a", A)
    names = data.root / "classes.txt"
    names.write_text("red box\r\ngreen box\r\n")
    (truth,), report = data.convert(names, images=data.root / "images")
    assert truth.categories == tuple(NAMES)
    assert names_of(report) == ["train/a.png"]
    assert mentions(data.bad(names), f"{names}: ", "--images")
    names.write_text("red box\n\ngreen box")
    assert data.bad(names, images=data.root / "images").startswith(f"{names}: line 2 ")
