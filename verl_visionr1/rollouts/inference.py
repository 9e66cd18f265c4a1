"""Infer how rollouts were scored without a run record: the settings that reproduce the numbers in the dump.

The metrics of a validation dump determine the frame (only one frame reproduces the mean IoU) and the stage; without
them, the saved rewards decide. The result is an assumption, and is reported as one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from verl_visionr1.answers import Defect
from verl_visionr1.criteria import iou_mean
from verl_visionr1.frames import FRAMES
from verl_visionr1.matching import match_class_agnostic
from verl_visionr1.rewards import PRESETS, TASK_PRESETS, Preset
from verl_visionr1.rewards.base import BOX_TASKS, CriterionInput
from verl_visionr1.rollouts.judging import EQUAL, Judging, Moment, Training
from verl_visionr1.rollouts.numbers import Saved
from verl_visionr1.rollouts.records import Rollout

INFERRED = ("frame", "moment", "preset")  # settings that can be inferred
N_KEPT = 64  # size of the sample for trying settings
N_READ = 4096  # rollouts that the sample is drawn from
NEWEST = "qwen3-vl"  # preferred among frames that read answers alike
ENOUGH = 0.9  # least share of the sample that inferred settings must reproduce
LEAST_VALUES = 2  # least number of distinct saved rewards: equal rewards are not informative
BETTER = 0.2  # least gain of a frame, or in the reproduced share of saved rewards, for a note
MANY_OUTSIDE = 0.5  # share of answers with a box outside the frame from which the frame is doubted
MANY_EMPTY = 0.9  # share of rows without an object from which the ground truth is doubted
LEAST_ROWS = 10  # with fewer rows it is not
FINE = 0.99  # share of equal rewards from which no hint is given
RUN_FILE = "visionr1_run.json"  # the run record of the plug-in, see `rollouts.run`


class Inferred(NamedTuple):
    """Inferred settings.

    Attributes:
        notes: the assumptions with reasons, one sentence each; empty if nothing was inferred.
        share: share of the sample with reproduced rewards; None without saved rewards.
    """

    judging: Judging
    notes: tuple[str, ...] = ()
    share: float | None = None


class Sample:
    """A random sample of the rollouts, deterministic for the same rows."""

    def __init__(self) -> None:
        self.rollouts: list[Rollout] = []
        self._n = 0
        self._random = random.Random(0)

    def add(self, rollout: Rollout) -> None:
        """Add a rollout."""
        self._n += 1
        if len(self.rollouts) < N_KEPT:
            self.rollouts.append(rollout)
        elif (place := self._random.randrange(self._n)) < N_KEPT:
            self.rollouts[place] = rollout


def sample_of(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Draw a sample of the first `N_READ` rollouts."""
    sample = Sample()
    for rollout in islice(rollouts, N_READ):
        sample.add(rollout)
    return sample.rollouts


def difference_hints(saved: Saved | None, sample: list[Rollout], judging: Judging) -> list[str]:
    """Hints why saved rewards differ from the computed ones, and what to do; empty if they are equal."""
    if saved is None or saved.equal >= FINE:
        return []
    differ = f"{1.0 - saved.equal:.0%} of the rewards differ from the run's"
    known = [rollout for rollout in sample if rollout.saved is not None]
    found = infer(known, judging)
    if found.share is not None and found.share >= _explained(known, judging)[0] + BETTER:
        return [f"{differ}: {'; '.join(found.notes)}"]
    return [f"{differ}; pass the run's own --frame, --preset, --total-steps, or its {RUN_FILE}"]


def infer(sample: list[Rollout], judging: Judging, fixed: frozenset[str] = frozenset()) -> Inferred:
    """Infer the frame, stage and preset of a sample.

    Args:
        sample: rollouts with the numbers of their dump.
        fixed: settings chosen by the user: "frame", "moment", "preset".
    """
    notes: list[str] = []
    fits = _frame_fits(sample, judging) if "frame" not in fixed else None
    if fits is not None:
        frame = _best_frame(fits.reproduced, judging)
        if frame.fit >= ENOUGH and frame.fit > frame.own:
            notes.append(f"--frame {frame.name} gives the mean IoU of {frame.fit:.0%} of the rows{frame.others}")
            judging, fits = replace(judging, frame=FRAMES[frame.name]), None
    if "moment" not in fixed and any("stage" in rollout.numbers for rollout in sample):
        judging = replace(judging, moment=Moment(run=Training(None)))
        notes.append("each row names its stage")
    saved = [rollout for rollout in sample if rollout.saved is not None]
    if len({rollout.saved for rollout in saved}) >= LEAST_VALUES:
        variants = _variants(saved, judging, fixed)
    elif saved and fits is not None and (frame := _best_frame(fits.others, judging)).fit >= frame.own + BETTER:
        variants = iter((("as given", judging), (f"--frame {frame.name}", replace(judging, frame=FRAMES[frame.name]))))
    else:
        return Inferred(judging, tuple(notes))
    tried = [(_explained(saved, other), options, other) for options, other in variants]
    (own, own_whole), _, _ = tried[0]
    (best, whole), options, found = max(tried, key=lambda one: one[0])  # the first of equal ones
    if best < ENOUGH or (best, whole) <= (own, own_whole):
        return Inferred(judging, tuple(notes), own)
    criteria = f", and the criteria of {whole:.0%} instead of {own_whole:.0%}" if whole else ""
    notes.append(f"{options} reproduces {best:.0%} of the saved rewards instead of {own:.0%}{criteria}")
    return Inferred(found, tuple(notes), best)


def frame_note(sample: list[Rollout], judging: Judging) -> str:
    """Say that the answers are in another frame, and in which; "" if they fit."""
    fits = _frame_fits(sample, judging)
    found = _best_frame(fits.reproduced, judging)
    gives = f"gives the dump's mean IoU of {found.fit:.0%} of the rows"
    if found.fit < found.own + BETTER:
        found = _best_frame(fits.others, judging)
        gives = f"gives {fits.meaning} of {found.fit:.2f} instead of {found.own:.2f}"
    answers = [judging.case(rollout, judging.preset_for(rollout)).answer for rollout in sample]
    n_boxed = sum(bool(answer.boxes_xyxy) for answer in answers)
    n_outside = sum(bool(answer.boxes_xyxy) and Defect.OUTSIDE in answer.defects for answer in answers)
    if found.fit < found.own + BETTER and n_outside <= MANY_OUTSIDE * n_boxed:
        return ""
    advice = f"--frame {found.name} {gives}{found.others}" if found.fit > found.own else "no known frame fits better"
    return (
        f"frame {judging.frame.name} does not fit the answers: {n_outside} of {n_boxed} have a box outside it; {advice}"
    )


def truth_note(sample: list[Rollout]) -> str:
    """Say that nearly no row has an object, so that no prediction can be right; "" if enough rows have one."""
    targets = [rollout.target for rollout in sample if rollout.target.task in (*BOX_TASKS, "pointing")]
    n_empty = sum(not target.n_objects for target in targets)
    if len(targets) < LEAST_ROWS or n_empty <= MANY_EMPTY * len(targets):
        return ""
    return (
        f"{n_empty} of {len(targets)} rows examined have no object, so that every prediction is a false alarm: "
        "is the ground truth right? visionr1 doctor checks the training data"
    )


class _FrameFits(NamedTuple):
    """How well each frame fits the answers, in [0, 1].

    Attributes:
        reproduced: share of the dump's mean IoUs that the frame reproduces.
        others: a measure that needs no dumped IoU; `meaning` names it.
    """

    reproduced: dict[str, float]
    others: dict[str, float]
    meaning: str


class _BestFrame(NamedTuple):
    """The frame with the best fit; `own`: fit of the given one; `others`: those that fit equally, for a note."""

    name: str
    fit: float
    own: float
    others: str


def _best_frame(fits: Mapping[str, float], judging: Judging) -> _BestFrame:
    best = max(fits.values())
    name, *others = sorted((name for name, fit in fits.items() if fit == best), key=lambda name: name != NEWEST)
    also = f" (so do {', '.join(others)})" if others else ""
    return _BestFrame(name, best, fits[judging.frame.name], also)


def _frame_fits(sample: list[Rollout], judging: Judging) -> _FrameFits:
    """Compute the fits: by mean IoU, without labels where none is right, by boxes inside the image without objects."""
    placed = [rollout for rollout in sample if rollout.target.task in BOX_TASKS]
    cases: dict[str, list[CriterionInput]] = {}
    for name, frame in FRAMES.items():
        other = replace(judging, frame=frame, earlier=())
        with suppress(ValueError):  # the frame needs an unknown size
            cases[name] = [other.case(one, other.preset_for(one)) for one in placed]
    zeros, reproduced = dict.fromkeys(FRAMES, 0.0), dict[str, float]()
    dumped = np.array([one.numbers.get("iou_mean", 0.0) if one.target.n_objects else 0.0 for one in placed])
    for name, own in cases.items() if dumped.any() else ():
        equal = np.abs(np.array([_labelled_iou(case) for case in own]) - dumped) <= EQUAL
        reproduced[name] = float(np.mean(equal[dumped > 0.0]))
    tried = ((meaning, least, _means(cases, measure)) for meaning, least, measure in _MEASURES)
    meaning, _, fits = next(one for one in tried if max(one[2].values(), default=0.0) >= one[1])
    return _FrameFits(zeros | reproduced, zeros | fits, meaning)


def _means(cases: Mapping[str, list[CriterionInput]], measure: Callable[[CriterionInput], float]) -> dict[str, float]:
    """Mean of a measure for each frame, over the cases that have it (no NaN)."""
    values = {name: [value for case in own if not math.isnan(value := measure(case))] for name, own in cases.items()}
    return {name: sum(own) / len(own) for name, own in values.items() if own}


def _labelled_iou(case: CriterionInput) -> float:
    return iou_mean(case.class_aware) if case.target.n_objects else math.nan


def _unlabelled_iou(case: CriterionInput) -> float:
    return iou_mean(match_class_agnostic(case.answer, case.target)) if case.target.n_objects else math.nan


def _inside(case: CriterionInput) -> float:
    return float(bool(case.answer.boxes_xyxy) and Defect.OUTSIDE not in case.answer.defects)


_MEASURES = (
    ("a mean IoU", BETTER, _labelled_iou),
    ("a mean IoU without labels", EQUAL, _unlabelled_iou),
    ("a share of answers inside the image", 0.0, _inside),
)
"""Meaning, least value of the best frame from which it counts, and measure; the first that counts is taken."""


def _explained(saved: list[Rollout], judging: Judging) -> tuple[float, float]:
    """Share of the rollouts with reproduced reward, and of those whose criteria are all reproduced, too."""
    n = n_whole = 0
    for rollout in saved:
        try:
            preset = judging.preset_for(rollout)
            found = judging.score(rollout, preset)
        except ValueError:  # an unknown size, a stage that is not in the schedule
            continue
        if abs(found.value - (rollout.saved or 0.0)) <= EQUAL:
            n += 1
            numbers = rollout.numbers
            n_whole += all(abs(found.metrics[name] - numbers.get(name, math.inf)) <= EQUAL for name in preset.weights)
    return n / len(saved), n_whole / len(saved)


def _variants(saved: list[Rollout], judging: Judging, fixed: frozenset[str]) -> Iterator[tuple[str, Judging]]:
    """Yield (options of the command, judging): the given one first, then other presets and frames; each with stages."""
    changes: list[tuple[str, dict[str, Any]]] = [("", {})]
    if "preset" not in fixed:
        changes += [(f"--preset {preset.name} ", {"preset": preset}) for preset in _other_presets(saved, judging)]
    if "frame" not in fixed and not any(rollout.numbers.get("iou_mean") for rollout in saved):
        changes += [(f"--frame {name} ", {"frame": FRAMES[name]}) for name in FRAMES if name != judging.frame.name]
    for options, change in changes:
        changed = replace(judging, **change)
        yield options.strip() or "as given", changed
        is_open = "moment" not in fixed and judging.moment.run is None
        for stage in range(len(changed.preset.schedule.points[:4]) if is_open else 0):
            yield f"{options}--stage {stage}", replace(changed, moment=Moment(stage=stage))


def _other_presets(saved: list[Rollout], judging: Judging) -> list[Preset]:
    """Presets that change how a row is scored: the tasks' defaults first, then those with few criteria."""
    own = {(rollout.target.task, id(judging.preset_for(rollout))) for rollout in saved}
    defaults = {TASK_PRESETS[task] for task, _ in own}
    found = [
        preset
        for preset in PRESETS.values()
        if any(task in preset.tasks and chosen != id(preset) for task, chosen in own)
    ]
    return sorted(found, key=lambda preset: (preset.name not in defaults, len(preset.criteria)))
