"""Find or make the Hugging Face folder of a model, for vLLM.

A checkpoint of verl's FSDP trainer is merged once by verl's merger, again when its shards change. The result is kept
beside the shards, where verl removes it with old checkpoints, or under `--out` if that folder is not writable.

    RUN_DIR/checkpoints/global_step_<N>/actor/
        model_world_size_<W>_rank_<R>.pt, fsdp_config.json      written by training workers
        huggingface/                                            config and tokenizer, no weights
        merged/                                                 written here
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from verl_visionr1.evaluation.generation.records import fingerprint, locked
from verl_visionr1.files import RowsError, sync_folder
from verl_visionr1.rollouts.places import TRACKER, latest_step

MERGED = "merged"
MERGED_FROM = "merged_from.json"
"""File of a merged folder with the digest of its shards."""
_WEIGHTS = (".safetensors", ".bin")
_FUSE = "verl_visionr1.evaluation.generation.fuse"

Say = Callable[[str], None]


class ModelError(RowsError):
    """Not a model, or an incomplete one; one line with the reason and what to do."""


@dataclass(frozen=True, slots=True)
class Model:
    """A loadable model.

    Attributes:
        folder: with config.json, weights and tokenizer.
        weights: digest of config and weights; see `records.fingerprint`.
    """

    folder: Path
    model_type: str
    weights: str


def find_model(given: str, out: Path, say: Say = lambda line: None) -> Model:
    """Find the model of a folder, a checkpoint of verl, or a name on the Hugging Face hub.

    Args:
        given: `RUN_DIR`, `.../checkpoints`, `.../global_step_N`, `.../actor`, a Hugging Face folder, or "owner/name".
        out: folder of a merged model if it cannot be beside the checkpoint.

    Raises:
        ModelError: none of these; an incomplete checkpoint, or one that cannot be merged; a folder without weights.
    """
    path = Path(given).expanduser()
    if not path.exists():
        folder = _from_hub(given)
    elif (actor := actor_of(path)) is not None:
        folder = merged(actor, out, say)
    else:
        folder = path
    return _model(folder)


def _from_hub(given: str) -> Path:
    if given.startswith((".", "/", "~")) or given.count("/") != 1:
        raise ModelError(f"{given}: no such folder, and not a hub name (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(given))
    except LocalEntryNotFoundError:
        reason = "no such folder, and the Hugging Face hub cannot be reached; check the network, or give a model folder"
        raise ModelError(f"{given}: {reason}") from None
    except (OSError, ValueError) as error:  # huggingface_hub's own errors are OSErrors or ValueErrors
        reason = shorten(str(error), 300, placeholder=" ...")
        raise ModelError(f"{given}: no such folder, and not found on the Hugging Face hub ({reason})") from None


def _model(folder: Path) -> Model:
    config = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: a LoRA adapter; fuse it with its base model first (peft: merge_and_unload)")
    try:
        model_type = json.loads(config.read_bytes()).get("model_type")
    except (OSError, ValueError, AttributeError):
        reason = "neither a Hugging Face model (no readable config.json) nor a checkpoint of verl (no global_step_N)"
        raise ModelError(f"{folder}: {reason}") from None
    weights = sorted(file for file in folder.iterdir() if file.suffix in _WEIGHTS)
    if not weights:
        raise ModelError(f"{folder}: no weights in it (*.safetensors or *.bin)")
    return Model(folder, str(model_type), fingerprint([config, *weights]))


def actor_of(path: Path) -> Path | None:
    """The folder with the policy's shards; None if the path is not a checkpoint of verl."""
    if path.name == "huggingface" and (path.parent.name == "actor" or path.parent.name.startswith("global_step_")):
        path = path.parent
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    if (path / TRACKER).is_file() or any(path.glob("global_step_*")):
        step = latest_step(path)
        if step is None:
            raise ModelError(f"{path}: no {TRACKER} that names a folder global_step_N in it; give such a folder")
        path = step
    is_supervised = any(path.glob("model_world_size_*_rank_*.pt"))  # verl's SFT trainer has no actor folder
    if path.name.startswith("global_step_") and not is_supervised:
        path = path / "actor"
        if not path.is_dir():
            raise ModelError(f"{path}: no such folder; the checkpoint is incomplete")
    if (path / "dist_ckpt").is_dir() or (path / "model" / "dist_ckpt").is_dir():
        command = f"python -m verl.model_merger merge --backend megatron --local_dir {path} --target_dir FOLDER"
        raise ModelError(f"{path}: a checkpoint of Megatron; run `{command}`, and give FOLDER")
    if not any(path.glob("model_world_size_*_rank_*.pt")):
        if path.name == "actor":
            reason = "actor.checkpoint.save_contents left it out"
            raise ModelError(f"{path}: no model_world_size_W_rank_R.pt in it; {reason}")
        return None
    _shards(path)
    return path


def _shards(actor: Path) -> list[Path]:
    """The shards of all training workers, in order."""
    try:
        size = int(json.loads((actor / "fsdp_config.json").read_bytes())["world_size"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{actor}: no fsdp_config.json with its world_size; was it copied completely?") from None
    shards = [actor / f"model_world_size_{size}_rank_{rank}.pt" for rank in range(size)]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ModelError(f"{actor}: {missing[0]} is missing ({len(missing)} of {size}); copy the whole checkpoint")
    if not (actor / "huggingface" / "config.json").is_file():
        raise ModelError(f"{actor}: no huggingface/config.json in it; copy the whole checkpoint")
    return shards


def merged(actor: Path, out: Path, say: Say = lambda line: None) -> Path:
    """The Hugging Face folder of a checkpoint; made by verl's merger if missing."""
    shards = _shards(actor)
    source = {shard.name: [shard.stat().st_size, shard.stat().st_mtime_ns] for shard in shards}
    place = actor if os.access(actor, os.W_OK) else out
    target = place / MERGED
    place.mkdir(parents=True, exist_ok=True)
    with locked(place / f".{MERGED}.lock", wait=True):
        if _made_of(target) == source:
            return target
        say(f"merging {actor} into {target}")
        partial = place / f".{MERGED}.partial"  # under the lock: an existing one was left by a kill
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _merge(actor, partial)
            (partial / MERGED_FROM).write_text(json.dumps(source))
            os.sync()
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            sync_folder(place)
        except OSError as error:
            raise ModelError(f"{target}: cannot be written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _made_of(folder: Path) -> object:
    try:
        return json.loads((folder / MERGED_FROM).read_bytes())
    except (OSError, ValueError):
        return None


def _merge(actor: Path, target: Path) -> None:
    """Merge in child processes, so that the memory of verl and torch is freed."""
    merger = ("verl.model_merger", "merge", "--backend", "fsdp", "--local_dir", str(actor), "--target_dir", str(target))
    _run(merger, f"{actor}: verl's merger failed")
    if (target / "lora_adapter").is_dir():
        _run((_FUSE, str(target)), f"{actor}: its LoRA adapter cannot be fused")


def _run(module: tuple[str, ...], failure: str) -> None:
    done = subprocess.run((sys.executable, "-m", *module), capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ModelError(f"{failure}: {lines[-1][:300] if lines else f'exit code {done.returncode}'}")
