"""Rewrite a checkpoint for another number of training workers: weights and optimizer, bit-exact.

FSDP2 cuts each parameter, and its two moments in Adam, along the first dimension into one part per worker, with
torch.chunk's sizes. The parts are read through memory maps and cut for one new worker at a time, so memory use is about
one new worker's part.

    weights, moments              cut again
    step count, learning rates    the same for every worker
    random state                  worker R keeps that of the old worker R; a new worker starts with its own

The new files have the names that verl expects, beside the old files, which are kept.
"""

from __future__ import annotations

import codecs
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.utils._pytree import tree_leaves, tree_map

from verl_visionr1.files import atomic_write, write_whole
from verl_visionr1.runtime.checkpoints import KINDS, ROLES, CheckpointError, shard_file, step_folder, worker_counts


@dataclass(frozen=True, slots=True)
class Resharded:
    """A checkpoint that `n_before` workers wrote, and that `n_workers` can now also resume."""

    step: Path
    n_before: int
    n_workers: int
    n_bytes: int


def reshard(path: Path, n_workers: int, *, fsdp_size: int = -1, remove_old: bool = False) -> Resharded:
    """Rewrite a checkpoint for `n_workers` training workers.

    Args:
        path: `global_step_N`, or a run's folder for its last checkpoint.
        n_workers: trainer.nnodes x trainer.n_gpus_per_node of the run that will resume.
        fsdp_size: that run's `actor.fsdp_config.fsdp_size`: workers that share one copy of the model; -1: all.
        remove_old: delete the old files once the new ones are written.

    Raises:
        CheckpointError: no complete checkpoint, one not written by FSDP2, or an invalid number.
        RowsError: a file cannot be written; then no new files are left.
    """
    if n_workers < 1:
        raise CheckpointError(f"--workers {n_workers}: needs at least 1")
    if 0 < fsdp_size < n_workers and n_workers % fsdp_size:
        raise CheckpointError(f"--fsdp-size {fsdp_size}: must divide --workers {n_workers}")
    step = step_folder(path)
    n_before, n_bytes = 0, 0
    for role in ROLES:
        if (step / role).is_dir():
            n_before, written = _reshard_role(step / role, n_workers, fsdp_size, remove_old=remove_old)
            n_bytes += written
    return Resharded(step, n_before, n_workers, n_bytes)


def _reshard_role(folder: Path, n_workers: int, fsdp_size: int, *, remove_old: bool) -> tuple[int, int]:
    """Reshard `actor` or `critic`; returns the number of workers before, and the bytes written."""
    n_before, config = _written_by(folder)
    if n_before == n_workers:
        raise CheckpointError(f"{folder}: already written by {n_workers} training workers; nothing to do")
    new = folder / f".reshard_{n_workers}"
    shutil.rmtree(new, ignore_errors=True)  # of an interrupted attempt
    try:
        for kind in KINDS:
            _reshard_kind(folder, new, kind, (n_before, n_workers), fsdp_size)
        n_bytes = sum(file.stat().st_size for file in new.iterdir())
        for file in sorted(new.iterdir(), key=lambda file: file.name.startswith("model")):
            os.replace(file, folder / file.name)  # model parts last: they mark a complete set
    finally:
        shutil.rmtree(new, ignore_errors=True)
    write_whole(folder / "fsdp_config.json", json.dumps({**config, "world_size": n_workers}, indent=4).encode())
    if remove_old:
        for kind in KINDS:
            for rank in range(n_before):
                shard_file(folder, kind, n_before, rank).unlink(missing_ok=True)
    return n_before, n_bytes


def _written_by(folder: Path) -> tuple[int, dict[str, Any]]:
    """Number of workers that wrote a folder, and its `fsdp_config.json`."""
    file = folder / "fsdp_config.json"
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; only checkpoints of verl's FSDP trainer can be rewritten")
    config = json.loads(file.read_text())
    if config.get("FSDP_version") != 2:
        raise CheckpointError(
            f"{file}: FSDP_version is {config.get('FSDP_version')}; only strategy=fsdp2 can be rewritten: merge the "
            "weights with `python -m verl.model_merger merge --backend fsdp` and start from them"
        )
    n_before = int(config["world_size"])
    if worker_counts(folder).get(n_before, set()) < set(range(n_before)):
        raise CheckpointError(
            f"{folder}: parts of some of its {n_before} workers are missing; gather all in one folder"
        )
    return n_before, config


def _reshard_kind(folder: Path, new: Path, kind: str, workers: tuple[int, int], fsdp_size: int) -> None:
    """Write the files of one kind for all new workers; kinds that were not saved are skipped."""
    n_before, n_workers = workers
    files = [shard_file(folder, kind, n_before, rank) for rank in range(n_before)]
    if not all(file.is_file() for file in files):
        return
    old = [_read(file) for file in files]
    sharded = [leaf for leaf in tree_leaves(old[0]) if isinstance(leaf, DTensor)]
    device_type = sharded[0].device_mesh.device_type if sharded else "cpu"
    for rank in range(n_workers):
        if kind == "extra_state":
            part = _extra_state(old, rank)
        else:
            with mesh_of(device_type, rank, n_workers, fsdp_size) as mesh:
                part = _cut(old, mesh)
        with atomic_write(shard_file(new, kind, n_workers, rank)) as file:
            torch.save(part, file)


def _read(file: Path) -> Any:
    """Load a part of a checkpoint as data only: pickles with code are rejected."""
    try:
        with torch.serialization.safe_globals(_random_state_types()):
            return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{file}: not loaded: it holds more than tensors, numbers and random states ({_first_line(error)}); "
            "loading that could run code"
        ) from None
    except Exception as error:  # noqa: BLE001 - a truncated file fails in many ways
        raise CheckpointError(f"{file}: cannot be read ({type(error).__name__}); use an earlier checkpoint") from None


def _random_state_types() -> list[Any]:
    """Types in numpy's random state, an array of integers; torch allows its own tensors."""
    array = np.zeros(1, dtype=np.uint32)
    rebuild = array.__reduce__()[0]
    names = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")  # of numpy 1 and 2
    return [*((rebuild, name) for name in names), np.ndarray, np.dtype, type(array.dtype), codecs.encode]


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if "GLOBAL" in line), str(error).partition("\n")[0]).strip()


def _extra_state(old: Sequence[dict[str, Any]], rank: int) -> dict[str, Any]:
    """Scheduler and random state of a new worker; verl does not need the latter."""
    if rank < len(old):
        return old[rank]
    return {key: value for key, value in old[0].items() if key != "rng"}


def _cut(old: Sequence[Any], mesh: DeviceMesh) -> Any:
    """The state of the current worker of `mesh`, from the states of all old workers."""

    def cut(first: Any, *others: Any) -> Any:
        if isinstance(first, DTensor):
            return _cut_tensor([first, *others], mesh)
        return first.clone() if isinstance(first, torch.Tensor) else first  # a copy, not the memory map

    return tree_map(cut, old[0], *old[1:])


def _cut_tensor(old: Sequence[DTensor], mesh: DeviceMesh) -> DTensor:
    first = old[0]
    placement = first.placements[-1]
    if placement != Shard(0) or any(other != Replicate() for other in first.placements[:-1]):
        raise CheckpointError(f"a tensor is cut as {first.placements}; only Shard(0) of FSDP2 is supported")
    # With several copies of the model (mesh "ddp" x "fsdp") the first copy is complete.
    ranks = first.device_mesh.mesh.reshape(-1, first.device_mesh.mesh.shape[-1])[0].tolist()
    begin, end = _rows(first.shape[0], mesh.size(-1), mesh.get_local_rank(mesh.ndim - 1))
    local = _read_rows([old[rank].to_local() for rank in ranks], begin, end)
    placements = (*[Replicate()] * (mesh.ndim - 1), Shard(0))
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=first.shape, stride=first.stride())


def _rows(n_rows: int, n_parts: int, part: int) -> tuple[int, int]:
    """First row of a part and the row after its last, with the sizes of torch.chunk.

    >>> [_rows(5, 4, part) for part in range(4)]
    [(0, 2), (2, 4), (4, 5), (5, 5)]
    """
    size = -(-n_rows // n_parts)
    return min(part * size, n_rows), min((part + 1) * size, n_rows)


def _read_rows(parts: Sequence[torch.Tensor], begin: int, end: int) -> torch.Tensor:
    """Rows `begin` to `end` of the concatenation of `parts`."""
    pieces, at = [], 0
    for part in parts:
        low, high = max(begin, at), min(end, at + part.shape[0])
        if low < high:
            pieces.append(part[low - at : high - at])
        at += part.shape[0]
    return torch.cat(pieces) if pieces else parts[0].new_empty((0, *parts[0].shape[1:]))


@contextmanager
def mesh_of(device_type: str, rank: int, n_workers: int, fsdp_size: int) -> Iterator[DeviceMesh]:
    """The mesh of verl's `create_device_mesh` in worker `rank`, made in this process without the others."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=n_workers)
    try:
        if fsdp_size < 0 or fsdp_size >= n_workers:
            yield init_device_mesh(device_type, (n_workers,), mesh_dim_names=("fsdp",))
        else:
            shape = (n_workers // fsdp_size, fsdp_size)
            yield init_device_mesh(device_type, shape, mesh_dim_names=("ddp", "fsdp"))
    finally:
        distributed.destroy_process_group()
