"""The data files of a run, as its config names them: what every check reads."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

DATA_KEYS = ("data.train_files", "data.val_files")


def listed_files(config: DictConfig, key: str) -> list[str]:
    """What a key names: one file, a list of files, or nothing."""
    given = OmegaConf.select(config, key)
    return [str(file) for file in ([given] if isinstance(given, str) else given or [])]


def parquet_files(config: DictConfig, *keys: str) -> list[Path]:
    """The parquet files of some keys, of all keys without one; those behind a URL are left out."""
    files = [file for key in keys or DATA_KEYS for file in listed_files(config, key)]
    return [Path(file).expanduser() for file in files if file.endswith(".parquet") and "://" not in file]


def readable_files(config: DictConfig, *keys: str) -> list[Path]:
    """The parquet files of some keys, of all keys without one, that are on this machine."""
    return [path for path in parquet_files(config, *keys) if path.is_file()]


def complete_files(config: DictConfig, key: str) -> list[Path]:
    """The parquet files of a key; empty unless every file of it is on this machine."""
    files = readable_files(config, key)
    return files if len(files) == len(listed_files(config, key)) else []
