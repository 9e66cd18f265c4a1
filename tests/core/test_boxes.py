from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1.boxes import Box, area, array_intersection, as_array, intersection, iou, pairwise_giou, pairwise_iou

UNIT: Box = (0.0, 0.0, 10.0, 10.0)

PAIRS = {
    "identical": (UNIT, UNIT, 100.0, 1.0),
    "half of it": (UNIT, (0, 0, 10, 5), 50.0, 0.5),
    "three quarters of it": (UNIT, (0, 0, 10, 7.5), 75.0, 0.75),
    "shifted by half": (UNIT, (5, 0, 15, 10), 50.0, 1 / 3),
    "a corner": (UNIT, (9, 9, 19, 19), 1.0, 1 / 199),
    "contained": (UNIT, (4, 4, 6, 6), 4.0, 0.04),
    "a cross": ((0, 4, 10, 6), (4, 0, 6, 10), 4.0, 4 / 36),
    "touching edge (half-open: nothing shared)": (UNIT, (10, 0, 20, 10), 0.0, 0.0),
    "touching corner": (UNIT, (10, 10, 20, 20), 0.0, 0.0),
    "apart in x only": (UNIT, (11, 0, 20, 10), 0.0, 0.0),
    "apart in y only": (UNIT, (0, 11, 10, 20), 0.0, 0.0),
    "apart in both: two negative sides are no overlap": (UNIT, (20, 20, 30, 30), 0.0, 0.0),
    "one pixel wide": ((3, 0, 4, 10), (3, 0, 4, 10), 10.0, 1.0),
    "normalised coordinates": ((0.1, 0.1, 0.3, 0.3), (0.1, 0.1, 0.3, 0.3), 0.04, 1.0),
    "negative coordinates": ((-10, -10, 0, 0), (-5, -10, 5, 0), 50.0, 1 / 3),
}


@pytest.mark.parametrize(("a", "b", "shared", "expected"), PAIRS.values(), ids=PAIRS)
def test_iou_and_intersection(a: Box, b: Box, shared: float, expected: float) -> None:
    assert intersection(a, b) == pytest.approx(shared)
    assert iou(a, b) == pytest.approx(expected, abs=1e-12)
    assert pairwise_iou([a], [b])[0, 0] == pytest.approx(expected, abs=1e-12)
    shared_pt, areas_p = array_intersection(as_array([a, b]), as_array([b]))
    assert shared_pt[:, 0].tolist() == pytest.approx([shared, area(b)])
    assert areas_p.tolist() == [area(a), area(b)]


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((0.0, 0.0, 5e-324, 5e-324), id="area underflows to 0"),
        pytest.param((-1e308, -1e308, 1e308, 1e308), id="area overflows to inf"),
        pytest.param((1e200, 1e200, 1e201, 1e201), id="far away and huge"),
    ],
)
def test_absurd_boxes_overlap_nothing(box: Box) -> None:
    assert iou(box, UNIT) == iou(UNIT, box) == iou(box, box) == 0.0
    assert pairwise_iou([box, UNIT], [UNIT, box]).tolist() == [[0.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(("n_p", "n_t"), [(0, 0), (0, 3), (3, 0)])
def test_pairwise_shapes_of_nothing(n_p: int, n_t: int) -> None:
    assert pairwise_iou([UNIT] * n_p, [UNIT] * n_t).shape == (n_p, n_t)
    assert as_array([UNIT] * n_p).shape == (n_p, 4)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        pytest.param(UNIT, 1.0, id="identical"),
        pytest.param((10.0, 0.0, 20.0, 10.0), 0.0, id="touching: hull is filled"),
        pytest.param((20.0, 0.0, 30.0, 10.0), -1 / 3, id="gap of its own width"),
        pytest.param((10.0, 10.0, 20.0, 20.0), -0.5, id="diagonal"),
    ],
)
def test_giou(other: Box, expected: float) -> None:
    assert pairwise_giou([UNIT], [other])[0, 0] == pytest.approx(expected)


def boxes_of(numbers: st.SearchStrategy) -> st.SearchStrategy:
    """Sound boxes, made sound rather than drawn until they are: most would be thrown away."""
    side = st.lists(numbers, min_size=2, max_size=2, unique=True).map(sorted)
    return st.tuples(side, side).map(lambda sides: (sides[0][0], sides[1][0], sides[0][1], sides[1][1]))


pixel_boxes = st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 60)] * 2).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)
number = st.floats(-1e6, 1e6, allow_subnormal=False)
float_boxes = boxes_of(number)
any_number = st.floats(allow_nan=False, allow_infinity=False)
any_boxes = boxes_of(any_number)


@given(pixel_boxes, pixel_boxes)
def test_iou_is_symmetric_and_1_only_for_equal_boxes(a: Box, b: Box) -> None:
    assert iou(a, b) == iou(b, a)
    assert 0.0 <= iou(a, b) <= 1.0
    assert (iou(a, b) == 1.0) == (a == b)


@given(st.lists(st.one_of(pixel_boxes, float_boxes, any_boxes), max_size=6), st.lists(any_boxes, max_size=4))
def test_pairwise_is_the_scalar_one_to_the_bit(a: list[Box], b: list[Box]) -> None:
    b = b + a[:2]  # so that some pairs overlap
    assert pairwise_iou(a, b).tolist() == [[iou(x, y) for y in b] for x in a]


@pytest.mark.verl
@pytest.mark.slow  # torch takes seconds to load; test_average_precision.py has pycocotools for a twin
def test_twin_torchvision() -> None:
    import torch
    from torchvision.ops import box_iou, generalized_box_iou

    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1000, (300, 4))
    sides = rng.uniform(1, 300, (300, 2))
    corners[:, 2:] = corners[:, :2] + sides
    a, b = corners[:100], corners[100:]
    ours = pairwise_iou(list(map(tuple, a)), list(map(tuple, b)))
    np.testing.assert_allclose(ours, box_iou(torch.tensor(a), torch.tensor(b)).numpy(), atol=1e-12)
    assert (ours > 0.3).any(), "the sample holds no real overlap"
    giou_pt = pairwise_giou(list(map(tuple, a)), list(map(tuple, b)))
    np.testing.assert_allclose(giou_pt, generalized_box_iou(torch.tensor(a), torch.tensor(b)).numpy(), atol=1e-12)
