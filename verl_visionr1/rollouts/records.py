"""Read saved completions with their ground truth as a stream, from verl's rollout dumps or any table.

verl writes `<trainer.rollout_data_dir>/<step>.jsonl` (and `validation_data_dir`): one JSON object per trajectory with
`input`, `output`, `gts`, `score`, `step` and `uid` ("{sample}_{rollout}_{output}"); validation dumps also have the
reward's metrics. One row is in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from verl_visionr1.answers.transcript import answer_text
from verl_visionr1.files import RowError
from verl_visionr1.rewards.routing import DELEGATED
from verl_visionr1.rollouts.columns import Columns, RowColumns, require_object, value_at
from verl_visionr1.rollouts.dumps import Advance, rows_of, start_of
from verl_visionr1.targets import Target

SEVERAL_SOURCES = "(several sources)"
"""Data source of a row whose ground truth occurs in several."""
OnError = Literal["fail", "skip"]
ROUTE = "route"
"""Column of verl's dumps: which of the run's rewards scored the row, see `reward_manager.reward_of`."""
TOLD = (ROUTE, "stage", "progress", "match_iou", "iou_mean", "f1_50", "accuracy", "processed_w", "processed_h")
"""Numbers that are also read from tables; from JSON lines all numbers are read."""
VALIDATION = "val"
"""Prefix of the names of folders with validation dumps."""
N_EXAMPLES = 5
"""Number of kept messages of skipped rows."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One completion with its ground truth.

    Attributes:
        number: line (from 1), in parquet row (from 0).
        group: equal for the rollouts of one prompt at one step.
        session: equal for the outputs of one trajectory of several turns; None if unknown.
        source: the row's data source, else that of its ground truth in the training data, else its task.
        step: trainer step; None if the row does not have it.
        saved: the run's reward; None if missing or not finite.
        processed_wh: width and height of the image as the model saw it, if the row has it.
        n_tokens: length in tokens, if the row has it.
        prompt: prompt as in the dump; None if the row does not have it.
        index: `extra_info.index` of the row of the data, if the row has it.
        image: see `image_name`.
        numbers: other numbers of the row in the dump, by verl's names: "stage", "iou_mean", "route" ...
        is_validation: whether it belongs to a run's validation, by the name of its folder.
        row: the row's columns, if a rule of the run uses one.
    """

    file: str
    number: int
    completion: str
    target: Target
    group: Hashable
    session: Hashable
    source: str
    step: int | None
    saved: float | None
    processed_wh: tuple[int, int] | None
    n_tokens: int | None
    prompt: str | None = None
    index: int | None = None
    image: str | None = None
    numbers: Mapping[str, float] = {}
    is_validation: bool = False
    row: Mapping[str, Any] | None = None

    @property
    def is_clipped(self) -> bool | None:
        """True if the dump reports a completion that filled the response budget; else None (unknown).

        Rewards without a known budget also report 0.
        """
        clipped = self.numbers.get("clipped", self.numbers.get("cut_off", 0.0))  # its former name
        return True if clipped > 0.0 else None

    @property
    def where(self) -> str:
        """File and line in an editor's notation."""
        return f"{self.file}:{self.number}"


@dataclass(slots=True)
class Counts:
    """Numbers of rows by outcome of reading.

    Attributes:
        n_skipped: rows that could not be read, with `on_error="skip"`.
        n_earlier: earlier outputs of trajectories of several turns: only the last one is scored.
        n_unknown: rows whose ground truth is not in the given training data.
        n_by_text: rows without uid, index and image: grouped only by prompt and ground truth.
        n_delegated: rows scored by verl's own reward (`visionr1.delegate`); left out.
        examples: reasons for skipping the first `N_EXAMPLES` rows, and the `wanted` one.
        wanted: number of a row whose outcome is needed.
    """

    n_skipped: int = 0
    n_earlier: int = 0
    n_unknown: int = 0
    n_by_text: int = 0
    n_delegated: int = 0
    examples: list[str] = field(default_factory=list)
    wanted: int | None = None

    def skip(self, message: str, number: int | None = None) -> None:
        """Count a row that could not be read or scored."""
        self.n_skipped += 1
        if len(self.examples) < N_EXAMPLES or (number is not None and number == self.wanted):
            self.examples.append(message)

    def describe_delegated(self) -> str:
        """One line on the rows of verl's own reward."""
        return f"{self.n_delegated} rows left out: verl's own reward scored them (visionr1.delegate)"


def no_row(counts: Counts) -> str:
    """Message: why there is nothing to score."""
    if counts.n_delegated and not counts.n_skipped:
        return counts.describe_delegated()
    if counts.n_skipped:
        return f"no row could be read: {counts.n_skipped} were skipped, the first: {counts.examples[0]}"
    return "the dumps are empty; is the run still before its first dump?"


def data_sources_of(files: Sequence[Path]) -> dict[str, str]:
    """Read ground truth (text) -> data source from the training data.

    Raises:
        RowsError: an unreadable file, or missing columns.
    """
    from verl_visionr1.rows import read_rows

    sources: dict[str, str] = {}
    for file in files:
        for row in read_rows(file, columns=["data_source", "reward_model"]):
            truth, source = value_at(row, ("reward_model", "ground_truth")), row["data_source"]
            if isinstance(truth, str) and isinstance(source, str):
                sources[truth] = source if sources.get(truth, source) == source else SEVERAL_SOURCES
    return sources


def read_rollouts(
    files: Sequence[Path],
    *,
    columns: Columns | None = None,
    sources: Mapping[str, str] | None = None,
    on_error: OnError = "fail",
    counts: Counts | None = None,
    advance: Advance | None = None,
    validation_names: Collection[str] = (),
    keeps_rows: bool = False,
) -> Iterator[Rollout]:
    """Read the rollouts of some files, in order.

    Of a trajectory of several turns, whose outputs verl writes in sequence, only the last is returned.

    Args:
        sources: result of `data_sources_of`.
        on_error: "fail" raises at the first row that cannot be read; "skip" counts it and continues.
        validation_names: folders with validation dumps, besides those whose name begins with `VALIDATION`.
        keeps_rows: whether a rollout keeps the columns of its row.

    Raises:
        RowsError: a file that cannot be read.
        RowError: a row that cannot be read; the message names file and line.
    """
    counts = Counts() if counts is None else counts
    reader = _Reader(columns or Columns(), sources, counts, validation_names, keeps_rows)
    held: Rollout | None = None
    for file in files:
        label = "row" if file.name.endswith(".parquet") else "line"
        for number, row in rows_of(file, reader.top_level, advance):
            if isinstance(row, dict) and row.get(ROUTE) == DELEGATED:
                counts.n_delegated += 1
                continue
            try:
                rollout = reader.rollout(file, number, row)
            except RowError as error:
                message = f"{file}: {label} {number}: {error}"
                if on_error == "fail":
                    raise RowError(error.kind, message) from None
                counts.skip(message, number)
                continue
            if held is not None and held.session is not None and held.session == rollout.session:
                counts.n_earlier += 1
            elif held is not None:
                yield held
            held = rollout
    if held is not None:
        yield held


class _Reader:
    """Converts rows to rollouts; column names are parsed once."""

    def __init__(
        self,
        columns: Columns,
        sources: Mapping[str, str] | None,
        counts: Counts,
        validation_names: Collection[str],
        keeps_rows: bool,
    ) -> None:
        self._columns = RowColumns(columns)
        self._get = self._columns.get
        self.sources = sources
        self.counts = counts
        self.validation_names, self.keeps_rows = validation_names, keeps_rows
        self._named = self._columns.top_level
        self.top_level = set(TOLD) | self._columns.top_level

    def rollout(self, file: Path, number: int, row: Any) -> Rollout:
        row = require_object(row)
        completion = self._columns.required(row, "completion")
        if isinstance(completion, list) and all(isinstance(turn, dict) for turn in completion):  # TRL's messages
            completion = answer_text(completion)
        if not isinstance(completion, str):
            raise RowError(
                "completion",
                f"completion {start_of(completion)} is not text; name the column: --column completion=NAME",
            )
        text, target = self._columns.truth(row)
        step = _whole(self._get(row, "step"))
        index, image = _exact(self._get(row, "index")), image_name(self._get(row, "image"))
        processed_wh = _size(self._get(row, "processed_wh") or _processed_pair(row))
        identity = index, image, self._get(row, "image_id")
        group, session = self._group_of(row, (str(file.parent), step), text, identity, processed_wh)
        numbers = {
            name: float(value)
            for name, value in row.items()
            if type(value) in (int, float) and name not in self._named and value == value
        }
        return Rollout(
            file=str(file),
            number=number,
            completion=completion,
            target=target,
            group=group,
            session=session,
            source=self._source_of(row, text, target),
            step=step,
            saved=_finite(self._get(row, "score")),
            processed_wh=processed_wh,
            n_tokens=_whole(self._get(row, "n_tokens")),
            prompt=self._columns.prompt(row),
            index=index,
            image=image,
            numbers=numbers,
            is_validation=file.parent.name.startswith(VALIDATION) or file.parent.name in self.validation_names,
            row=row if self.keeps_rows else None,
        )

    def _group_of(
        self,
        row: dict[str, Any],
        place: tuple[str, int | None],
        truth: str,
        identity: tuple[int | None, str | None, Any],
        processed_wh: tuple[int, int] | None,
    ) -> tuple[Hashable, Hashable]:
        """Group and session of a row: by its uid, else by other columns that identify its prompt."""
        uid = self._get(row, "uid")
        if uid is None:  # hashes, since the texts are long
            self.counts.n_by_text += identity == (None, None, None)
            asked = hash(str(self._get(row, "prompt"))), hash(truth), processed_wh
            return (*place, *asked, *map(str, identity)), None
        prompt, rollout, _ = split_uid(uid)
        return (*place, prompt), None if rollout is None else (*place, prompt, rollout)

    def _source_of(self, row: dict[str, Any], truth: str, target: Target) -> str:
        source = self._get(row, "data_source")
        if source is None and self.sources is not None:
            source = self.sources.get(truth)
            self.counts.n_unknown += source is None
        # Half a surrogate pair can be read, but not printed or written.
        return target.task if source is None else str(source).encode(errors="replace").decode()


def split_uid(uid: Any) -> tuple[str, int | None, int | None]:
    """Split verl's "{prompt}_{rollout}_{output}"; another uid is the prompt itself.

    >>> split_uid("a_b_3_0"), split_uid(7)
    (('a_b', 3, 0), ('7', None, None))
    """
    parts = str(uid).rsplit("_", 2)
    if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
        return parts[0], int(parts[1]), int(parts[2])
    return str(uid), None, None


def image_name(images: Any) -> str | None:
    """Name of an image: its path, or a digest of its bytes; for several images, all names.

    >>> image_name(["a/1.png", {"path": "a/2.png"}])
    'a/1.png\\na/2.png'
    >>> image_name([{"bytes": b"raw", "path": None}])[:20]
    'sha256:d7439bee24773'
    """
    names = [_name_of(image) for image in (images if isinstance(images, list) else [images])]
    return None if None in names else "\n".join(map(str, names))


def _name_of(image: Any) -> str | None:
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path") or image.get("image")
    if isinstance(image, bytes):
        return f"sha256:{hashlib.sha256(image).hexdigest()}"
    return image if isinstance(image, str) else None


def _processed_pair(row: Mapping[str, Any]) -> list[Any] | None:
    """The processed size as reported by the reward manager, in two columns since verl's metrics are numbers."""
    return [row["processed_w"], row["processed_h"]] if row.get("processed_w") and row.get("processed_h") else None


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 else None  # nan compares as False


def _exact(value: Any) -> int | None:
    """An integer of any size: `float` would round an index of 63 bits."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    number = _finite(value)
    return None if number is None else int(number)


def _size(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    width, height = map(_whole, value)
    return None if not width or not height or width < 0 or height < 0 else (width, height)
