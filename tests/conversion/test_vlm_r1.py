"""visionr1 convert vlm_r1: the pixel too few, conversations of every kind, and every way in which a row is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from refused import bad_entry
from scene_sets.base import NAMES, pictures, prompt, rows_in, target
from scene_sets.papers import VLM_OVD, bbox_2d, conversation, rec_row
from scene_sets.row_files import write_jsonl

from verl_visionr1.answers import instruction
from verl_visionr1.conversion.datasets import vlm_r1
from verl_visionr1.conversion.writing import Report
from verl_visionr1.files import RowError, RowsError

PICTURE = pictures()[0]
THING = next(it for it in PICTURE.things if len(PICTURE.of(it.label)) == 1)
BOX = tuple(map(float, THING.box))
X1, Y1, X2, Y2 = BOX


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> Path:
    PICTURE.save(tmp_path / "images")
    PICTURE.save(tmp_path / "images" / "train2014", f"COCO_train2014_{PICTURE.file_name}")
    return tmp_path / "images"


def convert(folder: Path, *rows: Any, **options: Any) -> tuple[list[dict[str, Any]], Report]:
    path = write_jsonl(folder / "a.jsonl", rows)
    report = vlm_r1.convert(path, folder / "images", folder / "out.parquet", vlm_r1.Options(**options))
    return rows_in(report), report


def rec(**changes: Any) -> dict[str, Any]:
    return {**rec_row(PICTURE, THING.label, THING), **changes}


def talk(question: str, answer: Any, **more: Any) -> dict[str, Any]:
    return conversation(PICTURE, question, answer, **more)


COCO_XYWH = (12.39, 20.99, 34.22, 17.42)
"""An annotation as COCO's file has it, and below what VLM-R1 made of such a one (record of its issue 11)."""
COCO_BOX = (12.39, 20.99, 46.61, 38.41)  # x, y, x + w, y + h
SHORT = [12.39, 20.99, 45.61, 37.41]


def of_coco(**changes: Any) -> dict[str, Any]:
    x, y, w, h = COCO_XYWH
    width, height = PICTURE.size
    floored = [int(x / width * 1000), int(y / height * 1000), int((x + w) / width * 1000), int((y + h) / height * 1000)]
    made = {"bbox_list": [SHORT], "solution": [x, y, x + w, y + h], "normalized_solution": floored}
    return rec(**{**made, **changes})


@pytest.mark.parametrize(
    ("changes", "options", "boxes"),
    {
        "as VLM-R1 wrote it": ({}, {}, [COCO_BOX]),
        "--plus-one is not for solution": ({}, {"plus_one": True}, [COCO_BOX]),
        "solution alone": ({"bbox_list": None, "normalized_solution": None}, {}, [COCO_BOX]),
        "solution in a list": ({"solution": [list(COCO_BOX)]}, {}, [COCO_BOX]),
        "bbox_list alone": ({"solution": None}, {}, [tuple(SHORT)]),
        "bbox_list alone, a pixel short": ({"solution": None}, {"plus_one": True}, [COCO_BOX]),
        "two boxes": (
            {"solution": None, "bbox_list": [SHORT, [1, 2, 30, 40]]},
            {"plus_one": True},
            [(1, 2, 31, 41), COCO_BOX],
        ),
    }.values(),
)
def test_box_is_that_of_coco(
    changes: dict[str, Any], options: dict[str, Any], boxes: list[tuple[float, ...]], tmp_path: Path
) -> None:
    (found,), _ = convert(tmp_path, of_coco(**changes), **options)
    assert target(found).boxes_xyxy == tuple(boxes)
    assert prompt(found) == instruction("grounding", [THING.label])


@pytest.mark.parametrize("bbox_list", [None, [[1, 2, 30, 40]]])
def test_the_file_for_internvl_is_refused(bbox_list: Any, tmp_path: Path) -> None:
    floored = [243, 468, 557, 745]
    with pytest.raises(RowError) as caught:
        convert(tmp_path, rec(bbox_list=bbox_list, solution=floored, normalized_solution=floored))
    assert caught.value.kind == "box of a model's frame"


@pytest.mark.parametrize(
    "changes",
    [
        {"normal_caption": "the left cat."},
        {"normal_caption": None, "problem": f"<image>{vlm_r1.REC} the left cat."},
        {"normal_caption": None, "problem": f"{vlm_r1.REC} the left cat. First output the thinking process in <think>"},
        {"normal_caption": f"{vlm_r1.REC} the left cat."},
    ],
)
def test_the_expression_is_taken_out(changes: dict[str, Any], tmp_path: Path) -> None:
    (found,), _ = convert(tmp_path, rec(**changes))
    assert target(found).categories == target(found).labels == ("the left cat",)


def test_renumbered_image_ids_do_not_count(tmp_path: Path) -> None:
    """`image_id` is a number of VLM-R1's own; COCO's is in the file name."""
    (tmp_path / "ids.txt").write_text("0\n")
    (found,), _ = convert(tmp_path, rec(), exclude_image_ids=tmp_path / "ids.txt")
    assert found["extra_info"]["image_id"] == f"COCO_train2014_{PICTURE.file_name.removesuffix('.png')}"
    assert json.loads(found["extra_info"]["source_ann"])["id"] == "1719310"
    (tmp_path / "ids.txt").write_text(f"coco:{PICTURE.number}\n")
    with pytest.raises(RowsError, match=r"1 x .*--exclude-image-ids"):
        convert(tmp_path, rec(), exclude_image_ids=tmp_path / "ids.txt")


def test_detection_and_its_negatives(tmp_path: Path) -> None:
    ask = VLM_OVD.format(", ".join(NAMES))
    rows = (talk(ask, bbox_2d(PICTURE.things)), talk(ask, "<answer>None</answer>"))
    found, report = convert(tmp_path, *rows)
    assert {target(it).categories for it in found} == {NAMES}
    assert [len(target(it).boxes_xyxy) for it in found] == [len(PICTURE.things), 0]
    assert report.negatives == {"detection": 1}
    assert {prompt(it) for it in found} == {instruction("detection", list(NAMES), allow_none=True)}
    (found,), _ = convert(tmp_path, *rows, negatives=0.0)
    assert prompt(found) == instruction("detection", list(NAMES))


def test_boxes_without_labels(tmp_path: Path) -> None:
    rows = (
        talk(f"{vlm_r1.REC} the left cat.", list(BOX)),
        talk(f"{vlm_r1.REC} the left cat.", f"<answer> {list(BOX)} </answer>"),
        talk("Where is it? First output the thinking process in <think> </think> tags.", str(list(BOX))),
    )
    found, _ = convert(tmp_path, *rows)
    assert [target(it).boxes_xyxy for it in found] == [(BOX,)] * 3
    assert [target(it).labels for it in found] == [("the left cat",), ("the left cat",), ("Where is it?",)]
    assert prompt(found[2]) == "Where is it? Output the coordinates in JSON format."


def test_plus_one_is_for_boxes_of_expressions(tmp_path: Path) -> None:
    rows = (
        talk(f"{vlm_r1.REC} the left cat.", [X1, Y1, X2 - 1, Y2 - 1]),
        talk(VLM_OVD.format("cat"), json.dumps([{"bbox_2d": list(BOX), "label": "cat"}])),
    )
    found, _ = convert(tmp_path, *rows, plus_one=True)
    assert [target(it).boxes_xyxy for it in found] == [(BOX,)] * 2


def test_points(tmp_path: Path) -> None:
    (found,), _ = convert(tmp_path, talk("Where to click?", '[{"point_2d": [10, 20], "label": "ok"}]'))
    assert (target(found).task, target(found).points_xy) == ("pointing", ((10, 20),))


def test_words(tmp_path: Path) -> None:
    """The reward method ends the data source, by which a preset can be chosen."""
    options = "What is it?\nA. a cat\nB. a dog\nAnswer with the letter."
    rows = (
        talk(f"<image>{options}", "<answer>B</answer>", accu_reward_method="mcq"),
        talk("Is it red?", "yes", accu_reward_method="yes_no"),
        talk("How many?", 3),
        talk("What is 1/2?", "\\frac{1}{2}", accu_reward_method="math"),
        talk("(A) left (B) right?", "A"),
        talk("A. left\nB. right", "C"),
        talk("Give the interval.", "[0, 1]"),
    )
    found, _ = convert(tmp_path, *rows)
    assert {it["ability"] for it in found} == {"text"}
    assert [target(it).answer for it in found] == ["B", "yes", "3", "\\frac{1}{2}", "A", "C", "[0, 1]"]
    assert [it["data_source"].removeprefix("visionr1/vlm_r1_text_") for it in found] == [
        "mcq",
        "yes_no",
        "default",
        "math",
        *["default"] * 3,
    ]
    choices = [target(it).choices for it in found]
    assert choices == [("a cat", "a dog"), (), (), (), ("left", "right?"), (), ()]
    assert prompt(found[0]) == f"{options} Answer with the final answer alone."


def test_reward_methods_and_folders_of_several_files(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "other", "b.png")
    files = [
        write_jsonl(tmp_path / "a.jsonl", [talk("What?", "A")]),
        write_jsonl(tmp_path / "b.jsonl", [{**talk("What?", "B"), "image": "b.png"}]),
    ]
    joined, folders = ":".join(map(str, files)), f"{tmp_path / 'images'}:{tmp_path / 'other'}"
    out = tmp_path / "out.parquet"
    found = rows_in(vlm_r1.convert(joined, folders, out, vlm_r1.Options(reward_method="mcq:all_match")))
    assert [it["data_source"] for it in found] == ["visionr1/vlm_r1_text_mcq", "visionr1/vlm_r1_text_all_match"]
    assert Path(found[1]["images"][0]).name == "b.png"
    with pytest.raises(RowsError, match=r"IMAGE_FOLDERS .*: 2 .*1 files"):
        vlm_r1.convert(files[0], folders, out)
    with pytest.raises(RowsError, match=r"--reward-method a:b:c: 3 .*2 files"):
        vlm_r1.convert(joined, folders, out, vlm_r1.Options(reward_method="a:b:c"))
    with pytest.raises(RowsError, match=r"none: .*IMAGE_FOLDERS"):
        vlm_r1.convert(joined, tmp_path / "none", out)


def test_keep_prompts(tmp_path: Path) -> None:
    rows = (rec(), talk("<image> Is it red? First output the thinking process in <think>.", "yes"))
    found, _ = convert(tmp_path, *rows, keep_prompts=True)
    assert [prompt(it) for it in found] == [
        f"{vlm_r1.REC} {THING.label}.",
        "Is it red? First output the thinking process in <think>.",
    ]


ASK = f"{vlm_r1.REC} the left cat."
BAD = {
    "several images": ({"image": ["a.png", "b.png"]}, "several images", "2 images: a row has one"),
    "no turns": ({"conversations": None}, "malformed conversation", "'None': needs one turn of human"),
    "turns swapped": (
        {"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]},
        "malformed conversation",
        "needs one turn of human",
    ),
    "empty question": (talk("<image>", "A"), "malformed conversation", "needs one turn of human"),
    "no answer": (talk("What?", None), "no answer", "the answer is None"),
    "prose instead of a box": (talk(ASK, "on the left"), "answer unreadable", "but the answer is"),
    "broken boxes": (talk("What?", '[{"bbox_2d": [1, 2'), "answer unreadable", "has coordinates"),
    "one label missing": (
        talk("What?", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [1, 2, 3, 4]}]'),
        "label missing",
        "object 1 of the answer has label None",
    ),
    "answer is no option": (
        talk("A. a cat\nB. a dog", "C", accu_reward_method="mcq"),
        "answer is no option",
        "the answer 'C' is none of the options a cat, a dog",
    ),
    "odd method": (talk("What?", "A", accu_reward_method="{x}"), "unknown reward method", "accu_reward_method '{x}'"),
    "deeply nested": (talk("What?", "[" * 90_000), None, None),
    "tags without end": (talk("What?", "<answer>" * 12_000), None, None),
    "no object": ("a row", "malformed entry", "'a row'"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_conversations(what: str, tmp_path: Path) -> None:
    changes, kind, message = BAD[what]
    bad = {**talk("What?", "A"), **changes} if isinstance(changes, dict) else changes
    rows = (talk("What?", "A"), bad)
    if kind is None:  # hostile, but a text
        assert len(convert(tmp_path, *rows)[0]) == 2
        return
    error, found, _ = bad_entry(convert, tmp_path, *rows)
    assert error.kind == kind
    assert str(error).startswith("a.jsonl: line 2: ")
    assert re.search(message, str(error))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox_list": None, "solution": None}, r"neither bbox_list nor solution has a box \(None\)"),
        ({"bbox_list": [], "solution": "left"}, r"neither bbox_list nor solution has a box \(left\)"),
        ({"bbox_list": [[1, 2, 3]], "solution": None}, r"has a box \(\[\[1, 2, 3\]\]\)"),
        ({"normal_caption": None, "problem": "Find it."}, "no normal_caption, and problem 'Find it.' "),
        ({"width": "wide"}, r"width and height \('wide', 120\)"),
        ({"width": 640}, r"size_wh \(640, 120\).*\(160, 120\)"),
        ({"solution": [900, 2, 990, 9]}, "outside the image of"),
    ],
)
def test_bad_expressions(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    error, found, _ = bad_entry(convert, tmp_path, rec(), rec(**changes))
    assert re.search(message, str(error))
    assert len(found) == 1


def test_none_is_a_word_where_no_boxes_are_asked_for(tmp_path: Path) -> None:
    rows = (talk("Which sport is it?", "None"), talk("Find what is red.", "None", accu_reward_method="od_ap"))
    found, _ = convert(tmp_path, *rows)
    assert [it["ability"] for it in found] == ["text", "grounding"]
    assert target(found[0]).answer == "None"
    assert prompt(found[1]) == "Find what is red. Output the coordinates in JSON format."


def test_descriptions_with_commas_keep_the_question(tmp_path: Path) -> None:
    """Where the list splits a label nobody knows what else it splits."""
    answer = json.dumps([{"bbox_2d": list(BOX), "label": "a dog, not on a leash"}])
    (found,), _ = convert(tmp_path, talk(VLM_OVD.format("a dog, not on a leash, a cat"), answer))
    assert target(found).labels == ("a dog, not on a leash",)
    assert prompt(found).startswith("Please carefully check the image and detect the following objects: a dog, not")


def test_rows_without_an_image_are_left_out(tmp_path: Path) -> None:
    _, report = convert(tmp_path, talk("What?", "A"), {**talk("1 + 1?", 2), "image": None}, {"conversations": []})
    assert report.ledger.left_out == {"row without an image": 2}
