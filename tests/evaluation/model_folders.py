"""Folders of models: a checkpoint as verl leaves it, and one of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path


def checkpoint(run_dir: Path, step: int = 2, size: int = 1, written: int | None = None) -> Path:
    """A checkpoint as verl leaves it (the shards hold nothing)."""
    actor = run_dir / "checkpoints" / f"global_step_{step}" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    for rank in range(size):
        (actor / f"model_world_size_{size}_rank_{rank}.pt").write_bytes(b"weights")
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": size}))
    (actor / "huggingface" / "config.json").write_text('{"model_type": "qwen3_vl"}')
    tracker = run_dir / "checkpoints" / "latest_checkpointed_iteration.txt"
    tracker.write_text(str(step if written is None else written))
    return actor


def hugging_face(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    (folder / "model.safetensors").write_bytes(weights)
    return folder
