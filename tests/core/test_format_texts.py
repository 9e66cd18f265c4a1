"""What is written in a format is read again, and no text harms a parser, however long it is."""

from __future__ import annotations

import pytest
from format_writers import FOR_BOXES, GLM, GLM_END, READING, WRITERS, B, E, O, P, few, items_of_boxes
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1.answers import MAX_BOXES, MAX_CHARS, PARSERS, Defect
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
