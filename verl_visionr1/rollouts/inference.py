"""How rollouts were judged, where no run wrote it down: found by what reproduces the numbers that the dump has.

The metrics of a validation dump tell the frame (its mean IoU comes out in one frame only) and the stage; without them,
the saved rewards decide. What was found is an assumption, and is said as one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from verl_visionr1.frames import FRAMES
from verl_visionr1.rewards import PRESETS, TASK_PRESETS, Preset
from verl_visionr1.rollouts.judging import EQUAL, Judging, Moment, Training
from verl_visionr1.rollouts.numbers import Saved
from verl_visionr1.rollouts.records import Rollout

INFERRED = ("frame", "moment", "preset")
"""What can be found out."""
N_KEPT = 64
"""Rollouts that ways to judge are tried on."""
N_READ = 4096
"""Rollouts that they are drawn from."""
NEWEST = "qwen3-vl"
"""Of frames that read answers alike, this one is named."""
ENOUGH = 0.9
"""A way to judge is taken that explains this share of them."""
LEAST_VALUES = 2
"""Saved rewards that are all the same tell nothing of how they came about."""
BETTER = 0.2
"""A hint names a way to judge that explains this much more of the saved rewards."""
FINE = 0.99
"""From this share of equal rewards on, nothing is said."""
RUN_FILE = "visionr1_run.json"
"""What a run of the plug-in writes down itself, see `rollouts.run`."""


@dataclass(frozen=True, slots=True)
class Inferred:
    """What was found.

    Attributes:
        notes: what is assumed and why, one sentence each; empty where nothing could be told.
        share: of the sample, whose saved rewards come out; None without saved rewards.
    """

    judging: Judging
    notes: tuple[str, ...] = ()
    share: float | None = None


class Sample:
    """A random few of the rollouts that were given, the same for the same rows."""

    def __init__(self) -> None:
        self.rollouts: list[Rollout] = []
        self._n = 0
        self._random = random.Random(0)

    def add(self, rollout: Rollout) -> None:
        """Take one."""
        self._n += 1
        if len(self.rollouts) < N_KEPT:
            self.rollouts.append(rollout)
        elif (place := self._random.randrange(self._n)) < N_KEPT:
            self.rollouts[place] = rollout


def sample_of(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """A sample of the first `N_READ`."""
    sample = Sample()
    for rollout in islice(rollouts, N_READ):
        sample.add(rollout)
    return sample.rollouts


def difference_hints(saved: Saved | None, sample: list[Rollout], judging: Judging) -> list[str]:
    """Why saved rewards differ from those that are computed here, and what to do; empty where they are the same."""
    if saved is None or saved.equal >= FINE:
        return []
    differ = f"{1.0 - saved.equal:.0%} of the rewards differ from the run's"
    known = [rollout for rollout in sample if rollout.saved is not None]
    found = infer(known, judging)
    now = _explained(known, judging)
    if found.share is not None and found.share >= now + BETTER:
        return [f"{differ}; assumed instead: {'; '.join(found.notes)}"]
    return [f"{differ}; pass the run's own --frame, --preset, --total-steps, or its {RUN_FILE}"]


def infer(sample: list[Rollout], judging: Judging, fixed: frozenset[str] = frozenset()) -> Inferred:
    """Find the frame, the stage and the preset that a sample was judged by.

    Args:
        sample: rollouts with what their dump says of them.
        fixed: what the user has set: "frame", "moment", "preset".
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
    tried = [(_explained(saved, other), told, other) for told, other in _variants(saved, judging, fixed)]
    best = max(share for share, _, _ in tried)
    own, _, _ = tried[0]
    if best >= ENOUGH and best > own:
        _, told, judging = next(one for one in tried if one[0] == best)
        notes.append(f"{told} reproduces {best:.0%} of the saved rewards (default: {own:.0%})")
    return Inferred(judging, tuple(notes), max(best, own) if best >= ENOUGH else own)


def _with_frame(sample: list[Rollout], judging: Judging, notes: list[str]) -> Judging:
    """The judging in the frame whose mean IoU is that of the dump."""
    measured = [rollout for rollout in sample if rollout.numbers.get("iou_mean")]
    if not measured:
        return judging
    shares = {name: _measured(measured, replace(judging, frame=frame)) for name, frame in FRAMES.items()}
    own, best = shares[judging.frame.name], max(shares.values())
    if best < ENOUGH or best <= own:
        return judging
    names = sorted((name for name, share in shares.items() if share == best), key=lambda name: name != NEWEST)
    notes.append(f"--frame {names[0]} gives the mean IoU of {best:.0%} of the rows" + _others(names))
    return replace(judging, frame=FRAMES[names[0]])


def _others(names: list[str]) -> str:
    return f" (so do {', '.join(names[1:])})" if len(names) > 1 else ""


def _measured(rollouts: list[Rollout], judging: Judging) -> float:
    """Share of the rollouts whose mean IoU comes out."""
    n = 0
    for rollout in rollouts:
        try:
            found = judging.score(rollout, judging.preset_for(rollout)).metrics["iou_mean"]
        except ValueError:  # the frame needs a size that is not known
            return 0.0
        n += abs(found - rollout.numbers["iou_mean"]) <= EQUAL
    return n / len(rollouts)


def _explained(saved: list[Rollout], judging: Judging) -> float:
    """Share of the rollouts whose saved reward comes out."""
    n = 0
    for rollout in saved:
        try:
            found = judging.score(rollout, judging.preset_for(rollout)).value
        except ValueError:  # a size that is not known, a stage that the schedule does not have
            continue
        assert rollout.saved is not None
        n += abs(found - rollout.saved) <= EQUAL
    return n / len(saved)


def _variants(saved: list[Rollout], judging: Judging, fixed: frozenset[str]) -> Iterator[tuple[str, Judging]]:
    """(options of the command, the judging they make), the given one first: stages, then presets, then frames."""
    yield "as given", judging
    yield from _stages("", judging, fixed)
    if "preset" not in fixed:
        for name, preset in PRESETS.items():
            if preset is not judging.preset and _fits(saved, preset):
                changed = replace(judging, preset=preset)
                yield f"--preset {name}", changed
                yield from _stages(f"--preset {name} ", changed, fixed)
    if "frame" not in fixed and not any(rollout.numbers.get("iou_mean") for rollout in saved):
        for name, frame in FRAMES.items():
            if name != judging.frame.name:
                changed = replace(judging, frame=frame)
                yield f"--frame {name}", changed
                yield from _stages(f"--frame {name} ", changed, fixed)


def _stages(told: str, judging: Judging, fixed: frozenset[str]) -> Iterator[tuple[str, Judging]]:
    if "moment" in fixed or judging.moment.run is not None:
        return
    for stage, _ in enumerate(judging.preset.schedule.points[:4]):
        yield f"{told}--stage {stage}", replace(judging, moment=Moment(stage=stage))


def _fits(saved: list[Rollout], preset: Preset) -> bool:
    """Whether a preset judges rows of the sample, other than as the default of their task."""
    return any(r.target.task in preset.tasks and TASK_PRESETS[r.target.task] != preset.name for r in saved)
