"""Checks before Ray starts: bad settings, data or disk stop a run in a second, with one line that says what to do."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin import (
    agreement,
    checkpoints,
    delegation,
    image_choice,
    reward_path,
    run_checks,
    summary,
    trainable,
)
from verl_visionr1.plugin.config import PREFIX, ConfigError, require_supported_verl, settings_of
from verl_visionr1.plugin.data_files import DATA_KEYS, parquet_files
from verl_visionr1.plugin.turns import turns_problem
from verl_visionr1.rewards import RewardError, Routes
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import RowsError, open_parquet, read_rows, target_of
from verl_visionr1.targets import TargetError

MIN_FREE_GB = 2.0
"""Checkpoint disk below this stops the run; `VISIONR1_MIN_FREE_GB` changes it."""


class Preflight(Callback):
    """Hydra callback in the process that the user started; named by `+visionr1@_global_=progressive`."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Stop with exit code 1 and the problems, one a line, if there are any."""
        problems = preflight_problems(config)
        for label, text in [] if problems else summary.plan_of(config):
            print(f"visionr1: {label}: {text}", file=sys.stderr, flush=True)  # noqa: T201 - as below
        with_stages = not OmegaConf.select(config, "trainer.use_v1")  # V1: the callback warns, with the run's own total
        for warning in [] if problems else run_checks.warnings_of(config, with_stages=with_stages):
            print(f"visionr1: warning: {warning}", file=sys.stderr, flush=True)  # noqa: T201 - before any log is set up
        if problems:
            # Hydra turns ordinary exceptions of a callback into warnings; SystemExit passes.
            raise SystemExit("\n".join(f"visionr1: {problem}" for problem in problems))


def preflight_problems(config: DictConfig, *, here: bool = True, is_whole: bool = True) -> list[str]:
    """Everything that would fail later, each in one line; empty when the run may start.

    Args:
        config: verl's whole config.
        here: whether the run will be on this machine, so that its disk counts.
        is_whole: whether the config names all of the run's data files, so that steps can be counted.
    """
    checks = (_check_settings, _check_turns, _check_model, _check_data, agreement.agreement_problems, *_OF_MODULES)
    problems = [problem for check in (*checks, checkpoints.resume_problems) for problem in check(config)]
    problems += run_checks.run_problems(config, is_whole=is_whole)
    return problems + (disk_problems(config) if here else [])


_OF_MODULES = (reward_path.reward_path_problems, trainable.family_problems, image_choice.image_choice_problems)


def _check_settings(config: DictConfig) -> list[str]:
    try:
        require_supported_verl()
        settings_of(config)
    except ConfigError as error:
        return [str(error)]
    return []


def _check_turns(config: DictConfig) -> list[str]:
    """Agent loops, of the config or named by rows, whose turns the reward cannot tell apart."""
    try:
        settings = settings_of(config)
    except ConfigError:
        return []  # `_check_settings` says it
    loops = [None, *sorted({name for file in parquet_files(config) for name in _agent_loops(file)})]
    return [problem for loop in loops if (problem := turns_problem(config, settings, loop))]


def _agent_loops(file: Path) -> set[str]:
    """The agent loops that the rows of a file name."""
    try:
        with open_parquet(file) as parquet:
            if "agent_name" not in parquet.schema_arrow.names:
                return set()
        return {str(row["agent_name"]) for row in read_rows(file, columns=["agent_name"]) if row["agent_name"]}
    except RowsError:
        return set()  # `_check_data` says it


def _check_model(config: DictConfig) -> list[str]:
    path = OmegaConf.select(config, "actor_rollout_ref.model.path")
    if path and os.path.isabs(os.path.expanduser(path)) and not Path(path).expanduser().is_dir():
        return [f"actor_rollout_ref.model.path={path}: no such directory"]
    return []


def _check_data(config: DictConfig) -> list[str]:
    try:
        settings = settings_of(config)
    except ConfigError:
        return []  # `_check_settings` says it
    problems = delegation.delegation_problems(config, settings.delegate)
    image_key = str(OmegaConf.select(config, "data.image_key"))
    for key in DATA_KEYS:
        for path in parquet_files(config, key):
            problem = _file_problem(path, settings.routing, settings.delegate) or _image_problem(path, image_key)
            if problem:
                problems.append(f"{key}: {problem}")
    return problems


def _file_problem(file: Path, routes: Routes, delegate: Sequence[str] = ()) -> str | None:
    """Why the reward cannot judge a file. Asks less than `tools.doctor`: other columns are the user's own."""
    columns = ["reward_model", *(["data_source"] if routes.by_source or delegate else []), *routes.column[:1]]
    number = -1
    try:
        for row in read_rows(file, columns=columns):
            number += 1
            source = str(row.get("data_source", ""))
            if not is_delegated(delegate, source):
                routes.preset_for(target_of(row), source, row)
    except RowsError as error:
        return str(error)
    except TargetError as error:
        return f"{file}: row {number}: reward_model.{error}; convert the file again with a script of data_preprocess/"
    except RewardError as error:
        return f"{file}: row {number}: {error}; change {PREFIX}.routes, or the row"
    return None


def _image_problem(file: Path, image_key: str) -> str | None:
    """verl takes rows without the column for rows without an image, and trains on the text alone."""
    with open_parquet(file) as parquet:
        names = parquet.schema_arrow.names
    held = [name for name in ("images", "image") if name in names]
    if image_key in names or not held:
        return None
    return f"{file}: no column {image_key!r}: verl would train without images; set data.image_key={held[0]}"


def disk_problems(config: DictConfig) -> list[str]:
    """Too little room for checkpoints where they are written; one line, or none."""
    directory = Path(str(OmegaConf.select(config, "trainer.default_local_dir") or ".")).expanduser().absolute()
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free / 1e9
    needed = float(os.environ.get("VISIONR1_MIN_FREE_GB", MIN_FREE_GB))
    if free < needed:
        return [
            f"trainer.default_local_dir: {free:.1f} GB free on the disk of {directory}, a run needs {needed:g}; "
            "free some, or set trainer.default_local_dir to another disk"
        ]
    return []
