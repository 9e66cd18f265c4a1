"""The data files of a run's config, for all checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

BUDGET_KEY = "data.mm_processor_kwargs"
"""verl's key of the pixel budget of images."""
DATA_KEYS = ("data.train_files", "data.val_files")

READ_BY_VERL = (".parquet", ".json", ".jsonl")
"""Ends of the names of files that `RLHFDataset` reads."""


def listed_files(config: DictConfig, key: str) -> list[str]:
    """The files of a key: one file, a list of files, or none."""
    given = OmegaConf.select(config, key)
    return [str(file) for file in ([given] if isinstance(given, str) else given or [])]


def parquet_files(config: DictConfig, *keys: str) -> list[Path]:
    """The parquet files of some keys (default: all keys), without URLs."""
    files = [file for key in keys or DATA_KEYS for file in listed_files(config, key)]
    return [Path(file).expanduser() for file in files if file.endswith(".parquet") and "://" not in file]


def readable_files(config: DictConfig, *keys: str) -> list[Path]:
    """The parquet files of some keys (default: all keys) on this machine."""
    return [path for path in parquet_files(config, *keys) if path.is_file()]


def complete_files(config: DictConfig, key: str) -> list[Path]:
    """The parquet files of a key; empty unless all of them are on this machine."""
    files = readable_files(config, key)
    return files if len(files) == len(listed_files(config, key)) else []


def pixel_budget(config: DictConfig) -> tuple[int, int] | None:
    """min_pixels and max_pixels of a run; None unless both are valid numbers."""
    fewest, most = (OmegaConf.select(config, f"{BUDGET_KEY}.{key}") for key in ("min_pixels", "max_pixels"))
    return (fewest, most) if is_pixels(fewest) and is_pixels(most) and fewest <= most else None


def is_pixels(value: Any) -> bool:
    """Whether a value is a number of pixels: a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
