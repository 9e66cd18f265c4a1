"""The data files of a run's config, and what their rows ask of the reward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.config import PREFIX, Settings
from verl_visionr1.rewards import RewardError
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import CONVERT_AGAIN, METADATA_KEY, RowsError, read_rows, schema_of, target_of
from verl_visionr1.targets import TargetError

BUDGET_KEY = "data.mm_processor_kwargs"
"""verl's key of the pixel budget of images."""
DATA_KEYS = ("data.train_files", "data.val_files")
READ_BY_VERL = (".parquet", ".json", ".jsonl")
"""Ends of the names of files that `RLHFDataset` reads."""
N_SAMPLES = 2
"""Kept rows of each kind: preset, task, with or without objects."""


def listed_files(config: DictConfig, key: str) -> list[str]:
    """The files of a key: one file, a list of files, or none."""
    given = OmegaConf.select(config, key)
    return [str(file) for file in ([given] if isinstance(given, str) else given or [])]


def parquet_files(config: DictConfig, *keys: str) -> list[Path]:
    """The parquet files of some keys (default: all keys), without URLs."""
    files = [file for key in keys or DATA_KEYS for file in listed_files(config, key)]
    return [Path(file).expanduser() for file in files if file.endswith(".parquet") and "://" not in file]


def readable_files(config: DictConfig, *keys: str) -> list[Path]:
    """The parquet files under these keys of the configuration (default: all) that are on this machine."""
    return [path for path in parquet_files(config, *keys) if path.is_file()]


def complete_files(config: DictConfig, *keys: str) -> list[Path]:
    """The parquet files under these keys (default: all); empty if one is not on this machine."""
    files = readable_files(config, *keys)
    return files if len(files) == sum(len(listed_files(config, key)) for key in keys or DATA_KEYS) else []


def pixel_budget(config: DictConfig) -> tuple[int, int] | None:
    """min_pixels and max_pixels of a run; None unless both are valid numbers."""
    fewest, most = (OmegaConf.select(config, f"{BUDGET_KEY}.{key}") for key in ("min_pixels", "max_pixels"))
    return (fewest, most) if is_pixels(fewest) and is_pixels(most) and fewest <= most else None


def is_pixels(value: Any) -> bool:
    """Whether a value is a number of pixels: a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@dataclass(slots=True)
class RewardRows:
    """What the rows of a file ask of the reward.

    Attributes:
        problem: why the file or a row cannot be scored; rows after it are not read. "" for none.
        sources: the data sources.
        agent_loops: agent loops that rows name.
        presets: rows by name and `Routes.index` of the preset that scores them; without delegated rows.
        samples: number and columns of the first rows of each kind.
    """

    problem: str = ""
    sources: set[str] = field(default_factory=set[str])
    agent_loops: set[str] = field(default_factory=set[str])
    presets: Counter[tuple[str, float]] = field(default_factory=Counter[tuple[str, float]])
    samples: list[tuple[int, dict[str, Any]]] = field(default_factory=list[tuple[int, dict[str, Any]]])


_known: dict[tuple[Path, int, bytes], RewardRows] = {}


def reward_rows(file: Path, settings: Settings) -> RewardRows:
    """Read a parquet file once for all checks of rewards; the result is kept until the file changes."""
    key = file, file.stat().st_mtime_ns if file.exists() else 0, msgspec.json.encode(settings)
    if key not in _known:
        _known[key] = _read(file, settings)
    return _known[key]


def _read(file: Path, settings: Settings) -> RewardRows:
    found, routes, number, row = RewardRows(), settings.routing, -1, dict[str, Any]()
    kinds: Counter[tuple[str, str, bool]] = Counter()
    try:
        optional = {"data_source", "agent_name"} & {*schema_of(file).names}
        needed = [*(["data_source"] if routes.by_source or settings.delegate else []), *routes.column[:1]]
        for row in read_rows(file, columns=[*dict.fromkeys(["reward_model", *needed, *sorted(optional)])]):
            number += 1
            source = str(row.get("data_source", ""))
            found.sources.add(source)
            found.agent_loops |= {str(row["agent_name"])} if row.get("agent_name") else set()
            if is_delegated(settings.delegate, source):
                continue
            target = target_of(row)
            preset = routes.preset_for(target, source, row)
            found.presets[preset.name, routes.index(preset)] += 1
            kind = preset.name, target.task, bool(target.n_objects)
            kinds[kind] += 1
            if kinds[kind] <= N_SAMPLES:
                found.samples.append((number, row))
    except RowsError as error:
        found.problem = str(error)
    except TargetError as error:
        found.problem = f"{file}: row {number}: {error}; {_advice(file, row)}"
    except RewardError as error:
        found.problem = f"{file}: row {number}: {error}; change {PREFIX}.routes, or the row"
    return found


def _advice(file: Path, row: Mapping[str, Any]) -> str:
    """What to do about a ground truth that is no target: convert the file, or leave its rows to verl's own reward."""
    if "data_source" not in row or METADATA_KEY in (schema_of(file).metadata or {}):
        return CONVERT_AGAIN
    return (
        f"convert the file with `visionr1 convert`, or set {PREFIX}.delegate=[{row['data_source']}] to score these "
        "rows by verl's own reward"
    )
