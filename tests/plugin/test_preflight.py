"""Bad settings, data, model or disk stop a run before Ray starts, each with one line that says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from run_configs import config_of

pytestmark = pytest.mark.verl

MODEL = "actor_rollout_ref.model.path"
CASES = {  # more in test_dry_run.py, which asks the same checks
    "missing data file": (["data.train_files={tmp}/no.parquet"], "data.train_files: {tmp}/no.parquet: no such file"),
    "unknown key": (
        ["+reward.reward_kwargs.visionr1.wieghts=1"],
        "reward.reward_kwargs.visionr1.wieghts: unknown key; did you mean weights?",
    ),
    "a gate without its kind": (
        ["++reward.reward_kwargs.visionr1.schedule.gate={{bar:0.5}}"],
        "reward.reward_kwargs.visionr1.schedule.gate = {{'bar': 0.5}}: only used by kind=gated",
    ),
    "no model": (["actor_rollout_ref.model.path={tmp}/model"], "actor_rollout_ref.model.path={tmp}/model: no such"),
    "no rows": (["data.train_files={tmp}/two.txt"], "data.train_files={tmp}/two.txt: verl reads .parquet"),
    "another manager": (["reward.reward_manager.name=dapo"], "reward.reward_manager.name=dapo: not visionr1"),
    "a manager without its key": (["reward.reward_manager=visionr1"], "reward.reward_manager=visionr1: needs keys"),
    "settings of nobody": (
        ["+reward.reward_kwargs.visonr1.preset=counting"],
        "reward.reward_kwargs.visonr1: no code reads it; did you mean reward.reward_kwargs.visionr1?",
    ),
    "settings too high": (
        ["+reward.reward_kwargs.preset=counting"],
        "reward.reward_kwargs.preset: no code reads it; did you mean reward.reward_kwargs.visionr1.preset?",
    ),
    "settings of the manager": (
        ["+reward.reward_manager.schedule=off"],
        "reward.reward_manager.schedule: no code reads it; did you mean reward.reward_kwargs.visionr1.schedule?",
    ),
    "settings beside": (["+reward.visionr1.preset=x"], "reward.visionr1: no code reads it"),
    "settings at the top": (["+visionr1.preset=x"], "visionr1: no code reads it; write +visionr1@_global_=progressive"),
    "no name of a model": ([f"{MODEL}=null"], f"{MODEL}=None: needs a folder"),
    "a folder without a model": (
        ["actor_rollout_ref.model.path={tmp}"],
        "actor_rollout_ref.model.path={tmp}: no config",
    ),
    "a relative folder": (
        ["actor_rollout_ref.model.path=./no/model"],
        "actor_rollout_ref.model.path=./no/model: no such",
    ),
}


def problems(*overrides: str) -> list[str]:
    from verl_visionr1.runtime.preflight import preflight_problems

    return preflight_problems(config_of(*overrides))


@pytest.mark.parametrize(("overrides", "message"), CASES.values(), ids=CASES.keys())
def test_problem_is_one_line_with_advice(tmp_path: Path, overrides: list, message: str) -> None:
    found = problems(*(override.format(tmp=tmp_path) for override in overrides))
    expected = message.format(tmp=tmp_path)
    assert any(problem.startswith(expected) for problem in found), found
    assert all("\n" not in problem for problem in found)


GOOD = {
    "the value of a legacy key that verl has anyway": ["reward_model.enable=false", "reward_model.num_workers=8"],
    "a manager of one's own, made from it": [
        "reward.reward_manager.source=importlib",
        "reward.reward_manager.module.path=pkg://verl_visionr1.plugin.reward_manager",
        "reward.reward_manager.name=VisionR1RewardManager",
    ],
    "globs": ["++reward.reward_kwargs.visionr1.routes.data_source={gui/*:gui-click}"],
    "a criterion left out": ["++reward.reward_kwargs.visionr1.criteria.recall=null"],
    "nothing set": ["reward.reward_kwargs.visionr1.weights=null", "reward.reward_kwargs.visionr1.routes=null"],
    "numbers as values": ["++reward.reward_kwargs.visionr1.routes={column:kind,values:{1:counting}}"],
}


@pytest.mark.parametrize("overrides", GOOD.values(), ids=GOOD)
def test_what_a_command_line_may_say(overrides: list) -> None:
    found = problems(*overrides)
    assert not [problem for problem in found if problem.startswith("reward.")], found


def test_malformed_ground_truth_names_file_row_and_value(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "bad.parquet"
    row = {
        "data_source": "x",
        "prompt": [{"role": "user", "content": "<image>Locate every cat"}],
        "images": ["a.png"],
        "reward_model": {"style": "rule", "ground_truth": '{"task": "detection"}'},
        "extra_info": {"split": "train", "index": 0},
    }
    pq.write_table(pa.Table.from_pylist([row]), file)
    found = [problem for problem in problems(f"data.train_files={file}") if "ground_truth" in problem]
    assert found, problems(f"data.train_files={file}")
    assert str(file) in found[0]


def test_a_column_of_images_that_verl_would_not_look_at(tmp_path: Path) -> None:
    """verl takes a row without the column for a row without an image, and says nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "rows.parquet"
    truth = '{"task":"text","size_wh":[0,0],"answer":"yes"}'
    prompt = [[{"role": "user", "content": "<image>?"}]]
    columns = {"reward_model": [{"style": "rule", "ground_truth": truth}], "data_source": ["x"], "prompt": prompt}
    pq.write_table(pa.table({**columns, "images": [["a.png"]]}), file)
    told = f"data.train_files: {file}: no column 'image': verl would train without images; set data.image_key=images"
    assert told in problems(f"data.train_files={file}", "data.image_key=image")
    assert not [problem for problem in problems(f"data.train_files={file}") if "column" in problem]
    pq.write_table(pa.table({**columns, "prompt": [[{"role": "user", "content": "?"}]]}), file)
    assert not [problem for problem in problems(f"data.train_files={file}") if "column" in problem], "text alone"


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONR1_MIN_FREE_GB", "1000000000")
    found = problems(f"trainer.default_local_dir={tmp_path}/not/there/yet")
    assert any("GB free on the disk of" in problem for problem in found)


def test_the_callback_of_the_flag_ends_the_process() -> None:
    from verl_visionr1.plugin.preflight import Preflight
    from verl_visionr1.runtime.preflight import RunPreflight

    for callback in (Preflight(), RunPreflight()):
        with pytest.raises(SystemExit, match=r"visionr1: data\.train_files: /no\.parquet: no such file"):
            callback.on_run_start(config_of("data.train_files=/no.parquet"))
    lacking = config_of()
    del lacking.trainer.total_training_steps
    with pytest.raises(SystemExit, match=r"visionr1: trainer\.total_training_steps: not in the config"):
        RunPreflight().on_run_start(lacking)
    with pytest.raises(SystemExit, match=r"visionr1: trainer\.test_freq=\{'a': None\}"):
        RunPreflight().on_run_start(config_of("trainer.test_freq={a: null}"))


@pytest.mark.slow
def test_main_ppo_stops_before_ray(tmp_path: Path) -> None:
    """The whole way: the unmodified trainer's command line, in a second process."""
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "+visionr1@_global_=[progressive,checks]"]
    done = subprocess.run(
        [*command, f"data.train_files={tmp_path}/no.parquet"], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 1
    assert f"visionr1: data.train_files: {tmp_path}/no.parquet: no such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ray init" not in done.stdout
