"""Infer how rollouts were scored without a run record: the settings that reproduce the numbers in the dump.

The metrics of a validation dump determine the frame (only one frame reproduces the mean IoU) and the stage; without
them, the saved rewards decide. The result is an assumption, and is reported as one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from verl_visionr1.answers import Defect
from verl_visionr1.criteria import iou_mean
from verl_visionr1.frames import FRAMES
from verl_visionr1.rewards import PRESETS, TASK_PRESETS, Preset
from verl_visionr1.rewards.base import BOX_TASKS
from verl_visionr1.rollouts.judging import EQUAL, Judging, Moment, Training
from verl_visionr1.rollouts.numbers import Saved
from verl_visionr1.rollouts.records import Rollout

INFERRED = ("frame", "moment", "preset")
"""Settings that can be inferred."""
N_KEPT = 64
"""Size of the sample for trying settings."""
N_READ = 4096
"""Rollouts that the sample is drawn from."""
NEWEST = "qwen3-vl"
"""Preferred among frames that read answers alike."""
ENOUGH = 0.9
"""Least share of the sample that inferred settings must reproduce."""
LEAST_VALUES = 2
"""Least number of distinct saved rewards: equal rewards are not informative."""
BETTER = 0.2
"""Least gain in the reproduced share of saved rewards for a hint."""
MANY_OUTSIDE = 0.5
"""Share of answers with a box outside the frame from which the frame is doubted."""
FINE = 0.99
"""Share of equal rewards from which no hint is given."""
RUN_FILE = "visionr1_run.json"
"""The run record of the plug-in, see `rollouts.run`."""


@dataclass(frozen=True, slots=True)
class Inferred:
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
    now, _ = _explained(known, judging)
    if found.share is not None and found.share >= now + BETTER:
        return [f"{differ}: {'; '.join(found.notes)}"]
    return [f"{differ}; pass the run's own --frame, --preset, --total-steps, or its {RUN_FILE}"]


def infer(sample: list[Rollout], judging: Judging, fixed: frozenset[str] = frozenset()) -> Inferred:
    """Infer the frame, stage and preset of a sample.

    Args:
        sample: rollouts with the numbers of their dump.
        fixed: settings chosen by the user: "frame", "moment", "preset".
    """
    notes: list[str] = []
    if "frame" not in fixed:
        judging = _with_frame(sample, judging, notes)
    if "moment" not in fixed and any("stage" in rollout.numbers for rollout in sample):
        judging = replace(judging, moment=Moment(run=Training(None)))
        notes.append("each row names its stage")
    saved = [rollout for rollout in sample if rollout.saved is not None]
    if len({rollout.saved for rollout in saved}) < LEAST_VALUES:
        return Inferred(judging, tuple(notes))
    tried = [(_explained(saved, other), options, other) for options, other in _variants(saved, judging, fixed)]
    (own, own_whole), _, _ = tried[0]
    (best, whole), options, found = max(tried, key=lambda one: one[0])  # the first of equal ones
    if best < ENOUGH or (best, whole) <= (own, own_whole):
        return Inferred(judging, tuple(notes), own)
    criteria = f", and the criteria of {whole:.0%} instead of {own_whole:.0%}" if whole else ""
    notes.append(f"{options} reproduces {best:.0%} of the saved rewards instead of {own:.0%}{criteria}")
    return Inferred(found, tuple(notes), best)


def _with_frame(sample: list[Rollout], judging: Judging, notes: list[str]) -> Judging:
    """The judging in the frame that reproduces the mean IoU of the dump."""
    own, best, names = _best_frames(sample, judging, _measured)
    if best < ENOUGH or best <= own:
        return judging
    notes.append(f"--frame {names[0]} gives the mean IoU of {best:.0%} of the rows" + _others(names))
    return replace(judging, frame=FRAMES[names[0]])


def frame_note(sample: list[Rollout], judging: Judging) -> str:
    """Say that the answers are in another frame, and in which; "" if they fit.

    Raises:
        FrameError, RewardError: the sample cannot be scored.
    """
    own, best, names = _best_frames(sample, judging, _measured)
    gives = f"gives the dump's mean IoU of {best:.0%} of the rows"
    if best < own + BETTER:
        own, best, names = _best_frames(sample, judging, _mean_iou)
        gives = f"gives a mean IoU of {best:.2f} instead of {own:.2f}"
    n_boxed, n_outside = _n_outside(sample, judging)
    if best < own + BETTER and n_outside <= MANY_OUTSIDE * n_boxed:
        return ""
    advice = f"--frame {names[0]} {gives}{_others(names)}" if best > own else "no known frame fits better"
    return (
        f"frame {judging.frame.name} does not fit the answers: {n_outside} of {n_boxed} have a box outside it; {advice}"
    )


def _n_outside(sample: list[Rollout], judging: Judging) -> tuple[int, int]:
    """Number of answers with boxes, and of those with a box outside the frame."""
    answers = [judging.case(rollout, judging.preset_for(rollout)).answer for rollout in sample]
    boxed = [answer for answer in answers if answer.boxes_xyxy]
    return len(boxed), sum(Defect.OUTSIDE in answer.defects for answer in boxed)


def _others(names: list[str]) -> str:
    return f" (so do {', '.join(names[1:])})" if len(names) > 1 else ""


Fit = Callable[[Sequence[Rollout], Sequence[float]], float]
"""How well mean IoUs fit their rollouts, in [0, 1]."""


def _measured(rollouts: Sequence[Rollout], ious: Sequence[float]) -> float:
    """Share of the rollouts with boxes whose mean IoU in the dump is reproduced."""
    known = [
        (rollout.numbers["iou_mean"], iou)
        for rollout, iou in zip(rollouts, ious, strict=True)
        if rollout.numbers.get("iou_mean")
    ]
    return sum(abs(saved - iou) <= EQUAL for saved, iou in known) / len(known) if known else 0.0


def _mean_iou(rollouts: Sequence[Rollout], ious: Sequence[float]) -> float:
    return sum(ious) / len(rollouts) if rollouts else 0.0


def _best_frames(sample: list[Rollout], judging: Judging, fit: Fit) -> tuple[float, float, list[str]]:
    """Fit of the given frame, the best fit, and the frames that have it; the newest model's first."""
    placed = [rollout for rollout in sample if rollout.target.task in BOX_TASKS and rollout.target.n_objects]
    fits: dict[str, float] = {}
    for name, frame in FRAMES.items():
        other = replace(judging, frame=frame, earlier=())
        try:
            fits[name] = fit(placed, [iou_mean(other.case(one, other.preset_for(one)).class_aware) for one in placed])
        except ValueError:  # the frame needs an unknown size
            fits[name] = 0.0
    best = max(fits.values())
    names = sorted((name for name, value in fits.items() if value == best), key=lambda name: name != NEWEST)
    return fits[judging.frame.name], best, names


def _explained(saved: list[Rollout], judging: Judging) -> tuple[float, float]:
    """Share of the rollouts with reproduced reward, and of those whose criteria are all reproduced, too."""
    n = n_whole = 0
    for rollout in saved:
        try:
            preset = judging.preset_for(rollout)
            found = judging.score(rollout, preset)
        except ValueError:  # an unknown size, a stage that is not in the schedule
            continue
        assert rollout.saved is not None
        if abs(found.value - rollout.saved) <= EQUAL:
            n += 1
            numbers = rollout.numbers
            n_whole += all(abs(found.metrics[name] - numbers.get(name, math.inf)) <= EQUAL for name in preset.weights)
    return n / len(saved), n_whole / len(saved)


def _variants(saved: list[Rollout], judging: Judging, fixed: frozenset[str]) -> Iterator[tuple[str, Judging]]:
    """Yield (options of the command, judging): the given one first, then stages, presets, frames."""
    yield "as given", judging
    yield from _stages("", judging, fixed)
    if "preset" not in fixed:
        for preset in _other_presets(saved, judging):
            changed = replace(judging, preset=preset)
            yield f"--preset {preset.name}", changed
            yield from _stages(f"--preset {preset.name} ", changed, fixed)
    if "frame" not in fixed and not any(rollout.numbers.get("iou_mean") for rollout in saved):
        for name, frame in FRAMES.items():
            if name != judging.frame.name:
                changed = replace(judging, frame=frame)
                yield f"--frame {name}", changed
                yield from _stages(f"--frame {name} ", changed, fixed)


def _stages(options: str, judging: Judging, fixed: frozenset[str]) -> Iterator[tuple[str, Judging]]:
    if "moment" in fixed or judging.moment.run is not None:
        return
    for stage, _ in enumerate(judging.preset.schedule.points[:4]):
        yield f"{options}--stage {stage}", replace(judging, moment=Moment(stage=stage))


def _other_presets(saved: list[Rollout], judging: Judging) -> list[Preset]:
    """Presets that change how a row is scored: the tasks' defaults first, then those with few criteria."""
    defaults = {TASK_PRESETS[rollout.target.task] for rollout in saved}
    found = [preset for preset in PRESETS.values() if any(_changes(preset, rollout, judging) for rollout in saved)]
    return sorted(found, key=lambda preset: (preset.name not in defaults, len(preset.criteria)))


def _changes(preset: Preset, rollout: Rollout, judging: Judging) -> bool:
    return rollout.target.task in preset.tasks and judging.preset_for(rollout) is not preset
