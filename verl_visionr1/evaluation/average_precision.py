"""COCO's metrics of one data source: AP, AP50, AP75, by size, AR, by category; NMS-AP of OVDEval.

AP is the mean over IoU .50:.05:.95 and over the categories that have a true box; precision is interpolated at 101
recalls. AR@m is the recall with at most m boxes per image and category, averaged in the same way. Source: Lin et al.
2014 and cocodataset.org, "Metrics"; the tests compare every number with pycocotools, which has no resamples.

If boxes of different images have equal confidence, COCO's number depends on the order of the rows. Average precision is
then the mean over `N_ORDERS` random orders of the images, and the interval includes their spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from verl_visionr1.boxes import Array, pairwise_iou
from verl_visionr1.criteria.average_precision import IOU_THRESHOLDS
from verl_visionr1.evaluation.detections import Detections
from verl_visionr1.evaluation.ranking import Ranked, image_orders, ranked
from verl_visionr1.rollouts.bootstrap import Weights

MAX_DETS = (1, 10, 100)
"""COCO's limits on boxes per image and category."""
N_ORDERS = 100
"""Number of random orders of the images for ranking ties."""
_ALL = tuple(range(len(IOU_THRESHOLDS)))
_TAU_50, _TAU_75 = 0, 5


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's metrics of one set of detections.

    Attributes:
        n_units: number of bootstrap units.
        max_dets: limits on boxes per image and category.
        prefix: prefix of the metrics' names.
        by_category: whether to add AP of each category, as "AP/<category>".
        n_orders: number of random orders of the images for ranking ties; 0: the order of the rows, as COCO.
        ranks: for each category its `Ranked` in each of `AREAS`.
    """

    detections: Detections
    n_units: int
    max_dets: Sequence[int] = MAX_DETS
    prefix: str = ""
    by_category: bool = True
    n_orders: int = N_ORDERS
    ranks: tuple[dict[str, Ranked], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        orders = image_orders(self.detections.names, self.n_orders) if self.n_orders else None
        ranks = ranked(self.detections, self.n_units, self.max_dets[-1], orders)
        object.__setattr__(self, "ranks", tuple(ranks))

    @property
    def has_ties(self) -> bool:
        """Whether the order of the images matters."""
        return any(one.orders for areas in self.ranks for one in areas.values())

    @property
    def values(self) -> Mapping[str, tuple[float | None, int]]:
        """Metric -> (value, number of COCO images); the value is the mean over the orders of ties."""
        return self._values

    @cached_property
    def _values(self) -> Mapping[str, tuple[float | None, int]]:
        each = self.resampled(np.ones((self.n_orders if self.has_ties else 1, self.n_units)))
        return {name: (_mean(some), self.detections.n_images) for name, some in each.items()}

    def resampled(self, weights_bu: Weights) -> Mapping[str, Array]:
        """Metric -> B values."""
        by_category = [self._of_category(areas, weights_bu) for areas in self.ranks]
        names = [f"AP{end}" for end in ("", "50", "75", "s", "m", "l")]
        names += [f"AR{end}" for end in (*self.max_dets, "s", "m", "l")]
        nothing = np.full(len(weights_bu), np.nan)
        found = {self.prefix + name: _mean_over([one.get(name, nothing) for one in by_category], nothing)
                 for name in names}  # fmt: skip
        if self.by_category:
            for category, one in zip(self.detections.categories, by_category, strict=True):
                found |= {f"{self.prefix}{name}/{category}": one.get(name, nothing) for name in ("AP", "AP50")}
        return found

    def _of_category(self, areas: Mapping[str, Ranked], weights_bu: Weights) -> dict[str, Array]:
        """The metrics of one category with true boxes."""
        found: dict[str, Array] = {}
        for size, one in areas.items():
            if one.n_true.any():
                precision = one.precision(weights_bu, _ALL)
                found[f"AP{size}"] = precision.mean(axis=1)
                if size:
                    found[f"AR{size}"] = one.recalls(weights_bu, self.max_dets[-1]).mean(axis=1)
                    continue
                found |= {"AP50": precision[:, _TAU_50], "AP75": precision[:, _TAU_75]}
                found |= {f"AR{limit}": one.recalls(weights_bu, limit).mean(axis=1) for limit in self.max_dets}
        return found

    def n_true(self, category: int, size: str = "") -> int:
        """Number of a category's true boxes that count in one of `AREAS`."""
        return int(self.ranks[category][size].n_true.sum())


def _mean_over(values: Sequence[Array], nothing: Array) -> Array:
    """Means over categories of B values that may be missing (NaN)."""
    kept = np.array(values) if values else nothing[None]
    count = np.count_nonzero(~np.isnan(kept), axis=0)
    return np.where(count > 0, np.nansum(kept, axis=0) / np.maximum(count, 1), np.nan)


def _mean(values: Array) -> float | None:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else None


def after_nms(detections: Detections, match_iou: float = 0.5) -> Detections:
    """The detections for OVDEval's NMS-AP.

    Of all detections with IoU above `match_iou` with a true box, of any category, only the most confident is kept,
    unless another is the most confident at another true box. So a model that gives one object all the offered labels
    keeps one of them. Among equal confidences the first in the answer is kept (in the released script the sort
    decides). Source: arXiv 2308.13177 and `eval.py` of om-ai-lab/OVDEval, which uses only images with true boxes.
    """
    kept = np.ones(len(detections.dt_image), dtype=bool)
    best: set[int] = set()
    surplus: set[int] = set()
    by_image: dict[int, list[int]] = {}
    for i, image in enumerate(detections.dt_image.tolist()):
        by_image.setdefault(image, []).append(i)
    for g in np.flatnonzero(~detections.gt_crowd).tolist():
        near = by_image.get(int(detections.gt_image[g]), [])
        if not near:
            continue
        ious = pairwise_iou(detections.dt_xyxy[near].tolist(), [detections.gt_xyxy[g].tolist()])[:, 0]
        over = [d for d, iou in zip(near, ious.tolist(), strict=True) if iou > match_iou]
        if over:
            first = max(over, key=lambda d: (detections.dt_score[d], -d))
            best.add(first)
            surplus.update(d for d in over if d != first)
    kept[sorted(surplus - best)] = False
    columns = ("dt_image", "dt_category", "dt_xyxy", "dt_score")
    return replace(detections, **{name: getattr(detections, name)[kept] for name in columns})
