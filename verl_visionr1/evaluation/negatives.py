"""What a model says of things that are not there: OVDEval's hard negatives, D3's absent descriptions, `--negatives`.

A negative is a category (a phrase) that a row asked for and that has no object on the image. NMS-AP, the other half of
OVDEval's protocol, is in `average_precision`.
"""

from __future__ import annotations

from verl_visionr1.evaluation.detections import asked_labels
from verl_visionr1.evaluation.grounding import Part
from verl_visionr1.evaluation.reading import Read
from verl_visionr1.targets import normalize_label


def negative_parts(read: Read) -> dict[str, Part]:
    """ "false alarms": share of the negatives for which the answer has a box; "boxes per negative": how many it has.

    In a row of one category every claimed box is of it, in a row of several those that carry its label. Boxes in a
    region to ignore are no alarm where the row has one category.
    """
    target = read.target
    asked = asked_labels(target)
    absent = set(asked) - set(target.normalized_labels)
    if not absent:
        return {"false alarms": (0.0, 0.0), "boxes per negative": (0.0, 0.0)}
    if len(asked) == 1:
        n_predicted = float(len(read.answer.boxes_xyxy) + read.answer.n_dropped)
        if target.ignore_xyxy:
            n_predicted = float(read.case.class_aware.n_predicted)
        return {"false alarms": (float(n_predicted > 0), 1.0), "boxes per negative": (n_predicted, 1.0)}
    said = [label for label in map(normalize_label, read.answer.labels) if label in absent]
    return {
        "false alarms": (float(len({*said})), float(len(absent))),
        "boxes per negative": (float(len(said)), float(len(absent))),
    }


def has_negatives(read: Read) -> bool:
    """Whether a row asked for something that is not there."""
    return bool(set(asked_labels(read.target)) - set(read.target.normalized_labels))
