"""Count a file's rows, prompt lengths and images, and find rows that verl's data set cannot make prompts of.

Images are not opened: sizes are in the ground truth, placeholders in the prompt. Image tokens are exact for the
families of `processed`; text tokens are a lower bound, so a prompt that is counted as too long is too long. verl's
`RLHFDataset._build_messages` replaces each "<image>" of a text with the next image of the row, and stops if their
numbers differ; a row without images keeps "<image>" as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from verl_visionr1.conversion.tokens import text_tokens
from verl_visionr1.processed import ImageProcessor, SizeError, processed_size
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import open_parquet, read_rows, target_of
from verl_visionr1.targets import Target, TargetError

MARK = "<image>"
_TEXT_SHARE = 2
"""Estimates of a text's tokens are right within about 10 %; half of it is a safe lower bound."""
_RECORD = "{bytes: ...}, {image: path}"


@dataclass(slots=True)
class RowFacts:
    """Counts of a file, or of several.

    Attributes:
        n_overlong: rows with an image and a prompt longer than `Reading.longest`; 0 if sizes are unknown.
        most_images: largest number of images in a row.
        n_over_limit: rows with more images than `Reading.allowed`.
        unclear_image: problem of the first row with several images and no valid `image` in its target; "" for none.
        unreadable: problem of the first row (or column) that verl's data set cannot read; "" for none.
    """

    n_rows: int = 0
    n_overlong: int = 0
    most_images: int = 0
    n_over_limit: int = 0
    unclear_image: str = ""
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a run reads its rows.

    Attributes:
        prompt_key, media: columns of prompts; of images, videos and sounds.
        processor: the model's image processor; None: unknown.
        longest: data.max_prompt_length.
        allowed: vLLM's limit of images in one prompt; None: no limit.
        delegated: sources whose rows need not name their image; None: no row needs to.
    """

    prompt_key: str
    media: tuple[str, ...]
    processor: ImageProcessor | None
    longest: int
    allowed: int | None
    delegated: tuple[str, ...] | None


@lru_cache(maxsize=64)
def count_rows(file: Path, changed_ns: int, how: Reading) -> RowFacts:
    """The facts of one file, cached; `changed_ns` invalidates the cache for a rewritten file.

    Raises:
        RowsError: the file is not whole.
    """
    with open_parquet(file) as parquet:
        schema = parquet.schema_arrow
        has_other_media = any(key in schema.names for key in how.media[1:])  # whose places are not counted here
        counts = [*(repeat(None, parquet.metadata.num_rows) if has_other_media else _counts(parquet, how.media[0]))]
    found = RowFacts(n_rows=len(counts), unreadable=_column_problem(schema, how.prompt_key, how.media[0]))
    columns = [name for name in (how.prompt_key, "reward_model", "data_source") if name in schema.names]
    if how.prompt_key not in columns:
        return found
    for number, (row, count) in enumerate(zip(read_rows(file, columns=columns), counts, strict=True)):
        messages = row[how.prompt_key]
        found.unreadable = found.unreadable or _row_problem(number, messages, count)
        text, n_images = _prompt(messages)
        found.n_overlong += _least_tokens(text, n_images, row, how.processor) > how.longest
        found.most_images = max(found.most_images, n_images)
        found.n_over_limit += how.allowed is not None and n_images > how.allowed
        if n_images > 1 and how.delegated is not None and not found.unclear_image:
            found.unclear_image = _unclear_image(number, row, n_images, how.delegated)
    return found


def _counts(parquet: pq.ParquetFile, image_key: str) -> Iterator[int | None]:
    """Number of images of each row, without their bytes; None if unknown."""
    schema, n_rows = parquet.schema_arrow, parquet.metadata.num_rows
    if image_key not in schema.names or pa.types.is_null(schema.field(image_key).type):
        return repeat(0, n_rows)
    columns = [parquet.schema.column(number).path for number in range(len(parquet.schema))]
    inner = [path for path in columns if path.startswith(f"{image_key}.") and not path.endswith(".bytes")]
    if not inner or not _is_list(schema.field(image_key).type):
        return repeat(None, n_rows)
    batches = parquet.iter_batches(columns=inner[:1])
    return (len(images or ()) for batch in batches for images in batch.column(0).to_pylist())


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_conversation(kind: pa.DataType) -> bool:
    if not _is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    return kind.value_type.get_field_index("content") >= 0


def _column_problem(schema: pa.Schema, prompt_key: str, image_key: str) -> str:
    """Why verl cannot read the columns of prompts and images; "" if it can, or if one is missing."""
    kinds = {key: schema.field(key).type for key in (prompt_key, image_key) if key in schema.names}
    prompt, images = kinds.get(prompt_key), kinds.get(image_key)
    if prompt is not None and not _is_conversation(prompt):
        return f"column {prompt_key} has {prompt}: verl needs a list of messages with role and content"
    is_decoded = b"huggingface" in (schema.metadata or {})  # `datasets` may decode it
    if images is None or is_decoded or pa.types.is_null(images):
        return ""
    if not _is_list(images):
        return f"column {image_key} has {images}: verl needs a list of images, also for one"
    image = images.value_type
    fields = {image.field(number).name for number in range(image.num_fields)}
    is_record = pa.types.is_struct(image) and fields & {"bytes", "image", "image_url"}
    if is_record or pa.types.is_string(image) or pa.types.is_large_string(image) or pa.types.is_null(image):
        return ""
    return f"column {image_key} has lists of {image}: verl needs {_RECORD} or a path"


def _row_problem(number: int, messages: object, n_images: int | None) -> str:
    """Why verl cannot make a prompt of a row, or makes one without its image; "" if it can."""
    if not isinstance(messages, list) or not messages:
        return f"row {number}: its prompt is {messages!r}: verl needs a list of messages with role and content"
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    n_marks = sum(content.count(MARK) for content in contents if isinstance(content, str))
    if n_images is None or n_marks == n_images:
        return ""
    wrong = f"its prompt has {n_marks} {MARK} for {n_images} images"
    return f"row {number}: {wrong}; verl needs one for each: correct the row"


def _prompt(messages: object) -> tuple[str, int]:
    """Text of a prompt, and its number of images: verl splits a text at each "<image>"."""
    texts: list[str] = []
    n_images = 0
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            texts.append(content.replace(MARK, ""))
            n_images += content.count(MARK)
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping):
                texts.append(str(part.get("text") or ""))
                n_images += part.get("type") == "image"
    return "\n".join(texts), n_images


class _Sized(msgspec.Struct):
    """The part of a ground truth with the image's size."""

    size_wh: tuple[int, int] = (0, 0)


def _least_tokens(text: str, n_images: int, row: Mapping[str, Any], processor: ImageProcessor | None) -> int:
    """Lower bound of a prompt's tokens; 0 without an image of known size."""
    truth = row["reward_model"].get("ground_truth") if isinstance(row.get("reward_model"), Mapping) else None
    if not n_images or processor is None or not isinstance(truth, str):
        return 0
    try:
        width, height = processed_size(msgspec.json.decode(truth, type=_Sized).size_wh, processor)
    except (msgspec.DecodeError, OverflowError, SizeError):
        return 0
    others = (n_images - 1) * (processor.min_pixels // processor.n_frames // processor.factor**2)
    return width * height // processor.factor**2 + others + text_tokens(text) // _TEXT_SHARE


def _unclear_image(number: int, row: Mapping[str, Any], n_images: int, delegated: Sequence[str]) -> str:
    """Why the image of a row's ground truth is unknown among several; "" if known."""
    if is_delegated(delegated, str(row.get("data_source", ""))):
        return ""
    try:
        target: Target = target_of(row)
    except (KeyError, TargetError):  # the preflight reports it
        return ""
    if target.task == "text" or (target.image is not None and target.image < n_images):
        return ""
    named = "names none of them" if target.image is None else f"names image {target.image}"
    return f"row {number} has {n_images} images, and its ground truth {named}; set `image` in the target, from 0"
