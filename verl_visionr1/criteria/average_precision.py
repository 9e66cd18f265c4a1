"""COCO average precision (AP) of one image: order-free for answers without scores, and the ranked core of COCO itself.

Legend: tau an IoU threshold; for each class k pairs at IoU >= tau, n_P predictions, n_T targets. A language model
gives no scores, so all its boxes tie. Released code breaks the tie by the order of writing: a false alarm is free after
the true boxes and ruinous before them. Here the tied boxes are one point of the precision-recall curve,

    AP_tau = precision * recall = k/n_P * k/n_T,

which is also (but for COCO's grid of 101 recalls) the AP of the least favourable order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Array
from verl_visionr1.criteria.thresholds import EPSILON
from verl_visionr1.matching import Matching, find_ignored
from verl_visionr1.targets import Target, normalize_label

IOU_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's tau: .50, .55 ... .95, to the bit."""
RECALLS: tuple[float, ...] = tuple(np.linspace(0.0, 1.0, 101).tolist())
"""COCO's grid of recalls, to the bit."""

Candidates: TypeAlias = list[tuple[bool, float, int]]
"""The targets that a prediction may take: whether before others, IoU, index."""


def ap(answer: Answer, target: Target, matching: Matching) -> float:
    """Mean over tau = .50:.05:.95 and over the classes of the target of AP with tied scores, in [0, 1].

    Pairs are those of the preset's matching, so no box counts twice and order plays no part; labels are compared
    without case; there is no cap of 100 detections. A prediction of no class that is there (another label, or a box
    that cannot be read) is a false alarm of all classes alike: each of C classes bears 1/C of it. A target that knows
    one label only is one class, whatever the answer calls it. n_T = 0: 1.0 iff nothing was predicted. As with any mean
    over classes, a false alarm in a class that stands at 0 takes nothing more away.

    Source: COCO's metric as a reward, VLM-R1 (arXiv 2504.07615, `od_ap`), with the ties repaired.
    """
    return _group_ties(answer, target, matching, IOU_THRESHOLDS)


def ap50(answer: Answer, target: Target, matching: Matching) -> float:
    """As `ap`, for tau = .50 alone (VLM-R1's `od_ap50`)."""
    return _group_ties(answer, target, matching, IOU_THRESHOLDS[:1])


def od_length(answer: Answer, target: Target, matching: Matching) -> float:
    """`ap` times min(1, n_T / n_P) over all classes, in [0, 1]: VLM-R1's reward for open-vocabulary detection.

    n_P counts every claimed box. Surplus boxes thus cost twice, in precision and in length, as in the released code
    when they are written first. n_T = 0: 1.0 iff nothing was predicted. Source: arXiv 2504.07615, Eq. 7-8
    (`odLength`).
    """
    share = matching.n_target / matching.n_predicted if matching.n_predicted > matching.n_target else 1.0
    return share * _group_ties(answer, target, matching, IOU_THRESHOLDS)


def _group_ties(answer: Answer, target: Target, matching: Matching, taus: Sequence[float]) -> float:
    n_predicted, n_target = matching.n_predicted, matching.n_target
    if not n_predicted or not n_target:
        return 1.0 if n_predicted == n_target else 0.0
    if not target.is_multiclass or not target.labels:
        return _tied_in_class(matching.ious, n_predicted, n_target, taus)
    labels = target.normalized_labels
    ious_of: dict[str, list[float]] = {}
    for (_, t), pair_iou in zip(matching.pairs, matching.ious, strict=True):
        ious_of.setdefault(labels[t], []).append(pair_iou)
    wanted = Counter(labels)
    said = _n_unmatched(answer, target, matching)
    n_said = {label: len(ious_of.get(label, ())) + said.get(label, 0) for label in wanted}
    stray = max(n_predicted - sum(n_said.values()), 0) / len(wanted)
    total = sum([_tied_in_class(ious, n_said[label] + stray, wanted[label], taus) for label, ious in ious_of.items()])
    return min(total / len(wanted), 1.0)


def _n_unmatched(answer: Answer, target: Target, matching: Matching) -> dict[str, int]:
    """How many boxes without a pair, outside ignore regions, carry each label."""
    apart = {p for p, _ in matching.pairs} | find_ignored(answer, target, matching)
    as_written = Counter([label for p, label in enumerate(answer.labels) if p not in apart])
    counts: dict[str, int] = {}
    for label, count in as_written.items():
        label = normalize_label(label)
        counts[label] = counts.get(label, 0) + count
    return counts


def _tied_in_class(ious: Sequence[float], n_predicted: float, n_target: int, taus: Sequence[float]) -> float:
    ordered = sorted(ious)
    found = [len(ordered) - bisect_left(ordered, tau - EPSILON) for tau in taus]
    return sum([k * k for k in found]) / (len(taus) * n_predicted * n_target)


# --- AP of a ranked list, as COCO has it ----------------------------------------------------------------------------


def rank_matches(
    iou_pt: Array,
    taus: Sequence[float] = IOU_THRESHOLDS,
    *,
    last: Sequence[bool] = (),
    shared: Sequence[bool] = (),
) -> list[list[int]]:
    """Which target each prediction takes at each tau, by COCO's greedy rule.

    In the order of its rows each prediction takes the free target that it overlaps most (of equals the last), if that
    IoU reaches tau.

    Args:
        iou_pt: IoU of P predictions of one class, best score first, with its T targets; shape (P, T).
        taus: thresholds in (0, 1], rising.
        last: T flags of targets that are taken only where no other one can be.
        shared: T flags of targets that any number of predictions may take.

    Returns:
        One list for each tau, of P indices of targets; -1 for none.

    >>> rank_matches(np.array([[0.6, 0.0], [0.9, 0.0]]), (0.5, 0.75))
    [[0, -1], [-1, 0]]
    """
    candidates: list[Candidates] = [[] for _ in range(len(iou_pt))]
    rows, columns = np.nonzero(iou_pt >= taus[0])
    ps: list[int] = rows.tolist()
    ts: list[int] = columns.tolist()
    overlaps: list[float] = iou_pt[rows, columns].tolist()
    for p, t, overlap in zip(ps, ts, overlaps, strict=True):
        candidates[p].append((not (last and last[t]), overlap, t))
    for some in candidates:
        some.sort(reverse=True)
    many = {t for t, is_shared in enumerate(shared) if is_shared}
    return [_matches(candidates, tau, many) for tau in taus]


def _matches(candidates: list[Candidates], tau: float, shared: set[int]) -> list[int]:
    taken: set[int] = set()
    matches: list[int] = []
    for some in candidates:
        chosen = next((t for _, overlap, t in some if overlap >= tau and t not in taken), -1)
        matches.append(chosen)
        if chosen not in shared:
            taken.add(chosen)
    return matches


def ap_of_ranking(hits: Sequence[bool], n_target: int) -> float:
    """COCO's AP of a ranked list: the interpolated precision, averaged over 101 recalls, in [0, 1].

    Args:
        hits: for each prediction, best score first, whether it is a true positive.
        n_target: how many there are to find, at least 1.

    >>> round(ap_of_ranking([True], 2), 5), round(ap_of_ranking([False, True], 1), 5)
    (0.50495, 0.5)
    """
    ranks = [rank for rank, hit in enumerate(hits, start=1) if hit]
    best, total = 0.0, 0.0
    above = bisect_right(RECALLS, len(ranks) / n_target)
    for found in range(len(ranks), 0, -1):
        best = max(best, found / ranks[found - 1])
        below = bisect_right(RECALLS, (found - 1) / n_target) if found > 1 else 0
        total += best * (above - below)
        above = below
    return total / len(RECALLS)


CRITERIA: tuple[Callable[..., float], ...] = (ap, ap50, od_length)
"""What a preset may name."""
