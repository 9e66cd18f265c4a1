"""Every answer format: what is well-formed, and which defects are named."""

from __future__ import annotations

import pytest
from format_writers import GLM, GLM_END, PLACES, READING, B, E, O, P

from verl_visionr1.answers import FORMATS, PARSERS, Answer, Defect

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
    "list, letters first": ("list", "[[x, 2, 3, 4], [1, 2, 3, 4]]", 1, 1, "bad_box"),
    "list, null first": ("list", "[null, 2, 3, 4]", 0, 1, "bad_box"),
    "list, a text first": ("list", '[["1", 2, 3, 4], [1, 2, 3, 4]]', 1, 1, "bad_box"),
    "list, wide digits first": ("list", "[\uff11, 2, 3, 4]", 0, 1, "bad_box"),
    "list, nothing first": ("list", "[, 2, 3, 4]", 0, 1, "bad_box"),
    "list, words in brackets": ("list", "(a cat, 2 dogs) [1, 2, 3, 4]", 1, 0, "prose"),
    "internvl, null first": ("internvl", "cat[[null, 2, 3, 4], [1, 2, 3, 4]]", 1, 1, "bad_box"),
    "glm, null first": ("glm", f"{GLM}[[null,2,3,4]]{GLM_END}", 0, 1, "bad_box"),
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


@pytest.mark.parametrize("name", READING)
def test_nothing_there_is_well_formed_and_no_text_is_empty(name: str) -> None:
    for text in ("None", "[]", "<think>no cat</think>None", "<answer>[]</answer>", "```\nNone\n```"):
        assert PARSERS[name](text) == Answer(), text
    assert PARSERS[name](" \n").defects == (() if name == "paligemma" else (Defect.EMPTY,))


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
