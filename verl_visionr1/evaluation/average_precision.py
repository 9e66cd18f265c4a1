"""The COCO family of numbers of one data source: AP, AP50, AP75, by size, AR, by category; NMS-AP of OVDEval.

The numbers are faster-coco-eval's, and their intervals come from `ranking` (the tests hold the two against each other,
and against pycocotools). Where boxes of different images are equally confident, COCO's number hangs on the order of the
rows: average precision is then the mean over `N_ORDERS` random orders of the images, and the interval holds their
spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from verl_visionr1.boxes import Array, pairwise_iou
from verl_visionr1.criteria.average_precision import IOU_THRESHOLDS
from verl_visionr1.evaluation.coco import AREAS, TAU_50, TAU_75, CocoNumbers, coco_numbers
from verl_visionr1.evaluation.detections import Detections
from verl_visionr1.evaluation.ranking import Ranked, image_orders, ranked
from verl_visionr1.rollouts.bootstrap import Weights

N_ORDERS = 100
"""Random orders of the images that ties are ranked by."""
_ALL = tuple(range(len(IOU_THRESHOLDS)))
_SIZES = {"s": 1, "m": 2, "l": 3}


@dataclass(frozen=True)
class AveragePrecision:
    """The family, of one set of detections.

    Attributes:
        detections: what is measured.
        n_units: units of the bootstrap.
        max_dets: limits on the boxes of an image and category.
        prefix: put before the names of the metrics.
        by_category: also give AP of each category, as "AP/<category>".
        n_orders: random orders of the images that ties are ranked by; 0: one, that of the rows, as COCO.
        numbers: what COCO's evaluator says.
        ranks: for each category its `Ranked` in each area range.
    """

    detections: Detections
    n_units: int
    max_dets: Sequence[int] = (1, 10, 100)
    prefix: str = ""
    by_category: bool = True
    n_orders: int = N_ORDERS
    numbers: CocoNumbers = field(init=False, repr=False)
    ranks: tuple[list[Ranked], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", coco_numbers(self.detections, self.max_dets))
        orders = image_orders(self.detections.names, self.n_orders) if self.n_orders else None
        ranks = ranked(self.detections, self.n_units, self.max_dets[-1], orders)
        object.__setattr__(self, "ranks", tuple(ranks))

    @property
    def has_ties(self) -> bool:
        """Whether the order of the images plays a part."""
        return any(one.orders for areas in self.ranks for one in areas)

    @property
    def values(self) -> Mapping[str, tuple[float | None, int]]:
        """Metric -> its value; the number is that of COCO images."""
        precision, recall = self.numbers.precision, self.numbers.recall
        found: dict[str, Array] = {"AP": precision[..., 0], "AP50": precision[TAU_50, :, 0]}
        found["AP75"] = precision[TAU_75, :, 0]
        found |= {f"AP{size}": precision[..., area] for size, area in _SIZES.items()}
        found |= {f"AR{limit}": recall[..., 0, i] for i, limit in enumerate(self.max_dets)}
        found |= {f"AR{size}": recall[..., area, -1] for size, area in _SIZES.items()}
        if self.by_category:
            for k, category in enumerate(self.detections.categories):
                found |= {f"AP/{category}": precision[:, k, 0], f"AP50/{category}": precision[TAU_50, k, 0]}
        n = self.detections.n_images
        values = {self.prefix + name: (_mean(some), n) for name, some in found.items()}
        return values | {name: (value, n) for name, value in self._means_over_orders().items()}

    def _means_over_orders(self) -> Mapping[str, float | None]:
        """The metrics that hang on the order of ties: the mean over all orders; empty where nothing ties."""
        if not self.has_ties:
            return {}
        each = self.resampled(np.ones((self.n_orders, self.n_units)))
        return {name: _mean(some) for name, some in each.items() if name.startswith(f"{self.prefix}AP")}

    def resampled(self, weights_bu: Weights) -> Mapping[str, Array]:
        """Metric -> B values."""
        sums = _Sums(len(weights_bu))
        found: dict[str, Array] = {}
        for category, areas in zip(self.detections.categories, self.ranks, strict=True):
            if not areas[0].n_true.any():
                if self.by_category:
                    nothing = np.full(len(weights_bu), np.nan)
                    found |= {f"{self.prefix}AP/{category}": nothing, f"{self.prefix}AP50/{category}": nothing}
                continue
            whole = areas[0].precision(weights_bu, _ALL)
            sums.add("AP", whole.mean(axis=1))
            sums.add("AP50", whole[:, TAU_50])
            sums.add("AP75", whole[:, TAU_75])
            if self.by_category:
                found[f"{self.prefix}AP/{category}"] = whole.mean(axis=1)
                found[f"{self.prefix}AP50/{category}"] = whole[:, TAU_50]
            for limit in self.max_dets:
                sums.add(f"AR{limit}", areas[0].recalls(weights_bu, limit).mean(axis=1))
            for size, area in _SIZES.items():
                if areas[area].n_true.any():
                    sums.add(f"AP{size}", areas[area].precision(weights_bu, _ALL).mean(axis=1))
                    sums.add(f"AR{size}", areas[area].recalls(weights_bu, self.max_dets[-1]).mean(axis=1))
        names = [f"AP{end}" for end in ("", "50", "75", "s", "m", "l")]
        names += [f"AR{end}" for end in (*self.max_dets, "s", "m", "l")]
        return found | {self.prefix + name: sums.mean(name) for name in names}

    def n_true(self, category: int, area: int = 0) -> int:
        """True boxes of a category that count in an area of `coco.AREAS`."""
        assert area < len(AREAS)
        return int(self.ranks[category][area].n_true.sum())


class _Sums:
    """Means over categories of values that may be missing, added one category at a time."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.totals: dict[str, tuple[Array, Array]] = {}

    def add(self, name: str, values: Array) -> None:
        total, count = self.totals.setdefault(name, (np.zeros(self.n), np.zeros(self.n)))
        is_there = ~np.isnan(values)
        total[is_there] += values[is_there]
        count += is_there

    def mean(self, name: str) -> Array:
        total, count = self.totals.get(name, (np.zeros(self.n), np.zeros(self.n)))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(count > 0, total / count, np.nan)


def _mean(values: Array) -> float | None:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else None


def after_nms(detections: Detections, match_iou: float = 0.5) -> Detections:
    """The detections that OVDEval's NMS-AP is computed of.

    Around each true box, of all detections with IoU above `match_iou`, whatever their category, the most confident one
    is kept and the others go, unless they are the most confident around another. So a model that gives one object all
    the labels it was offered keeps one of them. Of equally confident ones the first that was said is kept (the
    released script leaves that to the sort). Source: arXiv 2308.13177 and `eval.py` of om-ai-lab/OVDEval, where only
    the images of true boxes are looked at.
    """
    kept = np.ones(len(detections.dt_image), dtype=bool)
    best: set[int] = set()
    surplus: set[int] = set()
    said: dict[int, list[int]] = {}
    for i, image in enumerate(detections.dt_image.tolist()):
        said.setdefault(image, []).append(i)
    for g in np.flatnonzero(~detections.gt_crowd).tolist():
        near = said.get(int(detections.gt_image[g]), [])
        if not near:
            continue
        ious = pairwise_iou(detections.dt_xyxy[near].tolist(), [detections.gt_xyxy[g].tolist()])[:, 0]
        over = [d for d, iou in zip(near, ious.tolist(), strict=True) if iou > match_iou]
        if over:
            first = max(over, key=lambda d: (detections.dt_score[d], -d))
            best.add(first)
            surplus.update(d for d in over if d != first)
    kept[sorted(surplus - best)] = False
    return detections.keeping(kept)
