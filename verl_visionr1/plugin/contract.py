"""The plug-in's requirements on verl: modules, classes, and parameters of calls, which `visionr1 check` inspects."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Hook:
    """An object of verl that the plug-in calls, overrides or subclasses.

    Attributes:
        name: its name in the module, dotted for a method.
        parameters: names of parameters that are passed to it, or that it passes.
        lost: what does not work without it; "" for a required hook.
    """

    module: str
    name: str
    parameters: tuple[str, ...] = ()
    lost: str = ""


_LOOP, _V1 = "verl.experimental.reward_loop", "verl.trainer.ppo.v1"
REWARD_HOOKS = (
    Hook(f"{_LOOP}.reward_manager", "register", ("name",)),
    Hook(f"{_LOOP}.reward_manager", "get_reward_manager_cls", ("name",)),
    Hook(f"{_LOOP}.reward_manager.base", "RewardManagerBase.__init__", ("config", "tokenizer", "compute_score")),
    Hook(f"{_LOOP}.reward_manager.base", "RewardManagerBase.run_single", ("data",)),
    Hook(f"{_LOOP}.reward_manager.naive", "NaiveRewardManager.run_single", ("data",)),
)
"""Hooks of the reward manager: enough to train with a fixed stage."""
TRAINER_HOOKS = (
    Hook(_V1, "AgentLoopManagerTQ.generate_sequences", ("prompts",)),
    Hook(f"{_V1}.replay_buffer", "ReplayBuffer.sample", ("global_steps", "partition_id", "batch_size")),
    Hook(f"{_V1}.replay_buffer", "ReplayBuffer._wait_for_next_poll", ("partition_id", "last_debug_time")),
    Hook(
        f"{_V1}.replay_buffer",
        "ReplayBufferAsync.wait_for_sampleable",
        lost="nothing: in this verl the asynchronous trainers wait while sampling",
    ),
    Hook(f"{_V1}.trainer_base", "PPOTrainer._resolve_filter_groups_metric"),
    Hook("verl.utils.tensordict_utils", "get_non_tensor_data", ("data", "key", "default")),
    Hook("verl.utils.tensordict_utils", "assign_non_tensor_data", ("tensor_dict", "key", "val")),
    Hook(
        "verl.trainer.ppo.checkpoint_callback",
        "CheckpointCallback.on_save",
        ("trainer", "global_step", "checkpoint_dir", "async_save"),
        lost="no state is saved with checkpoints: a resumed run resets its gates, alarms and total steps",
    ),
)
"""Further hooks for progress, gates, metrics and alarms."""


def missing_hooks(hooks: Iterable[Hook]) -> list[tuple[Hook, str]]:
    """Hooks that the installed verl lacks in the required form, each with the mismatch.

    >>> missing_hooks([Hook("json", "dumps", ("obj", "indent"))])
    []
    >>> [found for _, found in missing_hooks([Hook("json", "detect_encoding", ("text",)), Hook("json", "absent")])]
    ['does not take text', 'is not there']
    """
    found = ((hook, _mismatch(hook)) for hook in hooks)
    return [(hook, mismatch) for hook, mismatch in found if mismatch]


def _mismatch(hook: Hook) -> str:
    try:
        target: Any = importlib.import_module(hook.module)
        for part in hook.name.split("."):
            target = getattr(target, part)
    except (ModuleNotFoundError, AttributeError):
        return "is not there"
    except Exception as error:  # noqa: BLE001 - an import may fail in any way
        return f"cannot be imported ({type(error).__name__}: {error})"
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return ""
    absent = [name for name in hook.parameters if name not in parameters]
    return f"does not take {', '.join(absent)}" if absent else ""
