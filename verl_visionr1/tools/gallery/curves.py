"""Curves of a run over its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from verl_visionr1.rollouts.judged import NO_STEP
from verl_visionr1.tools.gallery.census import FLAT, LENGTH, REWARD, SAVED, SPREAD, TOKENS, Census
from verl_visionr1.tools.runs.steps import NOT_CRITERIA, RunError, read_steps

LOGGED = "logged"
"""Name of the run's own logged numbers, in place of a dump's name."""
LABELS = {
    REWARD: "reward, recomputed",
    SAVED: "the run's reward",
    "f1_50": "F1 at IoU .5",
    "iou_mean": "mean IoU",
    "boxes_per_target": "boxes per object",
    "parsed": "readable answers",
    LENGTH: "answer length, characters",
    TOKENS: "answer length, tokens",
    SPREAD: "spread of rewards in a group (std)",
    FLAT: "groups of zero variance, share",
    "match_iou": "IoU needed for a match",
}
"""Panel -> heading, where it is not the panel's name."""
FIRST = (SAVED, "f1_50", "iou_mean", "boxes_per_target", LENGTH, REWARD)
LAST = ("accuracy", SPREAD, FLAT, "parsed", TOKENS, "stage", "match_iou")
_LOGGED_NAMES = {
    REWARD: "value",
    TOKENS: "n_tokens",
    SPREAD: "group_std",
    FLAT: "frac_reward_zero_std",
    "match_iou": "threshold/match_iou",
    **{name: name for name in ("stage", "f1_50", "iou_mean", "boxes_per_target", "accuracy", "parsed")},
}
"""Panel -> name in the run's training metrics."""


def panels_of(census: Census, names: Sequence[str], run_dirs: Sequence[Path]) -> list[dict[str, Any]]:
    """Make the panels in the order of the page: main ones, criteria, the rest; curves need at least two points.

    Args:
        names: names of the dumps.
        run_dirs: folders of runs with logged metrics.
    """
    lines: dict[str, dict[tuple[str, str], dict[int, float]]] = {}
    for (dump, source, step), means in census.places.items():
        for name, mean in means.items() if step != NO_STEP else ():
            curve = (names[dump], census.table.sources[source])
            lines.setdefault(name, {}).setdefault(curve, {})[step] = mean
    for run_dir in run_dirs:
        curve = (LOGGED if len(run_dirs) == 1 else f"{LOGGED} {run_dir.name}", "")
        for name, step, value in _logged(run_dir):
            lines.setdefault(name, {}).setdefault(curve, {})[step] = value
    drawn = {
        name: [_line(curve, means) for curve, means in own.items() if len(means) > 1] for name, own in lines.items()
    }
    criteria = [name for name in drawn if name not in (*FIRST, *LAST, "n_predicted", "n_target")]
    first = FIRST if drawn.get(SAVED) else (REWARD, *FIRST)
    order = [name for name in dict.fromkeys((*first, *criteria, *LAST)) if drawn.get(name)]
    return [{"name": name, "label": LABELS.get(name, name), "lines": drawn[name]} for name in order]


def _line(curve: tuple[str, str], means: dict[int, float]) -> dict[str, Any]:
    steps = sorted(means)
    values = [round(means[step], 5) for step in steps]
    return {"dump": curve[0], "source": curve[1], "steps": steps, "values": values}


def _logged(run_dir: Path) -> Iterator[tuple[str, int, float]]:
    """(panel, step, number) of a run's training batches; nothing if none can be read."""
    try:
        steps = read_steps(run_dir)
    except (RunError, OSError):
        return
    criteria = dict.fromkeys(name for step in steps for name in step.criteria if name not in NOT_CRITERIA)
    for panel, name in (_LOGGED_NAMES | {name: name for name in criteria}).items():
        for step in steps:
            value = step.training(name)
            if value is not None and abs(value) < 1e300:
                yield panel, step.number, value
