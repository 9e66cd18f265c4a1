"""visionr1 convert ovdeval: each image is asked for its own texts, and for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refused import bad_entry

from verl_visionr1.conversion.datasets import ovdeval
from verl_visionr1.files import RowsError
from verl_visionr1.rows import read_rows
from verl_visionr1.targets import Target
from verl_visionr1.tools.doctor import check_parquet

OFF, ON, CAT, DOG = "computer without screen on", "computer with screen on", "cat", "dog"
NAMES = (OFF, ON, CAT, DOG)
BOX = [11, 17, 30, 40]
NEGATIVE_NOTE = "neg_text with a box on its image: used as present"


class Dataset:
    """annotations/negation.json and its images."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images_dir = folder, folder / "images"
        self.images_dir.mkdir()
        categories = [{"supercategory": "object", "id": i, "name": name} for i, name in enumerate(NAMES)]
        self.document: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}

    def image(self, *present: str, **texts: Any) -> None:
        number = len(self.document["images"])
        name = f"64d22c6fe4b011b0db94b99{number}.jpg"
        Image.new("RGB", (100, 80)).save(self.images_dir / name)
        self.document["images"].append({"file_name": name, "id": number, "height": 80, "width": 100, **texts})
        for label in present:
            entry = {"id": len(self.document["annotations"]), "image_id": number, "category_id": NAMES.index(label)}
            self.document["annotations"].append({**entry, "bbox": BOX, "iscrowd": 0, "area": 1200})

    def write(self) -> Path:
        path = self.folder / "negation.json"
        path.write_text(json.dumps(self.document))
        return path

    def convert(self, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        out = self.folder / "out.parquet"
        report = ovdeval.convert(self.write(), self.images_dir, out, ovdeval.Options(**options))
        assert check_parquet(out) == []
        return list(read_rows(out)), report


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def asked(rows: list[dict[str, Any]]) -> list[tuple[tuple[str, ...], int]]:
    """What each row asks for, and how many objects it finds."""
    targets = [Target.from_json(row["reward_model"]["ground_truth"]) for row in rows]
    return [(tuple(target.categories), len(target.boxes_xyxy)) for target in targets]


def test_all_negatives_of_the_set_are_rows_by_default(data: Dataset) -> None:
    data.image(OFF, text=[OFF], neg_text=[ON, DOG])
    data.image(text=[], neg_text=[CAT])
    rows, report = data.convert()
    assert asked(rows) == [((OFF, ON, DOG), 1), ((OFF,), 1), ((ON,), 0), ((DOG,), 0), ((CAT,), 0), ((CAT,), 0)]
    assert [row["ability"] for row in rows] == ["detection", *["grounding"] * 3, "detection", "grounding"]
    assert report.negatives == {"detection": 1, "grounding": 3}
    assert all("If there is none" in row["prompt"][0]["content"] for row in rows)


def test_share_of_negatives(data: Dataset) -> None:
    for _ in range(6):
        data.image(OFF, text=[OFF], neg_text=[ON, DOG])
    rows, report = data.convert(task="grounding", negatives=0.25)
    assert report.negatives == {"grounding": 2}
    assert len(rows) == 8
    rows, report = data.convert(task="grounding", negatives=0)
    assert asked(rows) == [((OFF,), 1)] * 6
    assert not any("If there is none" in row["prompt"][0]["content"] for row in rows)
    assert asked(data.convert(task="detection", negatives=0)[0]) == [((OFF, ON, DOG), 1)] * 6


def test_text_without_a_box_is_not_called_absent(data: Dataset) -> None:
    data.image(OFF, text=[OFF, CAT], neg_text=[ON])
    rows, report = data.convert()
    assert asked(rows) == [((OFF, ON), 1), ((OFF,), 1), ((ON,), 0)]
    assert report.ledger.notes["text without a box on its image: not asked for there"] == 1


def test_neg_text_with_a_box_is_there(data: Dataset) -> None:
    data.image(OFF, ON, text=[OFF], neg_text=[ON])
    rows, report = data.convert(task="grounding")
    assert asked(rows) == [((OFF,), 1), ((ON,), 1)]
    assert report.ledger.notes[NEGATIVE_NOTE] == 1


def test_all_categories(data: Dataset) -> None:
    data.image(CAT)
    data.image(CAT, text=[CAT, DOG], neg_text=[ON])
    rows, _ = data.convert(all_categories=True, task="detection")
    assert asked(rows) == [(NAMES, 1), ((OFF, ON, CAT), 1)]
    rows, _ = data.convert(all_categories=True, task="grounding", negatives=0.5)
    assert [number for _, number in asked(rows)].count(0) == 2


def test_plain_coco_is_refused(data: Dataset) -> None:
    data.image(CAT)
    with pytest.raises(RowsError, match=r"negation\.json: .*neg_text.*--all-categories"):
        data.convert()


@pytest.mark.parametrize(
    ("texts", "kind", "message"),
    [
        ({"text": "cat", "neg_text": []}, "malformed text", r"image id 1: text = 'cat'"),
        ({"text": ["cat"]}, "malformed text", r"image id 1: neg_text = 'None'"),
        ({"text": ["cat"], "neg_text": ["cow"]}, "unknown text", r"neg_text: 'cow' "),
    ],
)
def test_bad_texts(data: Dataset, texts: dict[str, Any], kind: str, message: str) -> None:
    data.image(OFF, text=[OFF], neg_text=[ON])
    data.image(CAT, **texts)
    error, rows, report = bad_entry(data.convert, task="detection")
    assert error.kind == kind
    assert re.search(message, str(error))
    assert asked(rows) == [((OFF, ON), 1)]
    assert report.ledger.left_out["image without a category that was checked"] == 1
