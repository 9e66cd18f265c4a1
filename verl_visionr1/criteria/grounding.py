"""Criteria of one or a few referents: IoU squared, GIoU, hit or miss.

All have one form, which covers a single referent, several phrases (each a label) and phrases with several referents:
the sum of g(pair) over the matched pairs, divided by max(n_P, n_T). One referent and one box give g itself; surplus
boxes and misses cost the same. n_T = 0, a phrase without a referent: 1.0 iff nothing was predicted. The plain IoU is
`dense.soft_iou`.
"""

from __future__ import annotations

from collections.abc import Callable

from verl_visionr1.criteria.thresholds import EPSILON
from verl_visionr1.matching import Matching


def iou2_over_max(matching: Matching) -> float:
    """g = IoU squared, in [0, 1]: poor boxes count less (Perception-R1, arXiv 2504.07954)."""
    most = max(matching.n_predicted, matching.n_target)
    return sum([pair_iou * pair_iou for pair_iou in matching.ious]) / most if most else 1.0


def soft_giou(matching: Matching) -> float:
    """g = (1 + GIoU) / 2, in [0, 1]: a box that misses its object earns more the nearer it is.

    Needs pairs matched by GIoU, `matching: giou`. A box that covers its whole object earns at least .5, and a guess
    earns more than an empty answer, as in other systems that reward GIoU (NeMo-RL, Visual-RFT on LISA).
    """
    most = max(matching.n_predicted, matching.n_target)
    return sum([(1.0 + pair_giou) / 2.0 for pair_giou in matching.ious]) / most if most else 1.0


def hit_over_max(matching: Matching, *, match_iou: float = 0.5) -> float:
    """g = 1 if IoU >= `match_iou`, else 0: the accuracy metric of referring expressions."""
    most = max(matching.n_predicted, matching.n_target)
    return sum([pair_iou >= match_iou - EPSILON for pair_iou in matching.ious]) / most if most else 1.0


CRITERIA: tuple[Callable[..., float], ...] = (iou2_over_max, soft_giou, hit_over_max)
"""Criteria for presets."""
