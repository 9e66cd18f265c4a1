"""`visionr1 dry-run`: verl's whole config from a command line, checked as the trainer would, without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_configs import config_of, write
from typer.testing import CliRunner

from verl_visionr1.cli import app

if TYPE_CHECKING:
    from verl_visionr1.runtime.dry_run import DryRun

pytestmark = pytest.mark.verl

TINY = Path(__file__).parents[2] / "recipes" / "tiny" / "qwen3_vl_scenes"
GOOD = (
    *("+visionr1@_global_=progressive", "algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.name=vllm"),
    *("actor_rollout_ref.model.path=Qwen/Qwen2.5-VL-7B-Instruct", "actor_rollout_ref.rollout.n=8"),
    *("actor_rollout_ref.actor.use_dynamic_bsz=true", "actor_rollout_ref.actor.strategy=fsdp2"),
    *("data.train_batch_size=512", "actor_rollout_ref.rollout.tensor_model_parallel_size=1"),
    *("trainer.total_training_steps=100", "trainer.save_freq=20", "trainer.logger=[console,file]"),
    *("data.train_files=/no/train.parquet", "data.val_files=/no/val.parquet", "hydra.run.dir=/no/where"),
)
"""A run on 8 GPUs that nothing is wrong with. Last in a test: what a case changes."""


@pytest.fixture(autouse=True)
def no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_PLATFORM", raising=False)


def run(*overrides: str, data_later: bool = True) -> DryRun:
    """Check verl's own configuration with these overrides; without Hydra, which takes most of the time."""
    from verl_visionr1.runtime.dry_run import check

    mini = "actor_rollout_ref.actor.ppo_mini_batch_size=256"
    given = [override for override in (mini, *GOOD[1:], *overrides) if not override.startswith("hydra.")]
    return check(config_of(*given), data_later=data_later)


def test_a_good_run_is_described_and_has_no_problems() -> None:
    found = run()
    assert found.problems == ()
    summary = dict(found.summary)
    assert "0.75/0.75/0.9 not reached" in summary["thresholds"], "the paper's best for Qwen2.5-VL"
    assert "arXiv 2503.18013, Table 10" in summary[""]
    assert summary["a step"].startswith("512 prompts x 8 answers; update on 256 prompts at once")
    assert summary["reward"] == "visionr1: format x1, recall x1, precision x1"
    assert summary["algorithm"].startswith("grpo; no KL; loss token-mean")
    notes = "\n".join(found.notes)
    assert "data.train_files=/no/train.parquet: no such file" in notes
    assert summary["frame"] == "qwen2.5-vl (auto, by the model); answers as qwen-json"
    assert "Qwen/Qwen2.5-VL-7B-Instruct: " in notes
    assert found.config is not None
    assert found.config.actor_rollout_ref.rollout.prompt_length == 512, "references are resolved"


DYNAMIC = "actor_rollout_ref.actor.use_dynamic_bsz"
FIXED = (f"{DYNAMIC}=false", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4")
SETTINGS = "reward.reward_kwargs.visionr1"
TOGETHER = {  # override -> what is said of it; all are found at once
    "values of another type": {
        "data.train_batch_size=many": "data.train_batch_size=many: needs a number (verl's default: 1024",
        f"{DYNAMIC}=perhaps": f"{DYNAMIC}=perhaps: needs true or false",
        "trainer.test_freq=2.5": "trainer.test_freq=2.5: needs a whole number",
        "trainer.save_freq=null": "trainer.save_freq=null: needs a number (verl's default: -1)",
        "trainer.total_training_steps=many": "total_training_steps=many: needs a whole number, or null",
        "trainer.v1.sampler=null": "trainer.v1.sampler=null: needs keys below it",
        "data.train_files=5": "data.train_files=5: needs a file, or a list of files",
    },
    "numbers that disagree, and names of nothing": {
        "data.train_batch_size=128": "ppo_mini_batch_size=256: a step has only data.train_batch_size=128",
        "data.max_prompt_length=20000": "actor.ppo_max_token_len_per_gpu=16384: a sequence may have 20512 tokens",
        "actor_rollout_ref.rollout.max_model_len=500": "max_model_len=500: below data.max_prompt_length +",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=3": "tensor_model_parallel_size=3: 8 GPUs",
        "trainer.logger=[console,wandbb]": "trainer.logger=wandbb: needs one of",
        "trainer.resume_mode=resume_path": "trainer.resume_from_path needs a folder",
        "algorithm.filter_groups={enable:true,metric:recal}": "algorithm.filter_groups.metric=recal: no row reports it",
    },
}


@pytest.mark.parametrize("mistakes", TOGETHER.values(), ids=TOGETHER)
def test_each_of_many_mistakes_is_named(mistakes: dict[str, str]) -> None:
    found = run(*mistakes)
    for message in mistakes.values():
        assert any(message in problem for problem in found.problems), (message, found.problems)


UNCOMPOSED = {  # what Hydra says, in one line, with the key that was meant
    "mistyped key": (["actor_rollout_ref.rollout.temprature=1"], "did you mean actor_rollout_ref.rollout.temperature?"),
    "mistyped folder": (["trainer.n_gpu_per_node='a b'"], "did you mean trainer.n_gpus_per_node?"),
    "key of nobody": (["trainer.zzqq.xx=1"], "To append to your config use +trainer.zzqq.xx=1"),
    "unknown config group": (["+visionr1@_global_=nope"], "Available options in 'visionr1'"),
    "no override": (["foo"], "Error parsing override 'foo' missing EQUAL"),
    "nothing to delete": (["~trainer.nope"], "Could not delete from config. 'trainer.nope' does not exist"),
    "reference to nothing": (["data.val_files=${nothing.here}"], "Interpolation key 'nothing.here' not found"),
    "a key that verl needs": (["~data.train_batch_size"], "data.train_batch_size: not in the config"),
}


@pytest.mark.parametrize(("overrides", "message"), UNCOMPOSED.values(), ids=UNCOMPOSED)
def test_a_command_line_that_does_not_compose(overrides: list[str], message: str) -> None:
    from verl_visionr1.runtime.dry_run import dry_run

    (problem,) = dry_run(overrides).problems
    assert message in problem
    assert "\n" not in problem
    assert not ("did you mean" in problem and "To append" in problem)


BAD = {
    "key of a record": (["+algorithm.adv_estimater=rloo"], "unexpected keyword argument 'adv_estimater'"),
    "key of a model": (["+actor_rollout_ref.model.lora_ranks=64"], "actor_rollout_ref.model.lora_ranks: verl has no"),
    # verl's own checks.
    "loss that verl does not have": (["actor_rollout_ref.actor.loss_agg_mode=x"], "verl: Invalid loss_agg_mode: x"),
    "batch not divisible": (
        [
            *FIXED,
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
            "data.train_batch_size=3",
            "actor_rollout_ref.actor.ppo_mini_batch_size=3",
            "trainer.n_gpus_per_node=7",
        ],
        "verl: real_train_batch_size (24) must be divisible by minimal possible batch size (7)",
    ),
    "no micro-batch": (
        [f"{DYNAMIC}=false"],
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=null: needs a number",
    ),
    "a LoRA rank that vLLM lacks": (
        ["actor_rollout_ref.model.lora_rank=1000"],
        "verl: lora_rank must be less than or equal to",
    ),
    "no engine": (["actor_rollout_ref.rollout.name=null"], "actor_rollout_ref.rollout.name: needs a value"),
    "a gate of the V0 trainer": (
        ["trainer.use_v1=false", f"{SETTINGS}.schedule.kind=gated", f"++{SETTINGS}.schedule.gate={{bar:0.5}}"],
        "schedule.kind=gated: trainer.use_v1=false",
    ),
    "KL without its micro-batch": (
        [*FIXED, "actor_rollout_ref.actor.use_kl_loss=true", "actor_rollout_ref.ref.log_prob_use_dynamic_bsz=false"],
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=null: needs a number",
    ),
    # What the V1 trainer would find out minutes later.
    "mini-batch not divisible": (
        ["actor_rollout_ref.rollout.n=5", "actor_rollout_ref.actor.ppo_mini_batch_size=6"],
        "= 30 answers: need a multiple of 8",
    ),
    "micro-batch not divisible": (
        [*FIXED, "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=24"],
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=24: a worker's 512 answers need to be a multiple",
    ),
    "two kinds of batches": (
        ["actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=false"],
        "log_prob_use_dynamic_bsz=False: must equal actor_rollout_ref.actor.use_dynamic_bsz=True",
    ),
    "a number for loggers": (["trainer.logger=-1"], "trainer.logger=-1: needs a list"),
    "a number for a section": (["data.mm_processor_kwargs=3"], "data.mm_processor_kwargs=3: needs keys below it"),
    "nothing but no validation": (["trainer.val_only=true", "trainer.val_before_train=false"], "trainer.val_only"),
    "unknown trainer": (["trainer.v1.trainer_mode=sink"], "trainer.v1.trainer_mode=sink: Unknown trainer 'sink'"),
    "unknown estimator": (["algorithm.adv_estimator=grppo"], "algorithm.adv_estimator=grppo: needs one of gae"),
    # The plug-in's own.
    "gate without the callback": (
        [
            f"{SETTINGS}.schedule.kind=gated",
            f"++{SETTINGS}.schedule.gate={{bar:0.5}}",
            "actor_rollout_ref.rollout.agent.agent_loop_manager_class=null",
        ],
        "schedule.kind=gated: needs the progress callback",
    ),
    "no checkpoint callback": (
        ["trainer.checkpoint_callback_class=null"],
        "trainer.checkpoint_callback_class=null: the progress",
    ),
    "callback that is not there": (
        ["trainer.checkpoint_callback_class=verl_visionr1.plugin.progress.Nope"],
        "trainer.checkpoint_callback_class=verl_visionr1.plugin.progress.Nope: ",
    ),
    "unknown reward manager": (
        ["reward.reward_manager.name=visionr0"],
        "reward.reward_manager: Unknown reward manager",
    ),
    "CPU without its platform": (["trainer.device=cpu"], "trainer.device=cpu: verl reads the variable VERL_PLATFORM"),
}


@pytest.mark.parametrize(("overrides", "message"), BAD.values(), ids=BAD)
def test_each_mistake_is_one_line(overrides: list[str], message: str) -> None:
    found = run(*overrides)
    assert any(message in problem for problem in found.problems), found.problems
    assert all("\n" not in problem for problem in found.problems)
    assert not found.is_fine


FINE = {
    "LoRA, KL and a gate": [
        *("actor_rollout_ref.model.lora_rank=64", "actor_rollout_ref.model.exclude_modules='.*visual.*'"),
        *("actor_rollout_ref.actor.use_kl_loss=true", f"{SETTINGS}.schedule.kind=gated"),
        f"++{SETTINGS}.schedule.gate={{bar:0.5}}",
    ],
    "filtered groups, sampling, a band, own keys": [
        *("algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=f1_50", "+trainer.mine=1"),
        *("actor_rollout_ref.rollout.temperature=0.8", "actor_rollout_ref.rollout.top_p=0.9"),
        "algorithm.rollout_correction.rollout_is_threshold='0.5_2.0'",
        "++data.mm_processor_kwargs={min_pixels:3136,max_pixels:401408}",
    ],
    "asynchronous, fixed micro-batches, no rule, no filter": [
        *FIXED,
        *("actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16", "algorithm.filter_groups=null"),
        *("trainer.v1.trainer_mode=colocate_async", "trainer.v1.colocate_async.num_warmup_batches=1.5"),
        f"{SETTINGS}.schedule.kind=off",
    ],
    "verl's own reward": ["reward.reward_kwargs=null", "reward.reward_manager.name=naive"],
}


@pytest.mark.parametrize("overrides", FINE.values(), ids=FINE)
def test_what_a_run_may_say(overrides: list[str]) -> None:
    assert run(*overrides).problems == ()


THRESHOLDS = {  # overrides -> thresholds of a run of 100 steps, what the reason names
    "another family": (["actor_rollout_ref.model.path=Qwen/Qwen3-VL-8B-Instruct"], "from step 51", "Table 5"),
    "the key that changes it": ([f"{SETTINGS}.schedule.at=0.5"], "from step 51", None),
    "a family that is not known yet": (["actor_rollout_ref.model.path=me/mine"], "from step 51", "when the run starts"),
}


@pytest.mark.parametrize(("overrides", "start", "reason"), THRESHOLDS.values(), ids=THRESHOLDS)
def test_default_thresholds_are_told_with_their_reason(overrides: list[str], start: str, reason: str | None) -> None:
    summary = dict(run(*overrides).summary)
    told = f"0.5/0.5/0.75 from step 1, 0.75/0.75/0.9 {start} (match IoU / floor / full)"
    assert summary["thresholds"] == told
    assert (reason is None) == ("" not in summary)
    assert reason is None or reason in summary[""]


def test_the_summary_follows_the_settings() -> None:
    gated = dict(run(f"{SETTINGS}.schedule.kind=gated", f"++{SETTINGS}.schedule.gate={{bar:0.5}}").summary)
    assert gated["thresholds"].startswith("gated on ")
    never = dict(run(f"{SETTINGS}.schedule.at=1.0", "actor_rollout_ref.actor.use_kl_loss=true").summary)
    assert "0.75/0.75/0.9 not reached" in never["thresholds"]
    short = run(f"{SETTINGS}.schedule.at=0.9", "trainer.total_training_steps=5")
    assert "0.75/0.75/0.9 not reached in this run" in dict(short.summary)["thresholds"]
    assert any(note.startswith("stage 1 (0.75/0.75/0.9) is not reached in this run of 5 steps") for note in short.notes)
    assert "KL 0.001 (low_var_kl) in the loss" in never["algorithm"]
    routed = [
        text for label, text in run(f"++{SETTINGS}.routes.task={{counting:counting}}").summary if label == "reward"
    ]
    assert [text.partition(":")[0] for text in routed] == ["visionr1", "counting"]
    assert routed[1].endswith("(for task counting)")


def test_a_cpu_run_and_its_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = ("+visionr1@_global_=[progressive,cpu]", "trainer.device=cpu")
    small = ("trainer.n_gpus_per_node=1", "actor_rollout_ref.rollout.max_model_len=1024")
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    from verl_visionr1.runtime.dry_run import dry_run

    assert dry_run([cpu[0], *GOOD[1:], *small], data_later=True).problems == ()
    found = run()
    assert any("VERL_PLATFORM=cpu: trainer.device is cuda" in problem for problem in found.problems), found.problems


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The tiny model without its weights, as a folder to change."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in TINY.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_local_model_is_looked_at(model: Path) -> None:
    path = f"actor_rollout_ref.model.path={model}"
    found = run(path)
    assert found.problems == ()
    assert not [note for note in found.notes if "hub name" in note or "frame=auto" in note]
    parallel = run(path, "actor_rollout_ref.rollout.tensor_model_parallel_size=8").problems
    assert any("needs a divisor of the model's 3 attention heads" in problem for problem in parallel), parallel
    too_long = run(path, "actor_rollout_ref.rollout.max_model_len=99999999").problems
    assert any("max_position_embeddings" in problem for problem in too_long), too_long
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["A", "B"]}))
    broken = run(path).problems
    assert any("actor_rollout_ref.model: Expect only one architecture" in problem for problem in broken), broken


def test_a_model_without_its_processor(model: Path) -> None:
    (model / "preprocessor_config.json").unlink(missing_ok=True)
    (model / "processor_config.json").write_text("")  # an interrupted copy
    for _ in range(2):
        found = run(f"actor_rollout_ref.model.path={model}").problems
        assert any(f"{model}: no readable preprocessor_config.json" in problem for problem in found), found
        (model / "processor_config.json").unlink(missing_ok=True)
    for content in ("{", "[]"):
        (model / "config.json").write_text(content)
        assert not run(f"actor_rollout_ref.model.path={model}").is_fine


def test_rows_of_a_run_without_the_plug_in_are_its_own(tmp_path: Path) -> None:
    """A run with verl's own reward: its ground truth is no target."""
    row = {"prompt": [{"role": "user", "content": "1 + 1?"}], "reward_model": {"ground_truth": "2"}, "data_source": "x"}
    file = write(tmp_path / "geo3k.parquet", [row] * 512)
    files = (f"data.train_files={file}", f"data.val_files={file}", "trainer.total_epochs=100")
    own = ("reward.reward_kwargs=null", "reward.reward_manager.name=naive")
    assert run(*files, *own, data_later=False).problems == ()
    assert any("reward_model.g" in problem for problem in run(*files).problems)


def test_data_that_is_not_here_stops_a_run() -> None:
    found = run("data.val_files=[/no/val.parquet,s3://far/away.parquet]", data_later=False)
    assert [problem.partition(";")[0] for problem in found.problems] == [
        "data.train_files=/no/train.parquet: no such file",
        "data.val_files=/no/val.parquet: no such file",
    ]
    nothing = run("data.train_files=[]", "data.val_files=null", data_later=False)
    assert [problem.partition(":")[0] for problem in nothing.problems] == ["data.train_files", "data.val_files"]


def test_data_that_is_here_is_read(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"reward_model": [{"ground_truth": "no JSON"}], "data_source": ["x"]}), file)
    found = run(f"data.train_files={file}", "trainer.total_training_steps=null", "trainer.total_epochs=1000")
    assert any(f"{file}: row 0: reward_model.g" in problem for problem in found.problems), found.problems
    assert dict(found.summary)["train data"] == f"{file} (1 rows)"


def test_a_reward_function_that_nobody_asks_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def compute_score(**kwargs):\n    return 0.0\n")
    found = run(f"reward.custom_reward_function.path={file}")
    assert any(note.startswith(f"reward.custom_reward_function.path={file}: ignored") for note in found.notes)


def test_steps_are_counted_in_the_data(tmp_path: Path) -> None:
    from verl_visionr1.runtime.summary import steps_of

    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"prompt": ["x"] * 1100}), file)
    config = run(f"data.train_files={file}", "trainer.total_training_steps=null", "trainer.total_epochs=3").config
    assert config is not None
    assert steps_of(config) == 6


def test_hydra_is_left_as_it_was_found() -> None:
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from verl_visionr1.runtime.composing import composed

    with initialize_config_module("verl.trainer.config", version_base=None):
        mine = GlobalHydra.instance().hydra
        composed(["trainer.nnodes=1"])
        assert GlobalHydra.instance().hydra is mine
    assert not GlobalHydra.instance().is_initialized()


def plan_of(*words: str) -> list[str]:
    lengths = ("--max-prompt", "1024", "--max-response", "512", "--rollout-n", "8", "--train-batch", "512")
    done = CliRunner().invoke(app, ["plan", *words, *lengths, "--overrides"])
    assert done.exit_code == 0, done.stderr
    return [*done.stdout.splitlines(), "data.max_prompt_length=1024", "data.max_response_length=512"]


PLANS = {
    "7B on 8": (("--params", "8.29e9", "--gpus", "8", "--kl"), ["actor_rollout_ref.actor.use_kl_loss=true"]),
    "7B with LoRA on 1": (("--params", "8.29e9", "--gpus", "1", "--lora", "64"), []),
    "7B on 8 x 24, frozen": (("--params", "8.29e9", "--gpus", "8", "--gpu-memory", "24", "--freeze-vision"), []),
}


@pytest.mark.parametrize(("words", "more"), PLANS.values(), ids=PLANS)
def test_what_visionr1_plan_prints_composes(words: tuple[str, ...], more: list[str]) -> None:
    assert run(*plan_of(*words), *more).problems == ()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit codes, the whole config as YAML on standard output, and nothing written."""
    monkeypatch.chdir(tmp_path)
    good = CliRunner().invoke(app, ["dry-run", *GOOD, "--yaml", "--data-later"])
    assert good.exit_code == 0, good.stderr
    assert "\n  train_batch_size: 512\n" in good.stdout
    assert "checks" in good.stderr
    bad = CliRunner().invoke(app, ["dry-run", *GOOD, "trainer.nnodes=two"])
    assert bad.exit_code == 1
    assert bad.stderr == "visionr1 dry-run: trainer.nnodes=two: needs a number (verl's default: 1)\n"
    assert list(tmp_path.iterdir()) == []
