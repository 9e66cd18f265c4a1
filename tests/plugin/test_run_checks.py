"""Rows, epochs, steps and settings of a run against each other, on verl's own configuration and real parquet files."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from verl_visionr1 import Target

pytestmark = pytest.mark.verl

from verl_visionr1.conversion.tokens import load_answer_counter  # noqa: E402
from verl_visionr1.plugin import data_files  # noqa: E402
from verl_visionr1.rewards.context import STATE_FILE  # noqa: E402
from verl_visionr1.runtime import agreement, checkpoints, composing, idle_settings, run_checks  # noqa: E402
from verl_visionr1.runtime.answer_length import answer_notes  # noqa: E402
from verl_visionr1.runtime.run_length import RunLength, length_of  # noqa: E402
from verl_visionr1.runtime.run_rows import facts_of  # noqa: E402

SPEC = importlib.util.find_spec("verl")
CONFIGS = Path(str(SPEC.origin)).parent / "trainer" / "config" if SPEC is not None else Path()
OURS = Path(__file__).parents[2] / "verl_visionr1" / "config" / "visionr1" / "progressive.yaml"
RUN = (
    *("actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.model.path=Qwen/Qwen2.5-VL-7B-Instruct"),
    *("data.train_batch_size=8", "data.max_prompt_length=512", "actor_rollout_ref.actor.ppo_mini_batch_size=8"),
    *("actor_rollout_ref.rollout.n=4", "algorithm.adv_estimator=grpo", "trainer.total_epochs=2"),
    *("actor_rollout_ref.actor.use_dynamic_bsz=true", "trainer.default_local_dir=/no/checkpoints"),
    *("data.train_files=/no/train.parquet", "data.val_files=/no/val.parquet"),
)


def config_of(*overrides: str, engine: str = "") -> DictConfig:
    """verl's own configuration, as it is generated for each engine, with the flag and some overrides."""
    return OmegaConf.merge(base_of(engine), OmegaConf.from_dotlist([*overrides]))  # type: ignore[return-value]


@lru_cache(maxsize=2)
def base_of(engine: str) -> DictConfig:
    base = OmegaConf.load(CONFIGS / f"_generated_ppo_{engine}trainer.yaml")
    return OmegaConf.merge(base, OmegaConf.load(OURS), OmegaConf.from_dotlist([*RUN]))  # type: ignore[return-value]


def row(
    size_wh: tuple[int, int] = (100, 100), n_images: int = 1, question: str = "Where is the cat?"
) -> dict[str, Any]:
    target = Target(task="detection", size_wh=size_wh, boxes_xyxy=[[1, 1, 9, 9]], labels=["cat"])
    return {
        "data_source": "x",
        "prompt": [{"role": "user", "content": "<image>" * n_images + question}],
        "images": ["a.png"] * n_images,
        "reward_model": {"style": "rule", "ground_truth": target.to_json()},
    }


def write(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.Table.from_pylist([row()]).schema), file)
    return str(file)


# --- epochs and steps ------------------------------------------------------------------------------------------------


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
    "V0 trains on what it fetches": (
        100,
        ["data.gen_batch_size=16", "trainer.use_v1=false"],
        "12 = 2 epochs of 100 rows (6 steps per epoch)",
        12,
    ),
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
    "fetches larger than the data": (
        [row()] * 40,
        ["data.gen_batch_size=64", "trainer.use_v1=false"],
        "data.gen_batch_size=64: larger than the 40 rows",
    ),
    "epochs end the run before its steps": (
        [row()] * 40,
        ["trainer.total_training_steps=100"],
        "trainer.total_training_steps=100: trainer.total_epochs=2 ends the run after 10 steps (5 per epoch)",
    ),
    "fetches that do not fill a batch": (
        [row()] * 40,
        ["data.gen_batch_size=3"],
        "data.gen_batch_size=3: data.train_batch_size=8",
    ),
    "no prompt": ([row()] * 40, ["data.prompt_key=question"], "no column question (data.prompt_key); set data."),
    "an empty file": ([], [], "data.train_files: its files have no rows"),
    "prompts that are all too long": (
        [row((1000, 1000))] * 40,
        [],
        "all 40 of 40 rows have prompts longer than data.max_prompt_length=512 tokens: verl drops them all",
    ),
    "a filter that leaves no row": (
        [row((1000, 1000))] * 40,
        ["data.filter_overlong_prompts=true"],
        "data.filter_overlong_prompts leaves none",
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
    "fetches that verl makes one by one: it refills": (
        [row()] * 40,
        ["data.gen_batch_size=16", "algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=acc"],
    ),
    "fetches of an asynchronous trainer": (
        [row()] * 40,
        ["data.gen_batch_size=16", "trainer.v1.trainer_mode=colocate_async"],
    ),
    "fetches of the V0 trainer": ([row()] * 40, ["data.gen_batch_size=16", "trainer.use_v1=false"]),
    "validation alone": ([row()] * 40, ["trainer.total_training_steps=100", "trainer.val_only=true"]),
    "a limit of vLLM beside another engine": (
        [row(n_images=2)] * 40,
        [
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


# --- a run that goes on ----------------------------------------------------------------------------------------------


def checkpoint(folder: Path, step: int, total_steps: int | None = None) -> Path:
    (folder / f"global_step_{step}" / "actor").mkdir(parents=True)
    (folder / checkpoints.TRACKER).write_text(str(step))
    if total_steps is not None:
        state = {"total_steps": total_steps, "step": step}
        (folder / f"global_step_{step}" / STATE_FILE).write_text(json.dumps(state))
    return folder / f"global_step_{step}"


def test_a_run_that_has_come_to_its_end(tmp_path: Path) -> None:
    checkpoint(tmp_path, 100)
    run = (f"trainer.default_local_dir={tmp_path}", "trainer.total_training_steps=100")
    said = f"{tmp_path}/global_step_100: already at or beyond the last step of this run (100)"
    validates = config_of(*run)
    assert run_checks.run_problems(validates) == []
    assert any(note.startswith(said) for note in run_checks.warnings_of(validates))
    stops = config_of(*run, "trainer.val_before_train=false")
    assert [problem.startswith(said) for problem in run_checks.run_problems(stops)] == [True]
    for fine in ("trainer.total_training_steps=101", "trainer.resume_mode=disable", "trainer.val_only=true"):
        config = config_of(*run, "trainer.val_before_train=false", fine)
        assert run_checks.run_problems(config) == []


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    def of(path: Path) -> list[str]:
        return run_checks.run_problems(
            config_of("trainer.resume_mode=resume_path", f"trainer.resume_from_path={path}", "trainer.total_epochs=9")
        )

    missing = tmp_path / "global_step_7"
    assert of(missing) == [f"trainer.resume_from_path={missing}: no such folder"]
    missing.mkdir()
    assert of(missing) == [f"trainer.resume_from_path={missing}: no actor/ in it, so no checkpoint"]
    assert of(checkpoint(tmp_path, 8)) == []


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


# --- settings that do nothing ----------------------------------------------------------------------------------------

BUDGET = "data.mm_processor_kwargs"
FROZEN = "actor_rollout_ref.model.external_lib=verl_visionr1.runtime.frozen_vision"
IDLE = {  # overrides -> what is said, each in one line
    "pixels where verl does not look": (["data.max_pixels=401408"], ["data.max_pixels=401408: verl does not read it"]),
    "one of two": ([f"{BUDGET}.max_pixels=401408"], [f"{BUDGET}.max_pixels=401408: needs min_pixels beside it"]),
    "the other": ([f"{BUDGET}.min_pixels=3136"], [f"{BUDGET}.min_pixels=3136: needs max_pixels beside it"]),
    "upside down": (
        [f"{BUDGET}.min_pixels=401408", f"{BUDGET}.max_pixels=3136"],
        [f"{BUDGET}.min_pixels=401408: above max_pixels=3136"],
    ),
    "both": ([f"{BUDGET}.min_pixels=3136", f"{BUDGET}.max_pixels=401408"], []),
    "words": (
        [f"{BUDGET}.min_pixels=3136", f"{BUDGET}.max_pixels='401408'"],
        [f"{BUDGET}.max_pixels='401408': needs a whole number of pixels"],
    ),
    "megapixels": (
        [f"{BUDGET}.min_pixels=0", f"{BUDGET}.max_pixels=0.4"],
        [f"{BUDGET}.min_pixels=0: needs a whole number", f"{BUDGET}.max_pixels=0.4: needs a whole number"],
    ),
    "keys that verl reads": (["data.cache_dir=/tmp/x", "data.need_tools_kwargs=true", "data.filter_prompts=true"], []),
    "a data set of one's own": (["data.custom_cls.path=mine.py", "data.max_pixels=3"], []),
    "legacy function": (
        ["custom_reward_function.path=mine.py"],
        ["custom_reward_function.path=mine.py: verl 0.9 ignores it; set reward.custom_reward_function.path"],
    ),
    "legacy reward model": (
        ["reward_model.enable=true", "reward_model.model.path=x"],
        [
            "reward_model.enable=True: verl 0.9 ignores it; set reward.reward_model.enable",
            "reward_model.model.path=x: verl 0.9 ignores it; set reward.reward_model.model_path",
        ],
    ),
    "legacy keys of workers": (
        ["reward_model.num_workers=4", "reward_model.reward_manager=dapo", "reward_model.reward_kwargs.a=1"],
        [
            "reward_model.num_workers=4: verl 0.9 ignores it; set reward.num_workers",
            "reward_model.reward_manager=dapo: verl 0.9 ignores it; set reward.reward_manager.name",
            "reward_model.reward_kwargs.a=1: verl 0.9 ignores it; set reward.reward_kwargs.a",
        ],
    ),
    "the trainer that takes them over": (["async_training.x=1", "reward_model.reward_manager=dapo"], []),
    "a tower that nobody freezes": (
        ["actor_rollout_ref.actor.freeze_vision_tower=true"],
        ["actor_rollout_ref.actor.freeze_vision_tower=true: verl's engines do not read it"],
    ),
    "a tower that is frozen": (["actor_rollout_ref.actor.freeze_vision_tower=true", FROZEN], []),
    "a tower that Megatron trains": (
        ["actor_rollout_ref.actor.strategy=megatron", FROZEN],
        [f"{FROZEN}: freezes FSDP models alone, actor_rollout_ref.actor.strategy is megatron"],
    ),
}


@pytest.mark.parametrize(("overrides", "messages"), IDLE.values(), ids=IDLE)
def test_settings_that_do_nothing(overrides: list[str], messages: list[str]) -> None:
    found = idle_settings.idle_problems(config_of(*overrides))
    assert len(found) == len(messages), found
    for said, message in zip(sorted(found), sorted(messages), strict=True):
        assert said.startswith(message)


def test_the_advice_for_image_budgets_can_be_pasted() -> None:
    (said,) = idle_settings.idle_problems(config_of("data.max_pixels=401408"))
    advice = said.partition("; set ")[2].removesuffix(", both").replace("MIN", "3136").replace("MAX", "401408")
    assert dict(composing.composed([advice]).data.mm_processor_kwargs) == {"min_pixels": 3136, "max_pixels": 401408}


def test_other_keys_that_verl_never_reads_are_a_warning() -> None:
    config = config_of("data.my_root=/data", "data.cache_dir=/tmp/x")
    assert idle_settings.unread_data_keys(config) == {"my_root": "/data"}
    assert any(note.startswith("data.my_root=/data: verl does not read") for note in run_checks.warnings_of(config))
    assert idle_settings.unread_data_keys(config_of()) == {}, "verl's own keys"


# --- Megatron --------------------------------------------------------------------------------------------------------

ACTOR = "actor_rollout_ref.actor"
MEGATRON = {  # overrides (8 GPUs) -> what is said
    "4 tensor-parallel parts": ([f"{ACTOR}.megatron.tensor_model_parallel_size=4"], None),
    "2 x 2 x 2": (
        [f"{ACTOR}.megatron.{kind}=2" for kind in ("tensor_model_parallel_size", "pipeline_model_parallel_size")]
        + [f"{ACTOR}.megatron.context_parallel_size=2"],
        None,
    ),
    "3 parts": (
        [f"{ACTOR}.megatron.tensor_model_parallel_size=3"],
        f"{ACTOR}: tensor_model_parallel_size=3: 8 GPUs (trainer.n_gpus_per_node x nnodes): need a multiple of it",
    ),
    "no parts": (
        [],
        f"{ACTOR}.ppo_mini_batch_size=6 x actor_rollout_ref.rollout.n=5 = 30 answers: need a multiple of 8",
    ),
    "2 parts": (
        [f"{ACTOR}.megatron.tensor_model_parallel_size=2"],
        f"{ACTOR}.ppo_mini_batch_size=6 x actor_rollout_ref.rollout.n=5 = 30 answers: need a multiple of 4",
    ),
}


@pytest.mark.parametrize(("overrides", "message"), MEGATRON.values(), ids=MEGATRON)
def test_megatron_shares_a_model_among_workers(overrides: list[str], message: str | None) -> None:
    """30 answers: the data-parallel groups that they are dealt to are the GPUs over tp x pp x cp."""
    run = ("trainer.n_gpus_per_node=8", "actor_rollout_ref.rollout.n=5", f"{ACTOR}.ppo_mini_batch_size=6")
    config = config_of(*run, "data.train_batch_size=12", *overrides, engine="megatron_")
    assert config.actor_rollout_ref.actor.strategy == "megatron"
    found = [problem for problem in agreement.agreement_problems(config) if problem.startswith(ACTOR)]
    assert found == [] if message is None else any(problem.startswith(message) for problem in found), found


def test_a_long_sequence_is_shared_among_context_parallel_workers() -> None:
    long = ("data.max_prompt_length=20000", "trainer.n_gpus_per_node=8")
    alone = agreement.agreement_problems(config_of(*long, engine="megatron_"))
    shared = agreement.agreement_problems(
        config_of(*long, f"{ACTOR}.megatron.context_parallel_size=2", engine="megatron_")
    )
    key = f"{ACTOR}.ppo_max_token_len_per_gpu=16384: a sequence may have 20512 tokens"
    assert [any(problem.startswith(key) for problem in found) for found in (alone, shared)] == [True, False]


# --- did you mean ----------------------------------------------------------------------------------------------------

MEANT = {
    "actor_rollout_ref.actor.gamma": "algorithm.gamma",
    "actor_rollout_ref.actor.lr": "actor_rollout_ref.actor.optim.lr",
    "critic.lr": "critic.optim.lr",
    "trainer.n_gpu": "trainer.n_gpus_per_node",
    "reward.reward_manger.name": "reward.reward_manager.name",
}


@pytest.mark.parametrize(("key", "meant"), MEANT.items())
def test_the_key_that_was_meant(key: str, meant: str) -> None:
    known = [name for name, _ in composing._leaves(config_of())]
    assert composing._nearest(key, known) == f"; did you mean {meant}?"


@pytest.mark.parametrize("name", ["target", "_targets_", "recursive"])
def test_never_a_key_of_hydra(name: str) -> None:
    known = [key for key, _ in composing._leaves(config_of())]
    assert any(key.endswith("._target_") for key in known)
    for folder in ("actor_rollout_ref.actor", "actor_rollout_ref.rollout", "algorithm", "critic"):
        assert "._" not in composing._nearest(f"{folder}.{name}", known)


def test_never_another_workers_key() -> None:
    """Each key of a worker, asked for below another one."""
    known = [name for name, _ in composing._leaves(config_of())]
    workers = ("actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref", "critic")
    for worker in workers:
        names = {key.rpartition(".")[2] for key in known if key.startswith(f"{worker}.")}
        for other in workers:
            for name in sorted(names)[::7]:
                meant = composing._nearest(f"{other}.{name}", known).removeprefix("; did you mean ").rstrip("?")
                assert not any(meant.startswith(f"{wrong}.") for wrong in workers if wrong != other), (
                    other,
                    name,
                    meant,
                )


# --- right answers and the response budget ---------------------------------------------------------------------------

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
    no_tokenizer = config_of(run[0], "data.max_response_length=8")
    assert answer_notes(no_tokenizer) == []


# --- data files ------------------------------------------------------------------------------------------------------


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
