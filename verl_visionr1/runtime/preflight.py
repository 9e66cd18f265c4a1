"""Check a run before Ray starts: rewards, steps, batches, model, disk, checkpoints; print its plan."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError

from verl_visionr1.plugin import preflight
from verl_visionr1.runtime import agreement, checkpoints, composing, criteria_trial, model_checks, run_checks, summary

MIN_FREE_GB = 2.0
"""Least free disk for checkpoints in GB; `VISIONR1_MIN_FREE_GB` changes it."""


class RunPreflight(Callback):
    """Hydra callback in the process that the user started; named by `+visionr1@_global_=checks`.

    It replaces `plugin.preflight.Preflight` and includes its checks.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with code 1 and the problems, one per line, if there are any; else print the plan of the run."""
        with_stages = not OmegaConf.select(config, "trainer.use_v1")  # V1: the callback warns, with the run's own total
        try:
            preflight.stop_at(composing.type_problems(config) or preflight_problems(config))
            lines = [f"{label}: {text}" for label, text in summary.plan_of(config)]
            lines += [f"warning: {warning}" for warning in run_checks.warnings_of(config, with_stages=with_stages)]
        except ConfigAttributeError as error:
            preflight.stop_at([composing.missing_key(error)])
            return
        for line in lines:
            print(f"visionr1: {line}", file=sys.stderr, flush=True)  # noqa: T201 - before any log is set up


def preflight_problems(config: DictConfig, *, here: bool = True, is_whole: bool = True) -> list[str]:
    """Everything that would fail later, one line each; empty if the run may start.

    Args:
        here: whether the run will be on this machine, so that its disk and data files have to be here.
        is_whole: whether all of the run's data files are here, so that steps can be counted.
    """
    problems = preflight.reward_problems(config, skip_missing=not here) + model_checks.model_problems(config)
    problems += disk_problems(config) if here else []
    wrong = agreement.number_problems(config)
    if wrong:  # the arithmetic of the other checks would fail
        return problems + wrong
    problems += [*agreement.agreement_problems(config), *checkpoints.resume_problems(config)]
    problems += criteria_trial.criteria_problems(config, checks_range=not here)
    return problems + run_checks.run_problems(config, is_whole=is_whole)


def disk_problems(config: DictConfig) -> list[str]:
    """Too little free disk for checkpoints; one line, or none."""
    directory = Path(str(OmegaConf.select(config, "trainer.default_local_dir") or ".")).expanduser().absolute()
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free / 1e9
    needed = float(os.environ.get("VISIONR1_MIN_FREE_GB", MIN_FREE_GB))
    if free >= needed:
        return []
    return [
        f"trainer.default_local_dir: {free:.1f} GB free on the disk of {directory}, a run needs {needed:g}; "
        "free space, or set trainer.default_local_dir to another disk"
    ]
