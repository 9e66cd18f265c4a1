"""Rows with several images: which of them does the ground truth speak of?

Models that speak in pixels of the processed image speak of one image's pixels. Which one has to be said, as
`Target.image`; otherwise a perfect answer about the second image would be scored in the first one's pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.frames import FRAMES, Extent
from verl_visionr1.plugin.config import ConfigError, settings_of
from verl_visionr1.plugin.data_files import DATA_KEYS, readable_files
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import PLACEHOLDERS, RowsError, open_parquet, read_rows, target_of
from verl_visionr1.runtime.run_rows import guess_family
from verl_visionr1.targets import TargetError

IMAGE = PLACEHOLDERS[0]
"""Stands in a prompt for an image."""


def image_choice_problems(config: DictConfig) -> list[str]:
    """Files with a row of several images whose target does not say which one it speaks of, or names none of them.

    Asked only where the model may speak in processed pixels: other frames do not depend on the image's size.
    """
    try:
        settings = settings_of(config)
    except ConfigError:
        return []  # another check says it
    frame = guess_family(config, settings) or ""
    if frame in FRAMES and FRAMES[frame].extent is not Extent.PROCESSED:
        return []
    key, found = str(OmegaConf.select(config, "data.prompt_key") or "prompt"), list[str]()
    for name in DATA_KEYS:
        for path in readable_files(config, name):
            found += [f"{name}: {path}: {problem}" for problem in _first_problem(path, key, settings.delegate)]
    return found


def _first_problem(path: Path, key: str, delegate: list[str]) -> Iterator[str]:
    try:
        with open_parquet(path) as parquet:
            if key not in parquet.schema_arrow.names:
                return
        columns = ["reward_model", key, *(["data_source"] if delegate else [])]
        for number, row in enumerate(read_rows(path, columns=columns)):
            n_images = _n_images(row[key])
            if n_images < 2 or is_delegated(delegate, str(row.get("data_source", ""))):
                continue
            target = target_of(row)
            if target.task == "text" or (target.image is not None and target.image < n_images):
                continue
            said = "names none of them" if target.image is None else f"names image {target.image}"
            yield f"row {number} has {n_images} images, and its ground truth {said}; set `image` in the target, from 0"
            return
    except (RowsError, TargetError):
        return  # another check says it


def _n_images(prompt: Any) -> int:
    """Images of a prompt: verl puts one at each placeholder. (Reading the column of images would load them all.)"""
    turns = prompt if isinstance(prompt, list) else []
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    return sum(content.count(IMAGE) for content in contents if isinstance(content, str))
