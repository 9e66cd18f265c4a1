"""No text harms: nothing raises, every number is finite and in range, and time grows with the length alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from cpu_time import grows_too_fast
from format_writers import GLM, GLM_END, WRITERS, B, E, O, P, items_of_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_texts import garbage, json_values
from reward_cases import TARGETS

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.answers import MAX_CHARS, PARSERS, Defect
from verl_visionr1.answers.transcript import REASONING_TAGS, TOOL_CALLS, TOOL_RESPONSES, last_turn
from verl_visionr1.answers.words import MAX_COUNT
from verl_visionr1.criteria.structure import no_repetition, think_answer, think_answer_glm
from verl_visionr1.frames import FRAMES

BOX = '{"bbox_2d": [1, 2, 3, 4], "label": "cat"}'
PIECES = [
    *["[", "]", "[[", "]]", "(", ")", "<", ">", "{", "}", ",", ";", "&", " ", "\n", '"', "'", "-", "=", "\0", "```"],
    *["<think>", "</think>", "<answer>", "</answer>", O, P, B, E, GLM, GLM_END, "<ref>", "</ref>", "<box>", "</box>"],
    *["<loc0001>", "<loc1023>", "<loc", "<seg001>", "<point ", "<points ", "</point>", "</points>", 'x="', 'y1="'],
    *["1", "0.5", "-2", "1e309", "1e308", "nan", "-inf", "9" * 30, "cat", "None", "click(", "x=1", "(1,2)", "(3,4)"],
    *["[1,2,3,4]", "[[1,2,3,4]]", "[4,3,2,1]", '{"bbox_2d": [1,2,3,4]}', '{"point_2d": [1,2], "label": "a"}', "\ud800"],
    *["shows a total of 3.", "Counting the ", "There are none.", "é", "😀", "٣", "\u2028", 'alt="', "```json\n"],
    *["\\boxed{", "7", "1,234", "%", "seven", "hundred and", "no", "one", "²", "yes", "(B)", BOX, "1/0", "\u0301"],
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


any_text = garbage | json_values | st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | mutations.map(mutated)


@settings(max_examples=150)
@given(text=any_text)
def test_no_text_makes_a_parser_raise(text: str) -> None:
    for name, parse in PARSERS.items():
        answer = parse(text)
        places = answer.boxes_xyxy + answer.points_xy
        assert len(places) == len(answer.labels), name
        assert not (answer.boxes_xyxy and answer.points_xy), name
        assert len(set(answer.defects)) == len(answer.defects), name
        assert all(map(math.isfinite, (v for place in places for v in place))), name
        assert all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in answer.boxes_xyxy), name
        assert answer.count is None or name != "count" or 0.0 <= answer.count <= MAX_COUNT
        says_nothing = {"count": answer.count is None, "text": not answer.text}.get(name, answer.n_dropped > 0)
        assert answer.defects or not says_nothing, name


QUICK = [name for name in PRESETS if not PRESETS[name].may_block]


@settings(max_examples=50)
@given(text=any_text, frame=st.sampled_from(list(FRAMES)), progress=st.none() | st.floats(0, 1))
def test_no_text_makes_a_preset_raise(text: str, frame: str, progress: float | None) -> None:
    for name in QUICK:
        for target in (target for task in PRESETS[name].tasks for target in TARGETS[task]):
            result = score(text, target, preset=name, frame=frame, processed_wh=(644, 476), progress=progress)
            assert tuple(result.metrics) == PRESETS[name].metrics
            assert all(map(math.isfinite, result.metrics.values())), name
            total = sum(weight * result.metrics[key] for key, weight in PRESETS[name].weights.items())
            assert result.value == pytest.approx(total / PRESETS[name].divisor), name
            low, high = (-1.0 if name.startswith("vlmr1") else 0.0), (3.0 if PRESETS[name].is_sum else 1.0)
            assert low <= result.value <= high, name


@given(reasoning=any_text, answer=any_text)
def test_reasoning_is_never_read(reasoning: str, answer: str) -> None:
    for name in set(PARSERS) - {"visionr1-released"}:
        parse = PARSERS[name]
        closed = f"{reasoning}</think>{answer}"
        if last_turn(closed) == closed:
            assert parse(closed) == parse(f"</think>{answer}"), name
        if "</" not in reasoning and last_turn(f"<think>{reasoning}") == f"<think>{reasoning}":
            unfinished = parse(f"<think>{reasoning}")
            assert (unfinished.n_predicted, unfinished.count, unfinished.text) == (0, None, ""), name


# Each pushes at a loop; it is repeated up to the length that is read of an answer.
REPEATED = {
    **{f"piece {piece!a:.20}": piece for piece in PIECES if piece[0] in '[({<`"\\&0178-'},
    "boxes": "[1,2,3,4],",
    "boxes cut": "[1,2,3,4",
    "bad boxes": "[1,2,3,x],",
    "slow numbers": "[1e308,1e308,1e308,1e308],",
    "long numbers": f"[{'9' * 60}],",
    "texts in brackets": "(a)",
    "labels": f"{O}a{P}",
    "opened labels": f"{O}a",
    "locations": "<loc0001><loc0002><loc0003><loc0004> a ; ",
    "griffon": "a-[0.100,0.200,0.300,0.400]&",
    "point tags": '<point x="1" y="2">a</point>',
    "point tags cut": '<points x1="1" ',
    "positions": 'x1="1" y1="2" ',
    "glm boxes": f"{GLM}[[1,2,3,4]]{GLM_END}",
    "glm opened": f"{GLM}[[1,2",
    "clicks": "click(1,2)",
    "objects": f"{BOX},",
    "objects with only a key": '{"bbox_2d"}',
    "objects without end": '{"bbox_2d": [1, 2, 3, 4], "label": "',
    "broken labels": '{"bbox_2d": [1,2,3,4], "label": "a "b""}',
    "nested objects": '{"a":',
    "think and answer": "<think></think> <answer>",
    "fences": "<answer>```json",
    "words": "no seven, A ",
}


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_takes_linear_time(name: str) -> None:
    parse = PARSERS[name]
    for what, piece in REPEATED.items():
        start = "<points " if name == "molmo-points" and "positions" in what else "["
        text = start + piece * (MAX_CHARS // 2 // len(piece))
        assert not grows_too_fast(lambda n, text=text: parse(text[:n]), len(text)), what


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_takes_linear_time(name: str) -> None:
    target = TARGETS[PRESETS[name].tasks[0]][0]
    for what in ("piece '['", "piece '{'", "objects", "think and answer", "fences", "words", "piece '\\\\boxed{'"):
        piece = REPEATED[what]
        text = piece * (MAX_CHARS // len(piece))
        assert not grows_too_fast(lambda n, text=text: score(text[:n], target, preset=name), len(text)), what


HEADERS = ["<|im_start|>ab ", "<start_of_turn>user", "<|im_end|> ", "user\n", "\nassistant\n"]
AROUND: dict[str, Callable[[str], object]] = {
    "last turn": last_turn,
    "think_answer": think_answer,
    "think_answer_glm": think_answer_glm,
    "no_repetition": no_repetition,
    "count": PARSERS["count"],
    "qwen-json": PARSERS["qwen-json"],
}


@pytest.mark.parametrize("name", AROUND)
def test_what_is_around_an_answer_is_read_in_linear_time(name: str) -> None:
    tags = [tag for pairs in (TOOL_CALLS, TOOL_RESPONSES, REASONING_TAGS) for pair in pairs[:3] for tag in pair]
    for piece in (*HEADERS, *tags, "a ", "{", "```"):
        text = piece * (200_000 // len(piece)) + "7"
        assert not grows_too_fast(lambda n, text=text: AROUND[name](text[:n]), len(text)), piece


def test_a_long_answer_is_cut_and_named() -> None:
    for name in set(WRITERS) - {"vlmr1-json"}:
        answer = PARSERS[name](WRITERS[name]([("a", [1, 2, 3, 4])]) + " " * MAX_CHARS + ".")
        assert len(answer.labels) == 1, name
        assert Defect.TOO_LONG in answer.defects, name


DETECTION = [name for name in PRESETS if "detection" in PRESETS[name].tasks]


@pytest.mark.parametrize("name", DETECTION)
def test_more_boxes_than_are_matched_cost_their_number(name: str) -> None:
    boxes = [[i % 90, i // 90, i % 90 + 5, i // 90 + 5] for i in range(10_000)]
    target = Target(task="detection", size_wh=(100, 200), boxes_xyxy=boxes[::50], labels=["a", "b"] * 100)
    text = "[" + ", ".join([f'{{"bbox_2d": {box}, "label": "a"}}' for box in boxes]) + "]"
    assert not grows_too_fast(lambda n: score(text[:n], target, preset=name), len(text))
