"""Predictions as COCO sees them: images, categories, true boxes, and scored boxes of one category each.

Conventions:

* One COCO image is one image of a data source with all its rows: a prompt for all categories, or (ODinW) a prompt for
  each. Two rows that ask for one category on one image (and two samples of a row) are two COCO images, so that no
  answer is punished for what another said; the bootstrap draws them together.
* A row judges the categories that it asked for (`Target.categories`, else its labels): asked for and absent, every box
  is a false alarm. Other categories are not judged on that image, as LVIS judges only those that were checked. Where
  every row asks for all categories this is COCO.
* Labels are compared without case and surplus blanks. A row that asked for one category has one: whatever label its
  boxes carry, they are of it. For labels that a row of several did not ask for see `EvaluationSettings.stray_labels`.
* Regions to ignore are COCO's crowds. A target does not say of which category they are: they hold for every category
  that the row asked for, where COCO knows one.
* Sizes are areas of boxes. COCO's own are areas of masks, so its small, medium and large sets differ a little.
* Claims without a usable box are no detections: they cost nothing here (they do in F1 and in the reward).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """Ground truth and detections of a data source, flat.

    Attributes:
        categories: K names as they are compared.
        units: which unit of the bootstrap each of I images belongs to.
        gt_image, gt_category, gt_xyxy, gt_crowd: G true boxes: image in 0..I-1, category in 0..K-1, (G, 4), a region
            to ignore or not.
        dt_image, dt_category, dt_xyxy, dt_score: D detections, in the order of images and answers.
        n_asked: on how many images each category was asked for.
        n_stray: boxes whose label their row did not ask for.
        names: what tells each of I images from others, whatever the order of the rows.
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
        """How many images have more than `n` objects of one category."""
        places, sizes = np.unique(
            np.stack([self.gt_image, self.gt_category])[:, ~self.gt_crowd.astype(bool)], axis=1, return_counts=True
        )
        return len(np.unique(places[0, sizes > n]))

    def keeping(self, kept: np.ndarray) -> Detections:
        """The same with some of the detections, a mask of D."""
        return Detections(
            self.categories,
            self.units,
            self.gt_image,
            self.gt_category,
            self.gt_xyxy,
            self.gt_crowd,
            self.dt_image[kept],
            self.dt_category[kept],
            self.dt_xyxy[kept],
            self.dt_score[kept],
            self.n_asked,
            self.n_stray,
            self.names,
        )


def asked_labels(target: Target) -> tuple[str, ...]:
    """The categories a row asked for, as they are compared, each once.

    >>> asked_labels(Target(task="detection", size_wh=(9, 9), categories=["Cat", "dog", "cat"]))
    ('cat', 'dog')
    """
    return tuple(dict.fromkeys(map(normalize_label, target.categories or target.labels)))


def detections_of(reads: Sequence[Read], units: Sequence[int], settings: EvaluationSettings) -> Detections:
    """The rows of one data source as COCO sees them.

    Args:
        reads: rows whose answers are boxes.
        units: unit of the bootstrap of each row.
        settings: confidence and what becomes of stray labels.

    Raises:
        EvaluationError: see `confidences`.
    """
    builder = _Builder(settings, [asked_labels(read.target) for read in reads])
    for i, read in enumerate(reads):
        builder.add(i, read, units[i])
    return builder.built()


@dataclass(slots=True)
class _Builder:
    settings: EvaluationSettings
    asked: list[tuple[str, ...]]
    numbers: dict[str, int] = field(init=False)
    images: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    units: list[int] = field(default_factory=list[int])
    judged: list[set[str]] = field(default_factory=list[set[str]])
    truth: list[tuple[int, int, bool]] = field(default_factory=list[tuple[int, int, bool]])
    truth_xyxy: list[Box] = field(default_factory=list[Box])
    found: list[tuple[int, int, float]] = field(default_factory=list[tuple[int, int, float]])
    found_xyxy: list[Box] = field(default_factory=list[Box])
    n_stray: int = 0

    def __post_init__(self) -> None:
        self.numbers = {label: i for i, label in enumerate(dict.fromkeys(label for row in self.asked for label in row))}

    def add(self, i: int, read: Read, unit: int) -> None:
        asked, target, answer = self.asked[i], read.target, read.answer
        image = self._image_of(read, asked, unit)
        boxes = cast(Boxes, target.boxes_xyxy)
        for label, box in zip(target.normalized_labels, boxes, strict=True):
            if label in self.numbers:
                self.truth.append((image, self.numbers[label], False))
                self.truth_xyxy.append(box)
        for box in cast(Boxes, target.ignore_xyxy):
            self.truth += [(image, self.numbers[label], True) for label in asked]
            self.truth_xyxy += [box] * len(asked)
        scores = confidences(read, self.settings.confidence)
        for label, box, score in zip(answer.labels, answer.boxes_xyxy, scores, strict=False):
            for category in self._categories_of(normalize_label(label), asked):
                self.found.append((image, category, score))
                self.found_xyxy.append(box)

    def _image_of(self, read: Read, asked: tuple[str, ...], unit: int) -> int:
        """The first COCO image of the row's image on which none of its categories was asked for yet."""
        slot = 0
        while True:
            key = (read.image, slot)
            number = self.images.get(key)
            if number is None:
                number = self.images[key] = len(self.units)
                self.units.append(unit)
                self.judged.append(set())
            if not self.judged[number].intersection(asked):
                self.judged[number].update(asked)
                return number
            slot += 1

    def _categories_of(self, label: str, asked: tuple[str, ...]) -> list[int]:
        """The categories that a box counts for."""
        if len(asked) == 1:
            return [self.numbers[asked[0]]]
        if label in asked:
            return [self.numbers[label]]
        self.n_stray += 1
        if self.settings.stray_labels == "drop":
            return []
        if label in self.numbers:
            return [self.numbers[label]]
        return [self.numbers[other] for other in asked] if self.settings.stray_labels == "every" else []

    def built(self) -> Detections:
        n_asked = np.zeros(len(self.numbers), dtype=np.intp)
        for labels in self.judged:
            n_asked[[self.numbers[label] for label in labels]] += 1
        return Detections(
            tuple(self.numbers),
            np.array(self.units, dtype=np.intp),
            np.array([image for image, _, _ in self.truth], dtype=np.intp),
            np.array([category for _, category, _ in self.truth], dtype=np.intp),
            as_array(self.truth_xyxy).reshape(-1, 4),
            np.array([crowd for _, _, crowd in self.truth], dtype=bool),
            np.array([image for image, _, _ in self.found], dtype=np.intp),
            np.array([category for _, category, _ in self.found], dtype=np.intp),
            as_array(self.found_xyxy).reshape(-1, 4),
            np.array([score for _, _, score in self.found], dtype=np.float64),
            n_asked,
            self.n_stray,
            tuple([f"{name}\0{slot}" for name, slot in self.images]),
        )
