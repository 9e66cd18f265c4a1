"""Every recipe explains itself, and tells verl what verl takes; the training runs are in test_end_to_end.py."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from verl_visionr1.cli import app

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.sh") if 'launch "$@"' in path.read_text().splitlines()[-1])
TINY = ROOT / "recipes" / "tiny_visionr1_cpu.sh"
REC = ROOT / "recipes" / "qwen2_5vl_3b_vlmr1_rec.sh"
SHIPPED = ROOT / "recipes" / "tiny" / "qwen3_vl_scenes"
by_name = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def bash(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "VISIONR1_SKIP_SETUP": "1", "PATH": path, **environment},
    )


PLANNER = """#!/bin/sh
key=$(printf '%s ' "$@" | md5sum | cut -c 1-32)
cat "$PLANS/$key" 2>/dev/null || printf '%s\\n' "$@" >"$PLANS/asked"
"""


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `visionr1` that knows the plans in it: to start Python for each takes seconds."""
    folder = tmp_path_factory.mktemp("plans")
    (folder / "visionr1").write_text(PLANNER)
    (folder / "visionr1").chmod(0o755)
    return folder


def printed(plans: Path, recipe: Path, *words: str, **environment: str) -> list[str]:
    """Overrides of the command that the recipe would run."""
    environment |= {"PATH": f"{plans}:{Path(sys.executable).parent}:{os.environ['PATH']}", "PLANS": str(plans)}
    done = bash(recipe, "--print-command", *words, **environment)
    asked = plans / "asked"
    if asked.exists():  # the plan is made here, and the recipe runs again
        arguments = asked.read_text().splitlines()
        plan = CliRunner().invoke(app, arguments)
        assert plan.exit_code == 0, plan.stderr
        key = hashlib.md5("".join(f"{word} " for word in arguments).encode()).hexdigest()
        (plans / key).write_text(plan.stdout)
        asked.unlink()
        done = bash(recipe, "--print-command", *words, **environment)
    assert done.returncode == 0, done.stderr
    lines = shlex.split(done.stdout.replace("\\\n", ""))
    assert lines[:2] == ["mkdir", "-p"]
    start = lines.index("python")
    assert lines[start : start + 3] == ["python", "-m", "verl.trainer.main_ppo"]
    return lines[start + 3 :]


def test_there_are_recipes() -> None:
    assert [path.name for path in RECIPES] == [
        "qwen2_5vl_3b_counting.sh",
        "qwen2_5vl_3b_vlmr1_ovd.sh",
        "qwen2_5vl_3b_vlmr1_rec.sh",
        "qwen2_5vl_7b_visionr1.sh",
        "qwen2vl_7b_visionr1.sh",
        "qwen3_5_9b_visionr1.sh",
        "qwen3vl_8b_visionr1.sh",
        "tiny_visionr1_cpu.sh",
    ]


def test_each_has_its_entry() -> None:
    entries = (ROOT / "docs" / "reference" / "recipes.md").read_text()
    assert [path.name for path in RECIPES if f"### `{path.name}`" not in entries] == []


@by_name
def test_help_explains_the_knobs(recipe: Path) -> None:
    done = bash(recipe, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for knob in ("RUN_DIR", "TOTAL_STEPS", "STAGES", "WEIGHTS", "SEED", "--fresh", "--lora", "--dry-run"):
        assert knob in done.stdout
    assert done.stdout.startswith(recipe.read_text().splitlines()[1].removeprefix("# "))
    assert "set -euo" not in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frsh"], "unknown option --frsh; see --help"),
        (["--fresh=1"], "unknown option --fresh=1; see --help"),
        (["--gpus"], "--gpus needs a value; see --help"),
        (["--gpus="], "--gpus needs a value; see --help"),
        (["--gpus", "--dry-run"], "--gpus needs a value; see --help"),
        (["--val", "--dry-run"], "--val needs a value; see --help"),
        (["--train", "", "--dry-run"], "--train needs a value; see --help"),
        (["--train="], "--train needs a value; see --help"),
        (["--val=--dry-run"], "--val needs a value; see --help"),
        (["--val=[]"], "--val=[]: needs FILE[,FILE]; a name is empty"),
        (["--train=a.parquet,"], "--train=a.parquet,: needs FILE[,FILE]; a name is empty"),
        (["--lora="], "--lora needs a value; see --help"),
        (["--filter-groups="], "--filter-groups needs a value; see --help"),
        (["--flash="], "--flash needs a value; see --help"),
        (["--gpus", "3"], "GPUS=3: needs 1, 2, 4 or 8 on each node"),
        (["--nodes=0"], "NODES=0: needs a whole number above 0"),
        (["--lora=x"], "LORA=x: needs a rank, or 0 for none"),
        (["--kl", "much"], "KL_COEF=much: needs a number, or off"),
        (["--loss", "mean"], "LOSS=mean: needs token-mean or sequence-mean"),
    ],
)
def test_a_mistyped_option_is_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    done = bash(REC, *words, RUN_DIR=str(tmp_path / "run"))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {message}\n")
    assert not (tmp_path / "run").exists()


WHOLE, POSITIVE = "a whole number above 0", "a number above 0"
NUMBERS = {
    WHOLE: {
        "TOTAL_STEPS": ("abc", "-1", "1.5"), "TRAIN_BATCH": ("x",), "MINI_BATCH": ("0",), "MICRO_BATCH": ("0",),
        "ROLLOUT_N": ("0",), "MAX_PROMPT": ("abc",), "MAX_RESPONSE": ("1e3",), "MAX_PIXELS": ("4e5",),
        "MIN_PIXELS": ("0",), "PATCH_PIXELS": ("0",), "TRAIN_SCENES": ("many",), "VAL_SCENES": ("0",),
        "OBJECTS_MIN": ("0",), "OBJECTS_MAX": ("x",),
    },
    f"{WHOLE}, or -1 for never": {"SAVE_FREQ": ("0", "-2"), "TEST_FREQ": ("x",)},
    "a whole number": {"SEED": ("-1",)},
    POSITIVE: {
        "LR": ("0", "1e", "1.2.3"), "LORA_LR": ("-1e-5",), "TEMPERATURE": ("0.0",), "PARAMS": ("7B",),
        "VISION_PARAMS": ("x",), "GPU_MEMORY": ("80GB",), "HOST_MEMORY": ("x",),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "needs"),
    [(name, value, needs) for needs, each in NUMBERS.items() for name, values in each.items() for value in values],
)
def test_a_wrong_number_is_one_line(name: str, value: str, needs: str) -> None:
    done = bash(REC, "--print-command", **{name: value})
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {name}={value}: needs {needs}\n")


@pytest.mark.parametrize(
    "settings",
    [
        {"SAVE_FREQ": "-1", "TEST_FREQ": "-1", "SEED": "0", "LR": "1.5e-4", "TEMPERATURE": ".5", "PARAMS": ""},
        {"LR": "0.00001", "LORA_LR": "1E-5", "TEMPERATURE": "1.", "MIN_PIXELS": "", "MAX_PIXELS": "", "PARAMS": ""},
    ],
)
def test_right_numbers_are_taken(settings: dict[str, str]) -> None:
    done = bash(REC, "--print-command", **settings)
    assert (done.returncode, "error" in done.stderr) == (0, False)


def test_one_budget_of_pixels_alone_is_refused() -> None:
    done = bash(REC, "--print-command", MIN_PIXELS="")
    assert done.returncode == 1
    assert done.stderr.startswith("error: MIN_PIXELS=, MAX_PIXELS=1003520: needs both or none")


def test_nodes_need_a_cluster(tmp_path: Path) -> None:
    done = bash(REC, "--nodes", "2", RUN_DIR=str(tmp_path), TRAIN_FILES=__file__, VAL_FILES=__file__, RAY_ADDRESS="")
    assert done.returncode == 1
    assert done.stderr.startswith("error: NODES=2: needs a Ray cluster that runs already")


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    small = {"RUN_DIR": str(tmp_path), "TRAIN_SCENES": "4", "VAL_SCENES": "2", "MODEL_PATH": str(tmp_path / "nothing")}
    done = bash(TINY, **small)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: MODEL_PATH={tmp_path}/nothing: no config.json")


# ---------------------------------------------------------------------------------------------------------------- data


def test_missing_data_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    done = bash(REC, RUN_DIR=str(tmp_path), DATA_DIR=str(tmp_path / "my data"))
    assert done.returncode == 1
    first, command, *_, last = done.stderr.splitlines()
    assert first == f"error: data file {tmp_path}/my data/refcoco_train.parquet does not exist; this makes it:"
    assert f"'{tmp_path}/my data/refcoco_train.parquet' --split train" in command
    assert re.search(r"--train FILE.* --val FILE", last)


@pytest.mark.parametrize("recipe", [path for path in RECIPES if path != TINY], ids=lambda path: path.stem)
def test_data_commands_are_understood(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converters take their arguments and flags; then they miss the data set, and say which file."""
    monkeypatch.chdir(tmp_path)
    commands = bash(recipe, "--data", DATA_DIR=str(tmp_path / "data")).stdout.splitlines()
    assert len(commands) >= 2
    for command in commands:
        python, script, *words = shlex.split(command.replace("*", "0"))
        assert python == "python"
        assert Path(script).parent == ROOT / "data_preprocess"
        done = CliRunner().invoke(app, ["convert", Path(script).stem, *words])
        assert done.exit_code == 2, done.output
        assert re.match(rf"error: {tmp_path}/data/\S+: .*\w+", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- configuration


@dataclass(frozen=True)
class Case:
    """A command line and what verl has to make of it."""

    recipe: str
    words: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    expected: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.recipe, *self.words, *self.environment])


ACTOR, MODEL, ROLLOUT = (f"actor_rollout_ref.{part}" for part in ("actor", "model", "rollout"))
VISIONR1 = "reward.reward_kwargs.visionr1"
CPU = {"PROFILE": "cpu", "MODEL_PATH": str(SHIPPED)}
PAPER = {
    "data.train_batch_size": 16,
    f"{ROLLOUT}.n": 4,
    f"{ACTOR}.optim.lr": 1e-6,
    f"{ACTOR}.kl_loss_coef": 0.2,
    f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean",
    "trainer.total_training_steps": 3062,
    "trainer.n_gpus_per_node": 8,
    "data.mm_processor_kwargs.max_pixels": 401408,
}
CASES = [
    Case("qwen2vl_7b_visionr1", expected={**PAPER, f"{VISIONR1}.schedule.at": 0.5}),
    Case("qwen2_5vl_7b_visionr1", expected={**PAPER, f"{VISIONR1}.schedule.kind": "constant"}),
    Case("qwen3vl_8b_visionr1", expected={**PAPER, f"{VISIONR1}.schedule.kind": "staged"}),
    Case(
        "qwen3_5_9b_visionr1",
        expected={
            **PAPER,
            f"{VISIONR1}.schedule.kind": "staged",
            "data.apply_chat_template_kwargs.enable_thinking": False,
        },
    ),
    Case("qwen2_5vl_3b_vlmr1_rec", expected={f"{VISIONR1}.criteria.think.weight": 0.5, f"{ROLLOUT}.temperature": 0.9}),
    Case("qwen2_5vl_3b_vlmr1_ovd", expected={f"{VISIONR1}.preset": "vlmr1-ovd", f"{ACTOR}.use_kl_loss": False}),
    Case("qwen2_5vl_3b_counting", expected={f"{VISIONR1}.preset": "counting", f"{ACTOR}.use_kl_loss": True}),
    Case(
        "qwen2_5vl_3b_vlmr1_rec",
        ("--lora", "--kl=off"),
        expected={
            f"{MODEL}.lora_rank": 64,
            f"{MODEL}.lora_alpha": 128,
            f"{MODEL}.exclude_modules": ".*visual.*",
            f"{ROLLOUT}.load_format": "safetensors",
            f"{ACTOR}.optim.lr": 1e-5,
            f"{ACTOR}.use_kl_loss": False,
        },
    ),
    Case("qwen2_5vl_7b_visionr1", ("--lora=32", "--gpus", "1"), expected={f"{MODEL}.lora_rank": 32}),
    Case(
        "qwen3vl_8b_visionr1",
        ("--freeze-vision", "--gpus", "4", "--kl", "0.04"),
        expected={
            f"{ACTOR}.freeze_vision_tower": True,
            f"{MODEL}.external_lib": "verl_visionr1.runtime.frozen_vision",
            "trainer.n_gpus_per_node": 4,
            f"{ACTOR}.kl_loss_coef": 0.04,
        },
    ),
    Case(
        "qwen2_5vl_3b_counting",
        ("--filter-groups=accuracy", "--loss", "token-mean", "--gpus=2"),
        expected={
            "algorithm.filter_groups.enable": True,
            "algorithm.filter_groups.metric": "accuracy",
            "data.gen_batch_size": 1,
            f"{ACTOR}.loss_agg_mode": "token-mean",
        },
    ),
    Case(
        "qwen2_5vl_7b_visionr1",
        ("--nodes", "2"),
        {"RAY_ADDRESS": "10.0.0.1:6379"},
        {
            "trainer.nnodes": 2,
            "ray_kwargs.ray_init.address": "auto",
            "ray_kwargs.ray_init.runtime_env.env_vars.HYDRA_FULL_ERROR": "1",  # a text, as Ray wants it
        },
    ),
    Case("tiny_visionr1_cpu", expected={"trainer.total_training_steps": 22, f"{ACTOR}.use_kl_loss": False}),
    *(
        pytest.param(
            Case(path.stem, environment=CPU, expected={"trainer.device": "cpu", "trainer.total_training_steps": 2}),
            marks=[] if path in (REC, RECIPES[0]) else pytest.mark.slow,
        )
        for path in RECIPES
        if path != TINY
    ),
]


@pytest.mark.verl
@pytest.mark.parametrize("case", CASES, ids=str)
def test_verl_takes_the_configuration(case: Case, plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf

    from verl_visionr1.runtime.dry_run import dry_run

    overrides = printed(plans, ROOT / "recipes" / f"{case.recipe}.sh", *case.words, **case.environment)
    keys = [override.partition("=")[0].lstrip("+") for override in overrides]
    assert sorted(set(keys)) == sorted(keys), "no key is set twice"
    if "PROFILE" in case.environment or case.recipe == TINY.stem:
        monkeypatch.setenv("VERL_PLATFORM", "cpu")
    found = dry_run(overrides, data_later=True)
    assert found.problems == ()
    assert {key: OmegaConf.select(found.config, key) for key in case.expected} == case.expected


@pytest.mark.verl
@pytest.mark.slow
def test_dry_run_of_a_recipe(tmp_path: Path) -> None:
    """The command itself: green without data, model, GPU; nothing is written."""
    done = bash(REC, "--dry-run", "--lora", RUN_DIR=str(tmp_path / "run"), DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert f"note: data file {tmp_path}/data/refcoco_train.parquet does not exist; this makes it:" in done.stderr
    assert "lora_rank 64" in re.sub(r"\s+", " ", done.stdout)
    assert list(tmp_path.iterdir()) == []
