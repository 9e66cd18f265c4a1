"""The metrics of one data source and task, with intervals, tables and correlations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from verl_visionr1.boxes import Array
from verl_visionr1.criteria.average_precision import ap
from verl_visionr1.criteria.counting import count_fuzzy
from verl_visionr1.evaluation.average_precision import MAX_DETS, AveragePrecision, after_nms
from verl_visionr1.evaluation.correlation import Correlated, Correlation, in_words, reward_bins
from verl_visionr1.evaluation.detections import detections_of
from verl_visionr1.evaluation.reading import Read
from verl_visionr1.evaluation.records import Section, Table
from verl_visionr1.evaluation.rows import ROOTS, Parts, absent_labels, by_count, parts_of
from verl_visionr1.evaluation.settings import LEVEL, EvaluationSettings, Family
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.rollouts.bootstrap import Estimate, Indices, Measured, Ratios, digest_of, estimates_of

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
    chosen: set[Family] = {"nms_ap"} if NMS_AP_SOURCE in reads[0].prediction.data_source.lower() else set()
    if task == "detection":
        chosen.add("ap")
    if task == "grounding":
        n_objects = {len(read.target.boxes_xyxy) for read in reads}
        chosen |= {"rec"} if 1 in n_objects else set()
        chosen |= {"grec"} if n_objects != {1} else set()
    if task in BOX_TASKS and any(map(absent_labels, reads)):
        chosen.add("negatives")
    if task not in BOX_TASKS:
        chosen |= set(able)
    return tuple(family for family in able if family in chosen)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A section under construction.

    Attributes:
        units: bootstrap unit (image) of each row.
        names: the units' names, in the order of their numbers.
        parts: for each row, metric -> numerator and denominator.
    """

    reads: list[Read]
    units: Indices
    names: list[str]
    parts: list[Parts]
    families: tuple[Family, ...]
    settings: EvaluationSettings
    precisions: list[AveragePrecision] = field(default_factory=list[AveragePrecision])

    @classmethod
    def of(cls, reads: list[Read], settings: EvaluationSettings) -> Measurement:
        """Measure each row."""
        numbers = {name: i for i, name in enumerate(sorted({read.image for read in reads}))}
        families = families_of(reads, settings)
        units = np.array([numbers[read.image] for read in reads], dtype=np.intp)
        parts = [parts_of(read, families, settings) for read in reads]
        return cls(reads, units, list(numbers), parts, families, settings)

    def row_values(self, i: int) -> dict[str, float | None]:
        """The metrics of one row."""
        return {name: above / below if below else None for name, (above, below) in self.parts[i].items()}

    def section(self) -> Section:
        """Compute all numbers of the data source and task."""
        first, settings = self.reads[0], self.settings
        source, task = first.prediction.data_source, first.target.task
        notes = self._notes()
        correlated = Correlated(self.units, _array([read.score.value for read in self.reads]), self._against_reward())
        measured: list[Measured] = [*self._average_precisions(notes), self._ratios(), correlated]
        estimates, draws = estimates_of(
            measured, len(self.names), n_resamples=settings.resamples, seed=_seed(source, task), level=LEVEL
        )
        kept = {name: found for name, found in estimates.items() if not name.startswith(("pearson/", "spearman/"))}
        return Section(
            source=source,
            task=task,
            presets=sorted({read.preset.name for read in self.reads}),
            n_rows=len(self.reads),
            n_images=len(self.names),
            units=digest_of(self.names),
            estimates=kept,
            draws={name: rounded(draws[name]) for name in kept if "/" not in name and name in draws},
            tables=[*self._tables(estimates), self._by_reward(correlated)],
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
        n_capped = found.n_images_above(MAX_DETS[-1])
        if n_capped:
            many = f"more than maxDets = {MAX_DETS[-1]} objects of a category"
            notes.append(f"{n_capped} of {found.n_images} images have {many}: AP and AR cannot count all of them")
        if "ap" in self.families:
            self.precisions.append(AveragePrecision(found, len(self.names)))
        if "nms_ap" in self.families:
            whole = AveragePrecision(after_nms(found), len(self.names), prefix="NMS-", by_category=False)
            self.precisions.append(whole)
        return self.precisions

    def _notes(self) -> list[str]:
        notes: list[str] = []
        n_cut = sum(read.is_cut for read in self.reads)
        if n_cut:
            notes.append(
                f"{n_cut} of {len(self.reads)} answers were cut off by the token limit: their complete part counts"
            )
        n_bare = sum(not read.prediction.image_id and not read.prediction.image for read in self.reads)
        if n_bare and self.reads[0].target.task in BOX_TASKS:
            notes.append(f"{n_bare} rows name no image: each counts as a separate image")
        return notes

    def _against_reward(self) -> dict[str, Array]:
        """Numbers of each row, without thresholds, for the correlation with the reward."""
        task, reads = self.reads[0].target.task, self.reads
        found = {"accuracy": _array([read.case.accuracy for read in reads])}
        if task in BOX_TASKS:
            found = {"F1@50": _array([read.score.metrics["f1_50"] for read in reads])}
            found["IoU"] = _array([read.score.metrics["iou_mean"] for read in reads])
            found["AP of the row"] = _array([ap(read.answer, read.target, read.case.class_aware) for read in reads])
        elif task == "counting":
            found["relative accuracy"] = _array([count_fuzzy(read.answer, read.target, cutoff=1.0) for read in reads])
        return found

    def _tables(self, estimates: Mapping[str, Estimate]) -> list[Table]:
        tables: list[Table] = []
        for one in self.precisions:
            if one.by_category:
                tables += [_by_category(one, estimates), _by_size(one, estimates)]
        if "counting" in self.families:
            columns = ["true count", "rows", "accuracy", "MAE", "bias"]
            tables.append(Table(name="by true count", columns=columns, rows=by_count(self.reads, self.parts)))
        return tables

    def _by_reward(self, correlated: Correlated) -> Table:
        """Table of the metric by tenths of rising reward."""
        n_units = len(self.names)
        per_unit = np.bincount(self.units, minlength=n_units)
        mean_reward = np.bincount(self.units, correlated.reward, n_units) / np.maximum(per_unit, 1)
        bins = reward_bins(mean_reward)
        rows_of = [np.flatnonzero(np.isin(self.units, units)) for units in bins]
        table: list[list[str | float | int | None]] = [
            [float(mean_reward[units].min()), float(mean_reward[units].max()), len(rows)]
            + [float(values[rows].mean()) for values in correlated.metrics.values()]
            for units, rows in zip(bins, rows_of, strict=True)
        ]
        columns = ["reward from", "to", "rows", *correlated.metrics]
        for one in self.precisions:
            weights = np.zeros((len(bins), n_units))
            for i, units in enumerate(bins):
                weights[i, units] = 1.0
            name = f"{one.prefix}AP"
            columns.append(name)
            for row, value in zip(table, one.resampled(weights)[name].tolist(), strict=True):
                row.append(None if np.isnan(value) else value)
        return Table(name="by reward", columns=columns, rows=table)


def _by_category(one: AveragePrecision, estimates: Mapping[str, Estimate]) -> Table:
    rows: list[list[str | float | int | None]] = []
    for k, category in enumerate(one.detections.categories):
        found, at_50 = estimates[f"AP/{category}"], estimates[f"AP50/{category}"]
        rows.append([category, int(one.detections.n_asked[k]), one.n_true(k), found.value, found.low, found.high,
                     at_50.value])  # fmt: skip
    return Table(name="by category", columns=["category", "images", "boxes", "AP", "low", "high", "AP50"], rows=rows)


def _by_size(one: AveragePrecision, estimates: Mapping[str, Estimate]) -> Table:
    rows: list[list[str | float | int | None]] = []
    for size in ("small", "medium", "large"):
        end = size[0]
        found, recall = estimates[f"AP{end}"], estimates[f"AR{end}"]
        n_true = sum(one.n_true(k, end) for k in range(len(one.detections.categories)))
        rows.append([size, n_true, found.value, found.low, found.high, recall.value])
    return Table(name="by size", columns=["size", "boxes", "AP", "low", "high", "AR"], rows=rows)


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
