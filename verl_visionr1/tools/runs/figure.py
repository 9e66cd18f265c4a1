"""Draw a run: a panel per metric, in training and validation, with bands of noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from verl_visionr1.files import atomic_write
from verl_visionr1.tools.runs.steps import BY_STAGE, ORDERED, Metric, Step
from verl_visionr1.tools.runs.validations import Interval

Curves = Mapping[int, Mapping[str, Mapping[str, Interval]]]
"""Step -> data source -> name of a metric -> its mean and interval."""
TRAINING_COLOR, SWITCH_COLOR = "#7a8088", "#444444"
COLORS = ("#0b63b0", "#c4540a", "#1a7f4b", "#8a3ea8", "#a0182e", "#6b5a00")
STYLE = {"font.size": 10, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False}
COLUMNS, PANEL_WH = 2, (5.4, 2.5)
WINDOW = 5
"""Number of steps in a moving mean."""
LEAST_POINTS = 3
"""With fewer points in the window there is no band."""
LEAST_SPAN = 0.1
"""Least span of an axis; changes below a tenth of it do not matter."""
MARGIN = 0.08


def draw(steps: Sequence[Step], path: Path, title: str = "", curves: Curves | None = None) -> None:
    """Write a figure (PNG) atomically.

    Args:
        curves: results of `measure` for each validation.

    Raises:
        RowsError: it cannot be written.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    curves = curves or {}
    metrics = _metrics_of(steps, curves)
    sources = sorted({source for numbers in curves.values() for source in numbers})
    n_panels = len(metrics) + 1
    n_rows = -(-n_panels // COLUMNS)
    with style.context(["default", STYLE]):  # light, independent of the user's theme
        figure = Figure(figsize=(PANEL_WH[0] * COLUMNS, PANEL_WH[1] * n_rows + 0.9), layout="constrained")
        panels = list(figure.subplots(n_rows, COLUMNS, sharex=True, squeeze=False).flat)
        for axes, metric in zip(panels, metrics, strict=False):
            _draw_metric(axes, metric, steps, curves, sources)
        _draw_thresholds(panels[n_panels - 1], steps)
        for i, axes in enumerate(panels):
            axes.set_visible(i < n_panels)
            axes.grid(alpha=0.25)
            axes.tick_params(labelbottom=True)
            if i >= n_panels - COLUMNS:
                axes.set_xlabel("step")
            _mark_switches(axes, steps)
        _add_legend(figure, panels[: n_panels - 1])
        figure.suptitle(title, fontsize=13)
        with atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=110, facecolor="white")


def _add_legend(figure: Any, panels: Sequence[Any]) -> None:
    """One legend for all panels of metrics."""
    named = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in named}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False)


def _metrics_of(steps: Sequence[Step], curves: Curves) -> list[Metric]:
    """All metrics of training batches or validations, in the order of tables."""
    trained = [metric for step in steps for metric, _ in step.training_metrics()]
    validated = [name for numbers in curves.values() for each in numbers.values() for name in each]
    reported = {metric.name for metric in trained} | set(validated)
    others = [Metric(name, name, bounds=(None, None)) for name in validated]
    found: dict[str, Metric] = {}
    for metric in (*ORDERED, *trained, *others):
        found.setdefault(metric.name, metric)
    return [metric for name, metric in found.items() if name in reported]


def _draw_metric(axes: Any, metric: Metric, steps: Sequence[Step], curves: Curves, sources: Sequence[str]) -> None:
    """Draw one panel; its axis shows everything drawn."""
    seen = [*_draw_training(axes, metric, steps)]
    for i, source in enumerate(sources):
        by_step = {step: numbers.get(source, {}).get(metric.name) for step, numbers in curves.items()}
        points = [(step, one) for step, one in by_step.items() if one is not None]
        if points:
            seen += _draw_validation(axes, points, f"validation: {source} (bars: 95 %)", COLORS[i % len(COLORS)])
    by_stage = " (in training: at the thresholds of its stage)" if metric.name in BY_STAGE else ""
    axes.set_title(metric.name + by_stage, loc="left")
    if metric.ideal is not None and seen:
        axes.axhline(metric.ideal, color=SWITCH_COLOR, linewidth=0.8, linestyle=":")
    ends = axis_range(seen, metric.bounds)
    if ends is not None:
        axes.set_ylim(*ends)


def _draw_validation(axes: Any, points: Sequence[tuple[int, Interval]], label: str, color: str) -> list[float]:
    """Draw means with their intervals; returns the interval ends."""
    means = [one.value for _, one in points]
    lows = [one.value if one.low is None else min(one.low, one.value) for _, one in points]
    highs = [one.value if one.high is None else max(one.high, one.value) for _, one in points]
    below = [mean - low for mean, low in zip(means, lows, strict=True)]
    above = [high - mean for mean, high in zip(means, highs, strict=True)]
    style = {"marker": "o", "markersize": 4, "capsize": 3, "linewidth": 1.8, "zorder": 3}
    axes.errorbar([x for x, _ in points], means, yerr=[below, above], color=color, label=label, **style)
    return [*lows, *highs]


def _draw_training(axes: Any, metric: Metric, steps: Sequence[Step]) -> Iterator[float]:
    """Draw batch means as points, their moving mean as a line; yields the values that the axis must show."""
    for part in split_by_stage(steps):
        points = [(step.number, value) for step in part if (value := step.training(metric.training_key)) is not None]
        if not points:
            continue
        axes.plot(*zip(*points, strict=True), ".", color=TRAINING_COLOR, alpha=0.45, markersize=4, linestyle="none")
        curve = smooth(points)
        label = f"training: mean of {WINDOW} steps (band: ± 2 standard errors)"
        axes.plot([p.x for p in curve], [p.mean for p in curve], color=TRAINING_COLOR, linewidth=1.6, label=label)
        banded = [point for point in curve if point.error is not None]
        if len(banded) >= LEAST_POINTS:
            lows, highs = ([p.mean + sign * 2.0 * (p.error or 0.0) for p in banded] for sign in (-1.0, 1.0))
            axes.fill_between([p.x for p in banded], lows, highs, color=TRAINING_COLOR, alpha=0.2, linewidth=0)
            yield from (*lows, *highs)
        yield from (value for _, value in points)


def _draw_thresholds(axes: Any, steps: Sequence[Step]) -> None:
    known = [(step.number, step.thresholds) for step in steps if step.thresholds is not None]
    styles = (("xi0 (match)", "-"), ("xi1 (no credit below)", "--"), ("xi2 (full credit from)", ":"))
    for i, (label, style) in enumerate(styles):
        if known:
            xs, values = [number for number, _ in known], [thresholds[i] for _, thresholds in known]
            axes.step(xs, values, style, where="mid", color=COLORS[i], label=label, linewidth=1.8)
    axes.set_title("thresholds in training (IoU)", loc="left")
    axes.set_ylim(0.0, 1.0)
    if known:
        axes.legend(loc="lower right", fontsize=8, frameon=False)


def _mark_switches(axes: Any, steps: Sequence[Step]) -> None:
    for number, stage in find_switches(steps):
        axes.axvline(number - 0.5, color=SWITCH_COLOR, linewidth=1.0, linestyle="--", alpha=0.7)
        axes.annotate(
            f"stage {stage}",
            (number - 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=SWITCH_COLOR,
        )


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a smoothed curve; `error` is the standard error of the mean, None if unknown."""

    x: int
    mean: float
    error: float | None


def smooth(points: Sequence[tuple[int, float]], window: int = WINDOW) -> list[Point]:
    """The centred moving mean.

    Args:
        points: (step, value), in order.
        window: number of points per mean; fewer at both ends.

    >>> [round(point.mean, 2) for point in smooth([(1, 0.0), (2, 1.0), (3, 2.0)], window=3)]
    [0.5, 1.0, 1.5]
    """
    half = window // 2
    found: list[Point] = []
    for i, (x, _) in enumerate(points):
        values = [value for _, value in points[max(i - half, 0) : i + half + 1]]
        mean = math.fsum(values) / len(values)
        error = None
        if len(values) >= LEAST_POINTS:
            error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
        found.append(Point(x, mean, error))
    return found


def split_by_stage(steps: Sequence[Step]) -> list[list[Step]]:
    """The training steps in runs of one stage: rewards of different stages are not averaged."""
    trained = [step for step in steps if step.training("value") is not None]
    return [list(each) for _, each in groupby(trained, key=lambda step: step.training("stage"))]


def find_switches(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """(first step, stage) of each later stage."""
    firsts = [part[0] for part in split_by_stage(steps)[1:]]
    return [(step.number, int(stage)) for step in firsts if (stage := step.training("stage")) is not None]


def axis_range(
    values: Iterable[float], bounds: tuple[float | None, float | None] = (None, None)
) -> tuple[float, float] | None:
    """Ends of an axis that shows all values, spans at least `LEAST_SPAN`, and stays in the bounds; None without values.

    >>> axis_range([0.75, 0.77], (0.0, 1.0)), axis_range([0.97, 1.0], (0.0, 1.0))
    ((0.71, 0.81), (0.9, 1.0))
    """
    kept = [value for value in values if math.isfinite(value)]
    if not kept:
        return None
    low, high = min(kept), max(kept)
    span = max((high - low) * (1.0 + 2.0 * MARGIN), LEAST_SPAN)
    middle = (low + high) / 2.0
    low, high = middle - span / 2.0, middle + span / 2.0
    least, most = bounds
    if most is not None and high > most:
        low, high = min(low, most - LEAST_SPAN) if low > most - LEAST_SPAN else low, most
    if least is not None and low < least:
        low, high = least, max(high, least + LEAST_SPAN)
    return round(low, 6), round(high, 6)
