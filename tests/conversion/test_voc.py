"""visionr1 convert voc: VOC's pixels, LabelImg's edges, and what is wrong in xml files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from refused import mentions
from scene_sets.base import exif, rows_in
from scene_sets.detection_files import voc_object, voc_xml

from verl_visionr1.answers import instruction
from verl_visionr1.conversion.datasets import voc
from verl_visionr1.conversion.writing import Report
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.targets import Target

WH = (160, 96)
RED, GREEN = (255, 0, 0), (0, 255, 0)
A, B = (8, 16, 48, 40), (64, 8, 80, 80)  # xyxy, 0-based, half-open
A_VOC, B_VOC = (9, 17, 48, 40), (65, 9, 80, 80)  # the same as VOC counts


class Devkit:
    """A VOC folder; image i holds what is annotated in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.annotations, self.images = root / "Annotations", root / "JPEGImages"
        self.annotations.mkdir(parents=True)
        self.images.mkdir()

    def image(self, name: str, **options: Any) -> Path:
        picture = Image.new("RGB", WH, (90, 90, 90))
        ImageDraw.Draw(picture).rectangle((A[0], A[1], A[2] - 1, A[3] - 1), fill=RED)
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, **options)
        return path

    def xml(self, name: str, *objects: str, filename: str | None = None, size: tuple[int, int] = WH) -> Path:
        path = self.annotations / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(voc_xml(f"{name}.png" if filename is None else filename, size, objects))
        return path

    def add(self, name: str, *objects: str) -> None:
        self.image(f"{name}.png")
        self.xml(name, *objects)

    def lists(self, **lists: list[str]) -> None:
        folder = self.root / "ImageSets" / "Main"
        folder.mkdir(parents=True, exist_ok=True)
        for name, ids in lists.items():
            (folder / f"{name}.txt").write_text("".join(f"{it}\n" for it in ids))

    def convert(self, **options: Any) -> tuple[list[Target], Report]:
        out = self.root / "out.parquet"
        report = voc.convert(self.annotations, self.images, out, voc.Options(**{"task": "detection", **options}))
        return [Target.from_json(row["reward_model"]["ground_truth"]) for row in rows_in(report)], report

    def bad(self, kind: type[RowsError] = RowsError, **options: Any) -> str:
        """The message of a conversion that fails."""
        with pytest.raises(kind) as caught:
            self.convert(**options)
        assert "\n" not in str(caught.value)
        assert not list(self.root.glob("out*"))
        return str(caught.value)


@pytest.fixture
def kit(tmp_path: Path) -> Devkit:
    return Devkit(tmp_path / "VOC2012")


def test_voc_is_one_based_and_holds_its_last_pixel(kit: Devkit) -> None:
    kit.add("2007_000027", voc_object("red box", A_VOC))
    (truth,), report = kit.convert()
    assert truth.boxes_xyxy == (A,)
    assert truth.size_wh == WH
    (row,) = rows_in(report)
    assert row["data_source"] == "visionr1/voc_detection"
    assert row["prompt"][0]["content"] == "<image>" + instruction("detection", ["red box"])
    info = row["extra_info"]
    assert (info["image_id"], info["file_name"]) == ("2007_000027", "2007_000027.png")
    assert json.loads(info["source_ann"]) == {"file": "Annotations", "annotation_ids": ["2007_000027.xml object 1"]}


def test_zero_based_xml_is_taken_as_it_is(kit: Devkit) -> None:
    kit.add("a", voc_object("red box", A))
    (truth,), _ = kit.convert(zero_based=True)
    assert truth.boxes_xyxy == (A,)


def test_part_boxes_are_not_objects(kit: Devkit) -> None:
    part = voc_object("head", (2, 2, 5, 5)).replace("object>", "part>")
    person = voc_object("person", A_VOC).replace("<bndbox>", f"{part}<bndbox>")
    kit.add("a", person)
    (truth,), _ = kit.convert()
    assert (truth.labels, truth.categories, truth.boxes_xyxy) == (("person",), ("person",), (A,))


@pytest.mark.parametrize(
    ("text", "is_ignored"),
    [("1", True), (" 1\n", True), ("True", True), ("yes", True), ("0", False), ("", False), ("Unspecified", False)],
)
def test_difficult_objects_are_regions_to_ignore(kit: Devkit, text: str, is_ignored: bool) -> None:
    difficult = f"<truncated>1</truncated><difficult>{text}</difficult>"
    kit.add("a", voc_object("red box", A_VOC), voc_object("red box", B_VOC, difficult))
    (truth,), _ = kit.convert()
    assert truth.boxes_xyxy == ((A,) if is_ignored else (A, B))
    assert truth.ignore_xyxy == ((B,) if is_ignored else ())


def test_names_are_sorted_or_given(kit: Devkit) -> None:
    kit.add("a", voc_object("zebra", A_VOC), voc_object("ant", B_VOC))
    assert kit.convert()[0][0].categories == ("ant", "zebra")
    names = kit.root / "names.txt"
    names.write_text("\ufeffzebra\nbear\nant\n\n", encoding="utf-8")
    (truth,), report = kit.convert(names=names)
    assert truth.categories == ("zebra", "bear", "ant")
    facts = json.loads(pq.read_schema(report.written.file).metadata[b"visionr1"])
    assert facts["options"]["names"] == "names.txt"
    assert str(kit.root) not in json.dumps(facts)


def test_a_name_that_is_not_among_the_given(kit: Devkit) -> None:
    kit.add("a", voc_object("zebra", A_VOC), voc_object("ant", B_VOC))
    names = kit.root / "names.txt"
    names.write_text("ant")
    assert mentions(kit.bad(names=names), "a.xml object 1: ", "'zebra'", names)
    (truth,), report = kit.convert(names=names, on_error="skip")
    assert truth.labels == ("ant",)
    assert report.ledger.skipped == {"unknown name": 1}


def test_wrong_filename(kit: Devkit) -> None:
    """The image of the xml's own name counts, also where the named one is there."""
    kit.add("a", voc_object("red box", A_VOC))
    kit.add("b", voc_object("red box", A_VOC))
    for name, filename in (("a", "b.png"), ("b", "C:\\Users\\me\\photo.png")):
        kit.xml(name, voc_object("red box", A_VOC), filename=filename)
    _, report = kit.convert()
    assert [row["images"] for row in rows_in(report)] == [[str(kit.images / f"{it}.png")] for it in "ab"]
    assert report.ledger.notes["xml with another <filename>: image found by the name of the xml"] == 2


def test_filename_where_no_image_has_the_name_of_the_xml(kit: Devkit) -> None:
    kit.image("sub/photo 1.png")
    kit.xml("a", voc_object("red box", A_VOC), filename="sub/photo 1.png")
    _, report = kit.convert()
    assert rows_in(report)[0]["extra_info"]["file_name"] == "sub/photo 1.png"
    assert report.ledger.notes["image without an xml file"] == 0


def test_two_xml_of_one_image(kit: Devkit) -> None:
    kit.image("photo.png")
    for name in "ab":
        kit.xml(name, voc_object("red box", A_VOC), filename="photo.png")
    assert mentions(kit.bad(), "b.xml: ", "photo.png", "a.xml")


def test_two_images_of_one_name(kit: Devkit) -> None:
    kit.image("a.png")
    kit.image("a.bmp")
    kit.xml("a", voc_object("red box", A_VOC))
    assert rows_in(kit.convert()[1])[0]["extra_info"]["file_name"] == "a.png", "as <filename> says"
    kit.xml("a", voc_object("red box", A_VOC), filename="b.png")
    kit.root.joinpath("out.parquet").unlink()
    assert mentions(kit.bad(), "a.xml: ", "a.bmp", "a.png")


@pytest.mark.parametrize("size", [(0, 0), (160, 0), ("", ""), ("wide", "high"), ("nan", "inf")])
def test_missing_size_is_measured(kit: Devkit, size: Any) -> None:
    kit.image("a.png")
    kit.xml("a", voc_object("red box", A_VOC), size=size)
    (truth,), report = kit.convert()
    assert (truth.size_wh, truth.boxes_xyxy) == (WH, (A,))
    assert report.ledger.notes["xml without the image's size: size taken from the image"] == 1


def test_exif(kit: Devkit) -> None:
    """The size tells in which frame the boxes were drawn; without it nothing does."""
    kit.image("a.png", exif=exif(6))
    kit.xml("a", voc_object("red box", A_VOC))
    (truth,), _ = kit.convert()
    assert (truth.size_wh, truth.boxes_xyxy) == (WH[::-1], ((56, 8, 80, 48),))
    kit.xml("a", voc_object("red box", A_VOC), size=WH[::-1])
    assert kit.convert()[0][0].boxes_xyxy == (A,)
    kit.xml("a", voc_object("red box", A_VOC), size=(0, 0))
    (kit.root / "out.parquet").unlink()
    (folder,) = kit.root.glob("out_images")
    folder.rename(kit.root / "kept")
    assert "EXIF orientation 6" in kit.bad()


def test_split_lists(kit: Devkit) -> None:
    for name in ("a", "b", "my c"):
        kit.add(name, voc_object(f"{name} box", A_VOC))
    kit.lists(train=["my c", "", "a", "a"], val=["b"], a_train=["a  1", "b -1"], test=['"my c"'])
    found, report = kit.convert()
    assert [truth.labels for truth in found] == [("my c box",), ("a box",)], "in the order of the list"
    assert {truth.categories for truth in found} == {("a box", "my c box")}
    assert report.ledger.notes["image listed again"] == 1
    assert [truth.labels for truth in kit.convert(split="val")[0]] == [("b box",)]
    assert [truth.labels for truth in kit.convert(split="test")[0]] == [("my c box",)]
    other = kit.root / "mine.txt"
    other.write_text("b\n")
    found, report = kit.convert(image_list=other)
    assert [truth.labels for truth in found] == [("b box",)]
    assert rows_in(report)[0]["extra_info"]["split"] == "train"


@pytest.mark.parametrize("name", ["b", "../secret", "/etc/passwd"])
def test_listed_image_without_xml(kit: Devkit, name: str) -> None:
    kit.add("a", voc_object("red box", A_VOC))
    (kit.root / "secret.xml").write_text(voc_xml("a.png", WH, [voc_object("secret", A_VOC)]))
    kit.lists(train=[name, "a"])
    assert mentions(kit.bad(), f"train.txt: {name!r}: ", f"{name}.xml", kit.annotations)
    (truth,), report = kit.convert(on_error="skip")
    assert truth.labels == ("red box",)
    assert report.ledger.skipped == {"xml file missing": 1}


BOMB = '<!DOCTYPE a [<!ENTITY b "bb">]><annotation><filename>&b;</filename></annotation>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>'
BAD_XML = {
    "a bomb": (BOMB, "bad.xml: DTDForbidden", "hostile XML"),
    "cut off": ("<annotation><object>", "bad.xml: no element found: line 1, column 20", "malformed XML"),
    "encoding": ('<?xml version="1.0" encoding="no"?><a/>', "bad.xml: unknown encoding: no", "malformed XML"),
    "CVAT's own": ("<annotations/>", "<annotations>, needs <annotation>", "not VOC xml"),
    "no image": (
        voc_xml("no.png", WH, []),
        "'no.png'",
        "image file missing",
    ),
}


@pytest.mark.parametrize(("text", "message", "kind"), BAD_XML.values(), ids=BAD_XML)
def test_bad_xml(kit: Devkit, text: str, message: str, kind: str) -> None:
    kit.add("a", voc_object("red box", A_VOC))
    (kit.annotations / "bad.xml").write_text(text)
    kit.image("../secret.png")
    assert message in kit.bad()
    found, report = kit.convert(on_error="skip")
    assert len(found) == 1
    assert report.ledger.skipped == {kind: 1}


green = partial(voc_object, "green box")
BAD_OBJECTS = {
    "no number": (green((1, "x", 3, 4)), "xmin 1, ymin x, xmax 3, ymax 4", "box malformed"),
    "inverted": (green((30, 5, 20, 9)), "box = [29.0, 4.0, 20.0, 9.0]", "box without extent"),
    "turned": (
        "<object><name>green box</name><robndbox><cx>5</cx></robndbox></object>",
        "xmin missing, ymin missing, xmax missing, ymax missing",
        "box malformed",
    ),
}


@pytest.mark.parametrize(("text", "message", "kind"), BAD_OBJECTS.values(), ids=BAD_OBJECTS)
def test_bad_object(kit: Devkit, text: str, message: str, kind: str) -> None:
    """It loses only itself, and the category counts as there; a row error, so that the command tells of --on-error."""
    kit.add("a", voc_object("red box", A_VOC), text)
    shown = kit.bad(RowError)
    assert shown.startswith("Annotations: annotation id 'a.xml object 2' (image id a): ")
    assert message in shown
    found, report = kit.convert(on_error="skip", task="grounding", negatives=0.5)
    assert [truth.labels for truth in found] == [("red box",)]
    assert report.ledger.skipped == {kind: 1}


def test_object_without_a_name(kit: Devkit) -> None:
    kit.add("a", voc_object(" ", A_VOC), voc_object("red box", B_VOC))
    assert kit.bad().startswith("a.xml: object 1 (xmin 9, ymin 17, xmax 48, ymax 40): ")
    (truth,), report = kit.convert(on_error="skip")
    assert truth.labels == ("red box",)
    assert report.ledger.skipped == {"object without a name": 1}


def test_a_zero_in_one_based_xml_is_noted(kit: Devkit) -> None:
    kit.add("a", voc_object("red box", (0, 17, 48, 40)), voc_object("red box", (1, 1, 9, 9)))
    (truth,), report = kit.convert()
    assert truth.boxes_xyxy == ((0, 0, 9, 9), (0, 16, 48, 40))
    (note,) = [note for note in +report.ledger.notes if "--zero-based" in note]
    assert report.ledger.notes[note] == 1


def test_list_of_one_category(kit: Devkit) -> None:
    kit.add("a", voc_object("red box", A_VOC))
    kit.lists(red_train=["a  1", "b -1"])
    path = kit.root / "ImageSets" / "Main" / "red_train.txt"
    assert kit.bad(image_list=path).startswith(f"{path}: 'a  1': ")
