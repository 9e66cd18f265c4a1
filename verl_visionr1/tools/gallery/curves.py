"""Curves of a run over its steps, and where reward and quality drift apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from verl_visionr1.rollouts.judged import NO_STEP
from verl_visionr1.tools.gallery.census import FLAT, LENGTH, REWARD, SAVED, SPREAD, TOKENS, Census
from verl_visionr1.tools.runs.steps import NOT_CRITERIA, RunError, Step, read_steps

Means = Mapping[str, float]
"""Name of a number -> its mean."""
LOGGED = "logged"
"""Name of the run's own logged numbers, in place of a dump's name."""
LABELS = {
    **{
        REWARD: "reward, recomputed",
        SAVED: "the run's reward",
        "f1_50": "F1 at IoU .5",
        "iou_mean": "mean IoU",
    },
    **{"accuracy": "accuracy", "boxes_per_target": "boxes per object", "parsed": "readable answers"},
    **{LENGTH: "answer length, characters", TOKENS: "answer length, tokens"},
    **{SPREAD: "spread of rewards in a group (std)", FLAT: "groups of zero variance, share"},
    **{"stage": "stage", "match_iou": "IoU needed for a match"},
}
"""Panel -> heading, for panels other than criteria."""
FIRST = (SAVED, "f1_50", "iou_mean", "boxes_per_target", LENGTH, REWARD)
LAST = ("accuracy", SPREAD, FLAT, "parsed", TOKENS, "stage", "match_iou")
NOT_SHOWN = ("n_predicted", "n_target")
_LOGGED_NAMES = {
    **{REWARD: "value", "boxes_per_target": "boxes_per_target", TOKENS: "n_tokens", SPREAD: "group_std"},
    **{FLAT: "frac_reward_zero_std", "stage": "stage", "match_iou": "threshold/match_iou", "f1_50": "f1_50"},
    **{"iou_mean": "iou_mean", "accuracy": "accuracy", "parsed": "parsed"},
}
"""Panel -> name in the run's training metrics."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One curve: of a dump (or `LOGGED`) and a data source ("" for all of them), its steps in order."""

    dump: str
    source: str
    steps: list[int]
    values: list[float]


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """The curves of one number."""

    name: str
    label: str
    lines: list[Line]


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """A data source whose reward rose while its quality fell: means of its first and last third of steps."""

    dump: str
    source: str
    quality: str
    steps: tuple[int, int]
    reward: tuple[float, float]
    measure: tuple[float, float]


def panels_of(census: Census, names: Sequence[str], run_dirs: Sequence[Path]) -> list[Panel]:
    """Make the panels in the order of the page: main ones, criteria, the rest; curves need at least two points.

    Args:
        run_dirs: folders of runs with logged metrics.
    """
    lines: dict[str, list[Line]] = {}
    for (dump, source), by_step in _by_source(census).items():
        for name in dict.fromkeys(name for means in by_step.values() for name in means):
            points = [(step, means.get(name)) for step, means in sorted(by_step.items())]
            _add(lines, name, names[dump], census.table.sources[source], points)
    for run_dir in run_dirs:
        for name, points in _logged(run_dir).items():
            _add(lines, name, LOGGED if len(run_dirs) == 1 else f"{LOGGED} {run_dir.name}", "", points)
    criteria = [name for name in lines if name not in FIRST and name not in LAST and name not in NOT_SHOWN]
    first = FIRST if SAVED in lines else (REWARD, *FIRST)
    order = [name for name in dict.fromkeys((*first, *criteria, *LAST)) if name in lines]
    return [Panel(name=name, label=LABELS.get(name, name), lines=lines[name]) for name in order]


def _by_source(census: Census) -> dict[tuple[int, int], dict[int, Means]]:
    found: dict[tuple[int, int], dict[int, Means]] = {}
    for (dump, source, step), means in census.places.items():
        if step != NO_STEP:
            found.setdefault((dump, source), {})[step] = means
    return found


def _add(
    lines: dict[str, list[Line]], name: str, dump: str, source: str, points: Sequence[tuple[int, float | None]]
) -> None:
    kept = [(step, value) for step, value in points if value is not None]
    if len(kept) > 1:
        steps, values = [step for step, _ in kept], [round(value, 5) for _, value in kept]
        lines.setdefault(name, []).append(Line(dump=dump, source=source, steps=steps, values=values))


def _logged(run_dir: Path) -> dict[str, list[tuple[int, float | None]]]:
    """Logged numbers of a run's training batches; empty if none can be read."""
    try:
        steps = read_steps(run_dir)
    except (RunError, OSError):
        return {}
    criteria = dict.fromkeys(name for step in steps for name in step.criteria if name not in NOT_CRITERIA)
    wanted = _LOGGED_NAMES | {name: name for name in criteria}
    return {panel: [(step.number, _number(step, name)) for step in steps] for panel, name in wanted.items()}


def _number(step: Step, name: str) -> float | None:
    value = step.training(name)
    return value if value is not None and abs(value) < 1e300 else None


def drifts_of(census: Census, names: Sequence[str]) -> list[Drift]:
    """Find data sources whose reward rose from the first to the last third of the steps while their quality fell."""
    found: list[Drift] = []
    for (dump, source), by_step in _by_source(census).items():
        steps = sorted(by_step)
        if len(steps) < 2:
            continue
        third = max(len(steps) // 3, 1)
        quality = "f1_50" if any("f1_50" in means for means in by_step.values()) else "accuracy"
        rows = census.table.select((census.table.dump == dump) & (census.table.source == source))
        sides = [rows.select(np.isin(rows.step, part)).means()[()] for part in (steps[:third], steps[-third:])]
        before, after = (means.get("saved", means["value"]) for means in sides)
        was, now = (means.get(quality, 0.0) for means in sides)
        if before < after - LEAST and was > now + LEAST:
            drift = Drift(
                dump=names[dump],
                source=census.table.sources[source],
                quality=quality,
                steps=(steps[0], steps[-1]),
                reward=(before, after),
                measure=(was, now),
            )
            found.append(drift)
    return found


LEAST = 0.005
"""Smallest rise or fall that counts."""
