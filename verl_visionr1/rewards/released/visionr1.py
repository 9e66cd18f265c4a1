"""Vision-R1's reward as its released code computes it (`visionr1_qwen.py`), without crashes; known values in tests.

It differs from the paper: GIoU replaces IoU; unmatched predictions and labels cost nothing; bounds are strict, so that
a value equal to the threshold counts as itself; on a negative image, text that is not JSON is rewarded. Where the
released code crashes (a prediction on a negative image) recall and precision are 0.
"""

from __future__ import annotations

import numpy as np

from verl_visionr1.answers import Answer, Defect
from verl_visionr1.criteria import Thresholds
from verl_visionr1.matching import Matching
from verl_visionr1.rewards.base import Criterion, Preset
from verl_visionr1.schedule import Schedule

STAGE_OFF = Thresholds(match_iou=0.5, recall_floor=0.0, recall_full=1.0, iou_floor=0.0, iou_full=1.0)
STAGE_BEGINNER = Thresholds(match_iou=0.5, recall_floor=0.5, recall_full=0.75, iou_floor=0.5, iou_full=0.75)
STAGE_ADVANCED = Thresholds(match_iou=0.75, recall_floor=0.5, recall_full=0.75, iou_floor=0.75, iou_full=0.9)
"""Its thresholds for `step=None`, below step 1500 and from 1500 on; recall's own bounds never tighten."""


def dual_format(answer: Answer, matching: Matching) -> float:
    """`dual_format_reward`: 1.0 for any valid JSON; for an image without objects, for anything but JSON."""
    parses = Defect.MALFORMED not in answer.defects
    return 1.0 if parses == bool(matching.n_target) else 0.0


def released_recall(matching: Matching, thresholds: Thresholds) -> float:
    """`recall_reward`: number of matches with GIoU above xi0, over n_T, then clamped. Both empty: 1.0."""
    if not matching.n_target:
        return 0.0 if matching.n_predicted else 1.0
    hits = _clamp(matching.ious, thresholds.match_iou, thresholds.match_iou).sum(dtype=np.float32)
    share = hits / np.float32(matching.n_target)
    return float(_clamp((share,), thresholds.recall_floor, thresholds.recall_full)[0])


def released_precision(matching: Matching, thresholds: Thresholds) -> float:
    """`precision_reward`: mean clamped GIoU of the matched pairs; extra predictions are ignored."""
    if not matching.ious:
        return 0.0 if matching.n_target or matching.n_predicted else 1.0
    return float(_clamp(matching.ious, thresholds.iou_floor, thresholds.iou_full).mean(dtype=np.float32))


def _clamp(values: tuple[float, ...], floor: float, full: float) -> np.ndarray:
    """Return 0 below `floor`, 1 above `full`, the value itself at both and between, in float32."""
    x = np.array(values, dtype=np.float32)
    return np.where(x < np.float32(floor), np.float32(0), np.where(x > np.float32(full), np.float32(1), x))


PRESETS = (
    Preset(
        "visionr1-released",
        criteria=(
            Criterion("format", dual_format),
            Criterion("recall", released_recall),
            Criterion("precision", released_precision),
        ),
        schedule=Schedule(((0.0, STAGE_BEGINNER), (0.5, STAGE_ADVANCED)), off=STAGE_OFF),
        answer_format="visionr1-released",
        matching="visionr1-released",
        is_sum=True,
        source="jefferyZhan/Griffon, Vision-R1/vision_r1/visionr1_qwen.py",
    ),
)
