"""Metrics and alarms of sampled training batches, for verl's loggers."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from shlex import quote
from typing import Any

import numpy as np
import transfer_queue as tq
from omegaconf import OmegaConf

from verl_visionr1.alarms import Batch, reading
from verl_visionr1.plugin.delegation import TELLS
from verl_visionr1.plugin.training_state import Progress, StepRows
from verl_visionr1.rewards import Preset
from verl_visionr1.rewards.completion import BOX_METRICS, BOX_TASKS
from verl_visionr1.rewards.routing import DELEGATED
from verl_visionr1.rollouts.judged import Groups, Numbering, groups_of
from verl_visionr1.rollouts.records import split_uid
from verl_visionr1.schedule import follow_model

logger = logging.getLogger(__name__)

PREFIX = "visionr1"
"""Prefix of the training metrics' names."""
Info = Mapping[str, float]


def training_metrics(batch: Any, progress: Progress, step: int) -> dict[str, float]:
    """Metrics of a training step: scores and thresholds; also updates gates and alarms.

    For a step that verl samples in parts, the last part reports the whole step, the others nothing (`StepCollector`).

    Raises:
        NothingScoredError: none of the first rows of the run could be scored.
    """
    fields = ["extra_fields", "data_source"]
    rows = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    extra: list[Any] = [getattr(row, "data", row) for row in rows["extra_fields"]]
    sources = [str(getattr(source, "data", source)) for source in rows["data_source"]]
    part = StepRows(list(batch.keys), sources, [field.get("reward_extra_info", {}) for field in extra])
    whole = progress.steps.add(step, part)
    return {} if whole is None else step_metrics(whole, progress, step)


def step_metrics(rows: StepRows, progress: Progress, step: int) -> dict[str, float]:
    """Compute the metrics of a whole step, and pass its rows to the gate and the alarms."""
    _require_scored(rows, progress)
    metrics = {
        **batch_means(rows.keys, rows.infos, progress.routes.presets),
        **_rule_metrics(progress, step, sorted(set(rows.sources))),
        **_budget_metrics(progress, rows.infos),
        **alarm_metrics(progress, step, rows.keys, rows.infos),
    }
    progress.observe(step, rows.sources, rows.infos)
    return metrics


def _require_scored(rows: StepRows, progress: Progress) -> None:
    for key, info in zip(rows.keys, rows.infos, strict=True):
        if info.get("route") == DELEGATED or "unscored" not in info:
            continue  # scored by verl or another reward manager
        reason = 'see "cannot be scored" in the log of the reward workers'
        progress.guard.look(split_uid(key)[0], is_scored=not info["unscored"], reason=reason)


def _rule_metrics(progress: Progress, step: int, sources: Sequence[str]) -> dict[str, float]:
    """Progress, stage and thresholds of a step; with gates each source's stage, and the thresholds of the earliest."""
    context = progress.context(step)
    rules = {source: progress.rule(step, source) for source in (sources if progress.gates is not None else [""])}
    _announce(progress, step, {source: rule.stage for source, rule in rules.items()})
    least = min(rules.values(), key=lambda rule: rule.stage)
    metrics = {
        f"{PREFIX}/stage": float(least.stage),
        f"{PREFIX}/progress": -1.0 if context.progress is None else context.progress,
        **{f"{PREFIX}/threshold/{name}": value for name, value in asdict(least.thresholds).items()},
    }
    if progress.gates is not None:
        metrics |= {f"{PREFIX}/stage/{source}": float(rule.stage) for source, rule in rules.items()}
    return metrics


def _announce(progress: Progress, step: int, stages: Mapping[str, int]) -> None:
    for source, stage in stages.items():
        last = progress.last_stages.get(source)
        if last not in (None, stage):
            where = f" for {source}" if source else ""
            print(f"visionr1: stage {last} -> {stage} at step {step}{where}", flush=True)  # noqa: T201
        progress.last_stages[source] = stage


def _budget_metrics(progress: Progress, infos: Sequence[Info]) -> dict[str, float]:
    """Share of the response budget that answers use."""
    budget, length = OmegaConf.select(progress.config, "data.max_response_length"), _mean(infos, "n_tokens")
    return {f"{PREFIX}/budget_used/mean": length / budget} if budget and length is not None else {}


NOT_AVERAGED = frozenset({"progress", "stage", "match_iou", "acc", "route", "processed_w", "processed_h"})
"""Keys of a row that `training_metrics` reports in another form."""


def reported_by(preset: Preset) -> set[str]:
    """Numbers that are meaningful only for rows of a preset."""
    return {*preset.weights, *(BOX_METRICS if set(preset.tasks) & set(BOX_TASKS) else ())}


def batch_means(keys: Sequence[str], infos: Sequence[Info], presets: Sequence[Preset] = ()) -> dict[str, float]:
    """Mean of each reported number over a batch, and the spread of rewards within prompts.

    Args:
        keys: verl's trajectory keys, `{uid}_{session}_{index}`; a prompt's rollouts share the uid.
        infos: `reward_extra_info` of each trajectory.
        presets: the run's presets, in the order of "route"; a row counts in the mean of a criterion only if its preset
            has it.

    Returns:
        `visionr1/<key>/mean`; `visionr1/group_std/mean`: standard deviation of the rewards within a prompt, as in
        verl; and `visionr1/frac_reward_zero_std/mean`: share of prompts whose rewards are all equal.

    >>> batch_means(["a_0_0", "a_1_0"], [{"value": 0.0}, {"value": 1.0}])["visionr1/value/mean"]
    0.5
    """
    reported = [reported_by(preset) for preset in presets]
    not_of_all = set(BOX_METRICS).union(*reported) if reported else set[str]()
    columns: dict[str, list[float]] = defaultdict(list)
    for info in infos:
        route = int(info.get("route", 0.0))
        absent = not_of_all - reported[route] if 0 <= route < len(reported) else not_of_all
        for name, number in info.items():
            is_told = name in TELLS if route == DELEGATED else name not in absent
            if is_told and name not in NOT_AVERAGED:
                columns[name].append(float(number))
    means = {f"{PREFIX}/{name}/mean": float(np.mean(numbers)) for name, numbers in columns.items()}
    groups = _groups(keys, infos)
    if groups.several.any():
        means[f"{PREFIX}/group_std/mean"] = float(groups.std[groups.several].mean())
        means[f"{PREFIX}/frac_reward_zero_std/mean"] = float(groups.is_dead[groups.several].mean())
    return means


def _groups(keys: Sequence[str], infos: Sequence[Info], *, only_scored: bool = False) -> Groups:
    """The rewards of each prompt."""
    prompts = Numbering()
    rows = [
        (prompts[split_uid(key)[0]], info["value"])
        for key, info in zip(keys, infos, strict=True)
        if "value" in info and not (only_scored and info.get("unscored"))
    ]
    return groups_of([prompt for prompt, _ in rows], [float(reward) for _, reward in rows])


# ------------------------------------------------------------------------------------------------------------- alarms


def alarm_metrics(progress: Progress, step: int, keys: Sequence[str], infos: Sequence[Info]) -> dict[str, float]:
    """1.0 for each active alarm, 0.0 for the others; prints those that start or end. Never raises."""
    if progress.alarm_rules is None:
        return {}
    try:
        batch = batch_of(step, stage_of(progress, step), keys, infos, progress.routes.presets)
        for name, is_on in progress.update_alarms(batch).items():
            numbers = reading(name, progress.alarm_rules, progress.alarms)
            what = f"ALARM {name}" if is_on else f"alarm {name} has ended"
            how = f"; {_look(progress)}" if is_on else ""
            print(f"visionr1: {what} at step {step}: {numbers}{how}", flush=True)  # noqa: T201
    except Exception as error:
        what = type(error).__name__
        logger.warning("visionr1: alarms: %s: %s; no more alarms in this run", what, error, exc_info=True)
        progress.alarm_rules = None
        return {}
    return {f"{PREFIX}/alarm/{name}": float(progress.alarms.is_on(name)) for name in progress.alarm_rules.names}


def batch_of(step: int, stage: int, keys: Sequence[str], infos: Sequence[Info], presets: Sequence[Preset]) -> Batch:
    """The alarms' input from a sampled batch; unscored rows only count as such. See `batch_means`."""
    rows = [info for info in infos if "value" in info and not info.get("unscored")]
    with_boxes = {i for i, preset in enumerate(presets) if set(preset.tasks) & set(BOX_TASKS)}
    boxes = [info for info in rows if int(info.get("route", 0.0)) in with_boxes]
    n_predicted, n_target = (math.fsum([info.get(name, 0.0) for info in boxes]) for name in ("n_predicted", "n_target"))
    groups = _groups(keys, infos, only_scored=True)
    several = groups.several
    return Batch(
        step,
        stage,
        reward=_mean(boxes, "value"),
        f1=_mean(boxes, "f1_50"),
        boxes=n_predicted / len(boxes) if boxes else None,
        boxes_per_object=n_predicted / n_target if n_target else None,
        distinct_share=_mean(rows, "distinct_share"),
        n_tokens=_mean(rows, "n_tokens"),
        empty=_mean(rows, "empty"),
        clipped=_mean(rows, "clipped"),
        frac_reward_zero_std=float(groups.is_dead[several].mean()) if several.any() else None,
        unscored=_mean(infos, "unscored"),
    )


def _mean(rows: Iterable[Info], name: str) -> float | None:
    values = [info[name] for info in rows if name in info]
    return math.fsum(values) / len(values) if values else None


def stage_of(progress: Progress, step: int) -> int:
    """A number that changes whenever a preset, or a gated data source, moves to another stage."""
    context, presets = progress.context(step), progress.routes.presets
    rules = [
        context.rule(
            follow_model(preset.schedule, progress.family), progress.settings.validation, is_gated=preset is presets[0]
        )
        for preset in presets
    ]
    rules += [progress.rule(step, source) for source in context.gates or ()]
    return sum(rule.stage for rule in rules)


def _look(progress: Progress) -> str:
    """The command to inspect an alarm; the step's dump is written when the step ends."""
    rollouts, validation = (
        OmegaConf.select(progress.config, f"trainer.{kind}_data_dir") for kind in ("rollout", "validation")
    )
    if rollouts:
        return f"look: visionr1 gallery {quote(str(rollouts))}"
    also = f"look at validation: visionr1 gallery {quote(str(validation))}; " if validation else ""
    return f"{also}set trainer.rollout_data_dir=DIR to keep training rollouts for visionr1 gallery DIR"
