"""What the plug-in takes from verl: modules, classes, and the parameters by which each is called.

A version number says little: a newer verl may have all of it, an older one may lack one hook. So `visionr1 check` looks
at the installed verl itself.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Hook:
    """Something of verl's that the plug-in calls, overrides or subclasses.

    Attributes:
        name: its name there, dotted for a method.
        parameters: names by which it is called, or which it hands over.
        lost: what does not work without it; "" for a hook without which nothing does.
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
"""What the reward manager needs: enough to train with a fixed stage."""
TRAINER_HOOKS = (
    Hook(_V1, "AgentLoopManagerTQ.generate_sequences", ("prompts",)),
    Hook(f"{_V1}.replay_buffer", "ReplayBuffer.sample", ("global_steps", "partition_id", "batch_size")),
    Hook(f"{_V1}.replay_buffer", "ReplayBuffer._wait_for_next_poll", ("partition_id", "last_debug_time")),
    Hook(
        f"{_V1}.replay_buffer",
        "ReplayBufferAsync.wait_for_sampleable",
        lost="nothing: in this verl the asynchronous trainers wait where they sample",
    ),
    Hook(f"{_V1}.trainer_base", "PPOTrainer._resolve_filter_groups_metric"),
    Hook("verl.utils.tensordict_utils", "get_non_tensor_data", ("data", "key", "default")),
    Hook("verl.utils.tensordict_utils", "assign_non_tensor_data", ("tensor_dict", "key", "val")),
    Hook("verl.utils.checkpoint.checkpoint_manager", "find_latest_ckpt_path", ("path",)),
    Hook(
        "verl.trainer.ppo.checkpoint_callback",
        "CheckpointCallback.on_save",
        ("trainer", "global_step", "checkpoint_dir", "async_save"),
        lost="nothing is saved beside checkpoints: a resumed run starts its gates, alarms and pinned total anew",
    ),
)
"""What progress, gates, metrics and alarms need besides."""


def missing_hooks(hooks: Iterable[Hook]) -> list[tuple[Hook, str]]:
    """Hooks that the installed verl does not have in the shape that the plug-in knows, each with what was found.

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
