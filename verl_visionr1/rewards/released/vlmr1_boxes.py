"""VLM-R1's rewards of boxes as its released code computes them, without its crashes; known values in tests.

Those of referring expressions are in `vlmr1_rec`; this module has those of open-vocabulary detection. Each parses the
completion by its own rules (first or last answer, first or last block), so the preset's parsed answer serves only the
common metrics.

Known flaws: boxes are compared without a change of frame. Labels that the target lacks, and false positives after the
true boxes, cost AP nothing. A wrong label still earns .3 of `weighted_sum`. For an empty target, any answer without a
block of boxes earns 1.

A box with NaN overlaps nothing here; in the released code its IoU is NaN, which passes every threshold, so AP counts a
match. A whole number too large for a float crashes the released AP, even beside good boxes: it is 0 here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from verl_visionr1.answers import MAX_BOXES, MAX_CHARS
from verl_visionr1.boxes import Array, Box, Boxes, pairwise_iou
from verl_visionr1.criteria import OFF
from verl_visionr1.criteria.average_precision import IOU_THRESHOLDS, ap_of_ranking, rank_matches
from verl_visionr1.rewards.base import Criterion, Preset
from verl_visionr1.rewards.released import vlmr1_rec
from verl_visionr1.rewards.released.vlmr1_rec import answer_format, between, cleaned_answer, stripped_iou
from verl_visionr1.schedule import constant
from verl_visionr1.targets import Target

MAX_DETECTIONS = 100
"""Predictions of one class that AP reads; further ones are ignored."""
MAX_AREA = 1e10
"""COCO's largest area: a larger unmatched prediction is not counted."""


def od_ap(completion: str, target: Target) -> float:
    """`od_reward` of COCO's AP at .50:.05:.95; all scores are equal, so that the order of the text decides; in [0, 1].

    Reads the last JSON block of the last `<answer>`; no answer: 0.0. For an empty target "None", and any other answer
    without boxes, earns 1.0.
    """
    return _of_answer(completion, target, IOU_THRESHOLDS)


def od_ap50(completion: str, target: Target) -> float:
    """`od_reward` of AP at IoU .5."""
    return _of_answer(completion, target, IOU_THRESHOLDS[:1])


def od_length(completion: str, target: Target) -> float:
    """`odLength_reward`: `od_ap` times min(1, n_T / n_P), where every item of the list counts."""
    return _of_answer(completion, target, IOU_THRESHOLDS, by_length=True)


def od_map(completion: str, target: Target) -> float:
    """`map_reward`: `od_ap` on the last JSON block of the whole text."""
    return _coco(_items(list(between(completion, "```json", "```"))[-1:]), target, IOU_THRESHOLDS)


def _of_answer(completion: str, target: Target, taus: Sequence[float], *, by_length: bool = False) -> float:
    answers = list(between(completion, "<answer>", "</answer>"))
    if not answers:
        return 0.0
    items = _items(list(between(answers[-1], "```json", "```"))[-1:])
    ap = _coco(items, target, taus)
    n_target = len(target.boxes_xyxy)
    return ap * n_target / len(items) if by_length and len(items) > n_target else ap


def _coco(items: list[Any], target: Target, taus: Sequence[float]) -> float:
    """AP of one image, averaged over the classes of the target; predictions of other classes are dropped."""
    if not items or not target.boxes_xyxy:
        return 0.0 if items or target.boxes_xyxy else 1.0
    targets: dict[str, list[Box]] = {}
    for label, box in zip(_labels(target), cast(Boxes, target.boxes_xyxy), strict=True):
        targets.setdefault(label, []).append(box)
    predicted: dict[str, list[Box]] = {label: [] for label in targets}
    if any(_crashes_coco(item, predicted) for item in items):
        return 0.0
    for claim in _claims(items):
        if claim.label in predicted:
            predicted[claim.label].append(claim.box)
    total = 0.0
    for label, boxes in predicted.items():
        # Boxes inverted in one direction, or beyond the largest area, match nothing and are not counted either.
        ranked = [box for box in boxes[:MAX_DETECTIONS] if not (_area(box) < 0.0 or _area(box) > MAX_AREA)]
        if ranked:
            matches_of = rank_matches(pairwise_iou(ranked, targets[label]), taus)
            total += sum([ap_of_ranking([t >= 0 for t in found], len(targets[label])) for found in matches_of])
    return total / (len(taus) * len(targets))


def _crashes_coco(item: object, labels: Mapping[str, object]) -> bool:
    """Whether an object has a whole number too large for a float: it crashes COCO; beside a decimal it is dropped."""
    if not isinstance(item, dict):
        return False
    label, box = (cast(dict[str, Any], item).get(key) for key in ("label", "bbox_2d"))
    if not (isinstance(label, str) and label in labels and isinstance(box, list)):
        return False
    numbers = cast(list[Any], box)[:4]
    are_whole = len(numbers) == 4 and all(isinstance(number, int) for number in numbers)
    return are_whole and max(number.bit_length() for number in numbers) > 1024


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def released_weighted_sum(completion: str, target: Target) -> float:
    """`weighted_sum` (`detection_score`): .7 * position + .3 * completeness, in [0, 1].

    Reads the first JSON block of the last `<answer>` (of the text without one) in lower case. Pairs are taken greedily
    by IoU from .5 on, whatever their labels; a pair with different labels counts as found, with IoU 0. A prediction
    without a label takes that of the previous pair, as released; without a previous pair, where the released code
    crashes, it is wrong. Empty target: 1.0 iff the answer is "none".
    """
    answer = cleaned_answer(completion)
    if not target.boxes_xyxy:
        return 1.0 if answer == "none" else 0.0
    items = _items(list(between(answer, "```json", "```"))[:1])
    if not items:
        return 0.0
    claims = list(_claims(items))
    labels = [label.lower() for label in _labels(target)]
    position, label = 0.0, None
    pairs = _greedy(stripped_iou([claim.box for claim in claims], cast(Boxes, target.boxes_xyxy), 1.0))
    for p, t, overlap in pairs:
        label = label if claims[p].label is None else claims[p].label
        position += overlap if label == labels[t] else 0.0
    completeness = (len(pairs) / len(labels) + len(pairs) / len(items)) / 2.0
    return 0.7 * (position / len(labels)) + 0.3 * completeness


def _greedy(iou_pt: Array) -> list[tuple[int, int, float]]:
    """Take pairs from the largest IoU down to .5, ties in row order, each row and column once."""
    rows, columns = np.nonzero(iou_pt >= 0.5)
    overlaps = iou_pt[rows, columns]
    best_first = np.argsort(-overlaps, kind="stable")
    sorted_pairs = (column[best_first].tolist() for column in (rows, columns, overlaps))
    pairs: list[tuple[int, int, float]] = []
    used_p: set[int] = set()
    used_t: set[int] = set()
    for p, t, overlap in zip(*sorted_pairs, strict=True):
        if p not in used_p and t not in used_t:
            used_p.add(p)
            used_t.add(t)
            pairs.append((p, t, overlap))
    return pairs


def _labels(target: Target) -> Sequence[str]:
    return target.labels or ("",) * len(target.boxes_xyxy)


class Claim(NamedTuple):
    """One object of a list: its four numbers, in any order, and its label if that is a text."""

    box: Box
    label: str | None


def _claims(items: list[Any]) -> Iterator[Claim]:
    """Yield at most `MAX_BOXES` objects with a box; the others count as items, but match nothing."""
    n_left = MAX_BOXES
    for item in items:
        if n_left and isinstance(item, dict):
            box = _box(cast(dict[str, Any], item).get("bbox_2d"))
            if box is not None:
                label = cast(dict[str, Any], item).get("label")
                yield Claim(box, label if isinstance(label, str) else None)
                n_left -= 1


def _box(value: object) -> Box | None:
    numbers = cast(list[Any], value)[:4] if isinstance(value, list) else []
    if len(numbers) < 4 or not all(isinstance(number, int | float) for number in numbers):
        return None
    try:
        x1, y1, x2, y2 = map(float, numbers)
    except OverflowError:
        return None
    return x1, y1, x2, y2


def _items(blocks: list[str]) -> list[Any]:
    """Return the items of the list in the only block; none without a block, for a long one, or for invalid JSON."""
    if not blocks or len(blocks[0]) > MAX_CHARS:
        return []
    try:
        return list(json.loads(blocks[0].strip()))
    except (ValueError, TypeError, RecursionError):  # TypeError: a number has no items
        return []


PRESETS = (
    *vlmr1_rec.PRESETS,
    Preset(
        "vlmr1-ovd-released",
        (
            Criterion("format", answer_format),
            Criterion("od_length", od_length),
            Criterion("ap", od_ap, 0.0),
            Criterion("ap50", od_ap50, 0.0),
            Criterion("map", od_map, 0.0),
            Criterion("weighted_sum", released_weighted_sum, 0.0),
        ),
        schedule=constant(OFF),
        is_sum=True,
        source="om-ai-lab/VLM-R1, open_r1/grpo_jsonl.py",
    ),
)
