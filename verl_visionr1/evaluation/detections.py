"""Convert predictions to COCO's terms: images, categories, true boxes, and scored boxes of one category each.

Conventions:

* One COCO image is one image of a data source with all its rows: a prompt for all categories, or (ODinW) a prompt for
  each. Two rows that ask for one category on one image (and two samples of a row) are two COCO images, so that answers
  do not affect each other; the bootstrap draws them together.
* A row is evaluated on the categories that it asked for (`Target.categories`, else its labels); every box of an absent
  one is a false alarm. Other categories are not evaluated on that image, as LVIS does for unchecked ones. If every row
  asks for all categories, this is COCO.
* Labels are compared without case and surplus blanks. All boxes of a row that asked for one category count
  for it, whatever their labels. For unrequested labels in rows of several categories see
  `EvaluationSettings.stray_labels`.
* Regions to ignore are COCO's crowds. They have no category in a target, so they apply to every category that
  the row asked for; in COCO each has one category.
* Sizes are areas of boxes. COCO uses areas of masks, so its small, medium and large sets differ a little.
* Claims without a usable box are not detections and cost nothing here, unlike in F1 and in the reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import cast

import numpy as np

from verl_visionr1.boxes import Array, Box, Boxes, as_array
from verl_visionr1.evaluation.confidence import confidences
from verl_visionr1.evaluation.reading import Read
from verl_visionr1.evaluation.settings import EvaluationSettings
from verl_visionr1.rollouts.bootstrap import Indices
from verl_visionr1.targets import Target, normalize_label


@dataclass(frozen=True, slots=True)
class Detections:
    """Ground truth and detections of a data source, as flat arrays.

    Attributes:
        categories: K normalized names.
        units: bootstrap unit of each of I images.
        gt_image, gt_category, gt_xyxy, gt_crowd: G true boxes: image in 0..I-1, category in 0..K-1, (G, 4), whether it
            is a region to ignore.
        dt_image, dt_category, dt_xyxy, dt_score: D detections, in the order of images and answers.
        n_asked: number of images on which each category was asked for.
        n_stray: number of boxes whose label their row did not ask for.
        names: unique names of I images, independent of the order of the rows.
    """

    categories: tuple[str, ...]
    units: Indices
    gt_image: Indices
    gt_category: Indices
    gt_xyxy: Array
    gt_crowd: np.ndarray
    dt_image: Indices
    dt_category: Indices
    dt_xyxy: Array
    dt_score: Array
    n_asked: Indices
    n_stray: int = 0
    names: tuple[str, ...] = ()

    @property
    def n_images(self) -> int:
        """I."""
        return len(self.units)

    def n_images_above(self, n: int) -> int:
        """Number of images with more than `n` objects of one category."""
        places, sizes = np.unique(
            np.stack([self.gt_image, self.gt_category])[:, ~self.gt_crowd.astype(bool)], axis=1, return_counts=True
        )
        return len(np.unique(places[0, sizes > n]))


def asked_labels(target: Target) -> tuple[str, ...]:
    """The categories that a row asked for, normalized, each once.

    >>> asked_labels(Target(task="detection", size_wh=(9, 9), categories=["Cat", "dog", "cat"]))
    ('cat', 'dog')
    """
    return tuple(dict.fromkeys(map(normalize_label, target.categories or target.labels)))


def detections_of(reads: Sequence[Read], units: Sequence[int], settings: EvaluationSettings) -> Detections:
    """Convert the rows of one data source.

    Args:
        reads: rows with answers of boxes.
        units: bootstrap unit of each row.

    Raises:
        EvaluationError: see `confidences`.
    """
    builder = _Builder(settings, [asked_labels(read.target) for read in reads])
    for i, read in enumerate(reads):
        builder.add(i, read, units[i])
    return builder.built()


class _Builder:
    def __init__(self, settings: EvaluationSettings, asked: Sequence[tuple[str, ...]]) -> None:
        self.stray_labels, self.confidence = settings.stray_labels, settings.confidence
        self.asked = asked
        self.numbers = {label: i for i, label in enumerate(dict.fromkeys(label for row in asked for label in row))}
        self.images: dict[tuple[str, int], int] = {}
        self.units: list[int] = []
        self.judged: list[set[str]] = []
        self.truth: list[tuple[int, int, Box, bool]] = []
        self.found: list[tuple[int, int, Box, float]] = []
        self.n_stray = 0

    def add(self, i: int, read: Read, unit: int) -> None:
        asked, target, answer = self.asked[i], read.target, read.answer
        image = self._image_of(read, asked, unit)
        for label, box in zip(target.normalized_labels, cast(Boxes, target.boxes_xyxy), strict=True):
            if label in self.numbers:
                self.truth.append((image, self.numbers[label], box, False))
        for box in cast(Boxes, target.ignore_xyxy):
            self.truth += [(image, self.numbers[label], box, True) for label in asked]
        scores = confidences(read, self.confidence)
        for label, box, score in zip(answer.labels, answer.boxes_xyxy, scores, strict=False):
            for category in self._categories_of(normalize_label(label), asked):
                self.found.append((image, category, box, score))

    def _image_of(self, read: Read, asked: tuple[str, ...], unit: int) -> int:
        """The first COCO image of the row's image without any of its categories."""
        for slot in count():
            number = self.images.setdefault((read.image, slot), len(self.units))
            if number == len(self.units):
                self.units.append(unit)
                self.judged.append(set())
            if not self.judged[number].intersection(asked):
                self.judged[number].update(asked)
                return number
        raise AssertionError

    def _categories_of(self, label: str, asked: tuple[str, ...]) -> list[int]:
        """The categories that a box counts for."""
        if len(asked) == 1:
            return [self.numbers[asked[0]]]
        if label in asked:
            return [self.numbers[label]]
        self.n_stray += 1
        if self.stray_labels == "drop":
            return []
        if label in self.numbers:
            return [self.numbers[label]]
        return [self.numbers[other] for other in asked] if self.stray_labels == "every" else []

    def built(self) -> Detections:
        gt_image, gt_category, gt_xyxy, gt_crowd = zip(*self.truth, strict=True) if self.truth else ((),) * 4
        dt_image, dt_category, dt_xyxy, dt_score = zip(*self.found, strict=True) if self.found else ((),) * 4
        asked = [self.numbers[label] for labels in self.judged for label in labels]
        return Detections(
            tuple(self.numbers),
            _indices(self.units),
            _indices(gt_image),
            _indices(gt_category),
            as_array(gt_xyxy).reshape(-1, 4),
            np.array(gt_crowd, dtype=bool),
            _indices(dt_image),
            _indices(dt_category),
            as_array(dt_xyxy).reshape(-1, 4),
            np.array(dt_score, dtype=np.float64),
            np.bincount(_indices(asked), minlength=len(self.numbers)),
            self.n_stray,
            tuple([f"{name}\0{slot}" for name, slot in self.images]),
        )


def _indices(numbers: Sequence[int]) -> Indices:
    return np.array(numbers, dtype=np.intp)
