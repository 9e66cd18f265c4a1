"""The trainer waits for rollouts: by verl's own buffers, with a watch that never ends a run that is well."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import OmegaConf

pytestmark = pytest.mark.verl

RUNNING = {"train": {"a": {"is_prompt": True, "status": "running", "global_steps": 1}}}
FINISHED = {"train": {"a": {"is_prompt": True, "status": "finished", "global_steps": 1}, "a_0_0": {"global_steps": 1}}}


class Trainer:
    """What of verl's trainer a buffer asks for; its processes are not where verl 0.9.1 has them."""

    def __init__(self, stall_minutes: float | None) -> None:
        watch = {"class": "verl_visionr1.runtime.watchdog.ProcessWatch", "stall_minutes": stall_minutes}
        visionr1 = {"frame": "qwen3-vl", "extensions": {"watchdog": watch}}
        self.config = OmegaConf.create(
            {
                "trainer": {"v1": {"sampler": {}}, "validation_data_dir": None},
                "reward": {"reward_kwargs": {"visionr1": visionr1}},
            }
        )

    def refill(self, n: int) -> None:
        """Never asked."""

    def _resolve_filter_groups_metric(self) -> None:
        return None


def buffer_of(stall_minutes: float | None, polls: Iterator[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """verl's asynchronous buffer, which sees what `polls` says."""
    from verl.trainer.ppo.v1 import replay_buffer

    from verl_visionr1.plugin.progress import make_replay_buffer

    monkeypatch.setattr(replay_buffer.tq, "kv_list", lambda: next(polls))
    trainer = Trainer(stall_minutes)
    return make_replay_buffer(
        trainer_mode="separate_async",
        trainer_config=trainer.config.trainer,
        max_off_policy_threshold=None,
        max_off_policy_strategy="drop",
        sampler_kwargs=OmegaConf.create({}),
        poll_interval=0.01,
        refill_fn=trainer.refill,
    )


def test_a_trainer_may_wait_before_it_samples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = buffer_of(60.0, iter([RUNNING, RUNNING, FINISHED]), monkeypatch)
    assert buffer.wait_for_sampleable(1, "train", 1) == ({"a"}, {})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("visionr1: no watchdog: cannot list the processes of this trainer (AttributeError: ")


def test_every_wait_has_its_own_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_visionr1.runtime.watchdog import LostError

    forever = iter(lambda: RUNNING, None)
    buffer = buffer_of(0.2 / 60, iter([RUNNING, FINISHED, RUNNING, FINISHED, *[RUNNING] * 3]), monkeypatch)
    for _ in range(2):
        buffer.wait_for_sampleable(1, "train", 1)
        time.sleep(0.3)  # training in between takes longer than rollouts may
    buffer = buffer_of(0.2 / 60, forever, monkeypatch)
    with pytest.raises(LostError, match="of the prompts 0 pending, 1 running, 0 finished, 0 failure, with 0 rollouts"):
        buffer.wait_for_sampleable(1, "train", 1)


def test_failed_rollouts_are_a_reason_to_ask() -> None:
    from verl_visionr1.runtime.watchdog import LostError, Watchdog

    watchdog = Watchdog({}, say=lambda line: None)  # not started: it is asked, or nobody is
    watchdog.ask = lambda: "lost reward worker 0"  # type: ignore[method-assign]
    watchdog.raise_if_lost(0)
    with pytest.raises(LostError, match="lost reward worker 0"):
        watchdog.raise_if_lost(1)


def test_an_error_of_a_run_whose_processes_live_stays_what_it_is() -> None:
    from verl_visionr1.runtime.watchdog import LostError, ProcessWatch, Watchdog

    watch = ProcessWatch(OmegaConf.create({}))
    watch.watchdog = Watchdog({}, say=lambda line: None)
    with pytest.raises(RuntimeError, match="all have failed"), watch.around_wait():
        raise RuntimeError("all have failed")
    watch.watchdog.ask = lambda: "lost vLLM server 1"  # type: ignore[method-assign]
    with pytest.raises(LostError, match="lost vLLM server 1"), watch.around_wait():
        raise RuntimeError("all have failed")


def test_a_watchdog_that_cannot_ask_goes_on() -> None:
    from verl_visionr1.runtime.watchdog import Watchdog

    answers: list[Any] = [RuntimeError("odd"), RuntimeError("odd"), None, "lost a process"]

    class Odd(Watchdog):
        def ask(self) -> str | None:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    said: list[str] = []
    watchdog = Odd({}, every_seconds=0.01, grace_seconds=60, say=said.append)
    watchdog.start()
    end = time.monotonic() + 10
    while len(said) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    watchdog.stop()
    assert said == [
        "visionr1: the watchdog could not poll: RuntimeError: odd",
        "visionr1: lost a process; start the run again to resume from the last checkpoint",
    ]


def test_an_error_that_is_not_a_death_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from ray.exceptions import ActorDiedError, RaySystemError

    from verl_visionr1.runtime import watchdog

    errors: list[Exception] = [RaySystemError("no answer"), RaySystemError("no answer"), ActorDiedError()]

    def get(_: object) -> None:
        raise errors.pop(0)

    fake = SimpleNamespace(wait=lambda asked, timeout: (asked, []), get=get)
    monkeypatch.setattr(watchdog, "ray", fake)
    actor = SimpleNamespace(__ray_call__=SimpleNamespace(remote=lambda call: call))
    said: list[str] = []
    watch = watchdog.Watchdog({"training worker 0": actor}, say=said.append)
    assert [watch.ask(), watch.ask()] == [None, None]
    assert said == ["visionr1: training worker 0 does not answer: RaySystemError"]
    assert str(watch.ask()).startswith("lost training worker 0: ")


def test_a_reward_worker_that_cannot_be_reached_for_a_moment_loses_no_rollout() -> None:
    import asyncio
    from types import SimpleNamespace

    from ray.exceptions import ActorUnavailableError

    from verl_visionr1.runtime.reward_workers import RewardWorkers

    back = time.monotonic() + 0.3

    async def remote(data: int) -> int:
        if time.monotonic() < back:
            raise ActorUnavailableError("out of reach", b"0" * 16)
        return data

    worker = SimpleNamespace(compute_score=SimpleNamespace(remote=remote))

    def make(name: str) -> None:
        raise AssertionError(f"nothing is lost, no {name} is needed")

    workers = RewardWorkers([worker], make, again_seconds=0.1)
    assert asyncio.run(workers.compute_score.remote(7)) == 7
