"""The plug-in's settings: defaults, overrides, and what is refused with its key and value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from verl_visionr1 import PRESETS
from verl_visionr1.alarms import ALARMS, AlarmRules
from verl_visionr1.plugin.config import ConfigError, Settings, checked, settings_of

BAD_SETTINGS = {
    "unknown preset": ({"preset": "x"}, "visionr1.preset = 'x': needs one of visionr1, "),
    "misspelt key": ({"wieghts": {}}, "visionr1.wieghts: unknown key; did you mean weights?"),
    "unknown criterion": ({"weights": {"recal": 1}}, "visionr1.weights = 'recal': needs one of format, recall"),
    "negative weight": ({"weights": {"recall": -1}}, "visionr1.weights.recall = -1.0: needs a number >= 0"),
    "all weights zero": ({"weights": dict.fromkeys(("format", "recall", "precision"), 0)}, "at least one above 0"),
    "unknown schedule": ({"schedule": {"kind": "foo"}}, "visionr1.schedule.kind = 'foo': needs one of off, constant"),
    "misspelt schedule key": ({"schedule": {"kin": 1}}, "visionr1.schedule.kin: unknown key; did you mean kind?"),
    "switch after the end": ({"schedule": {"at": 2}}, "visionr1.schedule.at = 2.0: needs a fraction"),
    "floor above full": ({"schedule": {"stages": [[0.5, 0.8, 0.7], [1, 1, 1]]}}, "recall_floor=0.8, recall_full=0.7"),
    "too few stages": (
        {"schedule": {"stages": [[0.5, 0.5, 0.7]]}},
        "stages has 1 entries: the preset has 2; set kind too",
    ),
    "unknown frame": ({"frame": "qwen9"}, "visionr1.frame = 'qwen9': needs one of original, unit"),
    "unknown reasoning": ({"reasoning": "on"}, "visionr1.reasoning = 'on': needs one of auto, opened, closed"),
    "unknown turns": ({"turns": "last"}, "visionr1.turns = 'last': needs one of auto, template, mask, whole"),
    "unknown stage": ({"validation": "x"}, "visionr1.validation = 'x': needs one of final, current, off"),
    "unknown criterion's judge": ({"criteria": {"a": {"fn": "b"}}}, "visionr1.criteria.a.fn = 'b': needs one of"),
    "unknown route": ({"routes": {"task": {"counting": "x"}}}, "visionr1.routes.task.counting = 'x': needs"),
    "misspelt key of a preset": (
        {"presets": {"a": {"bse": "b"}}},
        "visionr1.presets.a.bse: unknown key; did you mean base?",
    ),
    "a preset's name that is taken": (
        {"presets": {"counting": {}}},
        "presets.counting: ",
    ),
    "presets in a circle": (
        {"presets": {"a": {"base": "b"}, "b": {"base": "a"}}},
        "visionr1.presets.a.base: circular: a -> b -> a",
    ),
    "a criterion's name that is taken": (
        {"criteria": {"acc": {"fn": "recall"}}},
        "visionr1.criteria.acc: ",
    ),
    "a gate in a preset": (
        {"presets": {"a": {"schedule": {"kind": "gated", "gate": {"bar": 0.5}}}}},
        "visionr1.presets.a.schedule.kind = 'gated': a gate belongs to the run",
    ),
    "a preset over nothing": ({"presets": {"a": {"base": "b"}}}, "visionr1.presets.a.base = 'b': needs one of"),
    "unknown gate": (
        {"schedule": {"kind": "gated", "gate": {"br": 1}}},
        "visionr1.schedule.gate.br: unknown key; did you mean bar?",
    ),
    "gate without a bar": ({"schedule": {"kind": "gated"}}, "visionr1.schedule.gate.bar: kind=gated needs"),
    "gate on what nothing reports": (
        {"schedule": {"kind": "gated", "gate": {"bar": 0.5, "metric": "map"}}},
        "visionr1.schedule.gate.metric = 'map': needs one of format, recall",
    ),
    "gate with too many bars": (
        {"schedule": {"kind": "gated", "gate": {"bar": [0.5, 0.6]}}},
        "gate bar = (0.5, 0.6): has 2 entries for 1 moves",
    ),
    "no steps": ({"total_steps": 0}, "visionr1.total_steps=0: needs a number of steps above 0"),
    "unknown alarm": ({"alarms": {"box_flod": 2}}, "visionr1.alarms.box_flod: unknown key; did you mean box_flood?"),
    "an alarm's limit": (
        {"alarms": {"box_flood": 0.5}},
        "visionr1.alarms.box_flood = 0.5: Expected `float` > 1.0, or off",
    ),
    "an alarm's window": ({"alarms": {"window": 1}}, "visionr1.alarms.window = 1: Expected `int` >= 3"),
    "an alarm as a word": ({"alarms": {"box_flood": "on"}}, "visionr1.alarms.box_flood = 'on': needs a number, or off"),
    "alarms as a word": ({"alarms": "on"}, "visionr1.alarms = 'on': needs keys below it, or off"),
    "alarms as a number": ({"alarms": 3}, "visionr1.alarms = 3: Expected `str | object`, got `int`, or off"),
    "no mapping": (3, "visionr1=3: needs keys below it"),
}


WRONG_BASES = {  # settings with FILE, text of the file -> start of the error after "visionr1."
    "of a file": ({"preset": "FILE"}, "base: visionr11", "preset: FILE: base = 'visionr11': needs one of"),
    "of a file that is a base": (
        {"presets": {"strict": {"base": "FILE"}}},
        "base: visionr11",
        "presets.strict.base: FILE: base = 'visionr11': needs one of",
    ),
    "of a file that is routed to": (
        {"routes": {"task": {"counting": "FILE"}}},
        "base: visionr11",
        "routes.task.counting: FILE: base = 'visionr11': needs one of",
    ),
    "a weight in a file": ({"preset": "FILE"}, "weights: {recal: 1}", "preset: FILE: weights = 'recal'"),
}


@pytest.mark.parametrize(("plain", "text", "message"), WRONG_BASES.values(), ids=WRONG_BASES)
def test_a_wrong_base_names_its_file_and_key(tmp_path: Path, plain: dict, text: str, message: str) -> None:
    file = tmp_path / "strict.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        checked(json.loads(json.dumps(plain).replace("FILE", str(file))))
    assert str(caught.value).startswith(f"reward.reward_kwargs.visionr1.{message.replace('FILE', str(file))}")


@pytest.mark.parametrize(("plain", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
def test_bad_settings_name_key_and_value(plain: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(plain)
    assert message in str(caught.value)
    assert str(caught.value).startswith("reward.reward_kwargs.visionr1")
    assert str(caught.value).count("reward_kwargs") == (2 if plain == 3 else 1)  # that one gives an example
    assert "\n" not in str(caught.value)


def test_settings_default_and_override() -> None:
    assert settings_of(OmegaConf.create({"reward": {}})) == Settings()
    preset = checked(
        {"preset": "visionr1-paper", "weights": {"format": 0, "recall": None}, "schedule": {"at": 0.25}}
    ).reward
    assert preset.weights == {"format": 0.0, "recall": 1.0, "precision": 1.0}
    assert preset.matching == "class_agnostic"
    assert preset.schedule.stage(0.3) == 1


def test_presets_of_ones_own_stand_on_one_another_in_any_order() -> None:
    presets = {"a": {"base": "b", "weights": {"recall": 2}}, "b": {"weights": {"format": 0}}}
    assert checked({"preset": "a", "presets": presets}).reward.weights == {"format": 0, "recall": 2, "precision": 1}


def test_null_is_as_if_not_set_and_numbers_are_names() -> None:
    assert (
        checked(dict.fromkeys(("preset", "weights", "criteria", "presets", "routes", "frame"))).reward.name
        == "visionr1"
    )
    routes = checked({"routes": {"column": "extra_info.kind", "values": {1: "counting", 2: "pointing"}}}).routing
    assert list(routes.by_column) == ["1", "2"]


def test_packaged_config_is_the_default() -> None:
    """The YAML shows every key; none of them may say something else than the code."""
    file = Path(__file__).parents[2] / "verl_visionr1" / "config" / "visionr1" / "progressive.yaml"
    settings = settings_of(OmegaConf.load(file))  # type: ignore[arg-type]
    assert settings.reward == Settings().reward
    released = OmegaConf.merge(
        OmegaConf.load(file), {"reward": {"reward_kwargs": {"visionr1": {"preset": "visionr1-released"}}}}
    )
    assert settings_of(released).reward.schedule == PRESETS["visionr1-released"].schedule  # type: ignore[arg-type]
    assert (settings.frame, settings.validation, settings.total_steps) == ("auto", "final", None)
    assert (settings.reasoning, settings.turns) == (Settings().reasoning, Settings().turns)
    assert (settings.alarm_rules, settings.extensions) == (Settings().alarm_rules, {})
    assert set(settings.alarms) == set(AlarmRules.__struct_fields__)


def test_alarms_can_be_switched_off_as_yaml_says_it() -> None:
    assert checked({"alarms": False}).alarm_rules is checked({"alarms": "off"}).alarm_rules is None
    assert checked({"alarms": dict.fromkeys(ALARMS, False)}).alarm_rules is None
    assert checked({"alarms": None}).alarm_rules == AlarmRules()
    left = checked({"alarms": {"truncation": False, "window": 5, "box_flood": None}}).alarm_rules
    assert left == AlarmRules(window=5, truncation="off")


NEVER_MOVES = {  # preset, metric of a gate: no row of the preset has the number, so that it is 0 for ever
    "boxes of counting rows": ("counting", "iou_mean"),
    "F1 of points": ("pointing", "f1_50"),
    "a criterion of another preset": ("visionr1", "exact"),
}


@pytest.mark.parametrize(("preset", "metric"), NEVER_MOVES.values(), ids=NEVER_MOVES)
def test_a_gate_on_what_no_row_of_the_preset_has_is_refused(preset: str, metric: str) -> None:
    stages = [[0.5, 0.5, 0.75], [0.75, 0.75, 0.9]]
    schedule = {"kind": "gated", "stages": stages, "gate": {"bar": 0.5, "metric": metric}}
    routes = {"task": {"counting": "counting", "detection": "visionr1"}}
    plain = {"preset": preset, "schedule": schedule, "routes": routes}
    with pytest.raises(ConfigError, match=rf"visionr1\.schedule\.gate\.metric = '{metric}': needs one of"):
        checked(plain)
