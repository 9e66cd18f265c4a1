"""The progress callback, in the trainer's process: passes thresholds to rows, logs and saves progress.

verl has no such callback, so three of its hooks in one process share one `Progress`:

* `VisionR1AgentLoopManager` stamps each dispatched batch with its `Context`;
* `make_replay_buffer` wraps verl's own buffer and logs the batch's scores in the step's training metrics;
* `ProgressCheckpoint` writes the state beside each checkpoint, from where it is restored. The buffer has already
  written it, so that a run killed while saving loses nothing.

`+visionr1@_global_=progressive` names all three. Extensions of a run are called from here: see `extensions`.
"""

from __future__ import annotations

import importlib
import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.utils import tensordict_utils as tu

from verl_visionr1.files import write_whole
from verl_visionr1.plugin.run_facts import resumed_from
from verl_visionr1.plugin.run_record import write_record
from verl_visionr1.plugin.training_metrics import training_metrics
from verl_visionr1.plugin.training_state import Progress
from verl_visionr1.rewards.context import STATE_FILE, WIRE_KEY
from verl_visionr1.rollouts.places import step_number

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Seconds between polls for finished rollouts; with verl's own 2 s a short step may wait 2 s in vain."""

_progress: Progress | None = None


def progress_of(config: DictConfig) -> Progress:
    """The `Progress` of the trainer's process; made at the first use by one of the three hooks."""
    global _progress  # verl makes the three hooks separately, without a shared object
    if _progress is None or _progress.config is not config:
        _progress = Progress(config)
    return _progress


class VisionR1AgentLoopManager(AgentLoopManagerTQ):
    """Dispatches batches as verl does, each with its context."""

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.progress = progress_of(config)
        for part in self.progress.extensions:
            self.reward_loop_worker_handles = part.reward_workers(self.reward_loop_worker_handles)
        step = 0
        checkpoint_dir = resumed_from(config)
        if checkpoint_dir is not None:
            step = self._restore(checkpoint_dir)
        write_record(config, self.progress.settings, from_step=step + 1, total_steps=self.progress.total_steps)
        reason = [f"visionr1: {self.progress.reason}"] if self.progress.reason else []
        warnings = [f"visionr1: WARNING: {warning}" for warning in self.progress.warn()]
        for line in (self.progress.describe(step), *reason, *warnings):
            print(line, flush=True)  # noqa: T201 - Ray shows an actor's standard output

    def _restore(self, checkpoint_dir: Path) -> int:
        file = checkpoint_dir / STATE_FILE
        if not file.is_file():
            lost = "" if self.progress.gates is None else ", and every gate begins at stage 0"
            self.progress.warnings.append(f"no {file}: progress counts over this run's own steps{lost}")
            return step_number(checkpoint_dir)
        state = json.loads(file.read_text())
        self.progress.restore(state)
        return state["step"]

    def generate_sequences(self, prompts: Any) -> None:
        """Add the context and dispatch."""
        step = int(tu.get_non_tensor_data(prompts, "global_steps", 0))
        is_validation = bool(tu.get_non_tensor_data(prompts, "validate", False))
        context = self.progress.context(step, is_validation=is_validation)
        tu.assign_non_tensor_data(prompts, WIRE_KEY, context.to_wire())
        super().generate_sequences(prompts)


class _NoCallback:
    """Stands for verl's class in 0.9.0, which has none; never called."""

    def __init__(self, config: DictConfig | None = None) -> None:
        self.config = config


def _callback_class() -> type[Any]:
    """verl's `CheckpointCallback`."""
    try:
        return importlib.import_module("verl.trainer.ppo.checkpoint_callback").CheckpointCallback
    except ModuleNotFoundError:
        logger.warning("visionr1: no checkpoint callback in this verl: a resumed run resets progress, gates and alarms")
        return _NoCallback


class ProgressCheckpoint(_callback_class()):  # type: ignore[misc]
    """Writes the state of `Progress` into each checkpoint directory."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.progress = progress_of(config)

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: Any
    ) -> None:
        """Called by verl after each save; writes atomically."""
        write_state(self.progress, global_step, Path(checkpoint_dir))


def write_state(progress: Progress, step: int, checkpoint_dir: Path) -> None:
    """Write the state after a step into a checkpoint's folder, atomically."""
    write_whole(checkpoint_dir / STATE_FILE, json.dumps(progress.state(step)).encode())


def write_state_ahead(trainer: Any, progress: Progress, step: int) -> None:
    """Write the state of a step that verl will save, before verl does.

    verl marks a checkpoint as the newest before it calls `on_save`: a run killed in between would resume from
    it without a state. The state does not change between a step's batch and its checkpoint.
    """
    often = trainer.config.trainer.save_freq
    if often > 0 and (step % often == 0 or step >= trainer.total_training_steps):
        write_state(progress, step, Path(trainer.config.trainer.default_local_dir) / f"global_step_{step}")


def make_replay_buffer(**kwargs: Any) -> ReplayBuffer:
    """verl's own buffer for this trainer mode, with metrics of the sampled batch.

    verl does not pass the group filter's settings to a custom buffer; they are passed here, so that
    `algorithm.filter_groups` works.
    """
    trainer = kwargs["refill_fn"].__self__
    is_sync = kwargs["trainer_mode"] == "sync"
    base = ReplayBuffer if is_sync else ReplayBufferAsync

    class LoggingReplayBuffer(base):  # type: ignore[misc,valid-type]
        def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
            progress = progress_of(trainer.config)
            with ExitStack() as around:
                for part in progress.extensions:
                    part.before_wait(trainer)
                    around.enter_context(part.around_wait())
                batch, metrics = super().sample(
                    global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
                )
            if partition_id == "train":
                for part in progress.extensions:
                    part.after_sample(global_steps)
                metrics = {**metrics, **training_metrics(batch, progress, global_steps)}
                write_state_ahead(trainer, progress, global_steps)
            return batch, metrics

        def wait_for_sampleable(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
            # verl's "separate_async" trainer also waits before it samples
            for part in progress_of(trainer.config).extensions:
                part.before_wait(trainer)
            return super().wait_for_sampleable(*args, **kwargs)

        def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
            n_failed = len(self.failure_keys[partition_id])
            for part in progress_of(trainer.config).extensions:
                part.while_waiting(n_failed, waiting(self, partition_id))
            return super()._wait_for_next_poll(partition_id, last_debug_time)

    kwargs.setdefault("poll_interval", POLL_SECONDS)
    return LoggingReplayBuffer(**kwargs, **_filter_settings(trainer.config, trainer, is_sync))


def waiting(buffer: ReplayBuffer, partition_id: str) -> str:
    """Describe what a buffer waits for; changes with each prompt and rollout."""
    names = ("pending", "running", "finished", "failure")  # states of a prompt
    states = {state: len(getattr(buffer, f"{state}_keys")[partition_id]) for state in names}
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"of the prompts {counts}, with {len(buffer.partitions[partition_id])} rollouts"


def _filter_settings(config: DictConfig, trainer: Any, is_sync: bool) -> dict[str, Any]:
    """Filter settings, as derived by `PPOTrainer._build_replay_buffer` for its own buffers."""
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
