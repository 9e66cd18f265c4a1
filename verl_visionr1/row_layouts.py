"""The columns of a row for each framework, and the storage of its image.

    verl       data_source, prompt, images, ability, reward_model, extra_info        (parquet)
    easyr1     problem, answer, images, data_source, ability, extra_info             (parquet, jsonl)
    ms-swift   messages, images, solution, data_source, ability, extra_info          (parquet, jsonl)
    trl        prompt, images, ground_truth, data_source, ability, extra_info        (parquet, jsonl)

The ground truth is the same JSON text everywhere, `Target.to_json()`: `reward_model.ground_truth` (verl), `answer`
(EasyR1), `solution` (ms-swift), `ground_truth` (TRL). `data_source` (string), `ability` (the task) and `extra_info` are
the same in all. `extra_info` is a struct of split, index, image_id, width, height (of the original image), task,
question, file_name and source_ann. `prompt` and `messages` are one user's turn. Its text and `problem` begin with
"<image>", except TRL's `prompt`, where the trainer puts the images first.

Images in parquet, a list of one:

* verl: an absolute path, or `struct<bytes>` (embedded). This type must not change: verl concatenates
  files, and a column of another type stops the trainer at its start. With `--hf-images` as for EasyR1, which every verl
  from 0.5 on reads;
* easyr1, trl: `struct<bytes, path>`, one of them null, with the metadata of Hugging Face's `Image`, by which `datasets`
  opens them;
* ms-swift: `struct<bytes, path>` without metadata; the framework opens them itself.

Images in jsonl are absolute paths. TRL takes opened images: `dataset.cast_column("images", datasets.List(Image()))`.

Source: the readers of verl 0.5 to 0.9.1, EasyR1's `RLHFDataset` (`prompt_key=problem`), ms-swift 4.6's
`RowPreprocessor`, trl 0.27's `GRPOTrainer`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import pyarrow as pa

from verl_visionr1.images import RowImage
from verl_visionr1.rows import Row

Columns = Mapping[str, Callable[[Row, int], Any]]
"""Column -> function of a row and its number in the data set; without `images`."""

_TEXT, _WHOLE = pa.string(), pa.int64()
_TURNS = pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))
_INFO = {"split": _TEXT, "index": _WHOLE, "image_id": _TEXT, "width": _WHOLE, "height": _WHOLE}
_INFO |= {"task": _TEXT, "question": _TEXT, "file_name": _TEXT, "source_ann": _TEXT}
_TYPES = {
    "prompt": _TURNS,
    "messages": _TURNS,
    "reward_model": pa.struct([("style", _TEXT), ("ground_truth", _TEXT)]),
    "extra_info": pa.struct(list(_INFO.items())),
}
"""Types of the columns that are not text."""
_IMAGE_FEATURES = {"info": {"features": {"images": {"feature": {"_type": "Image"}, "_type": "Sequence"}}}}
"""Metadata that `datasets` writes if the column `images` is a list of `Image`."""


ImageStorage = Literal["plain", "pair", "feature"]
"""Storage of an image in parquet: a path or bytes; both, one of them null; the same as a feature."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows of one framework.

    Attributes:
        columns: in order; "images" is a placeholder, filled here.
        storage: of the images, in parquet.
        suffixes: of the files that the framework reads.
    """

    columns: Columns
    storage: ImageStorage = "feature"
    suffixes: tuple[str, ...] = (".parquet", ".jsonl")

    def schema(self, *, embed: bool) -> pa.Schema:
        """Return the schema of a parquet file; `embed`: with the bytes of images."""
        image: pa.DataType = pa.struct([("bytes", pa.binary()), ("path", _TEXT)])
        if self.storage == "plain":
            image = pa.struct([("bytes", pa.binary())]) if embed else _TEXT
        types = {**_TYPES, "images": pa.list_(image)}
        metadata = {"huggingface": json.dumps(_IMAGE_FEATURES)} if self.storage == "feature" else None
        return pa.schema([(name, types.get(name, _TEXT)) for name in self.columns], metadata=metadata)

    def record_batch(self, rows: Sequence[Row], first_index: int, schema: pa.Schema) -> pa.RecordBatch:
        """Convert rows to a parquet batch."""
        columns = {
            name: [value(row, first_index + i) for i, row in enumerate(rows)] for name, value in self.columns.items()
        }
        columns["images"] = [[self._image(row.image)] for row in rows]
        return pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in schema], schema=schema)

    def record(self, row: Row, index: int) -> dict[str, Any]:
        """Convert a row to a record of jsonl."""
        return {name: value(row, index) for name, value in self.columns.items()} | {"images": [row.image.path]}

    def _image(self, image: RowImage) -> Any:
        if self.storage != "plain":
            return {"bytes": image.data, "path": image.path if image.data is None else None}
        return image.path if image.data is None else {"bytes": image.data}


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _extra_info(row: Row, index: int) -> dict[str, Any]:
    width, height = row.image.size_wh
    image = {"split": row.split, "index": index, "image_id": row.image_id, "width": width, "height": height}
    question = {"task": row.target.task, "question": row.question}
    return {**image, **question, "file_name": row.file_name, "source_ann": row.source_ann}


_IMAGES: Columns = {"images": lambda row, index: None}
_SHARED: Columns = {
    "data_source": lambda row, index: row.data_source,
    "ability": lambda row, index: row.target.task,
    "extra_info": _extra_info,
}
VERL = Layout(
    {
        "data_source": _SHARED["data_source"],
        "prompt": lambda row, index: _turn("<image>" + row.question),
        **_IMAGES,
        "ability": _SHARED["ability"],
        "reward_model": lambda row, index: {"style": "rule", "ground_truth": row.target.to_json()},
        "extra_info": _extra_info,
    },
    "plain",
    (".parquet",),
)
VERL_FEATURES = replace(VERL, storage="feature")
"""verl's layout with image features, which verl 0.5 to 0.9.1 reads, and newer versions decode early."""
PATH_SCHEMA, EMBED_SCHEMA = VERL.schema(embed=False), VERL.schema(embed=True)
"""Images as absolute paths (small files, no images in Ray's messages), or as raw bytes (one file to copy). verl allows
no other key beside `bytes`."""
LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "verl": VERL,
        "easyr1": Layout(
            {
                "problem": lambda row, index: "<image>" + row.question,
                "answer": lambda row, index: row.target.to_json(),
                **_IMAGES,
                **_SHARED,
            }
        ),
        "ms-swift": Layout(
            {
                "messages": lambda row, index: _turn("<image>" + row.question),
                **_IMAGES,
                "solution": lambda row, index: row.target.to_json(),
                **_SHARED,
            },
            "pair",
        ),
        "trl": Layout(
            {
                "prompt": lambda row, index: _turn(row.question),
                **_IMAGES,
                "ground_truth": lambda row, index: row.target.to_json(),
                **_SHARED,
            }
        ),
    }
)
"""Framework -> its layout."""
_PARTS = {"easyr1": ("problem", "answer"), "ms-swift": ("messages", "solution"), "trl": ("prompt", "ground_truth")}
"""Framework -> its columns of the prompt and of the ground truth."""


def framework_of(columns: Collection[str]) -> str:
    """Return the framework, other than verl, that has these columns; "" if there is none.

    >>> framework_of(["problem", "answer", "images", "data_source", "ability", "extra_info"])
    'easyr1'
    """
    return next((name for name in _PARTS if set(LAYOUTS[name].columns) == set(columns)), "")


def as_verl_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a row of another framework to verl's columns; return any other row unchanged."""
    framework = framework_of(row)
    if not framework:
        return row
    prompt, ground_truth = (row[name] for name in _PARTS[framework])
    turns = _turn(prompt) if isinstance(prompt, str) else prompt
    return {**row, "prompt": turns, "reward_model": {"style": "rule", "ground_truth": ground_truth}}
