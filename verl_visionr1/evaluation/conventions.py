"""What the numbers of a report mean, in sentences that stand in it."""

from __future__ import annotations

from collections.abc import Sequence

from verl_visionr1.evaluation.average_precision import MAX_DETS, N_ORDERS
from verl_visionr1.evaluation.sections import Measurement
from verl_visionr1.evaluation.settings import LEVEL, EvaluationSettings

_CONFIDENCE = {
    "constant": "every box has the same confidence",
    "order": "the i-th of the n boxes of an answer has confidence 1 - i/n, i from 0",
    "logprob": "confidence is sqrt(p_box * p_label), p the geometric mean of the probabilities of their tokens",
}
_TIES = (
    f"boxes of different images with equal confidence rank in random orders: AP is the mean over {N_ORDERS} of them, "
    "and its interval holds their spread"
)
_STRAY = {
    "drop": "is left out",
    "own": "is a false alarm of its own category, if the data source has it",
    "every": "is a false alarm of its own category, or else of all that were asked for",
}


def conventions_of(settings: EvaluationSettings, measurements: Sequence[Measurement]) -> list[str]:
    """The conventions of everything that was measured."""
    families = {family for one in measurements for family in one.families}
    read_as = settings.answer_format or "the answer format of each preset"
    rule = "the strictest stage of the preset" if settings.stage == "final" else "the preset with the rule off"
    found = [
        f"Answers are read by the parser of the reward ({read_as}), in frame {settings.frame}, and put into pixels of "
        "the original image without clipping. Of an answer that was cut off, complete objects count.",
        f"reward, F1@50 and mean IoU: as training reports them at validation, at {rule}.",
    ]
    found += [text for family, text in _families(settings).items() if family in families]
    if settings.resamples:
        found.append(
            f"Intervals: {LEVEL:.0%}, {settings.resamples} bootstrap resamples of images, percentiles; those of AP are "
            "shifted by the bootstrap's bias; none where one or two images hold all that can be measured."
        )
    return found


def _families(settings: EvaluationSettings) -> dict[str, str]:
    limits = ", ".join(map(str, MAX_DETS))
    confidence, stray = _CONFIDENCE[settings.confidence], _STRAY[settings.stray_labels]
    edge = "above" if settings.strict_iou else "at or above"
    which = f"the {settings.which_box} box of the answer"
    unread = "left out of MAE and RMSE" if settings.unreadable_count == "exclude" else "a 0 in MAE and RMSE"
    return {
        "ap": f"AP: COCO's, maxDets {limits} an image and category; {confidence}; {_TIES}; a box "
        f"whose label its row did not ask for {stray}; labels are compared without case; a category is judged on "
        "images where it was asked for; "
        "sizes are areas of boxes; regions to ignore are crowds of every category asked for.",
        "nms_ap": "NMS-AP: OVDEval's; of all boxes with IoU above .5 with a true box, whatever their label, the most "
        "confident is kept.",
        "rec": f"REC: {which}, right {edge} the IoU threshold; rows with exactly one referent.",
        "grec": "GREC: share of rows with F1 = 1 at IoU .5. N-acc: rows without a referent and without a box. T-acc: "
        "rows with a referent and with a box. An answer that cannot be read does not say that nothing is there.",
        "negatives": "false alarms: share of the categories asked for and absent that got a box.",
        "counting": f"Counting: an answer without a count is wrong, and {unread}.",
        "pointing": "Pointing: a point hits in the mask, else in the box; points and objects are paired one to one.",
        "text": "Text: accuracy is that of the preset.",
    }
