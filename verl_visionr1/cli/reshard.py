"""`visionr1 reshard`: resume a run with another number of training workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[Path, typer.Argument(help="a checkpoint (global_step_N), or a run's folder for its last one")]
Workers = Annotated[int, typer.Option("--workers", help="trainer.nnodes x trainer.n_gpus_per_node of the resumed run")]
FsdpSize = Annotated[int, typer.Option("--fsdp-size", help="actor.fsdp_config.fsdp_size of the resumed run; -1: all")]
RemoveOld = Annotated[bool, typer.Option("--remove-old", help="delete the old files afterwards")]


def reshard(checkpoint: Checkpoint, workers: Workers, fsdp_size: FsdpSize = -1, remove_old: RemoveOld = False) -> None:
    """Rewrite a checkpoint of verl's FSDP2 trainer for another number of training workers: weights and optimizer."""
    from verl_visionr1.runtime.resharding import reshard as rewrite

    done = rewrite(checkpoint, workers, fsdp_size=fsdp_size, remove_old=remove_old)
    typer.echo(
        f"{done.step}: {done.n_before} -> {done.n_workers} training workers, {done.n_bytes / 1e6:.1f} MB written; "
        f"resume with trainer.nnodes x trainer.n_gpus_per_node = {done.n_workers}"
    )
