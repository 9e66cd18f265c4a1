"""Scores one completion of any task: text -> answer -> original pixels -> matching -> criteria -> score."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from verl_visionr1.answers import PARSERS, Answer, Defect
from verl_visionr1.answers.transcript import spoken_text
from verl_visionr1.criteria import Thresholds, f1_50, iou_mean
from verl_visionr1.frames import Frame, all_inside, points_inside, points_to_original, to_original
from verl_visionr1.matching import MATCHERS, match_class_aware
from verl_visionr1.rewards.base import BOX_TASKS as BOX_TASKS
from verl_visionr1.rewards.base import CriterionInput, Preset, Score
from verl_visionr1.targets import NO_IMAGE, Target

BOX_METRICS = ("iou_mean", "f1_50")
"""Common metrics of `BOX_TASKS`; other tasks report them as 0."""
DEGENERATION_METRICS = ("distinct_share", "empty")
"""Metrics of `degeneration_metrics`, which `alarms` tracks."""


class ResponseContext(msgspec.Struct, frozen=True, gc=False):
    """Coordinate frame and token budget of a response.

    Attributes:
        frame: the model's coordinate frame.
        processed_wh: width and height of the image after the processor's resize; only some frames need it.
        n_tokens: length of the completion; None: criteria that need it get the number of words.
        max_tokens: the response budget.
        reasoning_opened: whether the prompt ends with `<think>`, so that the text begins inside the reasoning; a text
            that never closes it is then no answer.
    """

    frame: Frame
    processed_wh: tuple[int, int] | None = None
    n_tokens: int | None = None
    max_tokens: int | None = None
    reasoning_opened: bool = False


def evaluate_completion(
    completion: str, target: Target, preset: Preset, thresholds: Thresholds, response: ResponseContext
) -> Score:
    """Score one completion. No text makes it raise; a frame that needs `processed_wh` does without it (FrameError)."""
    return apply_criteria(read_completion(completion, target, preset, thresholds, response), preset)


def read_completion(
    completion: str, target: Target, preset: Preset, thresholds: Thresholds, response: ResponseContext
) -> CriterionInput:
    """Text -> answer -> original pixels -> matching: the inputs of the criteria."""
    completion = spoken_text(completion, reasoning_opened=response.reasoning_opened)
    answer = PARSERS[preset.answer_format](completion)
    grid_wh = (0.0, 0.0)
    if target.size_wh != NO_IMAGE:
        frame_wh = response.frame.size_wh(target.size_wh, response.processed_wh)
        answer = in_original_pixels(answer, frame_wh, target.size_wh)
        step = response.frame.step
        grid_wh = (step * target.size_wh[0] / frame_wh[0], step * target.size_wh[1] / frame_wh[1])
    n_tokens = response.n_tokens
    if n_tokens is None:
        n_tokens = len(completion.split()) if "n_tokens" in preset.looks_at else 0
    return match_answer(
        answer,
        target,
        preset,
        completion=completion,
        thresholds=thresholds,
        n_tokens=n_tokens,
        max_tokens=response.max_tokens,
        grid_wh=grid_wh,
    )


def match_answer(answer: Answer, target: Target, preset: Preset, **others: Any) -> CriterionInput:
    """Match an answer in original pixels: the inputs of the criteria, of which `others` are given."""
    matching = class_aware = MATCHERS[preset.matching](answer, target)
    has_boxes = target.task in BOX_TASKS
    if has_boxes and preset.matching != "class_aware" and (target.is_multiclass or preset.matching != "class_agnostic"):
        class_aware = match_class_aware(answer, target)
    case = CriterionInput(
        answer=answer,
        target=target,
        matching=matching,
        class_aware=class_aware,
        accuracy=f1_50(class_aware) if has_boxes else 0.0,
        **others,
    )
    return case if preset.measure is None else replace(case, accuracy=preset.measure.call(case))


def in_original_pixels(answer: Answer, frame_wh: tuple[float, float], original_wh: tuple[int, int]) -> Answer:
    """Convert boxes and points to pixels of the original image; any outside the frame is a defect."""
    boxes_xyxy, points_xy, defects = answer.boxes_xyxy, answer.points_xy, answer.defects
    if boxes_xyxy:
        if not all_inside(boxes_xyxy, frame_wh):
            defects = (*defects, Defect.OUTSIDE)
        boxes_xyxy = to_original(boxes_xyxy, frame_wh, original_wh)
    if points_xy:
        if not points_inside(points_xy, frame_wh):
            defects = (*defects, Defect.OUTSIDE)
        points_xy = points_to_original(points_xy, frame_wh, original_wh)
    return Answer(boxes_xyxy, answer.labels, answer.n_dropped, defects, points_xy, answer.count, answer.text)


def apply_criteria(case: CriterionInput, preset: Preset) -> Score:
    """Compute the score of a preset's criteria."""
    total = 0.0
    metrics: dict[str, float] = {}
    for criterion in preset.criteria:
        metrics[criterion.name] = value = case.accuracy if criterion is preset.measure else criterion.call(case)
        total += criterion.weight * value
    _add_common(metrics, case, case.accuracy if preset.measure is None else f1_50(case.class_aware))
    return Score(total / preset.divisor, metrics)


def degeneration_metrics(case: CriterionInput) -> dict[str, float]:
    """Compute `DEGENERATION_METRICS`, which show a degenerate answer independently of its reward.

    "distinct_share": share of distinct usable boxes (or points), whatever their labels; 1.0 for none. "empty": 1.0 iff
    the answer is empty or unreadable although the target has objects.
    """
    answer, target = case.answer, case.target
    places = answer.boxes_xyxy or answer.points_xy
    n_places = len(places)
    distinct_share = len(set(places)) / n_places if n_places > 1 else 1.0
    has_no_content = not (n_places or answer.n_dropped or answer.text) and answer.count is None
    is_empty = has_no_content and bool(target.n_objects or target.count or target.task == "text")
    return {"distinct_share": distinct_share, "empty": 1.0 if is_empty else 0.0}


def _add_common(metrics: dict[str, float], case: CriterionInput, f1: float) -> None:
    """Add `COMMON_METRICS`: the same keys for every task; those that a task lacks are 0."""
    answer, matching, task = case.answer, case.class_aware, case.target.task
    n_predicted, n_target = float(matching.n_predicted), float(matching.n_target)
    metrics["iou_mean"] = metrics["f1_50"] = 0.0
    if task in BOX_TASKS:
        metrics["iou_mean"] = iou_mean(matching)
        metrics["f1_50"] = f1
    elif task == "counting":
        n_predicted, n_target = answer.stated_count, float(case.target.count or 0)
    metrics["accuracy"] = case.accuracy
    metrics["n_predicted"] = n_predicted
    metrics["n_target"] = n_target
    metrics["boxes_per_target"] = n_predicted / (n_target or 1.0)
    metrics["parsed"] = 1.0 if answer.is_parsed else 0.0
