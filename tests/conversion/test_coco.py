"""visionr1 convert coco: every trap of COCO-format files, boxes re-measured from the pixels, and the command."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from coco_set import BLUE, COLOURS, GREEN, NAME_OF, RED, WH, A, B, C, Dataset, many, measured
from PIL import Image
from pycocotools.coco import COCO
from refused import mentions
from scene_sets.base import exif, target
from typer.testing import CliRunner

from verl_visionr1.answers import instruction
from verl_visionr1.cli import app
from verl_visionr1.conversion.datasets import coco
from verl_visionr1.tools.doctor import check_parquet

TRANSPOSE = {  # what a viewer does for each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "set")


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
    unsure = "image rotated by EXIF without a change of size: boxes assumed to be upright"
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
    assert report.ledger.left_out["grounding row for a category with only a crowd or bad box (--marked)"] == 1


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
    data.bad("width", "height", "EXIF orientation 6")


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
    data.image((RED, A))
    (row,), _ = data.convert(task="detection")
    assert target(row).categories == tuple(COLOURS)
    data.annotate(data.image((GREEN, A))["id"], 91, B)
    found, _ = data.convert(task="detection")
    assert [target(row).categories for row in found] == [tuple(COLOURS), (*COLOURS, "boxes")]


@pytest.mark.parametrize("box", [A, [5, 5, 0, 0]])
def test_what_is_above_an_object_is_not_asked_for_on_its_image(data: Dataset, box: list[float]) -> None:
    """Nor what is above that; a loop of names ends."""
    kinds = {"car": "vehicle", "vehicle": "thing", "thing": "vehicle"}
    names = [{"id": 91 + i, "name": name, "supercategory": above} for i, (name, above) in enumerate(kinds.items())]
    data.document["categories"] += names
    for number in (91, 92, 93):
        data.annotate(data.image((RED, C))["id"], number, box if number == 91 else A)
    found, report = data.convert(task="grounding", negatives=0.7, on_error="skip")
    asked = [
        {target(row).categories[0] for row in found if row["extra_info"]["image_id"] == it}
        for it in ("100", "117", "134")
    ]
    assert [it & set(kinds) for it in asked] == [{"car"} if box == A else set(), {"car", "vehicle"}, {"car", "thing"}]
    assert report.ledger.notes["category not asked for on an image that holds a kind of it"] == 4


def test_two_images_of_one_base_name(data: Dataset) -> None:
    data.image((RED, A), name="a/1.png")
    data.image((RED, B), name="b/1.png")
    found, _ = data.convert(task="grounding")
    assert [measured(row, COLOURS["red box"]) for row in found] == [target(row).boxes_xyxy[0] for row in found]


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


def test_command(data: Dataset) -> None:
    many(data, 20)
    data.annotate(100, RED, [0, 0, 0, 0])
    arguments = (data.write(), data.images_dir, data.folder / "out.parquet", "--task", "both", "--seed", 1)
    words = ["convert", "coco", *map(str, arguments)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    error, advice = done.stderr.splitlines()
    assert mentions(error, "error: instances.json: ", "annotation id 1029 (image id 100)", [0, 0, 0, 0])
    assert "--on-error skip" in advice
    options = ["--on-error", "skip", "--negatives", "0.1", "--categories", "red box", "--embed"]
    done = CliRunner().invoke(app, [*words, *options])
    assert (done.exit_code, done.stderr) == (0, "")
    for text in ("skipped as bad: 1 x box without extent", "objects a row: ", "out.skipped.txt", "out.parquet"):
        assert text in done.stdout
    assert check_parquet(data.folder / "out.parquet") == []
