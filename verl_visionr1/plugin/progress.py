"""The progress callback: it stamps, logs and keeps the progressive rule, in the trainer's process.

verl has no callback of this kind, so three of its hooks, all in one process, share one `Progress`:

* `VisionR1AgentLoopManager` stamps each dispatched batch with its `Context`;
* `make_replay_buffer` wraps verl's own buffer and logs what the batch scored, in the step's training metrics;
* `ProgressCheckpoint` writes the state beside each checkpoint, from where it is restored; the buffer has written it
  before, so that a run that is killed while it saves loses nothing.

`+visionr1@_global_=progressive` names all three. Nothing but `Progress` has state. What surrounds a run
(a watchdog, pages) is called from here where the config names it: see `extensions`.
"""

from __future__ import annotations

import importlib
import json
import logging
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

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""How often the buffer looks for finished rollouts; with verl's own 2 s a short step waits up to 2 s for nothing."""

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
        handles = self.progress.extensions.reward_workers(self.reward_loop_worker_handles)
        self.reward_loop_worker_handles = handles
        step = 0
        checkpoint_dir = resumed_from(config)
        if checkpoint_dir is not None:
            step = self._restore(checkpoint_dir)
        write_record(config, self.progress.settings, from_step=step + 1, total_steps=self.progress.total_steps)
        reason = [f"visionr1: {self.progress.reason}"] if self.progress.reason else []
        warnings = [f"visionr1: WARNING: {told}" for told in self.progress.warn()]
        for line in (self.progress.describe(step), *reason, *warnings):
            print(line, flush=True)  # noqa: T201 - Ray shows an actor's standard output

    def _restore(self, checkpoint_dir: Path) -> int:
        file = checkpoint_dir / STATE_FILE
        if not file.is_file():
            lost = "" if self.progress.gates is None else ", and every gate begins at stage 0"
            self.progress.warnings.append(f"no {file}: progress counts over this run's own steps{lost}")
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


class _NoCallback:
    """In place of verl's class in 0.9.0, which has no such hook: nothing calls it."""

    def __init__(self, config: DictConfig | None = None) -> None:
        self.config = config


def _callback_class() -> type[Any]:
    """verl's `CheckpointCallback`; verl 0.9.0 has none, and the rest of the plug-in works there too."""
    try:
        return importlib.import_module("verl.trainer.ppo.checkpoint_callback").CheckpointCallback
    except ModuleNotFoundError:
        logger.warning("visionr1: this verl calls nobody at checkpoints: a resumed run starts its state anew")
        return _NoCallback


class ProgressCheckpoint(_callback_class()):  # type: ignore[misc]
    """Writes the state of `Progress` into each checkpoint directory."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.progress = progress_of(config)

    def on_save(
        self, trainer: Any, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs: Any
    ) -> None:
        """Called by verl after each save. The file is complete or not there at all."""
        write_state(self.progress, global_step, Path(checkpoint_dir))


def write_state(progress: Progress, step: int, checkpoint_dir: Path) -> None:
    """Write the state after a step into a checkpoint's folder; the file is complete or not there at all."""
    write_whole(checkpoint_dir / STATE_FILE, json.dumps(progress.state(step)).encode())


def write_state_ahead(trainer: Any, progress: Progress, step: int) -> None:
    """Write the state of a step that verl will save, before verl does.

    verl marks a checkpoint as the newest before it calls `on_save`: a run that was killed in between would resume from
    it and find no state. Nothing that the state holds changes between a step's batch and its checkpoint.
    """
    often = trainer.config.trainer.save_freq
    if often > 0 and (step % often == 0 or step >= trainer.total_training_steps):
        write_state(progress, step, Path(trainer.config.trainer.default_local_dir) / f"global_step_{step}")


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
            progress = progress_of(trainer.config)
            progress.extensions.before_wait(trainer)
            with progress.extensions.around_wait():
                batch, metrics = super().sample(
                    global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
                )
            if partition_id == "train":
                progress.extensions.after_sample(global_steps)
                metrics = {**metrics, **training_metrics(batch, progress, global_steps)}
                write_state_ahead(trainer, progress, global_steps)
            return batch, metrics

        def wait_for_sampleable(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
            # verl's "separate_async" trainer also waits before it samples
            progress_of(trainer.config).extensions.before_wait(trainer)
            return super().wait_for_sampleable(*args, **kwargs)

        def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
            n_failed = len(self.failure_keys[partition_id])
            progress_of(trainer.config).extensions.while_waiting(n_failed, waiting(self, partition_id))
            return super()._wait_for_next_poll(partition_id, last_debug_time)

    kwargs.setdefault("poll_interval", POLL_SECONDS)
    return LoggingReplayBuffer(**kwargs, **_filter_settings(trainer.config, trainer, is_sync))


def waiting(buffer: ReplayBuffer, partition_id: str) -> str:
    """What a buffer waits for, in words that change with each prompt and each rollout."""
    states = {state: len(getattr(buffer, f"{state}_keys")[partition_id]) for state in _STATES}
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"of the prompts {counts}, with {len(buffer.partitions[partition_id])} rollouts"


_STATES = ("pending", "running", "finished", "failure")
"""Of a prompt, as verl's buffer keeps them."""


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
