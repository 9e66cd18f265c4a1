"""The size an image really had in the model's input, read from the batch instead of guessed.

verl resizes images twice, with budgets the reward never sees. The M-RoPE position ids of the image's tokens, however,
count its rows and columns exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verl_visionr1.plugin.config import ConfigError


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """How a model lays an image out in tokens.

    Attributes:
        token_id: the placeholder that stands once for each merged patch.
        pixels: side of a merged patch in pixels of the processed image (patch size x merge size).
    """

    token_id: int
    pixels: int

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> ImageTokens:
        """From a Qwen-VL `config.json`.

        Raises:
            ConfigError: the config lacks a field this needs.
        """
        try:
            vision = model["vision_config"]
            return cls(int(model["image_token_id"]), int(vision["patch_size"]) * int(vision["spatial_merge_size"]))
        except KeyError as error:
            raise ConfigError(
                f"the model's config.json has no {error.args[0]!r}, which a frame in processed pixels needs; "
                "set reward.reward_kwargs.visionr1.frame to the coordinates the model speaks in"
            ) from None


def processed_size(batch: Mapping[str, Any], image_tokens: ImageTokens) -> tuple[int, int] | None:
    """Width and height, in pixels, of the first image of the batch's last row as the model saw it.

    Args:
        batch: `input_ids` (n, length) and `position_ids` (n, 4, length): text, time, row, column of each token.
        image_tokens: the model's layout.

    Returns:
        (width, height), or None where the row has no image token or no M-RoPE positions.
    """
    input_ids, position_ids = batch["input_ids"][-1], batch["position_ids"][-1]
    if position_ids.dim() != 2:
        return None
    # Views of the same memory: numpy's operations on a few hundred numbers cost a third of torch's.
    places = np.flatnonzero(input_ids.numpy() == image_tokens.token_id)
    if not len(places):
        return None
    start, end = int(places[0]), int(places[-1]) + 1
    if end - start != len(places):  # several images: up to the first gap
        end = start + int(np.flatnonzero(np.diff(places) > 1)[0]) + 1
    rows, columns = position_ids.numpy()[-2:, start:end]
    return _extent(columns) * image_tokens.pixels, _extent(rows) * image_tokens.pixels


def _extent(positions: NDArray[np.int64]) -> int:
    return int(positions.max()) - int(positions.min()) + 1
