"""recipes/launch.sh: what verl is told."""

from __future__ import annotations

import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from launcher import Launcher

SDPA = {
    "actor_rollout_ref.model.use_remove_padding=False",
    "++actor_rollout_ref.model.override_config.attn_implementation=sdpa",
}


@pytest.mark.parametrize(
    ("has_flash", "environment", "expected"),
    [
        (True, {}, "flash"),
        (False, {}, "sdpa"),
        (True, {"ATTENTION": "sdpa"}, "sdpa"),
        (True, {"ATTENTION": "flash"}, "flash"),
    ],
)
def test_attention_is_what_is_installed(
    launcher: Launcher, has_flash: bool, environment: dict[str, str], expected: str
) -> None:
    if has_flash:
        (launcher.root / "bin" / "has_flash_attn").touch()
    done = launcher(**environment)
    assert SDPA & set(launcher.overrides) == (SDPA if expected == "sdpa" else set())
    said = [line for line in done.stderr.splitlines() if line.startswith("attention: ")]
    assert len(said) == (expected == "sdpa" and not environment)
    assert all("--flash" in line for line in said)
    launcher("--fresh", PARAMS="8e9", **environment)
    ((planned, _),) = launcher.called("visionr1", "plan")
    assert planned[planned.index("--attention") + 1] == expected
    assert not SDPA & set(launcher.overrides), "the plan says it"


@pytest.mark.parametrize("words", [("--print-command",), ("--dry-run",), ()])
def test_flash_is_installed_for_training_only_and_never_without_setup(
    launcher: Launcher, words: tuple[str, ...]
) -> None:
    done = launcher("--flash", *words)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("environment: ")]
    assert len(said) == (not words)
    assert all("VISIONR1_SKIP_SETUP=1" in line for line in said)


@pytest.mark.parametrize(
    ("settings", "attention"),
    [
        ("VISIONR1_SKIP_SETUP=0 LAUNCH_FLASH=yes LAUNCH_MODE=print-command", "flash"),
        ("VISIONR1_SKIP_SETUP=1 LAUNCH_FLASH=yes LAUNCH_MODE=print-command", "sdpa"),
        ("VISIONR1_SKIP_SETUP=0 LAUNCH_FLASH= LAUNCH_MODE=print-command", "sdpa"),
        ("VISIONR1_SKIP_SETUP=0 LAUNCH_FLASH=yes LAUNCH_MODE=train", "sdpa"),
    ],
)
def test_a_printed_command_has_the_attention_that_the_run_would_install(
    launcher: Launcher, settings: str, attention: str
) -> None:
    command = f"PLATFORM=cuda ATTENTION= {settings}; launch_attention; echo $ATTENTION"
    assert launcher.shell(command).stdout.strip() == attention


def test_the_plan_is_asked_about_this_run(launcher: Launcher) -> None:
    settings = {"PARAMS": "8e9", "VISION_PARAMS": "1e9", "HOST_MEMORY": "300", "GPU_MEMORY": "40", "TRAIN_BATCH": "64"}
    pixels = {"MIN_PIXELS": "784", "MAX_PIXELS": "7840", "MAX_PROMPT": "500", "MAX_RESPONSE": "200", "ROLLOUT_N": "4"}
    launcher("--gpus=2", "--lora=32", "--freeze-vision", "--kl=0.1", **settings, **pixels)
    ((words, _),) = launcher.called("visionr1", "plan")
    flags = {"--freeze-vision", "--kl", "--overrides"}
    values = dict(pairwise(words))
    assert flags <= set(words)
    expected = {"--params": "8e9", "--vision-params": "1e9", "--gpus": "2", "--nodes": "1", "--gpu-memory": "40"}
    expected |= {"--host-memory": "300", "--max-prompt": "500", "--max-response": "200", "--rollout-n": "4"}
    expected |= {"--train-batch": "64", "--lora": "32", "--image-tokens": "10"}
    assert {name: values.get(name) for name in expected} == expected
    assert "planned=yes" in launcher.overrides
    launcher("--fresh", "--kl=off", PARAMS="8e9")
    ((words, _),) = launcher.called("visionr1", "plan")
    assert not {"--kl", "--lora", "--freeze-vision", "--host-memory", "--image-tokens"} & set(words)


ACTOR = "actor_rollout_ref.actor"
OPTIONS = {
    # words -> overrides that are there; keys that are not
    "lr": ((), {f"{ACTOR}.optim.lr=1e-6", f"{ACTOR}.use_kl_loss=False"}, {"actor_rollout_ref.model.lora_rank"}),
    "lora": (
        ("--lora=8",),
        {f"{ACTOR}.optim.lr=1e-5", "actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.lora_alpha=16"},
        set(),
    ),
    "kl": (("--kl", "0.2"), {f"{ACTOR}.use_kl_loss=True", f"{ACTOR}.kl_loss_coef=0.2"}, set()),
    "no kl": (("--kl=off",), {f"{ACTOR}.use_kl_loss=False"}, {f"{ACTOR}.kl_loss_coef"}),
    "kl 0": (("--kl=0.0",), {f"{ACTOR}.use_kl_loss=False"}, {f"{ACTOR}.kl_loss_coef"}),
    "sequences": (("--loss=sequence-mean",), {f"{ACTOR}.loss_agg_mode=seq-mean-token-mean"}, set()),
    "gpus": (("--gpus=4",), {"trainer.n_gpus_per_node=4"}, set()),
    "groups": (("--filter-groups",), {"algorithm.filter_groups.metric=reward", "data.gen_batch_size=1"}, set()),
    "frozen": (
        ("--freeze-vision",),
        {"actor_rollout_ref.model.external_lib=verl_visionr1.runtime.frozen_vision"},
        set(),
    ),
    "own rows": (
        ("--train", "a.parquet,/b.parquet", "--val=s3://c.parquet"),
        {"data.train_files=[HERE/a.parquet,/b.parquet]", "data.val_files=s3://c.parquet"},
        set(),
    ),
    "own rows, listed": (("--train=[a.parquet,/b.parquet]",), {"data.train_files=[HERE/a.parquet,/b.parquet]"}, set()),
}


@pytest.mark.parametrize(("words", "there", "not_there"), OPTIONS.values(), ids=OPTIONS)
def test_options_become_overrides(
    launcher: Launcher, words: tuple[str, ...], there: set[str], not_there: set[str]
) -> None:
    done = launcher("--print-command", *words, TRAIN_FILES="other.parquet" if "--train" in words else "")
    overrides = shlex.split(done.stdout)
    assert {word.replace("HERE", str(launcher.root)) for word in there} <= set(overrides)
    assert not_there & {word.partition("=")[0] for word in overrides} == set()
    assert len({word.partition("=")[0] for word in overrides if "=" in word}) == len([w for w in overrides if "=" in w])


def test_the_printed_command_is_the_one_that_runs(launcher: Launcher) -> None:
    awkward = "reward.reward_kwargs.note='it''s $HOME and \"more\" {a: 1}'"
    printed = launcher("--print-command", awkward)
    assert printed.returncode == 0
    assert not launcher.run_dir.exists()
    subprocess.run(["bash", "-c", printed.stdout], check=True, env=launcher.command(), timeout=60)
    ((by_hand, environment),) = launcher.called("python", "verl.trainer.main_ppo")
    assert Path(environment["VERL_FILE_LOGGER_PATH"]).parent.is_dir()
    launcher(awkward)
    ((words, by_launcher),) = launcher.called("python", "verl.trainer.main_ppo")
    assert by_hand == words
    assert awkward in words
    for name in ("PYTHONUNBUFFERED", "TOKENIZERS_PARALLELISM", "VLLM_NO_USAGE_STATS", "HYDRA_FULL_ERROR"):
        assert environment[name] == by_launcher[name]


def test_a_dry_run_checks_the_same_and_writes_nothing(launcher: Launcher) -> None:
    launcher("trainer.nnodes=1")
    trained = launcher.overrides
    launcher.run_dir.rename(launcher.root / "gone")
    done = launcher("--dry-run", "trainer.nnodes=1", DATA_DIR=str(launcher.root / "data"))
    assert done.returncode == 0
    ((words, _),) = launcher.called("visionr1", "dry-run")
    assert words[1:] == ["--data-later", *trained]
    assert launcher.trained == 0
    assert not launcher.run_dir.exists()


@pytest.mark.parametrize(("model", "offline"), [("model", "1"), ("Qwen/Qwen2-VL-7B-Instruct", None)])
def test_a_local_model_asks_no_hub(launcher: Launcher, model: str, offline: str | None) -> None:
    if "/" not in model:
        model = str(launcher.root / model)
    launcher(MODEL_PATH=model)
    ((_, environment),) = launcher.called("python", "verl.trainer.main_ppo")
    assert environment.get("HF_HUB_OFFLINE") == offline


def test_processes_of_a_running_cluster_are_told_the_environment(launcher: Launcher) -> None:
    launcher(RAY_ADDRESS="10.0.0.1:6379")
    prefix = "++ray_kwargs.ray_init.runtime_env.env_vars."
    told = [word.removeprefix(prefix).split("=")[0] for word in launcher.overrides if word.startswith(prefix)]
    assert {"VERL_FILE_LOGGER_PATH", "PYTHONUNBUFFERED", "VLLM_NO_USAGE_STATS", "HF_HUB_OFFLINE"} <= set(told)
    assert "+visionr1@_global_=[progressive,checks,watchdog,replace_workers,gallery,cluster]" in launcher.overrides
    launcher(RUN_DIR=str(launcher.root / "other"))
    assert not [word for word in launcher.overrides if word.startswith(prefix)]


WORDS = {
    "a rank by default": ("--lora", "LORA", "64", ""),
    "a rank": ("--lora 16", "LORA", "16", ""),
    "no rank, but an override": ("--lora trainer.nnodes=1", "LORA", "64", "trainer.nnodes=1"),
    "a wheel": ("--flash a.whl trainer.nnodes=1", "LAUNCH_FLASH", "a.whl", "trainer.nnodes=1"),
    "no wheel, but an override": ("--flash trainer.nnodes=1", "LAUNCH_FLASH", "yes", "trainer.nnodes=1"),
    "a metric": ("--filter-groups f1_50", "FILTER_GROUPS", "f1_50", ""),
    "no metric, but an override": ("--filter-groups trainer.nnodes=1", "FILTER_GROUPS", "reward", "trainer.nnodes=1"),
    "a value of its own word": ("--kl off trainer.nnodes=1", "KL_COEF", "off", "trainer.nnodes=1"),
}


@pytest.mark.parametrize(("words", "name", "value", "overrides"), WORDS.values(), ids=WORDS)
def test_the_value_of_an_option_may_be_a_word_of_its_own(
    launcher: Launcher, words: str, name: str, value: str, overrides: str
) -> None:
    done = launcher.shell(f'launch_options {words}; printf "%s|%s" "${name}" "${{LAUNCH_OVERRIDES[*]}}"')
    assert done.stdout == f"{value}|{overrides}"


def test_the_command_that_makes_a_data_file_names_it(launcher: Launcher) -> None:
    made = "train_data a.parquet coco.py 'my images' OUT --task both; echo \"${LAUNCH_COMMANDS[$DATA_DIR/a.parquet]}\""
    words = launcher.shell(made).stdout.split()
    assert words[0] == "python"
    assert words[1].endswith("/data_preprocess/coco.py")
    assert words[2:] == ["'my", "images'", f"{launcher.root}/data/a.parquet", "--task", "both"]


@pytest.mark.parametrize(
    ("platform", "model", "is_there", "is_made"),
    [("cpu", "run", False, True), ("cpu", "run", True, False), ("cpu", "other", False, False), ("cuda", "run", 0, 0)],
)
def test_a_tiny_model_is_made_once_and_only_in_the_run_folder(
    launcher: Launcher, platform: str, model: str, is_there: bool, is_made: bool
) -> None:
    folder = launcher.root / model / "model"
    if is_there:
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
    launcher.shell(f"PLATFORM={platform} FAMILY=qwen2-vl MODEL_PATH={folder}; launch_make_model")
    assert [words[1:] for _, words, _ in launcher.calls] == [["random-qwen2-vl", str(folder)]] * is_made


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_only_on_a_cpu_is_verl_told_its_platform(launcher: Launcher, platform: str) -> None:
    done = launcher.shell(f'PLATFORM={platform}; launch_platform; env; echo "${{CONFIG[*]}}"')
    assert ("VERL_PLATFORM=cpu" in done.stdout.splitlines()) == (platform == "cpu")
    assert ("limit_mm_per_prompt={image:1,video:0}" in done.stdout) == (platform == "cuda")
    assert ("data.val_batch_size=256" in done.stdout) == (platform == "cpu")
