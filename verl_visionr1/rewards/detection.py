"""The Vision-R1 reward (arXiv 2503.18013): detection of many objects, and grounding of one phrase.

One method for both, as in the paper: a phrase is a category list of one, and a target with one label ignores labels.
"""

from __future__ import annotations

from verl_visionr1.answers import PARSERS, Answer, Defect
from verl_visionr1.criteria import Thresholds, f1_50, iou_mean
from verl_visionr1.frames import Frame, all_inside, to_original
from verl_visionr1.matching import MATCHERS, Matching, match_labelled
from verl_visionr1.rewards.base import Preset, Score
from verl_visionr1.targets import Target


def judge_boxes(
    completion: str,
    target: Target,
    preset: Preset,
    thresholds: Thresholds,
    frame: Frame,
    processed_wh: tuple[int, int] | None = None,
) -> Score:
    """Completion -> answer -> original pixels -> matching -> criteria -> score.

    Raises:
        FrameError: `frame` needs `processed_wh` and it is None.
    """
    answer = PARSERS[preset.answer_format](completion)
    answer = in_original_pixels(answer, frame.size_wh(target.size_wh, processed_wh), target.size_wh)
    matching = MATCHERS[preset.matching](answer.boxes_xyxy, answer.labels, target, answer.n_dropped)
    total = 0.0
    metrics: dict[str, float] = {}
    for criterion in preset.criteria:
        metrics[criterion.name] = judged = criterion.judge(answer, matching, thresholds)
        total += criterion.weight * judged
    if preset.matching != "labelled" and (target.is_multilabel or preset.matching != "boxes"):
        matching = match_labelled(answer.boxes_xyxy, answer.labels, target, answer.n_dropped)
    _add_threshold_free(metrics, answer, matching)
    return Score(total / preset.divisor, metrics)


def in_original_pixels(answer: Answer, frame_wh: tuple[float, float], original_wh: tuple[int, int]) -> Answer:
    """The answer with its boxes in pixels of the original image; boxes outside the frame become a defect."""
    boxes_xyxy = to_original(answer.boxes_xyxy, frame_wh, original_wh)
    defects = answer.defects
    if not all_inside(answer.boxes_xyxy, frame_wh):
        defects = (*defects, Defect.OUTSIDE)
    return Answer(boxes_xyxy, answer.labels, answer.n_dropped, defects)


def _add_threshold_free(metrics: dict[str, float], answer: Answer, matching: Matching) -> None:
    metrics["iou_mean"] = iou_mean(matching)
    metrics["f1_50"] = f1_50(matching)
    metrics["n_predicted"] = float(matching.n_predicted)
    metrics["n_target"] = float(matching.n_target)
    metrics["boxes_per_target"] = matching.n_predicted / (matching.n_target or 1)
    metrics["parsed"] = 1.0 if answer.is_parsed else 0.0
