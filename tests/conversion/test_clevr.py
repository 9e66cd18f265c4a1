"""visionr1 convert clevr: phrases made of attributes, centres of pixel_coords, RGBA, and R1-V's questions."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from refused import bad_entry

from verl_visionr1.conversion.datasets import clevr
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rows import read_rows, target_of

NAME = "CLEVR_train_000000.png"


def thing(words: str, x: Any, y: Any) -> dict[str, Any]:
    size, color, material, shape = words.split()
    return {
        "shape": shape,
        "size": size,
        "material": material,
        "3d_coords": [-0.7, 2.1, 0.35],
        "rotation": 269.8,
        "pixel_coords": [x, y, 12.66],
        "color": color,
    }


CUBES = [
    thing("large gray rubber cube", 269, 88),
    thing("small gray rubber cube", 100, 120),
    thing("small red metal sphere", 40, 200),
]


class Source:
    """CLEVR in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images, self.out = folder, folder / "images", folder / "out.parquet"
        self.images.mkdir()
        self.scenes: list[Any] = []

    def scene(self, objects: Any) -> dict[str, Any]:
        number = len(self.scenes)
        name = f"CLEVR_train_{number:06d}.png"
        Image.new("RGBA", (480, 320), (90, 90, 90, 255)).save(self.images / name)
        entry = {"split": "train", "image_index": number, "image_filename": name, "objects": objects}
        self.scenes.append(entry)
        return entry

    def convert(self, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        path = self.folder / "CLEVR_train_scenes.json"
        path.write_text(json.dumps({"info": {"split": "train"}, "scenes": self.scenes}))
        return self.rows_of(path, **options)

    def rows_of(self, path: Path, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        report = clevr.convert([path], self.images, self.out, clevr.Options(**options))
        return list(read_rows(self.out)), report


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "phrases"),
    [
        ("shape material color size", {"large gray rubber cube", "small gray rubber cube", "small red metal sphere"}),
        ("size shape", {"large cube", "small cube", "small sphere"}),
        ("material", {"rubber object", "metal object"}),
    ],
)
def test_attributes(source: Source, attributes: str, phrases: set[str]) -> None:
    source.scene(CUBES)
    rows, _ = source.convert(attributes=[attributes])
    assert {target_of(row).categories[0] for row in rows} == phrases


@pytest.mark.parametrize("text", ["colour", "", "shape, color"])
def test_unknown_attributes(text: str) -> None:
    with pytest.raises(RowsError, match=r"--attributes .*: .*size, color, material, shape"):
        clevr.Options(attributes=[text])


def test_negatives_are_phrases_of_other_scenes(source: Source) -> None:
    for number in range(20):
        source.scene(CUBES if number % 2 else CUBES[2:])
    rows, report = source.convert(negatives=0.2, attributes=["shape"], seed=3)
    empty = [row for row in rows if target_of(row).count == 0]
    assert len(empty) / len(rows) == pytest.approx(0.2, abs=0.02)
    assert report.negatives == {"counting": len(empty)}
    assert {target_of(row).categories for row in empty} == {("cube",)}
    assert {int(row["extra_info"]["image_id"]) % 2 for row in empty} == {0}
    assert all("If there is none, answer 0." in row["prompt"][0]["content"] for row in rows)
    again, _ = source.convert(negatives=0.2, attributes=["shape"], seed=3)
    assert again == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": None}, "objects None"),
        ({"objects": [{"shape": "cube", "pixel_coords": [1, 2, 3]}]}, "color"),
        ({"objects": [thing("large gray rubber cube", "1", 2)]}, "point ['1', 2]"),
        ({"objects": [thing("large gray rubber cube", 1, 2) | {"pixel_coords": 3}]}, "point [3]"),
        ({"objects": [thing("large gray rubber cube", 500, 2)]}, "point = [500, 2]: outside (480, 320)"),
    ],
)
def test_bad_scenes(source: Source, change: dict[str, Any], message: str) -> None:
    source.scene(CUBES)
    source.scene(CUBES[:1]).update(change)
    with pytest.raises(RowError) as caught:
        source.convert()
    assert str(caught.value).startswith("CLEVR_train_scenes.json: scenes[1]")
    assert message in str(caught.value)
    rows, report = source.convert(on_error="skip")
    assert {row["extra_info"]["image_id"] for row in rows} == {"0"}
    assert str(caught.value) in report.ledger.listed


def r1v(source: Source, *solutions: Any) -> Path:
    buffer = io.BytesIO()
    Image.new("RGBA", (48, 32), (90, 90, 90, 255)).save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": NAME}
    problem = "How many different items are there in the image?"
    path = source.folder / "train-00000-of-00001.parquet"
    records = [{"image": image, "problem": problem, "solution": solution} for solution in solutions]
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def test_clevr_70k(source: Source) -> None:
    rows, _ = source.rows_of(r1v(source, "<answer> 3 </answer>", "<answer>10</answer>", "0"))
    assert [target_of(row).count for row in rows] == [3, 10, 0]
    assert {row["prompt"][0]["content"] for row in rows} == {
        "<image>How many different items are there in the image? Answer with the number alone."
    }
    assert Counter(target_of(row).categories for row in rows) == {(): 3}


@pytest.mark.parametrize("solution", ["<answer> yes </answer>", "<answer> 3", "", None])
def test_clevr_70k_answer_that_is_no_count(source: Source, solution: str | None) -> None:
    path = r1v(source, "<answer> 3 </answer>", solution)
    error, rows, _ = bad_entry(source.rows_of, path)
    assert str(error).startswith("train-00000-of-00001.parquet: row 1: count ")
    assert (len(rows), error.kind) == (1, "no count")


def test_questions_have_no_points(source: Source) -> None:
    with pytest.raises(RowsError, match="--task"):
        source.rows_of(r1v(source, "<answer> 3 </answer>"), task="pointing")


def test_path_that_leads_out_is_refused(source: Source) -> None:
    path = source.folder / "superclevr.jsonl"
    path.write_text('{"image_path": "../x.png", "question": "How many?", "ground_truth": 4}\n')
    with pytest.raises(RowError, match=r"\.\."):
        source.rows_of(path)
