"""Check a run's length, rows and settings against each other: problems and warnings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.frames import FRAMES
from verl_visionr1.plugin.config import PREFIX, Settings, valid_settings
from verl_visionr1.plugin.data_files import DATA_KEYS, complete_files, listed_files, reward_rows
from verl_visionr1.plugin.delegation import TELLS, delegation_notes, is_own_manager
from verl_visionr1.plugin.run_facts import resumed_from
from verl_visionr1.plugin.stages import stage_warnings, total_steps_warning
from verl_visionr1.rewards.context import STATE_FILE
from verl_visionr1.runtime import idle_settings, run_length, run_rows
from verl_visionr1.runtime.checkpoints import resume_notes
from verl_visionr1.runtime.parts import filter_metric
from verl_visionr1.schedule import follow_model


def run_problems(config: DictConfig, *, is_whole: bool = True) -> list[str]:
    """Problems that would stop the run, or change what it trains; one line each.

    Args:
        is_whole: whether all of the run's data files are here, so that steps can be counted.
    """
    problems = [*run_rows.row_problems(config), *idle_settings.idle_problems(config)]
    settings = valid_settings(config)
    if settings is not None and settings.gate is not None and _scores_no_row(config, settings):
        problems.append(
            f"{PREFIX}.schedule.kind=gated: no row of data.train_files is scored by preset {settings.reward.name}, so "
            f"the gate would never move; change {PREFIX}.preset or .routes, or use another kind of schedule"
        )
    return problems + (run_length.length_problems(config) if is_whole else [])


def warnings_of(config: DictConfig, *, with_stages: bool = True) -> list[str]:
    """Valid settings that may not be intended; one line each.

    Args:
        with_stages: also stages that the run does not reach.
    """
    warnings = [*run_rows.row_notes(config), *run_length.length_notes(config), *idle_settings.idle_notes(config)]
    warnings += [*resume_notes(config), *_unread_notes(config)]
    settings = valid_settings(config)
    if settings is not None and is_own_manager(config):
        warnings += _reward_notes(config, settings)
    return [*warnings, *_schedule_warnings(config)] if with_stages else warnings


def _chosen_presets(config: DictConfig, settings: Settings) -> Counter[tuple[str, float]] | None:
    """Training rows by name and index of their preset; None if not all can be read."""
    rows = [reward_rows(file, settings) for file in complete_files(config, "data.train_files")]
    if not rows or any(each.problem for each in rows):
        return None
    return sum((each.presets for each in rows), Counter[tuple[str, float]]())


def _scores_no_row(config: DictConfig, settings: Settings) -> bool:
    """Whether the run's default preset scores no training row; false if unknown."""
    presets = _chosen_presets(config, settings)
    return presets is not None and not any(index == 0.0 for _, index in presets)


def _reward_notes(config: DictConfig, settings: Settings) -> Iterator[str]:
    """Settings of the rewards that fit the model or the rows badly."""
    presets = _chosen_presets(config, settings) or Counter()
    if settings.gate is None and any(index < 0 for _, index in presets) and _scores_no_row(config, settings):
        scored = ", ".join(f"{name} ({n} row{'s' * (n > 1)})" for (name, _), n in presets.most_common())
        name = settings.reward.name
        yield f"{PREFIX}.preset: {name} scores no row of data.train_files; these do, by the rows' tasks: {scored}"
    name = run_rows.guess_model_frame(config)
    if settings.frame != "auto" and name:
        given, own = FRAMES[settings.frame], FRAMES[name]
        if (given.extent, given.side) != (own.extent, own.side):
            model = config.actor_rollout_ref.model.path
            yield f"{PREFIX}.frame={given.name}, but {model} writes {name} boxes unless tuned otherwise; leave it out"
    metric = filter_metric(config)
    if settings.delegate and metric and metric not in ("reward", *TELLS):
        yield (
            f"algorithm.filter_groups.metric={metric}: rows of {PREFIX}.delegate report 0 for it, so all their groups "
            "are filtered out; use reward or acc"
        )
    yield from delegation_notes(config, settings)


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
    schedule = follow_model(settings.reward.schedule, run_rows.guess_frame(config, settings) or run_rows.NO_FRAME)
    return [*warnings, *stage_warnings(schedule, total, length.last_step)] if total else warnings


def _checkpoint_total(config: DictConfig) -> int | None:
    """Steps that counted as the whole of training in the run that wrote the checkpoint."""
    step = resumed_from(config)
    try:
        return None if step is None else json.loads((step / STATE_FILE).read_text()).get("total_steps")
    except (OSError, ValueError):
        return None
