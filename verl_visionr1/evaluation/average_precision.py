"""COCO's metrics of one data source: AP, AP50, AP75, by size, AR, by category; NMS-AP of OVDEval.

AP is the mean over IoU .50:.05:.95 and over the categories that have a true box; precision is interpolated at 101
recalls. AR@m is the recall with at most m boxes per image and category, averaged in the same way. Source: Lin et al.
2014 and cocodataset.org, "Metrics"; the tests compare every number with pycocotools, which has no resamples.

If boxes of different images have equal confidence, COCO's number depends on the order of the rows. Average precision is
then the mean over `N_ORDERS` random orders of the images, and the interval includes their spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from verl_visionr1.boxes import Array, pairwise_iou
from verl_visionr1.evaluation.detections import Detections
from verl_visionr1.evaluation.ranking import Ranked, image_orders, ranked
from verl_visionr1.rollouts.bootstrap import Weights

MAX_DETS = (1, 10, 100)
"""COCO's limits on boxes per image and category."""
N_ORDERS = 100
"""Number of random orders of the images for ranking ties."""
_TAU_50, _TAU_75 = 0, 5


class AveragePrecision:
    """COCO's metrics of one set of detections, as `bootstrap.Measured`.

    Args:
        n_units: number of bootstrap units.
        prefix: of the metrics' names; without one, AP of each category is added, as "AP/<category>".
        n_orders: number of random orders of the images for ranking ties, `N_ORDERS` by default; 0: the order of the
            rows, as COCO.

    Attributes:
        ranks: for each category its `Ranked` in each of `AREAS`.
        has_ties: whether the order of the images matters.
        values: metric -> (value, number of COCO images); the value is the mean over the orders of ties.
    """

    def __init__(self, detections: Detections, n_units: int, prefix: str = "", n_orders: int | None = None) -> None:
        self.detections, self.prefix = detections, prefix
        n_orders = N_ORDERS if n_orders is None else n_orders
        orders = image_orders(detections.names, n_orders) if n_orders else None
        self.ranks = tuple(ranked(detections, n_units, MAX_DETS[-1], orders))
        self.has_ties = any(one.orders for areas in self.ranks for one in areas.values())
        each = self.resampled(np.ones((n_orders if self.has_ties else 1, n_units)))
        self.values: Mapping[str, tuple[float | None, int]] = {
            name: (None if np.isnan(some).all() else float(np.nanmean(some)), detections.n_images)
            for name, some in each.items()
        }

    def resampled(self, weights_bu: Weights) -> Mapping[str, Array]:
        """Metric -> B values."""
        nothing = np.full(len(weights_bu), np.nan)
        by_category = [_of_category(areas, weights_bu) for areas in self.ranks]
        names = [f"AP{end}" for end in ("", "50", "75", "s", "m", "l")]
        names += [f"AR{end}" for end in (*MAX_DETS, "s", "m", "l")]
        found = {
            f"{self.prefix}{name}": _mean_over(np.array([nothing, *(one.get(name, nothing) for one in by_category)]))
            for name in names
        }
        if not self.prefix:
            for category, one in zip(self.detections.categories, by_category, strict=True):
                found |= {f"{name}/{category}": one.get(name, nothing) for name in ("AP", "AP50")}
        return found

    def n_true(self, category: int, size: str = "") -> int:
        """Number of a category's true boxes that count in one of `AREAS`."""
        return int(self.ranks[category][size].n_true.sum())


def _of_category(areas: Mapping[str, Ranked], weights_bu: Weights) -> dict[str, Array]:
    """The metrics of one category with true boxes."""
    found: dict[str, Array] = {}
    for size, one in areas.items():
        if not one.n_true.any():
            continue
        precision = one.precision(weights_bu)
        found[f"AP{size}"] = precision.mean(axis=1)
        if size:
            found[f"AR{size}"] = one.recalls(weights_bu, MAX_DETS[-1]).mean(axis=1)
        else:
            found |= {"AP50": precision[:, _TAU_50], "AP75": precision[:, _TAU_75]}
            found |= {f"AR{limit}": one.recalls(weights_bu, limit).mean(axis=1) for limit in MAX_DETS}
    return found


def _mean_over(values: Array) -> Array:
    """Means over categories of B values that may be missing (NaN)."""
    count = np.count_nonzero(~np.isnan(values), axis=0)
    return np.where(count > 0, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)


def after_nms(detections: Detections, match_iou: float = 0.5) -> Detections:
    """The detections for OVDEval's NMS-AP.

    Of all detections with IoU above `match_iou` with a true box, of any category, only the most confident is kept,
    unless another is the most confident at another true box. Among equal confidences the first in the answer is kept
    (in the released script the sort decides). Source: arXiv 2308.13177 and `eval.py` of om-ai-lab/OVDEval, which uses
    only images with true boxes.
    """
    kept = np.ones(len(detections.dt_image), dtype=bool)
    best: set[int] = set()
    for g in np.flatnonzero(~detections.gt_crowd):
        near = np.flatnonzero(detections.dt_image == detections.gt_image[g])
        ious = pairwise_iou(detections.dt_xyxy[near].tolist(), [detections.gt_xyxy[g].tolist()]) if near.size else near
        over = near[ious.ravel() > match_iou]
        if over.size:
            best.add(int(over[np.argmax(detections.dt_score[over])]))  # the first of equal ones
            kept[over] = False
    kept[sorted(best)] = True
    columns = ("dt_image", "dt_category", "dt_xyxy", "dt_score")
    return replace(detections, **{name: getattr(detections, name)[kept] for name in columns})
