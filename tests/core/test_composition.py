"""Presets as plain data: printed, changed key by key, read from YAML, with criteria of one's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from verl_visionr1 import PRESETS, RewardError, Target, score
from verl_visionr1.criteria import ADVANCED, BEGINNER, Thresholds
from verl_visionr1.functions import FunctionError, load_function, locate_function
from verl_visionr1.rewards import Preset, find_preset
from verl_visionr1.rewards.composition import PresetSettings, preset_to_dict
from verl_visionr1.settings import decoded

EXAMPLE = Path(__file__).parents[2] / "recipes" / "custom_reward"
TARGET = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
PERFECT = '[{"bbox_2d": [100, 100, 200, 200], "label": "cat"}]'


def changed(plain: dict[str, Any], base: str = "visionr1") -> Preset:
    return decoded(plain, PresetSettings).build(PRESETS[base])


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_printed_builds_the_same_preset(name: str, tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    file.write_bytes(msgspec.yaml.encode(preset_to_dict(PRESETS[name])))
    assert find_preset(str(file)) == PRESETS[name]


def test_a_ramp_that_begins_late_is_printed_and_read_again() -> None:
    ramp = changed({"schedule": {"kind": "linear", "begin": 0.2, "end": 0.8}})
    assert changed(preset_to_dict(ramp)) == ramp


# --- changes ----------------------------------------------------------------------------------------------------------


def test_criteria_are_changed_added_and_left_out() -> None:
    preset = changed({"criteria": {"format": {"weight": 0.0}, "precision": None, "iou": {"fn": "recall"}}})
    assert preset.weights == {"format": 0.0, "recall": 1.0, "iou": 1.0}
    assert list(score(PERFECT, TARGET, preset=preset).metrics)[:3] == ["format", "recall", "iou"]


def test_weight_zero_is_reported_and_not_rewarded() -> None:
    preset = changed({"weights": {"format": 0, "recall": 0}})
    result = score("Here: " + PERFECT[:-1] + ', {"bbox_2d": [1, 1, 9, 9], "label": "cat"}]', TARGET, preset=preset)
    assert (result.metrics["format"], result.metrics["recall"], result.metrics["precision"]) == (0.0, 1.0, 0.5)
    assert result.value == 0.5


def test_null_keeps_what_the_base_has() -> None:
    """YAML gives null for a key whose lines below are comments."""
    nulls = {"weights": {"recall": None}, "criteria": None, "tasks": None, "schedule": {"begin": None, "gate": None}}
    assert changed(nulls) == PRESETS["visionr1"]
    assert changed({"weights": None}) == PRESETS["visionr1"]


def test_off_is_no_boolean(tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    file.write_text("schedule: {kind: off, off: [0.75, 0.75, 0.9]}")
    assert find_preset(str(file)).schedule.points == ((0.0, ADVANCED),)


def test_a_sum_instead_of_a_mean() -> None:
    assert score(PERFECT, TARGET, preset=changed({"value": "sum"})).value == 3.0


SCHEDULES = {
    "only the switch": ({"at": 0.25}, [(0.0, BEGINNER), (0.25, ADVANCED)], "step"),
    "only the stages": (
        {"stages": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]},
        [(0.0, Thresholds.of(0.1, 0.2, 0.3)), (0.5, Thresholds.of(0.4, 0.5, 0.6))],
        "step",
    ),
    "a stage by name": ({"kind": "constant", "stages": [dataclasses.asdict(ADVANCED)]}, [(0.0, ADVANCED)], "step"),
    "linear": (
        {"kind": "linear", "begin": 0.2, "end": 0.8},
        [(0.0, BEGINNER), (0.2, BEGINNER), (0.8, ADVANCED)],
        "linear",
    ),
    "piecewise": ({"kind": "piecewise", "starts": [0, 0.7]}, [(0.0, BEGINNER), (0.7, ADVANCED)], "step"),
}


@pytest.mark.parametrize(("plain", "points", "interpolation"), SCHEDULES.values(), ids=SCHEDULES)
def test_schedule(plain: dict[str, Any], points: list[tuple[float, Thresholds]], interpolation: str) -> None:
    schedule = changed({"schedule": plain}).schedule
    assert list(schedule.points) == points
    assert schedule.interpolation == interpolation
    assert schedule.off == PRESETS["visionr1"].schedule.off


MISTAKES = {
    "misspelt key": ({"criterai": {}}, "criterai: unknown key; did you mean criteria?"),
    "misspelt key of a criterion": (
        {"criteria": {"recall": {"wieght": 1}}},
        "criteria.recall.wieght: unknown key; did you mean weight?",
    ),
    "new criterion without fn": ({"criteria": {"mine": {"weight": 1}}}, "criteria.mine: no such criterion in the base"),
    "unknown fn": ({"criteria": {"mine": {"fn": "recal"}}}, "criteria.mine.fn = 'recal'"),
    "unknown option": ({"criteria": {"recall": {"options": {"beta": 2}}}}, "criteria.recall.options = 'beta'"),
    "an option that cannot be": (
        {"criteria": {"near": {"fn": "count_fuzzy", "options": {"cutoff": 0}}}},
        "criteria.near.options: count_fuzzy: cutoff = 0",
    ),
    "an option of another type": (
        {"criteria": {"near": {"fn": "count_fuzzy", "options": {"cutoff": "x"}}}},
        "criteria.near.options: ",
    ),
    "leaving out what is not there": ({"criteria": {"mine": None}}, "criteria = 'mine'"),
    "negative weight": ({"weights": {"recall": -1}}, "weights.recall = -1.0"),
    "weight as text": ({"criteria": {"recall": {"weight": "much"}}}, "criteria.recall.weight = 'much': Expected"),
    "all weights zero": ({"weights": dict.fromkeys(("format", "recall", "precision"), 0)}, "at least one above 0"),
    "a name that is taken": ({"criteria": {"f1_50": {"fn": "recall"}}}, "criteria.f1_50: "),
    "unknown format": ({"answer_format": "qwen"}, "answer_format = 'qwen'"),
    "unknown matching": ({"matching": "x"}, "matching = 'x'"),
    "unknown value": ({"value": "median"}, "value = 'median'"),
    "unknown schedule": ({"schedule": {"kind": "foo"}}, "schedule.kind = 'foo'"),
    "too many stages": ({"schedule": {"stages": [[0, 0, 1]] * 3}}, "schedule.stages has 3 entries: the preset has 2"),
    "a stage that would be ignored": (
        {"schedule": {"kind": "staged", "stages": [[0, 0, 1]] * 3}},
        "schedule.stages has 3 entries: kind=staged needs 2",
    ),
    "a switch between more than two stages": (
        {"base": "v-triune", "schedule": {"at": 0.3}},
        "schedule.stages: the preset has 3, kind=staged needs 2; set stages too",
    ),
    "a gate that nothing looks at": (
        {"schedule": {"gate": {"bar": 0.5}}},
        "schedule.gate = {'bar': 0.5}: only used by kind=gated",
    ),
    "starts that nothing looks at": (
        {"schedule": {"kind": "staged", "starts": [0, 0.2]}},
        "schedule.starts = [0.0, 0.2]: only used by kind=piecewise",
    ),
    "unknown task": ({"tasks": ["detektion"]}, "tasks = 'detektion'"),
    "no task": ({"tasks": []}, "tasks = ''"),
    "a stage that lacks a threshold": (
        {"schedule": {"kind": "constant", "stages": [{"match_iou": 0.5}]}},
        "schedule.stages: {'match_iou': 0.5}: missing recall_floor",
    ),
    "no mapping": ([], "settings = []"),
    "accuracy of a criterion that is not there": ({"accuracy": "hits"}, "accuracy = 'hits'"),
}


@pytest.mark.parametrize(("plain", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_the_key(plain: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        changed(plain, plain.get("base", "visionr1") if plain else "visionr1")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_stand_on_one_another(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("weights: {format: 0.5}")
    second.write_text(f"base: {first}\nname: b\nweights: {{recall: 0.25}}")
    preset = find_preset(str(second))
    assert (preset.name, preset.weights) == ("b", {"format": 0.5, "recall": 0.25, "precision": 1.0})


def test_a_base_is_looked_for_beside_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("weights: {format: 0.5}")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    assert find_preset(str(tmp_path / "b.yaml")).weights["format"] == 0.5


BAD_FILES = {
    "not there": (None, "cannot be read"),
    "not YAML": ("a: [", "not YAML"),
    "misspelt": ("wieghts: {}", "wieghts: unknown key; did you mean weights?"),
    "misspelt schedule": ("schedule: {att: 0.3}", "schedule.att: unknown key; did you mean at?"),
    "misspelt threshold": ("schedule: {stages: [{iou_ful: 1}]}", "stages.iou_ful: unknown key; did you mean iou_full?"),
    "a circle": ("base: {file}", "base = '"),
    "a gate": ("schedule: {kind: gated, gate: {bar: 0.5}}", "a gate belongs to the run, not to a preset"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_named(content: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    if content is not None:
        file.write_text(content.replace("{file}", str(file)))
    with pytest.raises(RewardError, match=message) as caught:
        find_preset(str(file))
    assert str(file) in str(caught.value)


# --- criteria of one's own --------------------------------------------------------------------------------------------


def test_the_worked_example() -> None:
    """`recipes/custom_reward`: the file that README shows."""
    preset = find_preset(str(EXAMPLE / "preset.yaml"))
    assert preset.weights == {"format": 0.5, "recall": 1.0, "precision": 1.0, "count_agreement": 0.5}
    three_more = "[" + ", ".join([PERFECT[1:-1]] * 4) + "]"
    result = score(three_more, TARGET, preset=preset)
    assert result.metrics["count_agreement"] == pytest.approx(1 / 3)  # three too many, of which one is allowed
    assert result.value == pytest.approx((0.5 * 1 + 1 + 0.25 + 0.5 / 3) / 3)
    assert score(PERFECT, TARGET, preset=preset).value == 1.0


def own(tmp_path: Path, body: str) -> str:
    file = tmp_path / "own.py"
    file.write_text(body)
    return f"{file}:mine"


def test_a_function_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "someones_rewards"
    package.mkdir()
    (package / "__init__.py").write_text("def mine(n_tokens, *, limit=4):\n    return float(n_tokens <= limit)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    preset = changed({"criteria": {"short": {"fn": "pkg://someones_rewards:mine", "options": {"limit": 9}}}})
    assert score(PERFECT, TARGET, preset=preset).metrics["short"] == 1.0
    assert score(PERFECT, TARGET, preset=preset, n_tokens=10).metrics["short"] == 0.0


BAD_FUNCTIONS = {
    "a parameter that no case has": ("def mine(anwser): return 1.0", "mine(anwser): unknown parameter 'anwser'"),
    "no such function": ("def yours(answer): return 1.0", "has no function 'mine'; it has yours"),
    "async": ("async def mine(answer): return 1.0", "criteria.new: mine is async; a criterion is a plain function"),
    "async, called": (
        "class Mine:\n    async def __call__(self, answer): return 1.0\nmine = Mine()",
        "criteria.new: Mine is async",
    ),
    "a class": ("class mine:\n    def __init__(self, answer): pass", "criteria.new: mine is a class"),
    "an option without a default": ("def mine(answer, *, limit): return 1.0", "criteria.new.options: needs limit"),
    "no names of parameters": ("mine = max", "criteria.new: max "),
    "a file that fails": ("1 / 0", "cannot be loaded (ZeroDivisionError"),
}


@pytest.mark.parametrize(("body", "message"), BAD_FUNCTIONS.values(), ids=BAD_FUNCTIONS)
def test_a_function_that_cannot_be_a_criterion(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RewardError) as caught:
        changed({"criteria": {"new": {"fn": own(tmp_path, body)}}})
    assert message in str(caught.value)


CALLABLES = {
    "lambda": "mine = lambda answer: 0.5",
    "partial": "import functools\ndef f(answer, *, x): return x\nmine = functools.partial(f, x=0.5)",
    "instance": "class Mine:\n    def __call__(self, answer): return 0.5\nmine = Mine()",
}


@pytest.mark.parametrize("body", CALLABLES.values(), ids=CALLABLES)
def test_other_callables_judge_and_are_printed(body: str, tmp_path: Path) -> None:
    preset = changed({"criteria": {"new": {"fn": own(tmp_path, body)}}})
    assert score(PERFECT, TARGET, preset=preset).metrics["new"] == 0.5
    assert changed(preset_to_dict(preset)) == preset


def test_what_a_function_raises_names_it_and_the_line(tmp_path: Path) -> None:
    preset = changed({"criteria": {"new": {"fn": own(tmp_path, "def mine(answer):\n    return {}['x']")}}})
    with pytest.raises(RewardError, match=r"^criteria\.new: KeyError: 'x' \(.*own\.py:2\)$"):
        score(PERFECT, TARGET, preset=preset)


@pytest.mark.parametrize("value", ["float('nan')", "None", "'much'", "[1]"])
def test_a_function_that_gives_no_number_is_named(value: str, tmp_path: Path) -> None:
    preset = changed({"criteria": {"new": {"fn": own(tmp_path, f"def mine(answer): return {value}")}}})
    with pytest.raises(RewardError, match=r"^criteria\.new: .*(nan|None|'much'|\[1\])"):
        score(PERFECT, TARGET, preset=preset)


def test_a_value_outside_its_range_is_named_of_own_functions_alone(tmp_path: Path) -> None:
    preset = changed({"criteria": {"new": {"fn": own(tmp_path, "def mine(answer): return 1.0")}}})
    recall, mine = preset.criteria[1], preset.criteria[-1]
    named = [value for value in (-0.01, -1e-9, 0.0, 1.0, 1.0 + 1e-9, 1.01, 2.0) if mine.range_problem(value)]
    assert named == [-0.01, 1.01, 2.0]
    assert "criteria.new: returned 1.01 (" in mine.range_problem(1.01)
    assert recall.range_problem(2.0) == ""


@pytest.mark.parametrize("place", ["", "a", ":f", "pkg://no.such.module:f", "pkg://math:sqr", "/no/such/file.py:f"])
def test_places_that_hold_no_function(place: str) -> None:
    with pytest.raises(FunctionError):
        load_function(place)


def test_a_function_is_loaded_once_and_knows_its_place(tmp_path: Path) -> None:
    place = own(tmp_path, "def mine(answer): return 1.0")
    assert load_function(place) is load_function(place)
    assert locate_function(load_function(place)) == place


# --- what criteria say of themselves ----------------------------------------------------------------------------------


def test_only_what_may_take_long_is_judged_in_a_thread(tmp_path: Path) -> None:
    slow = {name for name, preset in PRESETS.items() if preset.may_block}
    assert slow == {"math", "vlmr1-math-released", "vlmr1-default-released"}
    assert changed({"criteria": {"new": {"fn": own(tmp_path, "def mine(answer): return 1.0")}}}).may_block


def test_a_package_that_is_missing_is_named_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for preset in PRESETS.values():
        preset.require_installed()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    PRESETS["visionr1"].require_installed()
    with pytest.raises(RewardError, match=r"criteria\.correct: needs math_verify: pip install 'verl-visionr1\[text\]'"):
        PRESETS["math"].require_installed()


def test_a_format_that_cannot_answer_the_task_is_refused() -> None:
    with pytest.raises(RewardError, match=r"answer_format = 'count': .* counting; preset visionr1 .* detection"):
        changed({"answer_format": "count"})


@pytest.mark.parametrize(("old", "new"), [("labelled", "class_aware"), ("boxes", "class_agnostic")])
def test_old_names_of_matching_are_taken_with_a_warning(old: str, new: str) -> None:
    with pytest.warns(FutureWarning):
        assert changed({"matching": old}).matching == new
