"""Read the true size of an image in the model's input from the batch.

verl resizes images twice, with budgets unknown to the reward. But the M-RoPE position ids of the image's tokens count
its rows and columns exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from verl_visionr1.plugin.config import ConfigError


class ImageChoiceError(ValueError):
    """The image of a row's ground truth is unknown."""


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """Layout of an image in a model's tokens.

    Attributes:
        token_id: the placeholder, one per merged patch.
        pixels: side of a merged patch in pixels of the processed image (patch size x merge size).
    """

    token_id: int
    pixels: int

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> ImageTokens:
        """Read the layout from a `config.json` of Qwen2-VL to Qwen3.5 or of GLM-V.

        Raises:
            ConfigError: a required field is missing, or patches are not square.
        """
        advice = "set reward.reward_kwargs.visionr1.frame to the coordinates of the model's answers"
        try:
            vision = model["vision_config"]
            patch, merge, token_id = vision["patch_size"], vision["spatial_merge_size"], model["image_token_id"]
        except KeyError as error:
            missing = f"the model's config.json has no {error.args[0]!r}, which a frame in processed pixels needs"
            raise ConfigError(f"{missing}; {advice}") from None
        sides = {patch} if isinstance(patch, int) else {*patch}  # Qwen3.5's config may have [height, width]
        if len(sides) != 1:
            found = f"the model's config.json: vision_config.patch_size = {patch!r}: needs a square patch"
            raise ConfigError(f"{found}; {advice}")
        return cls(int(token_id), int(sides.pop()) * int(merge))


def read_processed_size(
    batch: Mapping[str, Any], image_tokens: ImageTokens, image: int | None = None, prompt_end: int | None = None
) -> tuple[int, int] | None:
    """Read width and height in pixels of an image of the batch's last row, as the model saw it.

    Args:
        batch: `input_ids` (n, length) and `position_ids` (n, 4, length): text, time, row, column of each token.
        image: which image of the row, from 0 (`Target.image`); None: the only one.
        prompt_end: length of the prompt; later image tokens were written by the model.

    Returns:
        (width, height), or None if the row has no image token or no M-RoPE positions.

    Raises:
        ImageChoiceError: several images without `image`, or an `image` beyond the last one.
    """
    input_ids, position_ids = batch["input_ids"][-1], batch["position_ids"][-1]
    if position_ids.dim() != 2:
        return None
    # Views of the same memory: numpy's operations on a few hundred numbers cost a third of torch's.
    places = np.flatnonzero(input_ids.numpy()[:prompt_end] == image_tokens.token_id)
    if not len(places):
        return None
    ends = [*np.flatnonzero(np.diff(places) > 1).tolist(), len(places) - 1]  # last token of each image
    first, last = _bounds_of(ends, image)
    grid = position_ids.numpy()[-2:, int(places[first]) : int(places[last]) + 1]
    height, width = (int(positions.max()) - int(positions.min()) + 1 for positions in grid)
    return width * image_tokens.pixels, height * image_tokens.pixels


def _bounds_of(ends: list[int], image: int | None) -> tuple[int, int]:
    """First and last token of the chosen image; with several images, `image` is required."""
    if (len(ends) > 1 and image is None) or (image is not None and image >= len(ends)):
        given = "no image" if image is None else f"image = {image}"
        raise ImageChoiceError(
            f"the row has {len(ends)} images, and its ground truth has {given}; set `image` in it, from 0"
        )
    index = image or 0
    return (ends[index - 1] + 1 if index else 0), ends[index]
