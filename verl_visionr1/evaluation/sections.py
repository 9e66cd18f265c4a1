"""The metrics of one data source and task, with intervals, tables and correlations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from verl_visionr1.boxes import Array
from verl_visionr1.criteria.average_precision import ap
from verl_visionr1.criteria.counting import count_fuzzy
from verl_visionr1.evaluation.average_precision import MAX_DETS, AveragePrecision, after_nms
from verl_visionr1.evaluation.correlation import Correlated, Correlation, in_words, reward_bins
from verl_visionr1.evaluation.detections import detections_of
from verl_visionr1.evaluation.reading import Read
from verl_visionr1.evaluation.records import Cell, Section, Table
from verl_visionr1.evaluation.rows import ROOTS, absent_labels, parts_of
from verl_visionr1.evaluation.settings import EvaluationSettings, Family
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.rollouts.bootstrap import Estimate, Measured, Ratios, digest_of, estimates_of

TASK_FAMILIES: Mapping[str, tuple[Family, ...]] = {
    "detection": ("ap", "nms_ap", "negatives"),
    "grounding": ("rec", "grec", "negatives", "ap", "nms_ap"),
    "counting": ("counting",),
    "pointing": ("pointing",),
    "text": ("text",),
}
"""Task -> its families of metrics."""
NMS_AP_SOURCE = "ovdeval"
"""Part of the name of data sources whose protocol uses NMS-AP."""


def families_of(reads: Sequence[Read], settings: EvaluationSettings) -> tuple[Family, ...]:
    """The families of metrics for rows of one task and data source."""
    task = reads[0].target.task
    able = TASK_FAMILIES[task]
    if settings.metrics:
        return tuple(family for family in able if family in settings.metrics)
    if task not in BOX_TASKS:
        return able
    n_objects = {len(read.target.boxes_xyxy) for read in reads}
    wanted: dict[Family, bool] = {
        "ap": task == "detection",
        "nms_ap": NMS_AP_SOURCE in reads[0].rollout.source.lower(),
        "rec": 1 in n_objects,
        "grec": n_objects != {1},
        "negatives": any(map(absent_labels, reads)),
    }
    return tuple(family for family in able if wanted[family])


class Measurement:
    """The rows of one data source and task, measured.

    Attributes:
        units, names: bootstrap unit (image) of each row; the units' names.
        parts: for each row, metric -> numerator and denominator.
    """

    def __init__(self, reads: list[Read], settings: EvaluationSettings) -> None:
        self.reads, self.settings = reads, settings
        self.task, self.source = reads[0].target.task, reads[0].rollout.source
        self.families = families_of(reads, settings)
        self.names, units = np.unique(np.array([read.image for read in reads], dtype=object), return_inverse=True)
        self.units = units.astype(np.intp)
        self.parts = [parts_of(read, self.families, settings) for read in reads]

    def row_values(self, i: int) -> dict[str, float | None]:
        """The metrics of one row."""
        return {name: above / below if below else None for name, (above, below) in self.parts[i].items()}

    def section(self) -> Section:
        """Compute all numbers of the data source and task."""
        notes = self._notes()
        precisions = self._average_precisions(notes)
        correlated = Correlated(self.units, _array([read.score.value for read in self.reads]), self._against_reward())
        measured: list[Measured] = [*precisions, self._ratios(), correlated]
        estimates, draws = estimates_of(
            measured,
            len(self.names),
            n_resamples=self.settings.resamples,
            seed=_seed(self.source, self.task),
        )
        kept = {name: found for name, found in estimates.items() if not name.startswith(("pearson/", "spearman/"))}
        tables = [table for one in precisions if not one.prefix for table in _ap_tables(one, estimates)]
        return Section(
            source=self.source,
            task=self.task,
            presets=sorted({read.preset.name for read in self.reads}),
            n_rows=len(self.reads),
            n_images=len(self.names),
            units=digest_of(self.names.tolist()),
            estimates=kept,
            draws={name: rounded(draws[name]) for name in kept if "/" not in name and name in draws},
            tables=[*tables, self._by_reward(correlated, precisions)],
            correlations=[_correlation(name, estimates) for name in correlated.metrics],
            notes=notes,
        )

    def _ratios(self) -> Ratios:
        parts: dict[str, tuple[Array, Array]] = {}
        for name in self.parts[0]:
            pairs = _array([part[name] for part in self.parts])
            if pairs[:, 1].any() or name != "tokens":
                parts[name] = (pairs[:, 0], pairs[:, 1])
        return Ratios(self.units, parts, ROOTS)

    def _average_precisions(self, notes: list[str]) -> list[AveragePrecision]:
        if not {"ap", "nms_ap"}.intersection(self.families):
            return []
        found = detections_of(self.reads, self.units.tolist(), self.settings)
        if found.n_stray:
            kept = "left out of AP" if self.settings.stray_labels == "drop" else f"as {self.settings.stray_labels!r}"
            notes.append(f"{found.n_stray} boxes have a label that their row did not ask for: {kept}")
        if n_capped := found.n_images_above(MAX_DETS[-1]):
            many = f"more than maxDets = {MAX_DETS[-1]} objects of a category"
            notes.append(
                f"{n_capped} of {found.n_images} images have {many}: AP counts no more boxes, so recall stays below 1"
            )
        precisions: list[AveragePrecision] = []
        if "ap" in self.families:
            precisions.append(AveragePrecision(found, len(self.names)))
        if "nms_ap" in self.families:
            precisions.append(AveragePrecision(after_nms(found), len(self.names), prefix="NMS-"))
        return precisions

    def _notes(self) -> list[str]:
        notes: list[str] = []
        n_cut = sum(read.finish_reason == "length" for read in self.reads)
        if n_cut:
            cut = f"{n_cut} of {len(self.reads)} answers were cut off by the token limit"
            notes.append(f"{cut}: their complete part counts")
        n_bare = sum(not read.rollout.image_id and not read.rollout.image for read in self.reads)
        if n_bare and self.task in BOX_TASKS:
            notes.append(f"{n_bare} rows name no image: each counts as a separate image")
        return notes

    def _against_reward(self) -> dict[str, Array]:
        """Numbers of each row, without thresholds, for the correlation with the reward."""
        reads = self.reads
        if self.task in BOX_TASKS:
            return {
                "F1@50": _array([read.score.metrics["f1_50"] for read in reads]),
                "IoU": _array([read.score.metrics["iou_mean"] for read in reads]),
                "AP of the row": _array([ap(read.answer, read.target, read.case.class_aware) for read in reads]),
            }
        found = {"accuracy": _array([read.case.accuracy for read in reads])}
        if self.task == "counting":
            found["relative accuracy"] = _array([count_fuzzy(read.answer, read.target, cutoff=1.0) for read in reads])
        return found

    def _by_reward(self, correlated: Correlated, precisions: Sequence[AveragePrecision]) -> Table:
        """Table of the metric by tenths of rising reward."""
        n_units = len(self.names)
        mean_reward = np.bincount(self.units, correlated.reward) / np.bincount(self.units)
        bins = reward_bins(mean_reward)
        in_bin = np.array([np.isin(np.arange(n_units), units) for units in bins], dtype=np.float64)
        table: list[list[Cell]] = []
        for units in bins:
            rows = np.isin(self.units, units)
            rewards = mean_reward[units]
            means = [float(values[rows].mean()) for values in correlated.metrics.values()]
            table.append([float(rewards.min()), float(rewards.max()), int(rows.sum()), *means])
        columns = ["reward from", "to", "rows", *correlated.metrics]
        for one in precisions:
            columns.append(f"{one.prefix}AP")
            for row, value in zip(table, one.resampled(in_bin)[columns[-1]].tolist(), strict=True):
                row.append(None if np.isnan(value) else value)
        return Table(name="by reward", columns=columns, rows=table)


def _ap_tables(one: AveragePrecision, estimates: Mapping[str, Estimate]) -> list[Table]:
    by_category: list[list[Cell]] = []
    categories = one.detections.categories
    for k, category in enumerate(categories):
        found, at_50 = estimates[f"AP/{category}"], estimates[f"AP50/{category}"]
        counts = [int(one.detections.n_asked[k]), one.n_true(k)]
        by_category.append([category, *counts, found.value, found.low, found.high, at_50.value])
    by_size: list[list[Cell]] = []
    for size in ("small", "medium", "large"):
        found, recall = estimates[f"AP{size[0]}"], estimates[f"AR{size[0]}"]
        n_true = sum(one.n_true(k, size[0]) for k in range(len(categories)))
        by_size.append([size, n_true, found.value, found.low, found.high, recall.value])
    interval = ["AP", "low", "high"]
    return [
        Table(name="by category", columns=["category", "images", "boxes", *interval, "AP50"], rows=by_category),
        Table(name="by size", columns=["size", "boxes", *interval, "AR"], rows=by_size),
    ]


def _correlation(name: str, estimates: Mapping[str, Estimate]) -> Correlation:
    pearson, spearman = estimates[f"pearson/{name}"], estimates[f"spearman/{name}"]
    return Correlation(metric=name, pearson=pearson, spearman=spearman, words=in_words(name, spearman))


def rounded(draws: Array) -> list[float | None]:
    """Resampled values with six digits; None for NaN.

    >>> rounded(np.array([1 / 3, np.nan]))
    [0.333333, None]
    """
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in draws.tolist()]


def _seed(source: str, task: str) -> int:
    """Seed of a data source's bootstrap, so that sources are independent and models are resampled alike."""
    digest = hashlib.sha256(f"0\n{source}\n{task}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def _array(values: Sequence[object]) -> Array:
    return np.array(values, dtype=np.float64)
