"""Read a run's validation dumps, and compare two validations in pairs.

verl gives every prompt a new uid at each validation and sorts its dump by it, so rows are paired by their prompt and
ground truth. Prompts that share both are one unit of the bootstrap, with their own weight.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from verl_visionr1.boxes import Array
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.rollouts.bootstrap import Estimate, Ratios, estimates_of, interval
from verl_visionr1.rollouts.dumps import rows_of
from verl_visionr1.rollouts.records import data_sources_of, split_uid
from verl_visionr1.rollouts.run import Start, find_run, read_run
from verl_visionr1.targets import TargetError, read_target
from verl_visionr1.tools.runs.steps import Metric, Step, list_metrics

RESAMPLES, SEED = 2000, 0
MIN_PROMPTS = 10
"""With fewer prompts there is no interval, since resampling them is unreliable."""
Key: TypeAlias = tuple[str, str]
"""Prompt and ground truth, as in the dump."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The prompts of one `Key`.

    Attributes:
        task: of the ground truth; "" if it is not a `Target`.
        n: number of prompts.
        numbers: metric -> mean over the answers.
    """

    task: str
    n: int
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Validation:
    """One validation.

    Attributes:
        sources: data source (its task if unknown) -> its units.
        is_dumped: whether the units are prompts; else each source has its logged means as a single unit.
    """

    sources: Mapping[str, Mapping[Key, Unit]]
    is_dumped: bool = True

    def averaged(self) -> Validation:
        """The means of each data source alone."""
        return Validation(
            {name: {("", ""): _mean_of([*units.values()])} for name, units in self.sources.items()}, False
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One metric before and after.

    Attributes:
        mark: "better", "worse", "no change" (the interval of the difference contains 0), "changed" (a metric with an
            ideal moved, but not significantly closer or farther), or "" without an interval.
    """

    metric: Metric
    before: float
    after: float
    difference: Estimate
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """The comparison of one data source.

    Attributes:
        n: number of prompts in both validations; None if only means are known.
        stages: stages at which the rows were scored, before and after.
        match_iou: xi0 of the rows after; None if unknown.
    """

    source: str
    n: int | None
    changes: Sequence[Change]
    stages: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
    match_iou: float | None = None


def validation_folder(run_dir: Path) -> Path:
    """Find `trainer.validation_data_dir` from the run record, or the recipes' default.

    A folder of that name in the run directory comes first: the run may have been moved or copied, and the recorded
    folder may belong to another run now.
    """
    start, _ = _start_of(run_dir)
    if start is None or not start.validation_dir:
        return run_dir / "validation"
    folder = Path(start.validation_dir).expanduser()
    inside = run_dir / folder.name
    return inside if _dumps_in(inside) or not folder.is_dir() else folder


def find_dumps(run_dir: Path) -> dict[int, Path]:
    """Step -> the validation dump of a run."""
    return _dumps_in(validation_folder(run_dir))


def _dumps_in(folder: Path) -> dict[int, Path]:
    files = folder.glob("*.jsonl") if folder.is_dir() else ()
    return {int(file.stem): file for file in sorted(files) if file.stem.isdecimal()}


def _start_of(run_dir: Path) -> tuple[Start | None, str]:
    """The last start in the run record, None if missing or unreadable; the reason why it cannot be read."""
    try:
        file = find_run(run_dir)
        return (None, "") if file is None else (read_run(file).last, "")
    except RowsError as error:
        return None, str(error)


def record_notes(run_dir: Path) -> list[str]:
    """Name a run record that cannot be read, and what is used in its place; empty if there is none."""
    _, error = _start_of(run_dir)
    return [f"{error}; assumed instead: validation in {validation_folder(run_dir)}"] if error else []


def read_validations(run_dir: Path, steps: Sequence[Step]) -> dict[int, Validation]:
    """Read the validations of some steps: their dumps, else the logged means; without steps all dumps."""
    dumps = find_dumps(run_dir)
    found = {step.number: logged_validation(step) for step in steps if step.validation()}
    logged_sources = {source for validation in found.values() for source in validation.sources}
    sources = _data_sources(run_dir) if len(logged_sources) != 1 else {}
    default = next(iter(logged_sources)) if len(logged_sources) == 1 else ""
    for number in sorted(found if steps else dumps):
        try:
            found[number] = read_validation(dumps[number], sources, default)
        except (KeyError, RowsError):  # no dump, or it is still being written
            continue
    return found


def _data_sources(run_dir: Path) -> dict[str, str]:
    """Ground truth -> data source, from the validation data of the run record; empty without it."""
    start, _ = _start_of(run_dir)
    files = [Path(file).expanduser() for file in ([] if start is None else start.val_files)]
    try:
        return data_sources_of([file for file in files if file.suffix == ".parquet" and file.is_file()])
    except (RowsError, ImportError):
        return {}


def logged_validation(step: Step) -> Validation:
    """The means that a validation logged."""
    units = {source: {("", ""): Unit("", 1, numbers)} for source, numbers in step.validation().items()}
    return Validation(units, is_dumped=False)


def read_validation(file: Path, sources: Mapping[str, str] | None = None, default_source: str = "") -> Validation:
    """Read the prompts of a dump; unreadable lines are left out.

    A trajectory of several turns has a line per turn with the same reward; the last one counts.

    Args:
        sources: ground truth -> data source, which verl's dumps lack.
        default_source: for rows whose source is not found; "": their task.
    """
    sessions: dict[object, dict[str, Any]] = {}
    for number, row in rows_of(file, ()):
        if not isinstance(row, RowError) and isinstance(row, dict):
            prompt, rollout, _ = split_uid(row.get("uid", ""))
            sessions[number if rollout is None else (prompt, rollout)] = row
    by_key: defaultdict[Key, list[dict[str, Any]]] = defaultdict(list)
    for row in sessions.values():
        key = str(row.get("input", row.get("prompt", ""))), str(row.get("gts", row.get("ground_truth", "")))
        by_key[key].append(row)
    found: defaultdict[str, dict[Key, Unit]] = defaultdict(dict)
    for key, rows in by_key.items():
        task = _task_of(key[1])
        source = rows[0].get("data_source") or (sources or {}).get(key[1], default_source) or task
        n = len({split_uid(row.get("uid", ""))[0] for row in rows})
        found[str(source)][key] = _mean_of([Unit(task, 1, _numbers_of(row)) for row in rows], n)
    return Validation(dict(sorted(found.items())))


def _task_of(truth: str) -> str:
    try:
        return read_target(truth).task
    except (TargetError, ValueError):
        return ""


def _numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row, as floats; "reward" is verl's score if it has no such number."""
    numbers = {**row, "reward": row.get("reward", row.get("score"))}
    return {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    }


def _mean_of(units: Sequence[Unit], n: int = 1) -> Unit:
    """The weighted means of the numbers that some units have."""
    values: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for unit in units:
        for name, value in unit.numbers.items():
            values[name].append((value, unit.n))
    means = {name: math.fsum(value * n for value, n in each) / sum(n for _, n in each) for name, each in values.items()}
    tasks = {unit.task for unit in units}
    return Unit(tasks.pop() if len(tasks) == 1 else "", n, means)


def compare(before: Validation, after: Validation) -> list[Section]:
    """Compare each data source of two validations over their common prompts."""
    pairs = {
        source: [(unit, after.sources[source][key]) for key, unit in units.items() if key in after.sources[source]]
        for source, units in before.sources.items()
        if source in after.sources
    }
    pairs = {source: units for source, units in pairs.items() if units}
    return [
        _compare_source(
            source,
            [old for old, _ in units],
            [new for _, new in units],
            is_mixed=len(pairs) > 1,
            is_dumped=before.is_dumped and after.is_dumped,
        )
        for source, units in pairs.items()
    ]


def _compare_source(
    source: str, old: Sequence[Unit], new: Sequence[Unit], *, is_mixed: bool, is_dumped: bool
) -> Section:
    """One data source; unit i is the same before and after."""
    weights = np.array([min(a.n, b.n) for a, b in zip(old, new, strict=True)], dtype=np.float64)
    metrics = _metrics_of([*old, *new], is_mixed=is_mixed)
    parts: dict[str, tuple[Array, Array]] = {}
    for metric in metrics:
        before, after = _column(old, metric.key), _column(new, metric.key)
        counted = np.where(np.isfinite(before) & np.isfinite(after), weights, 0.0)
        parts[f"before/{metric.key}"] = np.nan_to_num(before) * counted, counted
        parts[f"after/{metric.key}"] = np.nan_to_num(after) * counted, counted
    found, draws = _estimate(parts, len(weights))
    matches = Counter(unit.numbers["match_iou"] for unit in new if "match_iou" in unit.numbers)
    return Section(
        source,
        int(weights.sum()) if is_dumped else None,
        [_change_of(metric, found, draws) for metric in metrics if not found or found[f"after/{metric.key}"].n],
        (_stages_of(old), _stages_of(new)),
        matches.most_common(1)[0][0] if matches else None,
    )


def _column(units: Sequence[Unit], name: str) -> Array:
    return np.array([unit.numbers.get(name, math.nan) for unit in units])


def _stages_of(units: Sequence[Unit]) -> frozenset[int]:
    return frozenset(int(unit.numbers["stage"]) for unit in units if "stage" in unit.numbers)


def _metrics_of(units: Sequence[Unit], *, is_mixed: bool) -> list[Metric]:
    """The meaningful metrics: in a mixed run, a criterion that a row's preset lacks is always 0."""
    keys = dict.fromkeys(name for unit in units for name in unit.numbers)
    nonzero = {name for unit in units for name, value in unit.numbers.items() if value}
    has_boxes = bool(nonzero & {"f1_50", "iou_mean"}) or any(unit.task in BOX_TASKS for unit in units)
    metrics = list_metrics(keys, has_boxes=has_boxes)
    return [m for m in metrics if m.key == "reward" or not is_mixed or m.key in nonzero]


def _change_of(metric: Metric, found: Mapping[str, Estimate], draws: Mapping[str, Array]) -> Change:
    names = f"before/{metric.key}", f"after/{metric.key}"
    before, after = (found[name].value or 0.0 for name in names)
    drawn = [draws[name] for name in names if name in draws]
    if len(drawn) < 2 or found[names[0]].n < MIN_PROMPTS:
        return Change(metric, before, after, Estimate(value=after - before))
    difference = _drawn_estimate(after - before, drawn[1] - drawn[0])
    nearer = None
    if metric.ideal is not None:
        distances = np.abs(drawn[1] - metric.ideal) - np.abs(drawn[0] - metric.ideal)
        nearer = _drawn_estimate(abs(after - metric.ideal) - abs(before - metric.ideal), distances)
    return Change(metric, before, after, difference, mark_change(difference, nearer))


def _drawn_estimate(value: float, draws: Array) -> Estimate:
    low, high = interval(draws, value)
    return Estimate(value=value, low=low, high=high)


def _estimate(parts: Mapping[str, tuple[Array, Array]], n: int) -> tuple[dict[str, Estimate], dict[str, Array]]:
    """Each ratio with its interval, and its resampled values; without both if there are too few prompts."""
    n_resamples = RESAMPLES if n >= MIN_PROMPTS else 0
    return estimates_of([Ratios(np.arange(n), parts)], n, n_resamples=n_resamples, seed=SEED)


def mark_change(difference: Estimate, distance: Estimate | None = None) -> str:
    """Classify a change, see `Change.mark`.

    Args:
        difference: after minus before.
        distance: rise of the distance to the metric's ideal, if it has one; else more is better.

    >>> mark_change(Estimate(value=0.1, low=0.05, high=0.15)), mark_change(Estimate(value=0.1, low=-0.05, high=0.25))
    ('better', 'no change')
    """
    if difference.low is None or difference.high is None:
        return ""
    if difference.low <= 0.0 <= difference.high:
        return "no change"
    if distance is None:
        return "better" if difference.low > 0.0 else "worse"
    if distance.low is None or distance.high is None or distance.low <= 0.0 <= distance.high:
        return "changed"
    return "better" if distance.high < 0.0 else "worse"


def measure(validation: Validation) -> dict[str, dict[str, Estimate]]:
    """Data source -> name of a metric -> its mean over the prompts, with the interval of a bootstrap over them."""
    found: dict[str, dict[str, Estimate]] = {}
    for source, by_key in validation.sources.items():
        units = [*by_key.values()]
        n = np.array([unit.n for unit in units], dtype=np.float64)
        parts: dict[str, tuple[Array, Array]] = {}
        for metric in _metrics_of(units, is_mixed=len(validation.sources) > 1):
            values = _column(units, metric.key)
            counted = np.where(np.isfinite(values), n, 0.0)
            parts[metric.name] = np.nan_to_num(values) * counted, counted
        estimates, _ = _estimate(parts, len(units))
        found[source] = {name: one for name, one in estimates.items() if one.value is not None}
    return found
