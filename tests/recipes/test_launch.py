"""recipes/launch.sh: when it trains, what stops it, and what it leaves behind."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from launcher import Launcher


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
    "a typo in --train": (("--train", "/nowhere/rows.parquet"), {}, "/nowhere/rows.parquet"),
    "no validation data": ((), {"VAL_FILES": "/nowhere/val.parquet"}, "/nowhere/val.parquet"),
    "no config of the model": ((), {"MODEL_PATH": "/nowhere/model"}, "MODEL_PATH=/nowhere/model"),
    "nodes without a cluster": (("--nodes", "2"), {}, "RAY_ADDRESS"),
    "flash-attn asked for and not there": ((), {"ATTENTION": "flash"}, "--flash"),
    "an attention that is none": ((), {"ATTENTION": "fast"}, "ATTENTION=fast"),
    "flash-attn on a CPU": (("--flash",), {"PROFILE": "cpu"}, "--flash"),
    "no wheel": (("--flash=/nowhere.whl",), {}, "/nowhere.whl"),
}


@pytest.mark.parametrize(("words", "environment", "named"), STOPS.values(), ids=STOPS)
def test_what_stops_a_run_before_it_starts_and_fresh_deletes_nothing(
    launcher: Launcher, words: tuple[str, ...], environment: dict[str, str], named: str
) -> None:
    names = {".finished": "5", "checkpoints/global_step_5/x": "", "validation/5.jsonl": "", "train.log": ""}
    for name, text in names.items():
        (launcher.run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (launcher.run_dir / name).write_text(text)
    done = launcher("--fresh", *words, **environment)
    assert (done.returncode, launcher.trained) == (1, 0)
    assert named in done.stderr
    assert [name for name in names if not (launcher.run_dir / name).exists()] == []


@pytest.mark.parametrize(("words", "is_freed"), [(("--fresh",), True), ((), False)])
def test_what_fresh_deletes_counts_as_free(launcher: Launcher, words: tuple[str, ...], is_freed: bool) -> None:
    (launcher.run_dir / "checkpoints").mkdir(parents=True)
    (launcher.run_dir / "checkpoints" / "x").write_bytes(b"x" * 5_000_000)
    options = f"launch_options {' '.join(words)}; launch_freed_gb"
    assert (float(launcher.shell(options).stdout) > 0.004) == is_freed


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
