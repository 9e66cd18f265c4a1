"""recipes/launch.sh: when it trains, what it is started with, and what it leaves behind; with a pretended verl."""

from __future__ import annotations

import json
import mmap
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = """#!/usr/bin/env bash
# A recipe for the tests of the launcher.
set -euo pipefail
source ROOT/recipes/launch.sh
profile qwen2-vl both
TOTAL_STEPS=${TOTAL_STEPS:-5}
train_data train.parquet coco.py annotations.json images OUT
val_data val.parquet coco.py annotations.json images OUT
launch "$@"
"""
# Notes arguments and environment; `-m verl.trainer.main_ppo` then does what VERL says. Is asked for flash_attn: FLASH.
PYTHON = f"""#!{sys.executable}
import json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
if "find_spec" in " ".join(sys.argv):
    sys.exit(not os.path.exists(here + "/has_flash_attn"))
with open(here + "/calls", "a") as calls:
    calls.write(json.dumps([os.path.basename(__file__), sys.argv[1:], dict(os.environ)]) + "\\n")
if os.path.basename(__file__) == "visionr1":
    if sys.argv[1] == "plan":
        print("planned=yes")
elif "verl.trainer.main_ppo" in sys.argv:
    exec(os.environ.get("VERL", ""))
"""


@dataclass
class Launcher:
    """A recipe, its data and model, and a run folder."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    def command(self, **environment: str) -> dict[str, str]:
        return {
            "PATH": f"{self.root}/bin:/usr/bin:/bin",
            "VISIONR1_SKIP_SETUP": "1",
            "VISIONR1_MIN_FREE_GB": "0.001",
            "RUN_DIR": str(self.run_dir),
            "DATA_DIR": str(self.root / "data"),
            "MODEL_PATH": str(self.root / "model"),
            **environment,
        }

    def __call__(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.root / "bin" / "calls").unlink(missing_ok=True)
        words = ("bash", f"{self.root}/recipe.sh", *words)
        env = self.command(**environment)
        return subprocess.run(words, capture_output=True, text=True, timeout=60, env=env, cwd=self.root)

    def shell(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Functions of the launcher, called alone."""
        command = f"set -euo pipefail; source {ROOT}/recipes/launch.sh; {command}"
        env = self.command(**environment)
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env=env)

    @property
    def calls(self) -> list[tuple[str, list[str], dict[str, str]]]:
        path = self.root / "bin" / "calls"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def called(self, program: str, word: str) -> list[tuple[list[str], dict[str, str]]]:
        """Arguments and environment of each call of a program with that word."""
        return [(words, environment) for name, words, environment in self.calls if name == program and word in words]

    @property
    def trained(self) -> int:
        return len(self.called("python", "verl.trainer.main_ppo"))

    @property
    def overrides(self) -> list[str]:
        ((words, _),) = self.called("python", "verl.trainer.main_ppo")
        return words[2:]


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    for folder in ("bin", "data", "model"):
        (tmp_path / folder).mkdir()
    for name in ("data/train.parquet", "data/val.parquet"):
        (tmp_path / name).touch()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "recipe.sh").write_text(RECIPE.replace("ROOT", str(ROOT)))
    for name in ("python", "visionr1"):
        (tmp_path / "bin" / name).write_text(PYTHON)
        (tmp_path / "bin" / name).chmod(0o755)
    return Launcher(tmp_path)


# ------------------------------------------------------------------------------------------------- whether it trains


def test_a_run_trains_and_then_is_finished(launcher: Launcher) -> None:
    done = launcher("trainer.nnodes=1")
    assert done.returncode == 0, done.stderr
    assert launcher.overrides[-1] == "trainer.nnodes=1"
    assert f"data.train_files={launcher.root}/data/train.parquet" in launcher.overrides
    assert (launcher.run_dir / ".finished").read_text() == "5\n"
    assert [words[0] for name, words, _ in launcher.calls if name == "visionr1"] == ["watch", "report"]
    assert launcher.called("visionr1", "watch")[0][0][1:4] == [str(launcher.run_dir), "--total-steps", "5"]


@pytest.mark.parametrize(
    ("finished", "words", "trains"),
    [("5", (), False), ("6", (), False), ("4", (), True), ("5", ("--fresh",), True), (None, (), True)],
)
def test_a_finished_run_is_reported_and_not_trained(
    launcher: Launcher, finished: str | None, words: tuple[str, ...], trains: bool
) -> None:
    launcher.run_dir.mkdir()
    if finished:
        (launcher.run_dir / ".finished").write_text(f"{finished}\n")
    assert launcher(*words).returncode == 0
    assert launcher.trained == trains
    assert len(launcher.called("visionr1", "report")) == 1


@pytest.mark.parametrize("words", [(), ("--fresh",)])
def test_only_fresh_deletes_what_an_earlier_run_left(launcher: Launcher, words: tuple[str, ...]) -> None:
    results = ["checkpoints/global_step_1/x", "metrics/x", "hydra/x", "validation/x", "rollouts/x", "report.png"]
    others = ["data/train.parquet", "model/config.json", "notes.txt"]
    for name in results + others:
        (launcher.run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (launcher.run_dir / name).touch()
    assert launcher(*words).returncode == 0
    assert {name for name in results if (launcher.run_dir / name).exists()} == (set() if words else set(results))
    assert [name for name in others if not (launcher.run_dir / name).exists()] == []


def test_one_run_at_a_time_in_a_folder(launcher: Launcher) -> None:
    launcher.run_dir.mkdir()
    with subprocess.Popen(["flock", str(launcher.run_dir / ".lock"), "sleep", "30"]) as holder:
        wait_for(lambda: subprocess.run(["flock", "-n", str(launcher.run_dir / ".lock"), "true"]).returncode == 1)
        done = launcher("--fresh")
        holder.terminate()
    assert (done.returncode, launcher.trained) == (1, 0)
    assert done.stderr.startswith("error: this run is in progress")


STOPS = {
    "no room for checkpoints": ((), {"VISIONR1_MIN_FREE_GB": "9999999"}, "9999999"),
    "no data": ((), {"DATA_DIR": "/nowhere"}, "/nowhere/train.parquet"),
    "no validation data": ((), {"VAL_FILES": "/nowhere/val.parquet"}, "/nowhere/val.parquet"),
    "no config of the model": ((), {"MODEL_PATH": "/nowhere/model"}, "MODEL_PATH=/nowhere/model"),
    "nodes without a cluster": (("--nodes", "2"), {}, "RAY_ADDRESS"),
    "flash-attn asked for and not there": ((), {"ATTENTION": "flash"}, "--flash"),
    "an attention that is none": ((), {"ATTENTION": "fast"}, "ATTENTION=fast"),
    "flash-attn on a CPU": (("--flash",), {"PROFILE": "cpu"}, "--flash"),
    "no wheel": (("--flash=/nowhere.whl",), {}, "/nowhere.whl"),
}


@pytest.mark.parametrize(("words", "environment", "named"), STOPS.values(), ids=STOPS)
def test_what_stops_a_run_before_it_starts(
    launcher: Launcher, words: tuple[str, ...], environment: dict[str, str], named: str
) -> None:
    done = launcher(*words, **environment)
    assert (done.returncode, launcher.trained) == (1, 0)
    assert named in done.stderr
    assert not (launcher.run_dir / ".finished").exists()


def test_memory_of_a_run_on_a_cpu(launcher: Launcher) -> None:
    settings = f"LAUNCH_MODE=train PLATFORM=cpu NODES=1 GPUS=1000000 TRAIN_FILES={__file__} VAL_FILES={__file__}"
    done = launcher.shell(f"{settings}; mkdir {launcher.run_dir}; launch_checks")
    assert (done.returncode, "5000006" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("settings", "gigabytes"),
    [
        ("PLATFORM=cuda LORA=0 SAVE_FREQ=20 PARAMS=8.29e9", 300),
        ("PLATFORM=cuda LORA=64 SAVE_FREQ=20 PARAMS=8.29e9", 101),
        ("PLATFORM=cuda LORA=0 SAVE_FREQ=-1 PARAMS=8.29e9", 2),
        ("PLATFORM=cuda LORA=0 SAVE_FREQ=20 PARAMS=", 2),
        ("PLATFORM=cpu LORA=0 SAVE_FREQ=20 PARAMS=8.29e9", 2),
    ],
)
def test_room_for_checkpoints(launcher: Launcher, settings: str, gigabytes: int) -> None:
    assert int(launcher.shell(f"{settings}; launch_checkpoints_gb").stdout) == gigabytes


@pytest.mark.parametrize(("needed", "code"), [("0.001", 0), ("9999999", 1)])
def test_room_on_a_disk(launcher: Launcher, needed: str, code: int) -> None:
    assert launcher.shell(f"launch_room /tmp {needed} why").returncode == code


# ------------------------------------------------------------------------------------------------- what verl is told

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


# --------------------------------------------------------------------------------------------- what it leaves behind


def wait_for(condition: object) -> None:
    for _ in range(200):
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise AssertionError("waited 10 s in vain")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


FAILS = "import sys; print('\\x1b[36m(Actor pid=12)\\x1b[0m ValueError: mended'); sys.exit(7)"


def test_a_failed_run_is_explained_and_not_finished(launcher: Launcher) -> None:
    assert launcher(VERL="print('KeyError: of an earlier start'); raise SystemExit(1)").returncode == 1
    done = launcher(VERL=FAILS)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-3:] == [
        "error: training ended with exit code 7",
        "ValueError: mended",
        f"log: {launcher.run_dir}/train.log",
    ]
    assert not (launcher.run_dir / ".finished").exists()
    assert not launcher.called("visionr1", "report")


def test_the_folder_of_a_start_is_removed(launcher: Launcher) -> None:
    launcher(VERL="open(os.environ['TMPDIR'] + '/left', 'w')")
    ((_, environment),) = launcher.called("python", "verl.trainer.main_ppo")
    assert environment["TMPDIR"] == environment["RAY_TMPDIR"]
    assert environment["TMPDIR"].startswith("/tmp/visionr1-")
    assert not Path(environment["TMPDIR"]).exists()
    assert not (launcher.run_dir / ".launch").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_launcher_that_is_stopped_stops_its_run(launcher: Launcher, number: signal.Signals, code: int) -> None:
    words = ["bash", f"{launcher.root}/recipe.sh"]
    child = "import subprocess; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    out = subprocess.PIPE
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  # what runs in the background ignores it
    with subprocess.Popen(words, env=launcher.command(VERL=child), stdout=out, stderr=out, preexec_fn=heed) as run:
        wait_for(lambda: (launcher.run_dir / ".launch").exists() and launcher.trained)
        session, _, folder = (launcher.run_dir / ".launch").read_text().split()
        run.send_signal(number)
        assert run.wait(30) == code
    assert not is_alive(int(session))
    assert not Path(folder).exists()
    assert not (launcher.run_dir / ".launch").exists()
    assert not (launcher.run_dir / ".finished").exists()


@pytest.mark.parametrize("is_ours", [True, False])
def test_what_a_killed_launcher_left_is_ended_if_it_is_ours(launcher: Launcher, is_ours: bool) -> None:
    launcher.run_dir.mkdir()
    environment = {**os.environ, "VISIONR1_LAUNCH_ID": "abc123" if is_ours else "another"}
    folder = Path(tempfile.mkdtemp(prefix="visionr1-", dir="/tmp"))
    (folder / ".started").touch()
    elsewhere = launcher.root / "elsewhere"
    with subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True) as left:
        (launcher.run_dir / ".launch").write_text(f"{left.pid} abc123 {folder}\n")
        launcher()
        assert is_alive(left.pid) != is_ours
        left.kill()
    assert not folder.exists()
    elsewhere.mkdir()
    (elsewhere / ".started").touch()
    (launcher.run_dir / ".launch").write_text(f"1 abc123 {elsewhere}\n")
    launcher("--fresh")
    assert elsewhere.exists(), "only folders of the launcher are removed"


def test_shared_memory_of_a_start_is_cleared(launcher: Launcher) -> None:
    """Segments that are younger than the start and that nobody maps."""
    mark = uuid.uuid4().hex[:12]
    names = [f"psm_{mark}_older", f"psm_{mark}_left", f"verl_weights_{mark}_left", f"other_{mark}", f"psm_{mark}_used"]
    older, left, weights, other, used = segments = [Path("/dev/shm") / name for name in names]
    folder = Path(tempfile.mkdtemp(prefix="visionr1-", dir="/tmp"))
    try:
        older.write_bytes(b"x")
        os.utime(older, (1, 1))
        (folder / ".started").touch()
        os.utime(folder / ".started", (time.time() - 5, time.time() - 5))
        for segment in (left, weights, other, used):
            segment.write_bytes(b"x" * 4096)
        with used.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
            assert launcher.shell(f"launch_clear_folder {folder}").returncode == 0
        assert [segment.exists() for segment in segments] == [True, False, False, True, True]
        assert not folder.exists()
    finally:
        for segment in segments:
            segment.unlink(missing_ok=True)
