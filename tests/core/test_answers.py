"""Answers in Qwen's JSON and in Griffon-G's text: what is read, what is dropped, and what each defect is called."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_visionr1.answers import (
    MAX_BOXES,
    MAX_CHARS,
    PARSERS,
    Answer,
    Defect,
    parse_griffon,
)
from verl_visionr1.answers.envelope import unwrap
from verl_visionr1.answers.objects import LONG_CHARS, read_objects

parse_qwen_json, parse_visionr1_released = PARSERS["qwen-json"], PARSERS["visionr1-released"]
GOLDEN = Path(__file__).parents[1] / "golden" / "visionr1.jsonl"
ONE = '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]'
OBJECT = ONE[1:-1]
BOX = ((1.0, 2.0, 3.0, 4.0),)

WELL_FORMED = {
    "bare": ONE,
    "blanks around": f"\n  {ONE} \t",
    "json fence": f"```json\n{ONE}\n```",
    "JSON fence": f"```JSON\n{ONE}\n```",
    "plain fence": f"```\n{ONE}\n```",
    "fence on one line": f"```json{ONE}```",
    "fence not closed": f"```json\n{ONE}",
    "compact": ONE.replace(" ", ""),
    "label first": '[{"label": "cat", "bbox_2d": [1, 2, 3, 4]}]',
    "fractions and exponents": '[{"bbox_2d": [1.0, 2e0, 0.3e1, 4], "label": "cat"}]',
    "a further key": '[{"bbox_2d": [1, 2, 3, 4], "label": "cat", "confidence": 0.9}]',
    "after reasoning": f"<think>a cat, I think</think>{ONE}",
    "after reasoning whose opening tag is in the prompt": f"a cat, I think</think>\n\n{ONE}",
    "after reasoning with boxes in it": f'<think>[{{"bbox_2d": [5, 6, 7, 8], "label": "dog"}}]</think>{ONE}',
    "reasoning that begins with a list": f"[1, 2] cats?</think>{ONE}",
    "after two rounds of reasoning": f"<think>a</think> hm <think>b</think>{ONE}",
    "answer tag": f"<answer>{ONE}</answer>",
    "think and answer": f"<think>hm</think>\n<answer>\n{ONE}\n</answer>",
    "think, answer and fence": f"<think>hm</think><answer>```json\n{ONE}\n```</answer>",
    "reasoning longer than an answer may be": f"<think>{'x' * 2 * MAX_CHARS}</think>{ONE}",
}


@pytest.mark.parametrize("text", WELL_FORMED.values(), ids=WELL_FORMED)
def test_well_formed(text: str) -> None:
    assert parse_qwen_json(text) == Answer(BOX, ("cat",), 0, ())


@pytest.mark.parametrize(
    "text", ["[]", "None", "```json\n[]\n```", "<think>no</think>None", "<answer>[]</answer>", " [ ] "]
)
def test_nothing_there_is_well_formed(text: str) -> None:
    answer = parse_qwen_json(text)
    assert answer == Answer()
    assert answer.is_parsed


# text -> labels of the boxes read, number of claims dropped, defects
DEFECTIVE = {
    "nothing": ("", "", 0, "empty"),
    "blanks": (" \n ", "", 0, "empty"),
    "empty fence": ("```json\n```", "", 0, "empty"),
    "empty answer": ("<answer></answer>", "", 0, "empty"),
    "an empty object": ("{}", "", 0, "no_list"),
    "a number": ("3", "", 0, "no_list"),
    "null": ("null", "", 0, "no_list"),
    "a string": ('"[]"', "", 0, "no_list"),
    "prose": ("There is a cat.", "", 0, "no_list"),
    "prose with a bracket": ("a cat [left]", "", 0, "no_list"),
    "none, but not as instructed": ("none of them", "", 0, "no_list"),
    "one object without a list": (OBJECT, "cat", 0, "no_list"),
    "a list of numbers": ("[1, 2, 3, 4]", "", 0, "malformed"),
    "a list of lists": ("[[1, 2, 3, 4]]", "", 0, "malformed"),
    "a list of an empty object": ("[{}]", "", 0, "malformed"),
    "another key": ('[{"bbox": [1, 2, 3, 4], "label": "cat"}]', "", 0, "malformed"),
    "python quotes": ("[{'bbox_2d': [1, 2, 3, 4], 'label': 'cat'}]", "cat", 0, "malformed"),
    "trailing comma": (f"[{OBJECT},]", "cat", 0, "malformed"),
    "comma missing": (f"[{OBJECT} {OBJECT}]", "cat cat", 0, "malformed"),
    "a second list": (f"{ONE}{ONE}", "cat cat", 0, "malformed"),
    "something else in the list": (f"[{OBJECT}, 1]", "cat", 0, "malformed"),
    "cut in a number": (f'[{OBJECT}, {{"bbox_2d": [5, 6', "cat", 0, "truncated"),
    "cut after a box": (f'[{OBJECT}, {{"bbox_2d": [5, 6, 7, 8]', "cat", 0, "truncated"),
    "cut in a label": (f'[{OBJECT}, {{"bbox_2d": [5, 6, 7, 8], "label": "do', "cat", 0, "truncated"),
    "cut after a comma": (f"[{OBJECT},", "cat", 0, "truncated"),
    "cut after the first bracket": ("[", "", 0, "truncated"),
    "cut in a fence": (f"```json\n[{OBJECT}, ", "cat", 0, "truncated"),
    "prose before": (f"Here: {ONE}", "cat", 0, "prose"),
    "prose after": (f"{ONE} Done.", "cat", 0, "prose"),
    "prose before a fence": (f"Here:\n```json\n{ONE}\n```", "cat", 0, "prose"),
    "prose after a fence": (f"```json\n{ONE}\n```\nDone.", "cat", 0, "prose"),
    "prose around the answer tag": (f"So <answer>{ONE}</answer>", "cat", 0, "prose"),
    "answer tag not closed": (f"<answer>{ONE}", "cat", 0, "prose"),
    "two fences: the first counts": (f"```json\n{ONE}\n```\n```json\n[]\n```", "cat", 0, "prose"),
    "two answers: the last counts": (f"<answer>[]</answer><answer>{ONE}</answer>", "cat", 0, "prose"),
    "reasoning not closed": (f"<think>perhaps {ONE}", "", 0, "no_answer"),
    "answer only in the reasoning": (f"<think>{ONE}</think>", "", 0, "empty"),
    "inverted in x": ('[{"bbox_2d": [3, 2, 1, 4], "label": "cat"}]', "", 1, "bad_box"),
    "zero height": ('[{"bbox_2d": [1, 4, 3, 4], "label": "cat"}]', "", 1, "bad_box"),
    "three numbers": ('[{"bbox_2d": [1, 2, 3], "label": "cat"}]', "", 1, "bad_box"),
    "five numbers": ('[{"bbox_2d": [1, 2, 3, 4, 5], "label": "cat"}]', "", 1, "bad_box"),
    "texts for numbers": ('[{"bbox_2d": ["1", "2", "3", "4"], "label": "cat"}]', "", 1, "bad_box"),
    "true for a number": ('[{"bbox_2d": [false, 0, true, 1], "label": "cat"}]', "", 1, "bad_box"),
    "null for a box": ('[{"bbox_2d": null, "label": "cat"}]', "", 1, "bad_box"),
    "NaN": ('[{"bbox_2d": [1, 2, NaN, 4], "label": "cat"}]', "", 1, "bad_box"),
    "a number beyond float64": ('[{"bbox_2d": [1, 2, 1e309, 4], "label": "cat"}]', "", 1, "bad_box"),
    "an integer beyond float64": (f'[{{"bbox_2d": [1, 2, {"9" * 400}, 4], "label": "cat"}}]', "", 1, "bad_box"),
    "points for boxes": ('[{"point_2d": [1, 2], "label": "cat"}]', "", 1, "wrong_kind"),
    "a point for one of the boxes": (f'[{OBJECT}, {{"point_2d": [1, 2], "label": "cat"}}]', "cat", 1, "wrong_kind"),
    "two numbers for a box": ('[{"bbox_2d": [1, 2], "label": "cat"}]', "", 1, "bad_box"),
    "half a surrogate pair": ('[{"bbox_2d": [1, 2, 3, 4], "label": "\ud800"}]', "", 1, "bad_box"),
    "one good, one bad": (f'[{OBJECT}, {{"bbox_2d": [1], "label": "dog"}}]', "cat", 1, "bad_box"),
    "label missing": ('[{"bbox_2d": [1, 2, 3, 4]}]', " ", 0, "no_label"),
    "label null": ('[{"bbox_2d": [1, 2, 3, 4], "label": null}]', " ", 0, "no_label"),
    "label a number": ('[{"bbox_2d": [1, 2, 3, 4], "label": 7}]', " ", 0, "no_label"),
    "label empty": ('[{"bbox_2d": [1, 2, 3, 4], "label": ""}]', " ", 0, "no_label"),
    "label missing in prose": ('So {"bbox_2d": [1, 2, 3, 4]} it is', " ", 0, "no_label no_list"),
}


@pytest.mark.parametrize(("text", "labels", "n_dropped", "defects"), DEFECTIVE.values(), ids=DEFECTIVE)
def test_defects_are_named_and_claims_counted(text: str, labels: str, n_dropped: int, defects: str) -> None:
    answer = parse_qwen_json(text)
    expected = [""] if labels == " " else labels.split()
    assert list(answer.labels) == expected
    assert set(answer.boxes_xyxy) <= set(BOX)
    assert len(answer.boxes_xyxy) == len(expected)
    assert answer.n_dropped == n_dropped
    assert [defect.value for defect in answer.defects] == defects.split()
    assert answer.n_predicted == len(expected) + n_dropped
    assert answer.is_parsed == bool(expected)


def test_a_tag_inside_the_list_is_text() -> None:
    assert parse_qwen_json('[{"bbox_2d": [1, 2, 3, 4], "label": "</think>"}]').labels == ("</think>",)
    half = parse_qwen_json('[{"bbox_2d": [1, 2, 3, 4], "label": "</think>"}, {"bbox_2d": [1], "label": "cat"}]')
    assert (half.labels, half.n_dropped) == (("</think>",), 1)


def test_a_blank_label_is_no_label() -> None:
    assert parse_qwen_json('[{"bbox_2d": [1, 2, 3, 4], "label": " "}]').defects == (Defect.NO_LABEL,)


def many(n: int, box: str = "[1,2,3,4]") -> str:
    return "[" + ",".join([f'{{"bbox_2d":{box},"label":"a"}}'] * n) + "]"


def test_as_many_boxes_as_fit_are_well_formed() -> None:
    assert parse_qwen_json(many(MAX_BOXES)).defects == ()


@pytest.mark.parametrize("cut", [0, 1], ids=["valid", "broken"])
def test_boxes_beyond_the_bound_count_as_predictions(cut: int) -> None:
    text = many(MAX_BOXES + 5)
    answer = parse_qwen_json(text[: len(text) - cut])
    assert len(answer.boxes_xyxy) == MAX_BOXES
    assert answer.n_predicted == MAX_BOXES + 5
    assert Defect.TOO_MANY in answer.defects


def test_an_answer_beyond_the_bound_is_cut() -> None:
    answer = parse_qwen_json(f"[{OBJECT}, {' ' * MAX_CHARS}{OBJECT}]")
    assert answer.labels == ("cat",)
    assert Defect.TOO_LONG in answer.defects


def test_a_long_answer_with_numbers_that_are_slow_to_read_is_not_read_but_counted() -> None:
    box, n = "[-1e308,-1e308,1e308,1e308]", 500
    assert len(many(n, box)) > LONG_CHARS
    assert parse_qwen_json(many(n, box)) == Answer((), (), n, (Defect.BAD_BOX,))
    assert parse_qwen_json(many(3, box)).n_dropped == 0, "in a short answer they are read"


def test_a_long_object_is_dropped_and_counted() -> None:
    answer = parse_qwen_json(f'Here: [{{"bbox_2d": [1, 2, 3, 4], "label": "{"x" * 5000}"}}]')
    assert (answer.boxes_xyxy, answer.n_dropped) == ((), 1)


GRIFFON = {
    "one": ("cat-[0.100,0.200,0.300,0.400]", "cat", 0, ""),
    "two": ("cat-[0.100,0.200,0.300,0.400]&dog-[0.100,0.200,0.300,1.000]", "cat dog", 0, ""),
    "hyphens in the label": ("t-v-set-[0.100,0.200,0.300,0.400]", "t-v-set", 0, ""),
    "no label": ("[0.100,0.200,0.300,0.400]", " ", 0, ""),
    "nothing there": ("None", "", 0, ""),
    "an empty list": ("[]", "", 0, ""),
    "no text": ("", "", 0, "empty"),
    "prose": ("a cat", "", 0, "truncated"),
    "two decimals": ("cat-[0.10,0.20,0.30,0.40]", "cat", 0, "malformed"),
    "beyond the frame": ("cat-[0.100,0.200,2.300,0.400]", "cat", 0, "malformed"),
    "inverted": ("cat-[0.300,0.200,0.100,0.400]", "", 1, "bad_box"),
    "three numbers": ("cat-[0.300,0.200,0.100]", "", 1, "bad_box"),
    "no numbers": ("cat-[a,b,c,d]", "", 1, "bad_box"),
    "nan": ("cat-[nan,0.200,0.300,0.400]", "", 1, "bad_box"),
    "cut": ("cat-[0.100,0.200,0.300,0.400]&dog-[0.1", "cat", 0, "truncated"),
    "not closed in the middle": ("cat-[0.100,0.200&dog-[0.100,0.200,0.300,0.400]", "dog", 1, "bad_box"),
    "text after": ("cat-[0.100,0.200,0.300,0.400] there", "cat", 0, "prose"),
    "after reasoning": ("<think>a dog-[0.1</think>cat-[0.100,0.200,0.300,0.400]", "cat", 0, ""),
    "in an answer tag": ("<answer>cat-[0.100,0.200,0.300,0.400]</answer>", "cat", 0, ""),
    "reasoning not closed": ("<think>cat-[0.100,0.200,0.300,0.400]", "", 0, "no_answer"),
    "prose around the answer tag": ("So <answer>cat-[0.100,0.200,0.300,0.400]</answer>", "cat", 0, "prose"),
    "a point": ("cat-[0.100,0.200]", "", 1, "wrong_kind"),
}


@pytest.mark.parametrize(("text", "labels", "n_dropped", "defects"), GRIFFON.values(), ids=GRIFFON)
def test_griffon(text: str, labels: str, n_dropped: int, defects: str) -> None:
    answer = parse_griffon(text)
    assert list(answer.labels) == ([""] if labels == " " else labels.split())
    assert answer.n_dropped == n_dropped
    assert [defect.value for defect in answer.defects] == defects.split()


def test_griffon_reads_no_further_than_the_bound() -> None:
    answer = parse_griffon("a&" * MAX_BOXES + "a-[0.100,0.200,0.300,0.400]")
    assert (answer.boxes_xyxy, answer.n_dropped) == ((), 1)
    assert Defect.TOO_MANY in answer.defects


def boxes_of(numbers: st.SearchStrategy) -> st.SearchStrategy:
    """Sound boxes, made sound rather than drawn until they are: most would be thrown away."""
    side = st.lists(numbers, min_size=2, max_size=2, unique=True).map(sorted)
    return st.tuples(side, side).map(lambda sides: (sides[0][0], sides[1][0], sides[0][1], sides[1][1]))


def golden_parses() -> list[object]:
    rows = map(json.loads, GOLDEN.read_text().splitlines())
    return [pytest.param(row, id=row["id"]) for row in rows if row["reward"] == "parse:extract"]


@pytest.mark.parametrize("row", golden_parses())
def test_released_parser_reads_what_the_released_code_read(row: dict) -> None:
    answer = parse_visionr1_released(row["completion"])
    assert [list(box) for box in answer.boxes_xyxy] == [item["bbox"] for item in row["value"]]
    assert list(answer.labels) == [str(item["category_name"] or "") for item in row["value"]]


labels = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<`"), min_size=1, max_size=10).filter(
    lambda label: not label.isspace()
)  # without < and `: tags and fences around a list are looked for in its labels, too
coordinates = st.floats(-1e6, 1e6) | st.integers(-1000, 5000)
boxes = boxes_of(coordinates)
items = st.lists(st.fixed_dictionaries({"bbox_2d": boxes, "label": labels}), max_size=8)


@given(
    items, st.booleans(), st.sampled_from([None, 1]), st.sampled_from(["{}", "```json\n{}\n```", "<answer>{}</answer>"])
)
def test_any_json_writer_is_read(written: list[dict], ascii_only: bool, indent: int | None, around: str) -> None:
    text = around.replace("{}", json.dumps(written, ensure_ascii=ascii_only, indent=indent))
    answer = parse_qwen_json(text)
    assert answer.boxes_xyxy == tuple(item["bbox_2d"] for item in written)
    assert answer.labels == tuple(item["label"] for item in written)
    assert answer.defects == ()


simple = st.lists(
    st.fixed_dictionaries(
        {"bbox_2d": st.tuples(*[st.integers(0, 99)] * 4), "label": st.text(ascii_lowercase, min_size=1, max_size=9)}
    ),
    max_size=4,
)


@settings(max_examples=50)
@given(simple, st.integers(0, 400))
def test_a_cut_answer_keeps_its_complete_objects(written: list[dict], n_kept: int) -> None:
    whole, text = parse_qwen_json(json.dumps(written)), json.dumps(written)[:n_kept]
    answer = parse_qwen_json(text)
    n_complete = text.count("}")
    assert answer.n_predicted == n_complete
    assert answer.boxes_xyxy == whole.boxes_xyxy[: len(answer.boxes_xyxy)]
    if text != json.dumps(written):
        assert answer.defects


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(-5, 20), min_size=4, max_size=4), st.sampled_from(["cat", "", " ", "a ] b", 'a " b'])
        ),
        max_size=5,
    ),
    st.floats(0, 1),
    st.sampled_from(["", "```json\n", "<think>x</think><answer>"]),
)
def test_a_cut_off_list_reads_alike_in_one_go_and_object_by_object(items: list, share: float, before: str) -> None:
    whole = json.dumps([{"bbox_2d": box, "label": label} for box, label in items])
    text = before + whole[: round(share * len(whole))]
    body, defects = unwrap(text)
    in_one_go = parse_qwen_json(text)
    if Defect.TRUNCATED in in_one_go.defects:
        one_by_one = read_objects(body, defects, "bbox_2d")
        assert set(in_one_go.defects) == set(one_by_one.defects)
        assert (in_one_go.boxes_xyxy, in_one_go.labels) == (one_by_one.boxes_xyxy, one_by_one.labels)
        assert in_one_go.n_dropped == one_by_one.n_dropped
