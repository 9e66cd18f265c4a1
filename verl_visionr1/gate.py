"""Gated progression: a stage ends when the model is ready for the next, not at a fixed step.

Stage i means the thresholds of `schedule.points[i]`; when a point would begin by the clock plays no part. A pure state
machine: frozen records in, frozen records out, no clock, no counter. Whoever trains hands over what a step scored,
keeps the state, and writes it into the checkpoint; from there the same observations lead to the same stages. (The idea
of a sliding window with several conditions is MedLoc-R1's; no code of it is public.)

What decides must not move with the stage. A metric judged by the stage's own thresholds falls at each move, and a gate
that looks at it could neither compare two stages nor fall back without flapping. So the default is "iou_mean", the
matched IoU over n_T, which means the same at every stage; "f1_50" is the other choice, and sees false alarms too.
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
"""What one step scored in a stage: step, sum of the metric, number of completions."""


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When a stage ends.

    The windowed mean at a step is the mean of the metric over the completions of the last `window` observed steps of
    the stage, up to that step. The stage ends when it has reached the bar at each of the last `patience` observed
    steps; after a move it starts anew.

    Attributes:
        bar: what the windowed mean must reach, in (0, 1]; one for all stages, or one per stage transition. A gate needs
            it; None: not set.
        metric: the key of `Score.metrics` that is handed over; threshold-free by default, see above.
        window: observed steps in the mean.
        patience: consecutive observed steps at which the windowed mean must have reached the bar.
        min_steps: training steps that a stage lasts at least.
        may_fall_back: whether a stage may be given up again.
        hysteresis: it is, when the windowed mean was below the bar that led into it, less this, at each of the last
            `patience` observed steps. So a metric that oscillates around the bar moves on once and stays.

    Read it by `settings.decoded`, which refuses what cannot be: a Gate made by hand is not checked.
    """

    bar: Share | Annotated[tuple[Share, ...], msgspec.Meta(min_length=1)] | None = None
    metric: Annotated[str, msgspec.Meta(pattern=r"\S")] = "iou_mean"
    window: Annotated[int, msgspec.Meta(ge=1)] = 20
    patience: Annotated[int, msgspec.Meta(ge=1)] = 3
    min_steps: Count = 0
    may_fall_back: bool = False
    hysteresis: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.05

    def bar_of(self, move: int, n_stages: int) -> float:
        """The bar between stage `move` and the next.

        Raises:
            ValueError: several bars, but not one per stage transition.
        """
        assert self.bar is not None
        if not isinstance(self.bar, tuple):
            return self.bar
        if len(self.bar) != n_stages - 1:
            raise ValueError(f"gate bar = {self.bar!r}: has {len(self.bar)} entries for {n_stages - 1} moves")
        return self.bar[move]


@dataclass(frozen=True, slots=True)
class Observation:
    """What one training step scored.

    Attributes:
        step: the training step.
        stage: the stage that the completions were judged at.
        mean: mean of the gate's metric over them; None or nan: there is none.
        n: how many completions.
    """

    step: int
    stage: int
    mean: float | None
    n: int = 1


@dataclass(frozen=True, slots=True)
class GateState:
    """How far one data source is.

    Attributes:
        stage: index into the schedule's points.
        since: observations of earlier steps do not count: they are from before this stage began.
        first_step: the earliest step that was observed in this stage; None before there was one.
        entries: the last steps observed in this stage, in order of step; as many as the gate looks at.

    Raises:
        ValueError: entries whose steps do not increase, or whose sum is not finite.
    """

    stage: Count = 0
    since: Count = 0
    first_step: Count | None = None
    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        steps = [step for step, _, _ in self.entries]
        if steps != sorted(set(steps)) or not all(math.isfinite(total) for _, total, _ in self.entries):
            raise ValueError(f"entries = {self.entries}: needs increasing steps and finite sums")

    def windowed_mean(self, gate: Gate) -> float | None:
        """The mean that the gate looks at; None before the window is full. For logs."""
        means = _windowed_means(self.entries, gate.window)
        return means[-1] if means else None


def advance(gate: Gate, state: GateState, observation: Observation, n_stages: int) -> GateState:
    """The state after one observation.

    Observations may come late and in any order. Those judged at another stage than the present, those of steps before
    it began, and those without a number change nothing. Within a stage the state hangs on what was observed, not on
    the order it came in: several observations of one step are taken together, and a late step takes its place in the
    window. (When a move happens does hang on what has come by then.) A move is by one stage, never beyond the last.

    Args:
        gate: the settings.
        state: before; `GateState()` at the start.
        observation: what a step scored.
        n_stages: how many there are; where it is fewer than the state knows of, the last one holds.

    Raises:
        ValueError: no stage, or bars that are not one per stage transition.

    >>> gate, state = Gate(bar=0.6, window=2, patience=1), GateState()
    >>> for step, mean in enumerate([0.5, 0.6, 0.7, 0.9]):
    ...     state = advance(gate, state, Observation(step, state.stage, mean), n_stages=2)
    ...     print(state.stage, state.windowed_mean(gate))
    0 None
    0 0.55
    1 None
    1 None
    """
    if n_stages < 1:
        raise ValueError(f"n_stages = {n_stages!r}: needs at least one")
    if n_stages > 1:
        gate.bar_of(0, n_stages)  # bars that do not fit are an error now, not when a move is due
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
    """1, 0 or -1 stages."""
    means = _windowed_means(state.entries, gate.window)  # as many as patience asks for, or fewer
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
    """The mean over each `window` consecutive entries."""
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
        n_stages: how many stages there are.
        states: data source -> how far it is; a source that is not in it yet is at stage 0.

    Raises:
        ValueError: no stage, or bars that are not one per stage transition.

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
        """The stage at which completions of a source are judged now."""
        state = self.states.get(source)
        return 0 if state is None else min(state.stage, self.n_stages - 1)

    def advance(self, step: int, stage: int, means: Mapping[str, tuple[float | None, int]]) -> Gates:
        """The gates after a step.

        Args:
            step: the training step.
            stage: the stage that these completions were judged at; call once for each that occurs in a batch.
            means: data source -> mean of the gate's metric and number of completions.
        """
        states = dict(self.states)
        for source, (mean, n) in means.items():
            before = states.get(source, GateState())
            states[source] = advance(self.gate, before, Observation(step, stage, mean, n), self.n_stages)
        return replace(self, states=states)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON can hold it."""
        return msgspec.to_builtins(dict(self.states))

    def with_state(self, state: Mapping[str, Any]) -> Gates:
        """These settings with the state of a checkpoint; where settings changed, they hold from the next step on.

        Raises:
            ValueError: something else than `state` gives; the message names the data source.
        """
        states: dict[str, GateState] = {}
        for source, each in state.items():
            try:
                states[source] = msgspec.convert(each, GateState)
            except msgspec.ValidationError as error:
                raise ValueError(f"gate state of data source {source!r}: {error}") from None
        return replace(self, states=states)
