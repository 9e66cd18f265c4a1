"""Presets of grounding: the soft and the hard rewards of referring expressions, for one referent or several.

Each is format plus one number; they judge detection too, where a label stands for a phrase.
"""

from __future__ import annotations

from verl_visionr1.criteria import OFF, well_formed
from verl_visionr1.criteria.dense import soft_iou
from verl_visionr1.criteria.grounding import hit_over_max, iou2_over_max, soft_giou
from verl_visionr1.rewards.base import Criterion, Preset
from verl_visionr1.schedule import constant

FORMAT = Criterion("format", well_formed)

PRESETS = (
    Preset(
        "vlmr1-rec",
        (FORMAT, Criterion("iou", soft_iou)),
        schedule=constant(OFF),
        source="arXiv 2504.07615, referring expressions, repaired",
    ),
    Preset(
        "rec-iou2",
        (FORMAT, Criterion("iou2", iou2_over_max)),
        schedule=constant(OFF),
        source="arXiv 2504.07954 (Perception-R1), grounding",
    ),
    Preset(
        "rec-giou",
        (FORMAT, Criterion("giou", soft_giou)),
        schedule=constant(OFF),
        matching="giou",
        source="GIoU (Rezatofighi et al. 2019) as in NeMo-RL's bbox_giou, mapped to [0, 1]",
    ),
    Preset(
        "rec-hit",
        (FORMAT, Criterion("hit", hit_over_max)),
        schedule=constant(OFF),
        source="accuracy at IoU .5, the measure of RefCOCO",
    ),
)
