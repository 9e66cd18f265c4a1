"""visionr1 convert coco: objects, negatives, categories and prompts as asked for, and the same bytes again."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from coco_set import COLOURS, GREEN, NAME_OF, RED, A, B, Dataset, many
from scene_sets.base import target

from verl_visionr1.answers import instruction
from verl_visionr1.conversion.datasets import coco
from verl_visionr1.rows import RowsError


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "set")


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
    assert report.ledger.left_out["image on the exclusion list (--exclude-image-ids)"] == 2
    assert report.ledger.left_out["annotation of an image left out"] == 2


def test_missing_exclusion_list_is_an_error(data: Dataset) -> None:
    """Test images in the training set would be the result."""
    data.image((RED, A))
    with pytest.raises(RowsError, match=r"--exclude-image-ids .*ids\.txt: "):
        data.convert(exclude_image_ids=data.folder / "ids.txt")


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
