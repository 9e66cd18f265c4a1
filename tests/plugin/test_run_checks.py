"""Rows, epochs and steps of a run against each other, on verl's own configuration and real parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_configs import checkpoint, config_of, row, write

from verl_visionr1 import Target
from verl_visionr1.conversion.tokens import answer_tokens, load_answer_counter
from verl_visionr1.plugin import data_files
from verl_visionr1.runtime import parts, run_checks
from verl_visionr1.runtime.run_length import RunLength, length_of
from verl_visionr1.runtime.run_rows import answer_notes, facts_of

pytestmark = pytest.mark.verl


def steps_taken(n_rows: int, batch: int, epochs: int, asked: int | None) -> int:
    """The loop of `PPOTrainer.fit`, with the numbers of its `_init_dataloader`."""
    steps_per_epoch = n_rows // batch
    total = steps_per_epoch * epochs if asked is None else asked
    step, taken, epoch = 1, 0, 0
    while epoch < epochs and step <= total:
        is_last_step = step >= total
        taken = step
        step += 1
        epoch = (step - 1) // steps_per_epoch
        if is_last_step:
            break
    return taken


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 5), st.one_of(st.none(), st.integers(1, 60)))
def test_the_last_step_is_the_one_that_verl_stops_at(n_rows: int, batch: int, epochs: int, asked: int | None) -> None:
    length = RunLength(n_rows, batch, epochs, asked)
    if n_rows < batch:
        assert length.steps_per_epoch == length.last_step == 0
    else:
        assert length.last_step == steps_taken(n_rows, batch, epochs, asked)


LENGTHS = {  # rows, overrides -> what the dry run says, number of the last step
    "epochs": (100, [], "24 = 2 epochs of 100 rows (12 steps per epoch)", 24),
    "a recipe on own data": (
        92,
        ["trainer.total_training_steps=240", "trainer.total_epochs=100000"],
        "240 = 21.8 epochs of 92 rows (11 steps per epoch)",
        240,
    ),
    "some of the rows": (100, ["data.train_max_samples=16"], "4 = 2 epochs of 16 rows (2 steps per epoch)", 4),
    "V1 trains on a batch": (100, ["data.gen_batch_size=4"], "24 = 2 epochs of 100 rows (12 steps per epoch)", 24),
    "part of an epoch": (100, ["trainer.total_training_steps=3"], "3 = 0.2 epochs of 100 rows (12 steps per epoch)", 3),
}


@pytest.mark.parametrize(("n_rows", "overrides", "said", "last"), LENGTHS.values(), ids=LENGTHS)
def test_lengths(tmp_path: Path, n_rows: int, overrides: list[str], said: str, last: int) -> None:
    config = config_of(f"data.train_files={write(tmp_path / 'train.parquet', [row()] * n_rows)}", *overrides)
    length = length_of(config)
    assert (length.describe(), length.last_step) == (said, last)
    assert run_checks.run_problems(config) == []


def test_without_the_data_the_steps_are_those_that_are_asked_for() -> None:
    assert length_of(config_of("trainer.total_training_steps=9")).last_step == 9
    assert length_of(config_of()).last_step is None
    assert run_checks.run_problems(config_of()) == []


PROBLEMS = {  # rows, overrides -> the key that is named, and the values
    "a batch larger than the data": ([row()] * 7, [], "data.train_batch_size=8: larger than the 7 rows"),
    "epochs end the run before its steps": (
        [row()] * 40,
        ["trainer.total_training_steps=100"],
        "trainer.total_training_steps=100: trainer.total_epochs=2 ends the run after 10 steps (5 per epoch)",
    ),
    "no prompt": ([row()] * 40, ["data.prompt_key=question"], "no column question (data.prompt_key); set data."),
    "an empty file": ([], [], "data.train_files: its files have no rows"),
    "prompts that are all too long": (
        [row((1000, 1000))] * 40,
        [],
        "all 40 of 40 rows have prompts longer than data.max_prompt_length=512 tokens, so no row is left",
    ),
    "a filter that leaves no row": (
        [row((1000, 1000))] * 40,
        ["data.filter_overlong_prompts=true"],
        "so no row is left",
    ),
    "a filter that leaves less than a batch": (
        [row((1000, 1000))] * 40 + [row()] * 7,
        ["data.filter_overlong_prompts=true"],
        "data.train_batch_size=8: larger than the 7 rows",
    ),
    "two images where vLLM takes one": (
        [row()] * 30 + [row(n_images=2)] * 10,
        ["actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt.image=1"],
        "10 of 40 rows have up to 2 images, and vLLM takes 1 in a prompt (actor_rollout_ref.rollout.engine_kwargs",
    ),
    "the other key for it": (
        [row(n_images=3)] * 40,
        ["actor_rollout_ref.rollout.limit_images=1"],
        "up to 3 images, and vLLM takes 1 in a prompt (actor_rollout_ref.rollout.limit_images)",
    ),
}


@pytest.mark.parametrize(("rows", "overrides", "message"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_cannot_be_meant_is_one_line(tmp_path: Path, rows: list, overrides: list[str], message: str) -> None:
    found = run_checks.run_problems(config_of(f"data.train_files={write(tmp_path / 'a.parquet', rows)}", *overrides))
    assert any(message in problem for problem in found), found
    assert all("\n" not in problem for problem in found)


FINE = {  # rows, overrides
    "validation alone": ([row()] * 40, ["trainer.total_training_steps=100", "trainer.val_only=true"]),
    "validation alone, few rows": ([row()] * 4, ["trainer.val_only=true"]),
    "a limit of vLLM beside another engine": (
        [row(n_images=2)] * 40,
        [
            "actor_rollout_ref.model.path=Qwen/Qwen3-VL-8B-Instruct",
            "actor_rollout_ref.rollout.name=sglang",
            "actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt.image=1",
        ],
    ),
}


@pytest.mark.parametrize(("rows", "overrides"), FINE.values(), ids=FINE)
def test_what_verl_takes_is_no_problem(tmp_path: Path, rows: list, overrides: list[str]) -> None:
    config = config_of(f"data.train_files={write(tmp_path / 'a.parquet', rows)}", *overrides)
    assert run_checks.run_problems(config) == []


def test_rows_that_a_filter_leaves_out_are_no_steps(tmp_path: Path) -> None:
    rows = [row((1000, 1000))] * 40 + [row()] * 16
    file = f"data.train_files={write(tmp_path / 'a.parquet', rows)}"
    filtered = config_of(file, "data.filter_overlong_prompts=true")
    assert (length_of(filtered).n_rows, length_of(filtered).last_step) == (16, 4)
    assert run_checks.run_problems(filtered) == []
    for config, fate in ((filtered, "leaves them out"), (config_of(file), "verl drops their answers")):
        told = [note for note in run_checks.warnings_of(config) if "40 of 56 rows have prompts longer" in note]
        assert len(told) == 1
        assert fate in told[0]


LONG = {  # image, text, overrides -> whether the prompt is certainly longer than 512 tokens
    "the image alone": ((1000, 1000), "?", [], True),
    "within the budget": ((600, 600), "?", [], False),
    "a budget that shrinks it": (
        (1000, 1000),
        "?",
        ["data.mm_processor_kwargs.min_pixels=3136", "data.mm_processor_kwargs.max_pixels=200704"],
        False,
    ),
    "the text beside it": ((600, 600), "cat " * 300, [], True),
    "another family of the hub": ((700, 700), "?", ["actor_rollout_ref.model.path=Qwen/Qwen3-VL-8B-Instruct"], False),
    "the same on this one": ((700, 700), "?", [], True),
    "a model that nothing is known of": ((1000, 1000), "?", ["actor_rollout_ref.model.path=me/mine"], False),
}


@pytest.mark.parametrize(("size_wh", "text", "overrides", "is_long"), LONG.values(), ids=LONG)
def test_prompts_are_measured(
    tmp_path: Path, size_wh: tuple[int, int], text: str, overrides: list[str], is_long: bool
) -> None:
    file = write(tmp_path / "a.parquet", [row(size_wh, question=text)] * 9)
    facts = facts_of(config_of(f"data.train_files={file}", *overrides), "data.train_files")
    assert facts is not None
    assert (facts.n_rows, facts.n_overlong) == (9, 9 if is_long else 0)


def test_a_run_that_has_come_to_its_end(tmp_path: Path) -> None:
    checkpoint(tmp_path, 100)
    run = (f"trainer.default_local_dir={tmp_path}", "trainer.total_training_steps=100")
    said = f"{tmp_path}/global_step_100: already at or beyond the last step of this run (100)"
    validates = config_of(*run)
    assert run_checks.run_problems(validates) == []
    assert any(note.startswith(said) for note in run_checks.warnings_of(validates))
    stops = config_of(*run, "trainer.val_before_train=false")
    assert [problem.startswith(said) for problem in run_checks.run_problems(stops)] == [True]
    for fine in ("trainer.total_training_steps=101", "trainer.resume_mode=disable"):
        config = config_of(*run, "trainer.val_before_train=false", fine)
        assert run_checks.run_problems(config) == []
    assert run_checks.warnings_of(config_of(*run, "trainer.val_only=true")) == []


def test_fewer_steps_than_the_checkpoint_counted_are_said_before_the_start(tmp_path: Path) -> None:
    checkpoint(tmp_path, 100, total_steps=1000)
    model = "actor_rollout_ref.model.path=Qwen/Qwen3-VL-8B-Instruct"  # with a second stage by default
    run = (model, f"trainer.default_local_dir={tmp_path}", "trainer.total_training_steps=250")
    kept, unreached = run_checks.warnings_of(config_of(*run))
    assert kept.startswith("total_steps is 250 but the checkpoint used 1000; keeping 1000")
    assert unreached.startswith("stage 1 (0.75/0.75/0.9) is not reached in this run of 250 steps")
    assert run_checks.warnings_of(config_of(*run), with_stages=False) == []
    decided = config_of(*run, "reward.reward_kwargs.visionr1.total_steps=250")
    assert run_checks.warnings_of(decided) == []


TINY = Path(__file__).parents[2] / "recipes" / "tiny" / "qwen3_vl_scenes"


def answer_row(n_objects: int, source: str = "x") -> dict[str, Any]:
    target = Target(
        task="detection",
        size_wh=(100, 100),
        boxes_xyxy=[[1, 1, 50 + i, 90] for i in range(n_objects)],
        labels=["cat"] * n_objects,
    )
    truth = target.to_json() if source == "x" else "#### " + "42 " * 500
    return row() | {"data_source": source, "reward_model": {"style": "rule", "ground_truth": truth}}


def test_right_answers_that_the_budget_cuts_off(tmp_path: Path) -> None:
    target = Target.from_json(answer_row(9)["reward_model"]["ground_truth"])
    longest = load_answer_counter(TINY)(target)
    rows = [answer_row(1), answer_row(9), answer_row(8), answer_row(1, "openai/gsm8k")]
    run = (f"data.train_files={write(tmp_path / 'a.parquet', rows)}", f"actor_rollout_ref.model.path={TINY}")
    run += ("reward.reward_kwargs.visionr1.delegate=[openai/*]",)
    (note,) = answer_notes(config_of(*run, "data.max_response_length=64"))
    assert note.startswith(
        "data.train_files: the right answer of 2 of 3 rows is longer than data.max_response_length=64"
    )
    assert f"(longest: {longest})" in note
    assert answer_notes(config_of(*run, f"data.max_response_length={longest}")) == []
    assert len(answer_notes(config_of(*run, f"data.max_response_length={longest - 1}"))) == 1
    (estimate,) = answer_notes(config_of(run[0], run[2], "data.max_response_length=64"))  # a name on the hub
    assert "of 2 of 3 rows is longer" in estimate
    about = answer_tokens(target)  # of Qwen's tokenizer
    assert f"(longest: about {about})" in estimate
    assert answer_notes(config_of(run[0], run[2], f"data.max_response_length={about}")) == []


def test_right_answers_of_points_are_counted_and_a_file_with_an_unreadable_row_is_left_out(tmp_path: Path) -> None:
    points = [[float(i), 9.0] for i in range(9)]
    target = Target(task="pointing", size_wh=(99, 99), points_xy=points, labels=["cat"] * 9, categories=["cat"])
    pointing = answer_row(9) | {"reward_model": {"style": "rule", "ground_truth": target.to_json()}}
    files = [
        write(tmp_path / "a.parquet", [answer_row(9), pointing]),
        write(tmp_path / "b.parquet", [answer_row(9), answer_row(9, "gsm8k")]),
    ]
    run = (f"data.train_files=[{','.join(files)}]", f"actor_rollout_ref.model.path={TINY}")
    (note,) = answer_notes(config_of(*run, "data.max_response_length=64"))
    assert "of 2 of 2 rows is longer" in note


def test_the_data_files_of_a_run(tmp_path: Path) -> None:
    here, gone = write(tmp_path / "a.parquet", [row()]), str(tmp_path / "gone.parquet")
    files = {
        "one": (here, [here], [here], [here]),
        "none": ("null", [], [], []),
        "some": (f"[{here},{gone}]", [here, gone], [here], []),
        "elsewhere": (f"[{here},hdfs://x/b.parquet]", [here], [here], []),
        "of another kind": (f"[{here},{tmp_path}/c.jsonl]", [here], [here], []),
    }
    for name, (files_given, parquet, readable, complete) in files.items():
        config = config_of(f"data.train_files={files_given}", "data.val_files=null")
        found = (data_files.parquet_files(config), data_files.readable_files(config))
        assert [[*map(str, each)] for each in found] == [parquet, readable], name
        assert [*map(str, data_files.complete_files(config, "data.train_files"))] == complete, name


@pytest.mark.parametrize(
    ("key", "name", "package"),
    [
        ("actor_rollout_ref.rollout.name", "sglang", "sglang"),
        ("actor_rollout_ref.actor.strategy", "megatron", "megatron"),
        ("trainer.logger", "[swanlab]", "swanlab"),
    ],
)
def test_an_engine_or_a_logger_that_is_not_installed_is_noted(key: str, name: str, package: str) -> None:
    (note,) = parts.missing_packages(config_of(f"{key}={name}"))
    assert note.startswith(f"{key}: {name.strip('[]')} needs the package {package},")
    assert parts.missing_packages(config_of()) == []
