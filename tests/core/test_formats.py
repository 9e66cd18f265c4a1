"""Every answer format: what is well-formed, which defects are named, and that no text harms a parser."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable

import pytest
from cpu_time import grows_too_fast
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_visionr1.answers import FORMATS, MAX_BOXES, MAX_CHARS, PARSERS, Answer, Defect, instruction, parse_qwen_json
from verl_visionr1.frames import FRAMES, to_original

O, P, B, E = "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"  # noqa: E741
GLM, GLM_END = "<|begin_of_box|>", "<|end_of_box|>"
ONE = ((1.0, 2.0, 3.0, 4.0),)
TWO = (*ONE, (5.0, 6.0, 7.0, 8.0))
POINT = ((1.0, 2.0),)
POINTS = (*POINT, (3.0, 4.0))

# format, text -> boxes or points, labels (one string of words; "-" stands for "")
WELL_FORMED = {
    "qwen2-vl": ("qwen2-vl", f"{O}cat{P}{B}(1,2),(3,4){E}", ONE, "cat"),
    "qwen2-vl, blanks": ("qwen2-vl", f"{O} cat {P} {B}(1, 2), (3, 4){E}\n", ONE, "cat"),
    "qwen2-vl, two boxes a label": ("qwen2-vl", f"{O}cat{P}{B}(1,2),(3,4){E}{B}(5,6),(7,8){E}", TWO, "cat cat"),
    "qwen2-vl, two labels": ("qwen2-vl", f"{O}cat{P}{B}(1,2),(3,4){E}{O}dog{P}{B}(5,6),(7,8){E}", TWO, "cat dog"),
    "qwen2-vl, no label": ("qwen2-vl", f"{B}(1,2),(3,4){E}", ONE, "-"),
    "qwen2-vl, tokens stripped": ("qwen2-vl", "cat(1,2),(3,4)dog(5,6),(7,8)", TWO, "cat dog"),
    "qwen2-vl, tokens stripped, one label": ("qwen2-vl", "cat(1,2),(3,4)(5,6),(7,8)", TWO, "cat cat"),
    "qwen2-vl, lines": ("qwen2-vl", "cat(1,2),(3,4)\ndog(5,6),(7,8)\n", TWO, "cat dog"),
    "qwen2-vl, a label with brackets": ("qwen2-vl", "cat(left)(1,2),(3,4)", ONE, "cat(left)"),
    "qwen2-vl, reasoning": ("qwen2-vl", f"<think>(5,6),(7,8)</think>{O}cat{P}{B}(1,2),(3,4){E}", ONE, "cat"),
    "internvl": ("internvl", "<ref>cat</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", TWO, "cat cat"),
    "internvl, lines": (
        "internvl",
        "<ref>cat</ref><box>[[1, 2, 3, 4]]</box>\n<ref>dog</ref><box>[[5, 6, 7, 8]]</box>",
        TWO,
        "cat dog",
    ),
    "internvl, tokens stripped": ("internvl", "cat[[1, 2, 3, 4]]\ndog[[5, 6, 7, 8]]\n", TWO, "cat dog"),
    "internvl, no label": ("internvl", "[[1, 2, 3, 4]]", ONE, "-"),
    "internvl, as it was taught": (
        "internvl",
        "Sure, I will detect and label all objects in the image and mark their positions.\n\n```\n"
        "<ref>cat</ref><box>[[1, 2, 3, 4]]</box>\n<ref>dog</ref><box>[[5, 6, 7, 8]]</box>\n```\n",
        TWO,
        "cat dog",
    ),
    "glm": ("glm", f"{GLM}[[1,2,3,4],[5,6,7,8]]{GLM_END}", TWO, "- -"),
    "glm, one box": ("glm", f"{GLM}[1,2,3,4]{GLM_END}", ONE, "-"),
    "glm, round brackets": ("glm", f"{GLM}(1,2,3,4){GLM_END}", ONE, "-"),
    "glm, angle brackets": ("glm", f"{GLM}<1,2,3,4>{GLM_END}", ONE, "-"),
    "glm, in words": ("glm", f"A cat {GLM}[[1,2,3,4]]{GLM_END} and a dog {GLM}[[5,6,7,8]]{GLM_END}.", TWO, "- -"),
    "glm, tokens stripped": ("glm", "[[1,2,3,4]]", ONE, "-"),
    "glm, reasoning": ("glm", f"<think>[[5,6,7,8]]</think><answer>{GLM}[[1,2,3,4]]{GLM_END}</answer>", ONE, "-"),
    "glm, JSON": ("glm", f'{GLM}[{{"label": "cat", "bbox_2d": [1,2,3,4]}}]{GLM_END}', ONE, "cat"),
    "glm, JSON in a fence": ("glm", f'{GLM}```json\n[{{"label":"cat","bbox_2d":[1,2,3,4]}}]\n```{GLM_END}', ONE, "cat"),
    "glm, JSON alone": ("glm", '```json\n[{"label": "cat", "bbox_2d": [1,2,3,4]}]\n```', ONE, "cat"),
    "gemma-json": ("gemma-json", '[{"box_2d": [2, 1, 4, 3], "label": "cat"}]', ONE, "cat"),
    "gemma-json, two": (
        "gemma-json",
        '```json\n[\n  {"box_2d": [2, 1, 4, 3], "label": "cat"},\n  {"box_2d": [6, 5, 8, 7], "label": "dog"}\n]\n```',
        TWO,
        "cat dog",
    ),
    "gemma-json, label first": ("gemma-json", '[{"label": "cat", "box_2d": [2, 1, 4, 3]}]', ONE, "cat"),
    "paligemma": ("paligemma", "<loc0002><loc0001><loc0004><loc0003> cat", ONE, "cat"),
    "paligemma, two": (
        "paligemma",
        "<loc0002><loc0001><loc0004><loc0003> cat ; <loc0006><loc0005><loc0008><loc0007> dog",
        TWO,
        "cat dog",
    ),
    "paligemma, no label": ("paligemma", "<loc0002><loc0001><loc0004><loc0003>", ONE, "-"),
    "paligemma, segments": ("paligemma", "<loc0002><loc0001><loc0004><loc0003><seg001><seg127> cat", ONE, "cat"),
    "list": ("list", "[1, 2, 3, 4]", ONE, "-"),
    "list of lists": ("list", "[[1, 2, 3, 4], [5.0, 6e0, 7, 8.]]", TWO, "- -"),
    "list, round brackets": ("list", "(1, 2, 3, 4)", ONE, "-"),
    "list, reasoning and fence": ("list", "<think>so</think><answer>```\n[1, 2, 3, 4]\n```</answer>", ONE, "-"),
    "point": ("point", "[1, 2]", POINT, "-"),
    "point, round": ("point", "(1,2)", POINT, "-"),
    "points": ("point", "[(1, 2), (3, 4)]", POINTS, "- -"),
    "click": ("point", "click(1, 2)", POINT, "-"),
    "click, named": ("point", "pyautogui.click(x=1.0, y=2.0)", POINT, "-"),
    "click, start_box": ("point", "click(start_box='(1,2)')", POINT, "-"),
    "click, point tag": ("point", "click(point='<point>1 2</point>')", POINT, "-"),
    "point tag": ("point", "<point>1 2</point>", POINT, "-"),
    "point tag, comma": ("point", "<point>1, 2</point>", POINT, "-"),
    "click, tokens": ("point", f"click(start_box='{B}(1,2){E}')", POINT, "-"),
    "point, tokens": ("point", f"{B}(1,2){E}", POINT, "-"),
    "point, answer tag": ("point", "<think>(5, 6)</think><answer>[1, 2]</answer>", POINT, "-"),
    "qwen-points": ("qwen-points", '[{"point_2d": [1, 2], "label": "cat"}]', POINT, "cat"),
    "qwen-points, fence": ("qwen-points", '```json\n[{"label": "cat", "point_2d": [1, 2]}]\n```', POINT, "cat"),
    "qwen-points, a box too": (
        "qwen-points",
        '[{"bbox_2d": [0, 0, 5, 5], "point_2d": [1, 2], "label": "cat"}]',
        POINT,
        "cat",
    ),
    "molmo": ("molmo-points", '<point x="1.0" y="2.0" alt="cat">cat</point>', POINT, "cat"),
    "molmo, many": (
        "molmo-points",
        '<points x1="1.0" y1="2.0" x2="3.0" y2="4.0" alt="cat">cat</points>',
        POINTS,
        "cat cat",
    ),
    "molmo, alt alone": ("molmo-points", '<point x="1.0" y="2.0" alt="cat"></point>', POINT, "cat"),
    "molmo, two tags": (
        "molmo-points",
        '<point x="1.0" y="2.0" alt="cat">cat</point> <point x="3.0" y="4.0" alt="dog">dog</point>',
        POINTS,
        "cat dog",
    ),
    "molmo, reasoning": ("molmo-points", '<think>?</think><point x="1.0" y="2.0" alt="cat">cat</point>', POINT, "cat"),
}


@pytest.mark.parametrize(("name", "text", "places", "labels"), WELL_FORMED.values(), ids=WELL_FORMED)
def test_well_formed(name: str, text: str, places: tuple, labels: str) -> None:
    answer = PARSERS[name](text)
    assert (answer.boxes_xyxy or answer.points_xy) == places
    assert [label or "-" for label in answer.labels] == labels.split()
    assert (answer.n_dropped, answer.defects) == (0, ())
    assert not (answer.boxes_xyxy and answer.points_xy)


# format, text -> how many boxes or points are read, how many claims dropped, defects
DEFECTIVE = {
    "qwen2-vl, prose before": ("qwen2-vl", f"I see {O}cat{P}{B}(1,2),(3,4){E}", 1, 0, "prose"),
    "qwen2-vl, prose after": ("qwen2-vl", "cat(1,2),(3,4) it is", 1, 0, "prose"),
    "qwen2-vl, prose between": (
        "qwen2-vl",
        f"{O}cat{P}{B}(1,2),(3,4){E} and {O}dog{P}{B}(1,2),(3,4){E}",
        2,
        0,
        "prose",
    ),
    "qwen2-vl, prose alone": ("qwen2-vl", "There is no cat.", 0, 0, "no_list"),
    "qwen2-vl, cut in a box": ("qwen2-vl", f"{O}cat{P}{B}(1,2),(3,", 0, 0, "truncated"),
    "qwen2-vl, cut between points": ("qwen2-vl", "cat(1,2),(3,4)dog(5,6),", 1, 0, "truncated"),
    "qwen2-vl, cut in a label": ("qwen2-vl", f"{O}cat{P}{B}(1,2),(3,4){E}{O}do", 1, 0, "truncated"),
    "qwen2-vl, a point": ("qwen2-vl", f"{O}cat{P}{B}(1,2){E}", 0, 1, "wrong_kind"),
    "qwen2-vl, inverted": ("qwen2-vl", "cat(3,2),(1,4)", 0, 1, "bad_box"),
    "qwen2-vl, nan": ("qwen2-vl", "cat(1,2),(3,nan)", 0, 1, "bad_box"),
    "qwen2-vl, three numbers": ("qwen2-vl", "cat(1,2,3),(4,5)", 0, 1, "bad_box"),
    "qwen2-vl, one bracket": ("qwen2-vl", "cat(1,2,3,4)", 1, 0, "malformed"),
    "qwen2-vl, square brackets": ("qwen2-vl", "cat[1,2],[3,4]", 1, 0, "malformed"),
    "qwen2-vl, a label missing": ("qwen2-vl", f"{B}(1,2),(3,4){E}{O}cat{P}{B}(1,2),(3,4){E}", 2, 0, "no_label"),
    "internvl, prose before": ("internvl", "I see <ref>cat</ref><box>[[1, 2, 3, 4]]</box>", 1, 0, "prose"),
    "internvl, prose after": ("internvl", "cat[[1, 2, 3, 4]] it is", 1, 0, "prose"),
    "internvl, one bracket": ("internvl", "<ref>cat</ref><box>[1, 2, 3, 4]</box>", 1, 0, "malformed"),
    "internvl, cut": ("internvl", "<ref>cat</ref><box>[[1, 2, 3, 4], [5, 6", 1, 0, "truncated"),
    "internvl, cut, tokens stripped": ("internvl", "cat[[1, 2, 3, 4]", 1, 0, "truncated"),
    "internvl, cut in the first box": ("internvl", "cat[[1, 2", 0, 0, "truncated"),
    "internvl, points": ("internvl", "<ref>cat</ref><box>[[1, 2], [3, 4]]</box>", 0, 2, "wrong_kind"),
    "internvl, one of two inverted": ("internvl", "cat[[3, 2, 1, 4], [1, 2, 3, 4]]", 1, 1, "bad_box"),
    "internvl, nothing": ("internvl", "", 0, 0, "empty"),
    "internvl, reasoning not closed": ("internvl", "<think>cat[[1, 2, 3, 4]]", 0, 0, "no_answer"),
    "glm, prose": ("glm", "The cat is at [[1,2,3,4]].", 1, 0, "prose"),
    "glm, token not closed": ("glm", f"{GLM}[[1,2,3,4]]", 1, 0, "truncated"),
    "glm, cut": ("glm", f"{GLM}[[1,2,3,4],[5,6", 1, 0, "truncated"),
    "glm, empty": ("glm", f"{GLM}{GLM_END}", 0, 0, "empty"),
    "glm, words for a box": ("glm", f"{GLM}on the left{GLM_END}", 0, 0, "no_list"),
    "glm, a point": ("glm", f"{GLM}[[1,2]]{GLM_END}", 0, 1, "wrong_kind"),
    "glm, JSON points": ("glm", '[{"point_2d": [1, 2], "label": "cat"}]', 0, 1, "wrong_kind"),
    "glm, JSON cut": ("glm", f'{GLM}[{{"bbox_2d": [1,2,3,4], "label": "cat"}}, {{"bb', 1, 0, "truncated"),
    "glm, only in the reasoning": ("glm", f"<think>{GLM}[[1,2,3,4]]{GLM_END}</think>", 0, 0, "empty"),
    "gemma-json, prose": ("gemma-json", 'Here: [{"box_2d": [2, 1, 4, 3], "label": "cat"}]', 1, 0, "prose"),
    "gemma-json, cut": ("gemma-json", '[{"box_2d": [2, 1, 4, 3], "label": "cat"}, {"box_2d": [6', 1, 0, "truncated"),
    "gemma-json, inverted": ("gemma-json", '[{"box_2d": [4, 1, 2, 3], "label": "cat"}]', 0, 1, "bad_box"),
    "gemma-json, no label": ("gemma-json", '[{"box_2d": [2, 1, 4, 3]}]', 1, 0, "no_label"),
    "gemma-json, Qwen's key": ("gemma-json", '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]', 0, 1, "wrong_kind"),
    "gemma-json, a point": ("gemma-json", '[{"point_2d": [1, 2], "label": "cat"}]', 0, 1, "wrong_kind"),
    "gemma-json, one object": ("gemma-json", '{"box_2d": [2, 1, 4, 3], "label": "cat"}', 1, 0, "no_list"),
    "paligemma, prose": ("paligemma", "A <loc0002><loc0001><loc0004><loc0003> cat", 1, 0, "prose"),
    "paligemma, prose alone": ("paligemma", "cat", 0, 0, "no_list"),
    "paligemma, two bins": ("paligemma", "<loc0002><loc0001> cat", 0, 1, "wrong_kind"),
    "paligemma, five bins": ("paligemma", "<loc0002><loc0001><loc0004><loc0003><loc0003> cat", 0, 1, "bad_box"),
    "paligemma, inverted": ("paligemma", "<loc0004><loc0001><loc0002><loc0003> cat", 0, 1, "bad_box"),
    "paligemma, cut": ("paligemma", "<loc0002><loc0001><loc0004><loc0003> cat ; <loc0006><loc00", 1, 0, "truncated"),
    "paligemma, cut after a separator": ("paligemma", "<loc0002><loc0001><loc0004><loc0003> cat ;", 1, 0, "truncated"),
    "internvl, begins with a comma": ("internvl", ", [1, 2, 3, 4]", 1, 0, "malformed"),
    "list, zero width": ("list", "[1, 2, 1, 4]", 0, 1, "bad_box"),
    "list, zero height": ("list", "[1, 2, 3, 2]", 0, 1, "bad_box"),
    "list, a point": ("list", "[1, 2]", 0, 1, "wrong_kind"),
    "list, prose": ("list", "The box is [1, 2, 3, 4].", 1, 0, "prose"),
    "list, no commas": ("list", "[1 2 3 4]", 1, 0, "malformed"),
    "list, curly": ("list", "{1, 2, 3, 4}", 1, 0, "malformed"),
    "list, trailing comma": ("list", "[[1, 2, 3, 4],]", 1, 0, "malformed"),
    "list, two lists": ("list", "[1, 2, 3, 4] [5, 6, 7, 8]", 2, 0, "malformed"),
    "list, nested once more": ("list", "[[[1, 2, 3, 4]]]", 1, 0, "malformed"),
    "list, cut": ("list", "[[1, 2, 3, 4], [5, 6", 1, 0, "truncated"),
    "list, cut at the end": ("list", "[[1, 2, 3, 4]", 1, 0, "truncated"),
    "list, cut at the start": ("list", "[[1, 2", 0, 0, "truncated"),
    "list, no brackets": ("list", "1, 2, 3, 4", 0, 0, "no_list"),
    "list, letters": ("list", "[1, 2, x, 4]", 0, 1, "bad_box"),
    "list, beyond float64": ("list", "[1, 2, 1e999, 4]", 0, 1, "bad_box"),
    "list, five numbers": ("list", "[1, 2, 3, 4, 5]", 0, 1, "bad_box"),
    "point, a box": ("point", "[1, 2, 3, 4]", 0, 1, "wrong_kind"),
    "point, prose": ("point", "The point is (1, 2)", 1, 0, "prose"),
    "point, cut": ("point", "(1, ", 0, 0, "truncated"),
    "point, nan": ("point", "(nan, 1)", 0, 1, "bad_box"),
    "point, three numbers": ("point", "(1, 2, 3)", 0, 1, "bad_box"),
    "point, four numbers in a tag": ("point", "<point>1 2 3 4</point>", 0, 1, "wrong_kind"),
    "point, a tag in prose": ("point", "Action: click(point='<point>1 2</point>')", 1, 0, "prose"),
    "point, two clicks": ("point", "click(1, 2)\nclick(3, 4)", 2, 0, "prose"),
    "qwen-points, boxes": ("qwen-points", '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]', 0, 1, "wrong_kind"),
    "qwen-points, three numbers": ("qwen-points", '[{"point_2d": [1, 2, 3], "label": "cat"}]', 0, 1, "bad_box"),
    "qwen-points, label missing": ("qwen-points", '[{"point_2d": [1, 2]}]', 1, 0, "no_label"),
    "qwen-points, label empty": ("qwen-points", '[{"point_2d": [1, 2], "label": " "}]', 1, 0, "no_label"),
    "qwen-points, NaN": ("qwen-points", '[{"point_2d": [1, NaN], "label": "cat"}]', 0, 1, "bad_box"),
    "qwen-points, cut": ("qwen-points", '[{"point_2d": [1, 2], "label": "cat"}, {"poi', 1, 0, "truncated"),
    "molmo, prose": ("molmo-points", 'Here: <point x="1.0" y="2.0" alt="cat">cat</point>', 1, 0, "prose"),
    "molmo, prose alone": ("molmo-points", "I see a cat.", 0, 0, "no_list"),
    "molmo, half a point": ("molmo-points", '<point x="1.0" alt="cat">cat</point>', 0, 1, "bad_box"),
    "molmo, nan": ("molmo-points", '<point x="nan" y="1.0" alt="cat">cat</point>', 0, 1, "bad_box"),
    "molmo, no point": ("molmo-points", '<points alt="cat">cat</points>', 0, 1, "bad_box"),
    "molmo, a point said twice": ("molmo-points", '<points x1="1" y1="2" x1="3" y1="4">cat</points>', 1, 2, "bad_box"),
    "molmo, not closed": ("molmo-points", '<point x="1.0" y="2.0" alt="cat">', 1, 0, "truncated"),
    "molmo, cut": ("molmo-points", '<points x1="1.0" y1="2.0" x2="3.', 1, 0, "truncated"),
    "molmo, cut at the start": ("molmo-points", "<point", 0, 0, "truncated"),
    "molmo, no label": ("molmo-points", '<point x="1.0" y="2.0"></point>', 1, 0, "no_label"),
    "molmo, an empty element": ("molmo-points", '<point x="1.0" y="2.0" alt="cat"/>', 1, 0, "malformed"),
}


@pytest.mark.parametrize(("name", "text", "n_read", "n_dropped", "defects"), DEFECTIVE.values(), ids=DEFECTIVE)
def test_defects_are_named_and_claims_counted(name: str, text: str, n_read: int, n_dropped: int, defects: str) -> None:
    answer = PARSERS[name](text)
    assert len(answer.boxes_xyxy or answer.points_xy) == len(answer.labels) == n_read
    assert answer.n_dropped == n_dropped
    assert [defect.value for defect in answer.defects] == defects.split()
    assert set(answer.boxes_xyxy) <= set(TWO)
    assert set(answer.points_xy) <= set(POINTS)


PLACES = [name for name in FORMATS if FORMATS[name].frames or name in ("list", "point")]
READING = [name for name in PLACES if name != "visionr1-released"]
FOR_BOXES = [name for name in READING if "points" not in name and name != "point"]


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("text", ["None", "[]", "<think>no cat</think>None", "<answer>[]</answer>", "```\nNone\n```"])
def test_nothing_there_is_well_formed(name: str, text: str) -> None:
    assert PARSERS[name](text) == Answer()


@pytest.mark.parametrize("name", READING)
def test_no_text_is_empty(name: str) -> None:
    assert PARSERS[name](" \n").defects == (() if name == "paligemma" else (Defect.EMPTY,))


@pytest.mark.parametrize("name", READING)
def test_reasoning_that_was_never_closed_holds_no_answer(name: str) -> None:
    text = f"<think>{FORMATS[name].example.replace('</think>', '')}"
    assert PARSERS[name](text) == Answer((), (), 0, (Defect.NO_ANSWER,))


@pytest.mark.parametrize("text", ["There are none.", "This isn't in the image."])
def test_molmo_says_nothing_in_words(text: str) -> None:
    assert PARSERS["molmo-points"](text) == Answer()


def test_molmo_states_a_count() -> None:
    tag = '<points x1="1.0" y1="2.0" x2="3.0" y2="4.0" alt="cat">cat</points>'
    answer = PARSERS["molmo-points"](f"Counting the {tag} shows a total of 3.")
    assert (answer.points_xy, answer.defects, answer.count, answer.stated_count) == (POINTS, (), 3.0, 3.0)
    assert PARSERS["molmo-points"](tag).stated_count == 2.0
    assert PARSERS["molmo-points"](f"{tag} shows a total of 3.").defects == (Defect.PROSE,)


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_is_well_formed(name: str) -> None:
    answer = FORMATS[name].parse(FORMATS[name].example)
    assert answer.defects == ()
    assert answer.n_dropped == 0
    assert answer.is_parsed
    if name in PLACES:
        assert answer.n_predicted > 0


# A writer for each format, for tests only: items are (label, numbers).
def write_molmo(items: list) -> str:
    return "".join(f'<point x="{x}" y="{y}" alt="{label}">{label}</point>' for label, (x, y) in items)


WRITERS: dict[str, Callable[[list], str]] = {
    "qwen-json": lambda items: json.dumps([{"bbox_2d": box, "label": label} for label, box in items]),
    "vlmr1-json": lambda items: (
        "<think>hm</think>\n<answer>\n```json\n"
        + json.dumps([{"bbox_2d": box, "label": label} for label, box in items])
        + "\n```\n</answer>"
    ),
    "qwen2-vl": lambda items: "".join(
        f"{O}{label}{P}{B}({x1},{y1}),({x2},{y2}){E}" for label, (x1, y1, x2, y2) in items
    ),
    "internvl": lambda items: "\n".join(
        f"<ref>{label}</ref><box>[[{', '.join(map(str, box))}]]</box>" for label, box in items
    ),
    "glm": lambda items: f"{GLM}{json.dumps([box for _, box in items])}{GLM_END}",
    "griffon": lambda items: "&".join(f"{label}-[{','.join(f'{v / 1000:.3f}' for v in box)}]" for label, box in items),
    "paligemma": lambda items: " ; ".join(
        f"<loc{y1:04}><loc{x1:04}><loc{y2:04}><loc{x2:04}> {label}" for label, (x1, y1, x2, y2) in items
    ),
    "gemma-json": lambda items: json.dumps(
        [{"box_2d": [y1, x1, y2, x2], "label": label} for label, (x1, y1, x2, y2) in items]
    ),
    "list": lambda items: json.dumps([box for _, box in items]),
    "qwen-points": lambda items: json.dumps([{"point_2d": box[:2], "label": label} for label, box in items]),
    "molmo-points": lambda items: write_molmo([(label, box[:2]) for label, box in items]),
    "point": lambda items: json.dumps([box[:2] for _, box in items]),
}

few = settings(max_examples=15)  # for each format
words = st.from_regex(r"[a-z]{1,6}( [a-z]{1,4})?", fullmatch=True).filter(lambda word: word not in ("nan", "inf"))
ordered = st.tuples(*[st.integers(0, 499)] * 2, *[st.integers(1, 499)] * 2).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
items_of_boxes = st.lists(st.tuples(words, ordered), min_size=1, max_size=6)


def test_every_format_of_places_has_a_writer() -> None:
    assert set(WRITERS) == set(READING)


@pytest.mark.parametrize("name", WRITERS)
@few
@given(
    items=items_of_boxes,
    around=st.sampled_from(["{}", " {}\n", "<think>so</think>{}", "<answer>{}</answer>", "```\n{}\n```"]),
)
def test_what_is_written_is_read(name: str, items: list, around: str) -> None:
    if name == "vlmr1-json":
        around = "{}"
    answer = PARSERS[name](around.replace("{}", WRITERS[name](items)))
    scale = 1000 if name == "griffon" else 1
    places = [tuple(v / scale for v in (box if name in FOR_BOXES else box[:2])) for _, box in items]
    assert list(answer.boxes_xyxy or answer.points_xy) == places
    assert list(answer.labels) == [("" if name in ("glm", "list", "point") else label) for label, _ in items]
    assert (answer.n_dropped, answer.defects) == (0, ())


STRIPPED = {"qwen2-vl": (O, P, B, E), "internvl": ("<ref>", "</ref>", "<box>", "</box>"), "glm": (GLM, GLM_END)}


@pytest.mark.parametrize("name", STRIPPED)
@few
@given(items=items_of_boxes)
def test_a_tokenizer_that_strips_special_tokens_changes_nothing(name: str, items: list) -> None:
    text = WRITERS[name](items)
    bare = text
    for token in STRIPPED[name]:
        bare = bare.replace(token, "")
    assert bare != text
    assert PARSERS[name](bare) == PARSERS[name](text)


@pytest.mark.parametrize("name", WRITERS)
@few
@given(items=items_of_boxes, share=st.floats(0, 1))
def test_a_cut_answer_is_a_beginning_of_the_whole(name: str, items: list, share: float) -> None:
    text = WRITERS[name](items)
    whole, part = PARSERS[name](text), PARSERS[name](text[: int(share * len(text))])
    n = len(part.labels)
    assert n <= len(items)
    # The last number or label may have lost its end.
    assert (part.boxes_xyxy or part.points_xy)[: n - 1] == (whole.boxes_xyxy or whole.points_xy)[: max(0, n - 1)]
    assert part.n_predicted <= len(items)


@pytest.mark.parametrize("name", WRITERS)
@few
@given(items=items_of_boxes)
def test_prose_before_is_named_and_costs_no_box(name: str, items: list) -> None:
    text = WRITERS[name](items)
    whole, prosy = PARSERS[name](text), PARSERS[name](f"Look at this! {text}")
    assert prosy.boxes_xyxy == whole.boxes_xyxy
    assert prosy.points_xy == whole.points_xy
    # Words before GLM's tokens are part of its format, before reasoning they do not count; Griffon-G's are a label.
    if name not in ("glm", "vlmr1-json", "griffon"):
        assert prosy.defects == (Defect.PROSE,)


@pytest.mark.parametrize("name", WRITERS)
def test_places_beyond_the_bound_count_as_predictions(name: str) -> None:
    n = MAX_BOXES + 5
    text = WRITERS[name]([("a", [10, 20, 30, 40])] * n)
    if len(text) > MAX_CHARS:
        return
    answer = PARSERS[name](text)
    assert len(answer.boxes_xyxy or answer.points_xy) == len(answer.labels) == MAX_BOXES
    assert answer.n_predicted == n
    assert answer.defects == (Defect.TOO_MANY,)


@pytest.mark.parametrize("name", ["qwen2-vl", "internvl", "glm", "list", "point", "paligemma", "molmo-points"])
def test_very_many_places_are_counted_without_being_read(name: str) -> None:
    text = WRITERS[name]([("a", [1, 2, 3, 4])] * 20_000)[: MAX_CHARS - 100]
    answer = PARSERS[name](text)
    assert len(answer.labels) <= MAX_BOXES
    unit = len(WRITERS[name]([("a", [1, 2, 3, 4])] * 1000)) / 1000
    assert answer.n_predicted == pytest.approx(len(text) / unit, rel=0.02)
    assert Defect.TOO_MANY in answer.defects


@pytest.mark.parametrize("name", WRITERS)
def test_an_answer_beyond_the_bound_is_cut(name: str) -> None:
    text = WRITERS[name]([("a", [1, 2, 3, 4])]) + " " * MAX_CHARS + "."
    answer = PARSERS[name](f"{text}</answer>" if name == "vlmr1-json" else text)
    assert len(answer.labels) == 1
    assert answer.defects


# supervision reads what the families write: an independent witness.


def supervision_boxes(reader: str, text: str, wh: tuple[int, int], **more: object) -> tuple[list, list]:
    from supervision.detection import vlm

    xyxy, _, names = getattr(vlm, reader)(text, resolution_wh=wh, **more)
    return xyxy.tolist(), [str(name) for name in names]


sizes = st.tuples(st.integers(50, 4000), st.integers(50, 4000))


@few
@given(items=items_of_boxes, wh=sizes, input_wh=sizes)
def test_supervision_reads_the_same_qwen_boxes(items: list, wh: tuple[int, int], input_wh: tuple[int, int]) -> None:
    text = f"```json\n{WRITERS['qwen-json'](items)}\n```"
    for frame, theirs in (
        ("qwen2.5-vl", supervision_boxes("from_qwen_2_5_vl", text, wh, input_wh=input_wh)),
        ("qwen3-vl", supervision_boxes("from_qwen_3_vl", text, wh)),
    ):
        answer = parse_qwen_json(text)
        ours = to_original(answer.boxes_xyxy, FRAMES[frame].size_wh(wh, input_wh), wh)
        assert [list(box) for box in ours] == [pytest.approx(box) for box in theirs[0]]
        assert list(answer.labels) == theirs[1]


@few
@given(items=items_of_boxes, wh=sizes)
def test_supervision_reads_the_same_paligemma_boxes(items: list, wh: tuple[int, int]) -> None:
    text = WRITERS["paligemma"](items)
    answer = PARSERS["paligemma"](text)
    ours = to_original(answer.boxes_xyxy, FRAMES["paligemma"].size_wh(wh), wh)
    boxes, names = supervision_boxes("from_paligemma", text, wh)
    assert [list(box) for box in ours] == [pytest.approx(box) for box in boxes]
    assert list(answer.labels) == names


@few
@given(items=items_of_boxes, wh=sizes)
def test_supervision_reads_the_same_gemini_boxes(items: list, wh: tuple[int, int]) -> None:
    text = f"```json\n{WRITERS['gemma-json'](items)}\n```"
    answer = PARSERS["gemma-json"](text)
    ours = to_original(answer.boxes_xyxy, FRAMES["gemma"].size_wh(wh), wh)
    from supervision.detection import vlm

    boxes, _, names = vlm.from_google_gemini_2_0(text, resolution_wh=wh)
    assert [list(box) for box in ours] == [pytest.approx(box) for box in boxes.tolist()]
    assert list(answer.labels) == [str(name) for name in names]


# Instructions

ASKED = {
    "qwen-json": "detection grounding counting",
    "vlmr1-json": "detection grounding",
    "qwen2-vl": "detection grounding counting",
    "internvl": "detection grounding counting",
    "glm": "detection grounding counting",
    "griffon": "detection grounding counting",
    "paligemma": "detection grounding counting",
    "gemma-json": "detection grounding counting",
    "list": "grounding counting",
    "qwen-points": "pointing counting",
    "molmo-points": "pointing counting",
    "point": "pointing counting",
}


@pytest.mark.parametrize("name", ASKED)
def test_each_format_asks_for_the_tasks_it_can_answer(name: str) -> None:
    ask = FORMATS[name].instruct
    assert ask is not None
    for task in ("detection", "grounding", "counting", "pointing", "text"):
        if task not in ASKED[name].split():
            with pytest.raises(ValueError, match=rf"task = '{task}': answer format '{name}' cannot answer it; it can"):
                ask(task, ["red cup"])
            continue
        question, allowing = ask(task, ["red cup {0}"]), ask(task, ["red cup {0}"], allow_none=True)
        assert "red cup {0}" in question
        assert "{phrase" not in question
        assert allowing.startswith(question)
        says_already = "simply respond with None" in question
        assert (allowing != question) == (name != "paligemma" and not says_already)
    with pytest.raises(ValueError, match=r"phrases = \[\]: task"):
        ask(ASKED[name].split()[0], [])
    with pytest.raises(ValueError, match=r"phrases = 'cup': task"):
        ask(ASKED[name].split()[0], "cup")


WORDINGS = {
    "Vision-R1, detection": (
        ("qwen-json", "detection", ["cat", "dog"]),
        "Locate every item from the category list in the image and output the coordinates in JSON format. The category "
        "set includes cat, dog.",
    ),
    "Vision-R1, Griffon-G, detection": (
        ("griffon", "detection", ["cat", "dog"]),
        "Examine the image for any objects from the category set. Report the coordinates of each detected object. "
        "The category set includes cat, dog.",
    ),
    "Vision-R1, Griffon-G, grounding": (
        ("griffon", "grounding", ["the left cat"]),
        "Can you point out the left cat in the image and provide the coordinates of its location?",
    ),
    "VLM-R1, REC": (
        ("vlmr1-json", "grounding", ["the left cat"]),
        "Please provide the bounding box coordinate of the region this sentence describes: the left cat. First output "
        "the thinking process in <think> </think> tags and then output the final answer in <answer> </answer> tags. "
        "Output the final answer in JSON format.",
    ),
    "InternVL, REC": (
        ("internvl", "grounding", ["the left cat"]),
        "Please provide the bounding box coordinate of the region this sentence describes: <ref>the left cat</ref>",
    ),
    "InternVL, detection": (
        ("internvl", "detection", ["cat", "dog"]),
        "Please detect and label all objects of these categories in the following image and mark their positions: "
        "<ref>cat</ref>, <ref>dog</ref>",
    ),
    "GLM, grounding": (
        ("glm", "grounding", ["the left cat"]),
        "Please pinpoint the bounding box [[x1,y1,x2,y2], ...] in the image as per the given description. the left cat",
    ),
    "PaliGemma": (("paligemma", "detection", ["cat", "dog"]), "detect cat ; dog"),
    "Molmo": (("molmo-points", "pointing", ["the cats"]), "Point to the cats"),
}
DESCRIPTIONS = {
    **dict.fromkeys(("a man", "A man", "The dog", "an old car", "his left hand"), "an article or a pronoun first"),
    **dict.fromkeys(("two men", "2 men", "both dogs", "some water"), "a number or an amount first"),
    **dict.fromkeys(("someone", "anything red", "people wearing hats"), "an amount of its own"),
    **dict.fromkeys(("white", "Red"), "a property"),
    **dict.fromkeys(("the clock is green in colour", "clock is green", "Man wears glasses", "dogs are"), "a clause"),
    **dict.fromkeys(("guy in blue", "left", "far right", "second from left", "in front"), "a place"),
    **dict.fromkeys(("the man, who sits", "Man wears eye glasses.", "which one?"), "signs of a sentence"),
    **dict.fromkeys(("a_man", "bike that stands at the far edge"), "however it is written, however long"),
}
NAMES = (
    "cat",
    "red circle",
    "Traffic Light",
    "gray rubber cube",
    "aerosol_can",
    "bow_(weapon)",
    "sea shells",
    "class_1",
    "orange",
    "scissors",
    "white cup",
)
"""Names of kinds, those of COCO, LVIS, CLEVR and FSC-147 among them."""


@pytest.mark.parametrize("name", FORMATS)
def test_every_goes_before_names_alone(name: str) -> None:
    """A description is asked for in words that fit it, whatever its split, and names as they always were."""
    ask = FORMATS[name].instruct
    for task in FORMATS[name].tasks:
        assert ask is not None
        template = ask(task, ["PHRASE"])
        assert [ask(task, [phrase]) for phrase in NAMES] == [template.replace("PHRASE", phrase) for phrase in NAMES]
        for phrase, why in DESCRIPTIONS.items():
            asked = ask(task, [phrase])
            assert phrase in asked
            assert not re.search(rf"(?:every|how many) (?:<ref>)?{re.escape(phrase)}", asked, re.IGNORECASE), why


def test_the_wording_of_descriptions() -> None:
    assert instruction("grounding", ["the clock is green in colour"], allow_none=True) == (
        'Locate everything in the image that "the clock is green in colour" describes and output the coordinates in '
        "JSON format. If there is none, output []."
    )
    count = FORMATS["count"].instruct
    assert count is not None
    asked = 'Count everything in the image that "a man" or "dog" describes and answer with the number alone.'
    assert count("counting", ["a man", "dog"]) == asked
    assert (
        count("counting", ["man", "dog"])
        == "Count every man and every dog in the image and answer with the number alone."
    )


@pytest.mark.parametrize(("question", "expected"), WORDINGS.values(), ids=WORDINGS)
def test_wordings_are_those_of_the_papers_and_model_cards(question: tuple, expected: str) -> None:
    name, task, phrases = question
    ask = FORMATS[name].instruct
    assert ask is not None
    assert ask(task, phrases) == expected


def test_the_default_instruction_is_that_of_qwen_json() -> None:
    assert FORMATS["qwen-json"].instruct is instruction


# No text harms a parser.

PIECES = [
    *["[", "]", "[[", "]]", "(", ")", "<", ">", "{", "}", ",", ";", "&", " ", "\n", '"', "'", "-", "=", "\0", "```"],
    *["<think>", "</think>", "<answer>", "</answer>", O, P, B, E, GLM, GLM_END, "<ref>", "</ref>", "<box>", "</box>"],
    *["<loc0001>", "<loc1023>", "<loc", "<seg001>", "<point ", "<points ", "</point>", "</points>", 'x="', 'y1="'],
    *["1", "0.5", "-2", "1e309", "1e308", "nan", "-inf", "9" * 30, "cat", "None", "click(", "x=1", "(1,2)", "(3,4)"],
    *["[1,2,3,4]", "[[1,2,3,4]]", "[4,3,2,1]", '{"bbox_2d": [1,2,3,4]}', '{"point_2d": [1,2], "label": "a"}', "\ud800"],
    *["shows a total of 3.", "Counting the ", "There are none.", "é", "😀", "٣", "\u2028", 'alt="', "```json\n"],
]
mutations = st.tuples(
    st.sampled_from(list(WRITERS)), items_of_boxes, st.lists(st.tuples(st.floats(0, 1), st.sampled_from(PIECES)))
)


def mutated(seed: tuple) -> str:
    name, items, insertions = seed
    text = WRITERS[name](items)
    for share, piece in insertions:
        at = int(share * len(text))
        text = text[:at] + piece + text[at + len(piece) // 2 :]
    return text


any_text = (
    st.text(st.characters()) | st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | mutations.map(mutated)
)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=40)
@given(text=any_text)
def test_no_text_makes_a_parser_raise(name: str, text: str) -> None:
    answer = PARSERS[name](text)
    assert len(answer.boxes_xyxy) + len(answer.points_xy) == len(answer.labels)
    assert answer.n_dropped >= 0
    assert len(set(answer.defects)) == len(answer.defects)
    assert not (answer.boxes_xyxy and answer.points_xy)
    assert all(map(math.isfinite, (v for place in answer.boxes_xyxy + answer.points_xy for v in place)))
    assert all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in answer.boxes_xyxy)
    assert bool(answer.n_dropped) <= bool(answer.defects), "what is dropped is named"


MB = 1_000_000
# Each pushes at a loop: repeated as often as a megabyte holds.
REPEATED = {
    **{f"piece {piece[:20]!r}": piece for piece in PIECES},
    "boxes": "[1,2,3,4],",
    "boxes cut": "[1,2,3,4",
    "bad boxes": "[1,2,3,x],",
    "slow numbers": "[1e308,1e308,1e308,1e308],",
    "long numbers": f"[{'9' * 60}],",
    "texts in brackets": "(a)",
    "numbers in brackets": "(1)",
    "pairs": "(1,2),",
    "labels": f"{O}a{P}",
    "opened labels": f"{O}a",
    "opened boxes": f"{B}(1,2)",
    "locations": "<loc0001><loc0002><loc0003><loc0004> a ; ",
    "locations without end": "<loc0001>",
    "separators": " ; ",
    "point tags": '<point x="1" y="2">a</point>',
    "point tags not closed": '<point x="1" y="2">',
    "point tags cut": '<points x1="1" ',
    "positions": 'x1="1" y1="2" ',
    "quotes": 'x1="',
    "glm boxes": f"{GLM}[[1,2,3,4]]{GLM_END}",
    "glm opened": f"{GLM}[[1,2",
    "clicks": "click(1,2)",
    "clicks opened": "click(",
    "named": "x = ",
    "objects": '{"point_2d":[1,2],"label":"a"},',
}


@pytest.mark.parametrize("name", READING)
def test_time_grows_with_the_length_of_any_text(name: str) -> None:
    parse = PARSERS[name]
    for what, piece in REPEATED.items():
        for start in ("", "[", "<points "):
            text = start + piece * (MB // len(piece))
            assert not grows_too_fast(lambda n, text=text: parse(text[:n]), MB), (what, start)


def test_time_grows_with_the_length_of_random_texts() -> None:
    rng = random.Random(0)
    for _ in range(8):
        text = "".join(rng.choices(PIECES, k=40)) * 4000
        for name in READING:
            assert not grows_too_fast(lambda n, text=text, name=name: PARSERS[name](text[:n]), MB), name


def test_a_format_knows_the_tasks_it_can_be_asked_for() -> None:
    from verl_visionr1.targets import TASKS

    tasks = {name: answer_format.tasks for name, answer_format in FORMATS.items()}
    assert tasks["qwen-json"] == ("detection", "grounding", "counting")
    assert tasks["count"] == ("counting",)
    assert tasks["text"] == ("text",)
    assert tasks["visionr1-released"] == ()
    assert {task for each in tasks.values() for task in each} == set(TASKS)
