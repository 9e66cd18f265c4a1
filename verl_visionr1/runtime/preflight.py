"""Check a run before Ray starts: rewards, steps, batches, model, disk, checkpoints; print its plan."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin import preflight
from verl_visionr1.runtime import agreement, checkpoints, criteria_trial, run_checks, run_rows, summary, trainable

MIN_FREE_GB = 2.0
"""Least free disk for checkpoints in GB; `VISIONR1_MIN_FREE_GB` changes it."""


class RunPreflight(Callback):
    """Hydra callback in the process that the user started; named by `+visionr1@_global_=checks`.

    It replaces `plugin.preflight.Preflight` and includes its checks.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with code 1 and the problems, one per line, if there are any; else print the plan of the run."""
        preflight.stop_at(preflight_problems(config))
        for label, text in summary.plan_of(config):
            print(f"visionr1: {label}: {text}", file=sys.stderr, flush=True)  # noqa: T201 - as below
        with_stages = not OmegaConf.select(config, "trainer.use_v1")  # V1: the callback warns, with the run's own total
        for warning in run_checks.warnings_of(config, with_stages=with_stages):
            print(f"visionr1: warning: {warning}", file=sys.stderr, flush=True)  # noqa: T201 - before any log is set up


def preflight_problems(config: DictConfig, *, here: bool = True, is_whole: bool = True) -> list[str]:
    """Everything that would fail later, one line each; empty if the run may start.

    Args:
        here: whether the run will be on this machine, so that its disk matters.
        is_whole: whether the config names all of the run's data files, so that steps can be counted.
    """
    problems = [*preflight.reward_problems(config), *_check_model(config), *trainable.family_problems(config)]
    problems += disk_problems(config) if here else []
    wrong = agreement.number_problems(config)
    if wrong:  # the arithmetic of the other checks would fail
        return problems + wrong
    checks = (agreement.agreement_problems, run_rows.image_problems, checkpoints.resume_problems)
    problems += [problem for check in checks for problem in check(config)]
    problems += criteria_trial.criteria_problems(config, checks_range=not here)
    return problems + run_checks.run_problems(config, is_whole=is_whole)


def _check_model(config: DictConfig) -> list[str]:
    path = OmegaConf.select(config, "actor_rollout_ref.model.path")
    if not path:
        return [f"actor_rollout_ref.model.path={path}: needs a folder, or a name on the hub"]
    folder = Path(str(path)).expanduser()
    if "://" in str(path) or (folder / "config.json").is_file():
        return []
    if folder.is_dir():
        return [f"actor_rollout_ref.model.path={path}: no config.json in it; needs the folder of a model"]
    is_hub_name = not os.path.isabs(folder) and not str(path).startswith(".") and str(path).count("/") < 2
    return [] if is_hub_name else [f"actor_rollout_ref.model.path={path}: no such directory"]


def disk_problems(config: DictConfig) -> list[str]:
    """Too little free disk for checkpoints; one line, or none."""
    directory = Path(str(OmegaConf.select(config, "trainer.default_local_dir") or ".")).expanduser().absolute()
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free / 1e9
    needed = float(os.environ.get("VISIONR1_MIN_FREE_GB", MIN_FREE_GB))
    if free < needed:
        return [
            f"trainer.default_local_dir: {free:.1f} GB free on the disk of {directory}, a run needs {needed:g}; "
            "free space, or set trainer.default_local_dir to another disk"
        ]
    return []
