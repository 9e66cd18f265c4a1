"""Alarms on made training histories: when they must go off, and when not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed_rules

from verl_visionr1.alarms import (
    ALARMS,
    TO_SIGMA,
    AlarmRules,
    AlarmState,
    Batch,
    Track,
    advance,
    changes,
    reading,
)
from verl_visionr1.settings import SettingsError, decoded

RULES = AlarmRules()
N_STEPS = 160
SWITCH = 80
"""Step at which thresholds tighten in the histories."""

# --- settings --------------------------------------------------------------------------------------------------------

BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no window": ({"window": 2}, "window = 2: Expected `int` >= "),
    "half a window": ({"window": 9.5}, "window = 9.5"),
    "no patience": ({"patience": 0}, "patience = 0: Expected `int` >= "),
    "negative noise": ({"sigmas": -1}, "sigmas = -1: Expected `float` >= 0"),
    "no ratio": ({"box_flood": 1.0}, "box_flood = 1.0: Expected `float` > 1.0, or off"),
    "percent": ({"frac_reward_zero_std": 90}, "frac_reward_zero_std = 90: Expected `float` <= 1.0, or off"),
    "nothing": ({"empty_answers": 0.0}, "empty_answers = 0.0"),
    "a text": ({"repetition": "on"}, "repetition = 'on'"),
    "nan": ({"length_growth": math.nan}, "length_growth = nan"),
    "true": ({"truncation": True}, "truncation = True"),
}


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_a_bad_setting_is_an_error_that_names_it(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"alarms.{message}"):
        decoded(settings, AlarmRules, "alarms")


def test_off_is_off() -> None:
    rules = decoded({"box_flood": "off", "repetition": False}, AlarmRules)  # YAML reads a bare off as false
    assert set(ALARMS) - set(rules.names) == {"box_flood", "repetition"}
    assert fired(flooded(0), rules).keys() == {"reward_without_f1"}


# --- histories -------------------------------------------------------------------------------------------------------

History = Iterator[Batch]


def healthy(seed: int, noise: float = 1.0, lag: float = 0.0, n_steps: int = N_STEPS) -> History:
    """Learning with noise: all rewards and F1 rise, thresholds tighten half way, the model finds its number of boxes.

    Args:
        seed: of the noise.
        noise: its size; 1 is that of batches of some 200 answers.
        lag: how much of a batch's noise is still in the next one.
        n_steps: how many.
    """
    rng = np.random.default_rng(seed)
    left = np.zeros(8)
    for step in range(1, n_steps + 1):
        left = lag * left + math.sqrt(1.0 - lag * lag) * rng.normal(size=8)
        luck, *others = noise * left
        done = 1.0 - math.exp(-step / 60.0)
        stage = int(step > SWITCH)
        boxes = 1.8 + 1.4 * done + 0.2 * others[1]
        yield Batch(
            step,
            stage=stage,
            f1=0.35 + 0.3 * done + 0.03 * luck,
            reward=(0.3 + 0.4 * done + 0.03 * luck + 0.01 * others[0]) * (0.6 if stage else 1.0),
            boxes=boxes,
            boxes_per_object=boxes / 3.0,
            distinct_share=min(1.0, 0.97 + 0.015 * others[2]),
            n_tokens=15.0 + 25.0 * boxes + 5.0 * others[3],
            empty=max(0.0, 0.08 - 0.06 * done + 0.02 * others[4]),
            clipped=max(0.0, 0.03 + 0.015 * others[5]),
            frac_reward_zero_std=min(1.0, 0.2 + 0.3 * done + 0.06 * others[6]),
        )


def changed(seed: int, at: int, how: Callable[[Batch, float], dict[str, float | int]]) -> History:
    """A healthy history that goes another way from a step on; `how` is told the batch and how far it has gone, to 1."""
    for batch in healthy(seed):
        share = min(1.0, max(0.0, (batch.step - at) / 30.0))
        yield replace(batch, **how(batch, share)) if share else batch


def flooded(seed: int) -> History:
    """A reward that pays recall alone: more boxes each step, recall and reward rise, F1 falls."""
    return changed(
        seed,
        20,
        lambda b, s: {
            "boxes": b.boxes * (1 + 4 * s),
            "boxes_per_object": b.boxes_per_object * (1 + 4 * s),
            "n_tokens": b.n_tokens * (1 + 4 * s),
            "reward": b.reward + 0.3 * s,
            "f1": b.f1 * (1 - 0.5 * s),
        },
    )


def repeated(seed: int) -> History:
    return changed(seed, 40, lambda b, s: {"distinct_share": b.distinct_share - 0.5 * s})


def emptied(seed: int) -> History:
    """Nothing is claimed any more: no false alarms, so precision is paid."""
    return changed(
        seed,
        40,
        lambda b, s: {
            "empty": b.empty + 0.6 * s,
            "boxes": b.boxes * (1 - 0.7 * s),
            "boxes_per_object": b.boxes_per_object * (1 - 0.7 * s),
            "n_tokens": b.n_tokens * (1 - 0.6 * s),
        },
    )


def lengthened(seed: int) -> History:
    return changed(seed, 40, lambda b, s: {"n_tokens": b.n_tokens * (1 + 5 * s), "clipped": b.clipped + 0.6 * s})


def shortened(seed: int) -> History:
    """The reasoning goes, the boxes stay."""
    return changed(seed, 40, lambda b, s: {"n_tokens": b.n_tokens * (1 - 0.9 * s)})


def gamed(seed: int) -> History:
    """Reward up, F1 down, with nothing else to see; after the switch of thresholds."""
    return changed(seed, 100, lambda b, s: {"reward": b.reward + 0.25 * s, "f1": b.f1 * (1 - 0.4 * s)})


def died(seed: int) -> History:
    return changed(
        seed, 40, lambda b, s: {"frac_reward_zero_std": b.frac_reward_zero_std + (0.97 - b.frac_reward_zero_std) * s}
    )


def unjudged(seed: int) -> History:
    return [replace(batch, unscored=0.1 if batch.step >= 40 else 0.0) for batch in died(seed)]


def fired(history: History, rules: AlarmRules = RULES) -> dict[str, int]:
    """Alarm -> step at which it first started."""
    state, first = AlarmState(), dict[str, int]()
    for batch in history:
        after = advance(rules, state, batch)
        for name, is_on in changes(state, after).items():
            if is_on:
                first.setdefault(name, batch.step)
        state = after
    return first


HACKED = {
    # history: alarms, and the step by which each must have started; the change begins at 20, 40 or 100 and takes 30
    "boxes flood a recall reward": (flooded, {"box_flood": 45, "reward_without_f1": 60}),
    "boxes are written twice": (repeated, {"repetition": 60}),
    "answers become empty": (emptied, {"empty_answers": 60}),
    "answers explode": (lengthened, {"length_growth": 70, "truncation": 70}),
    "answers collapse": (shortened, {"length_collapse": 75}),
    "reward up, F1 down": (gamed, {"reward_without_f1": 130}),
    "all rewards of a prompt are equal": (died, {"frac_reward_zero_std": 85}),
}


@pytest.mark.parametrize(("history", "alarms"), HACKED.values(), ids=HACKED)
def test_a_history_that_goes_wrong_sounds_its_alarms_and_no_other(
    history: Callable[[int], History], alarms: dict[str, int]
) -> None:
    for seed in range(6):
        first = fired(history(seed))
        assert first.keys() == alarms.keys(), seed
        begin = {flooded: 20, gamed: 100}.get(history, 40)
        assert all(begin < first[name] <= latest for name, latest in alarms.items()), (seed, first)


@pytest.mark.parametrize(("noise", "lag"), [(1.0, 0.0), (3.0, 0.0), (1.0, 0.5), (3.0, 0.5)])
def test_a_healthy_run_is_quiet(noise: float, lag: float) -> None:
    for seed in range(6):
        assert fired(healthy(seed, noise, lag)) == {}, seed


@settings(max_examples=6)
@given(
    seed=st.integers(0, 5),
    history=st.sampled_from([healthy, flooded, emptied, gamed]),
    at=st.lists(st.integers(0, 120), max_size=3),
)
def test_a_run_that_is_resumed_has_the_same_alarms(seed: int, history: Callable[[int], History], at: list[int]) -> None:
    rules = AlarmRules(window=6, patience=2)
    whole, resumed = AlarmState(), AlarmState()
    for batch in history(seed):
        if batch.step in at:
            resumed = AlarmState.from_state(json.loads(json.dumps(resumed.state())))
        whole, resumed = advance(rules, whole, batch), advance(rules, resumed, batch)
        assert resumed == whole
        if batch.step > 120:
            break


def test_a_steady_drift_is_no_noise() -> None:
    """Without any noise, a number that moves the same way each batch has as little as one that stands still."""
    track = Track()
    for step in range(100):
        track = track.add(0.01 * step, 5)
    seen = track.compare(5)
    assert seen is not None
    assert seen.error == pytest.approx(math.sqrt(2) * 0.02 / TO_SIGMA / math.sqrt(5))
    spread = float(np.std([0.01 * step for step in range(100)]))
    assert seen.error < spread / 20


def test_a_fall_of_f1_is_seen_across_stages_and_a_reward_that_falls_with_it_is_no_alarm() -> None:
    """F1 at IoU .5 knows no stage: it loses a quarter after the switch; the reward stays, or falls as well."""

    def damaged(seed: int, *, reward_falls: bool) -> History:
        for batch in healthy(seed):
            share = 0.25 * min(1.0, max(0.0, (batch.step - SWITCH - 10) / 15.0))
            reward = (batch.reward or 0.0) * (1.0 - 2.0 * share * reward_falls)
            yield replace(batch, f1=(batch.f1 or 0.0) * (1.0 - share), reward=reward)

    for seed in range(6):
        first = fired(damaged(seed, reward_falls=False))
        assert first.keys() == {"reward_without_f1"}
        assert SWITCH + 10 < first["reward_without_f1"] <= SWITCH + 45
        assert fired(damaged(seed, reward_falls=True)) == {}


def test_what_is_no_number_is_not_seen() -> None:
    state = AlarmState()
    for step in range(30):
        state = advance(RULES, state, Batch(step, f1=math.nan, reward=0.5, n_tokens=math.inf, empty=None))
    assert state.tracks.keys() == {"reward"}


def test_an_alarm_ends_when_its_rule_has_not_held_for_a_window() -> None:
    rules = AlarmRules(window=4, patience=2)
    state, turns = AlarmState(), dict[int, dict[str, bool]]()
    for step, boxes in enumerate([*[1.0, 1.1, 0.9, 1.0] * 2, *[3.0] * 6, *[1.0] * 20]):
        after = advance(rules, state, Batch(step, boxes_per_object=boxes))
        if turn := changes(state, after):
            turns[step] = turn
        state = after
    # A window that holds both is too noisy to tell; the first of 3.0 alone ends at 7, the last at 9.
    assert [list(turn.values()) for turn in turns.values()] == [[True], [False]]
    begins, ends = turns
    assert 8 < begins < 14 <= ends - rules.window
    assert state.statuses["box_flood"].since == ends


def test_a_lasting_alarm_ends_when_it_is_switched_off() -> None:
    state = AlarmState()
    for batch in flooded(0):
        state = advance(RULES, state, batch)
    assert state.is_on("box_flood")
    after = advance(changed_rules(RULES, box_flood="off"), state, Batch(999))
    assert changes(state, after) == {"box_flood": False}


def test_fewer_boxes_explain_shorter_answers_and_more_longer_ones() -> None:
    def cleaned(factor: float) -> History:
        return changed(0, 40, lambda b, s: {"boxes": b.boxes * factor**s, "n_tokens": b.n_tokens * factor**s})

    assert fired(cleaned(0.3)) == {}
    assert "length_growth" not in fired(cleaned(4.0))


@pytest.mark.parametrize("name", ALARMS)
def test_each_alarm_says_its_numbers(name: str) -> None:
    histories = {"box_flood": flooded, "repetition": repeated, "empty_answers": emptied, "frac_reward_zero_std": died}
    histories["unscored"] = unjudged
    history = histories.get(name, lengthened if name in ("length_growth", "truncation") else shortened)
    history = gamed if name == "reward_without_f1" else history
    state = AlarmState()
    assert reading(name, RULES, state) == ""
    for batch in history(0):
        state = advance(RULES, state, batch)
    assert state.is_on(name)
    first, second = (part for part in reading(name, RULES, state).split(", "))
    assert all(any(map(str.isdigit, part)) for part in (first, second))


BAD_STATES: dict[str, Any] = {
    "nothing": None,
    "a key less": {"tracks": {}, "stage": 0},
    "another key": {**AlarmState().state(), "x": 1},
    "no number": {**AlarmState().state(), "tracks": {"empty": {"recent": ["x"]}}},
}


@pytest.mark.parametrize("state", BAD_STATES.values(), ids=BAD_STATES)
def test_a_bad_state_is_an_error(state: Any) -> None:
    with pytest.raises(ValueError, match="alarm state: "):
        AlarmState.from_state(state)
