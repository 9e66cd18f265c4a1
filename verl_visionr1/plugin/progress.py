"""The progress callback: it stamps, logs and keeps the progressive rule, in the trainer's process.

verl has no callback of this kind, so three of its hooks, all in one process, share one `Progress`:

* `VisionR1AgentLoopManager` stamps each dispatched batch with its `Context`;
* `make_replay_buffer` wraps verl's own buffer and logs what the batch scored, in the step's training metrics;
* `ProgressCheckpoint` writes the state beside each checkpoint, from where it is restored.

`+visionr1@_global_=progressive` names all three. Nothing but `Progress` has state.
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.utils import tensordict_utils as tu
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

from verl_visionr1.gate import Gates
from verl_visionr1.plugin.config import settings_of
from verl_visionr1.plugin.context import WIRE_KEY, Context, Rule, context_at
from verl_visionr1.plugin.reward_manager import total_steps_of
from verl_visionr1.rewards import COMMON_METRICS, Preset
from verl_visionr1.rewards.judge import BOX_METRICS, BOX_TASKS

logger = logging.getLogger(__name__)

STATE_FILE = "visionr1_progress.json"
"""In each checkpoint directory `global_step_N`."""
POLL_SECONDS = 0.5
"""How often the buffer looks for finished rollouts; with verl's own 2 s a short step waits up to 2 s for nothing."""
PREFIX = "visionr1"
"""Of the training metrics' names."""


class Progress:
    """How far training is, and what counts there: the one place that has state.

    The total is pinned by the first run: a checkpoint brings it along, so that a run that is extended later does not
    fall back to an easier stage. `reward.reward_kwargs.visionr1.total_steps` overrules it. Gates move here, on what
    the sampled batches scored.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.settings = settings_of(config)
        self.routes = self.settings.routing
        self.schedule = self.settings.reward.schedule
        gate = self.settings.gate
        self.gates = None if gate is None else Gates(gate, len(self.schedule.points))
        self.pinned_total: int | None = None
        self.last_stages: dict[str, int] = {}

    @property
    def total_steps(self) -> int | None:
        """Steps that count as the whole of training; None with the rule off."""
        if self.pinned_total is None:
            self.pinned_total = total_steps_of(self.config, self.settings)
        return self.pinned_total

    def context(self, step: int, *, is_validation: bool = False) -> Context:
        """How prompts dispatched at `step` are judged."""
        stages = None if self.gates is None else {source: self.gates.stage(source) for source in self.gates.states}
        return context_at(step, self.total_steps, is_validation=is_validation, gates=stages)

    def rule(self, step: int, data_source: str = "") -> Rule:
        """What counts at `step` for rows that the run's own preset judges."""
        return self.context(step).rule(self.schedule, self.settings.validation, data_source)

    def observe(self, step: int, sources: Sequence[str], infos: Sequence[Mapping[str, float]]) -> None:
        """Move the gates on what a batch scored: each row counts at the stage it was judged at."""
        if self.gates is None:
            return
        metric = self.gates.gate.metric
        scored: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for source, info in zip(sources, infos, strict=True):
            if not info.get("unscored") and self._tells(info):
                scored[int(info["stage"])][source].append(float(info[metric]))
        for stage, values in sorted(scored.items()):
            means = {source: (float(np.mean(each)), len(each)) for source, each in values.items()}
            self.gates = self.gates.advance(step, stage, means)

    def _tells(self, info: Mapping[str, float]) -> bool:
        """Whether a row has the gate's metric: what its preset or its task does not have is reported as 0."""
        assert self.gates is not None
        metric, presets = self.gates.gate.metric, self.routes.presets
        if metric not in info or "stage" not in info:
            return False
        route = int(info.get("route", 0.0))
        if metric in ("iou_mean", "f1_50"):
            tasks = presets[route].tasks if route >= 0 else set(BOX_TASKS) - set(self.routes.default.tasks)
            return not set(BOX_TASKS).isdisjoint(tasks)
        return metric in COMMON_METRICS or (route >= 0 and metric in presets[route].weights)

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps."""
        rule = self.rule(step)
        return {
            "version": 2,
            "step": step,
            "total_steps": self.total_steps,
            "stage": rule.stage,
            "thresholds": asdict(rule.thresholds),
            "gates": None if self.gates is None else self.gates.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        saved = state["total_steps"]
        if saved is None or self.settings.is_off:
            return
        if self.gates is not None and state.get("gates") is not None:
            self.gates = self.gates.with_state(state["gates"])
        own = total_steps_of(self.config, self.settings)
        if self.settings.total_steps is None and own != saved:
            logger.warning("visionr1: this run takes %s steps, the checkpoint's took %s: progress is kept", own, saved)
        self.pinned_total = own if self.settings.total_steps is not None else saved
        was, now = state["thresholds"], asdict(self.rule(state["step"]).thresholds)
        if was != now and isinstance(was, Mapping):
            logger.warning("visionr1: thresholds at step %s were %s and are now %s", state["step"], was, now)

    def describe(self, step: int) -> str:
        """One line for the log."""
        rule = self.rule(max(step, 1))
        kind = "gated on " + self.gates.gate.metric if self.gates is not None else "schedule"
        points = " ".join(f"{at:g}:{_short(thresholds)}" for at, thresholds in self.schedule.points)
        presets = ", ".join(preset.name for preset in self.routes.presets)
        return (
            f"visionr1: preset {presets}, {self.total_steps} steps, {kind} ({points}), "
            f"at step {step}: stage {rule.stage} {_short(rule.thresholds)}"
        )


def _short(thresholds: Any) -> str:
    return f"{thresholds.match_iou:g}/{thresholds.iou_floor:g}/{thresholds.iou_full:g}"


_progress: Progress | None = None


def progress_of(config: DictConfig) -> Progress:
    """The trainer process's `Progress`; made when the first of the three hooks asks for it."""
    global _progress  # verl makes the three hooks apart and gives them nothing else in common
    if _progress is None or _progress.config is not config:
        _progress = Progress(config)
    return _progress


class VisionR1AgentLoopManager(AgentLoopManagerTQ):
    """Dispatches batches as verl does, each stamped with its context."""

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.progress = progress_of(config)
        step = 0
        checkpoint_dir = resumed_from(config)
        if checkpoint_dir is not None:
            step = self._restore(checkpoint_dir)
        print(self.progress.describe(step), flush=True)  # noqa: T201 - Ray shows an actor's standard output

    def _restore(self, checkpoint_dir: Path) -> int:
        file = checkpoint_dir / STATE_FILE
        if not file.is_file():
            logger.warning("visionr1: no %s: progress counts over this run's own steps", file)
            return int(checkpoint_dir.name.rpartition("_")[2])
        state = json.loads(file.read_text())
        self.progress.restore(state)
        return state["step"]

    def generate_sequences(self, prompts: Any) -> None:
        """Stamp and dispatch."""
        step = int(tu.get_non_tensor_data(prompts, "global_steps", 0))
        is_validation = bool(tu.get_non_tensor_data(prompts, "validate", False))
        context = self.progress.context(step, is_validation=is_validation)
        tu.assign_non_tensor_data(prompts, WIRE_KEY, context.to_wire())
        super().generate_sequences(prompts)


def resumed_from(config: DictConfig) -> Path | None:
    """The checkpoint directory that verl's trainer resumes from, by verl's own rule; None for a fresh start."""
    trainer = config.trainer
    if trainer.resume_mode == "disable":
        return None
    found = trainer.resume_from_path
    if trainer.resume_mode == "auto":
        found = find_latest_ckpt_path(os.path.abspath(trainer.default_local_dir))
    return Path(os.path.abspath(found)) if found else None


class ProgressCheckpoint(CheckpointCallback):
    """Writes the state of `Progress` into each checkpoint directory."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.progress = progress_of(config)

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: Any
    ) -> None:
        """Called by verl after each save. The file is complete or not there at all."""
        file = Path(checkpoint_dir) / STATE_FILE
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(self.progress.state(global_step)))
        os.replace(partial, file)


def make_replay_buffer(**kwargs: Any) -> ReplayBuffer:
    """verl's own buffer for this trainer mode, plus what the sampled batch scored.

    verl leaves the group filter's settings out for a buffer that it did not choose itself; they are put back, so that
    `algorithm.filter_groups` works as ever.
    """
    trainer = kwargs["refill_fn"].__self__
    is_sync = kwargs["trainer_mode"] == "sync"
    base = ReplayBuffer if is_sync else ReplayBufferAsync

    class LoggingReplayBuffer(base):  # type: ignore[misc,valid-type]
        def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
            batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
            if partition_id == "train":
                metrics = {**metrics, **training_metrics(batch, progress_of(trainer.config), global_steps)}
            return batch, metrics

    kwargs.setdefault("poll_interval", POLL_SECONDS)
    return LoggingReplayBuffer(**kwargs, **_filter_settings(trainer.config, trainer, is_sync))


def _filter_settings(config: DictConfig, trainer: Any, is_sync: bool) -> dict[str, Any]:
    """As `PPOTrainer._build_replay_buffer` derives them for its own buffers."""
    metric = trainer._resolve_filter_groups_metric()
    refill = bool(config.trainer.v1.sampler.get("sync_refill_failed_groups", False))
    settings: dict[str, Any] = {"filter_groups_metric": metric, "sync_refill_failed_groups": refill}
    if is_sync:
        batch_size = config.data.train_batch_size
        settings["train_batch_size"] = batch_size
        settings["gen_batch_size"] = 1 if metric or refill else (config.data.get("gen_batch_size", None) or batch_size)
        inflight = OmegaConf.select(config, "algorithm.filter_groups.max_inflight_gen_batches") if metric else None
        settings["max_inflight_gen_batches"] = inflight or 1
    return settings


def training_metrics(batch: Any, progress: Progress, step: int) -> dict[str, float]:
    """What a sampled training batch scored, and what counted there; gates move on it."""
    fields = ["extra_fields", "data_source"]
    rows = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    extra: list[Any] = [getattr(row, "data", row) for row in rows["extra_fields"]]
    sources = [str(getattr(source, "data", source)) for source in rows["data_source"]]
    infos: list[Mapping[str, float]] = [field.get("reward_extra_info", {}) for field in extra]
    metrics = {
        **batch_means(batch.keys, infos, [reported_by(preset) for preset in progress.routes.presets]),
        **_rule_metrics(progress, step, sorted(set(sources))),
    }
    progress.observe(step, sources, infos)
    return metrics


def _rule_metrics(progress: Progress, step: int, sources: Sequence[str]) -> dict[str, float]:
    """Progress, stage and thresholds of a step; with gates each source's stage, and thresholds of the one least far."""
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


NOT_AVERAGED = frozenset({"progress", "stage", "match_iou", "acc", "route", "processed_w", "processed_h"})
"""Keys of a row that `training_metrics` reports otherwise."""


def reported_by(preset: Preset) -> set[str]:
    """The numbers that mean something for the rows of a preset, and not for all rows."""
    return {*preset.weights, *(BOX_METRICS if set(preset.tasks) & set(BOX_TASKS) else ())}


def batch_means(
    keys: Sequence[str], infos: Iterable[Mapping[str, float]], reported: Sequence[Set[str]] = ()
) -> dict[str, float]:
    """Mean of each reported number over a batch, and how much the rewards of a prompt differ.

    Args:
        keys: verl's trajectory keys, `{uid}_{session}_{index}`; a prompt's rollouts share the uid.
        infos: `reward_extra_info` of each trajectory.
        reported: `reported_by` of each preset of the run, in the order of "route"; a row counts in the mean of such a
            number only where its preset reports it.

    Returns:
        `visionr1/<key>/mean`; `visionr1/group_std/mean`: spread of the rewards within a prompt; and
        `visionr1/dead_groups/mean`: share of prompts whose rewards are all equal, which teach nothing.

    >>> batch_means(["a_0_0", "a_1_0"], [{"value": 0.0}, {"value": 1.0}])["visionr1/value/mean"]
    0.5
    """
    columns: dict[str, list[float]] = defaultdict(list)
    groups: dict[str, list[float]] = defaultdict(list)
    not_of_all = set(BOX_METRICS).union(*reported) if reported else set[str]()
    for key, info in zip(keys, infos, strict=True):
        route = int(info.get("route", 0.0))
        absent = not_of_all - reported[route] if 0 <= route < len(reported) else not_of_all
        for name, number in info.items():
            if name not in NOT_AVERAGED and name not in absent:
                columns[name].append(float(number))
        if "value" in info:
            groups[key.split("_")[0]].append(float(info["value"]))
    means = {f"{PREFIX}/{name}/mean": float(np.mean(numbers)) for name, numbers in columns.items()}
    if groups:
        spreads = [float(np.std(values)) for values in groups.values()]
        means[f"{PREFIX}/group_std/mean"] = float(np.mean(spreads))
        means[f"{PREFIX}/dead_groups/mean"] = float(np.mean([spread < 1e-9 for spread in spreads]))
    return means
