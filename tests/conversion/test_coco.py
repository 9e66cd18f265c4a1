"""visionr1 convert coco: every trap of COCO-format files, boxes re-measured from the pixels, and the command."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from scene_sets.base import exif, target
from typer.testing import CliRunner

from verl_visionr1.answers import instruction
from verl_visionr1.cli import app
from verl_visionr1.conversion.coco_json import read_coco
from verl_visionr1.conversion.datasets import coco
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.rows import RowError, RowsError, read_rows
from verl_visionr1.tools.doctor import check_parquet

COLOURS = {"red box": (255, 0, 0), "green box": (0, 255, 0), "blue box": (0, 0, 255)}
RED, GREEN, BLUE = 3, 7, 90  # category ids: sparse, as in COCO
CATEGORIES = [{"id": i, "name": name} for i, name in zip((RED, GREEN, BLUE), COLOURS, strict=True)]
NAME_OF = {category["id"]: category["name"] for category in CATEGORIES}
WH = (160, 96)
TRANSPOSE = {  # what a viewer does for each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Dataset:
    """A COCO dataset in a folder; `image` draws what it annotates."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images_dir = folder, folder / "images"
        self.images_dir.mkdir(parents=True)
        self.document: dict[str, Any] = {"images": [], "annotations": [], "categories": list(CATEGORIES)}

    def image(self, *boxes: tuple[int, list[float]], name: str = "", **changes: Any) -> dict[str, Any]:
        number = 100 + 17 * len(self.document["images"])
        name = name or f"{number:012d}.png"
        picture = Image.new("RGB", WH, (90, 90, 90))
        for category, (x, y, w, h) in boxes:
            ImageDraw.Draw(picture).rectangle((x, y, x + w - 1, y + h - 1), fill=COLOURS[NAME_OF[category]])
        (self.images_dir / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(self.images_dir / name)
        entry = {"id": number, "file_name": name, "width": WH[0], "height": WH[1], **changes}
        self.document["images"].append(entry)
        for category, box in boxes:
            self.annotate(entry["id"], category, box, iscrowd=0)
        return entry

    def annotate(self, image_id: Any, category: Any, box: Any, **changes: Any) -> int:
        number = 1000 + len(self.document["annotations"])
        entry = {"id": number, "image_id": image_id, "category_id": category, "bbox": box, **changes}
        self.document["annotations"].append(entry)
        return number

    def write(self) -> Path:
        path = self.folder / "instances.json"
        path.write_text(json.dumps(self.document), encoding="utf-8")
        return path

    def convert(self, out: str = "out.parquet", **options: Any) -> tuple[list[dict[str, Any]], Any]:
        report = coco.convert(self.write(), self.images_dir, self.folder / out, coco.Options(**options))
        found = [row for file in report.written.files for row in read_rows(file)]
        assert [check_parquet(file) for file in report.written.files] == [[]] * len(report.written.files)
        assert sum(report.rows.values()) == len(found) == report.written.rows
        return found, report

    def bad(self, match: str) -> RowError:
        """Convert with --on-error fail; the message must name things."""
        with pytest.raises(RowError, match=match) as caught:
            self.convert()
        assert sorted(path.name for path in self.folder.iterdir()) == ["images", "instances.json"]
        assert "\n" not in str(caught.value)
        return caught.value


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "set")


def measured(row: dict[str, Any], colour: tuple[int, ...]) -> tuple[float, ...]:
    """Bounds of one colour in the image of a row, opened without a look at EXIF, as verl does."""
    (image,) = row["images"]
    pixels = np.asarray(Image.open(io.BytesIO(image["bytes"]) if isinstance(image, dict) else image), dtype=int)
    ys, xs = np.nonzero((np.abs(pixels - colour) < 100).all(axis=-1))
    return float(xs.min()), float(ys.min()), float(xs.max()) + 1, float(ys.max()) + 1


A, B, C = [8, 16, 40, 24], [64, 8, 16, 72], [96, 40, 56, 32]


# ------------------------------------------------------------------------------------------------ good rows


@pytest.mark.parametrize("embed", [False, True])
def test_detection_row(data: Dataset, embed: bool) -> None:
    entry = data.image((RED, A), (GREEN, B), name="sub dir/bild, ä.png")
    (row,), _ = data.convert(task="detection", embed=embed, split="val")
    truth = target(row)
    assert truth.task == row["ability"] == "detection"
    assert truth.labels == ("red box", "green box")
    assert truth.categories == tuple(COLOURS)
    assert truth.size_wh == WH
    assert [measured(row, COLOURS[label]) for label in truth.labels] == list(truth.boxes_xyxy)
    question = instruction("detection", list(COLOURS))
    assert row["prompt"] == [{"role": "user", "content": "<image>" + question}]
    assert row["data_source"] == "visionr1/coco_detection"
    info = row["extra_info"]
    assert (info["image_id"], info["file_name"], info["split"]) == (str(entry["id"]), "sub dir/bild, ä.png", "val")
    assert json.loads(info["source_ann"]) == {"file": "instances.json", "annotation_ids": [1000, 1001]}
    source = data.images_dir / entry["file_name"]
    assert row["images"] == ([{"bytes": source.read_bytes()}] if embed else [str(source)])


def test_grounding_rows_one_a_category(data: Dataset) -> None:
    data.image((RED, A), (GREEN, B), (RED, C))
    found, report = data.convert(task="grounding")
    assert [target(row).labels for row in found] == [("red box", "red box"), ("green box",)]
    assert target(found[0]).boxes_xyxy == ((8, 16, 48, 40), (96, 40, 152, 72))
    assert target(found[0]).categories == ("red box",)
    assert found[1]["prompt"][0]["content"] == "<image>" + instruction("grounding", ["green box"])
    assert report.objects == {1: 1, 2: 1}


def test_both_tasks_in_one_file(data: Dataset) -> None:
    data.image((RED, A), (GREEN, B))
    data.image((BLUE, C))
    found, report = data.convert()
    assert [row["ability"] for row in found] == ["detection", "grounding", "grounding", "detection", "grounding"]
    assert report.rows == {"detection": 2, "grounding": 3}
    assert len({row["extra_info"]["index"] for row in found}) == 5


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize(
    ("annotated", "orientation"), [("stored", o) for o in (1, 5, 6, 7, 8)] + [("upright", o) for o in range(1, 9)]
)
def test_exif(data: Dataset, orientation: int, embed: bool, annotated: str) -> None:
    """Boxes and crowds drawn in either frame land on their pixels in the image of the row.

    No json can say that it means the stored frame where both frames have one size (2, 3, 4): upright is taken, noted.
    """
    entry = data.image((RED, A), name="a.png")
    path = data.images_dir / "a.png"
    plain = Image.open(path).copy()
    if annotated == "upright":  # store it so that a viewer shows what was drawn
        back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
        if back != 1:
            plain = plain.transpose(TRANSPOSE[back])
    plain.save(path, exif=exif(orientation))
    data.annotate(entry["id"], RED, A, iscrowd=1)
    found, report = data.convert(task="detection", embed=embed)
    truth = target(found[0])
    assert truth.size_wh == (WH if orientation < 5 or annotated == "upright" else WH[::-1])
    assert (measured(found[0], COLOURS["red box"]),) == truth.boxes_xyxy == truth.ignore_xyxy
    assert report.ledger.notes[f"image: EXIF orientation {orientation} applied"] == (orientation != 1)
    unsure = "image turned by EXIF without a change of size: boxes taken as drawn upright"
    assert report.ledger.notes[unsure] == (orientation in (2, 3, 4))


def test_crowds_are_regions_to_ignore(data: Dataset) -> None:
    entry = data.image((RED, A))
    rle = {"counts": [20736, 2], "size": [96, 160]}
    for category in (RED, GREEN):
        data.annotate(entry["id"], category, C, iscrowd=1, segmentation=rle)
    (detection, grounding), report = data.convert()
    assert target(detection).boxes_xyxy == target(grounding).boxes_xyxy == ((8, 16, 48, 40),)
    assert target(detection).ignore_xyxy == ((96, 40, 152, 72),) * 2
    assert target(grounding).ignore_xyxy == ((96, 40, 152, 72),)
    assert report.ledger.left_out["grounding row for a category that is there only as crowd or bad box"] == 1


@pytest.mark.parametrize("style", ["text", "float", "mixed", "zero"])
def test_ids_of_any_kind(data: Dataset, style: str) -> None:
    make = {"text": str, "float": float, "mixed": int, "zero": lambda i: i - RED}[style]
    data.document["categories"] = [{"id": make(i), "name": NAME_OF[i]} for i in NAME_OF]
    data.image(id=make(3))
    data.annotate("3" if style == "mixed" else make(3), make(RED), A)
    (row,), _ = data.convert(task="grounding")
    assert target(row).labels == ("red box",)


def test_missing_area_and_iscrowd_and_unknown_keys(data: Dataset) -> None:
    entry = data.image()
    data.document["info"] = {"year": 2017}
    data.annotate(entry["id"], RED, A, segmentation=[[1.5, 2.5]], attributes={"occluded": False})
    data.annotate(entry["id"], GREEN, B, iscrowd=None)
    (row,), _ = data.convert(task="detection")
    assert target(row).labels == ("red box", "green box")


def test_missing_size_is_measured(data: Dataset) -> None:
    entry = data.image((RED, A), width=None)
    del entry["height"]
    (row,), _ = data.convert(task="detection")
    assert target(row).size_wh == WH


def test_missing_size_of_a_turned_image(data: Dataset) -> None:
    data.image((RED, A), name="a.png", width=None)
    Image.open(data.images_dir / "a.png").save(data.images_dir / "a.png", exif=exif(6))
    data.bad("no width and height .*EXIF orientation 6.*add both")


def test_byte_order_mark(data: Dataset) -> None:
    data.image((RED, A))
    path = data.write()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    report = coco.convert(path, data.images_dir, data.folder / "a.parquet")
    assert report.written.rows == 2
    facts = json.loads(pq.read_schema(report.written.files[0]).metadata[b"visionr1"])
    assert facts["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()  # what sha256sum says


def test_box_reaching_outside_is_clipped_and_counted(data: Dataset) -> None:
    entry = data.image((RED, A))
    data.annotate(entry["id"], GREEN, [-5.5, 80, 20, 200])
    data.annotate(entry["id"], GREEN, [100, 50, 60.01, 10])
    (row,), report = data.convert(task="detection")
    assert target(row).boxes_xyxy[1:] == ((0, 80, 14.5, 96), (100, 50, 160, 60))
    assert report.ledger.notes["box clipped to its image"] == 2


def test_repeated_box_counts_once(data: Dataset) -> None:
    entry = data.image((RED, A), (RED, B))
    data.annotate(entry["id"], RED, A)
    data.annotate(entry["id"], GREEN, A)
    (row,), report = data.convert(task="detection")
    assert target(row).labels == ("red box", "red box", "green box")
    assert report.ledger.notes["repeated box (same image, category and numbers) dropped"] == 1


def test_two_ids_of_one_name_are_one_category(data: Dataset) -> None:
    data.document["categories"].append({"id": 91, "name": "red box "})
    entry = data.image((RED, A))
    data.annotate(entry["id"], 91, B)
    (row,), _ = data.convert(task="grounding")
    assert target(row).labels == ("red box", "red box")


def test_roboflow_dummy_category_is_not_asked_for(data: Dataset) -> None:
    data.document["categories"].insert(0, {"id": 0, "name": "boxes", "supercategory": "none"})
    data.document["categories"][1] = {"id": RED, "name": "red box", "supercategory": "boxes"}
    data.image((RED, A))
    (row,), _ = data.convert(task="detection")
    assert target(row).categories == tuple(COLOURS)


@pytest.mark.parametrize("above", ["none", "None", "", None, "boxes"])
def test_what_others_are_kinds_of_is_never_absent(data: Dataset, above: str | None) -> None:
    """Whatever a root says of itself; one that has a box, or that only itself names, is asked for."""
    data.document["categories"].append({"id": 91, "name": "boxes", "supercategory": above})
    data.document["categories"][0] = {"id": RED, "name": "red box", "supercategory": "boxes"}
    data.document["categories"][1] = {"id": GREEN, "name": "green box", "supercategory": "green box"}
    entry = data.image((RED, A))
    (row,), _ = data.convert(task="detection")
    assert target(row).categories == tuple(COLOURS)
    data.annotate(entry["id"], 91, B)
    (row,), _ = data.convert(task="detection")
    assert target(row).categories == (*COLOURS, "boxes")


def test_two_images_of_one_base_name(data: Dataset) -> None:
    data.image((RED, A), name="a/1.png")
    data.image((RED, B), name="b/1.png")
    found, _ = data.convert(task="grounding")
    assert [measured(row, COLOURS["red box"]) for row in found] == [target(row).boxes_xyxy[0] for row in found]


# ------------------------------------------------------------------------------------------------ bad rows


BAD_BOXES = {
    "zero height": [5, 5, 10, 0],
    "zero width": [5, 5, 0, 10],
    "negative": [50, 50, -10, 10],
    "wholly outside": [500, 5, 10, 10],
    "touching from outside": [160, 0, 10, 10],
    "three numbers": [1, 2, 3],
    "no bbox": None,
    "text in bbox": [1, 2, "3", 4],
    "segmentation only": [],
}
BAD_IMAGES = {
    "another size": {"width": 320},
    "zero size": {"height": 0},
    "width is text": {"width": "wide"},
    "no file_name": {"file_name": None},
    "same image id": {"id": 100},
    "traversal": {"file_name": "../instances.json"},
    "windows traversal": {"file_name": "..\\instances.json"},
    "absolute": {"file_name": "/images/a.png"},
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
    ("what", "kind", "message"),
    [
        ("zero height", "box without extent", r"annotation id 1001 \(image id 100\): bbox \[5, 5, 10, 0\]"),
        ("zero width", "box without extent", r"\[5, 5, 0, 10\]: box = .*: no extent; correct"),
        ("negative", "box without extent", r"-10, 10\]: box = .*: no extent; correct"),
        ("wholly outside", "box outside its image", r"annotation id 1001.*outside the image of \(160, 96\); correct"),
        ("touching from outside", "box outside its image", r"outside the image of \(160, 96\); correct"),
        ("three numbers", "box malformed", r"annotation id 1001.*bbox \[1, 2, 3\]: needs four finite"),
        ("no bbox", "box malformed", "annotation id 1001.*bbox None"),
        ("segmentation only", "box malformed", r"annotation id 1001.*bbox \[\]"),
        ("text in bbox", "box malformed", r"annotation id 1001.*bbox \[1, 2, '3', 4\]: needs four"),
        ("not an object", "malformed entry", r"annotations\[1\] = \"annotation\": Expected `object`"),
        ("unknown image", "unknown image_id", r"id 1001\): image_id 999 is not in the file"),
        ("unknown category", "unknown category_id", r"id 1001\): category_id 999 is not in the file"),
        ("no image file", "image file missing", "image id 117: .*000000000117.png: no such image file"),
        ("another size", "annotated size differs", r"image id 117: .*\(320, 96\), the file has \(160, 96\); use"),
        ("zero size", "image without size", r"images\[1\] \(id 117.*\(160, 0\): need positive"),
        ("no file_name", "image without id or file_name", r"images\[1\] \(id 117, file_name None\): needs both"),
        ("traversal", "file_name outside the images folder", r"\.\./instances.json.*must lie inside the images folder"),
        ("windows traversal", "file_name outside the images folder", "must lie inside the images folder"),
        ("absolute", "file_name outside the images folder", "must lie inside the images folder"),
        ("width is text", "image without size", r"images\[1\] \(id 117.*\('wide', 96\): need positive numbers"),
    ],
)
def test_bad_entry_stops_or_is_counted(data: Dataset, what: str, kind: str, message: str) -> None:
    spoil(data, what)
    assert data.bad(message).kind == kind
    (row,), report = data.convert(task="detection", on_error="skip")
    assert target(row).boxes_xyxy == ((8, 16, 48, 40),)
    assert report.ledger.skipped == {kind: 1}
    assert report.skipped_list is not None
    assert report.skipped_list.read_text().splitlines() == report.ledger.listed
    assert len(report.ledger.listed) == 1


def test_an_image_id_of_two_files_is_left_out(data: Dataset) -> None:
    data.image((RED, A))
    data.image((RED, B))
    data.document["images"][1]["id"] = data.document["images"][0]["id"]
    data.image((RED, C))
    assert data.bad(r"images\[1\] \(id 100.*twice").kind == "image id twice"
    (row,), report = data.convert(task="detection", on_error="skip")
    assert measured(row, COLOURS["red box"]) == target(row).boxes_xyxy[0]
    assert report.ledger.skipped["image id twice"] == 1


def test_an_image_file_of_two_ids_is_left_out(data: Dataset) -> None:
    """Each of the two entries has a part of its objects: neither row would be right."""
    data.image((RED, A))
    data.image((RED, B))
    data.document["images"][1]["file_name"] = data.document["images"][0]["file_name"]
    data.image((RED, C))
    assert data.bad(r"images\[1\] \(id 117").kind == "image file twice"
    (row,), report = data.convert(task="detection", on_error="skip")
    assert target(row).boxes_xyxy[0] == measured(row, COLOURS["red box"])
    assert report.ledger.skipped["image file twice"] == 1
    assert report.ledger.left_out["annotation of an image left out"] == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("aerosol_can", "aerosol can"),
        ("T-shirt", "t shirt"),
        ("caf\u00e9", "cafe\u0301"),
        ("\ufb01sh", "fish"),
        ("dog\u200b", "dog"),
        ("\u0441\u0430t", "cat"),  # two Cyrillic letters
        ("\u039fwl", "Owl"),  # a Greek one
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


def test_category_with_only_a_bad_box_is_not_called_absent(data: Dataset) -> None:
    """The thing is there, only its box is not: a row that says "none" would be wrong."""
    for _ in range(20):
        entry = data.image((RED, A))
        data.annotate(entry["id"], GREEN, [5, 5, 10, 0])
        data.annotate(entry["id"], BLUE, C, iscrowd=1)
    found, report = data.convert(task="grounding", negatives=0.5, on_error="skip")
    assert {target(row).labels for row in found} == {("red box",)}
    assert report.ledger.notes["grounding negatives missing: too few absent categories"] == 20


@pytest.mark.parametrize("box", [[5, 5, 10, 0], [1, 2, None, 4], "1 2 3 4", [1, 2, "3", 4]])
def test_what_has_only_a_bad_box_is_not_asked_for(data: Dataset, box: Any) -> None:
    """Not in a category list either: the truth would say that it is not there."""
    data.image((RED, A))
    data.annotate(100, GREEN, box)
    found, report = data.convert(task="detection", on_error="skip")
    assert [target(row).categories for row in found] == [("red box", "blue box")]
    found, _ = data.convert(task="grounding", on_error="skip", negatives=0.5)
    assert sorted(target(row).categories[0] for row in found) == ["blue box", "red box"]
    assert report.ledger.notes["category not asked for on an image: all it has there is a bad box"] == 1


def test_list_of_skipped_goes_when_all_is_mended(data: Dataset) -> None:
    entry = data.image((RED, A))
    data.annotate(entry["id"], RED, [0, 0, 0, 0])
    _, report = data.convert(on_error="skip")
    assert report.skipped_list.exists()
    data.document["annotations"].pop()
    data.convert(on_error="skip")
    assert not report.skipped_list.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; check the path"),
        ("", "not whole JSON (it is empty); fetch the file again"),
        ('{"images": [], "annotations": [{"id": 1', "not whole JSON (Input data was truncated)"),
        ("version https://git-lfs.github.com/spec/v1", "not whole JSON (JSON is malformed"),
        ('[{"image_id": 1, "caption": "a cat"}]', "not of the expected layout: Expected `object`, got `array`"),
        ('{"info": {}}', "not of the expected layout: Object missing required field `images`"),
        ('{"images": [], "annotations": [], "categories": []}', "no category; detection needs"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "category 0 is named ''"),
        ('{"images": [], "annotations": [], "categories": [{"name": "a"}]}', "categories[0]: id None: needs an id"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "<image>"}]}',
            "category 0 is named '<image>': needs",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "categories[1]: id 1 appears twice",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no row is left"),
    ],
)
def test_annotation_files_that_are_not_coco(data: Dataset, text: str | None, message: str) -> None:
    path = data.folder / "bad.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RowsError) as caught:
        coco.convert(path, data.images_dir, data.folder / "a.parquet")
    shown = str(caught.value)
    assert shown.startswith((f"{path}: {message}", f"{path.name}: {message}", f"{data.folder}/a.parquet: {message}"))
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, RowError)


# ------------------------------------------------------------------------------------------------ flags


def many(data: Dataset, count: int = 60) -> Dataset:
    """Image i holds i % 3 red boxes, and a green one where i is even; every sixth is empty but for blue."""
    for i in range(count):
        boxes = [(RED, [8.0 * (k + 1), 8, 6, 6]) for k in range(i % 3)] + [(GREEN, A)] * (i % 2)
        data.image(*boxes)
    return data


def test_instances_limits(data: Dataset) -> None:
    found, report = many(data, 12).convert(task="detection", min_instances=2, max_instances=2)
    assert {len(target(row).boxes_xyxy) for row in found} == {2}
    assert report.ledger.left_out["detection row with more than 2 objects"] == 2
    assert sum(report.ledger.left_out.values()) + len(found) == 12
    found, report = data.convert(task="grounding", min_instances=2)
    assert all(len(target(row).boxes_xyxy) == 2 for row in found)
    assert report.ledger.left_out["grounding row with fewer than 2 objects"] == 4 + 6


def test_empty_images_are_left_out_by_default_and_taken_with_min_zero(data: Dataset) -> None:
    found, report = many(data, 12).convert(task="detection")
    assert len(found) == 10
    assert report.ledger.left_out["detection row with fewer than 1 objects"] == 2
    found, report = data.convert(task="detection", min_instances=0)
    assert len(found) == 12
    assert report.negatives == {"detection": 2}
    assert all("If there is none" in row["prompt"][0]["content"] for row in found)


def test_grounding_negatives(data: Dataset) -> None:
    found, report = many(data).convert(task="grounding", negatives=0.25, seed=3)
    empty = [row for row in found if not target(row).boxes_xyxy]
    assert report.negatives == {"grounding": len(empty)}
    assert len(empty) / len(found) == pytest.approx(0.25, abs=0.01)
    present = {(a["image_id"], NAME_OF[a["category_id"]]) for a in data.document["annotations"]}
    asked = [(int(row["extra_info"]["image_id"]), *target(row).categories) for row in empty]
    assert not present & set(asked)
    assert len(set(asked)) == len(asked)
    assert {row["prompt"][0]["content"] for row in found} == {
        "<image>" + instruction("grounding", [name], allow_none=True) for name in COLOURS
    }
    assert [row["reward_model"] for row in data.convert(task="grounding", negatives=0.25, seed=3)[0]] == [
        row["reward_model"] for row in found
    ]
    assert data.convert(task="grounding", negatives=0.25, seed=4)[0] != found


def test_detection_negatives_are_empty_images_with_the_same_prompt(data: Dataset) -> None:
    """A shorter list for empty rows would tell the answer."""
    found, report = many(data).convert(task="detection", negatives=0.1)
    assert report.negatives == {"detection": 6}
    assert len({row["prompt"][0]["content"] for row in found}) == 1
    assert report.ledger.left_out["detection row with fewer than 1 objects"] == 4
    _, report = data.convert(task="detection", negatives=0.5)
    assert report.negatives == {"detection": 10}
    (missing,) = [n for kind, n in report.ledger.notes.items() if kind.startswith("detection negatives missing")]
    assert missing == 40


def test_max_categories(data: Dataset) -> None:
    found, report = many(data).convert(task="detection", max_categories=1, negatives=0.4)
    assert {len(target(row).categories) for row in found} == {1}
    assert report.negatives["detection"] / len(found) == pytest.approx(0.4, abs=0.01)
    annotations = Counter((str(a["image_id"]), NAME_OF[a["category_id"]]) for a in data.document["annotations"])
    for row in found:
        (name,) = target(row).categories
        assert len(target(row).boxes_xyxy) == annotations[row["extra_info"]["image_id"], name]


def test_categories(data: Dataset) -> None:
    data.image((RED, A), (GREEN, B))
    found, _ = data.convert(categories=("green box",))
    assert [target(row).labels for row in found] == [("green box",)] * 2
    assert [target(row).categories for row in found] == [("green box",)] * 2
    with pytest.raises(RowsError, match=r"'gren box': not in instances\.json; did you mean green box"):
        data.convert(categories=("gren box",))


def test_prompt_template_and_data_source(data: Dataset) -> None:
    data.image((RED, A), (GREEN, B))
    found, _ = data.convert(prompt_template="Find {phrases} {{now}}!", data_source="mine")
    assert [row["prompt"][0]["content"] for row in found] == [
        "<image>Find red box, green box, blue box {now}!",
        "<image>Find red box {now}!",
        "<image>Find green box {now}!",
    ]
    assert {row["data_source"] for row in found} == {"mine"}


def test_limit_draws_by_seed_and_keeps_the_order(data: Dataset) -> None:
    every = [row["extra_info"]["image_id"] for row in many(data).convert(task="detection")[0]]
    found, report = data.convert(task="detection", limit=10, seed=1)
    ids = [row["extra_info"]["image_id"] for row in found]
    assert len(ids) == 10
    assert ids == [i for i in every if i in set(ids)]
    assert ids != every[:10]
    assert report.ledger.left_out["row over --limit"] == 40
    assert ids != [row["extra_info"]["image_id"] for row in data.convert(task="detection", limit=10, seed=2)[0]]


@pytest.mark.parametrize("text", ["000000000100\n# test images\n\n134 # one more\n", '[100, "134"]'])
def test_exclude_image_ids(data: Dataset, text: str) -> None:
    for _ in range(3):
        data.image((RED, A))
    (data.folder / "ids.txt").write_text(text)
    found, report = data.convert(task="detection", exclude_image_ids=data.folder / "ids.txt")
    assert [row["extra_info"]["image_id"] for row in found] == ["117"]
    assert report.ledger.left_out["image on the exclusion list"] == 2
    assert report.ledger.left_out["annotation of an image left out"] == 2


def test_missing_exclusion_list_is_an_error(data: Dataset) -> None:
    """Test images in the training set would be the result."""
    data.image((RED, A))
    with pytest.raises(RowsError, match=r"--exclude-image-ids .*ids\.txt: cannot be read"):
        data.convert(exclude_image_ids=data.folder / "ids.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": 1.0}, "--negatives 1.0: needs a fraction"),
        ({"negatives": -0.1}, "--negatives -0.1"),
        ({"negatives": 0.1, "min_instances": 0}, "--negatives with --min-instances 0"),
        ({"min_instances": 5, "max_instances": 3}, "--min-instances 5 --max-instances 3"),
        ({"limit": 0}, "--limit 0: needs at least 1"),
        ({"max_categories": 0}, "--max-categories 0"),
        ({"prompt_template": "Find {phrases}", "task": "all"}, "--prompt-template with --task all: counting asks"),
        ({"prompt_template": "Find it"}, r"--prompt-template 'Find it': its one field is \{phrases\}"),
        ({"prompt_template": "Find {things}"}, "--prompt-template"),
        ({"prompt_template": "Find {phrases.__class__}"}, "--prompt-template"),
        ({"prompt_template": "Find {phrases"}, "--prompt-template"),
        ({"prompt_template": "<image>{phrases}"}, "leave out <image>"),
        ({"data_source": "{split}"}, "--data-source"),
        ({"task": "boxes"}, "--task boxes: needs one of detection, "),
        ({"on_error": "stop"}, "--on-error stop: needs one of fail, skip"),
    ],
)
def test_flags_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RowsError, match=message):
        coco.Options(**options)


@pytest.mark.parametrize("embed", [False, True])
def test_same_input_same_bytes(data: Dataset, embed: bool) -> None:
    many(data)
    options = {"embed": embed, "negatives": 0.2, "seed": 5, "shard_rows": 50, "max_categories": 2}
    first, second = (data.convert(f"{folder}/a.parquet", **options)[1].written.files for folder in ("one", "two"))
    assert len(first) > 2
    for a, b in zip(first, second, strict=True):
        assert hashlib.sha256(a.read_bytes()).digest() == hashlib.sha256(b.read_bytes()).digest()


def test_provenance(data: Dataset) -> None:
    data.image((RED, A))
    _, report = data.convert(seed=9)
    facts = json.loads(pq.read_schema(report.written.files[0]).metadata[b"visionr1"])
    assert facts["source"] == "instances.json"
    assert facts["source_sha256"] == hashlib.sha256((data.folder / "instances.json").read_bytes()).hexdigest()
    assert facts["options"]["seed"] == 9
    assert str(data.folder) not in json.dumps(facts)


def test_agrees_with_pycocotools(data: Dataset) -> None:
    """An independent reader finds the same objects."""
    many(data, 30)
    found, _ = data.convert(task="detection", max_instances=100)
    reference = COCO(str(data.folder / "instances.json"))
    for row in found:
        annotations = reference.loadAnns(reference.getAnnIds(imgIds=[int(row["extra_info"]["image_id"])]))
        expected = [(*a["bbox"][:2], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]) for a in annotations]
        assert list(target(row).boxes_xyxy) == expected
        assert list(target(row).labels) == [NAME_OF[a["category_id"]] for a in annotations]


# ------------------------------------------------------------------------------------------------ the command


def test_command(data: Dataset) -> None:
    many(data, 20)
    data.annotate(100, RED, [0, 0, 0, 0])
    arguments = (data.write(), data.images_dir, data.folder / "out.parquet", "--task", "both", "--seed", 1)
    words = ["convert", "coco", *map(str, arguments)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "error: instances.json: annotation id 1029 (image id 100): bbox [0, 0, 0, 0]: box = [0, 0, 0, 0]: "
        "no extent; correct or remove the annotation",
        "(--on-error skip leaves such rows out and lists them)",
    ]
    options = ["--on-error", "skip", "--negatives", "0.1", "--categories", "red box", "--embed"]
    done = CliRunner().invoke(app, [*words, *options])
    assert (done.exit_code, done.stderr) == (0, "")
    for text in ("skipped as bad: 1 x box without extent", "objects a row: ", "out.skipped.txt", "out.parquet"):
        assert text in done.stdout
    assert check_parquet(data.folder / "out.parquet") == []


def test_ledger_fails_or_counts() -> None:
    error = RowError("bad thing", "file.json: bad thing 7; correct it")
    with pytest.raises(RowError):
        Ledger(fail=True).skip(error)
    ledger = Ledger(fail=False)
    ledger.skip(error)
    ledger.skip(error)
    assert ledger.skipped == {"bad thing": 2}
    assert ledger.listed == [str(error)] * 2


def test_ledger_is_shared(data: Dataset) -> None:
    """A caller with a ledger of its own sees what reading skipped."""
    data.annotate(999, RED, A)
    ledger = Ledger(fail=False)
    read_coco(data.write(), data.images_dir, ledger)
    assert ledger.skipped == {"unknown image_id": 1}
