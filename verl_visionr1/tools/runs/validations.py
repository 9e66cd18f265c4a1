"""The validation dumps of a run: the numbers of each prompt, and the paired comparison of two validations.

verl gives every prompt a new uid at each validation and sorts its dump by it, so neither uid nor line number tells
which rows belong together. Rows are paired by their prompt and ground truth. Several prompts that share both (the same
question about several images without such an object) count as one unit of the bootstrap, with their own weight.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from verl_visionr1.boxes import Array
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.rollouts.bootstrap import Ratios, estimates_of, interval
from verl_visionr1.rollouts.columns import read_target
from verl_visionr1.rollouts.dumps import rows_of
from verl_visionr1.rollouts.records import data_sources_of
from verl_visionr1.rollouts.run import Start, find_run, read_run
from verl_visionr1.targets import TargetError
from verl_visionr1.tools.runs.metrics import Metric, list_metrics
from verl_visionr1.tools.runs.steps import RENAMED

LEVEL, RESAMPLES, SEED = 0.95, 2000, 0
MIN_PROMPTS = 10
"""With fewer prompts there is no interval: resampling them says little about others."""
Key = tuple[str, str]
"""Prompt and ground truth, as the dump has them."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the answers to one prompt scored, or to several prompts of the same `Key`.

    Attributes:
        source: data source, or the task where that is not known.
        task: of the ground truth; "" where it is none of ours.
        n: how many prompts share the key.
        numbers: metric -> mean over the answers.
    """

    source: str
    task: str
    n: int
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Validation:
    """One dump."""

    step: int
    prompts: Mapping[Key, Prompt]


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and its interval; None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One metric before and after.

    Attributes:
        mark: "better", "worse", "no change" (the interval of the difference contains 0), "changed" (of a metric with
            an ideal: it moved, but not clearly nearer or farther), or "" where there is no interval.
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
        source: its name.
        n: prompts that both validations have; None where only means are known.
        changes: one for each metric, the reward first.
        stages: those that the rows were judged at, before and after.
        match_iou: xi0 of the rows after; None where it is not known.
    """

    source: str
    n: int | None
    changes: Sequence[Change]
    stages: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
    match_iou: float | None = None


# --- reading ---------------------------------------------------------------------------------------------------------


def find_dumps(run_dir: Path) -> dict[int, Path]:
    """Step -> the validation dump of a run."""
    folder = validation_folder(run_dir)
    files = folder.glob("*.jsonl") if folder.is_dir() else ()
    return {int(file.stem): file for file in sorted(files) if file.stem.isdecimal()}


def validation_folder(run_dir: Path) -> Path:
    """`trainer.validation_data_dir`, as the run or its config names it, or where recipes put it."""
    start = _start_of(run_dir)
    if start is not None and start.validation_dir:
        folder = Path(start.validation_dir)
        return folder if folder.is_dir() else run_dir / folder.name  # the run may have been moved
    named = _config_of(run_dir).get("trainer", {}).get("validation_data_dir")
    return Path(str(named)).expanduser() if named and "${" not in str(named) else run_dir / "validation"


def read_sources(run_dir: Path) -> dict[str, str]:
    """Ground truth -> data source, from the validation data that the run or its config names; empty without it."""
    start = _start_of(run_dir)
    named = start.val_files if start is not None else _config_of(run_dir).get("data", {}).get("val_files")
    files = [Path(str(file)).expanduser() for file in ([named] if isinstance(named, str) else named or [])]
    try:
        return data_sources_of([file for file in files if file.suffix == ".parquet" and file.is_file()])
    except (RowsError, ImportError):
        return {}


def _start_of(run_dir: Path) -> Start | None:
    """What the run wrote down itself; None where it did not, or it cannot be read."""
    file = find_run(run_dir)
    try:
        return None if file is None else read_run(file).last
    except RowsError:
        return None


def dumped_means(run_dir: Path) -> dict[int, dict[str, dict[str, float]]]:
    """Step -> data source -> name -> mean over the prompts, of the validation dumps alone."""
    sources = read_sources(run_dir)
    found: dict[int, dict[str, dict[str, float]]] = {}
    for step, file in find_dumps(run_dir).items():
        try:
            prompts = read_validation(file, step, sources).prompts.values()
        except RowsError:  # it is still being written
            continue
        for source in {prompt.source for prompt in prompts}:
            some = [prompt for prompt in prompts if prompt.source == source]
            names = dict.fromkeys(name for prompt in some for name in prompt.numbers)
            means = {name: _weighted(some, name) for name in names}
            found.setdefault(step, {})[source] = means
    return found


def _weighted(prompts: Sequence[Prompt], name: str) -> float:
    known = [(prompt.n, prompt.numbers[name]) for prompt in prompts if name in prompt.numbers]
    return math.fsum(n * number for n, number in known) / sum(n for n, _ in known)


def _config_of(run_dir: Path) -> dict[str, Any]:
    """What Hydra has kept of the run's config; empty where it has kept nothing."""
    try:
        config = yaml.safe_load((run_dir / "hydra" / ".hydra" / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def read_validation(
    file: Path, step: int, sources: Mapping[str, str] | None = None, default_source: str = ""
) -> Validation:
    """The prompts of a dump; lines that cannot be read are left out.

    Of a trajectory of several turns, each of which has a line with the same reward, the last one counts.

    Args:
        file: the dump.
        step: of the trainer.
        sources: ground truth -> data source: verl's dumps do not name it.
        default_source: of rows whose source is not found; "": their task.

    Raises:
        RowsError: the file cannot be read.
    """
    sessions: dict[object, dict[str, Any]] = {}
    for number, row in rows_of(file, ()):
        if not isinstance(row, RowError) and isinstance(row, dict):
            sessions[_split_uid(row, number)] = row
    groups: defaultdict[Key, list[dict[str, Any]]] = defaultdict(list)
    for row in sessions.values():
        groups[str(row.get("input", row.get("prompt", ""))), str(row.get("gts", row.get("ground_truth", "")))].append(
            row
        )
    names = sources or {}
    return Validation(
        step, {key: _prompt_of(key[1], rows, names.get(key[1], default_source)) for key, rows in groups.items()}
    )


def _split_uid(row: Mapping[str, Any], number: int) -> tuple[str, str]:
    """(prompt, trajectory) of a row: verl's uid is "{prompt}_{trajectory}_{output}"; the line's number without one."""
    parts = str(row.get("uid", number)).rsplit("_", 2)
    is_verl = len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal()
    return (parts[0], parts[1]) if is_verl else (str(row.get("uid", "")), str(number))


def _prompt_of(truth: str, rows: Sequence[Mapping[str, Any]], source: str) -> Prompt:
    try:
        task = read_target(truth).task
    except (TargetError, ValueError):
        task = ""
    n_prompts = len({_split_uid(row, i)[0] for i, row in enumerate(rows)})
    values: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in {**row, "reward": row.get("reward", row.get("score"))}.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                values[RENAMED.get(name, name)].append(float(value))
    source = str(rows[0].get("data_source") or source or task)
    return Prompt(source, task, n_prompts, {name: sum(each) / len(each) for name, each in values.items()})


# --- comparing -------------------------------------------------------------------------------------------------------


def compare(before: Validation, after: Validation) -> list[Section]:
    """Each data source of two validations, over the prompts that both have."""
    keys: defaultdict[str, list[Key]] = defaultdict(list)
    for key, prompt in before.prompts.items():
        if key in after.prompts:
            keys[prompt.source].append(key)
    return [_compare_source(before, after, source, keys[source], is_mixed=len(keys) > 1) for source in sorted(keys)]


def _compare_source(
    before: Validation, after: Validation, source: str, keys: Sequence[Key], *, is_mixed: bool
) -> Section:
    pairs = [(before.prompts[key], after.prompts[key]) for key in keys]
    metrics = _metrics_of([prompt for pair in pairs for prompt in pair], is_mixed=is_mixed)
    weights = np.array([min(old.n, new.n) for old, new in pairs], dtype=np.float64)
    old, new = ({metric.key: _column(side, metric.key) for metric in metrics} for side in zip(*pairs, strict=True))
    changes = _changes_of(metrics, old, new, weights)
    stages = [
        frozenset(int(p.numbers["stage"]) for p in side if "stage" in p.numbers) for side in zip(*pairs, strict=True)
    ]
    matches = Counter(prompt.numbers.get("match_iou") for _, prompt in pairs)
    return Section(
        source, int(weights.sum()), changes, (frozenset(stages[0]), frozenset(stages[1])), matches.most_common(1)[0][0]
    )


def _metrics_of(prompts: Sequence[Prompt], *, is_mixed: bool) -> list[Metric]:
    """Those that mean something: in a mixed run a criterion that a row's preset does not have is 0 throughout."""
    keys = dict.fromkeys(name for prompt in prompts for name in prompt.numbers)
    has_boxes = any(prompt.task in BOX_TASKS or prompt.numbers.get("f1_50") for prompt in prompts)
    metrics = list_metrics(keys, has_boxes=has_boxes)
    return [m for m in metrics if m.key == "reward" or not is_mixed or any(p.numbers.get(m.key) for p in prompts)]


def _column(prompts: Iterable[Prompt], key: str) -> Array:
    return np.array([prompt.numbers.get(key, math.nan) for prompt in prompts])


def _changes_of(
    metrics: Sequence[Metric], old: Mapping[str, Array], new: Mapping[str, Array], weights: Array
) -> list[Change]:
    parts: dict[str, tuple[Array, Array]] = {}
    for metric in metrics:
        known = np.isfinite(old[metric.key]) & np.isfinite(new[metric.key])
        counted = np.where(known, weights, 0.0)
        for name, values in (("before", old), ("after", new)):
            parts[f"{name}/{metric.key}"] = np.where(known, values[metric.key], 0.0) * counted, counted
    draws = _resample(parts, len(weights))
    changes: list[Change] = []
    for metric in metrics:
        names = f"before/{metric.key}", f"after/{metric.key}"
        before, after = (float(above.sum() / max(below.sum(), 1.0)) for above, below in (parts[name] for name in names))
        drawn = [draws[name] for name in names if name in draws]
        if len(drawn) < 2 or np.count_nonzero(parts[names[0]][1]) < MIN_PROMPTS:
            changes.append(Change(metric, before, after, Interval(after - before)))
            continue
        difference = Interval(after - before, *interval(drawn[1] - drawn[0], LEVEL, after - before))
        nearer = None
        if metric.ideal is not None:
            distances = np.abs(drawn[1] - metric.ideal) - np.abs(drawn[0] - metric.ideal)
            value = abs(after - metric.ideal) - abs(before - metric.ideal)
            nearer = Interval(value, *interval(distances, LEVEL, value))
        changes.append(Change(metric, before, after, difference, mark_change(difference, nearer)))
    return changes


def _resample(parts: Mapping[str, tuple[Array, Array]], n: int) -> Mapping[str, Array]:
    """Ratio -> its resampled values; empty with too few prompts."""
    if n < MIN_PROMPTS:
        return {}
    ratios = Ratios(np.arange(n), parts)
    _, draws = estimates_of([ratios], n, n_resamples=RESAMPLES, seed=SEED, level=LEVEL)
    return draws


def mark_change(difference: Interval, distance: Interval | None = None) -> str:
    """What an interval shows, see `Change.mark`.

    Args:
        difference: after less before.
        distance: how much farther from its ideal a metric is, where it has one; else more is better.

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
    sources: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in validation.prompts.values():
        sources[prompt.source].append(prompt)
    return {source: _measure_source(sources[source], is_mixed=len(sources) > 1) for source in sorted(sources)}


def _measure_source(prompts: Sequence[Prompt], *, is_mixed: bool) -> dict[str, Interval]:
    weights = np.array([prompt.n for prompt in prompts], dtype=np.float64)
    parts: dict[str, tuple[Array, Array]] = {}
    for metric in _metrics_of(prompts, is_mixed=is_mixed):
        values = _column(prompts, metric.key)
        counted = np.where(np.isfinite(values), weights, 0.0)
        parts[metric.name] = np.nan_to_num(values) * counted, counted
    draws = _resample(parts, len(prompts))
    means = {name: float(above.sum() / max(below.sum(), 1.0)) for name, (above, below) in parts.items()}
    return {name: Interval(mean, *interval(draws.get(name), LEVEL, mean)) for name, mean in means.items()}
