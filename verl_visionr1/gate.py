"""Gated progression: a stage ends when the model is ready for the next, not at a fixed step.

Stage i uses the thresholds of `schedule.points[i]`; the progress of that point is ignored. A pure state machine: the
trainer passes the scores of a step, keeps the state, and writes it into the checkpoint; the same observations lead to
the same stages. The metric of a gate must not depend on the stage: one with the stage's own thresholds falls at each
transition, and could neither compare two stages nor fall back without oscillating.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

import msgspec

from verl_visionr1.criteria import EPSILON

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Share: TypeAlias = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
Entry: TypeAlias = tuple[Count, float, Annotated[int, msgspec.Meta(ge=1)]]
"""Scores of one step in a stage: step, sum of the metric, number of completions."""


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Conditions for the end of a stage. `settings.decoded` checks the values.

    The windowed mean at a step is the mean of the metric over the completions of the last `window` observed steps of
    the stage. The stage ends when it has reached the bar at each of the last `patience` observed steps; then the window
    is empty again.

    Attributes:
        bar: value that the windowed mean must reach, in (0, 1]; one for all stages, or one per transition. Required.
        metric: key of `Score.metrics`; the default is threshold-free, "f1_50" includes false positives.
        window: observed steps in the mean.
        patience: consecutive observed steps at which the windowed mean must have reached the bar.
        min_steps: minimum length of a stage in training steps.
        may_fall_back: whether the gate may return to the previous stage.
        hysteresis: it does when the windowed mean was below that stage's bar minus this, at each of the last `patience`
            observed steps. So a metric that oscillates around the bar advances once and stays.
    """

    bar: Share | Annotated[tuple[Share, ...], msgspec.Meta(min_length=1)] | None = None
    metric: Annotated[str, msgspec.Meta(pattern=r"\S")] = "iou_mean"
    window: Annotated[int, msgspec.Meta(ge=1)] = 20
    patience: Annotated[int, msgspec.Meta(ge=1)] = 3
    min_steps: Count = 0
    may_fall_back: bool = False
    hysteresis: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.05

    def bar_of(self, move: int, n_stages: int) -> float:
        """Return the bar between stage `move` and the next; ValueError unless there is one per stage transition."""
        assert self.bar is not None
        if not isinstance(self.bar, tuple):
            return self.bar
        if len(self.bar) != n_stages - 1:
            raise ValueError(f"gate bar = {self.bar!r}: has {len(self.bar)} entries for {n_stages - 1} moves")
        return self.bar[move]


@dataclass(frozen=True, slots=True)
class Observation:
    """Scores of one training step.

    Attributes:
        step: the training step.
        stage: the stage at which the completions were scored.
        mean: mean of the gate's metric over them; None or nan: missing.
        n: number of completions.
    """

    step: int
    stage: int
    mean: float | None
    n: int = 1


@dataclass(frozen=True, slots=True)
class GateState:
    """State of one data source; ValueError for entries whose steps do not increase, or whose sum is not finite.

    Attributes:
        stage: index into the schedule's points.
        since: first step of this stage; observations of earlier steps do not count.
        first_step: the earliest observed step of this stage; None before the first one.
        entries: the last observed steps of this stage, in order of step; as many as the gate needs.
    """

    stage: Count = 0
    since: Count = 0
    first_step: Count | None = None
    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        steps = [step for step, _, _ in self.entries]
        if steps != sorted(set(steps)) or not all(math.isfinite(total) for _, total, _ in self.entries):
            raise ValueError(f"entries = {self.entries}: needs increasing steps and finite sums")


def advance(gate: Gate, state: GateState, observation: Observation, n_stages: int) -> GateState:
    """Return the state after one observation.

    Observations may arrive late and in any order. Those of another stage, of steps before this stage, or without a
    number change nothing. Within a stage the state does not depend on their order: observations of one step are summed,
    and a late step is inserted into the window. A transition is by one stage, never beyond the last; a state beyond
    `n_stages` is set to the last stage. ValueError: no stage, or bars that are not one per stage transition.
    """
    if n_stages < 1:
        raise ValueError(f"n_stages = {n_stages!r}: needs at least one")
    if n_stages > 1:
        gate.bar_of(0, n_stages)  # a wrong number of bars raises now, not at the first transition
    if state.stage >= n_stages:
        state = GateState(n_stages - 1, state.since)
    mean = observation.mean
    if observation.stage != state.stage or observation.step < state.since or observation.n < 1:
        return state
    total = math.nan if mean is None else float(mean) * observation.n
    if not math.isfinite(total):
        return state
    entry = (observation.step, total, observation.n)
    entries = _with_entry(state.entries, entry)[-(gate.window + gate.patience - 1) :]
    first_step = observation.step if state.first_step is None else min(state.first_step, observation.step)
    state = replace(state, entries=entries, first_step=first_step)
    newest = entries[-1][0]
    stage = state.stage + _move(gate, state, newest, n_stages)
    return state if stage == state.stage else GateState(stage, newest + 1)


def _with_entry(entries: tuple[Entry, ...], entry: Entry) -> tuple[Entry, ...]:
    for i, (step, total, n) in enumerate(entries):
        if step == entry[0]:
            return (*entries[:i], (step, total + entry[1], n + entry[2]), *entries[i + 1 :])
    return tuple(sorted((*entries, entry)))


def _move(gate: Gate, state: GateState, newest: int, n_stages: int) -> int:
    """Return the transition: 1, 0 or -1 stages."""
    means = _windowed_means(state.entries, gate.window)  # at most `patience` of them
    lasted = newest - state.first_step + 1 if state.first_step is not None else 0
    if len(means) < gate.patience or lasted < gate.min_steps:
        return 0
    stage = state.stage
    if stage + 1 < n_stages and min(means) >= gate.bar_of(stage, n_stages) - EPSILON:
        return 1
    if gate.may_fall_back and stage and max(means) < gate.bar_of(stage - 1, n_stages) - gate.hysteresis - EPSILON:
        return -1
    return 0


def _windowed_means(entries: Sequence[Entry], window: int) -> list[float]:
    """Return the mean over each `window` consecutive entries."""
    means: list[float] = []
    for end in range(window, len(entries) + 1):
        seen = entries[end - window : end]
        means.append(math.fsum(total for _, total, _ in seen) / sum(n for _, _, n in seen))
    return means


@dataclass(frozen=True, slots=True)
class Gates:
    """One gate for many data sources, each with its own stage.

    Attributes:
        gate: the settings, the same for all.
        n_stages: number of stages.
        states: data source -> its state; a missing source is at stage 0.

    >>> gates = Gates(Gate(bar=0.6, window=1, patience=1), n_stages=2)
    >>> gates = gates.advance(step=1, stage=0, means={"coco": (0.7, 32), "lvis": (0.3, 16)})
    >>> gates.stage("coco"), gates.stage("lvis"), gates.stage("never seen")
    (1, 0, 0)
    """

    gate: Gate
    n_stages: int
    states: Mapping[str, GateState] = field(default_factory=dict[str, GateState])

    def __post_init__(self) -> None:
        if self.n_stages < 1:
            raise ValueError(f"n_stages = {self.n_stages!r}: needs at least one")
        if self.n_stages > 1:
            self.gate.bar_of(0, self.n_stages)
        object.__setattr__(self, "states", MappingProxyType(dict(self.states)))

    def stage(self, source: str) -> int:
        """Return the current stage of a data source."""
        state = self.states.get(source)
        return 0 if state is None else min(state.stage, self.n_stages - 1)

    def advance(self, step: int, stage: int, means: Mapping[str, tuple[float | None, int]]) -> Gates:
        """Return the gates after a step.

        Args:
            step: the training step.
            stage: the stage at which these completions were scored; call once for each stage in a batch.
            means: data source -> mean of the gate's metric and number of completions.
        """
        states = dict(self.states)
        for source, (mean, n) in means.items():
            before = states.get(source, GateState())
            states[source] = advance(self.gate, before, Observation(step, stage, mean, n), self.n_stages)
        return replace(self, states=states)

    def state(self) -> dict[str, Any]:
        """Return JSON-able values for the checkpoint."""
        return msgspec.to_builtins(dict(self.states))

    def with_state(self, state: Mapping[str, Any]) -> Gates:
        """Combine these settings with a checkpoint's state; ValueError names a data source with an invalid one."""
        states: dict[str, GateState] = {}
        for source, each in state.items():
            try:
                states[source] = msgspec.convert(each, GateState)
            except msgspec.ValidationError as error:
                raise ValueError(f"gate state of data source {source!r}: {error}") from None
        return replace(self, states=states)
