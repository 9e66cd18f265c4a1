"""Read untrusted source files: errors name file and place, and no code in a file is run.

Data sets come from the internet: pickles are limited to plain values, and XML is read without entities.
"""

from __future__ import annotations

import csv
import hashlib
import io
import mmap
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from xml.etree.ElementTree import Element

import msgspec

from verl_visionr1.conversion.pickled_numpy import stand_in
from verl_visionr1.files import RowError, RowsError, read_bytes, reading, walk

T = TypeVar("T")
_BATCH_ROWS = 100  # rows with images in memory as Python objects
_SHARD = re.compile(r"(train|val|valid|validation|test[a-zA-Z]?|dev|eval|minival)-\d{5}-of-\d{5}\.")
_NO_RECORDS = re.compile(r"(?:dataset_info|dataset_dict|state)\.json|cache-.*\.arrow")
"""Files of `datasets` beside its data: metadata, and results of earlier `map`s."""


def sha256_of(paths: Sequence[Path]) -> str:
    """Return a digest of files' names and contents, for the provenance of rows; depends on the order of the paths."""
    digest = hashlib.sha256()
    for path in paths:
        if len(paths) > 1:
            digest.update(os.fsencode(path.name) + b"\0")
        with reading(path), open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------- text formats


def read_json(path: Path, type: type[T] | Any = Any, advice: str = "is it the right file?") -> Any:
    """Read a JSON document as msgspec `type`. Python's NaN is not valid JSON and is refused.

    Args:
        advice: what to do about another layout, for the message.

    Raises `RowsError`: missing or garbled file, or another layout.
    """
    with reading(path), open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise RowsError(f"{path}: not complete JSON (it is empty); fetch the file again")
        # mapped: the text stays in the page cache, not in our memory
        text = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    text = text[3:] if text[:3] == b"\xef\xbb\xbf" else text
    try:
        return msgspec.json.decode(text, type=type)
    except msgspec.ValidationError as error:
        raise RowsError(f"{path}: not the expected layout: {error}; {advice}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = _nan_in(text, error) or f"not complete JSON ({error}); fetch the file again"
        raise RowsError(f"{path}: {reason}") from None


def _nan_in(text: bytes | memoryview, error: Exception) -> str:
    """Return a message if Python's NaN or Infinity caused the JSON error; else ""."""
    place = re.search(r"\(byte (\d+)\)", str(error))
    at = int(place[1]) if place is not None else len(text)
    found = re.match(rb"NaN|-?Infinity", bytes(text[max(at - 1, 0) : at + 10]).lstrip(b" :,[{\n\t"))
    advice = "remove the entry, or write null (json.dumps: allow_nan=False)"
    return f"is not JSON: {found[0].decode()} at byte {at}; {advice}" if found is not None else ""


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, record) of a .json list, .jsonl, .csv or .tsv with a header, .parquet or .arrow file.

    The place names file and entry, for messages. A line of .jsonl that is not JSON, or a table line with surplus
    fields, is yielded as a `RowError`.

    Raises `RowsError`: the file cannot be read, or is of another kind.
    """
    name = path.name.lower()
    unit, records = "row", iter(())
    if name.endswith((".jsonl", ".odgt", ".ndjson")):
        unit, records = "line", ((number, _decoded_line(path, number, line)) for number, line in numbered_lines(path))
    elif name.endswith(".json"):
        unit, whole = "entry", read_json(path)
        if not isinstance(whole, list):
            raise RowsError(f"{path}: needs a list, holds {type(whole).__name__}; is it the right file?")
        records = enumerate(whole)
    elif name.endswith((".csv", ".tsv")):
        unit, records = "line", read_csv(path)
    elif name.endswith(".parquet"):
        from verl_visionr1.rows import read_rows  # pyarrow

        records = enumerate(read_rows(path, batch_rows=_BATCH_ROWS))
    elif name.endswith(".arrow"):
        records = enumerate(_read_arrow(path))
    else:
        raise RowsError(f"{path}: unknown kind of file; needs .json, .jsonl, .csv, .tsv, .parquet or .arrow")
    for number, record in records:
        yield f"{path.name}: {unit} {number}", record


def _decoded_line(path: Path, number: int, line: str) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        reason = _nan_in(line.encode(), error) or f"is not JSON ({error}); correct it"
        return RowError("malformed entry", f"{path.name}: line {number}: {line[:80]!r} {reason}")


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text that are not blank; `RowsError` if it cannot be read."""
    return (line for _, line in numbered_lines(path))


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the lines of a UTF-8 text that are not blank; blank lines are counted."""
    with reading(path), open(path, encoding="utf-8-sig") as file:
        yield from ((number, line) for number, line in enumerate(file, 1) if not line.isspace())


def read_csv(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, str] | RowError]]:
    """Yield (line, record) of a table; a line with more fields than columns is yielded as a `RowError`.

    The separator is the comma, semicolon or tab, whichever is most frequent in the first line. Leading blanks are
    dropped.

    Args:
        columns: their names, if the file has no header.

    Raises `RowsError`: it cannot be read, or is not a table.
    """
    with reading(path), open(path, newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        # no column is called "\n", but pandas calls the column of its index ""
        reader = csv.DictReader(file, columns, restkey="\n", delimiter=delimiter, skipinitialspace=delimiter != "\t")
        if columns is None:
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for record in reader:
            surplus = [*(record.pop("\n", None) or ())]  # blank ones are ignored
            if not any(map(str.strip, surplus)):
                yield reader.line_num, {key: value or "" for key, value in record.items()}
                continue
            where, advice = f"{path.name}: line {reader.line_num}", "quote values with commas, or correct it"
            reason = f"fields {', '.join(surplus)[:80]!r} have no column; {advice}"
            yield reader.line_num, RowError("malformed entry", f"{where}: {reason}")


def _read_arrow(path: Path) -> Iterator[Any]:
    """Read a stream written by `save_to_disk` of Hugging Face's `datasets`."""
    import pyarrow as pa

    try:
        with reading(path), open(path, "rb"), pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                batch.validate(full=True)  # of a corrupt file, pyarrow would read any memory
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    yield from batch.slice(start, _BATCH_ROWS).to_pylist()
    except pa.ArrowException as error:
        first = str(error).splitlines()[0]
        raise RowsError(f"{path}: not a complete Arrow stream ({first}); fetch the file again") from None


def files_of(source: Path, suffixes: tuple[str, ...], split: str = "") -> list[Path]:
    """Return the file itself, or all files of a folder with these suffixes, sorted, without `save_to_disk`'s metadata.

    Args:
        split: of shards such as `train-00000-of-00007.parquet`, use only those of this split; "": all.

    Raises `RowsError`: no such file, or none of this split.
    """
    if not source.exists():
        raise RowsError(f"{source}: no such file or folder; check the path")
    if not source.is_dir():
        return [source]
    inside = (Path(folder, name) for folder, names in walk(source) for name in names)
    found = (path for path in inside if path.name.lower().endswith(suffixes) and path.is_file())
    files = sorted(path for path in found if not _NO_RECORDS.fullmatch(path.name))
    if not files:
        raise RowsError(f"{source}: no {' or '.join(suffixes)} file in this folder; check the path")
    splits = {path: found[1] if (found := _SHARD.match(path.name)) else "" for path in files}
    chosen = [path for path in files if split in ("", splits[path]) or not splits[path]]
    if not chosen:
        raise RowsError(f"{source}: no split {split!r}: it has {', '.join(sorted(set(splits.values())))}; give --split")
    return chosen


# ---------------------------------------------------------------------------------------------- XML, pickles, MATLAB


def read_xml(path: Path) -> Element:
    """Return the root of an XML file. Entities and DTDs are refused (defusedxml).

    Raises `RowsError`: it cannot be read. RowError: not XML, or with entities or a DTD.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    text = read_bytes(path)
    try:
        return fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        raise RowError("hostile XML", f"{path}: {type(error).__name__}: entities and DTDs are refused") from None
    except (ParseError, ValueError, LookupError) as error:  # LookupError: unknown encoding
        raise RowError("malformed XML", f"{path}: {error}; correct it") from None


class _PlainUnpickler(pickle.Unpickler):
    """Reads pickles of plain values and numpy arrays of numbers; refuses every other global."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        found = stand_in(module, name)
        if found is None:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}")
        return found


def read_pickle(path: Path) -> Any:
    """Read a pickle of dictionaries, lists, texts and numbers, written by Python 2 or 3; refuse anything else.

    numpy arrays of numbers become lists (`pickled_numpy`).

    Raises `RowsError`: it cannot be read, is garbled, or would load code.
    """
    data = read_bytes(path)
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # noqa: BLE001 - a garbled pickle can raise anything
        if isinstance(error, pickle.UnpicklingError) and str(error).startswith("it "):  # ours
            reason = f"{error}, but annotations need only plain values; do not open it with other tools"
            raise RowsError(f"{path}: refused: {reason}") from None
        raise RowsError(f"{path}: not a complete pickle ({type(error).__name__}: {error}); fetch it again") from None


def read_mat(path: Path) -> dict[str, Any]:
    """Return the variables of a .mat file, up to MATLAB's v7; nested cells and structs are as scipy returns them.

    Raises `RowError`: it cannot be read, is garbled, or is v7.3 (HDF5).
    """
    from scipy.io import loadmat

    try:
        return loadmat(io.BytesIO(path.read_bytes()))
    except FileNotFoundError:
        raise RowError("annotation file missing", f"{path}: no such file; check the path") from None
    except NotImplementedError:  # scipy raises it for v7.3
        reason = "MATLAB v7.3 (HDF5) is not supported"
        raise RowError("mat file of v7.3", f"{path}: {reason}; save it again in MATLAB with save(..., '-v7')") from None
    except Exception as error:  # noqa: BLE001 - a garbled file can raise anything
        reason = f"not a complete .mat file ({type(error).__name__}: {error})"
        raise RowError("mat file garbled", f"{path}: {reason}; fetch it again") from None
