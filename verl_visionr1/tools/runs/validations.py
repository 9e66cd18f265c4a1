"""Read a run's validation dumps, with the run's numbers of each prompt, and compare two validations in pairs.

verl gives every prompt a new uid at each validation and sorts its dump by it, so rows are paired by their prompt and
ground truth. Prompts that share both (the same question about several images without such an object) are one unit of
the bootstrap, with their own weight.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from verl_visionr1.boxes import Array
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.rollouts.bootstrap import Estimate, Ratios, estimates_of, interval
from verl_visionr1.rollouts.dumps import rows_of
from verl_visionr1.rollouts.records import data_sources_of, split_uid
from verl_visionr1.rollouts.run import Start, find_run, read_run
from verl_visionr1.targets import TargetError, read_target
from verl_visionr1.tools.runs.steps import Metric, list_metrics

LEVEL, RESAMPLES, SEED = 0.95, 2000, 0
MIN_PROMPTS = 10
"""With fewer prompts there is no interval, since resampling them is unreliable."""
Key = tuple[str, str]
"""Prompt and ground truth, as in the dump."""


@dataclass(frozen=True, slots=True)
class Validation:
    """One dump: U units, the prompts of one `Key` each.

    Attributes:
        keys: keys of the units.
        sources: data source of each, or its task if unknown.
        tasks: of the ground truth; "" if it is not a `Target`.
        n: number of prompts of each.
        numbers: metric -> U means over the answers; NaN if a unit has none.
    """

    step: int
    keys: tuple[Key, ...]
    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    n: Array
    numbers: Mapping[str, Array]

    def select(self, units: Sequence[int]) -> Validation:
        """Some units, in that order."""
        numbers = {name: values[units] for name, values in self.numbers.items()}
        return Validation(
            self.step,
            keys=tuple([self.keys[i] for i in units]),
            sources=tuple([self.sources[i] for i in units]),
            tasks=tuple([self.tasks[i] for i in units]),
            n=self.n[units],
            numbers={name: values for name, values in numbers.items() if np.isfinite(values).any()},
        )

    def by_source(self) -> dict[str, Validation]:
        """Data source -> its units, sorted by name."""
        names = sorted(set(self.sources))
        return {name: self.select([i for i, source in enumerate(self.sources) if source == name]) for name in names}

    def means(self) -> dict[str, float]:
        """Metric -> mean over the prompts that have it."""
        known = {name: np.isfinite(values) for name, values in self.numbers.items()}
        return {name: float(np.average(self.numbers[name][has], weights=self.n[has])) for name, has in known.items()}


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and its interval; None if there is none."""

    value: float
    low: float | None = None
    high: float | None = None


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
    difference: Interval
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """The comparison of one data source.

    Attributes:
        n: number of prompts in both validations; None if only means are known.
        changes: one for each metric, the reward first.
        stages: stages at which the rows were scored, before and after.
        match_iou: xi0 of the rows after; None if unknown.
    """

    source: str
    n: int | None
    changes: Sequence[Change]
    stages: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
    match_iou: float | None = None


# --- reading ---------------------------------------------------------------------------------------------------------


def find_dumps(run_dir: Path) -> dict[int, Path]:
    """Step -> the validation dump of a run."""
    return _dumps_in(validation_folder(run_dir))


def _dumps_in(folder: Path) -> dict[int, Path]:
    files = folder.glob("*.jsonl") if folder.is_dir() else ()
    return {int(file.stem): file for file in sorted(files) if file.stem.isdecimal()}


def validation_folder(run_dir: Path) -> Path:
    """Find `trainer.validation_data_dir` from the run record, the config, or the recipes' default.

    A folder of that name in the run directory comes first: the run may have been moved or copied, and the recorded
    folder may belong to another run now.
    """
    start = _start_of(run_dir)
    named = start.validation_dir if start is not None else None
    named = named or _config_of(run_dir).get("trainer", {}).get("validation_data_dir")
    if not named or "${" in str(named):
        return run_dir / "validation"
    folder = Path(str(named)).expanduser()
    inside = run_dir / folder.name
    return inside if _dumps_in(inside) or not folder.is_dir() else folder


def read_sources(run_dir: Path) -> dict[str, str]:
    """Ground truth -> data source, from the validation data of the run record or config; empty without it."""
    start = _start_of(run_dir)
    named = start.val_files if start is not None else _config_of(run_dir).get("data", {}).get("val_files")
    files = [Path(str(file)).expanduser() for file in ([named] if isinstance(named, str) else named or [])]
    try:
        return data_sources_of([file for file in files if file.suffix == ".parquet" and file.is_file()])
    except (RowsError, ImportError):
        return {}


def _start_of(run_dir: Path) -> Start | None:
    """The run record; None if missing or unreadable."""
    try:
        file = find_run(run_dir)
        return None if file is None else read_run(file).last
    except RowsError:
        return None


def record_notes(run_dir: Path) -> list[str]:
    """Name a run record that cannot be read, and what is used in its place; empty if there is none."""
    try:
        file = find_run(run_dir)
        if file is not None:
            read_run(file)
    except RowsError as error:
        return [f"{error}; assumed instead: validation in {validation_folder(run_dir)}"]
    return []


def dumped_means(run_dir: Path) -> dict[int, dict[str, dict[str, float]]]:
    """Step -> data source -> name -> mean over the prompts, from the validation dumps alone."""
    sources = read_sources(run_dir)
    found: dict[int, dict[str, dict[str, float]]] = {}
    for step, file in find_dumps(run_dir).items():
        try:
            validation = read_validation(file, step, sources)
        except RowsError:  # it is still being written
            continue
        found[step] = {source: units.means() for source, units in validation.by_source().items()}
    return found


def _config_of(run_dir: Path) -> dict[str, Any]:
    """The config that Hydra saved for the run; empty if it saved none."""
    try:
        config = yaml.safe_load((run_dir / "hydra" / ".hydra" / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def read_validation(
    file: Path, step: int, sources: Mapping[str, str] | None = None, default_source: str = ""
) -> Validation:
    """Read the prompts of a dump; unreadable lines are left out.

    A trajectory of several turns has a line per turn with the same reward; the last one counts.

    Args:
        sources: ground truth -> data source, which verl's dumps lack.
        default_source: for rows whose source is not found; "": their task.

    Raises:
        RowsError: the file cannot be read.
    """
    sessions: dict[object, dict[str, Any]] = {}
    for number, row in rows_of(file, ()):
        if not isinstance(row, RowError) and isinstance(row, dict):
            prompt, rollout, _ = split_uid(row.get("uid", ""))
            sessions[number if rollout is None else (prompt, rollout)] = row
    units: defaultdict[Key, list[dict[str, Any]]] = defaultdict(list)
    for row in sessions.values():
        key = str(row.get("input", row.get("prompt", ""))), str(row.get("gts", row.get("ground_truth", "")))
        units[key].append(row)
    names, tasks = sources or {}, [_task_of(truth) for _, truth in units]
    named = [rows[0].get("data_source") or names.get(truth, default_source) for (_, truth), rows in units.items()]
    means = [_means_of(rows) for rows in units.values()]
    return Validation(
        step,
        keys=tuple(units),
        sources=tuple([str(source or task) for source, task in zip(named, tasks, strict=True)]),
        tasks=tuple(tasks),
        n=np.array([len({split_uid(row.get("uid", ""))[0] for row in rows}) for rows in units.values()]),
        numbers={name: _column(means, name) for name in dict.fromkeys(name for each in means for name in each)},
    )


def _task_of(truth: str) -> str:
    try:
        return read_target(truth).task
    except (TargetError, ValueError):
        return ""


def _means_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Name -> mean of the finite numbers of some rows; "reward" is verl's score if a row has no such number."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in {**row, "reward": row.get("reward", row.get("score"))}.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                values[name].append(float(value))
    return {name: math.fsum(each) / len(each) for name, each in values.items()}


def _column(means: Sequence[Mapping[str, float]], name: str) -> Array:
    return np.array([each.get(name, math.nan) for each in means])


# --- comparing -------------------------------------------------------------------------------------------------------


def compare(before: Validation, after: Validation) -> list[Section]:
    """Compare each data source of two validations over their common prompts."""
    places = {key: i for i, key in enumerate(after.keys)}
    shared = before.select([i for i, key in enumerate(before.keys) if key in places])
    sources = shared.by_source()
    return [
        _compare_source(source, old, after.select([places[key] for key in old.keys]), is_mixed=len(sources) > 1)
        for source, old in sources.items()
    ]


def _compare_source(source: str, old: Validation, new: Validation, *, is_mixed: bool) -> Section:
    """One data source; unit i is the same before and after."""
    weights = np.minimum(old.n, new.n).astype(np.float64)
    matches = Counter(new.numbers.get("match_iou", np.empty(0)).tolist())
    return Section(
        source,
        int(weights.sum()),
        _changes_of(_metrics_of((old, new), is_mixed=is_mixed), old, new, weights),
        (_stages_of(old), _stages_of(new)),
        matches.most_common(1)[0][0] if matches else None,
    )


def _stages_of(units: Validation) -> frozenset[int]:
    stages = units.numbers.get("stage", np.empty(0))
    return frozenset(map(int, stages[np.isfinite(stages)].tolist()))


def _metrics_of(sides: Sequence[Validation], *, is_mixed: bool) -> list[Metric]:
    """The meaningful metrics: in a mixed run, a criterion that a row's preset lacks is always 0."""
    keys = dict.fromkeys(name for side in sides for name in side.numbers)
    nonzero = {key for side in sides for key, values in side.numbers.items() if np.nan_to_num(values).any()}
    has_boxes = "f1_50" in nonzero or any(task in BOX_TASKS for side in sides for task in side.tasks)
    metrics = list_metrics(keys, has_boxes=has_boxes)
    return [m for m in metrics if m.key == "reward" or not is_mixed or m.key in nonzero]


def _changes_of(metrics: Sequence[Metric], old: Validation, new: Validation, weights: Array) -> list[Change]:
    parts: dict[str, tuple[Array, Array]] = {}
    missing = np.full(len(weights), math.nan)
    for metric in metrics:
        values = {name: side.numbers.get(metric.key, missing) for name, side in (("before", old), ("after", new))}
        known = np.isfinite(values["before"]) & np.isfinite(values["after"])
        for name, column in values.items():
            counted = np.where(known, weights, 0.0)
            parts[f"{name}/{metric.key}"] = np.where(known, column, 0.0) * counted, counted
    found, draws = _estimate(parts, len(weights))
    return [_change_of(metric, found, draws) for metric in metrics]


def _change_of(metric: Metric, found: Mapping[str, Estimate], draws: Mapping[str, Array]) -> Change:
    names = f"before/{metric.key}", f"after/{metric.key}"
    before, after = (found[name].value or 0.0 for name in names)
    drawn = [draws[name] for name in names if name in draws]
    if len(drawn) < 2 or found[names[0]].n < MIN_PROMPTS:
        return Change(metric, before, after, Interval(after - before))
    difference = Interval(after - before, *interval(drawn[1] - drawn[0], LEVEL, after - before))
    nearer = None
    if metric.ideal is not None:
        distances = np.abs(drawn[1] - metric.ideal) - np.abs(drawn[0] - metric.ideal)
        value = abs(after - metric.ideal) - abs(before - metric.ideal)
        nearer = Interval(value, *interval(distances, LEVEL, value))
    return Change(metric, before, after, difference, mark_change(difference, nearer))


def _estimate(parts: Mapping[str, tuple[Array, Array]], n: int) -> tuple[dict[str, Estimate], dict[str, Array]]:
    """Each ratio with its interval, and its resampled values; without both if there are too few prompts."""
    n_resamples = RESAMPLES if n >= MIN_PROMPTS else 0
    return estimates_of([Ratios(np.arange(n), parts)], n, n_resamples=n_resamples, seed=SEED, level=LEVEL)


def mark_change(difference: Interval, distance: Interval | None = None) -> str:
    """Classify a change, see `Change.mark`.

    Args:
        difference: after minus before.
        distance: rise of the distance to the metric's ideal, if it has one; else more is better.

    >>> mark_change(Interval(0.1, 0.05, 0.15)), mark_change(Interval(0.1, -0.05, 0.25))
    ('better', 'no change')
    >>> mark_change(Interval(0.3, 0.2, 0.4), distance=Interval(0.3, 0.2, 0.4))
    'worse'
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


# --- one validation --------------------------------------------------------------------------------------------------


def measure(validation: Validation) -> dict[str, dict[str, Interval]]:
    """Data source -> name of a metric -> its mean over the prompts, with the interval of a bootstrap over them."""
    sources = validation.by_source()
    return {source: _measure_source(units, is_mixed=len(sources) > 1) for source, units in sources.items()}


def _measure_source(units: Validation, *, is_mixed: bool) -> dict[str, Interval]:
    parts: dict[str, tuple[Array, Array]] = {}
    for metric in _metrics_of([units], is_mixed=is_mixed):
        values = units.numbers.get(metric.key, np.full(len(units.n), math.nan))
        counted = np.where(np.isfinite(values), units.n, 0.0)
        parts[metric.name] = np.nan_to_num(values) * counted, counted
    found, _ = _estimate(parts, len(units.n))
    return {name: Interval(one.value or 0.0, one.low, one.high) for name, one in found.items()}
