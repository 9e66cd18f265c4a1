"""Check the rewards before Ray starts: bad settings or data stop a run, with one line about what to do.

The checks of the rest of a run are in `verl_visionr1.runtime.preflight`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin import delegation
from verl_visionr1.plugin.config import (
    ConfigError,
    Settings,
    misplaced_problems,
    require_supported_verl,
    settings_of,
)
from verl_visionr1.plugin.data_files import DATA_KEYS, READ_BY_VERL, listed_files, parquet_files, reward_rows
from verl_visionr1.plugin.extensions import load_extensions
from verl_visionr1.plugin.run_facts import gate_problem
from verl_visionr1.plugin.turns import turns_problem
from verl_visionr1.rows import schema_of


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


def reward_problems(config: DictConfig, *, skip_missing: bool = False) -> list[str]:
    """Problems of the rewards, one line each; empty if the run may start.

    Args:
        skip_missing: whether data files that are not here are passed over.
    """
    problems = misplaced_problems(config)
    if not delegation.is_own_manager(config):  # verl's own rewards, with rows of their own
        problem = delegation.manager_problem(config)
        return [*problems, problem] if problem else problems
    problem = delegation.reward_model_problem(config)
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
    problem = gate_problem(config, settings)
    problems += [problem] if problem else []
    return problems + data_problems(config, settings, skip_missing=skip_missing)


def data_problems(config: DictConfig, settings: Settings, *, skip_missing: bool = False) -> list[str]:
    """Rows that the reward cannot score, agent loops whose turns it cannot distinguish, files that verl cannot read."""
    problems = delegation.delegation_problems(config, settings)
    image_key = str(OmegaConf.select(config, "data.image_key") or "images")
    loops: set[str] = set()
    for key in DATA_KEYS:
        others = [file for file in listed_files(config, key) if not file.endswith(READ_BY_VERL)]
        if not OmegaConf.select(config, "data.custom_cls.path"):
            problems += [f"{key}={file}: verl reads {', '.join(READ_BY_VERL)}; convert it" for file in others]
        for path in parquet_files(config, key):
            if skip_missing and not path.is_file():
                continue
            rows = reward_rows(path, settings)
            loops |= rows.agent_loops
            problem = rows.problem or _image_problem(path, image_key)
            problems += [f"{key}: {problem}"] if problem else []
    asked = [turns_problem(config, settings, loop) for loop in (None, *sorted(loops))]
    return [*(problem for problem in asked if problem), *problems]


def _image_problem(file: Path, image_key: str) -> str | None:
    """Message about a missing image column: verl would train on text alone."""
    names = schema_of(file).names
    held = [name for name in ("images", "image") if name in names]
    if image_key in names or not held:
        return None
    return f"{file}: no column {image_key!r}: verl would train without images; set data.image_key={held[0]}"
