"""visionr1 convert lvis: what is asked for where only some categories were looked for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refused import bad_entry
from scene_sets.base import target

from verl_visionr1.answers import instruction
from verl_visionr1.conversion.coco_json import CocoCategory
from verl_visionr1.conversion.datasets import lvis
from verl_visionr1.files import RowsError
from verl_visionr1.rows import read_rows
from verl_visionr1.tools.doctor import check_parquet

NAMES = {2: "bow_(decorative_ribbons)", 5: "bow_(weapon)", 7: "trash_can", 11: "cap_(headwear)"}
RIBBON, WEAPON, CAN, CAP = NAMES
FREQUENCY = {RIBBON: "r", WEAPON: "c", CAN: "f", CAP: "f"}
BOX = [10, 20, 30, 40]


class Dataset:
    """An LVIS file and COCO's folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [
                {"id": i, "name": name, "frequency": FREQUENCY[i], "synset": "s", "synonyms": [name], "def": "d"}
                for i, name in NAMES.items()
            ],
        }

    def image(self, number: int, *present: int, split: str = "train2017", **changes: Any) -> dict[str, Any]:
        path = self.folder / "coco" / split / f"{number:012d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(path)
        entry = {"id": number, "coco_url": f"http://images.cocodataset.org/{split}/{path.name}", "width": 100}
        entry |= {"height": 80, "neg_category_ids": [], "not_exhaustive_category_ids": [], **changes}
        self.document["images"].append(entry)
        for category in present:
            self.annotate(number, category, BOX)
        return entry

    def annotate(self, image_id: int, category: int, box: Any) -> None:
        entry = {"id": len(self.document["annotations"]), "image_id": image_id, "category_id": category, "bbox": box}
        self.document["annotations"].append(entry)

    def write(self) -> Path:
        path = self.folder / "lvis_v1_train.json"
        path.write_text(json.dumps(self.document))
        return path

    def convert(self, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        out = self.folder / "out.parquet"
        report = lvis.convert(self.write(), self.folder / "coco", out, lvis.Options(**options))
        assert check_parquet(out) == []
        return list(read_rows(out)), report


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def asked(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [tuple(target(row).categories) for row in rows]


def test_only_what_was_looked_for_is_asked(data: Dataset) -> None:
    data.image(1, RIBBON, neg_category_ids=[CAN])
    rows, _ = data.convert(task="detection")
    assert asked(rows) == [("bow (decorative ribbons)", "trash can")]
    assert rows[0]["prompt"][0]["content"] == "<image>" + instruction(
        "detection", ["bow (decorative ribbons)", "trash can"]
    )
    assert rows[0]["data_source"] == "visionr1/lvis_detection"


@pytest.mark.parametrize("negatives", [[], None])
def test_an_image_without_known_negatives_is_asked_for_what_is_there(data: Dataset, negatives: Any) -> None:
    """Nothing else is known of it: "all absent" would be a guess."""
    data.image(1, RIBBON, neg_category_ids=negatives)
    rows, report = data.convert(negatives=0.5)
    assert asked(rows) == [("bow (decorative ribbons)",)] * 2
    assert not sum(report.negatives.values())


def test_negatives_are_drawn_from_known_ones_only(data: Dataset) -> None:
    for number in range(1, 9):
        data.image(number, RIBBON, neg_category_ids=[CAN])
    rows, report = data.convert(task="grounding", negatives=0.5)
    assert report.negatives == {"grounding": 8}
    assert set(asked(rows)) == {("bow (decorative ribbons)",), ("trash can",)}
    assert all("If there is none" in row["prompt"][0]["content"] for row in rows)
    rows, report = data.convert(task="grounding")
    assert not report.negatives["grounding"]


def test_not_exhaustive_categories_are_not_asked(data: Dataset) -> None:
    data.image(1, RIBBON, CAN, not_exhaustive_category_ids=[CAN])
    rows, _ = data.convert()
    assert asked(rows) == [("bow (decorative ribbons)",)] * 2


def test_not_exhaustive_wins_over_negative(data: Dataset) -> None:
    data.image(1, RIBBON, neg_category_ids=[CAN], not_exhaustive_category_ids=[CAN])
    rows, _ = data.convert(negatives=0.5)
    assert asked(rows) == [("bow (decorative ribbons)",)] * 2


def test_image_with_nothing_checked_is_counted(data: Dataset) -> None:
    data.image(1)
    data.image(2, CAN)
    _, report = data.convert(task="detection")
    assert report.ledger.left_out["image without a category that was checked"] == 1


def test_unknown_ids_in_lists_are_noted(data: Dataset) -> None:
    data.image(1, RIBBON, neg_category_ids=[999, CAN], not_exhaustive_category_ids=[998])
    _, report = data.convert()
    assert report.ledger.notes["unknown category id in an image's list of categories"] == 2


def test_file_name_comes_from_the_url(data: Dataset) -> None:
    """Validation has images of both splits, in one COCO folder."""
    data.image(1, RIBBON, split="train2017")
    data.image(2, RIBBON, split="val2017")
    rows, _ = data.convert(task="detection")
    assert [row["extra_info"]["file_name"] for row in rows] == [
        "train2017/000000000001.jpg",
        "val2017/000000000002.jpg",
    ]
    assert [row["images"] for row in rows] == [
        [str(data.folder / "coco/train2017/000000000001.jpg")],
        [str(data.folder / "coco/val2017/000000000002.jpg")],
    ]


def test_names_of_v05_are_those_of_2014(data: Dataset) -> None:
    data.image(1, RIBBON, split="val2017", file_name="COCO_val2014_000000000001.jpg")
    rows, _ = data.convert(task="detection")
    assert rows[0]["images"] == [str(data.folder / "coco/val2017/000000000001.jpg")]


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_exclusion_knows_the_coco_identity(data: Dataset, split: str) -> None:
    data.image(139, RIBBON, split=split)
    data.image(140, RIBBON)
    (data.folder / "refcoco_test.txt").write_text("coco:139\nvg:140\n")
    rows, report = data.convert(task="detection", exclude_image_ids=data.folder / "refcoco_test.txt")
    assert [row["extra_info"]["image_id"] for row in rows] == ["140"]
    assert report.ledger.left_out["image on the exclusion list (--exclude-image-ids)"] == 1


def test_frequency(data: Dataset) -> None:
    data.image(1, RIBBON, WEAPON, CAN, neg_category_ids=[CAP])
    assert asked(data.convert(task="grounding", frequency=["r", "c"])[0]) == [
        ("bow (decorative ribbons)",),
        ("bow (weapon)",),
    ]
    assert asked(data.convert(task="detection", frequency=["f"])[0]) == [("trash can", "cap (headwear)")]
    with pytest.raises(RowsError, match="--frequency with --categories"):
        lvis.Options(frequency=["r"], categories=["cap"])


def test_frequency_that_the_file_does_not_give(data: Dataset) -> None:
    data.image(1, RIBBON)
    for category in data.document["categories"]:
        del category["frequency"]
    with pytest.raises(RowsError, match=r"lvis_v1_train\.json: .*c or r"):
        data.convert(frequency=["r", "c"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("natural", ["bow (decorative ribbons)", "bow (weapon)", "trash can", "cap (headwear)"]),
        ("short", ["bow (decorative ribbons)", "bow (weapon)", "trash can", "cap"]),
        ("file", list(NAMES.values())),
    ],
)
def test_names(data: Dataset, names: str, expected: list[str]) -> None:
    data.image(1, *NAMES)
    (row,), _ = data.convert(task="detection", names=names)
    assert list(target(row).categories) == list(target(row).labels) == expected


def test_short_names_of_one_kind_keep_their_explanation() -> None:
    """`cap` would otherwise stand for two things, of which one may be absent where the other is."""
    categories = [CocoCategory(name=name) for name in ("Cap_(headwear)", "cap", "(odd)")]
    assert lvis.phrases(categories, "short") == {"Cap_(headwear)": "Cap (headwear)", "cap": "cap", "(odd)": "(odd)"}


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"coco_url": None}, "image without id or file_name", r"images\[1\] \(id 2, file_name None\)"),
        ({"coco_url": "http://x/../secret.jpg"}, "file_name outside the images folder", r"\.\."),
        ({"neg_category_ids": "all"}, "malformed entry", r"images\[1\] .*: neg_category_ids = 'all'"),
        ({"coco_url": "http://x/val2017/9.jpg"}, "image file missing", r"image id 2: .*val2017/9.jpg"),
    ],
)
def test_bad_images(data: Dataset, changes: dict[str, Any], kind: str, message: str) -> None:
    data.image(1, RIBBON)
    data.image(2, RIBBON, **changes)
    error, rows, _ = bad_entry(data.convert, task="detection")
    assert error.kind == kind
    assert re.search(message, str(error))
    assert len(rows) == 1


def test_bad_box_is_no_negative(data: Dataset) -> None:
    data.image(1, RIBBON, neg_category_ids=[CAN])
    data.annotate(1, CAN, [5, 5, 0, 5])
    rows, report = data.convert(task="grounding", on_error="skip", negatives=0.5)
    assert asked(rows) == [("bow (decorative ribbons)",)]
    assert report.ledger.skipped == {"box without extent": 1}
