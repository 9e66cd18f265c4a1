"""Settings and file of generated answers: a killed run resumes where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec

from verl_visionr1.evaluation.predictions import Prediction, encode, read_predictions
from verl_visionr1.files import RowsError, disk_error, write_whole

PREDICTIONS = "predictions.jsonl"
SETTINGS = "eval.json"
_LOCK = ".lock"
_SAMPLED_BYTES, _N_SAMPLES = 1 << 16, 16


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How answers are drawn.

    Attributes:
        n: answers per row.
        temperature: 0 is greedy.
        max_tokens: most tokens of an answer, including the end-of-turn token.
        seed: seed of the sampling; each row has its own, so that the order of work does not matter.

    Raises:
        ValueError: several answers without a temperature.
    """

    n: int = 1
    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n > 1 and self.temperature == 0.0:
            raise ValueError(f"--n {self.n}: at temperature 0 all answers to a row are the same; set --temperature 1")


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the answers in a folder; kept beside them in `eval.json`.

    Attributes:
        weights: digest of the model's config and weights; see `fingerprint`.
        min_pixels, max_pixels: `data.mm_processor_kwargs`; None: the model's own budget.
        data: name of each parquet file -> its digest.
        device: "cpu" or "cuda".
    """

    model: str
    model_type: str
    weights: str
    sampling: Sampling
    min_pixels: int | None = None
    max_pixels: int | None = None
    logprobs: bool = False
    data: dict[str, str]
    device: str
    versions: dict[str, str]


def fingerprint(files: Sequence[Path]) -> str:
    """Compute a digest of files: names, sizes, and `_N_SAMPLES` evenly spread samples of each.

    Two checkpoints of one training differ in nearly every weight, so samples distinguish them; reading a whole model
    would take longer than loading it.

    Raises:
        RowsError: a file that cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            size = file.stat().st_size
            digest.update(f"{file.name}\0{size}\0".encode())
            with file.open("rb") as data:
                for i in range(_N_SAMPLES):
                    data.seek(max(size - _SAMPLED_BYTES, 0) * i // (_N_SAMPLES - 1))
                    digest.update(data.read(_SAMPLED_BYTES))
        except OSError as error:
            raise RowsError(f"{file}: cannot be read ({error.strerror or error})") from None
    return digest.hexdigest()


def data_fingerprints(files: Sequence[Path]) -> dict[str, str]:
    """Name of each file -> its digest.

    Raises:
        RowsError: an unreadable file, or two files of one name: predictions name files without their folders.
    """
    found: dict[str, str] = {}
    for file in files:
        if file.name in found:
            raise RowsError(
                f"{file}: a second file called {file.name}; rename one of them, or evaluate them separately"
            )
        found[file.name] = fingerprint([file])
    return found


class PredictionFile:
    """`predictions.jsonl` in a folder, for one writer at a time, with `eval.json` beside it.

    Args:
        folder: created if missing.
        made: settings of the answers.

    Attributes:
        made: the same; with probabilities if the existing answers have them.
        rows_done: (file, row) of the rows with all answers.

    Raises:
        RowsError: another run writes there, or the existing answers have other settings; the message names them.
    """

    def __init__(self, folder: Path, made: Made) -> None:
        self.path = folder / PREDICTIONS
        self.rows_done: set[tuple[str, int]] = set()
        self.made = made
        self._file: BinaryIO | None = None
        self._lock: BinaryIO | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder / _LOCK)
        except OSError as error:
            raise disk_error(folder, error) from error

    def __enter__(self) -> PredictionFile:
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def _open(self) -> None:
        settings = self.path.with_name(SETTINGS)
        before = read_made(settings) if settings.exists() else None
        if before is None and self.path.exists():
            raise RowsError(
                f"{self.path}: no {SETTINGS} beside it, so its settings are unknown; remove it, or give another --out"
            )
        if before is not None:
            refuse_others(settings, before, self.made)
            self.made = msgspec.structs.replace(self.made, logprobs=before.logprobs)
        else:
            write_whole(settings, msgspec.json.format(msgspec.json.encode(self.made), indent=1) + b"\n")
        try:
            if self.path.exists():
                self._keep_whole_rows()
            self._file = self.path.open("ab")
        except OSError as error:
            raise disk_error(self.path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for file in (self._file, self._lock):
            if file is not None:
                file.close()

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Append all answers to some rows; they are on disk when this returns.

        Raises:
            RowsError: they cannot be written.
        """
        assert self._file is not None
        try:
            self._file.write(encode(predictions))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RowsError(f"{self.path}: cannot be written ({error.strerror}); run again to resume") from error
        self.rows_done.update((each.file, each.row) for each in predictions)

    def _keep_whole_rows(self) -> None:
        """Find the finished rows; drop the answers of a row that a kill left incomplete."""
        kept: list[Prediction] = []
        row: list[Prediction] = []
        for prediction in read_predictions(self.path):
            row = [prediction] if prediction.sample == 0 else [*row, prediction]
            if len(row) == self.made.sampling.n:
                kept += row
                self.rows_done.add((prediction.file, prediction.row))
        data = encode(kept)
        if data != self.path.read_bytes():
            write_whole(self.path, data)


def _locked(path: Path) -> BinaryIO:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RowsError(f"{path.parent}: another evaluation is writing there; wait, or give another --out") from None
    except OSError:  # a file system without locks
        pass
    return file


def read_made(path: Path) -> Made:
    """Read the settings of the answers beside an `eval.json`.

    Raises:
        RowsError: it cannot be read, or is another kind of file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Made)
    except OSError as error:
        raise RowsError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise RowsError(f"{path}: not written by visionr1 eval ({str(error)[:120]}); give another --out") from None


def refuse_others(path: Path, before: Made, now: Made) -> None:
    """Raise if answers made with `now` cannot be mixed with those made with `before`.

    Raises:
        RowsError: names the difference. (Answers with probabilities also serve as answers without.)
    """
    old, new = (_flat(msgspec.to_builtins(made)) for made in (before, now))
    for key in [*old, *(key for key in new if key not in old)]:
        was, wanted = old.get(key), new.get(key)
        if key in ("model", "model_type") or was == wanted or (key == "logprobs" and was):
            continue
        if key == "weights":
            difference = f"its answers are of {before.model} with other weights, not of {now.model}"
        elif key == "logprobs":
            difference = "its answers have no token probabilities"
        else:
            difference = f"its answers were made with {key} = {was}, not {wanted}"
        raise RowsError(f"{path}: {difference}; give another --out, or the settings in that file")


def _flat(plain: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            prefix = "" if key == "sampling" else f"{key} "
            flat |= {f"{prefix}{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat
