"""Check the model of a run: its folder, its processor, and its own limits.

verl makes a processor only for some families. Without one, rows with images fail in its data set, minutes after the
start.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.frames import FAMILIES, FAMILY_OF_TYPE
from verl_visionr1.plugin.data_files import readable_files
from verl_visionr1.processed import PROCESSOR_FILES
from verl_visionr1.rows import schema_of

MODEL = "actor_rollout_ref.model.path"


def model_problems(config: DictConfig) -> list[str]:
    """A model that is not there, or that verl cannot train on images; one line, or none."""
    path = str(OmegaConf.select(config, MODEL) or "")
    folder, key = Path(path).expanduser(), f"{MODEL}={OmegaConf.select(config, MODEL)}"
    if not path:
        return [f"{key}: needs a folder, or a name on the hub"]
    file = config_file(path)
    if file is None:
        is_hub_name = "://" in path or not (os.path.isabs(folder) or path.startswith(".") or path.count("/") > 1)
        if folder.is_dir():
            return [f"{key}: no config.json in it; needs the folder of a model"]
        return [] if is_hub_name else [f"{key}: no such directory"]
    family = FAMILY_OF_TYPE.get(str(_read(file).get("model_type")))
    if family is None or OmegaConf.select(config, "data.custom_cls.path"):
        return []
    has_processor = any(_load(folder / name) is not None for name in PROCESSOR_FILES)
    if family.is_trained and folder == file.parent and not has_processor:
        return [
            f"{key}: no readable {' or '.join(PROCESSOR_FILES)} in it, so verl makes no processor and cannot train on "
            "images; copy it from the model that this one is made of"
        ]
    if family.is_trained or _makes_processor(file.parent):
        return []
    trained = ", ".join(each.name for each in FAMILIES if each.is_trained)
    return [
        f"{key}: verl makes no processor for {family.name}, so it cannot train on images; score its answers with "
        f"visionr1 score or eval, or train one of {trained}"
    ]


def processor_problems(config: DictConfig) -> list[str]:
    """A local model of unknown family without a processor in verl, with images in the data; slow."""
    file = config_file(str(OmegaConf.select(config, MODEL)))
    if file is None or OmegaConf.select(config, "data.custom_cls.path") or not _has_images(config):
        return []
    if str(_read(file).get("model_type")) in FAMILY_OF_TYPE or _makes_processor(file.parent):
        return []
    return [
        f"{MODEL}={file.parent}: verl makes no processor for this model (hf_processor gives None), so rows with images "
        "cannot be trained; see the table of model families in docs/reference/formats.md"
    ]


def limit_problems(config: DictConfig) -> list[str]:
    """Conflicts with the config.json of a local model: sequence length, tensor-parallel size."""
    file = config_file(str(OmegaConf.select(config, MODEL)))
    model = {} if file is None else _read(file)
    text = {**model, **(model.get("text_config") or {})}
    rollout, problems = config.actor_rollout_ref.rollout, list[str]()
    longest, heads = text.get("max_position_embeddings"), text.get("num_attention_heads")
    if rollout.max_model_len is not None and longest is not None and rollout.max_model_len > longest:
        problems.append(
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len}: above the model's "
            f"max_position_embeddings={longest} ({file})"
        )
    if heads is not None and heads % rollout.tensor_model_parallel_size:
        problems.append(
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size}: needs a "
            f"divisor of the model's {heads} attention heads"
        )
    return problems


def config_file(path: str) -> Path | None:
    """The `config.json` of a model: of a local folder, or of a downloaded hub name; uses no network."""
    file = Path(path).expanduser() / "config.json"
    if file.is_file():
        return file
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(path, "config.json")
    except ValueError:  # an invalid hub name
        return None
    return Path(found) if isinstance(found, str) else None


def model_type_of(path: str) -> str | None:
    """The `model_type` of a model, "" if its config has none; None if its config is not here."""
    file = config_file(path)
    return None if file is None else str(_read(file).get("model_type", ""))


def _makes_processor(folder: Path) -> bool:
    from verl.utils.tokenizer import hf_processor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hf_processor(str(folder)) is not None


def _read(file: Path) -> dict[str, Any]:
    return _load(file) or {}  # verl reports an unreadable config.json


def _load(file: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None without one."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _has_images(config: DictConfig) -> bool:
    """Whether a local data file has the column of images."""
    key = str(OmegaConf.select(config, "data.image_key"))
    return any(key in schema_of(file).names for file in readable_files(config, "data.train_files"))
