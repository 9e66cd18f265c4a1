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


def test_frequency(data: Dataset) -> None:
    data.image(1, RIBBON, WEAPON, CAN, neg_category_ids=[CAP])
    assert asked(data.convert(task="grounding", frequency=["r", "c"])[0]) == [
        ("bow (decorative ribbons)",),
        ("bow (weapon)",),
    ]
    assert asked(data.convert(task="detection", frequency=["f"])[0]) == [("trash can", "cap (headwear)")]
    with pytest.raises(RowsError, match="--frequency with --categories"):
        lvis.Options(frequency=["r"], categories=["cap"])


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"coco_url": None}, "image without id or file_name", r"images\[1\] \(id 2, file_name None\)"),
        ({"neg_category_ids": "all"}, "malformed entry", r"images\[1\] .*: neg_category_ids = 'all'"),
    ],
)
def test_bad_images(data: Dataset, changes: dict[str, Any], kind: str, message: str) -> None:
    data.image(1, RIBBON)
    data.image(2, RIBBON, **changes)
    error, rows, _ = bad_entry(data.convert, task="detection")
    assert error.kind == kind
    assert re.search(message, str(error))
    assert len(rows) == 1


def test_names_of_v05_are_those_of_2014(data: Dataset) -> None:
    data.image(1, RIBBON, split="val2017", file_name="COCO_val2014_000000000001.jpg")
    rows, _ = data.convert(task="detection")
    assert rows[0]["images"] == [str(data.folder / "coco/val2017/000000000001.jpg")]
