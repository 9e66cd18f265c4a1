"""What every sound preset of boxes promises, whatever its formula."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_cases import BOUNDED, CAT, DOG, NEGATIVE, TARGET, Labelled, said

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.frames import FRAMES

SOUND = [name for name in PRESETS if PRESETS[name].tasks[0] == "detection" and not PRESETS[name].is_sum]
BY_LABEL = [name for name in SOUND if PRESETS[name].matching != "class_agnostic"]
PROGRESS = [None, 0.0, 0.2, 0.5, 1.0]
progresses = st.none() | st.floats(0, 1)
JUNK: Labelled = ((450, 300, 600, 400), "cat")
SIZE = (640, 480)


def target_of(*items: Labelled, **more: Any) -> Target:
    boxes, labels = [box for box, _ in items], [label for _, label in items]
    return Target(task="detection", size_wh=SIZE, boxes_xyxy=boxes, labels=labels, **more)


def earned(preset: str, text: str, target: Target = TARGET, **how: Any) -> float:
    """The value without the share of the format, in [0, 1]."""
    result = score(text, target, preset=preset, **how)
    criteria = [criterion for criterion in PRESETS[preset].criteria if criterion.name != "format"]
    weights = sum(criterion.weight for criterion in criteria)
    return sum(criterion.weight * result.metrics[criterion.name] for criterion in criteria) / weights


COSTLY = {
    "each box twice": said(CAT, DOG, CAT, DOG),
    "junk after": said(CAT, DOG, JUNK),
    "junk before": said(JUNK, CAT, DOG),
    "junk of a label nobody asked for": said(CAT, DOG, (JUNK[0], "cow")),
    "an inverted box": said(CAT, DOG, ((200, 200, 100, 100), "cat")),
    "a box that cannot be read": said(CAT, DOG)[:-1] + ', {"bbox_2d": [1, 2], "label": "cat"}]',
    "one missing": said(CAT),
}
NOTHING = {"no text": "", "the empty list": "[]", "prose": "a cat and a dog", "a number": "3", "cut off": "[{"}


@pytest.mark.parametrize("preset", SOUND)
@pytest.mark.parametrize("progress", PROGRESS)
def test_perfect_is_1_and_all_else_costs(preset: str, progress: float | None) -> None:
    for text in (said(CAT, DOG), said(DOG, CAT), said((CAT[0], " CAT"), (DOG[0], "Dog"))):
        assert score(text, TARGET, preset=preset, progress=progress).value == 1.0
    for why, text in COSTLY.items():
        assert earned(preset, text, progress=progress) < 1.0, why
        assert score(text, TARGET, preset=preset, progress=progress).value < 1.0, why
    for why, text in NOTHING.items():
        assert earned(preset, text, progress=progress) == 0.0, why


@pytest.mark.parametrize("preset", BY_LABEL)
def test_wrong_labels_cost(preset: str) -> None:
    assert earned(preset, said((CAT[0], "dog"), (DOG[0], "cat"))) < 0.5
    assert earned(preset, said(CAT, (DOG[0], "cow"))) < 1.0


@pytest.mark.parametrize("preset", SOUND)
@pytest.mark.parametrize("progress", PROGRESS)
def test_images_without_the_object(preset: str, progress: float | None) -> None:
    for text in ("[]", "None"):
        assert score(text, NEGATIVE, preset=preset, progress=progress).value == 1.0
    for text in (said(CAT), said(CAT, CAT), '[{"bbox_2d": [1, 2], "label": "cat"}]'):
        assert earned(preset, text, NEGATIVE, progress=progress) == 0.0


@pytest.mark.parametrize("preset", SOUND)
@pytest.mark.parametrize("frame", FRAMES)
def test_the_models_frame_is_heeded(preset: str, frame: str) -> None:
    """Powers of two, so that the change of frame is exact."""
    w, h = FRAMES[frame].size_wh(SIZE, (1280, 960))
    spoken = [
        ((x1 * w / 640, y1 * h / 480, x2 * w / 640, y2 * h / 480), label) for (x1, y1, x2, y2), label in (CAT, DOG)
    ]
    how = {"frame": frame, "processed_wh": (1280, 960)}
    assert score(said(*spoken), TARGET, preset=preset, **how).value == pytest.approx(1.0)


# A coarse grid makes exact ties common.
names = st.sampled_from(["cat", "Dog", "red  bus"])
grid = st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(1, 3)] * 2).map(
    lambda b: (b[0] * 50, b[1] * 50, (b[0] + b[2]) * 50, (b[1] + b[3]) * 50)
)
scenes = st.lists(st.tuples(grid, names), max_size=6)


@pytest.mark.parametrize("preset", SOUND)
@settings(max_examples=40)
@given(predictions=scenes, targets=scenes, rng=st.randoms(use_true_random=False), progress=progresses)
def test_order_does_not_matter_to_the_bit(
    preset: str, predictions: list, targets: list, rng: random.Random, progress: float | None
) -> None:
    crowd = [(200, 0, 300, 300)]
    expected = score(said(*predictions), target_of(*targets, ignore_xyxy=crowd), preset=preset, progress=progress)
    assert 0.0 <= expected.value <= 1.0
    for _ in range(2):
        rng.shuffle(predictions)
        rng.shuffle(targets)
        again = score(said(*predictions), target_of(*targets, ignore_xyxy=crowd), preset=preset, progress=progress)
        assert again == expected


@pytest.mark.parametrize("preset", [name for name in SOUND if name != "rec-giou"])
@settings(max_examples=40)
@given(predictions=scenes, targets=scenes, progress=progresses)
def test_a_box_apart_never_pays(preset: str, predictions: list, targets: list, progress: float | None) -> None:
    target = target_of(*targets)
    before = score(said(*predictions), target, preset=preset, progress=progress)
    after = score(said(*predictions, ((400, 400, 500, 450), "cat")), target, preset=preset, progress=progress)
    assert after.value <= before.value + 1e-12
    if preset in BOUNDED:
        assert all(after.metrics[name] <= before.metrics[name] for name in ("precision", "recall"))


@settings(max_examples=40)
@given(predictions=scenes, targets=scenes.filter(bool))
def test_with_giou_a_box_apart_pays_only_where_a_target_is_missed(predictions: list, targets: list) -> None:
    """A guess is worth more than silence: that is the gradient. Beyond the number of targets it costs."""
    targets = [(box, "cat") for box, _ in targets]
    predictions = [*predictions, *targets][: max(len(predictions), len(targets))]
    target, apart = target_of(*targets), ((400, 400, 500, 450), "cat")
    before = score(said(*predictions), target, preset="rec-giou")
    assert score(said(*predictions, apart), target, preset="rec-giou").value <= before.value + 1e-12


@pytest.mark.parametrize("preset", SOUND)
@given(targets=scenes.filter(bool), progress=progresses)
@settings(max_examples=30)
def test_the_truth_earns_1_and_the_truth_twice_less(preset: str, targets: list, progress: float | None) -> None:
    target = target_of(*targets)
    assert score(said(*targets), target, preset=preset, progress=progress).value == pytest.approx(1.0)
    twice = score(said(*targets, *targets), target, preset=preset, progress=progress)
    assert twice.value < 0.99
    assert preset not in BOUNDED or twice.metrics["precision"] == pytest.approx(0.5)
