"""visionr1 convert vision_r1: the wordings, the category lists, and every way in which a row can be wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from refused import bad_entry
from scene_sets.base import NAMES, pictures, prompt, rows_in, target
from scene_sets.papers import OD, QWEN_ONE, REC, VG, vision_r1_row
from scene_sets.row_files import write_parquet

from verl_visionr1.answers import instruction
from verl_visionr1.conversion.datasets import vision_r1
from verl_visionr1.conversion.writing import Report
from verl_visionr1.files import RowError

PICTURE = pictures()[0]
LABEL = PICTURE.labels[0]


def row(folder: Path, problem: str = VG.format(LABEL), **changes: Any) -> dict[str, Any]:
    """A grounding row of the first picture."""
    return {**vision_r1_row(PICTURE, folder, problem, [LABEL], [LABEL]), **changes}


def convert(folder: Path, *rows: dict[str, Any], **options: Any) -> tuple[list[dict[str, Any]], Report]:
    path = write_parquet(folder / "a.parquet", rows)
    report = vision_r1.convert(path, folder / "out.parquet", vision_r1.Options(**options))
    return rows_in(report), report


LISTS = (
    OD,
    "Locate every item from the category list in the image and output the coordinates in JSON format. "
    "The category set includes {}.",
    "Locate every instance that belongs to the following categories: '{}'. Report bbox coordinates in JSON format.",
)


@pytest.mark.parametrize("wording", [VG, REC, QWEN_ONE, f"<image>\n{VG}  "])
def test_wordings_of_one_phrase(wording: str, tmp_path: Path) -> None:
    (found,), _ = convert(tmp_path, row(tmp_path, wording.format(LABEL)))
    assert target(found).task == "grounding"
    assert target(found).categories == (LABEL,)
    assert prompt(found) == instruction("grounding", [LABEL], allow_none=True)
    assert found["data_source"] == "visionr1/vision_r1_grounding"


@pytest.mark.parametrize("wording", LISTS)
def test_wordings_of_a_category_list(wording: str, tmp_path: Path) -> None:
    problem = wording.format(", ".join(NAMES))
    made = vision_r1_row(PICTURE, tmp_path, problem, PICTURE.labels, PICTURE.labels)
    (found,), _ = convert(tmp_path, made)
    assert target(found).task == "detection"
    assert target(found).categories == NAMES  # of the wording: target_id_maps has those in the image only
    assert prompt(found) == instruction("detection", list(NAMES), allow_none=True)


@pytest.mark.parametrize(
    ("listed", "ids", "expected"),
    [
        ("cat, dog and bow and arrow", ["cat", "dog", "bow and arrow"], ("cat", "dog", "bow and arrow")),
        ("cat, bow and arrow", ["cat", "bow and arrow"], ("cat", "bow and arrow")),
        ("cat, dog, and person", ["cat", "dog", "person"], ("cat", "dog", "person")),
        ("bow and arrow, cat", ["cat"], ("bow and arrow", "cat")),
        ("table, round, cat", ["table, round", "cat"], ("table, round", "cat")),
        ("Cat, cat", ["cat"], ("Cat", "cat")),
    ],
)
def test_category_lists(listed: str, ids: list[str], expected: tuple[str, ...], tmp_path: Path) -> None:
    solution = json.dumps([[ids[0], [[1, 2, 30, 40]]]])
    ids_text = json.dumps({name: i for i, name in enumerate(ids, 1)})
    made = row(tmp_path, OD.format(listed), solution=solution, target_id_maps=ids_text, num_instances=1)
    (found,), _ = convert(tmp_path, made)
    assert target(found).categories == expected


def test_a_category_as_label_of_an_expression(tmp_path: Path) -> None:
    """The phrase is what an answer is compared with."""
    made = row(tmp_path, REC.format("the thing on the left"))
    (found,), report = convert(tmp_path, made)
    assert set(target(found).labels) == {"the thing on the left"}
    assert report.ledger.notes["label that differs from the phrase of the prompt: phrase used"] > 0


def test_negatives_are_kept_or_left_out(tmp_path: Path) -> None:
    """Upstream's loader drops them; here they are asked, and every prompt says how to answer."""
    rows = (row(tmp_path), row(tmp_path, VG.format("green cat"), solution="[]", num_instances=0))
    found, report = convert(tmp_path, *rows)
    assert [len(target(it).boxes_xyxy) > 0 for it in found] == [True, False]
    assert report.negatives == {"grounding": 1}
    assert all("If there is none, output []." in prompt(it) for it in found)
    (found,), report = convert(tmp_path, *rows, negatives=0.0)
    assert "none" not in prompt(found)
    assert report.ledger.left_out == {"negative over --negatives": 1}


def test_unknown_wording_needs_keep_prompts(tmp_path: Path) -> None:
    made = [row(tmp_path, "Where is it?"), row(tmp_path, "What is there?", target_id_maps=f'{{"b": 2, "{LABEL}": 1}}')]
    with pytest.raises(RowError) as caught:
        convert(tmp_path, *made)
    assert str(caught.value) == (
        "a.parquet: row 0: problem 'Where is it?' has none of the known wordings; correct it, or keep it "
        "with --keep-prompts (then the categories are those of target_id_maps)"
    )
    found, _ = convert(tmp_path, *made, keep_prompts=True)
    assert [(target(it).task, target(it).categories) for it in found] == [
        ("grounding", (LABEL,)),
        ("detection", (LABEL, "b")),
    ]
    assert [prompt(it) for it in found] == ["Where is it?", "What is there?"]


BAD = {
    "no problem": ({"problem": None}, "no problem", "problem is None"),
    "no solution": ({"solution": None}, "malformed entry", "solution 'None': Expected `array`"),
    "solution of another shape": ({"solution": '{"a": 1}'}, "malformed entry", "Expected `array`, got `object`"),
    "text in a box": ({"solution": f'[["{LABEL}", [["1", 2, 3, "x"]]]]'}, "box malformed", "needs 4 finite numbers"),
    "other size": ({"width": 640}, "annotated size differs", r"size_wh \(640, 120\).*\(160, 120\)"),
    "broken ids": ({"target_id_maps": '{"a": "b"}'}, "malformed entry", "target_id_maps .*Expected `int`"),
    "label not asked for": (
        {"problem": OD.format("cat, dog"), "target_id_maps": '{"cat": 1}'},
        "category not asked for",
        f"'{LABEL}' is in solution or target_id_maps, but not in the category list 'cat, dog",
    ),
    "path without folder": (
        {"image": {"bytes": None, "path": "a.png"}},
        "image path without a folder",
        "give the folder",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_rows(what: str, tmp_path: Path) -> None:
    changes, kind, message = BAD[what]
    error, found, _ = bad_entry(convert, tmp_path, row(tmp_path), row(tmp_path, **changes))
    assert error.kind == kind
    assert str(error).startswith("a.parquet: row 1")
    assert re.search(message, str(error))
    assert len(found) == 1


def test_num_instances_is_checked(tmp_path: Path) -> None:
    _, report = convert(tmp_path, row(tmp_path, num_instances=7))
    assert report.ledger.notes["num_instances differs from the number of boxes: boxes used"] == 1
