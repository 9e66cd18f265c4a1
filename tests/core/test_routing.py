"""Which preset judges a row."""

from __future__ import annotations

from typing import Any

import pytest

from verl_visionr1 import PRESETS, RewardError, Target
from verl_visionr1.rewards import COMMON_METRICS, TASK_PRESETS, Routes
from verl_visionr1.rewards.routing import RouteSettings, routes_of
from verl_visionr1.settings import decoded
from verl_visionr1.targets import TASKS

TARGETS = {
    "detection": Target(task="detection", size_wh=(64, 64)),
    "grounding": Target(task="grounding", size_wh=(64, 64)),
    "counting": Target(task="counting", size_wh=(64, 64), count=2),
    "pointing": Target(task="pointing", size_wh=(64, 64)),
    "text": Target(task="text", answer="B"),
}


def routes(**plain: Any) -> Routes:
    return routes_of(decoded(plain, RouteSettings), PRESETS["visionr1"])


def test_every_task_has_a_target_here_and_a_preset() -> None:
    assert set(TARGETS) == set(TASKS) == set(TASK_PRESETS)
    for task, name in TASK_PRESETS.items():
        assert task in PRESETS[name].tasks


@pytest.mark.parametrize("task", TASKS)
def test_without_rules_a_task_goes_where_it_can_be_judged(task: str) -> None:
    chosen = routes().preset_for(TARGETS[task], "anything")
    assert chosen.name == ("visionr1" if task in ("detection", "grounding") else TASK_PRESETS[task])


RULES = {
    "task": ({"task": {"grounding": "visionr1-paper"}}, "grounding", "coco", {}, "visionr1-paper"),
    "task of another row": ({"task": {"grounding": "visionr1-paper"}}, "detection", "coco", {}, "visionr1"),
    "glob": ({"data_source": {"gui/*": "visionr1-paper"}}, "detection", "gui/web", {}, "visionr1-paper"),
    "glob that does not fit": ({"data_source": {"gui/*": "visionr1-paper"}}, "detection", "GUI/web", {}, "visionr1"),
    "first glob": (
        {"data_source": {"a*": "visionr1-paper", "*": "visionr1-released"}}, "detection", "abc", {}, "visionr1-paper",
    ),
    "source before task": (
        {"data_source": {"a*": "visionr1-paper"}, "task": {"detection": "visionr1-released"}}, "detection", "abc", {},
        "visionr1-paper",
    ),
    "column before source": (
        {"column": "extra_info.reward", "values": {"p": "visionr1-paper"}, "data_source": {"*": "visionr1-released"}},
        "detection", "abc", {"extra_info": {"reward": "p"}}, "visionr1-paper",
    ),
    "no such column in the row": (
        {"column": "extra_info.reward", "values": {"p": "visionr1-paper"}}, "detection", "abc", {"extra_info": None},
        "visionr1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("plain", "task", "source", "row", "name"), RULES.values(), ids=RULES)
def test_rules(plain: dict[str, Any], task: str, source: str, row: dict[str, Any], name: str) -> None:
    assert routes(**plain).preset_for(TARGETS[task], source, row).name == name


MISTAKES = {
    "unknown task": ({"task": {"detecting": "visionr1"}}, "routes.task.detecting: needs one of detection"),
    "unknown preset": ({"data_source": {"a": "visionr2"}}, "routes.data_source.a = 'visionr2'"),
    "values without a column": ({"values": {"a": "visionr1"}}, "routes.column and routes.values go together"),
    "column without values": ({"column": "a"}, "routes.column and routes.values go together"),
    "misspelt": ({"datasource": {}}, "datasource: unknown key; did you mean data_source?"),
}


@pytest.mark.parametrize(("plain", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        routes(**plain)
    assert message in str(caught.value)


def test_a_rule_that_picks_a_preset_for_another_task_is_an_error() -> None:
    with pytest.raises(RewardError, match=r"preset visionr1-paper .* detection, grounding, .* task text"):
        routes(data_source={"*": "visionr1-paper"}).preset_for(TARGETS["text"], "qa")


def test_a_column_with_an_unknown_value_is_an_error() -> None:
    with pytest.raises(RewardError, match=r"extra_info.reward = 'q': routes.values has p"):
        routes(column="extra_info.reward", values={"p": "visionr1"}).preset_for(
            TARGETS["detection"], "x", {"extra_info": {"reward": "q"}}
        )


def test_a_run_has_one_set_of_metrics() -> None:
    mixed = routes(task={"counting": TASK_PRESETS["counting"]})
    assert mixed.metrics[-len(COMMON_METRICS) :] == COMMON_METRICS
    assert {*PRESETS["visionr1"].weights, *PRESETS[TASK_PRESETS["counting"]].weights} < set(mixed.metrics)
    assert len(set(mixed.metrics)) == len(mixed.metrics)
    assert [mixed.index(preset) for preset in mixed.presets] == [0.0, 1.0]
    assert mixed.index(PRESETS["visionr1-paper"]) == -1.0
