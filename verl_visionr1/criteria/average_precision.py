"""COCO average precision (AP) of one image, for answers without scores (independent of order) and for ranked lists.

Legend: tau is an IoU threshold; each class has k pairs at IoU >= tau, n_P predictions and n_T targets. A language model
gives no scores, so all its boxes tie. Released code breaks the tie by the order of the text: a false positive is free
after the true positives and costs most before them. Here the tied boxes are one point of the precision-recall curve,

    AP_tau = precision * recall = k/n_P * k/n_T,

which is also (except for COCO's grid of 101 recalls) the AP of the least favourable order.
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
"""COCO's tau: .50, .55 ... .95, bit for bit."""
RECALLS: tuple[float, ...] = tuple(np.linspace(0.0, 1.0, 101).tolist())
"""COCO's grid of recalls, bit for bit."""

Candidates: TypeAlias = list[tuple[bool, float, int]]
"""The candidate targets of a prediction: whether preferred, IoU, index."""


def ap(answer: Answer, target: Target, matching: Matching) -> float:
    """Mean over tau = .50:.05:.95 and over the classes of the target of AP with tied scores, in [0, 1].

    Pairs are those of the preset's matching, so no box counts twice and the order does not matter. Labels are compared
    without case; there is no cap of 100 detections. A prediction of a class that the target lacks, or an unreadable
    box, is a false positive shared by all C classes: 1/C for each. A target with one label has one class, whatever the
    answer's labels. n_T = 0: 1.0 iff nothing was predicted. As in any mean over classes, a false positive in a class
    whose AP is 0 costs nothing more.

    Source: COCO's metric as a reward, VLM-R1 (arXiv 2504.07615, `od_ap`), with repaired ties.
    """
    return _group_ties(answer, target, matching, IOU_THRESHOLDS)


def ap50(answer: Answer, target: Target, matching: Matching) -> float:
    """`ap` at tau = .50 only (VLM-R1's `od_ap50`)."""
    return _group_ties(answer, target, matching, IOU_THRESHOLDS[:1])


def od_length(answer: Answer, target: Target, matching: Matching) -> float:
    """`ap` times min(1, n_T / n_P) over all classes, in [0, 1]: VLM-R1's reward for open-vocabulary detection.

    n_P counts every predicted box, dropped ones included. Surplus boxes cost twice, in precision and in length, as in
    the released code if they come first. n_T = 0: 1.0 iff nothing was predicted. Source: arXiv 2504.07615, Eq. 7-8
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
    n_target_of = Counter(labels)
    unmatched = _count_unmatched(answer, target, matching)
    n_predicted_of = {label: len(ious_of.get(label, ())) + unmatched.get(label, 0) for label in n_target_of}
    stray = max(n_predicted - sum(n_predicted_of.values()), 0) / len(n_target_of)
    total = sum(
        [
            _tied_in_class(ious, n_predicted_of[label] + stray, n_target_of[label], taus)
            for label, ious in ious_of.items()
        ]
    )
    return min(total / len(n_target_of), 1.0)


def _count_unmatched(answer: Answer, target: Target, matching: Matching) -> dict[str, int]:
    """Count the boxes of each label that have no pair and are outside ignore regions."""
    excluded = {p for p, _ in matching.pairs} | find_ignored(answer, target, matching)
    as_written = Counter([label for p, label in enumerate(answer.labels) if p not in excluded])
    counts: dict[str, int] = {}
    for label, count in as_written.items():
        label = normalize_label(label)
        counts[label] = counts.get(label, 0) + count
    return counts


def _tied_in_class(ious: Sequence[float], n_predicted: float, n_target: int, taus: Sequence[float]) -> float:
    ordered = sorted(ious)
    found = [len(ordered) - bisect_left(ordered, tau - EPSILON) for tau in taus]
    return sum([k * k for k in found]) / (len(taus) * n_predicted * n_target)


def rank_matches(
    iou_pt: Array,
    taus: Sequence[float] = IOU_THRESHOLDS,
    *,
    last: Sequence[bool] = (),
    shared: Sequence[bool] = (),
) -> list[list[int]]:
    """Match predictions to targets at each tau by COCO's greedy rule.

    In row order, each prediction takes the free target of the largest IoU (the last one in a tie), if that is at least
    tau.

    Args:
        iou_pt: IoU of P predictions of one class, best score first, with its T targets; shape (P, T).
        taus: thresholds in (0, 1], increasing.
        last: T flags of targets that are taken only if no other target is possible.
        shared: T flags of targets that several predictions may take.

    Returns:
        For each tau a list of P target indices; -1 for none.
    """
    candidates: list[Candidates] = [[] for _ in range(len(iou_pt))]
    rows, columns = np.nonzero(iou_pt >= taus[0])
    ps: list[int] = rows.tolist()
    ts: list[int] = columns.tolist()
    overlaps: list[float] = iou_pt[rows, columns].tolist()
    for p, t, overlap in zip(ps, ts, overlaps, strict=True):
        candidates[p].append((not (last and last[t]), overlap, t))
    for row in candidates:
        row.sort(reverse=True)
    shared_ts = {t for t, is_shared in enumerate(shared) if is_shared}
    return [_match_at(tau, candidates, shared_ts) for tau in taus]


def _match_at(tau: float, candidates: list[Candidates], shared: set[int]) -> list[int]:
    taken: set[int] = set()
    matches: list[int] = []
    for row in candidates:
        chosen = next((t for _, overlap, t in row if overlap >= tau and t not in taken), -1)
        matches.append(chosen)
        if chosen not in shared:
            taken.add(chosen)
    return matches


def ap_of_ranking(hits: Sequence[bool], n_target: int) -> float:
    """COCO's AP of a ranked list, in [0, 1]: the interpolated precision, averaged over 101 recalls.

    `hits`: whether each prediction, best score first, is a true positive; `n_target`: at least 1.
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
"""Criteria for presets."""
