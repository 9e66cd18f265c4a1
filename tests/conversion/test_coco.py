"""visionr1 convert coco: every trap of COCO-format files, boxes re-measured from the pixels, and the command."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from coco_set import COLOURS, GREEN, NAME_OF, RED, WH, A, B, C, Dataset, many, measured
from PIL import Image
from pycocotools.coco import COCO
from refused import mentions
from scene_sets.base import exif, target
from typer.testing import CliRunner

from verl_visionr1.answers import instruction
from verl_visionr1.cli import app
from verl_visionr1.conversion.datasets import coco
from verl_visionr1.rows import RowsError
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


@pytest.mark.parametrize(
    ("annotated", "orientation"), [("stored", o) for o in (1, 5, 6, 7, 8)] + [("upright", o) for o in range(1, 9)]
)
def test_exif(data: Dataset, orientation: int, annotated: str) -> None:
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
    found, report = data.convert(task="detection")
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


def test_byte_order_mark(data: Dataset) -> None:
    data.image((RED, A))
    path = data.write()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    report = coco.convert(path, data.images_dir, data.folder / "a.parquet")
    assert report.written.rows == 2
    facts = json.loads(pq.read_schema(report.written.file).metadata[b"visionr1"])
    assert facts["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()  # what sha256sum says


def test_box_reaching_outside_is_clipped_and_counted(data: Dataset) -> None:
    entry = data.image((RED, A))
    data.annotate(entry["id"], GREEN, [-5.5, 80, 20, 200])
    data.annotate(entry["id"], GREEN, [100, 50, 60.01, 10])
    (row,), report = data.convert(task="detection")
    assert target(row).boxes_xyxy[1:] == ((0, 80, 14.5, 96), (100, 50, 160, 60))
    assert report.ledger.notes["box clipped to its image"] == 2


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
    for text in ("skipped as bad: 1 x box without extent", "objects per row: ", "out.skipped.txt", "out.parquet"):
        assert text in done.stdout
    assert check_parquet(data.folder / "out.parquet") == []


def test_instances_limits(data: Dataset) -> None:
    found, report = many(data, 12).convert(task="detection", min_instances=2, max_instances=2)
    assert {len(target(row).boxes_xyxy) for row in found} == {2}
    assert report.ledger.left_out["detection row with more than 2 objects (--max-instances)"] == 2
    assert sum(report.ledger.left_out.values()) + len(found) == 12
    found, report = data.convert(task="grounding", min_instances=2)
    assert all(len(target(row).boxes_xyxy) == 2 for row in found)
    assert report.ledger.left_out["grounding row with fewer than 2 objects (--min-instances)"] == 4 + 6


def test_empty_images_are_left_out_by_default_and_taken_with_min_zero(data: Dataset) -> None:
    found, report = many(data, 12).convert(task="detection")
    assert len(found) == 10
    assert report.ledger.left_out["detection row with fewer than 1 objects (--min-instances)"] == 2
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
    assert report.ledger.left_out["detection row with fewer than 1 objects (--min-instances)"] == 4
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
    with pytest.raises(RowsError, match=r"--categories 'gren box': .*instances\.json.*green box"):
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


@pytest.mark.parametrize("text", ["000000000100\n# test images\n\n134 # one more\n", '[100, "134"]'])
def test_exclude_image_ids(data: Dataset, text: str) -> None:
    for _ in range(3):
        data.image((RED, A))
    (data.folder / "ids.txt").write_text(text)
    found, report = data.convert(task="detection", exclude_image_ids=data.folder / "ids.txt")
    assert [row["extra_info"]["image_id"] for row in found] == ["117"]
    assert report.ledger.left_out["image on the exclusion list (--exclude-image-ids)"] == 2
    assert report.ledger.left_out["annotation of an image left out"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": 1.0}, "--negatives 1.0"),
        ({"negatives": -0.1}, "--negatives -0.1"),
        ({"negatives": 0.1, "min_instances": 0}, "--negatives with --min-instances 0"),
        ({"min_instances": 5, "max_instances": 3}, "--min-instances 5 --max-instances 3"),
        ({"limit": 0}, "--limit 0"),
        ({"max_categories": 0}, "--max-categories 0"),
        ({"prompt_template": "Find {phrases}", "task": "all"}, "--prompt-template with --task all: "),
        ({"prompt_template": "Find it"}, r"--prompt-template 'Find it': its one field is \{phrases\}"),
        ({"prompt_template": ""}, "--prompt-template .*phrases"),
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
    options = {"embed": embed, "negatives": 0.2, "seed": 5, "max_categories": 2}
    first, second = (data.convert(f"{folder}/a.parquet", **options)[1].written.file for folder in ("one", "two"))
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()


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


def test_missing_exclusion_list_is_an_error(data: Dataset) -> None:
    """Test images in the training set would be the result."""
    data.image((RED, A))
    with pytest.raises(RowsError, match=r"--exclude-image-ids .*ids\.txt: "):
        data.convert(exclude_image_ids=data.folder / "ids.txt")
