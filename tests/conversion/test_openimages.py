"""visionr1 convert openimages: the order of columns, groups, what was looked for, and the tree of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refused import mentions
from scene_sets.base import exif, rows_in
from scene_sets.detection_files import BOX_COLUMNS, write_table

from verl_visionr1.answers import instruction
from verl_visionr1.conversion.datasets import openimages
from verl_visionr1.conversion.writing import Report
from verl_visionr1.files import RowsError
from verl_visionr1.targets import Target

WH = (160, 96)
CLASSES = {"/m/0jbk": "Animal", "/m/0bt9lr": "Dog", "/m/01yrx": "Cat", "/m/0k65p": "Human hand", "/m/01g317": "Person"}
MID = {name: mid for mid, name in CLASSES.items()}
TREE = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {
            "LabelName": MID["Animal"],
            "Subcategory": [{"LabelName": "/m/0mammal", "Subcategory": [{"LabelName": MID["Dog"]}]}],
        },
        {"LabelName": "/m/0pets", "Subcategory": [{"LabelName": MID["Dog"]}, {"LabelName": MID["Cat"]}]},
        {"LabelName": MID["Person"], "Part": [{"LabelName": MID["Human hand"]}]},
    ],
}
A = (0.05, 0.3, 0.25, 0.5)  # XMin, XMax, YMin, YMax
A_XYXY = (8, 24, 48, 48)
FLAGS = {"IsOccluded": 0, "IsTruncated": 1, "IsGroupOf": 0, "IsDepiction": 0, "IsInside": 0}


class Tables:
    """The csv files and the images of a set."""

    def __init__(self, root: Path) -> None:
        self.root, self.images = root, root / "validation"
        self.images.mkdir(parents=True)
        self.boxes: list[dict[str, Any]] = []
        self.labels: list[tuple[Any, ...]] = []
        self.columns: tuple[str, ...] = BOX_COLUMNS
        self.tree: Any = None
        self.classes: list[tuple[str, ...]] = list(CLASSES.items())

    def image(self, name: str, **options: Any) -> Path:
        path = self.images / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", WH, (90, 90, 90)).save(path, **{"format": "PNG", **options})
        return path

    def box(self, image: str, name: str, sides: tuple[Any, ...] = A, **flags: Any) -> None:
        values = dict(zip(("XMin", "XMax", "YMin", "YMax"), sides, strict=True))
        first = {"ImageID": image, "Source": "xclick", "LabelName": MID.get(name, name), "Confidence": 1}
        self.boxes.append({**first, **values, **FLAGS, **flags})

    def label(self, image: str, name: str, confidence: Any) -> None:
        self.labels.append((image, "verification", MID.get(name, name), confidence))

    def files(self) -> tuple[Path, Path]:
        rows = [[record[name] for name in self.columns] for record in self.boxes]
        boxes = write_table(self.root / "validation-annotations-bbox.csv", [self.columns, *rows])
        return boxes, write_table(self.root / "class-descriptions-boxable.csv", self.classes)

    def convert(self, **options: Any) -> tuple[list[Target], Report]:
        options = {"task": "detection", **options}
        if self.labels:
            rows = [("ImageID", "Source", "LabelName", "Confidence"), *self.labels]
            options["labels"] = write_table(self.root / "labels.csv", rows)
        if self.tree is not None:
            options["hierarchy"] = self.root / "hierarchy.json"
            options["hierarchy"].write_text(json.dumps(self.tree))
        out = self.root / "out.parquet"
        report = openimages.convert(*self.files(), self.images, out, openimages.Options(**options))
        return [Target.from_json(row["reward_model"]["ground_truth"]) for row in rows_in(report)], report

    def bad(self, **options: Any) -> str:
        """The message of a conversion that fails."""
        with pytest.raises(RowsError) as caught:
            self.convert(**options)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def data(tmp_path: Path) -> Tables:
    tables = Tables(tmp_path / "set")
    tables.image("a1")
    return tables


def test_row(data: Tables) -> None:
    """XMin, XMax, YMin, YMax; and what is absent is unknown, so that it is not asked for."""
    data.box("a1", "Dog")
    (truth,), report = data.convert()
    assert (truth.boxes_xyxy, truth.labels, truth.categories, truth.size_wh) == ((A_XYXY,), ("Dog",), ("Dog",), WH)
    (row,) = rows_in(report)
    assert row["data_source"] == "visionr1/openimages_detection"
    assert row["prompt"][0]["content"] == "<image>" + instruction("detection", ["Dog"])
    info = row["extra_info"]
    assert (info["image_id"], info["file_name"]) == ("a1", "a1.jpg")
    assert json.loads(info["source_ann"]) == {"file": "validation-annotations-bbox.csv", "annotation_ids": [2]}


def test_groups_are_regions_to_ignore(data: Tables) -> None:
    data.box("a1", "Dog")
    data.box("a1", "Dog", (0.5, 1, 0.5, 1), IsGroupOf=1)
    data.box("a1", "Cat", (0.5, 1, 0.5, 1), IsGroupOf=-1)
    (truth,), report = data.convert()
    assert truth.boxes_xyxy == (A_XYXY, (80, 48, 160, 96))
    assert truth.labels == ("Dog", "Cat")
    assert truth.ignore_xyxy == ((80, 48, 160, 96),)
    assert report.ledger.notes["box that may be a group (IsGroupOf -1): used as one object"] == 1
    found, report = data.convert(task="counting")
    assert [(truth.categories, truth.count) for truth in found] == [(("Cat",), 1)], "nobody knows how many dogs"


@pytest.mark.parametrize(("orientation", "expected"), [(1, A_XYXY), (3, (112, 48, 152, 72)), (6, (48, 8, 72, 48))])
def test_fractions_are_of_the_stored_pixels(data: Tables, orientation: int, expected: tuple[float, ...]) -> None:
    """Also where both frames have one size, so that the size cannot tell."""
    data.image("a1", exif=exif(orientation))
    data.box("a1", "Dog")
    assert data.convert()[0][0].boxes_xyxy == (expected,)


BAD_BOXES = {
    "pixels": ((8, 48, 24, 48), {}, "0 to 1", "box not in fractions"),
    "no number": (("x", 0.3, 0.25, 0.5), {}, "XMin x, YMin 0.25, XMax 0.3, YMax 0.5", "box malformed"),
}


@pytest.mark.parametrize(("sides", "flags", "message", "kind"), BAD_BOXES.values(), ids=BAD_BOXES)
def test_bad_box(data: Tables, sides: Any, flags: dict[str, Any], message: str, kind: str) -> None:
    data.box("a1", "Dog")
    data.box("a1", "Cat", sides, **flags)
    shown = data.bad()
    assert shown.startswith("validation-annotations-bbox.csv: annotation id 3 (image id a1): ")
    assert message in shown
    (truth,), report = data.convert(on_error="skip", task="grounding")
    assert truth.labels == ("Dog",)
    assert report.ledger.skipped == {kind: 1}


def test_without_labels_nothing_is_called_absent(data: Tables) -> None:
    for i in range(9):
        data.image(f"b{i}")
        data.box(f"b{i}", "Dog")
    found, report = data.convert(task="grounding", negatives=0.5)
    assert {truth.labels for truth in found} == {("Dog",)}
    assert report.ledger.notes["grounding negatives missing: too few absent categories"] == 9


def test_verified_labels(data: Tables) -> None:
    """Absent: asked for; there without a box: not; without a label: not."""
    data.box("a1", "Dog")
    for name, confidence in (("Dog", "1.0"), ("Cat", 0), ("Person", 1), ("/m/0notboxable", 0)):
        data.label("a1", name, confidence)
    (truth,), report = data.convert()
    assert truth.categories == ("Dog", "Cat")
    assert report.ledger.notes["image-level label of a class without boxes"] == 1
    found, _ = data.convert(task="grounding", negatives=0.5)
    assert [(truth.categories, len(truth.boxes_xyxy)) for truth in found] == [(("Dog",), 1), (("Cat",), 0)]


def test_labels_that_contradict(data: Tables) -> None:
    data.box("a1", "Dog")
    data.box("a1", "Cat")
    data.label("a1", "Cat", 0)
    data.label("a1", "Person", 0)
    data.label("a1", "Person", 1)
    (truth,), report = data.convert()
    assert truth.categories == ("Dog",)
    assert report.ledger.notes["class verified as absent, but with a box: not asked for"] == 2


def test_machine_made_labels_are_refused(data: Tables) -> None:
    data.box("a1", "Dog")
    data.label("a1", "Cat", 0.7)
    assert mentions(data.bad(on_error="skip"), "labels.csv: line 2: ", "Confidence '0.7'", "0 and 1")


def test_ancestors_of_what_is_there_are_not_asked_for(data: Tables) -> None:
    """Neither as absent, nor as complete: the boxes of animals do not hold the dog."""
    data.tree = TREE
    data.box("a1", "Dog")
    data.box("a1", "Animal", (0.5, 1, 0.5, 1))
    data.label("a1", "Cat", 0)
    (truth,), _ = data.convert()
    assert (truth.categories, truth.labels) == (("Dog", "Cat"), ("Dog",))
    data.boxes.pop()
    data.label("a1", "Animal", 0)
    assert data.convert()[0][0].categories == ("Dog", "Cat")
    data.tree = None
    assert data.convert()[0][0].categories == ("Animal", "Dog", "Cat"), "nobody knows better without the tree"


def test_a_whole_is_not_above_its_parts(data: Tables) -> None:
    data.tree = TREE
    data.box("a1", "Human hand")
    data.label("a1", "Person", 0)
    assert data.convert()[0][0].categories == ("Human hand", "Person")


@pytest.mark.parametrize("name", ["b", "../secret", "", "/etc/passwd"])
def test_missing_image(data: Tables, name: str) -> None:
    (data.root / "secret.jpg").write_bytes((data.images / "a1.jpg").read_bytes())
    data.box(name, "Dog")
    data.box(name, "Cat")
    data.box("a1", "Dog")
    place = "validation-annotations-bbox.csv: line 2: "
    assert mentions(data.bad(), place, f"{name}.jpg", data.images, "IMAGES_DIR", "--partial")
    found, report = data.convert(on_error="skip")
    assert len(found) == 1
    assert report.ledger.skipped == {"image file missing": 1}
    assert report.ledger.left_out["box of an image left out"] == 1
    found, report = data.convert(partial=True)
    assert len(found) == 1
    assert report.ledger.left_out["image that is not in the folder (--partial)"] == 1


def test_v7_names_its_columns(data: Tables) -> None:
    data.box("a1", "Dog")
    data.classes.insert(0, ("LabelName", "DisplayName"))
    assert data.convert(min_instances=0)[0][0].categories == ("Dog",)


def test_lines_with_surplus_fields(data: Tables) -> None:
    data.image("a")
    data.box("a", "Dog")
    boxes, classes = data.files()
    boxes.write_text(boxes.read_text() + "a,x,/m/0bt9lr,1,.1,.2,.3,.4,0,0,0,0,0,surplus\n")
    options = openimages.Options(task="detection", on_error="skip")
    report = openimages.convert(boxes, classes, data.images, data.root / "out.parquet", options)
    assert report.ledger.skipped == {"malformed entry": 1}


def test_class_that_the_file_does_not_list(data: Tables) -> None:
    data.box("a1", "Dog")
    data.box("a1", "/m/0new")
    assert data.bad().startswith("validation-annotations-bbox.csv: line 3: LabelName '/m/0new' ")
    _, report = data.convert(on_error="skip")
    assert report.ledger.skipped == {"unknown class": 1}
