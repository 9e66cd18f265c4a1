"""Draw a run: a panel per metric, in training and validation, with bands of noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from verl_visionr1.files import atomic_write
from verl_visionr1.rollouts.bootstrap import Estimate
from verl_visionr1.tools.runs.steps import BY_STAGE, ORDERED, Metric, Step

Curves = Mapping[int, Mapping[str, Mapping[str, Estimate]]]
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
    others = [Metric(name, name) for name in validated]
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
    seen = [value for value in seen if np.isfinite(value)]
    if seen:
        axes.set_ylim(*axis_range(seen))


def _draw_validation(axes: Any, points: Sequence[tuple[int, Estimate]], label: str, color: str) -> list[float]:
    """Draw means with their intervals; returns the interval ends."""
    ends = [[one.value, one.low, one.high] for _, one in points]
    means, lows, highs = np.array(ends, dtype=np.float64).T
    lows, highs = np.fmin(lows, means), np.fmax(highs, means)
    style = {"marker": "o", "markersize": 4, "capsize": 3, "linewidth": 1.8, "zorder": 3}
    axes.errorbar([x for x, _ in points], means, yerr=[means - lows, highs - means], color=color, label=label, **style)
    return [*lows, *highs]


def _draw_training(axes: Any, metric: Metric, steps: Sequence[Step]) -> Iterator[float]:
    """Draw batch means as points, their moving mean as a line; yields the values that the axis must show."""
    for part in split_by_stage(steps):
        points = [(step.number, value) for step in part if (value := step.training(metric.training_key)) is not None]
        if not points:
            continue
        axes.plot(*zip(*points, strict=True), ".", color=TRAINING_COLOR, alpha=0.45, markersize=4, linestyle="none")
        xs, values = zip(*points, strict=True)
        means, errors = smooth(values)
        label = f"training: mean of {WINDOW} steps (band: ± 2 standard errors)"
        axes.plot(xs, means, color=TRAINING_COLOR, linewidth=1.6, label=label)
        band = means - 2.0 * errors, means + 2.0 * errors
        axes.fill_between(xs, *band, color=TRAINING_COLOR, alpha=0.2, linewidth=0)
        yield from (*values, *(end for ends in band for end in ends))


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


def smooth(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The centred moving mean of `WINDOW` values, fewer at both ends, and its standard error; NaN if unknown.

    >>> smooth([0.0, 1.0, 2.0])[0].tolist()
    [1.0, 1.0, 1.0]
    """
    half = WINDOW // 2
    windows = [np.array(values[max(i - half, 0) : i + half + 1]) for i in range(len(values))]
    errors = [w.std(ddof=1) / np.sqrt(len(w)) if len(w) >= LEAST_POINTS else np.nan for w in windows]
    return np.array([window.mean() for window in windows]), np.array(errors)


def split_by_stage(steps: Sequence[Step]) -> list[list[Step]]:
    """The training steps in runs of one stage: rewards of different stages are not averaged."""
    trained = [step for step in steps if step.training("value") is not None]
    return [list(each) for _, each in groupby(trained, key=lambda step: step.training("stage"))]


def find_switches(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """(first step, stage) of each later stage."""
    firsts = [part[0] for part in split_by_stage(steps)[1:]]
    return [(step.number, int(stage)) for step in firsts if (stage := step.training("stage")) is not None]


def axis_range(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that shows all values and spans at least `LEAST_SPAN`.

    >>> axis_range([0.75, 0.77])
    (0.71, 0.81)
    """
    low, high = min(values), max(values)
    half = max((high - low) * (1.0 + 2.0 * MARGIN), LEAST_SPAN) / 2.0
    middle = (low + high) / 2.0
    return round(middle - half, 6), round(middle + half, 6)
