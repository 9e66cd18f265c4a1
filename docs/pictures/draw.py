"""Every drawing of the documentation, light and dark, from the code and from the saved run in `docs/example`.

    python docs/pictures/draw.py             # all
    python docs/pictures/draw.py frames      # one

The gallery's screenshot needs Chromium: `python docs/pictures/gallery.py`.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import tomllib
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "example"))

import restore
from scene_pictures import frames, matching
from style import BLUE, GREEN, ORANGE, PINK, RED, THEMES, save, themed

from verl_visionr1 import PRESETS
from verl_visionr1.criteria import ADVANCED, BEGINNER
from verl_visionr1.criteria.dense import reachable_iou
from verl_visionr1.schedule import Schedule, cosine, linear, staged

# --- thresholds ------------------------------------------------------------------------------------------------------


def thresholds(theme: str) -> None:
    """The match threshold of each kind of schedule over training."""
    kinds: dict[str, tuple[Schedule, str, str]] = {
        "staged (default)": (staged(BEGINNER, ADVANCED, at=0.5), BLUE, "-"),
        "linear": (linear(BEGINNER, ADVANCED), ORANGE, "--"),
        "cosine": (cosine(BEGINNER, ADVANCED), GREEN, "-."),
        "v-triune (piecewise)": (PRESETS["v-triune"].schedule, PINK, ":"),
    }
    xs = [i / 400 for i in range(401)]
    with themed(theme):
        figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
        for label, (schedule, colour, style) in kinds.items():
            axes.plot(xs, [schedule(x).match_iou for x in xs], style, color=colour, label=label, linewidth=2)
        axes.set(xlabel="fraction of training", ylabel="IoU of a match (ξ0)", ylim=(0.4, 1.02), xlim=(0, 1))
        axes.grid(alpha=0.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        save(figure, "thresholds", theme)


def credit(theme: str) -> None:
    """Credit f(IoU) of a matched box at each stage, and with the rule off."""
    from verl_visionr1.criteria import OFF, differentiate

    xs = [i / 500 for i in range(501)]
    stages = {"stage 0": (BEGINNER, BLUE, "-"), "stage 1": (ADVANCED, ORANGE, "-"), "no schedule": (OFF, GREEN, ":")}
    with themed(theme):
        figure, axes = plt.subplots(figsize=(5.4, 2.8), layout="constrained")
        for label, (at, colour, style) in stages.items():
            ys = [differentiate(x, at.iou_floor, at.iou_full) for x in xs]
            axes.plot(xs, ys, style, color=colour, label=label, linewidth=2)
        axes.set(xlabel="IoU of a box with its object", ylabel="credit", xlim=(0, 1), ylim=(-0.03, 1.05))
        axes.grid(alpha=0.5)
        axes.legend(loc="upper left")
        save(figure, "credit", theme)


def size_aware(theme: str) -> None:
    """The IoU that an exact answer keeps when its corners are rounded to whole numbers, by size of the object."""
    sides = [1.5 + 0.5 * i for i in range(160)]
    with themed(theme) as colours:
        figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
        for width, colour in ((640, BLUE), (1920, ORANGE)):
            grid = width / 1000
            reached = [reachable_iou((0, 0, side, side), (grid, grid)) for side in sides]
            axes.plot(sides, reached, color=colour, linewidth=2, label=f"image {width} px wide, 0-1000 grid")
        for name, value in (("stage 1: match", ADVANCED.match_iou), ("stage 1: full credit", ADVANCED.iou_full)):
            axes.axhline(value, color=colours["faint"], linestyle="--", linewidth=1)
            axes.text(80.5, value, f"{name} {value}", va="center", fontsize=9)
        axes.set(
            xlabel="side of a square object in pixels", ylabel="IoU that rounding leaves", xlim=(0, 80), ylim=(0, 1)
        )
        axes.grid(alpha=0.5)
        axes.legend(loc="lower right")
        save(figure, "size-aware", theme)


# --- the saved run ---------------------------------------------------------------------------------------------------


def report(theme: str) -> None:
    """Training and validation of the saved run: four numbers, with 95 % intervals."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        restore.unpack(run)
        steps, intervals = _steps(run), _intervals(run)
    panels = {"reward": "value", "F1@.5": "f1_50", "mean IoU": "iou_mean", "boxes/object": "boxes_per_target"}
    with themed(theme) as colours:
        figure, grid = plt.subplots(1, 4, figsize=(10, 2.5), layout="constrained")
        for axes, (title, key) in zip(grid, panels.items(), strict=True):
            trained = [
                (step, numbers[f"visionr1/{key}/mean"]) for step, numbers in steps if f"visionr1/{key}/mean" in numbers
            ]
            axes.plot(*zip(*trained, strict=True), ".", color=colours["faint"], label="training batch")
            points = intervals[title]
            means = [mean for _, mean, _, _ in points]
            errors = [[m - low for _, m, low, _ in points], [high - m for _, m, _, high in points]]
            xs = [step for step, *_ in points]
            axes.errorbar(xs, means, yerr=errors, marker="o", capsize=4, color=BLUE, label="held-out, 95 % interval")
            axes.axvline(11.5, color=colours["faint"], linestyle=":", linewidth=1)
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_ylim(0.25, 1.2)
            axes.grid(alpha=0.5)
            axes.set_xlabel("step")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        save(figure, "report", theme)


def _steps(run: Path) -> list[tuple[int, Mapping[str, float]]]:
    lines = (run / "metrics" / "run.jsonl").read_text().splitlines()
    return [(record["step"], record["data"]) for record in map(json.loads, lines)]


def _intervals(run: Path) -> dict[str, list[tuple[int, float, float, float]]]:
    """Metric -> (step, mean, low, high) of each validation."""
    from verl_visionr1.tools.runs.steps import ORDERED
    from verl_visionr1.tools.runs.validations import find_dumps, measure, read_validation

    titles = {metric.name for metric in ORDERED}
    found: dict[str, list[tuple[int, float, float, float]]] = {title: [] for title in titles}
    for step, dump in find_dumps(run).items():
        for numbers in measure(read_validation(dump)).values():
            for title, interval in numbers.items():
                found.setdefault(title, []).append((step, interval.value, interval.low, interval.high))
    return found


GAMED = ROOT / "benchmarks" / "claims" / "results" / "recall-alone_1.json"
"""A run whose reward is recall alone."""


def gamed(theme: str) -> None:
    """Reward, F1 and boxes per object while a reward is gamed, and the steps with an alarm."""
    curve = [step for step in json.loads(GAMED.read_text())["curve"] if "visionr1/value/mean" in step]
    steps = [step["step"] for step in curve]
    with themed(theme):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
        for axes, key, label, colour in (
            (left, "value", "reward: recall alone", ORANGE),
            (left, "f1_50", "F1 at IoU .5", BLUE),
            (right, "boxes_per_target", "boxes per object", GREEN),
        ):
            values = [step[f"visionr1/{key}/mean"] for step in curve]
            axes.plot(steps, values, color=colour, linewidth=2, label=label)
        for axes in (left, right):
            for step in filter(_has_alarm, curve):
                axes.axvspan(step["step"] - 0.5, step["step"] + 0.5, color=RED, alpha=0.15, linewidth=0)
            axes.set_xlabel("step (red: an alarm is on)")
            axes.grid(alpha=0.5)
            axes.legend(loc="best")
        save(figure, "gamed", theme)


def _has_alarm(step: Mapping[str, float]) -> bool:
    return any(value for key, value in step.items() if key.startswith("visionr1/alarm/"))


# --- architecture ----------------------------------------------------------------------------------------------------


def architecture(theme: str) -> None:
    """The way of one completion, and the layers that import-linter checks."""
    steps = ["completion", "answer", "original\npixels", "matching", "criteria", "score"]
    below = ["verl, or a file", "answers/", "frames.py", "matching.py", "criteria/", "rewards/"]
    with themed(theme) as colours:
        figure, axes = plt.subplots(figsize=(9, 4.6))
        axes.set(xlim=(0, 9), ylim=(0, 4.6))
        axes.set_axis_off()
        for i, (text, module) in enumerate(zip(steps, below, strict=True)):
            _block(axes, 0.1 + 1.5 * i, 3.55, 1.15, 0.75, text, colours, BLUE)
            axes.text(0.675 + 1.5 * i, 3.36, module, ha="center", va="top", fontsize=8.5, family="monospace")
            if i:
                axes.annotate(
                    "",
                    (0.08 + 1.5 * i, 3.92),
                    (-0.23 + 1.5 * i, 3.92),
                    arrowprops={"arrowstyle": "->", "color": colours["ink"]},
                )
        axes.text(0.1, 2.72, "A module imports only from lines below it (checked by import-linter)", fontsize=9.5)
        layers = _layers()
        height = 2.4 / len(layers)
        for i, layer in enumerate(layers):
            y = 2.5 - (i + 1) * height
            _block(axes, 0.1, y, 8.8, height * 0.82, layer, colours, colours["line"], size=8.5)
        figure.subplots_adjust(0, 0, 1, 1)
        save(figure, "architecture", theme)


def _layers() -> list[str]:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    return [re.sub(r" \| ", "  ·  ", layer) for layer in contract["layers"]]


def _block(
    axes: Any,
    x: float,
    y: float,
    w: float,
    h: float,
    text: str,
    colours: Mapping[str, str],
    edge: str,
    size: float = 10,
) -> None:
    style = "round,pad=0.0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch((x, y), w, h, boxstyle=style, facecolor=colours["box"], edgecolor=edge, linewidth=1.2)
    )
    axes.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=size)


PICTURES: Mapping[str, Callable[[str], None]] = {
    each.__name__: each for each in (thresholds, credit, size_aware, frames, matching, report, gamed, architecture)
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        for theme in THEMES:
            PICTURES[name](theme)
