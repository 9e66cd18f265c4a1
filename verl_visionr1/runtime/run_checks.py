"""Check a run's length, rows and settings against each other: problems and warnings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.frames import FRAMES
from verl_visionr1.plugin.config import PREFIX, Settings, filtered_gate_problem, valid_settings
from verl_visionr1.plugin.data_files import DATA_KEYS, complete_files, listed_files
from verl_visionr1.plugin.delegation import delegation_notes, is_own_manager
from verl_visionr1.plugin.stages import stage_warnings, total_steps_warning
from verl_visionr1.rewards import Preset, RewardError
from verl_visionr1.rewards.context import STATE_FILE
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import RowsError, read_rows, target_of
from verl_visionr1.runtime import idle_settings, run_length, run_rows
from verl_visionr1.runtime.checkpoints import resume_notes, resumed_step
from verl_visionr1.schedule import follow_model
from verl_visionr1.targets import TargetError


def run_problems(config: DictConfig, *, is_whole: bool = True) -> list[str]:
    """Problems that would stop the run, or change what it trains; one line each.

    Args:
        is_whole: whether the config names all of the run's data files, so that steps can be counted.
    """
    problems = [*run_rows.row_problems(config), *idle_settings.idle_problems(config), *_gate_problems(config)]
    return problems + (run_length.length_problems(config) if is_whole else [])


def warnings_of(config: DictConfig, *, with_stages: bool = True) -> list[str]:
    """Valid settings that may not be intended; one line each.

    Args:
        with_stages: also stages that the run does not reach.
    """
    warnings = [*run_rows.row_notes(config), *run_length.length_notes(config), *idle_settings.idle_notes(config)]
    warnings += [*resume_notes(config), *_reward_notes(config), *_unread_notes(config)]
    return [*warnings, *_schedule_warnings(config)] if with_stages else warnings


def _gate_problems(config: DictConfig) -> list[str]:
    """A gate that is moved by the wrong rows, or by none."""
    settings = valid_settings(config)
    if settings is None or settings.gate is None:
        return []
    problem = filtered_gate_problem(config, settings)
    files = complete_files(config, "data.train_files")
    if problem is None and files and not _has_own_rows(files, settings):
        name = settings.reward.name
        problem = (
            f"{PREFIX}.schedule.kind=gated: no row of data.train_files is scored by preset {name}, so the gate "
            f"would never move; change {PREFIX}.preset or .routes, or use another kind of schedule"
        )
    return [] if problem is None else [problem]


def _has_own_rows(files: Sequence[Path], settings: Settings) -> bool:
    """Whether the run's default preset scores a row of the files; true if unknown."""
    try:
        return any(preset is settings.routing.default for file in files for preset in _chosen_presets(file, settings))
    except (RowsError, TargetError, RewardError):  # the preflight reports it
        return True


def _chosen_presets(file: Path, settings: Settings) -> Iterator[Preset]:
    """The preset of each row that is not delegated."""
    routes = settings.routing
    columns = ["reward_model", *(["data_source"] if routes.by_source or settings.delegate else []), *routes.column[:1]]
    for row in read_rows(file, columns=columns):
        source = str(row.get("data_source", ""))
        if not is_delegated(settings.delegate, source):
            yield routes.preset_for(target_of(row), source, row)


def _reward_notes(config: DictConfig) -> list[str]:
    """Settings of the rewards that fit the model or the rows badly."""
    settings = valid_settings(config)
    if settings is None or not is_own_manager(config):
        return []
    notes = [_preset_note(config, settings), _frame_note(config, settings)]
    return [note for note in notes if note] + delegation_notes(config, settings.delegate)


def _preset_note(config: DictConfig, settings: Settings) -> str:
    """A preset that scores no row, where other rows fall back to their task's default; "" for none."""
    files = complete_files(config, "data.train_files")
    if settings.gate is not None or not files or _has_own_rows(files, settings):
        return ""
    presets = [preset for file in files for preset in _chosen_presets(file, settings)]
    if all(settings.routing.index(preset) >= 0 for preset in presets):  # routes choose all of them
        return ""
    counts = Counter(preset.name for preset in presets)
    scored = ", ".join(f"{name} ({n} row{'s' * (n > 1)})" for name, n in counts.most_common())
    name = settings.reward.name
    return f"{PREFIX}.preset: {name} scores no row of data.train_files; these do, by the rows' tasks: {scored}"


def _frame_note(config: DictConfig, settings: Settings) -> str:
    """A frame with other coordinates than the model's own; "" for none."""
    family = run_rows.model_family(config)
    if settings.frame == "auto" or not family:
        return ""
    given, own = FRAMES[settings.frame], FRAMES[family]
    if (given.extent, given.side) == (own.extent, own.side):
        return ""
    model = config.actor_rollout_ref.model.path
    return f"{PREFIX}.frame={given.name}, but {model} writes {family} boxes unless tuned otherwise; leave it out"


def _unread_notes(config: DictConfig) -> list[str]:
    """Data whose rows are not checked."""
    own = OmegaConf.select(config, "data.custom_cls.path")
    notes = [f"data.custom_cls.path={own}: what this class makes of the rows is not checked"] if own else []
    return notes + [
        f"{key}={file}: not read here; only parquet rows are checked"
        for key in DATA_KEYS
        for file in listed_files(config, key)
        if file.endswith((".json", ".jsonl"))
    ]


def _schedule_warnings(config: DictConfig) -> list[str]:
    """Stages that the run does not reach, by the total steps of its checkpoint."""
    settings, length = valid_settings(config), run_length.length_of(config)
    if settings is None or settings.is_off or settings.gate is not None or not length.last_step:
        return []
    total = settings.total_steps or length.total_steps
    warnings: list[str] = []
    kept = _checkpoint_total(config)
    if kept is not None and settings.total_steps is None and kept != total:
        warnings, total = [total_steps_warning(total or 0, kept)], kept
    schedule = follow_model(settings.reward.schedule, run_rows.guess_family(config, settings) or "")
    return [*warnings, *stage_warnings(schedule, total, length.last_step)] if total else warnings


def _checkpoint_total(config: DictConfig) -> int | None:
    """Steps that counted as the whole of training in the run that wrote the checkpoint."""
    step = resumed_step(config)
    try:
        state = json.loads((step / STATE_FILE).read_text()) if step is not None else {}
    except (OSError, ValueError):
        return None
    total = state.get("total_steps")
    return total if isinstance(total, int) else None
