"""Metrics of sampled training batches for verl's loggers."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict
from typing import Any

import numpy as np
import transfer_queue as tq
from omegaconf import OmegaConf

from verl_visionr1.plugin.alarm_log import Sampled, batch_of, lines_of, stage_of
from verl_visionr1.plugin.delegation import TELLS
from verl_visionr1.plugin.training_state import Progress, StepRows
from verl_visionr1.rewards import Preset
from verl_visionr1.rewards.completion import BOX_METRICS, BOX_TASKS
from verl_visionr1.rewards.routing import DELEGATED
from verl_visionr1.rollouts.judged import Numbering, groups_of
from verl_visionr1.rollouts.records import split_uid

logger = logging.getLogger(__name__)

PREFIX = "visionr1"
"""Prefix of the training metrics' names."""


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
    """Like `training_metrics`, for a whole step."""
    _require_scored(rows, progress)
    reported = [reported_by(preset) for preset in progress.routes.presets]
    metrics = {
        **batch_means(rows.keys, rows.infos, reported),
        **_rule_metrics(progress, step, sorted(set(rows.sources))),
        **_budget_metrics(progress, rows.infos),
        **alarm_metrics(progress, Sampled(step, rows.keys, rows.infos, reported)),
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


def _budget_metrics(progress: Progress, infos: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Share of the response budget that answers use."""
    budget = OmegaConf.select(progress.config, "data.max_response_length")
    lengths = [info["n_tokens"] for info in infos if "n_tokens" in info]
    return {f"{PREFIX}/budget_used/mean": float(np.mean(lengths)) / budget} if budget and lengths else {}


def alarm_metrics(progress: Progress, sampled: Sampled) -> dict[str, float]:
    """1.0 for each active alarm, 0.0 for the others; prints those that start or end. Never raises."""
    if progress.alarm_rules is None:
        return {}
    try:
        turned = progress.update_alarms(batch_of(sampled, stage_of(progress, sampled.step)))
        for line in lines_of(progress, turned, sampled):
            print(line, flush=True)  # noqa: T201 - Ray shows an actor's standard output
    except Exception as error:
        what = type(error).__name__
        logger.warning("visionr1: alarms: %s: %s; no more alarms in this run", what, error, exc_info=True)
        progress.alarm_rules = None
        return {}
    return {f"{PREFIX}/alarm/{name}": float(progress.alarms.is_on(name)) for name in progress.alarm_rules.names}


def _announce(progress: Progress, step: int, stages: Mapping[str, int]) -> None:
    for source, stage in stages.items():
        last = progress.last_stages.get(source)
        if last not in (None, stage):
            where = f" for {source}" if source else ""
            print(f"visionr1: stage {last} -> {stage} at step {step}{where}", flush=True)  # noqa: T201
        progress.last_stages[source] = stage


NOT_AVERAGED = frozenset({"progress", "stage", "match_iou", "acc", "route", "processed_w", "processed_h"})
"""Keys of a row that `training_metrics` reports in another form."""


def reported_by(preset: Preset) -> set[str]:
    """Numbers that are meaningful only for rows of a preset."""
    return {*preset.weights, *(BOX_METRICS if set(preset.tasks) & set(BOX_TASKS) else ())}


def batch_means(
    keys: Sequence[str], infos: Iterable[Mapping[str, float]], reported: Sequence[Set[str]] = ()
) -> dict[str, float]:
    """Mean of each reported number over a batch, and the spread of rewards within prompts.

    Args:
        keys: verl's trajectory keys, `{uid}_{session}_{index}`; a prompt's rollouts share the uid.
        infos: `reward_extra_info` of each trajectory.
        reported: `reported_by` of each preset of the run, in the order of "route"; a row counts in the mean of such a
            number only if its preset reports it.

    Returns:
        `visionr1/<key>/mean`; `visionr1/group_std/mean`: standard deviation of the rewards within a prompt, as in
        verl; and `visionr1/frac_reward_zero_std/mean`: share of prompts whose rewards are all equal.

    >>> batch_means(["a_0_0", "a_1_0"], [{"value": 0.0}, {"value": 1.0}])["visionr1/value/mean"]
    0.5
    """
    columns: dict[str, list[float]] = defaultdict(list)
    prompts, groups, rewards = Numbering(), list[int](), list[float]()
    not_of_all = set(BOX_METRICS).union(*reported) if reported else set[str]()
    for key, info in zip(keys, infos, strict=True):
        route = int(info.get("route", 0.0))
        absent = not_of_all - reported[route] if 0 <= route < len(reported) else not_of_all
        for name, number in info.items():
            if route == DELEGATED and name not in TELLS:
                continue
            if name not in NOT_AVERAGED and name not in absent:
                columns[name].append(float(number))
        if "value" in info:
            groups.append(prompts[split_uid(key)[0]])
            rewards.append(float(info["value"]))
    means = {f"{PREFIX}/{name}/mean": float(np.mean(numbers)) for name, numbers in columns.items()}
    if groups:
        found = groups_of(groups, rewards)
        several = found.several
        if several.any():
            means[f"{PREFIX}/group_std/mean"] = float(found.std[several].mean())
            means[f"{PREFIX}/frac_reward_zero_std/mean"] = float(found.is_dead[several].mean())
    return means
