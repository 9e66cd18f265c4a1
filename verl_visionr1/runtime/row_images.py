"""Find rows that verl's data set cannot turn into a prompt with images (`RLHFDataset._build_messages`).

It replaces each "<image>" of a text with the next image of the row, and stops if their numbers differ. A row without an
image keeps the "<image>" as text, so the model would be asked about an image that it does not see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MARK = "<image>"
_IMAGE_FIELDS = frozenset({"bytes", "image", "image_url"})
"""Fields of an image as a record, of which verl (or qwen_vl_utils) needs one."""


def column_problem(schema: pa.Schema, prompt_key: str, image_key: str) -> str:
    """Why verl cannot read the columns of prompts and images; "" if it can, or if one is missing."""
    if prompt_key in schema.names and not _is_conversation(schema.field(prompt_key).type):
        kind = schema.field(prompt_key).type
        return f"column {prompt_key} has {kind}: verl needs a list of messages with role and content"
    if image_key not in schema.names or b"huggingface" in (schema.metadata or {}):  # `datasets` may decode it
        return ""
    kind = schema.field(image_key).type
    if pa.types.is_null(kind):
        return ""
    if not _is_list(kind):
        return f"column {image_key} has {kind}: verl needs a list of images, also for one"
    image = kind.value_type
    if pa.types.is_struct(image):
        names = {image.field(number).name for number in range(image.num_fields)}
        if not names & _IMAGE_FIELDS:
            return f"column {image_key} has records of {', '.join(sorted(names))}: verl needs {_RECORD} or a path"
    elif pa.types.is_binary(image) or pa.types.is_large_binary(image):
        return f"column {image_key} has bare bytes: verl needs {_RECORD} or a path"
    return ""


_RECORD = "{bytes: ...}, {image: path}"


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_conversation(kind: pa.DataType) -> bool:
    if not _is_list(kind):
        return False
    message = kind.value_type
    return pa.types.is_struct(message) and message.get_field_index("content") >= 0


def image_counts(parquet: pq.ParquetFile, image_key: str) -> Iterator[int | None]:
    """Number of images of each row, without their bytes; None if unknown."""
    schema = parquet.schema_arrow
    if image_key not in schema.names or pa.types.is_null(schema.field(image_key).type):
        return repeat(0, parquet.metadata.num_rows)
    columns = [parquet.schema.column(number).path for number in range(len(parquet.schema))]
    inner = [path for path in columns if path.startswith(f"{image_key}.") and not path.endswith(".bytes")]
    if not inner or not _is_list(schema.field(image_key).type):
        return repeat(None, parquet.metadata.num_rows)
    batches = parquet.iter_batches(columns=inner[:1])
    return (len(images or ()) for batch in batches for images in batch.column(0).to_pylist())


def row_problem(messages: object, n_images: int | None) -> str:
    """Why verl cannot make a prompt of a row, or makes one without its image; "" if it can."""
    if not isinstance(messages, list) or not messages:
        return f"its prompt is {messages!r}: verl needs a list of messages with role and content"
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    n_marks = sum(content.count(MARK) for content in contents if isinstance(content, str))
    if n_images is None or n_marks == n_images:
        return ""
    return f"its prompt has {n_marks} {MARK} for {n_images} images; verl needs one for each: correct the row"


def has_other_media(schema: pa.Schema, *keys: Any) -> bool:
    """Whether rows may have videos or sounds, whose places are not counted here."""
    return any(str(key) in schema.names for key in keys)
