"""Check the rewards before Ray starts: bad settings or data stop a run, with one line about what to do.

The checks of the rest of a run are in `verl_visionr1.runtime.preflight`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin import delegation
from verl_visionr1.plugin.config import (
    PREFIX,
    ConfigError,
    Settings,
    misplaced_problems,
    require_supported_verl,
    settings_of,
)
from verl_visionr1.plugin.data_files import DATA_KEYS, READ_BY_VERL, listed_files, parquet_files
from verl_visionr1.plugin.delegation import reward_model_problem
from verl_visionr1.plugin.extensions import load_extensions
from verl_visionr1.plugin.turns import turns_problem
from verl_visionr1.rewards import RewardError, Routes
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import CONVERT_AGAIN, METADATA_KEY, RowsError, open_parquet, read_rows, target_of
from verl_visionr1.targets import TargetError


class Preflight(Callback):
    """Hydra callback in the process that the user started; named by `+visionr1@_global_=progressive`."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with code 1 and the problems, one per line, if there are any."""
        stop_at(reward_problems(config))


def stop_at(problems: Sequence[str]) -> None:
    """End the process with exit code 1 if there are problems.

    Raises:
        SystemExit: not an ordinary exception, which hydra would turn into a warning.
    """
    if problems:
        raise SystemExit("\n".join(f"visionr1: {problem}" for problem in problems))


def reward_problems(config: DictConfig) -> list[str]:
    """Problems of the rewards, one line each; empty if the run may start."""
    problems = misplaced_problems(config)
    if not delegation.is_own_manager(config):  # verl's own rewards, with rows of their own
        problem = delegation.manager_problem(config)
        return [*problems, problem] if problem else problems
    problem = reward_model_problem(config)
    problems += [problem] if problem else []
    try:
        require_supported_verl()
        settings = settings_of(config)
    except ConfigError as error:
        return [str(error), *problems]
    try:
        load_extensions(config, settings)
    except ConfigError as error:
        problems.insert(0, str(error))
    return [*problems, *_check_turns(config, settings), *_check_data(config, settings)]


def _check_turns(config: DictConfig, settings: Settings) -> list[str]:
    """Problems of agent loops, of the config or of rows, whose turns the reward cannot distinguish."""
    loops = [None, *sorted({name for file in parquet_files(config) for name in _agent_loops(file)})]
    return [problem for loop in loops if (problem := turns_problem(config, settings, loop))]


def _agent_loops(file: Path) -> set[str]:
    """The agent loops of a file's rows."""
    try:
        with open_parquet(file) as parquet:
            if "agent_name" not in parquet.schema_arrow.names:
                return set()
        return {str(row["agent_name"]) for row in read_rows(file, columns=["agent_name"]) if row["agent_name"]}
    except RowsError:
        return set()  # `_check_data` reports it


def _check_data(config: DictConfig, settings: Settings) -> list[str]:
    problems = delegation.delegation_problems(config, settings.delegate)
    image_key = str(OmegaConf.select(config, "data.image_key"))
    is_own_class = bool(OmegaConf.select(config, "data.custom_cls.path"))
    for key in DATA_KEYS:
        others = [] if is_own_class else [file for file in listed_files(config, key) if not file.endswith(READ_BY_VERL)]
        problems += [f"{key}={file}: verl reads {', '.join(READ_BY_VERL)}; convert it" for file in others]
        for path in parquet_files(config, key):
            problem = _file_problem(path, settings.routing, settings.delegate) or _image_problem(path, image_key)
            if problem:
                problems.append(f"{key}: {problem}")
    return problems


def _file_problem(file: Path, routes: Routes, delegate: Sequence[str] = ()) -> str | None:
    """Why the reward cannot score a file. Checks less than `tools.doctor`: other columns are the user's."""
    columns = ["reward_model", *(["data_source"] if routes.by_source or delegate else []), *routes.column[:1]]
    number, row = -1, dict[str, Any]()
    try:
        for row in read_rows(file, columns=columns):
            number += 1
            source = str(row.get("data_source", ""))
            if not is_delegated(delegate, source):
                routes.preset_for(target_of(row), source, row)
    except RowsError as error:
        return str(error)
    except TargetError as error:
        return f"{file}: row {number}: {error}; {_advice(file, number, row)}"
    except RewardError as error:
        return f"{file}: row {number}: {error}; change {PREFIX}.routes, or the row"
    return None


def _advice(file: Path, number: int, row: Mapping[str, Any]) -> str:
    """What to do about a ground truth that is no target: convert the file, or leave its rows to verl's own reward."""
    with open_parquet(file) as parquet:
        names, metadata = parquet.schema_arrow.names, parquet.schema_arrow.metadata or {}
    truth = row["reward_model"].get("ground_truth") if isinstance(row["reward_model"], Mapping) else None
    is_target = isinstance(truth, str) and truth.lstrip().startswith("{")
    if "data_source" not in names or (is_target and METADATA_KEY in metadata):
        return CONVERT_AGAIN
    source = next(islice(read_rows(file, columns=["data_source"]), number, None))["data_source"]
    return (
        f"convert the file with `visionr1 convert`, or set {delegation.KEY}=[{source}] to score these rows by verl's "
        "own reward"
    )


def _image_problem(file: Path, image_key: str) -> str | None:
    """Message about a missing image column: verl would train on text alone."""
    with open_parquet(file) as parquet:
        names = parquet.schema_arrow.names
    held = [name for name in ("images", "image") if name in names]
    if image_key in names or not held:
        return None
    return f"{file}: no column {image_key!r}: verl would train without images; set data.image_key={held[0]}"
