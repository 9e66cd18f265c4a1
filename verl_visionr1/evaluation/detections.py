"""Convert answers to COCO's terms: images, categories, true boxes, and scored boxes of one category each.

One COCO image is an image of a data source with all its rows. Rows that ask for the same category on one image, and
samples of a row, are separate COCO images, which the bootstrap draws together. Claims without a usable box are no
detections. Conventions: docs/reference/evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np

from verl_visionr1.answers import PARSERS
from verl_visionr1.answers.spans import Span, box_spans
from verl_visionr1.boxes import Array, Box, Boxes, as_array
from verl_visionr1.evaluation.reading import Read
from verl_visionr1.evaluation.settings import Confidence, EvaluationError, EvaluationSettings
from verl_visionr1.rollouts.bootstrap import Indices
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.targets import Target, normalize_label


@dataclass(frozen=True, slots=True)
class Detections:
    """Ground truth and detections of a data source, as flat arrays.

    Attributes:
        categories: K normalized names; n_asked: number of images on which each was asked for.
        units, names: bootstrap unit and unique name of each of I images.
        gt_image, gt_category, gt_xyxy, gt_crowd: G true boxes: image in 0..I-1, category in 0..K-1, (G, 4), whether it
            is a region to ignore.
        dt_image, dt_category, dt_xyxy, dt_score: D detections, in the order of images and answers.
        n_stray: number of boxes whose label their row did not ask for.
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
        objects = np.stack([self.gt_image, self.gt_category])[:, ~self.gt_crowd.astype(bool)]
        places, sizes = np.unique(objects, axis=1, return_counts=True)
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
    asked_by_row = [asked_labels(read.target) for read in reads]
    numbers = {label: i for i, label in enumerate(dict.fromkeys(label for row in asked_by_row for label in row))}
    images = _Images()
    truth: list[tuple[int, int, Box, bool]] = []
    found: list[tuple[int, int, Box, float]] = []
    n_stray = 0
    for read, asked, unit in zip(reads, asked_by_row, units, strict=True):
        image, target, answer = images.place(read.image, asked, unit), read.target, read.answer
        labelled = zip(target.normalized_labels, cast(Boxes, target.boxes_xyxy), strict=True)
        truth += [(image, numbers[label], box, False) for label, box in labelled if label in numbers]
        for box in cast(Boxes, target.ignore_xyxy):
            truth += [(image, numbers[label], box, True) for label in asked]
        scores = confidences(read, settings.confidence)
        for label, box, score in zip(answer.labels, answer.boxes_xyxy, scores, strict=False):
            label = asked[0] if len(asked) == 1 else normalize_label(label)
            counted = [label] if label in asked else _stray(label, asked, settings, is_known=label in numbers)
            n_stray += label not in asked
            found += [(image, numbers[each], box, score) for each in counted]
    gt_image, gt_category, gt_xyxy, gt_crowd = zip(*truth, strict=True) if truth else ((),) * 4
    dt_image, dt_category, dt_xyxy, dt_score = zip(*found, strict=True) if found else ((),) * 4
    n_asked = np.bincount(_indices([numbers[label] for labels in images.asked for label in labels]), None, len(numbers))
    return Detections(
        categories=tuple(numbers),
        units=_indices(images.units),
        gt_image=_indices(gt_image),
        gt_category=_indices(gt_category),
        gt_xyxy=as_array(gt_xyxy).reshape(-1, 4),
        gt_crowd=np.array(gt_crowd, dtype=bool),
        dt_image=_indices(dt_image),
        dt_category=_indices(dt_category),
        dt_xyxy=as_array(dt_xyxy).reshape(-1, 4),
        dt_score=np.array(dt_score, dtype=np.float64),
        n_asked=n_asked,
        n_stray=n_stray,
        names=tuple([f"{name}\0{slot}" for name, slot in images.numbers]),
    )


class _Images:
    """The COCO images: their numbers by name and slot, the unit of each, and the categories asked for on it."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, int], int] = {}
        self.units: list[int] = []
        self.asked: list[set[str]] = []

    def place(self, name: str, asked: tuple[str, ...], unit: int) -> int:
        """The first COCO image of an image on which none of these categories was asked for."""
        for slot in count():
            number = self.numbers.setdefault((name, slot), len(self.units))
            if number == len(self.units):
                self.units.append(unit)
                self.asked.append(set())
            if not self.asked[number].intersection(asked):
                self.asked[number].update(asked)
                return number
        raise AssertionError


def _stray(label: str, asked: tuple[str, ...], settings: EvaluationSettings, *, is_known: bool) -> Sequence[str]:
    """The categories for which a box counts whose label its row did not ask for."""
    if settings.stray_labels == "drop":
        return ()
    if is_known:
        return (label,)
    return asked if settings.stray_labels == "every" else ()


def _indices(numbers: Sequence[int]) -> Indices:
    return np.array(numbers, dtype=np.intp)


def confidences(read: Read, rule: Confidence) -> list[float]:
    """The confidence of each usable box of an answer, in [0, 1].

    * `constant`: 1 (Vision-R1's released evaluator: .99; VLM-R1: 1).
    * `order`: 1 - i/n for the i-th of the n boxes of an answer, i from 0.
    * `logprob`: sqrt(p_box * p_label), as in Griffon; p is exp(mean log-probability) of the tokens that overlap the
      text, before temperature. A box without a label: p_box.
    """
    n, rollout = len(read.answer.boxes_xyxy), read.rollout
    if rule == "constant":
        return [1.0] * n
    if rule == "order":
        return [1.0 - i / n for i in range(n)]
    if n and not rollout.logprobs:
        where = f"{Path(rollout.file).name}: row {rollout.number}"
        raise EvaluationError(f"{where}: no log-probabilities; generate with --logprobs, or use --confidence order")
    spans = box_spans(rollout.completion, PARSERS[read.preset.answer_format](read.case.completion)) if n else []
    return [_by_probability(rollout, span) for span in spans]


def _by_probability(rollout: Rollout, span: Span | None) -> float:
    if span is None:
        return 0.0
    box = token_logprobs(rollout, *span.box)
    label = token_logprobs(rollout, *span.label) if span.label else []
    return math.exp(fmean(map(fmean, filter(None, (box, label))))) if box else 0.0


def token_logprobs(rollout: Rollout, start: int, end: int) -> list[float]:
    """Log-probabilities of the tokens that overlap `completion[start:end]`.

    >>> tokens = {"starts": (0, 1, 4), "logprobs": (-0.1, -0.2, -0.3)}
    >>> target = Target(task="grounding", size_wh=(9, 9))
    >>> row = Rollout(file="", number=0, completion="[123]", target=target, source="", **tokens)
    >>> token_logprobs(row, 1, 4)
    [-0.2]
    """
    starts = rollout.starts
    first = int(np.searchsorted(starts, start, side="right")) - 1
    last = int(np.searchsorted(starts, end, side="left"))
    ends = (*starts[1:], len(rollout.completion))
    return [rollout.logprobs[i] for i in range(max(first, 0), last) if ends[i] > starts[i]]
