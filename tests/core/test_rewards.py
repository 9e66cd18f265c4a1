"""What a completion earns: the façade, the values of the default preset, and presets as data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from reward_cases import BOUNDED, CAT, COW, DOG, TARGET, VISIONR1, said, shifted

from verl_visionr1 import PRESETS, FrameError, RewardError, Target, score
from verl_visionr1.criteria import precision, recall, well_formed
from verl_visionr1.frames import FRAMES
from verl_visionr1.rewards import Criterion, Preset, find_preset
from verl_visionr1.schedule import staged

CALLERS_MISTAKES = {
    "unknown preset": ({"preset": "visionr2"}, RewardError, "preset = 'visionr2'"),
    "unknown frame": ({"frame": "qwen"}, FrameError, "frame = 'qwen'"),
    "no processed size": ({"frame": "qwen2.5-vl"}, FrameError, "processed_wh = None"),
    "progress in percent": ({"progress": 30}, ValueError, "progress = 30"),
    "progress not a number": ({"progress": math.nan}, ValueError, "progress = nan"),
}


@pytest.mark.parametrize(("options", "error", "message"), CALLERS_MISTAKES.values(), ids=CALLERS_MISTAKES)
def test_a_callers_mistake_is_an_error(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        score("[]", TARGET, **options)


def test_only_released_presets_are_sums() -> None:
    sums = {name for name, preset in PRESETS.items() if preset.is_sum}
    assert sums == {name for name in PRESETS if name.endswith("-released")}


# completion -> format, recall, precision at the first stage
VALUES = {
    "perfect": (said(CAT, DOG), 1, 1, 1),
    "perfect, other order": (said(DOG, CAT), 1, 1, 1),
    "one missing": (said(CAT), 1, 0.5, 1),
    "one at IoU .6": (said(CAT, shifted(DOG, 25)), 1, 1, 0.8),
    "labels swapped": (said((CAT[0], "dog"), (DOG[0], "cat")), 1, 0, 0),
    "labels in capitals": (said((CAT[0], "CAT"), (DOG[0], " Dog ")), 1, 1, 1),
    "a label nobody asked for": (said(CAT, (DOG[0], "horse")), 1, 0.5, 0.5),
    "each box ten times": (said(*[CAT] * 10, *[DOG] * 10), 1, 1, 0.1),
    "20 junk boxes after": (said(CAT, DOG, *[COW] * 20), 1, 1, 2 / 22),
    "20 junk boxes before": (said(*[COW] * 20, CAT, DOG), 1, 1, 2 / 22),
    "each box under every label": (said(CAT, (CAT[0], "dog"), DOG, (DOG[0], "cat")), 1, 1, 0.5),
    "the whole image": (said(((0, 0, 640, 480), "cat"), ((0, 0, 640, 480), "dog")), 1, 0, 0),
    "the empty list": ("[]", 1, 0, 0),
    "the instructed None": ("None", 1, 0, 0),
    "no text": ("", 0, 0, 0),
    "prose": ("a cat and a dog", 0, 0, 0),
    "an empty object": ("{}", 0, 0, 0),
    "a number": ("3", 0, 0, 0),
    "null": ("null", 0, 0, 0),
    "a box of texts": ('[{"bbox_2d": ["a", "b", "c", "d"], "label": 7}]', 0, 0, 0),
    "the prompt said again": ("Locate every item from the category list in the image", 0, 0, 0),
    "in prose": ("Here: " + said(CAT, DOG), 0, 1, 1),
    "only in the reasoning": (f"<think>{said(CAT, DOG)}</think>", 0, 0, 0),
    "only in reasoning that never ends": (f"<think>{said(CAT, DOG)}", 0, 0, 0),
    "a box that cannot be read costs": (said(CAT, DOG)[:-1] + ', {"bbox_2d": [1, 2], "label": "cat"}]', 0, 1, 2 / 3),
    "an inverted box costs": (said(CAT, DOG, ((200, 200, 100, 100), "cat")), 0, 1, 2 / 3),
    "a box with NaN costs": (said(CAT, DOG)[:-1] + ', {"bbox_2d": [NaN, 0, 1, 1], "label": "cat"}]', 0, 1, 2 / 3),
    "a box outside costs the format too": (said(CAT, DOG, ((0, 0, 900, 480), "cat")), 0, 1, 2 / 3),
    "cut off": (said(CAT, DOG)[:-2], 0, 0.5, 1),
}


@pytest.mark.parametrize(("text", "form", "recall", "precision"), VALUES.values(), ids=VALUES)
def test_default_preset(text: str, form: float, recall: float, precision: float) -> None:
    result = score(text, TARGET, progress=0.0)
    assert [result.metrics[name] for name in VISIONR1] == pytest.approx([form, recall, precision])
    assert result.value == pytest.approx((form + recall + precision) / 3)


def test_only_the_paper_preset_pays_for_a_wrong_label() -> None:
    swapped = said((CAT[0], "dog"), (DOG[0], "cat"))
    assert score(swapped, TARGET, preset="visionr1-paper").value == 1.0
    assert score(swapped, TARGET, preset="visionr1").value == pytest.approx(1 / 3)
    for preset in (*BOUNDED, "visionr1-released"):
        assert score(swapped, TARGET, preset=preset).metrics["f1_50"] == 0.0, "this means the same under every preset"


def test_one_label_is_never_wrong() -> None:
    phrase = Target(task="grounding", size_wh=(640, 480), boxes_xyxy=[CAT[0]], labels=["the cat on the left"])
    assert score(said((CAT[0], "cat")), phrase).value == 1.0


# Where f jumps: half of a box has IoU .5, three quarters of it .75, nine tenths .9, in every frame.
STAGES = {
    (0.5, None): (1.0, 0.5),
    (0.5, 0.0): (1.0, 0.5),
    (0.5, 0.49): (1.0, 0.5),
    (0.5, 0.5): (0.0, 0.0),
    (0.5, 1.0): (0.0, 0.0),
    (0.75, None): (1.0, 0.75),
    (0.75, 0.0): (1.0, 1.0),
    (0.75, 0.49): (1.0, 1.0),
    (0.75, 0.5): (1.0, 0.75),
    (0.75, 1.0): (1.0, 0.75),
    (0.9, None): (1.0, 0.9),
    (0.9, 0.49): (1.0, 1.0),
    (0.9, 0.5): (1.0, 1.0),
    (0.9, 1.0): (1.0, 1.0),
    (0.49, 0.0): (0.0, 0.0),
    (0.74, 0.5): (0.0, 0.0),
    (0.89, 0.5): (1.0, 0.89),
}


@pytest.mark.parametrize(("overlap", "progress", "expected"), [(*key, value) for key, value in STAGES.items()])
def test_stages_and_their_bounds(overlap: float, progress: float | None, expected: tuple[float, float]) -> None:
    for frame in FRAMES:
        check_stage(frame, overlap, progress, expected)


def check_stage(frame: str, overlap: float, progress: float | None, expected: tuple[float, float]) -> None:
    size_wh, processed_wh = (641, 479), (644, 476)
    preset = replace(PRESETS["visionr1"], schedule=staged())  # the default follows the frame's family
    for box in ((100, 100, 200, 200), (13, 7, 606, 470), (600, 400, 610, 410)):
        target = Target(task="grounding", size_wh=size_wh, boxes_xyxy=[box], labels=["cat"])
        x1, y1, x2, y2 = box
        w, h = FRAMES[frame].size_wh(size_wh, processed_wh)
        part = (x1, y1, x1 + (x2 - x1) * overlap, y2)
        spoken = tuple(v * side / original for v, side, original in zip(part, (w, h) * 2, size_wh * 2, strict=True))
        given = {"preset": preset, "frame": frame, "processed_wh": processed_wh}
        result = score(said((spoken, "cat")), target, **given, progress=progress)
        assert (result.metrics["recall"], result.metrics["precision"]) == pytest.approx(expected, abs=1e-6)


def test_weights() -> None:
    preset = PRESETS["visionr1"].with_weights({"format": 0.0, "precision": 3})
    assert preset.weights == {"format": 0.0, "recall": 1.0, "precision": 3}
    result = score("So: " + said(CAT), TARGET, preset=preset, progress=0.0)
    assert result.value == pytest.approx((0.5 + 3 * 1) / 4)
    assert result.metrics["format"] == 0.0, "weight 0: reported, not rewarded"


def test_every_criterion_of_a_preset_is_reported() -> None:
    preset = replace(PRESETS["visionr1"], accuracy="recall")
    result = score(said(CAT), TARGET, preset=preset, progress=0.0)
    assert result.metrics["accuracy"] == result.metrics["recall"] == 0.5
    assert result.metrics["f1_50"] == pytest.approx(2 / 3), "means the same whatever the accuracy"
    assert score(said(CAT), TARGET).metrics["accuracy"] == pytest.approx(2 / 3), "none named: F1 at IoU .5"


def test_a_criterion_is_handed_what_it_names_and_its_options() -> None:
    def brief(completion: str, target: Target, *, longest: int = 5) -> float:
        return float(len(completion) <= longest and target.task == "detection")

    preset = Preset("brief", (Criterion("brief", brief), Criterion("brief9", brief, 3.0, {"longest": 9})))
    assert preset.looks_at == {"completion", "target"}
    assert score("seven..", TARGET, preset=preset).value == 0.75
    assert score("five.", TARGET, preset=preset).value == 1.0


FORMAT = Criterion("format", well_formed)


def needs_a_moon(answer: object, moon: object) -> float:
    raise AssertionError


BAD_PRESETS = {
    "unknown criterion": (lambda: PRESETS["visionr1"].with_weights({"recal": 1}), "weights = 'recal'"),
    "negative weight": (lambda: PRESETS["visionr1"].with_weights({"recall": -1}), "weights.recall = -1"),
    "weight as text": (lambda: PRESETS["visionr1"].with_weights({"recall": "1"}), "weights.recall = '1'"),
    "infinite weight": (lambda: PRESETS["visionr1"].with_weights({"recall": math.inf}), "weights.recall = inf"),
    "weight true": (lambda: PRESETS["visionr1"].with_weights({"recall": True}), "weights.recall = True"),
    "all weights 0": (lambda: PRESETS["visionr1"].with_weights(dict.fromkeys(VISIONR1, 0)), "at least one above 0"),
    "all weights 0 in a sum": (
        lambda: PRESETS["visionr1-released"].with_weights(dict.fromkeys(VISIONR1, 0)),
        "at least one above 0",
    ),
    "no criteria": (lambda: Preset("mine", ()), "at least one above 0"),
    "a criterion twice": (lambda: Preset("mine", (FORMAT, FORMAT)), "criteria = format, format"),
    "the name of a common metric": (
        lambda: Preset("mine", (Criterion("f1_50", precision),)),
        "criteria.f1_50: ",
    ),
    "unknown accuracy": (lambda: Preset("mine", (FORMAT,), accuracy="acc"), "accuracy = 'acc'"),
    "unknown answer format": (lambda: Preset("mine", (FORMAT,), answer_format="xml"), "answer_format = 'xml'"),
    "unknown matching": (lambda: Preset("mine", (FORMAT,), matching="greedy"), "matching = 'greedy'"),
    "unhashable name": (lambda: find_preset([]), "preset = \\[\\]"),  # type: ignore[arg-type]
    "a parameter that no case has": (lambda: Criterion("moon", needs_a_moon), "criteria.moon: .* 'moon'"),
    "an option that the judge does not have": (
        lambda: Criterion("recall", recall, 1.0, {"strict": True}),
        "criteria.recall.options = 'strict'",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD_PRESETS.values(), ids=BAD_PRESETS)
def test_bad_presets(make: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        make()
