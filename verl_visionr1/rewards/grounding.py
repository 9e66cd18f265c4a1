"""Presets of grounding: the soft and the hard rewards of referring expressions, for one referent or several.

Each is format plus one number. They score detection too, with labels in place of phrases.
"""

from __future__ import annotations

from verl_visionr1.criteria import OFF, well_formed
from verl_visionr1.criteria.dense import soft_iou
from verl_visionr1.criteria.grounding import hit_over_max, iou2_over_max, soft_giou
from verl_visionr1.rewards.base import Criterion, Preset
from verl_visionr1.schedule import constant


def _grounding(name: str, criterion: Criterion, source: str, matching: str = "class_aware") -> Preset:
    criteria = (Criterion("format", well_formed), criterion)
    return Preset(name, criteria, schedule=constant(OFF), matching=matching, source=source)


PRESETS = (
    _grounding("vlmr1-rec", Criterion("iou", soft_iou), "arXiv 2504.07615, referring expressions, repaired"),
    _grounding("rec-iou2", Criterion("iou2", iou2_over_max), "arXiv 2504.07954 (Perception-R1), grounding"),
    _grounding(
        "rec-giou",
        Criterion("giou", soft_giou),
        "GIoU (Rezatofighi et al. 2019) as in NeMo-RL's bbox_giou, mapped to [0, 1]",
        matching="giou",
    ),
    _grounding("rec-hit", Criterion("hit", hit_over_max), "accuracy at IoU .5, the measure of RefCOCO"),
)
