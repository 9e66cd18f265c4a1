"""Computes the size at which a model sees an image from the original size, for rows that lack it.

verl resizes twice: `qwen_vl_utils.fetch_image` when it loads the image (for every model), then the model's own image
processor. Both round to multiples of a patch and keep the area within a budget; with different budgets the second
resize changes the result of the first. Models that answer in pixels use pixels of the final size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

MAX_ASPECT = 200
"""Largest ratio of the longer to the shorter side that both stages accept."""
_LOADER_MERGE = 2  # qwen_vl_utils merges 2 x 2 patches, for every model
_LOADER_TOKENS = (4, 16384)  # its default budget, in merged patches


class SizeError(ValueError):
    """An image size that a resize rejects, or an invalid budget."""


def _require_whole(key: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise SizeError(f"{key} = {value!r}: needs a whole number above 0")


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """Resize parameters of a family's image processor.

    Attributes:
        name: key in `PROCESSORS`.
        patch_size: side of a patch in pixels.
        merge_size: patches per side that are merged into one token.
        min_pixels, max_pixels: bounds of the area, in pixels (of `n_frames` frames).
        n_frames: number of times the budget counts an image: GLM pads it to the two frames of its temporal patch.

    Raises:
        SizeError: a number that is not whole and positive, or max_pixels below min_pixels.
    """

    name: str
    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    n_frames: int = 1

    def __post_init__(self) -> None:
        for key in ("patch_size", "merge_size", "min_pixels", "max_pixels", "n_frames"):
            _require_whole(key, getattr(self, key))
        if self.max_pixels < self.min_pixels:
            raise SizeError(f"max_pixels = {self.max_pixels}: needs at least min_pixels = {self.min_pixels}")

    @property
    def factor(self) -> int:
        """Both sides become multiples of this."""
        return self.patch_size * self.merge_size

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageProcessor:
        """Read the `preprocessor_config.json` of a Qwen-VL or GLM-V model; missing values: transformers' defaults."""
        kind = str(config.get("image_processor_type")).removesuffix("Fast").removesuffix("Pil")
        if kind not in _CLASS_DEFAULTS:
            raise SizeError(f"image_processor_type = {kind!r}: needs one of {', '.join(_CLASS_DEFAULTS)}")
        default = _CLASS_DEFAULTS[kind]
        size: Mapping[str, Any] = config.get("size") or {}
        # In old Qwen2-VL configs the budget is beside `size`, and takes precedence.
        is_qwen = default.n_frames == 1
        old: Mapping[str, Any] = config if is_qwen else {}
        return cls(
            name=kind,
            patch_size=config.get("patch_size", default.patch_size),
            merge_size=config.get("merge_size", default.merge_size),
            min_pixels=old.get("min_pixels") or size.get("shortest_edge", default.min_pixels),
            max_pixels=old.get("max_pixels") or size.get("longest_edge", default.max_pixels),
            n_frames=1 if is_qwen else config.get("temporal_patch_size", default.n_frames),
        )


PROCESSORS: Mapping[str, ImageProcessor] = MappingProxyType(
    {
        processor.name: processor
        for processor in (
            ImageProcessor("qwen2-vl", 14, 2, 56 * 56, 28 * 28 * 16384),
            ImageProcessor("qwen2.5-vl", 14, 2, 56 * 56, 28 * 28 * 16384),
            ImageProcessor("qwen3-vl", 16, 2, 256 * 256, 32 * 32 * 16384),
            ImageProcessor("glm", 14, 2, 112 * 112, 28 * 28 * 15000, n_frames=2),
        )
    }
)
"""Processors as published (`preprocessor_config.json`), by the name of the family's frame."""
# Defaults of the classes in transformers 5.9, for values that a config lacks.
_CLASS_DEFAULTS: Mapping[str, ImageProcessor] = MappingProxyType(
    {
        "Qwen2VLImageProcessor": replace(PROCESSORS["qwen2-vl"], max_pixels=28 * 28 * 1280),
        "Glm4vImageProcessor": PROCESSORS["glm"],
        "Glm46VImageProcessor": PROCESSORS["glm"],
    }
)


PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""Files with the resize parameters of a model, the first one that is there."""


def image_processor_of(folder: Path) -> ImageProcessor | None:
    """Read the resize parameters of the model in a folder; None if they are missing, unreadable or of another kind."""
    for name in PROCESSOR_FILES:
        if (folder / name).is_file():
            try:
                config = json.loads((folder / name).read_text())
                return ImageProcessor.from_config(config.get("image_processor") or config)
            except (AttributeError, ValueError):  # a SizeError too
                return None
    return None


def processed_size(
    size_wh: tuple[int, int],
    processor: str | ImageProcessor,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    image_options: Mapping[str, int] | None = None,
) -> tuple[int, int]:
    """Return width and height in pixels at which the model sees an image of `size_wh` under verl 0.9.

    Args:
        size_wh: size of the upright original.
        processor: a name in `PROCESSORS`, or an `ImageProcessor`.
        min_pixels, max_pixels: `data.mm_processor_kwargs`, replacing the processor's own budget. Both or none: a
            processor ignores a single one when it is called, but uses it when it is built, as vLLM does.
        image_options: `min_pixels`, `max_pixels`, `resized_height`, `resized_width` beside the image in the row's
            prompt; other keys are ignored.

    Raises:
        SizeError: a size that a stage rejects (sides more than 200:1 apart, a budget below one patch), an invalid
            budget, only one of the two budgets, or an unknown processor.

    >>> processed_size((640, 480), "qwen2.5-vl"), processed_size((640, 480), "qwen3-vl")
    ((644, 476), (640, 480))
    >>> processed_size((1300, 434), "qwen2.5-vl", min_pixels=3136, max_pixels=401408)
    (1064, 364)
    """
    if isinstance(processor, str):
        if processor not in PROCESSORS:
            raise SizeError(f"processor = {processor!r}: needs one of {', '.join(PROCESSORS)}")
        processor = PROCESSORS[processor]
    processor = with_budget(processor, min_pixels, max_pixels)
    for value in size_wh:
        _require_whole("size_wh", value)
    return size_by_processor(size_by_loader(size_wh, processor, image_options or {}), processor)


def with_budget(processor: ImageProcessor, min_pixels: int | None, max_pixels: int | None) -> ImageProcessor:
    """Return the processor with another pixel budget; SizeError: only one of the two, or an invalid budget."""
    if (min_pixels is None) != (max_pixels is None):
        raise SizeError(
            f"min_pixels = {min_pixels}, max_pixels = {max_pixels}: needs both or none; some of verl's processors "
            "ignore a single one, others use it"
        )
    if min_pixels is None or max_pixels is None:
        return processor
    return replace(processor, min_pixels=min_pixels, max_pixels=max_pixels)


def size_by_loader(size_wh: tuple[int, int], processor: ImageProcessor, options: Mapping[str, int]) -> tuple[int, int]:
    """Apply only the first stage: `qwen_vl_utils.fetch_image`, with the `image_options` of `processed_size`."""
    factor = processor.patch_size * _LOADER_MERGE
    fewest, most = (tokens * factor**2 for tokens in _LOADER_TOKENS)
    width, height = size_wh
    if "resized_height" in options and "resized_width" in options:
        width, height = options["resized_width"], options["resized_height"]
    else:
        fewest, most = options.get("min_pixels", fewest), options.get("max_pixels", most)
    if most < fewest:
        raise SizeError(f"image_options: max_pixels = {most}: needs at least min_pixels = {fewest}")
    _check_aspect(width, height)
    new_w, new_h = (max(factor, round(side / factor) * factor) for side in (width, height))
    if new_w * new_h > most:
        scale = math.sqrt((height * width) / most)
        new_w, new_h = (math.floor(side / scale / factor) * factor for side in (width, height))
    elif new_w * new_h < fewest:
        new_w, new_h = _enlarge(width, height, factor, fewest)
    if not (new_w and new_h):
        raise SizeError(f"size_wh = {size_wh}: a budget of {most} pixels leaves less than a patch of one side")
    return new_w, new_h


def size_by_processor(size_wh: tuple[int, int], processor: ImageProcessor) -> tuple[int, int]:
    """Apply only the second stage: `smart_resize` of the image processor (transformers: qwen2_vl, glm4v, glm46v)."""
    width, height = size_wh
    factor, n_frames = processor.factor, processor.n_frames
    if n_frames > 1 and (height < factor or width < factor):
        scale = max(factor / height, factor / width)
        width, height = int(width * scale), int(height * scale)
    _check_aspect(width, height)
    new_w, new_h = (round(side / factor) * factor for side in (width, height))
    if n_frames * new_w * new_h > processor.max_pixels:
        scale = math.sqrt((n_frames * height * width) / processor.max_pixels)
        new_w, new_h = (max(factor, math.floor(side / scale / factor) * factor) for side in (width, height))
    elif n_frames * new_w * new_h < processor.min_pixels:
        new_w, new_h = _enlarge(width, height, factor, processor.min_pixels, n_frames)
    return new_w, new_h


def _enlarge(width: int, height: int, factor: int, min_pixels: int, n_frames: int = 1) -> tuple[int, int]:
    scale = math.sqrt(min_pixels / (n_frames * height * width))
    return math.ceil(width * scale / factor) * factor, math.ceil(height * scale / factor) * factor


def _check_aspect(width: int, height: int) -> None:
    if max(width, height) / min(width, height) > MAX_ASPECT:
        raise SizeError(f"size_wh = {(width, height)}: sides are more than {MAX_ASPECT}:1 apart")
