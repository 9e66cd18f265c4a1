"""Turn rows of a parquet into model inputs as verl's validation does, to the token.

verl's `RLHFDataset` replaces each "<image>" with an image of the row. Its agent loop loads and resizes them with
`qwen_vl_utils`, renders the chat template with the processor, and gives vLLM the tokens and the images.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from verl_visionr1.evaluation.predictions import Prediction, identity_of, uid_of
from verl_visionr1.files import RowError
from verl_visionr1.processed import ImageProcessor, SizeError, processed_size
from verl_visionr1.rollouts.records import image_name
from verl_visionr1.rows import open_parquet, read_rows, schema_of, target_of
from verl_visionr1.targets import TargetError

MAX_IMAGES = 8
"""Most images of one row."""
_COLUMNS = ("data_source", "prompt", "images", "reward_model", "extra_info")
_BATCH_ROWS = 64  # in memory at once, as Python objects


@dataclass(frozen=True, slots=True)
class Asked:
    """A row of a file; rows count from 0."""

    file: Path
    number: int
    columns: Mapping[str, Any]

    @property
    def where(self) -> str:
        """File and row, for messages."""
        return f"{self.file}: row {self.number}"

    @property
    def key(self) -> tuple[str, int]:
        """Name of the file, and row."""
        return self.file.name, self.number


@dataclass(frozen=True, slots=True)
class Question:
    """A row as model input.

    Attributes:
        prediction: without the answer.
        token_ids: the prompt; an image is a single token, which vLLM repeats.
        images: loaded and resized by `qwen_vl_utils`.
        n_prompt: length of the prompt in tokens, with image tokens; None for an unknown image processor.
    """

    prediction: Prediction
    token_ids: list[int]
    images: list[Any]
    n_prompt: int | None


def asked_rows(files: Sequence[Path], limit: int | None = None) -> Iterator[Asked]:
    """Read the rows of some files in order, the first `limit` of each; one row group is in memory at a time."""
    for file in files:
        present = schema_of(file).names
        columns = [name for name in _COLUMNS if name in present or name not in ("images", "extra_info")]
        rows = enumerate(read_rows(file, columns=columns, batch_rows=_BATCH_ROWS))
        for number, row in islice(rows, limit):
            yield Asked(file, number, row)


def count_rows(files: Sequence[Path], limit: int | None = None) -> int:
    """Number of rows of `asked_rows`."""
    total = 0
    for file in files:
        with open_parquet(file) as parquet:
            n_rows = parquet.metadata.num_rows
        total += n_rows if limit is None else min(n_rows, limit)
    return total


class Prompts:
    """Makes the questions of one model.

    Args:
        min_pixels, max_pixels: `data.mm_processor_kwargs`; None: the model's own budget.
        chat_template_kwargs: `data.apply_chat_template_kwargs`.

    Attributes:
        banned: tokens of images and videos, which verl never lets a model generate.
    """

    def __init__(
        self,
        folder: Path,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        from transformers import AutoProcessor

        self._chat_template_kwargs = {"add_generation_prompt": True, **(chat_template_kwargs or {}), "tokenize": False}
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.tokenizer: Any = getattr(self.processor, "tokenizer", self.processor)
        self.mm_processor_kwargs: dict[str, Any] = {}
        if min_pixels is not None and max_pixels is not None:
            self.mm_processor_kwargs = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        image_processor = getattr(self.processor, "image_processor", None)
        self.image_patch_size: int = getattr(image_processor, "patch_size", 14)
        self._image_token: int | None = getattr(self.processor, "image_token_id", None)
        video_token: int | None = getattr(self.processor, "video_token_id", None)
        self.banned = [token for token in (self._image_token, video_token) if token is not None]
        self._resizing: ImageProcessor | None = None
        with suppress(SizeError):  # of another family the sizes are unknown
            self._resizing = image_processor and ImageProcessor.from_config(image_processor.to_dict())

    def text(self, token_ids: Sequence[int]) -> str:
        """Decode tokens without special tokens, as in verl's dumps."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    def question(self, asked: Asked) -> Question:
        """Make the model input of a row."""
        row = asked.columns
        messages = messages_of(row, asked.where)
        images = self._images(messages, asked.where)
        rendered = self.processor.apply_chat_template(messages, **self._chat_template_kwargs)
        token_ids: list[int] = self.tokenizer(rendered)["input_ids"]
        sizes_wh = [self._processed_wh(image.size) for image in images]
        prediction = Prediction(
            input=self.text(token_ids),
            output="",
            gts=_ground_truth(row, asked.where),
            data_source=str(row["data_source"]),
            file=asked.file.name,
            row=asked.number,
            uid=uid_of(*asked.key, 0),
            image=image_name(row["images"]) if row.get("images") else None,
            processed_wh=sizes_wh[0] if sizes_wh else None,
            **identity_of(row),
        )
        return Question(prediction, token_ids, images, self._n_prompt(token_ids, sizes_wh))

    def _images(self, messages: list[dict[str, Any]], where: str) -> list[Any]:
        from qwen_vl_utils import process_vision_info

        try:
            images = process_vision_info(messages, image_patch_size=self.image_patch_size)[0]
        except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow's, of a broken PNG
            reason = " ".join(str(error).split())[:160]
            raise RowError("image", f"{where}: its image cannot be loaded ({reason})") from None
        images = images or []
        if len(images) > MAX_IMAGES:
            raise RowError("too many images", f"{where}: {len(images)} images; at most {MAX_IMAGES} can be shown")
        if images and self._image_token is None:
            raise RowError("no images", f"{where}: has an image, but this model's processor takes none")
        return images

    def _processed_wh(self, loaded_wh: tuple[int, int]) -> tuple[int, int] | None:
        """Processed width and height of an image loaded by `qwen_vl_utils`."""
        if self._resizing is None:
            return None
        with suppress(SizeError):
            # This also replays the loader's resizing, which does not change an image that it has resized.
            return processed_size(loaded_wh, self._resizing, **self.mm_processor_kwargs)
        return None

    def grid_wh(self, image: Any) -> tuple[int, int]:
        """The true value of `_processed_wh`, by running the image processor; slow."""
        image_processor = self.processor.image_processor
        _, rows, columns = image_processor(images=[image], **self.mm_processor_kwargs)["image_grid_thw"][0]
        return int(columns) * self.image_patch_size, int(rows) * self.image_patch_size

    def _n_prompt(self, token_ids: list[int], sizes_wh: list[tuple[int, int] | None]) -> int | None:
        if self._resizing is None or None in sizes_wh:
            return None if sizes_wh else len(token_ids)
        n_image = sum(size[0] * size[1] // self._resizing.factor**2 for size in sizes_wh if size is not None)
        return len(token_ids) - len(sizes_wh) + n_image


def messages_of(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Build the conversation with images in place of "<image>", as verl's `RLHFDataset` does."""
    images = list(row.get("images") or [])
    messages: list[dict[str, Any]] = []
    if not isinstance(row["prompt"], list) or not all(isinstance(turn, Mapping) for turn in row["prompt"]):
        raise RowError("prompt", f"{where}: its prompt is not a list of turns with role and content")
    n_places = 0
    for turn in row["prompt"]:
        content = turn.get("content")
        if images and isinstance(content, str):
            parts: list[dict[str, Any]] = []
            for segment in filter(None, re.split("(<image>)", content)):
                if segment == "<image>":
                    parts.append(_image_part(images[n_places]) if n_places < len(images) else {})
                    n_places += 1
                else:
                    parts.append({"type": "text", "text": segment})
            content = parts
        messages.append({**turn, "content": content})
    if n_places != len(images):
        raise RowError("placeholders", f"{where}: its prompt has {n_places} <image> for {len(images)} images")
    return messages


def _image_part(image: Any) -> dict[str, Any]:
    if not isinstance(image, Mapping):
        return {"type": "image", "image": os.fspath(image)}
    part = {key: value for key, value in image.items() if key != "bytes" and value is not None}
    if image.get("bytes") is not None:
        from PIL import Image

        part["image"] = Image.open(io.BytesIO(image["bytes"]))
    elif "path" in part:
        part.setdefault("image", part.pop("path"))
    return {"type": "image", **part}


def _ground_truth(row: Mapping[str, Any], where: str) -> str:
    try:
        target_of(row)
    except TargetError as error:
        raise RowError("ground truth", f"{where}: {error}") from None
    return row["reward_model"]["ground_truth"]
