"""How each framework reads a row: its columns, and how an image stands in them.

    verl       data_source, prompt, images, ability, reward_model, extra_info        (parquet)
    easyr1     problem, answer, images, data_source, ability, extra_info             (parquet, jsonl)
    ms-swift   messages, images, solution, data_source, ability, extra_info          (parquet, jsonl)
    trl        prompt, images, ground_truth, data_source, ability, extra_info        (parquet, jsonl)

The ground truth is the same JSON text everywhere, `Target.to_json()`: `reward_model.ground_truth` (verl), `answer`
(EasyR1), `solution` (ms-swift), `ground_truth` (TRL). `data_source` (string), `ability` (the task) and `extra_info` are
the same in all: `extra_info` is a struct of split, index, image_id, width, height (of the original image), task,
question, file_name and source_ann. `prompt` and `messages` are one user's turn; its text begins with "<image>", as does
`problem`, but in TRL's `prompt`, where the trainer puts the images first.

Images of parquet, one in a list:

* verl: an absolute path, or `struct<bytes>` (embedded). Frozen: verl concatenates files, and a column of another type
  stops the trainer at its start. With `--hf-images` as EasyR1's, which every verl from 0.5 on reads;
* easyr1, trl: `struct<bytes, path>`, one of which is null, with the metadata of Hugging Face's `Image`, by which
  `datasets` opens them;
* ms-swift: `struct<bytes, path>` without metadata: it opens them itself.

Images of jsonl are absolute paths. TRL takes opened images: `dataset.cast_column("images", datasets.List(Image()))`.

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
"""Name -> the value of a row, whose number in its data set is given; without `images`."""

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
"""Of the columns that are no texts."""
_IMAGE_FEATURES = {"info": {"features": {"images": {"feature": {"_type": "Image"}, "_type": "Sequence"}}}}
"""What `datasets` writes into a parquet file whose column `images` is a list of `Image`."""


ImageStorage = Literal["plain", "pair", "feature"]
"""How an image stands in a parquet file: a path or bytes; both, one of which is null; the same as a feature."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows of one framework.

    Attributes:
        columns: in their order; "images" stands for `images`, which is made here.
        storage: of the images, in parquet.
        suffixes: of the files that it reads.
    """

    columns: Columns
    storage: ImageStorage = "feature"
    suffixes: tuple[str, ...] = (".parquet", ".jsonl")

    def schema(self, *, embed: bool) -> pa.Schema:
        """Of a parquet file; `embed`: with the bytes of images."""
        image: pa.DataType = pa.struct([("bytes", pa.binary()), ("path", _TEXT)])
        if self.storage == "plain":
            image = pa.struct([("bytes", pa.binary())]) if embed else _TEXT
        types = {**_TYPES, "images": pa.list_(image)}
        metadata = {"huggingface": json.dumps(_IMAGE_FEATURES)} if self.storage == "feature" else None
        return pa.schema([(name, types.get(name, _TEXT)) for name in self.columns], metadata=metadata)

    def record_batch(self, rows: Sequence[Row], first_index: int, schema: pa.Schema) -> pa.RecordBatch:
        """Rows as parquet holds them."""
        columns = {
            name: [value(row, first_index + i) for i, row in enumerate(rows)] for name, value in self.columns.items()
        }
        columns["images"] = [[self._image(row.image)] for row in rows]
        return pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in schema], schema=schema)

    def record(self, row: Row, index: int) -> dict[str, Any]:
        """A row as a line of jsonl holds it."""
        return {name: value(row, index) for name, value in self.columns.items()} | {"images": [row.image.path]}

    def _image(self, image: RowImage) -> Any:
        if self.storage != "plain":
            return {"bytes": image.data, "path": image.path if image.data is None else None}
        return image.path if image.data is None else {"bytes": image.data}


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _extra_info(row: Row, index: int) -> dict[str, Any]:
    width, height = row.image.size_wh
    told = {"split": row.split, "index": index, "image_id": row.image_id, "width": width, "height": height}
    asked = {"task": row.target.task, "question": row.question}
    return {**told, **asked, "file_name": row.file_name, "source_ann": row.source_ann}


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
"""verl's, with images that verl 0.5 to 0.9.1 read, and newer ones decode early."""
PATH_SCHEMA, EMBED_SCHEMA = VERL.schema(embed=False), VERL.schema(embed=True)
"""Images as absolute paths: small files, and the images stay out of Ray's messages; or as the raw bytes of their files:
one file to ship. No further key may stand beside `bytes` (verl)."""
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
"""Framework -> its rows."""
_PARTS = {"easyr1": ("problem", "answer"), "ms-swift": ("messages", "solution"), "trl": ("prompt", "ground_truth")}
"""Framework -> its columns of the prompt and of the ground truth."""


def framework_of(columns: Collection[str]) -> str:
    """The framework other than verl for which rows of these columns were written; "" where there is none.

    >>> framework_of(["problem", "answer", "images", "data_source", "ability", "extra_info"])
    'easyr1'
    """
    return next((name for name in _PARTS if set(LAYOUTS[name].columns) == set(columns)), "")


def as_verl_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row for another framework with the columns of verl's; any other row as it is."""
    framework = framework_of(row)
    if not framework:
        return row
    prompt, truth = (row[name] for name in _PARTS[framework])
    turns = _turn(prompt) if isinstance(prompt, str) else prompt
    return {**row, "prompt": turns, "reward_model": {"style": "rule", "ground_truth": truth}}
