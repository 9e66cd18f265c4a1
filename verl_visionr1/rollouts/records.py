"""Saved completions with their ground truth, read as a stream: verl's rollout dumps, or a table of one's own.

verl writes `<trainer.rollout_data_dir>/<step>.jsonl` (and `validation_data_dir`): one JSON object a trajectory with
`input`, `output`, `gts`, `score`, `step` and `uid` ("{sample}_{rollout}_{output}"); validation dumps hold the reward's
metrics as well. One row is in memory at a time.
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
"""Data source of a row whose ground truth stands in more than one."""
OnError = Literal["fail", "skip"]
ROUTE = "route"
"""Column of verl's dumps: which of the run's rewards judged the row, see `reward_manager.reward_of`."""
TOLD = (ROUTE, "stage", "progress", "match_iou", "iou_mean", "f1_50", "accuracy", "processed_w", "processed_h")
"""Numbers that are read of tables, too, where they have them; of JSON lines all numbers are."""
VALIDATION = "val"
"""Names of folders of validation dumps begin so."""
N_EXAMPLES = 5
"""Messages of skipped rows that are kept."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One completion and what it is judged by.

    Attributes:
        number: line (from 1), in parquet row (from 0).
        group: equal for the rollouts of one prompt at one step.
        session: equal for the outputs of one trajectory of several turns; None where that is not known.
        source: the row's data source, else that of its ground truth in the training data, else its task.
        step: trainer step; None where the row does not say.
        saved: the reward it was given; None where there is none, or none that is finite.
        processed_wh: width and height of the image as the model saw it, where the row says.
        n_tokens: length in tokens, where the row says.
        prompt: what the model was asked, in the words of the dump; None where the row does not say.
        index: `extra_info.index` of the row of the data, where the row says.
        image: see `image_name`.
        numbers: what the dump reports of the row besides, by verl's names: "stage", "iou_mean", "route" ...
        is_validation: whether it is of a run's validation, by the folder that it stands in.
        row: the row's own columns, where a rule of the run looks at one.
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
        """True where the dump says that the completion filled the response budget; else None, not known.

        Rewards that were not told the budget report 0, too.
        """
        clipped = self.numbers.get("clipped", self.numbers.get("cut_off", 0.0))  # the name that it had before
        return True if clipped > 0.0 else None

    @property
    def where(self) -> str:
        """File and line, as editors take it."""
        return f"{self.file}:{self.number}"


@dataclass(slots=True)
class Counts:
    """What became of the rows while they were read.

    Attributes:
        n_skipped: rows that could not be read, with `on_error="skip"`.
        n_earlier: earlier outputs of trajectories of several turns: only the last one is judged.
        n_unknown: rows whose ground truth is not in the training data that was given.
        n_by_text: rows without uid, index and image: their group is known by prompt and ground truth alone.
        n_delegated: rows that verl's own reward judged (`visionr1.delegate`); they are left out.
        examples: why the first `N_EXAMPLES` rows were skipped, and the one that is `wanted`.
        wanted: number of a row whose fate is asked for.
    """

    n_skipped: int = 0
    n_earlier: int = 0
    n_unknown: int = 0
    n_by_text: int = 0
    n_delegated: int = 0
    examples: list[str] = field(default_factory=list)
    wanted: int | None = None

    def skip(self, message: str, number: int | None = None) -> None:
        """Count a row that could not be read or judged."""
        self.n_skipped += 1
        if len(self.examples) < N_EXAMPLES or (number is not None and number == self.wanted):
            self.examples.append(message)

    def describe_delegated(self) -> str:
        """One line on the rows of verl's own reward."""
        return f"{self.n_delegated} rows left out: verl's own reward scored them (visionr1.delegate)"


def no_row(counts: Counts) -> str:
    """Why there was nothing to judge."""
    if counts.n_delegated and not counts.n_skipped:
        return counts.describe_delegated()
    if counts.n_skipped:
        return f"no row could be read: {counts.n_skipped} were skipped, the first: {counts.examples[0]}"
    return "the dumps are empty; is the run still before its first dump?"


def data_sources_of(files: Sequence[Path]) -> dict[str, str]:
    """Ground truth (its text) -> data source, from the parquet that was trained on.

    Raises:
        RowsError: a file that cannot be read, or that lacks the columns.
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
    """The rollouts of some files, in order.

    Of a trajectory of several turns, whose outputs verl writes one after the other, only the last is given.

    Args:
        sources: as `data_sources_of` gives it.
        on_error: "fail" raises at the first row that cannot be read; "skip" counts it and goes on.
        validation_names: folders that hold validation dumps, beside those that `VALIDATION` begins.
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
    """One row -> `Rollout`; the columns' names are taken apart once."""

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
        """The group and the session of a row: by its uid, else by what else tells its prompt from others."""
        uid = self._get(row, "uid")
        if uid is None:  # the texts are long: their hashes stand for them
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
        # Half a surrogate pair can be read, but neither printed nor written.
        return target.task if source is None else str(source).encode(errors="replace").decode()


def split_uid(uid: Any) -> tuple[str, int | None, int | None]:
    """Prompt, rollout and output of verl's "{prompt}_{rollout}_{output}"; of another uid, itself is the prompt.

    >>> split_uid("a_b_3_0"), split_uid(7)
    (('a_b', 3, 0), ('7', None, None))
    """
    parts = str(uid).rsplit("_", 2)
    if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
        return parts[0], int(parts[1]), int(parts[2])
    return str(uid), None, None


def image_name(images: Any) -> str | None:
    """What tells an image from others: its path, or a digest of its bytes; of several, all of them.

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
    """What the reward manager reports of the processed size: verl's metrics are numbers, so it stands in two."""
    return [row["processed_w"], row["processed_h"]] if row.get("processed_w") and row.get("processed_h") else None


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 else None  # nan compares as False


def _exact(value: Any) -> int | None:
    """A whole number, however large: `float` would round an index of 63 bits."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    number = _finite(value)
    return None if number is None else int(number)


def _size(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    width, height = map(_whole, value)
    return None if not width or not height or width < 0 or height < 0 else (width, height)
