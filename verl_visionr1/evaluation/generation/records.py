"""Settings and file of generated answers: a killed run resumes where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from verl_visionr1.evaluation.predictions import Prediction, encode, read_predictions
from verl_visionr1.files import RowsError, disk_error, read_bytes, reading, write_whole
from verl_visionr1.rollouts.run import Start

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
        chat_template_kwargs: `data.apply_chat_template_kwargs`.
        run: the start of the run whose settings score the answers; None: there is none.
        data: name of each parquet file -> its digest.
        device: "cpu" or "cuda".
    """

    model: str
    model_type: str
    weights: str
    sampling: Sampling
    min_pixels: int | None = None
    max_pixels: int | None = None
    chat_template_kwargs: dict[str, Any] = {}
    run: Start | None = None
    logprobs: bool = False
    data: dict[str, str]
    device: str
    versions: dict[str, str]


def fingerprint(files: Sequence[Path]) -> str:
    """Compute a digest of files: names, sizes, and `_N_SAMPLES` evenly spread samples of each.

    Two checkpoints of one training differ in nearly every weight, so samples distinguish them.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        with reading(file), file.open("rb") as data:
            size = os.fstat(data.fileno()).st_size
            digest.update(f"{file.name}\0{size}\0".encode())
            for i in range(_N_SAMPLES):
                data.seek(max(size - _SAMPLED_BYTES, 0) * i // (_N_SAMPLES - 1))
                digest.update(data.read(_SAMPLED_BYTES))
    return digest.hexdigest()


def data_fingerprints(files: Sequence[Path]) -> dict[str, str]:
    """Name of each file -> its digest."""
    found: dict[str, str] = {}
    for file in files:
        if file.name in found:
            reason = f"a second file called {file.name}; rename one of them, or evaluate them separately"
            raise RowsError(f"{file}: {reason}")
        found[file.name] = fingerprint([file])
    return found


@dataclass(frozen=True, slots=True)
class PredictionFile:
    """An open `predictions.jsonl`.

    Attributes:
        made: settings of the answers; with probabilities if the existing answers have them.
        rows_done: (file, row) of the rows with all answers.
    """

    file: BinaryIO
    made: Made
    rows_done: set[tuple[str, int]]

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Append all answers to some rows; they are on disk when this returns."""
        try:
            self.file.write(encode(predictions))
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise RowsError(f"{self.file.name}: cannot be written ({error.strerror}); run again to resume") from error
        self.rows_done.update((each.file, each.row) for each in predictions)


@contextmanager
def open_predictions(folder: Path, made: Made) -> Iterator[PredictionFile]:
    """Open `predictions.jsonl` in a folder for one writer at a time, with `eval.json` beside it.

    Args:
        folder: created if missing.

    Raises:
        RowsError: another run writes there, or the existing answers have other settings; the message names them.
    """
    path, settings = folder / PREDICTIONS, folder / SETTINGS
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / _LOCK, wait=False))
            if settings.exists():
                before = read_made(settings)
                refuse_others(settings, before, made)
                made = msgspec.structs.replace(made, logprobs=before.logprobs)
            elif path.exists():
                reason = f"no {SETTINGS} beside it, so its settings are unknown; remove it, or give another --out"
                raise RowsError(f"{path}: {reason}")
            else:
                write_whole(settings, msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
            rows_done = _keep_whole_rows(path, made.sampling.n)
            file = stack.enter_context(path.open("ab"))
        except OSError as error:
            raise disk_error(folder, error) from error
        yield PredictionFile(file, made, rows_done)


def _keep_whole_rows(path: Path, n: int) -> set[tuple[str, int]]:
    """Find the finished rows; drop the answers of a row that a kill left incomplete."""
    if not path.exists():
        return set()
    kept: list[Prediction] = []
    row: list[Prediction] = []
    for prediction in read_predictions(path):
        row = [prediction] if prediction.sample == 0 else [*row, prediction]
        kept += row if len(row) == n else []
    data = encode(kept)
    if data != path.read_bytes():
        write_whole(path, data)
    return {(prediction.file, prediction.row) for prediction in kept}


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Let one process at a time work in a folder; a second one waits, or is refused."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason = "another evaluation is writing there; wait, or give another --out"
            raise RowsError(f"{path.parent}: {reason}") from None
        except OSError:  # a file system without locks
            pass
        yield


def read_made(path: Path) -> Made:
    """Read the settings of the answers beside an `eval.json`."""
    data = read_bytes(path)
    try:
        return msgspec.json.decode(data, type=Made)
    except ValueError as error:
        raise RowsError(f"{path}: not written by visionr1 eval ({str(error)[:120]}); give another --out") from None


def refuse_others(path: Path, before: Made, now: Made) -> None:
    """Raise if answers made with `now` cannot be mixed with those made with `before`."""
    old, new = _flat(before), _flat(now)
    for key in dict.fromkeys((*old, *new)):
        was, wanted = old.get(key), new.get(key)
        if was == wanted or (key == "logprobs" and was):
            continue
        if key == "weights":
            was, wanted = f"{was} ({before.model})", f"{wanted} ({now.model})"
        difference = f"its answers were made with {key} = {was}, not {wanted}"
        raise RowsError(f"{path}: {difference}; give another --out, or the settings in that file")


def _flat(made: Made) -> dict[str, Any]:
    """The settings that decide the answers, by name; a model that was moved has the same weights."""
    plain = msgspec.to_builtins(made)
    del plain["model"], plain["model_type"], plain["run"]
    for key in ("sampling", "data", "versions"):
        plain |= {f"{key} {name}": value for name, value in plain.pop(key).items()}
    return plain
