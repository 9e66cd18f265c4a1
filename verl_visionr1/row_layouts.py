"""The columns of a row for each framework, and the storage of its image.

    verl       data_source, prompt, images, ability, reward_model, extra_info        (parquet)
    easyr1     problem, answer, images, data_source, ability, extra_info             (parquet, jsonl)
    ms-swift   messages, images, solution, data_source, ability, extra_info          (parquet, jsonl)
    trl        prompt, images, ground_truth, data_source, ability, extra_info        (parquet, jsonl)

The ground truth is the same JSON text everywhere, `Target.to_json()`. `prompt` and `messages` are one user's turn. Its
text and `problem` begin with "<image>", except TRL's `prompt`, where the trainer puts the images first.

Images in parquet, a list of one:

* verl: an absolute path, or `struct<bytes>` (embedded). This type must not change: verl concatenates
  files, and a column of another type stops the trainer at its start. With `--hf-images` as for EasyR1, which every verl
  from 0.5 on reads;
* easyr1, trl: `struct<bytes, path>`, one of them null, with the metadata of Hugging Face's `Image`, by which `datasets`
  opens them; ms-swift: without metadata.

Images in jsonl are absolute paths.

Source: the readers of verl 0.5 to 0.9.1, EasyR1's `RLHFDataset` (`prompt_key=problem`), ms-swift 4.6's
`RowPreprocessor`, trl 0.27's `GRPOTrainer`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import pyarrow as pa

from verl_visionr1.images import RowImage
from verl_visionr1.rows import Row

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


def _values_of(row: Row, index: int, placeholder: str) -> dict[str, Any]:
    """Return all columns of a row, of this number in the data set; `placeholder`: text before its question."""
    width, height = row.image.size_wh
    info = {"split": row.split, "index": index, "image_id": row.image_id, "width": width, "height": height}
    info |= {"task": row.target.task, "question": row.question}
    info |= {"file_name": row.file_name, "source_ann": row.source_ann}
    question, truth = placeholder + row.question, row.target.to_json()
    return {
        **{"data_source": row.data_source, "ability": row.target.task, "images": [row.image.path], "extra_info": info},
        **{"problem": question, "reward_model": {"style": "rule", "ground_truth": truth}},
        **{key: [{"role": "user", "content": question}] for key in ("prompt", "messages")},
        **dict.fromkeys(("answer", "solution", "ground_truth"), truth),
    }


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows of one framework.

    Attributes:
        columns: in order.
        storage: of an image in parquet: "plain": a path or bytes; "pair": both, one of them null; "feature": the same
            as a feature of `datasets`.
        suffixes: of the files that the framework reads.
        placeholder: text before the question.
    """

    columns: tuple[str, ...]
    storage: Literal["plain", "pair", "feature"] = "feature"
    suffixes: tuple[str, ...] = (".parquet", ".jsonl")
    placeholder: str = "<image>"

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
        records = [self.record(row, index) for index, row in enumerate(rows, first_index)]
        for record, row in zip(records, rows, strict=True):
            record["images"] = [self._image(row.image)]
        return pa.RecordBatch.from_pylist(records, schema=schema)

    def record(self, row: Row, index: int) -> dict[str, Any]:
        """Convert a row, of this number in the data set, to a record of jsonl."""
        values = _values_of(row, index, self.placeholder)
        return {name: values[name] for name in self.columns}

    def _image(self, image: RowImage) -> Any:
        if self.storage != "plain":
            return {"bytes": image.data, "path": image.path if image.data is None else None}
        return image.path if image.data is None else {"bytes": image.data}


_SHARED = ("data_source", "ability", "extra_info")
VERL = Layout(("data_source", "prompt", "images", "ability", "reward_model", "extra_info"), "plain", (".parquet",))
VERL_FEATURES = replace(VERL, storage="feature")
"""verl's layout with image features, which verl 0.5 to 0.9.1 reads, and newer versions decode early."""
PATH_SCHEMA, EMBED_SCHEMA = VERL.schema(embed=False), VERL.schema(embed=True)
"""Images as absolute paths (small files, no images in Ray's messages), or as raw bytes (one file to copy). verl allows
no other key beside `bytes`."""
LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "verl": VERL,
        "easyr1": Layout(("problem", "answer", "images", *_SHARED)),
        "ms-swift": Layout(("messages", "images", "solution", *_SHARED), "pair"),
        "trl": Layout(("prompt", "images", "ground_truth", *_SHARED), placeholder=""),
    }
)
"""Framework -> its layout."""


def framework_of(columns: Collection[str]) -> str:
    """Return the framework, other than verl, that has these columns; "" if there is none.

    >>> framework_of(["problem", "answer", "images", "data_source", "ability", "extra_info"])
    'easyr1'
    """
    others = (name for name in LAYOUTS if name != "verl")
    return next((name for name in others if set(LAYOUTS[name].columns) == set(columns)), "")


def as_verl_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a row of another framework to verl's columns; return any other row unchanged."""
    framework = framework_of(row)
    if not framework:
        return row
    prompt, ground_truth = (row[name] for name in LAYOUTS[framework].columns if name not in ("images", *_SHARED))
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return {**row, "prompt": turns, "reward_model": {"style": "rule", "ground_truth": ground_truth}}
