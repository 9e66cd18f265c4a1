"""Check that verl can train the model on images: it makes a processor only for some families.

Without a processor, rows with images fail in verl's data set minutes after the start.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.frames import FAMILIES, FAMILY_OF_TYPE
from verl_visionr1.plugin.data_files import readable_files
from verl_visionr1.rows import open_parquet

MODEL = "actor_rollout_ref.model.path"


def family_problems(config: DictConfig) -> list[str]:
    """Problem of a family that verl cannot train, by the model's `config.json` (local or in the hub's cache)."""
    file = config_file(str(OmegaConf.select(config, MODEL)))
    if file is None or OmegaConf.select(config, "data.custom_cls.path"):
        return []
    family = FAMILY_OF_TYPE.get(str(_read(file).get("model_type")))
    if family is not None and family.is_trained and _lacks_processor(config, file.parent):
        return [
            f"{MODEL}={OmegaConf.select(config, MODEL)}: no {' or '.join(_PROCESSOR_FILES)} in it, so verl makes no "
            "processor and cannot train on images; copy it from the model that this one is made of"
        ]
    if family is None or family.is_trained or makes_processor(file.parent):
        return []
    trained = ", ".join(each.name for each in FAMILIES if each.is_trained)
    return [
        f"{MODEL}={OmegaConf.select(config, MODEL)}: verl makes no processor for {family.name}, so it cannot train on "
        f"images; score its answers with visionr1 score or eval, or train one of {trained}"
    ]


_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def _lacks_processor(config: DictConfig, folder: Path) -> bool:
    """Whether a local folder has no settings of a processor; those of the hub's cache may come later."""
    is_local = Path(str(OmegaConf.select(config, MODEL))).expanduser() == folder
    return is_local and not any((folder / name).is_file() for name in _PROCESSOR_FILES)


def processor_problems(config: DictConfig) -> list[str]:
    """Problem of a local model of unknown family without a processor in verl, with images in the data; slow."""
    file = config_file(str(OmegaConf.select(config, MODEL)))
    if file is None or OmegaConf.select(config, "data.custom_cls.path") or not _has_images(config):
        return []
    if str(_read(file).get("model_type")) in FAMILY_OF_TYPE or makes_processor(file.parent):
        return []
    return [
        f"{MODEL}={file.parent}: verl makes no processor for this model (hf_processor gives None), so rows with images "
        "cannot be trained; see the table of model families in docs/reference/formats.md"
    ]


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


def makes_processor(folder: Path) -> bool:
    """Whether verl makes a processor for a model folder."""
    from verl.utils.tokenizer import hf_processor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hf_processor(str(folder)) is not None


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError:
        return {}  # verl reports it


def _has_images(config: DictConfig) -> bool:
    """Whether a local data file has the column of images."""
    key = str(OmegaConf.select(config, "data.image_key"))
    for file in readable_files(config, "data.train_files"):
        with open_parquet(file) as parquet:
            if key in parquet.schema_arrow.names:
                return True
    return False
