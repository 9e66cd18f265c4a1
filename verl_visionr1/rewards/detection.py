"""Presets of detection and grounding: every object of a category list, or of one phrase.

Both use one method, as in arXiv 2503.18013: a phrase is a category list of one, and labels are ignored for a target
with one label.
"""

from __future__ import annotations

from verl_visionr1.criteria import OFF, Thresholds, precision, recall, well_formed
from verl_visionr1.criteria.average_precision import ap, ap50, od_length
from verl_visionr1.criteria.dense import big_vision, precision_size_aware, recall_size_aware, v_triune, weighted_sum
from verl_visionr1.rewards.base import Criterion, Preset
from verl_visionr1.schedule import Schedule, constant

VISIONR1 = (
    Criterion("format", well_formed),
    Criterion("recall", recall),
    Criterion("precision", precision),
)
"""The three criteria of Vision-R1: Eq. 4, 5 and 6, each differentiated by Eq. 8."""

SIZE_AWARE = (
    Criterion("format", well_formed),
    Criterion("recall", recall_size_aware),
    Criterion("precision", precision_size_aware),
)
"""The same, with thresholds capped at what the frame's grid can reach at a box's size."""

VLMR1_OVD = (
    Criterion("format", well_formed),
    Criterion("od_length", od_length),
    Criterion("ap", ap, 0.0),
    Criterion("ap50", ap50, 0.0),
    Criterion("weighted_sum", weighted_sum, 0.0),
)
"""VLM-R1's rewards of open-vocabulary detection: the paper's choice is rewarded, the others are reported."""


def _matched_at(match_iou: float) -> Thresholds:
    return Thresholds(match_iou=match_iou, recall_floor=0.0, recall_full=1.0, iou_floor=match_iou, iou_full=1.0)


V_TRIUNE = Schedule(((0.0, _matched_at(0.85)), (0.10, _matched_at(0.95)), (0.25, _matched_at(0.99))))
"""V-Triune's eps over training; .5 with the progressive rule off."""

PRESETS = (
    Preset("visionr1", VISIONR1, source="arXiv 2503.18013, repaired"),
    Preset("visionr1-paper", VISIONR1, matching="class_agnostic", source="arXiv 2503.18013, Eq. 4-8"),
    Preset("visionr1-size-aware", SIZE_AWARE, source="arXiv 2503.18013, thresholds capped by what rounding can reach"),
    Preset(
        "vlmr1-ovd",
        VLMR1_OVD,
        schedule=constant(OFF),
        source="arXiv 2504.07615, Eq. 7-8, repaired",
    ),
    Preset(
        "v-triune",
        (Criterion("format", well_formed, 0.1), Criterion("v_triune", v_triune)),
        schedule=V_TRIUNE,
        source="arXiv 2505.18129, dynamic IoU reward, repaired",
    ),
    Preset(
        "big-vision",
        (Criterion("format", well_formed), Criterion("big_vision", big_vision)),
        schedule=constant(OFF),
        source="arXiv 2302.08242, detection reward, repaired",
    ),
)
