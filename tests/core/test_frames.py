from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1.answers import FORMATS
from verl_visionr1.frames import (
    FRAMES,
    MODEL_TYPE_FRAMES,
    OUTSIDE_TOLERANCE,
    FrameError,
    all_inside,
    frame_named,
    points_to_original,
    to_original,
)

SIZES = {
    "original": (640.0, 480.0),
    "unit": (1.0, 1.0),
    "qwen2-vl": (1000.0, 1000.0),
    "qwen2.5-vl": (644.0, 476.0),
    "qwen3-vl": (1000.0, 1000.0),
    "internvl": (1000.0, 1000.0),
    "glm": (1000.0, 1000.0),
    "paligemma": (1024.0, 1024.0),
    "gemma": (1000.0, 1000.0),
    "percent": (100.0, 100.0),
}


@pytest.mark.parametrize("name", FRAMES)
def test_size_of_each_frame(name: str) -> None:
    assert FRAMES[name].name == name
    assert FRAMES[name].size_wh((640, 480), (644, 476)) == SIZES[name]


@pytest.mark.parametrize("name", FRAMES)
def test_the_far_corner_of_each_frame_is_the_far_corner_of_the_image(name: str) -> None:
    w, h = FRAMES[name].size_wh((640, 480), (644, 476))
    assert to_original(((0.0, 0.0, w, h),), (w, h), (640, 480)) == ((0.0, 0.0, 640.0, 480.0),)


@pytest.mark.parametrize("processed_wh", [None, (0, 476), (644, -1)])
def test_processed_pixels_need_the_processed_size(processed_wh: tuple[int, int] | None) -> None:
    with pytest.raises(FrameError, match=r"'qwen2.5-vl'.*processed_wh = "):
        FRAMES["qwen2.5-vl"].size_wh((640, 480), processed_wh)


def test_unknown_frame_lists_the_known() -> None:
    with pytest.raises(FrameError, match=r"frame = 'qwen9'"):
        frame_named("qwen9")


def test_every_model_type_has_a_frame() -> None:
    assert {frame_named(name).name for name in MODEL_TYPE_FRAMES.values()} <= set(FRAMES)


@pytest.mark.verl
def test_model_types_are_those_of_transformers() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    # These two are loaded with their repository's own code.
    assert set(MODEL_TYPE_FRAMES) - {"internvl_chat", "molmo"} <= set(CONFIG_MAPPING_NAMES)


def test_every_answer_format_names_known_frames() -> None:
    assert all(set(answer_format.frames) <= set(FRAMES) for answer_format in FORMATS.values())


STEPS = {"unit": 0.001, "percent": 0.1}


@pytest.mark.parametrize("name", FRAMES)
def test_the_smallest_step_of_each_frame(name: str) -> None:
    assert FRAMES[name].step == STEPS.get(name, 1.0)


def test_original_pixels_pass_unchanged() -> None:
    boxes = ((1.25, 2.0, 3.0, 4.0),)
    assert to_original(boxes, (640.0, 480.0), (640, 480)) is boxes


side = st.integers(1, 5000)
coordinate = st.floats(0.0, 5000.0)


W, H = 1000.0, 500.0
EDGES = {
    "inside": ((10, 10, 20, 20), True),
    "the whole frame": ((0, 0, W, H), True),
    "right edge at the tolerance": ((0, 0, W + 10, H), True),
    "right edge beyond": ((0, 0, W + 10.01, H), False),
    "bottom edge at the tolerance": ((0, 0, W, H + 5), True),
    "bottom edge beyond": ((0, 0, W, H + 5.01), False),
    "left edge at the tolerance": ((-10, 0, W, H), True),
    "left edge beyond": ((-10.01, 0, W, H), False),
    "top edge at the tolerance": ((0, -5, W, H), True),
    "top edge beyond": ((0, -5.01, W, H), False),
}


@pytest.mark.parametrize(("box", "expected"), EDGES.values(), ids=EDGES)
def test_all_inside(box: tuple[float, float, float, float], expected: bool) -> None:
    assert OUTSIDE_TOLERANCE == 0.01
    assert all_inside((box,), (W, H)) is expected
    assert all_inside(((0.0, 0.0, 1.0, 1.0), box), (W, H)) is expected, "one box outside is enough"


@given(st.tuples(coordinate, coordinate), st.tuples(side, side), st.tuples(side, side))
def test_a_point_goes_where_a_box_corner_goes(
    point: tuple[float, float], frame: tuple[int, int], original: tuple[int, int]
) -> None:
    frame_wh = (float(frame[0]), float(frame[1]))
    ((x1, y1, _, _),) = to_original(((*point, point[0] + 1.0, point[1] + 1.0),), frame_wh, original)
    assert points_to_original((point,), frame_wh, original) == ((x1, y1),)
