"""Alarms of a run: their input from sampled batches, and the lines printed when one starts or ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from shlex import quote
from typing import Any

from omegaconf import OmegaConf

from verl_visionr1.alarms import Batch, reading
from verl_visionr1.plugin.training_state import Progress
from verl_visionr1.rewards.completion import BOX_METRICS
from verl_visionr1.rollouts.judged import Numbering, groups_of
from verl_visionr1.rollouts.records import split_uid
from verl_visionr1.schedule import follow_model

Info = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sampled batch, scored by the reward manager.

    Attributes:
        keys: verl's trajectory keys, `{uid}_{session}_{index}`; a prompt's rollouts share the uid.
        infos: `reward_extra_info` of each trajectory.
        reported: the meaningful numbers of each preset of the run, in the order of "route".
    """

    step: int
    keys: Sequence[str]
    infos: Sequence[Info]
    reported: Sequence[Set[str]]

    def has_boxes(self, info: Info) -> bool:
        """Whether a row is scored by a preset of the run with answers of boxes."""
        route = int(info.get("route", 0.0))
        return 0 <= route < len(self.reported) and self.reported[route] >= set(BOX_METRICS)


def batch_of(sampled: Sampled, stage: int) -> Batch:
    """The alarms' input from a sampled batch; unscored rows only count as such."""
    rows = [info for info in sampled.infos if _is_scored(info)]
    boxes = [info for info in rows if sampled.has_boxes(info)]
    n_predicted, n_target = _sum(boxes, "n_predicted"), _sum(boxes, "n_target")
    return Batch(
        sampled.step,
        stage,
        reward=_mean(boxes, "value"),
        f1=_mean(boxes, "f1_50"),
        boxes=n_predicted / len(boxes) if boxes else None,
        boxes_per_object=n_predicted / n_target if n_target else None,
        distinct_share=_mean(rows, "distinct_share"),
        n_tokens=_mean(rows, "n_tokens"),
        empty=_mean(rows, "empty"),
        clipped=_mean(rows, "clipped"),
        frac_reward_zero_std=_dead_share(sampled),
        unscored=_mean(sampled.infos, "unscored"),
    )


def _sum(rows: Sequence[Info], name: str) -> float:
    return math.fsum([info.get(name, 0.0) for info in rows])


def _mean(rows: Sequence[Info], name: str) -> float | None:
    values = [info[name] for info in rows if name in info]
    return math.fsum(values) / len(values) if values else None


def _is_scored(info: Info) -> bool:
    return "value" in info and not info.get("unscored")


def _dead_share(sampled: Sampled) -> float | None:
    """Share of prompts with several rollouts whose rewards are all equal; None if no prompt has several."""
    prompts, rows = Numbering(), [(k, i) for k, i in zip(sampled.keys, sampled.infos, strict=True) if _is_scored(i)]
    groups = groups_of([prompts[split_uid(key)[0]] for key, _ in rows], [info["value"] for _, info in rows])
    several = groups.several
    return float(groups.is_dead[several].mean()) if several.any() else None


def stage_of(progress: Progress, step: int) -> int:
    """A number that changes whenever a preset, or a gated data source, moves to another stage."""
    context = progress.context(step)
    validation = progress.settings.validation
    stages = [
        context.rule(
            follow_model(preset.schedule, progress.family), validation, is_gated=preset is progress.routes.default
        ).stage
        for preset in progress.routes.presets
    ]
    stages += [progress.rule(step, source).stage for source in context.gates or ()]
    return sum(stages)


def lines_of(progress: Progress, turned: Mapping[str, bool], sampled: Sampled) -> list[str]:
    """One line for each alarm that started or ended with a batch, with its numbers and commands to inspect it."""
    rules, step = progress.alarm_rules, sampled.step
    lines: list[str] = []
    for name, is_on in turned.items():
        numbers = reading(name, rules, progress.alarms) if rules is not None else ""
        if is_on:
            lines.append(f"visionr1: ALARM {name} at step {step}: {numbers}; {look(progress, name, sampled)}")
        else:
            lines.append(f"visionr1: alarm {name} has ended at step {step}: {numbers}")
    return lines


def look(progress: Progress, name: str, sampled: Sampled) -> str:
    """Commands to inspect the cause of an alarm; the step's dump is written when the step ends."""
    config = progress.config
    rollouts, validation = (OmegaConf.select(config, f"trainer.{kind}_data_dir") for kind in ("rollout", "validation"))
    if not rollouts:
        also = f"look at validation: visionr1 gallery {quote(str(validation))}; " if validation else ""
        return f"{also}set trainer.rollout_data_dir=DIR to keep training rollouts for visionr1 gallery DIR"
    line = line_in_dump(name, sampled)
    dump = quote(f"{rollouts}/{sampled.step}.jsonl")
    explained = "" if line is None else f"visionr1 explain {dump} --row {line}, all: "
    return f"look: {explained}visionr1 gallery {quote(str(rollouts))}"


_WORST: Mapping[str, Callable[[Any], float]] = {
    "reward_without_f1": lambda info: info.get("value", 0.0) - info.get("f1_50", 0.0),
    "box_flood": lambda info: info.get("n_predicted", 0.0),
    "repetition": lambda info: -info.get("distinct_share", 1.0),
    "length_growth": lambda info: info.get("n_tokens", 0.0),
    "length_collapse": lambda info: -info.get("n_tokens", 0.0),
    "empty_answers": lambda info: info.get("empty", 0.0),
    "truncation": lambda info: info.get("clipped", 0.0),
    "unscored": lambda info: info.get("unscored", 0.0),
}
_OF_BOXES = ("reward_without_f1", "box_flood")


def line_in_dump(name: str, sampled: Sampled) -> int | None:
    """The line, from 1, of the batch's most significant row in verl's coming dump; None if no row stands out.

    verl sorts a dump by prompt, rollout and output. With padding in the batch, the true line may be a later one.

    >>> batch = Sampled(1, ["b_0_0", "a_0_0"], [{"n_predicted": 9.0}, {"n_predicted": 1.0}], [set(BOX_METRICS)])
    >>> line_in_dump("box_flood", batch)
    2
    """
    if name not in _WORST:
        return None
    infos = [info for _, info in sorted(zip(map(_sort_key, sampled.keys), sampled.infos, strict=True), key=_first)]
    able = [i for i, info in enumerate(infos) if name not in _OF_BOXES or sampled.has_boxes(info)]
    return max(able, key=lambda i: _WORST[name](infos[i])) + 1 if able else None


def _sort_key(key: str) -> tuple[str, int, int]:
    parts = key.rsplit("_", 2)
    return (parts[0], int(parts[1]), int(parts[2])) if len(parts) == 3 else (key, 0, 0)


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]
