"""Find out for how many training workers a checkpoint of verl's FSDP trainer was written.

    checkpoints/latest_checkpointed_iteration.txt       the last step
    checkpoints/global_step_<N>/
      actor/ (and critic/)
        {model,optim,extra_state}_world_size_<W>_rank_<R>.pt    state of worker R of W
        fsdp_config.json                                        W, and the version of FSDP
        huggingface/                                            config and tokenizer
      data.pt, visionr1_progress.json                           of the trainer: independent of the workers

A worker only loads the files with its own W and R in their names.
"""

from __future__ import annotations

import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.files import RowsError
from verl_visionr1.plugin.run_facts import resumed_from
from verl_visionr1.rollouts.places import TRACKER, latest_step

KINDS = {"model": "model", "optim": "optimizer", "extra_state": "extra"}
"""Kinds of files of each worker -> what `checkpoint.save_contents` and `load_contents` call them."""
ROLES = ("actor", "critic")
"""Folders of a checkpoint with files of workers."""
_MODEL = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


class CheckpointError(RowsError):
    """A checkpoint cannot be read or rewritten; one line with the reason and what to do."""


def shard_file(folder: Path, kind: str, n_workers: int, rank: int) -> Path:
    """Path of the part of verl's worker `rank` of `n_workers`.

    >>> shard_file(Path("actor"), "model", 2, 1).name
    'model_world_size_2_rank_1.pt'
    """
    return folder / f"{kind}_world_size_{n_workers}_rank_{rank}.pt"


def worker_counts(folder: Path) -> dict[int, set[int]]:
    """Number of workers -> ranks with a model part on this machine, in a folder such as `global_step_4/actor`."""
    found: dict[int, set[int]] = {}
    for match in filter(None, (_MODEL.fullmatch(file.name) for file in folder.glob("model_*.pt"))):
        found.setdefault(int(match[1]), set()).add(int(match[2]))
    return found


def step_folder(path: Path) -> Path:
    """Resolve a path to a checkpoint: `global_step_N`, or a folder for its last one.

    Raises:
        CheckpointError: no checkpoint found.
    """
    for folder in (path, path / "checkpoints"):
        if any((folder / role).is_dir() for role in ROLES):
            return folder
        step = latest_step(folder)
        if step is not None:
            return step
    raise CheckpointError(f"{path}: no verl checkpoint in it; needs a folder global_step_N, or one with {TRACKER}")


def workers_problem(step: Path, n_workers: int) -> str | None:
    """Why a run with `n_workers` training workers cannot resume from a checkpoint; None if it can.

    verl fails minutes later, when each worker looks for its own file.
    """
    for role in ROLES:
        written = worker_counts(step / role)
        if written and n_workers not in written:
            counts = " and ".join(str(count) for count in sorted(written))
            return (
                f"{step}: written by {counts} training workers, this run has {n_workers} (trainer.nnodes x "
                f"trainer.n_gpus_per_node); `visionr1 reshard {step} --workers {n_workers}` makes it fit"
            )
    return None


def resume_problems(config: DictConfig) -> list[str]:
    """Why a run cannot resume from the checkpoint that verl would choose; one line, or none."""
    trainer, tracker = config.trainer, _saved_in(config) / TRACKER
    if trainer.resume_mode == "auto" and tracker.is_file() and not tracker.read_text().strip().isdecimal():
        return [
            f"{tracker}: {tracker.read_text().strip()!r} is no step; write the number of a folder global_step_N into "
            "it, or set trainer.resume_mode=disable"
        ]
    step = resumed_from(config)
    if step is None:
        return []
    if not (step / "actor").is_dir():
        advice = "correct trainer.resume_from_path, or set trainer.resume_mode=disable"
        return [f"{step}: no actor/ in it, so no checkpoint; {advice}"]
    problem = workers_problem(step, trainer.nnodes * trainer.n_gpus_per_node) or _missing_part(config, step)
    return [problem] if problem else []


def _missing_part(config: DictConfig, step: Path) -> str | None:
    """Message about a file that a worker of FSDP would not find; only with one machine, which has all of them."""
    actor, n_workers = "actor_rollout_ref.actor", config.trainer.n_gpus_per_node
    if not str(OmegaConf.select(config, f"{actor}.strategy")).startswith("fsdp") or config.trainer.nnodes != 1:
        return None
    loads = OmegaConf.select(config, f"{actor}.checkpoint.load_contents") or ()
    kinds = [kind for kind, content in KINDS.items() if content in loads]
    files = (shard_file(step / "actor", kind, n_workers, rank) for kind in kinds for rank in range(n_workers))
    missing = next((file for file in files if not file.is_file()), None)
    if missing is None:
        return None
    return (
        f"{missing}: no such file, so the checkpoint is not complete; set trainer.resume_mode=resume_path with "
        f"trainer.resume_from_path to another one, or {actor}.checkpoint.load_contents to what it has"
    )


def resume_notes(config: DictConfig) -> list[str]:
    """Checkpoints that a run does not resume from, though they are there or named."""
    trainer, folder = config.trainer, _saved_in(config)
    notes: list[str] = []
    if trainer.resume_mode != "resume_path" and trainer.resume_from_path:
        notes.append(
            f"trainer.resume_from_path={trainer.resume_from_path}: ignored with trainer.resume_mode="
            f"{trainer.resume_mode}; set trainer.resume_mode=resume_path"
        )
    if trainer.resume_mode == "auto" and latest_step(folder) is None and any(folder.glob("global_step_*")):
        notes.append(
            f"{folder}: holds checkpoints, but {TRACKER} names none of them, so the run starts at step 1; write the "
            "number of the last one into it to resume"
        )
    return notes


def _saved_in(config: DictConfig) -> Path:
    return Path(str(config.trainer.default_local_dir)).expanduser().absolute()
