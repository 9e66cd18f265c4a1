"""What is written in a format is read again, and no text harms a parser, however long it is."""

from __future__ import annotations

import math
import random

import pytest
from cpu_time import grows_too_fast
from format_writers import FOR_BOXES, GLM, GLM_END, READING, WRITERS, B, E, O, P, few, items_of_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_texts import garbage, json_values

from verl_visionr1.answers import MAX_BOXES, MAX_CHARS, PARSERS, Defect
from verl_visionr1.answers.envelope import unwrap
from verl_visionr1.frames import FRAMES, to_original


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
    text = bare = WRITERS[name](items)
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


sizes = st.tuples(st.integers(50, 4000), st.integers(50, 4000))


SUPERVISION = {  # frame -> format, supervision's reader
    "qwen2.5-vl": ("qwen-json", "from_qwen_2_5_vl"),
    "qwen3-vl": ("qwen-json", "from_qwen_3_vl"),
    "paligemma": ("paligemma", "from_paligemma"),
    "gemma": ("gemma-json", "from_google_gemini_2_0"),
}


@pytest.mark.parametrize("frame", SUPERVISION)
@few
@given(items=items_of_boxes, wh=sizes, input_wh=sizes)
def test_supervision_reads_the_same_boxes(
    frame: str, items: list, wh: tuple[int, int], input_wh: tuple[int, int]
) -> None:
    """An independent witness of what the families write."""
    from supervision.detection import vlm

    name, reader = SUPERVISION[frame]
    text = WRITERS[name](items) if name == "paligemma" else f"```json\n{WRITERS[name](items)}\n```"
    more = {"input_wh": input_wh} if frame == "qwen2.5-vl" else {}
    boxes, _, names = getattr(vlm, reader)(text, resolution_wh=wh, **more)
    answer = PARSERS[name](text)
    ours = to_original(answer.boxes_xyxy, FRAMES[frame].size_wh(wh, input_wh), wh)
    assert [list(box) for box in ours] == [pytest.approx(box) for box in boxes.tolist()]
    assert list(answer.labels) == [str(name) for name in names]


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


any_text = garbage | json_values | st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | mutations.map(mutated)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=100)
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
# Each pushes at a loop.
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
    """As much as a parser reads of an answer: no more is read, so that longer texts would hide a second scan."""
    parse = PARSERS[name]
    for what, piece in REPEATED.items():
        for start in ("", "<points " if name == "molmo-points" else "["):
            text = start + piece * (MAX_CHARS // len(piece))
            assert not grows_too_fast(lambda n, text=text: parse(text[:n]), len(text)), (what, start)


def test_time_grows_with_what_is_around_an_answer() -> None:
    for what, piece in REPEATED.items():
        text = "[" + piece * (MB // len(piece))
        assert not grows_too_fast(lambda n, text=text: unwrap(text[:n]), MB), what


def test_time_grows_with_the_length_of_random_texts() -> None:
    rng = random.Random(0)
    for _ in range(8):
        text = "".join(rng.choices(PIECES, k=40)) * 4000
        assert not grows_too_fast(lambda n, text=text: unwrap(text[:n]), MB)
        for name in READING:
            assert not grows_too_fast(lambda n, text=text, name=name: PARSERS[name](text[:n]), MAX_CHARS), name
