"""COCO's matching, kept per image so that resampled images need no new matching.

COCO's rule (`pycocotools.cocoeval`): in an image and category, detections in order of score take the free true box with
the largest IoU, if it reaches tau (the last one among equals). True boxes that count come before those to ignore. A
crowd may be taken several times; its overlap is the share of the detection that it covers. Over all images, detections
are ranked by score, ties in the order of images and answers; with several random orders of the images, each resample
ranks ties of different images by one of them.

A resample of images is a weight for each of them: a true positive that is drawn w times counts w times at its rank.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verl_visionr1.boxes import Array
from verl_visionr1.criteria.average_precision import IOU_THRESHOLDS, RECALLS, rank_matches
from verl_visionr1.evaluation.detections import Detections
from verl_visionr1.rollouts.bootstrap import Indices, Weights

AREAS = {"": (0.0, 1e10), "s": (0.0, 1024.0), "m": (1024.0, 9216.0), "l": (9216.0, 1e10)}
"""COCO's sizes: end of a metric's name -> areas of boxes in square pixels; both ends belong to the range."""
_TAUS = tuple(min(tau, 1.0 - 1e-10) for tau in IOU_THRESHOLDS)
_RECALLS: Array = np.array(RECALLS)
_CELLS = 2_000_000

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ranked:
    """The detections of a category in one area range, best first.

    Attributes:
        units: n unit indices.
        ranks: n ranks within the image and category, from 0.
        hits: (T, n): true positive at each tau.
        ignored: (T, n): neither right nor wrong; None if there are none.
        n_true: number of counting true boxes of each of U units.
        orders: permutations of the n detections, one for each order of the images; empty if no two images
            share a score, so that the order does not matter.
    """

    units: Indices
    ranks: Indices
    hits: Flags
    ignored: Flags | None
    n_true: Array
    orders: tuple[Indices, ...] = ()

    def in_order(self, permutation: Indices) -> Ranked:
        """The detections in another ranking."""
        ignored = None if self.ignored is None else self.ignored[:, permutation]
        return Ranked(self.units[permutation], self.ranks[permutation], self.hits[:, permutation], ignored, self.n_true)

    def precision(self, weights_bu: Weights) -> Array:
        """Mean interpolated precision, shape (B, T); NaN if a resample has no true box.

        The B resamples are divided equally among the orders, in sequence.
        """
        if self.orders:
            shares = zip(self.orders, np.array_split(weights_bu, len(self.orders)), strict=True)
            parts = [self.in_order(order).precision(some) for order, some in shares if len(some)]
            return np.concatenate([np.empty((0, len(_TAUS))), *parts])
        found = np.full((len(weights_bu), len(_TAUS)), np.nan)
        step = max(_CELLS // max(len(self.units), 1), 1)
        for begin in range(0, len(weights_bu), step):
            self._precision(weights_bu[begin : begin + step], found[begin : begin + step])
        return found

    def _precision(self, weights_bu: Weights, found: Array) -> None:
        n_true = self._n_true(weights_bu)
        has_truth = n_true > 0.0
        weights = weights_bu[:, self.units]
        n_before = np.cumsum(weights, axis=1)
        for t in range(len(_TAUS)):
            ranks = np.flatnonzero(self.hits[t])
            if not len(ranks):
                found[has_truth, t] = 0.0
                continue
            n_said = n_before if self.ignored is None else np.cumsum(weights * ~self.ignored[t], axis=1)
            right = np.cumsum(weights[:, ranks], axis=1)
            precision = right / np.maximum(n_said[:, ranks], 1.0)
            best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            reached = _n_recalls(right / np.maximum(n_true, 1.0)[:, None])
            total = best[:, 0] * reached[:, 0] + (best[:, 1:] * (reached[:, 1:] - reached[:, :-1])).sum(axis=1)
            found[has_truth, t] = total[has_truth] / len(RECALLS)

    def recalls(self, weights_bu: Weights, max_det: int) -> Array:
        """Recall with at most `max_det` boxes per image, shape (B, T); NaN if a resample has no true box."""
        counted = self.hits & (self.ranks < max_det)
        n_true = self._n_true(weights_bu)
        n_found = weights_bu[:, self.units] @ counted.T.astype(weights_bu.dtype)
        return np.where(n_true[:, None] > 0.0, n_found / np.maximum(n_true, 1.0)[:, None], np.nan)

    def _n_true(self, weights_bu: Weights) -> Array:
        units = np.flatnonzero(self.n_true)
        # in float64, so that the recalls are COCO's to the bit
        return (weights_bu[:, units] @ self.n_true[units].astype(weights_bu.dtype)).astype(np.float64)


def _n_recalls(reached: Array) -> Array:
    """Number of COCO's 101 recalls that a recall reaches, bit-exact, at a tenth of the cost of a search.

    >>> _n_recalls(np.array([[0.0, 0.29, 0.5, 1.0]])).tolist() == [[1, 30, 51, 101]]
    True
    """
    guess = np.minimum((reached * 100.0).astype(np.int64), 100)
    return guess + 1 + (_RECALLS[np.minimum(guess + 1, 100)] <= reached) * (guess < 100) - (_RECALLS[guess] > reached)


def image_orders(names: Sequence[str], n: int) -> Indices:
    """n random orders of I images, shape (n, I): the place of each image. They depend on the names, not on their order.

    >>> places = image_orders(["b", "a"], 3)
    >>> (places[:, ::-1] == image_orders(["a", "b"], 3)).all()
    np.True_
    """
    rng = np.random.default_rng(0)
    by_name = np.argsort(np.argsort(np.array(names, dtype=object), kind="stable"), kind="stable")
    return np.array([rng.permutation(len(names))[by_name] for _ in range(n)], dtype=np.intp)


def ranked(
    detections: Detections, n_units: int, max_det: int, orders: Indices | None = None
) -> Iterator[dict[str, Ranked]]:
    """Rank the detections of each category in each of `AREAS`.

    Args:
        max_det: most detections per image and category.
        orders: `image_orders` for ranking ties; None: in the order of the images, as COCO.
    """
    truth = _by_pair(detections.gt_image, detections.gt_category)
    found = _by_pair(detections.dt_image, detections.dt_category)
    images_of: defaultdict[int, set[int]] = defaultdict(set)
    for category, image in (*truth, *found):
        images_of[category].add(image)
    for category in range(len(detections.categories)):
        images = sorted(images_of[category])
        pairs = [_Pair.of(detections, truth.get((category, i)), found.get((category, i)), max_det) for i in images]
        units = [int(detections.units[i]) for i in images]
        places = None if orders is None else orders[:, images]
        yield {size: _ranked(pairs, units, n_units, area, places) for size, area in AREAS.items()}


@dataclass(frozen=True, slots=True)
class _Pair:
    """One image and category: detections in descending order of score."""

    scores: Array
    dt_areas: Array
    gt_areas: Array
    crowd: Flags
    ious: Array

    @classmethod
    def of(cls, detections: Detections, gts: list[int] | None, dts: list[int] | None, max_det: int) -> _Pair:
        g, d = np.array(gts or [], dtype=np.intp), np.array(dts or [], dtype=np.intp)
        d = d[np.argsort(-detections.dt_score[d], kind="stable")][:max_det]
        gt, dt, crowd = detections.gt_xyxy[g], detections.dt_xyxy[d], detections.gt_crowd[g]
        # as maskApi.c: from corner and size, so that IoU is the same to the bit
        with np.errstate(all="ignore"):  # a model may write any number
            gt_wh, dt_wh = gt[:, 2:] - gt[:, :2], dt[:, 2:] - dt[:, :2]
            gt_areas, dt_areas = gt_wh[:, 0] * gt_wh[:, 1], dt_wh[:, 0] * dt_wh[:, 1]
            far = np.minimum((dt[:, :2] + dt_wh)[:, None], (gt[:, :2] + gt_wh)[None])
            shared_wh = np.maximum(far - np.maximum(dt[:, None, :2], gt[None, :, :2]), 0.0)
            shared = shared_wh[..., 0] * shared_wh[..., 1]
            union = np.where(crowd[None], dt_areas[:, None], dt_areas[:, None] + gt_areas[None] - shared)
            ious = np.where(shared > 0.0, shared / union, 0.0)
        return cls(detections.dt_score[d], dt_areas, gt_areas, crowd, ious)

    def matched(self, low: float, high: float) -> tuple[Flags, Flags]:
        """(T, D) hits and ignored, for true boxes in an area range."""
        odd = (self.dt_areas < low) | (self.dt_areas > high)
        skip = self.crowd | (self.gt_areas < low) | (self.gt_areas > high)
        taken = np.array(rank_matches(self.ious, _TAUS, last=skip.tolist(), shared=self.crowd.tolist()), dtype=np.intp)
        is_taken = taken >= 0
        skips = is_taken & np.append(skip, False)[taken]  # -1: no box
        return is_taken & ~skips, np.where(is_taken, skips, odd)


def _ranked(
    pairs: list[_Pair], units: list[int], n_units: int, area: tuple[float, float], places: Indices | None
) -> Ranked:
    low, high = area
    n_true = np.zeros(n_units)
    matched = [pair.matched(low, high) for pair in pairs]
    for pair, unit in zip(pairs, units, strict=True):
        n_true[unit] += np.count_nonzero(~pair.crowd & (pair.gt_areas >= low) & (pair.gt_areas <= high))
    sizes = [len(pair.scores) for pair in pairs]
    scores = np.concatenate([np.empty(0), *(pair.scores for pair in pairs)])
    order = np.argsort(-scores, kind="stable")
    none = np.empty((len(IOU_THRESHOLDS), 0), dtype=bool)
    hits = np.concatenate([none, *(hit for hit, _ in matched)], axis=1)[:, order]
    ignored = np.concatenate([none, *(ignore for _, ignore in matched)], axis=1)[:, order]
    ranks = np.concatenate([np.empty(0, dtype=np.intp), *(np.arange(size) for size in sizes)])[order]
    kept = np.flatnonzero(~ignored.all(axis=0))
    ignored = ignored[:, kept]
    images = np.repeat(np.arange(len(pairs)), sizes)[order][kept]
    return Ranked(
        units=np.repeat(np.array(units, dtype=np.intp), sizes)[order][kept],
        ranks=ranks[kept],
        hits=hits[:, kept],
        ignored=ignored if ignored.any() else None,
        n_true=n_true,
        orders=_tie_orders(scores[order][kept], images, places),
    )


def _tie_orders(scores: Array, images: Indices, places: Indices | None) -> tuple[Indices, ...]:
    """Permutations of ranked detections by the places of their images; none if no two images share a score."""
    if places is None or not ((scores[1:] == scores[:-1]) & (images[1:] != images[:-1])).any():
        return ()
    return tuple(np.lexsort((place[images], -scores)) for place in places)


def _by_pair(image: Indices, category: Indices) -> dict[tuple[int, int], list[int]]:
    """(category, image) -> indices of its boxes, in order."""
    found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for i, pair in enumerate(zip(category.tolist(), image.tolist(), strict=True)):
        found[pair].append(i)
    return found
