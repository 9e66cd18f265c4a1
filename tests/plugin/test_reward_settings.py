"""Settings of the rewards against the model, the rows and each other: what the checks say, by key and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_configs import config_of, row, write

from verl_visionr1 import Target
from verl_visionr1.plugin.config import PREFIX
from verl_visionr1.plugin.delegation import manager_problem
from verl_visionr1.plugin.preflight import reward_problems
from verl_visionr1.runtime import composing, parts, run_checks

pytestmark = pytest.mark.verl

COUNTED = Target(task="counting", size_wh=(100, 100), count=2).to_json()


def notes(*overrides: str) -> list[str]:
    return run_checks.warnings_of(config_of(*overrides), with_stages=False)


def data(tmp_path: Path, *rows: dict[str, Any]) -> tuple[str, str]:
    file = write(tmp_path / "rows.parquet", [*rows])
    return f"data.train_files={file}", f"data.val_files={file}"


def with_truth(truth: str, source: str = "x") -> dict[str, Any]:
    return {**row(), "data_source": source, "reward_model": {"style": "rule", "ground_truth": truth}}


TRUTHS = {"no object": "0", "an object of others": '{"answer": 3}'}


@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
def test_rows_of_verls_own_reward_are_told_apart(tmp_path: Path, truth: str) -> None:
    rows = [row(), with_truth(truth, "openai/gsm8k")]
    [problem, _] = reward_problems(config_of(*data(tmp_path, *rows)))
    assert f"row 1: reward_model.ground_truth {truth!r}" in problem
    assert f"{PREFIX}.delegate=[openai/gsm8k]" in problem
    assert "visionr1 convert" in problem
    assert reward_problems(config_of(*data(tmp_path, *rows), f"{PREFIX}.delegate=[openai/*]")) == []


def test_a_pattern_of_delegation_that_fits_no_row(tmp_path: Path) -> None:
    rows = data(tmp_path, row(), with_truth("0", "openai/gsm8k"))
    [note] = [note for note in notes(*rows, f"{PREFIX}.delegate=[openai/*,maths]") if "delegate" in note]
    assert note.startswith(f"{PREFIX}.delegate: 'maths'")
    assert "openai/gsm8k" in note
    assert not [note for note in notes(f"{PREFIX}.delegate=[maths]") if "delegate" in note], "files that are not here"


def test_another_manager_beside_the_flag_is_to_be_left_out() -> None:
    config = config_of("reward.reward_manager.name=dapo")
    with_flag = manager_problem(config) or ""
    config.actor_rollout_ref.rollout.agent.agent_loop_manager_class = None
    without = manager_problem(config) or ""
    assert with_flag.startswith("reward.reward_manager.name=dapo")
    assert ("+visionr1@" in with_flag, "+visionr1@" in without) == (False, True)


FRAMES = {  # frame, type of a local model or "" for Qwen2.5-VL of the hub -> whether it is noted
    "another frame, by the hub's name": ("qwen3-vl", "", True),
    "another frame, by config.json": ("qwen3-vl", "qwen2_5_vl", True),
    "the model's own": ("qwen2.5-vl", "qwen2_5_vl", False),
    "the same coordinates": ("qwen2-vl", "qwen3_vl", False),
    "by the model": ("auto", "qwen2_5_vl", False),
    "a model of unknown frame": ("qwen3-vl", "mine", False),
}


@pytest.mark.parametrize(("frame", "model_type", "is_noted"), FRAMES.values(), ids=FRAMES)
def test_a_frame_that_is_not_the_models(tmp_path: Path, frame: str, model_type: str, is_noted: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    model = [f"actor_rollout_ref.model.path={tmp_path}"] if model_type else []
    found = [note for note in notes(f"{PREFIX}.frame={frame}", *model) if note.startswith(f"{PREFIX}.frame={frame}")]
    assert len(found) == is_noted
    assert all("qwen2.5-vl" in note for note in found)


PRESETS = {  # settings -> whether the run's own preset is noted, for two rows of boxes and one to count
    "scores none": (["preset=gui-click", "routes.task.counting=counting"], True),
    "scores one": (["preset=counting"], False),
    "scores two": (["preset=visionr1"], False),
    "routes choose all": (
        ["preset=pointing", "routes.task.detection=visionr1", "routes.task.counting=counting"],
        False,
    ),
}


@pytest.mark.parametrize(("given", "is_noted"), PRESETS.values(), ids=PRESETS)
def test_a_preset_that_scores_no_row(tmp_path: Path, given: list[str], is_noted: bool) -> None:
    rows = data(tmp_path, row(), row(), with_truth(COUNTED))
    found = [note for note in notes(*rows, *(f"{PREFIX}.{each}" for each in given)) if f"{PREFIX}.preset" in note]
    assert len(found) == is_noted
    assert all("gui-click" in note and "visionr1 (2 rows), counting (1 row)" in note for note in found)


DATA_SETS = {  # settings of data.custom_cls, by the text of a file -> start of the problem
    "no name": ({"path": "{file}"}, "", "data.custom_cls.path={file}: needs data.custom_cls.name"),
    "no file": ({"path": "{file}.gone", "name": "Mine"}, "", "data.custom_cls.path={file}.gone"),
    "no class": ({"path": "{file}", "name": "Mine"}, "", "data.custom_cls.path={file}"),
    "no data set": ({"path": "{file}", "name": "Mine"}, "class Mine: ...", "data.custom_cls.path={file}: Mine is no"),
    "a data set": (
        {"path": "{file}", "name": "Mine"},
        "from torch.utils.data import Dataset\nclass Mine(Dataset): ...",
        None,
    ),
}


@pytest.mark.parametrize(("custom", "text", "start"), DATA_SETS.values(), ids=DATA_SETS)
def test_a_data_set_class_that_verl_cannot_use(
    tmp_path: Path, custom: dict[str, str], text: str, start: str | None
) -> None:
    file = tmp_path / "own.py"
    file.write_text(text)
    overrides = [f"data.custom_cls.{key}={value.format(file=file)}" for key, value in custom.items()]
    found = [problem for problem in parts.loading_problems(config_of(*overrides)) if "custom_cls" in problem]
    assert [problem.startswith(start.format(file=file)) for problem in found] == [True] if start else found == []
    assert any(note.startswith(f"data.custom_cls.path={file}") for note in notes(*overrides))


@pytest.mark.parametrize(("metric", "is_noted"), [("recall", True), ("acc", False), ("reward", False)])
def test_a_filter_by_what_delegated_rows_do_not_report(metric: str, is_noted: bool) -> None:
    filtered = f"algorithm.filter_groups={{enable: true, metric: {metric}}}"
    found = notes(f"{PREFIX}.delegate=[openai/*]", filtered)
    assert [note for note in found if note.startswith(f"algorithm.filter_groups.metric={metric}")] == found * is_noted
    assert notes(filtered) == []


def test_files_whose_rows_are_not_read() -> None:
    found = notes("data.train_files=[a.jsonl,b.parquet]", "data.val_files=c.json")
    named = [note.partition(":")[0] for note in found if "not read" in note]
    assert named == ["data.train_files=a.jsonl", "data.val_files=c.json"]


PLUSES = {  # override of a key that the flag does not have -> what is advised
    "a criterion": (f"{PREFIX}.criteria.mine={{fn:a.py:f}}", f"write ++{PREFIX}.criteria.mine={{fn:a.py:f}}"),
    "a field of one": (f"{PREFIX}.criteria.mine.fn=a.py:f", f"write ++{PREFIX}.criteria.mine.fn=a.py:f"),
    "a route": (f"{PREFIX}.routes.task.counting={{a:b}}", f"write ++{PREFIX}.routes.task.counting={{a:b}}"),
    "a misspelt key": (f"{PREFIX}.schedle={{kind:off}}", f"did you mean {PREFIX}.schedule?"),
    "a misspelt weight": (f"{PREFIX}.weights.recal=1", f"did you mean {PREFIX}.weights.recall?"),
}


@pytest.mark.parametrize(("override", "advice"), PLUSES.values(), ids=PLUSES)
def test_a_key_without_its_pluses(override: str, advice: str) -> None:
    with pytest.raises(composing.CompositionError) as caught:
        composing.composed(["+visionr1@_global_=progressive", override])
    assert str(caught.value).endswith(advice)
    assert override.partition("=")[0] in str(caught.value)
