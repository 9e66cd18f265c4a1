"""Right answers in models' own notations: read, refused as coordinates that are not read, or words; never confused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded import NAME, PICTURE
from recorded import convert as convert_records
from refused import mentions
from scene_sets.base import pictures, rows_in, target

from verl_visionr1.conversion.datasets import vlm_r1
from verl_visionr1.conversion.records.solutions import read_solution
from verl_visionr1.files import RowError

BOX = [10.0, 20.0, 30.0, 40.0]
READ = {  # answer -> labels
    "Qwen2-VL": ("<|object_ref_start|>cat<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>", ["cat"]),
    "Qwen2-VL, box alone": ("<|box_start|>(10,20),(30,40)<|box_end|>", []),
    "tokens dropped by a tokenizer": ("(10,20),(30,40)", []),
    "Qwen-VL": ("<ref>cat</ref><box>(10,20),(30,40)</box>", ["cat"]),
    "InternVL": ("<ref>cat</ref><box>[[10, 20, 30, 40]]</box>", ["cat"]),
    "GLM": ("<|begin_of_box|>[[10,20,30,40]]<|end_of_box|>", []),
    "JSON": ('[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]', ["cat"]),
    "JSON over lines": ("[10,\n20,\n30,\n40]", []),
}
COORDINATES = {
    "quad": "<|quad_start|>(10,20),(30,20),(30,40),(10,40)<|quad_end|>",
    "quad of InternVL": "<ref>cat</ref><quad>[[10,20,30,20,30,40,10,40]]</quad>",
    "PaliGemma": "<loc0256><loc0128><loc0896><loc0640> cat",
    "Florence-2": "cat<loc_10><loc_20><loc_30><loc_40>",
    "Kosmos-2": "<phrase>cat</phrase><object><patch_index_0044><patch_index_0863></object>",
    "Rex-Omni": "<|object_ref_start|>cat<|object_ref_end|><|box_start|><10><20><30><40><|box_end|>",
    "DeepSeek-VL2": "<|ref|>cat<|/ref|><|det|>[[10,20,30,40]]<|/det|>",
    "Gemini, y before x": '[{"box_2d": [10, 20, 30, 40], "label": "cat"}]',
    "Molmo": '<point x="10.5" y="20.5" alt="cat">cat</point>',
    "UI-TARS": "click(start_box='(10,20)')",
    "UI-TARS 1.5": "click(point='<point>10 20</point>')",
    "MiniCPM": "<ref>cat</ref><box>10 20 30 40</box>",
    "prose": "The cat is at [10, 20, 30, 40].",
    "keys": '{"x1": 10, "y1": 20, "x2": 30, "y2": 40}',
    "corners by name": "xmin: 10, ymin: 20, xmax: 30, ymax: 40",
    "blanks": "10 20 30 40",
    "semicolons": "[10;20;30;40]",
    "bars": "10|20|30|40",
    "full-width digits": "［１０，２０，３０，４０］",  # noqa: RUF001
    "a line of YOLO": "0 0.5 0.5 0.2 0.3",
    "eight numbers": "10, 20, 30, 20, 30, 40, 10, 40",
    "an escaped tag": "&lt;box&gt;[[10,20,30,40]]&lt;/box&gt;",
}
WORDS = ("two cats on the left", "3", "[1, 5]", "(12:30, 13:40)", "1, 2, 3, 4, 5", "10.5.2.1", "[[1, 2], [3, 4]]")


@pytest.mark.parametrize(("answer", "labels"), READ.values(), ids=READ)
def test_boxes_are_read(answer: str, labels: list[str]) -> None:
    found = read_solution(answer, "line 1")
    assert (found.boxes, found.labels) == ([BOX], labels)


@pytest.mark.parametrize("answer", COORDINATES.values(), ids=COORDINATES)
def test_coordinates_are_never_words(answer: str) -> None:
    with pytest.raises(RowError) as caught:
        read_solution(answer, "line 1")
    assert (caught.value.kind, mentions(caught.value, "line 1: ")) == ("answer unreadable", True)


@pytest.mark.parametrize("answer", WORDS)
def test_words_are_words(answer: str) -> None:
    found = read_solution(answer, "line 1")
    assert (found.boxes, found.points, found.text) == (None, None, answer)


def test_corners_as_pairs_where_boxes_are_said(tmp_path: Path) -> None:
    """A matrix is an answer in words, but not of a file that is given a box format."""
    PICTURE.save(tmp_path)
    made = {"image": NAME, "q": "Which?", "a": "[[1, 2], [3, 4]]"}
    columns = ["image=image", "question=q", "solution=a"]
    (row,), _ = convert_records(tmp_path, made, column=columns)
    assert target(row).answer == "[[1, 2], [3, 4]]"
    with pytest.raises(RowError) as caught:
        convert_records(tmp_path, made, column=columns, box_format="xyxy-abs")
    assert (caught.value.kind, mentions(caught.value, "line 1")) == ("answer unreadable", True)


def test_conversations_of_vlm_r1(tmp_path: Path) -> None:
    pictures()[0].save(tmp_path)

    def convert(answer: str) -> list[dict[str, Any]]:
        turns = [{"from": "human", "value": "<image>Find the cat."}, {"from": "gpt", "value": answer}]
        (tmp_path / "a.json").write_text(json.dumps([{"image": pictures()[0].file_name, "conversations": turns}]))
        return rows_in(vlm_r1.convert(tmp_path / "a.json", tmp_path, tmp_path / "o.parquet"))

    (row,) = convert("<|box_start|>(10,20),(30,40)<|box_end|>")
    assert target(row).boxes_xyxy == (tuple(BOX),)
    with pytest.raises(RowError) as caught:
        convert(COORDINATES["quad"])
    assert (caught.value.kind, mentions(caught.value, "entry 0")) == ("answer unreadable", True)
