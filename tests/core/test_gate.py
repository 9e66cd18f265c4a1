from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from verl_visionr1.gate import Gate, Gates, GateState, Observation, advance
from verl_visionr1.settings import SettingsError, decoded

GATE = Gate(bar=0.6, window=4, patience=2)


def followed(gate: Gate, means: Iterable[float], n_stages: int = 3) -> list[int]:
    """The stage after each step of a synchronous run: each step is judged at the stage that holds."""
    state, stages = GateState(), []
    for step, mean in enumerate(means, start=1):
        state = advance(gate, state, Observation(step, state.stage, mean, 8), n_stages)
        stages.append(state.stage)
    return stages


# --- settings --------------------------------------------------------------------------------------------------------

BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "percent": ({"bar": 60}, "gate.bar = 60"),
    "zero": ({"bar": 0.0}, "gate.bar = 0.0"),
    "nan": ({"bar": math.nan}, "gate.bar = nan"),
    "a text": ({"bar": "0.6"}, "gate.bar = '0.6'"),
    "no bar at all": ({"bar": []}, r"gate.bar = \[\]"),
    "one of several": ({"bar": [0.5, 1.5]}, r"gate.bar\[1\] = 1.5"),
    "true": ({"bar": True}, "gate.bar = True"),
    "no metric": ({"metric": " "}, "gate.metric = ' '"),
    "no window": ({"window": 0}, "gate.window = 0"),
    "half a window": ({"window": 2.5}, "gate.window = 2.5"),
    "no patience": ({"patience": 0}, "gate.patience = 0"),
    "negative steps": ({"min_steps": -1}, "gate.min_steps = -1"),
    "text as choice": ({"may_fall_back": "no"}, "gate.may_fall_back = 'no'"),
    "negative hysteresis": ({"hysteresis": -0.1}, "gate.hysteresis = -0.1"),
    "no number": ({"hysteresis": "much"}, "gate.hysteresis = 'much'"),
}


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_a_bad_setting_is_an_error_that_names_it(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        decoded({"bar": 0.6, **settings}, Gate, "gate")


def test_bars_that_are_not_one_a_move_are_an_early_error() -> None:
    gate = decoded({"bar": [0.5, 0.6]}, Gate, "gate")
    assert gate.bar == (0.5, 0.6)
    for n_stages in (2, 4):
        with pytest.raises(ValueError, match=rf"gate bar = \(0.5, 0.6\): has 2 entries for {n_stages - 1} moves"):
            Gates(gate, n_stages)
        with pytest.raises(ValueError, match="has 2 entries"):
            advance(gate, GateState(), Observation(1, 0, None), n_stages)
    assert Gates(gate, 3).stage("any") == 0
    with pytest.raises(ValueError, match="n_stages = 0"):
        Gates(Gate(bar=0.5), 0)
    with pytest.raises(ValueError, match="n_stages = 0"):
        advance(GATE, GateState(), Observation(1, 0, 0.5), 0)


# --- when a stage ends -----------------------------------------------------------------------------------------------

FOLLOWED = {
    # four steps fill the window, the fifth is the second at which its mean has reached the bar
    "good from the start": (GATE, [0.9] * 5, [0, 0, 0, 0, 1]),
    "exactly the bar": (GATE, [0.6] * 5, [0, 0, 0, 0, 1]),
    "the window empties with a move": (GATE, [0.9] * 10, [0, 0, 0, 0, 1, 1, 1, 1, 1, 2]),
    "never beyond the last": (GATE, [0.9] * 30, [0] * 4 + [1] * 5 + [2] * 21),
    "just below": (GATE, [0.59] * 12, [0] * 12),
    "one lucky step": (GATE, [0.3, 0.3, 0.3, 1.0, 0.3, 0.3, 0.3], [0] * 7),
    "patience starts anew": (changed(GATE, window=1), [0.7, 0.5, 0.7, 0.5, 0.7, 0.7], [0] * 5 + [1]),
    "a jump counts when the window is full of it": (
        changed(GATE, patience=1),
        [0.2, 0.2, 0.2, 0.2, 1.0, 1.0, 1.0],
        [0] * 5 + [1] * 2,  # (.2 + .2 + 1 + 1) / 4 = .6
    ),
    "a stage lasts its least": (changed(GATE, min_steps=8), [0.9] * 17, [0] * 7 + [1] * 8 + [2] * 2),
    "a bar for each move": (changed(GATE, bar=(0.3, 0.8), patience=1), [0.5] * 20, [0] * 3 + [1] * 17),
    "falls by default never": (GATE, [0.9] * 5 + [0.0] * 20, [0] * 4 + [1] * 21),
    "falls if it may": (changed(GATE, may_fall_back=True), [0.9] * 5 + [0.0] * 10, [0] * 4 + [1] * 5 + [0] * 6),
    "not within the hysteresis": (changed(GATE, may_fall_back=True), [0.9] * 5 + [0.56] * 10, [0] * 4 + [1] * 11),
    "not at its edge": (changed(GATE, may_fall_back=True), [0.9] * 5 + [0.55] * 10, [0] * 4 + [1] * 11),
    "below it": (changed(GATE, may_fall_back=True), [0.9] * 5 + [0.54] * 5, [0] * 4 + [1] * 5 + [0]),
    "the bar that led here decides": (
        changed(GATE, bar=(0.3, 0.8), may_fall_back=True),
        [0.5] * 20,
        [0] * 4 + [1] * 16,
    ),
}


@pytest.mark.parametrize(("gate", "means", "stages"), FOLLOWED.values(), ids=FOLLOWED)
def test_when_a_stage_ends(gate: Gate, means: Sequence[float], stages: Sequence[int]) -> None:
    assert followed(gate, means) == list(stages)


def test_completions_weigh_alike_not_steps() -> None:
    gate = Gate(bar=0.6, window=2, patience=1)
    few_good = advance(gate, GateState(), Observation(1, 0, 0.5, 30), 2)
    assert advance(gate, few_good, Observation(2, 0, 1.0, 2), 2).stage == 0
    assert advance(gate, few_good, Observation(2, 0, 1.0, 30), 2).stage == 1


IGNORED = {
    "no number": Observation(9, 1, None, 4),
    "nan": Observation(9, 1, math.nan, 4),
    "infinity": Observation(9, 1, math.inf, 4),
    "a sum beyond all numbers": Observation(9, 1, 1e308, 1000),
    "no completions": Observation(9, 1, 0.9, 0),
    "late, from the stage before": Observation(9, 0, 0.9, 4),
    "of a stage to come": Observation(9, 2, 0.9, 4),
    "from before the stage began": Observation(6, 1, 0.9, 4),
}


@pytest.mark.parametrize("observation", IGNORED.values(), ids=IGNORED)
def test_what_does_not_count(observation: Observation) -> None:
    state = GateState(1, since=7, first_step=7, entries=((7, 2.0, 4), (8, 2.0, 4)))
    assert advance(GATE, state, observation, 3) == state
    counted = replace(observation, step=9, stage=1, mean=0.9, n=4)
    assert advance(GATE, state, counted, 3) != state


def test_fewer_stages_than_the_state_knows_of() -> None:
    state = GateState(4, since=100, first_step=100, entries=((101, 2.0, 4),))
    assert advance(GATE, state, Observation(102, 4, 0.5, 4), 2) == GateState(1, since=100)
    assert Gates(GATE, 2, {"coco": state}).stage("coco") == 1


# --- arrival in any order, resuming ----------------------------------------------------------------------------------

gates = st.builds(
    Gate,
    bar=st.sampled_from([0.25, 0.5, 0.75]),
    window=st.integers(1, 4),
    patience=st.integers(1, 3),
    min_steps=st.integers(0, 6),
    may_fall_back=st.booleans(),
    hysteresis=st.sampled_from([0.0, 0.125]),
)
means = st.integers(0, 8).map(lambda eighths: eighths / 8)  # sums are exact, whatever their order
observations = st.lists(
    st.builds(
        Observation,
        step=st.integers(0, 12),
        stage=st.integers(0, 2),
        mean=st.one_of(means, st.just(None), st.just(math.nan)),
        n=st.integers(0, 4),
    ),
    max_size=40,
)


def run(gate: Gate, state: GateState, seen: Iterable[Observation], n_stages: int = 3) -> list[GateState]:
    states = [state]
    for observation in seen:
        states.append(advance(gate, states[-1], observation, n_stages))
    return states


@given(gate=gates, seen=observations, n_stages=st.integers(1, 4))
def test_a_stage_is_in_range_and_moves_by_one(gate: Gate, seen: list[Observation], n_stages: int) -> None:
    states = run(gate, GateState(), seen, n_stages)
    assert states == run(gate, GateState(), seen, n_stages)
    for before, after in itertools.pairwise(states):
        assert 0 <= after.stage < n_stages
        assert abs(after.stage - before.stage) <= 1
        assert gate.may_fall_back or after.stage >= before.stage
        assert len(after.entries) <= gate.window + gate.patience - 1
        assert [step for step, _, _ in after.entries] == sorted({step for step, _, _ in after.entries})
        assert after.stage == before.stage or after.entries == ()


@given(gate=gates, seen=observations, at=st.integers(0, 40))
def test_a_run_that_is_resumed_goes_the_same_way(gate: Gate, seen: list[Observation], at: int) -> None:
    whole = run(gate, GateState(), seen)
    at = min(at, len(seen))
    kept = msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(whole[at]))), GateState)
    assert kept == whole[at]
    assert run(gate, kept, seen[at:]) == whole[at:]


@given(st.data())
def test_within_a_stage_the_order_of_arrival_does_not_matter(data: st.DataObject) -> None:
    seen = [replace(each, stage=0) for each in data.draw(observations)]
    gate = changed(data.draw(gates), bar=1.0, min_steps=1000)  # no move
    shuffled = data.draw(st.permutations(seen))
    assert run(gate, GateState(), seen)[-1] == run(gate, GateState(), shuffled)[-1]


def test_parts_of_a_step_are_one_step() -> None:
    gate = Gate(bar=0.6, window=1, patience=2)
    parts = [Observation(1, 0, 0.9, 2), Observation(1, 0, 0.5, 2)]
    state = run(gate, GateState(), parts)[-1]
    assert (state.stage, state.entries) == (0, ((1, pytest.approx(2.8), 4),))
    assert advance(gate, state, Observation(2, 0, 0.9, 2), 2).stage == 1


# --- data sources ----------------------------------------------------------------------------------------------------


@given(
    gate=gates,
    seen=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.integers(0, 2), means, st.integers(1, 4))),
    at=st.integers(0, 20),
)
def test_sources_do_not_touch_each_other_and_survive_a_checkpoint(
    gate: Gate, seen: list[tuple[str, int, int, float, int]], at: int
) -> None:
    together = Gates(gate, 3)
    for i, (source, step, stage, mean, n) in enumerate(seen):
        if i == at:
            together = Gates(gate, 3).with_state(json.loads(json.dumps(together.state())))
        together = together.advance(step, stage, {source: (mean, n)})
    for name in "abc":
        own = [Observation(step, stage, mean, n) for source, step, stage, mean, n in seen if source == name]
        assert together.states.get(name, GateState()) == run(gate, GateState(), own)[-1]


BAD_STATES: dict[str, dict[str, Any]] = {
    "no stage": {"stage": -1},
    "half a step": {"since": 1.5},
    "no first step": {"first_step": "x"},
    "nan": {"entries": [[1, math.nan, 2]]},
    "two numbers": {"entries": [[1, 2.0]]},
    "no entries": {"entries": 5},
    "out of order": {"entries": [[2, 1.0, 2], [1, 1.0, 2]]},
}


@pytest.mark.parametrize("change", BAD_STATES.values(), ids=BAD_STATES)
def test_a_bad_state_is_an_error_that_names_the_source(change: dict[str, Any]) -> None:
    (key,) = change
    with pytest.raises(ValueError, match=rf"'coco': .*{key}"):
        Gates(GATE, 2).with_state({"coco": msgspec.to_builtins(GateState()) | change})
