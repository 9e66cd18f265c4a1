"""Several nodes, lost processes, and another number of workers: real process groups, real Ray actors."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsdp_steps
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from typer.testing import CliRunner

from verl_visionr1.cli import app
from verl_visionr1.runtime.checkpoints import CheckpointError, resume_problems, shard_file, workers_problem
from verl_visionr1.runtime.resharding import mesh_of, reshard

pytestmark = pytest.mark.verl

ROOT = Path(__file__).parents[2]

# --- another number of workers ------------------------------------------------------------------------------------


def write_checkpoint(folder: Path, full: dict[str, torch.Tensor], n_workers: int, fsdp_size: int = -1) -> Path:
    """What verl writes: weights, moments and extras of each worker, cut by torch itself."""
    for rank in range(n_workers):
        with mesh_of("cpu", rank, n_workers, fsdp_size) as mesh:
            where = [*[Replicate()] * (mesh.ndim - 1), Shard(0)]
            cut = {name: distribute_tensor(value, mesh, where, src_data_rank=None) for name, value in full.items()}
        folder.mkdir(parents=True, exist_ok=True)
        moments = {number: {"step": torch.tensor(3.0), "exp_avg": cut[name]} for number, name in enumerate(cut)}
        groups = [{"lr": 0.1, "betas": (0.9, 0.95), "params": list(range(len(cut)))}]
        torch.save(cut, shard_file(folder, "model", n_workers, rank))
        torch.save({"state": moments, "param_groups": groups}, shard_file(folder, "optim", n_workers, rank))
        numpy_state, python_state = np.random.RandomState(rank).get_state(), random.Random(rank).getstate()
        states = {"cpu": torch.full((8,), rank), "numpy": numpy_state, "random": python_state}
        extra = {"lr_scheduler": {"last_epoch": 3, "lr_lambdas": [None]}, "rng": states}
        torch.save(extra, shard_file(folder, "extra_state", n_workers, rank))
    (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": n_workers}))
    return folder


def read(folder: Path, kind: str, n_workers: int, rank: int) -> dict:
    return torch.load(shard_file(folder, kind, n_workers, rank), weights_only=False)


def tensors(seed: int = 0, rows: tuple[int, ...] = (7, 1, 4)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows[0], 3), (rows[1],), (rows[2], 2, 2)]
    return {f"w{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}


@settings(max_examples=15)
@given(
    before=st.integers(1, 5),
    after=st.integers(1, 5),
    rows=st.tuples(*[st.integers(1, 9)] * 3),
    copies=st.sampled_from([(1, 1), (2, 1), (1, 2)]),
)
def test_parts_are_those_that_torch_cuts_for_that_number(
    tmp_path_factory: pytest.TempPathFactory, before: int, after: int, rows: tuple[int, ...], copies: tuple[int, int]
) -> None:
    """Values, sizes, placements and mesh are what the workers of such a run would have had from the start."""
    if before * copies[0] == after * copies[1]:
        after += 1
    step, fresh = tmp_path_factory.mktemp("a") / "global_step_3", tmp_path_factory.mktemp("b") / "actor"
    sizes = [count if n > 1 else -1 for count, n in zip((before, after), copies, strict=True)]
    (n_before, n_after), full = (before * copies[0], after * copies[1]), tensors(rows=rows)
    write_checkpoint(step / "actor", full, n_before, sizes[0])
    write_checkpoint(fresh, full, n_after, sizes[1])
    done = reshard(step, n_after, fsdp_size=sizes[1])
    assert (done.n_before, done.n_workers) == (n_before, n_after)
    assert json.loads((step / "actor" / "fsdp_config.json").read_text())["world_size"] == n_after
    for rank in range(n_after):
        for kind in ("model", "optim"):
            got, want = read(step / "actor", kind, n_after, rank), read(fresh, kind, n_after, rank)
            assert_same(got, want)
        mesh = read(step / "actor", "model", n_after, rank)["w0"].device_mesh
        shape = (n_after,) if copies[1] == 1 or after == n_after else (copies[1], after)  # as verl's create_device_mesh
        assert mesh.mesh.tolist() == torch.arange(n_after).reshape(shape).tolist()
        assert mesh.mesh_dim_names == ("ddp", "fsdp")[-len(shape) :]
        extra = read(step / "actor", "extra_state", n_after, rank)
        assert extra["lr_scheduler"] == {"last_epoch": 3, "lr_lambdas": [None]}
        assert ("rng" in extra) == (rank < n_before)  # one that is new has no past
        assert rank >= n_before or bool((extra["rng"]["cpu"] == rank).all())
        assert rank >= n_before or extra["rng"]["random"] == random.Random(rank).getstate()
        if rank < n_before:
            np.testing.assert_equal(extra["rng"]["numpy"], np.random.RandomState(rank).get_state())


def test_a_checkpoint_that_would_run_something_is_not_loaded(tmp_path: Path) -> None:
    step, mark = tmp_path / "global_step_3", tmp_path / "was_run"
    write_checkpoint(step / "actor", tensors(), 2)

    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(mark),)

    torch.save({"rng": Runs()}, shard_file(step / "actor", "extra_state", 2, 0))
    with pytest.raises(CheckpointError, match=r"(?s)extra_state_world_size_2_rank_0\.pt: .*mkdir"):
        reshard(step, 1)
    assert not mark.exists()


def assert_same(got: object, want: object) -> None:
    assert type(got) is type(want)
    if isinstance(want, DTensor):
        assert isinstance(got, DTensor)
        assert torch.equal(got.to_local(), want.to_local())
        assert (got.shape, got.stride(), got.placements) == (want.shape, want.stride(), want.placements)
        assert got.device_mesh == want.device_mesh
    elif isinstance(want, dict):
        assert list(got) == list(want)  # type: ignore[call-overload]
        for key in want:
            assert_same(got[key], want[key])  # type: ignore[index]
    elif isinstance(want, torch.Tensor):
        assert torch.equal(got, want)  # type: ignore[arg-type]
    else:
        assert got == want


@pytest.mark.slow
def test_training_goes_on_with_another_number_of_workers(tmp_path: Path) -> None:
    """The third step of two workers, and that of one which resumes from their files before it: the same weights."""
    step = tmp_path / "global_step_2"
    (step / "actor").mkdir(parents=True)
    command = [sys.executable, ROOT / "tests" / "fsdp_steps.py", step / "actor"]
    workers = [subprocess.Popen([*command, str(rank), "2", "save"]) for rank in range(2)]
    assert [worker.wait(300) for worker in workers] == [0, 0]
    (step / "actor" / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 2}')
    reshard(step, 1)
    fsdp_steps.main(step / "actor", 0, 1, True)
    both, alone = (torch.load(step / "actor" / f"whole_{count}.pt") for count in (2, 1))
    for name in both:
        assert torch.allclose(both[name], alone[name], rtol=0, atol=1e-6), name


def test_reshard_command_and_what_it_refuses(tmp_path: Path) -> None:
    run = tmp_path / "run"
    step = run / "checkpoints" / "global_step_3"
    actor = write_checkpoint(step / "actor", tensors(), 2)
    (run / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("3")
    done = CliRunner().invoke(app, ["reshard", str(run), "--workers", "3", "--remove-old"])
    assert done.exit_code == 0, done.output
    assert "2 -> 3 training workers" in done.output
    assert not list(actor.glob("*_world_size_2_*"))
    before = {file.name: file.read_bytes() for file in actor.iterdir()}

    def refused(*arguments: object) -> str:
        found = CliRunner().invoke(app, ["reshard", *map(str, arguments)])
        assert found.exit_code == 2, found.output
        assert len(found.output.strip().splitlines()) == 1
        assert {file.name: file.read_bytes() for file in actor.iterdir()} == before, "nothing is half done"
        return found.output

    assert "already written by 3 training workers" in refused(step, "--workers", 3)
    assert "--workers 0: needs at least 1" in refused(step, "--workers", 0)
    assert "no verl checkpoint in it" in refused(tmp_path, "--workers", 2)
    assert "must divide --workers 4" in refused(step, "--workers", 4, "--fsdp-size", 3)
    part = shard_file(actor, "optim", 3, 2)
    before[part.name] = before[part.name][:100]
    part.write_bytes(before[part.name])  # the disk was full when it was written
    assert f"{part}: cannot be read" in refused(step, "--workers", 2)
    part = shard_file(actor, "model", 3, 1)
    part.unlink()
    del before[part.name]
    assert "its 3 workers" in refused(step, "--workers", 2)
    config = actor / "fsdp_config.json"
    config.write_text('{"FSDP_version": 1, "world_size": 3}')
    before[config.name] = config.read_bytes()
    assert "only strategy=fsdp2 can be rewritten" in refused(step, "--workers", 2)


def test_preflight_names_both_numbers_and_the_command(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    step = tmp_path / "global_step_3"
    write_checkpoint(step / "actor", tensors(), 2)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("3")
    problem = workers_problem(step, 4)
    assert problem is not None
    assert "written by 2 training workers, this run has 4" in problem
    assert f"visionr1 reshard {step} --workers 4" in problem
    assert "\n" not in problem

    def of(**trainer: object) -> list[str]:
        given = {"resume_mode": "auto", "default_local_dir": str(tmp_path), "resume_from_path": None, **trainer}
        return resume_problems(OmegaConf.create({"trainer": {"nnodes": 2, "n_gpus_per_node": 2, **given}}))

    assert of() == [problem]
    assert of(resume_mode="resume_path", resume_from_path=str(step)) == [problem]
    assert of(resume_mode="disable") == of(nnodes=1) == of(default_local_dir=str(tmp_path / "new")) == []
    reshard(step, 4)
    assert of() == []
    with pytest.raises(CheckpointError, match="nothing to do"):
        reshard(step, 4)


# --- lost processes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import a test module
    ray.init(num_cpus=8, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    yield ray
    ray.shutdown()


class Worker:
    """Stands for any process of a run; `score` is a reward worker's."""

    def __init__(self, *_: object) -> None:
        self.engine: object = None

    def pid(self) -> int:
        return os.getpid()

    def work(self, seconds: float) -> None:
        time.sleep(seconds)

    def fail_engine(self) -> None:
        self.engine = type("Engine", (), {"errored": True})()

    def compute_score(self, data: int) -> tuple[int, int]:
        if data < 0:  # a row that no worker survives
            os.kill(os.getpid(), signal.SIGKILL)
        return data, os.getpid()


def until(condition: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
def test_watchdog_names_what_is_lost_and_leaves_the_busy_alone(ray: object) -> None:
    from verl_visionr1.runtime.watchdog import LostError, Watchdog

    make = ray.remote(Worker)
    actors = {"vLLM server 0": make.remote(), "training worker 1": make.remote()}
    said: list[str] = []
    watchdog = Watchdog(actors, every_seconds=0.1, grace_seconds=60, say=said.append)
    watchdog.start()
    watchdog.start()
    until(lambda: len(watchdog.places) == 2)
    actors["training worker 1"].work.remote(3)
    time.sleep(1)
    watchdog.raise_if_lost()  # busy is not lost
    pid = ray.get(actors["vLLM server 0"].pid.remote())
    assert any(line.startswith("visionr1: vLLM server 0: node ") and line.endswith(f"process {pid}") for line in said)
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: watchdog.lost)
    assert time.monotonic() - killed < 10
    with pytest.raises(LostError, match=rf"lost vLLM server 0 \(node .*, process {pid}\): "):
        watchdog.raise_if_lost()
    assert said[-1].startswith("visionr1: lost vLLM server 0")
    assert "start the run again" in said[-1]
    watchdog.stop()

    server = make.remote()
    ray.get(server.fail_engine.remote())
    watchdog = Watchdog({"vLLM server 1": server})
    found: list[str | None] = []
    until(lambda: found.append(watchdog.ask()) or found[-1])
    assert found[-1] == "lost the engine of vLLM server 1"


@pytest.mark.slow
def test_reward_workers_take_over_from_one_that_is_killed(ray: object) -> None:
    import asyncio

    from verl_visionr1.runtime.reward_workers import MAX_LOSSES, RewardLostError, RewardWorkers

    make = ray.remote(Worker)
    made: list[str] = []

    def again(name: str) -> object:
        made.append(name)
        return make.options(name=name, get_if_exists=True).remote()

    workers = RewardWorkers([make.remote() for _ in range(2)], again)
    pids = ray.get([worker.pid.remote() for worker in workers.workers])

    async def scores(data: list[int]) -> list[tuple[int, int]]:
        return await asyncio.gather(*[workers.compute_score.remote(item) for item in data])

    assert {pid for _, pid in asyncio.run(scores(list(range(40))))} == set(pids)
    os.kill(pids[0], signal.SIGKILL)
    got = asyncio.run(scores(list(range(40))))
    assert [item for item, _ in got] == list(range(40)), "no rollout is lost"
    assert pids[0] not in {pid for _, pid in got}
    assert made == ["reward_worker_0_again_1"], "one new worker, however many rollouts met the dead one"
    with pytest.raises(RewardLostError):
        asyncio.run(scores([-1]))  # what kills every worker ends, and does not kill for ever
    assert sum(workers.losses.values()) <= 2 * (MAX_LOSSES + 1)
