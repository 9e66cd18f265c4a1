"""visionr1 convert yolo: labels, data.yaml in all its dialects, image lists, darknet's index, files of names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from refused import mentions
from scene_sets.base import exif, rows_in

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

    def bad(self, source: Path | None = None, kind: type[RowsError] = RowsError, **options: Any) -> str:
        """The message of a conversion that fails."""
        with pytest.raises(kind) as caught:
            self.convert(source, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)


def names_of(report: Report) -> list[str]:
    return [row["extra_info"]["file_name"] for row in rows_in(report)]


@pytest.fixture
def data(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "set")


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


BAD_LINES = {
    "confidence": ("1 0.5 0.5 0.1 0.1 0.93", "malformed line", ("6 numbers",)),
    "pixels": ("1 80 48 40 24", "box not in fractions", ([60.0, 36.0, 100.0, 60.0], "0 to 1")),
    "no width": ("1 0.5 0.5 0 0.1", "box without extent", ()),
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
    "-1 0.5 0.5 0.1 0.1": ("unknown class", ("class -1",)),
    "0,0.5,0.5,0.1,0.1": ("malformed line", ()),
}


@pytest.mark.parametrize("line", BAD_CLASSES)
def test_line_of_an_unknown_class(data: Folder, line: str) -> None:
    kind, values = BAD_CLASSES[line]
    data.add("images/train/a", A, line)
    assert mentions(data.bad(), f"train/a.txt line 2: {line!r}: ", *values)
    (truth,), report = data.convert(on_error="skip")
    assert truth.labels == ("red box",)
    assert report.ledger.skipped == {kind: 1}


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


def test_labels_folder_of_another_name(data: Folder) -> None:
    data.document["train"] = "pictures"
    data.add("pictures/sub/a", labels=False)
    data.add("pictures/b", labels=False)
    (data.root / "txt" / "sub").mkdir(parents=True)
    (data.root / "txt" / "sub" / "a.txt").write_text(A)
    (data.root / "txt" / "b.txt").write_text(A)
    assert len(data.convert(labels=data.root / "txt")[0]) == 2


BAD_YAML = {
    "no names": ("train: images/train\nnc: 2", ("names: ",)),
    "names of a file": ("names: obj.names", ("names: ",)),
    "truth value": ("names: [yes, no]", ("names: '0'", True, "quotes")),
    "no number": ("names: {a: b}", ("names: 'a': ",)),
    "count": ("names: [a, b]\nnc: 3", ("nc", 3, "names", 2)),
    "broken": ("names: [a\ntrain: b: c", ("YAML", "line 2")),
    "code": ("names: !!python/object/apply:os.system ['touch hacked']", ("YAML", "os.system")),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b]", ("names: '0'", "[[")),
    "long path": (f"names: [a, b]\ntrain: {'a' * 300}", ("train: ", "a" * 300, "--images")),
    "no split": ("names: [a, b]\nval: images/val\ntest:", ("'train'", "--split", "val", "--images")),
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
        ({"names": ""}, ("classes = 2", "file of names")),
        ({"names": "data/coco.names"}, ("names = data/coco.names",)),
        ({"names": "../obj.data"}, ("classes = 2", "file of names")),
        ({"classes": "3"}, ("classes", 3, "names", 2)),
        ({"train": ""}, ("'train'", "--split", "valid")),
    ],
)
def test_a_bad_index_of_darknet(data: Folder, changes: dict[str, str], values: tuple[object, ...]) -> None:
    path = darknet(data, **changes)
    images = data.root / "train.txt" if changes == {"names": ""} else None
    assert mentions(data.bad(path, images=images), *values)


@pytest.mark.parametrize(
    "text",
    [
        "train = data/train.txt\nvalid=data/test.txt",
        "data/obj_train_data/a.jpg\nb c.PNG\n",
        f"{A}\n1 0.1 0.2 0.3 0.4 0.5 0.6",
        "[net]\nbatch=64\n# width\nwidth=416",
        '{"categories": [{"id": 0, "name": "red box"}]}',
        '[\n  "red box",\n  "green box"\n]',
        "red box,0\ngreen box,1",
    ],
)
def test_other_files_are_no_names(data: Folder, text: str) -> None:
    data.add("images/train/a", A)
    path = data.root / "obj.txt"
    path.write_text(text)
    assert mentions(data.bad(path, images=data.root / "images"), path, "line 1", text.split("\n")[0])


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


def test_names_with_gaps_repeats_and_numbers(data: Folder) -> None:
    data.document |= {"names": {0: "red box", 7: 12, 9: "red box "}, "nc": 10}
    data.add("images/train/a", A, "7 0.5 0.5 0.1 0.1", "9 0.75 0.75 0.1 0.1")
    (truth,), _ = data.convert()
    assert truth.labels == ("red box", "red box", "12")
    assert truth.categories == ("red box", "12")


def test_label_file_that_is_no_text(data: Folder) -> None:
    path = data.add("images/train/a", labels=False)
    data.add("images/train/b", A)
    (data.root / "labels/train/a.txt").write_bytes(b"\xff\xfe0 0.5")
    assert mentions(data.bad(), "labels/train/a.txt: ", "utf-8")
    _, report = data.convert(on_error="skip", min_instances=0)
    assert str(path) not in [row["images"][0] for row in rows_in(report)], "nobody knows what is in it"
    assert report.ledger.skipped == {"label file unreadable": 1}
