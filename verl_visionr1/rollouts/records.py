"""Read saved completions with their ground truth as a stream, from verl's rollout dumps or any table.

verl writes `<trainer.rollout_data_dir>/<step>.jsonl` (and `validation_data_dir`): one JSON object per trajectory with
`input`, `output`, `gts`, `score`, `step` and `uid` ("{sample}_{rollout}_{output}"); validation dumps also have the
reward's metrics. Errors are `RowsError`s that name file and row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from verl_visionr1.answers.transcript import answer_text
from verl_visionr1.files import RowError
from verl_visionr1.rewards.routing import DELEGATED, value_at
from verl_visionr1.rollouts.columns import Columns, RowColumns, require_object
from verl_visionr1.rollouts.dumps import place_of, rows_of, start_of
from verl_visionr1.targets import Target

SEVERAL_SOURCES = "(several sources)"  # data source of a row whose ground truth occurs in several
OnError = Literal["fail", "skip"]
ROUTE = "route"  # column of verl's dumps: which of the run's rewards scored the row, see `reward_manager.reward_of`
TOLD = (ROUTE, "stage", "progress", "match_iou", "iou_mean", "f1_50", "accuracy", "processed_w", "processed_h")
"""Numbers that are also read from tables; from JSON lines all numbers are read."""
N_EXAMPLES = 5  # number of kept messages of skipped rows


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One completion with its ground truth; what the row does not have is None.

    Attributes:
        number: line (from 1), in parquet row (from 0).
        group: equal for the rollouts of one prompt at one step.
        session: equal for the outputs of one trajectory of several turns.
        source: the row's data source, else that of its ground truth in the training data, else its task.
        saved: the run's reward; None if not finite.
        processed_wh: width and height of the image as the model saw it.
        n_tokens: length in tokens.
        index: `extra_info.index` of the row of the data.
        image: see `image_name`.
        numbers: other numbers of the row in the dump, by verl's names: "stage", "iou_mean", "route" ...
        is_validation: whether it belongs to a run's validation, by the name of its folder.
        row: the row's columns, if a rule of the run uses one.
        sample, uid, image_id, finish_reason, starts, logprobs: of a kept answer, see `evaluation.predictions`.
    """

    file: str
    number: int
    completion: str
    target: Target
    group: Hashable = None
    session: Hashable = None
    source: str
    step: int | None = None
    saved: float | None = None
    processed_wh: tuple[int, int] | None = None
    n_tokens: int | None = None
    prompt: str | None = None
    index: int | None = None
    image: str | None = None
    numbers: Mapping[str, float] = {}
    is_validation: bool = False
    row: Mapping[str, Any] | None = None
    sample: int = 0
    uid: str = ""
    image_id: str | None = None
    finish_reason: str = ""
    starts: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()

    @property
    def is_clipped(self) -> bool | None:
        """True if the dump reports a completion that filled the response budget; else None (unknown)."""
        return True if self.numbers.get("clipped", 0.0) > 0.0 else None  # without a known budget, 0 is reported, too

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
    """Read ground truth (text) -> data source from the training data."""
    from verl_visionr1.rows import read_rows

    sources: dict[str, str] = {}
    for file in files:
        for row in read_rows(file, columns=["data_source", "reward_model"]):
            truth, source = value_at(row, ("reward_model", "ground_truth")), row["data_source"]
            if isinstance(truth, str) and isinstance(source, str):
                sources[truth] = source if sources.get(truth, source) == source else SEVERAL_SOURCES
    return sources


def read_rollouts(
    files: Iterable[Path],
    *,
    columns: Columns | None = None,
    sources: Mapping[str, str] | None = None,
    on_error: OnError = "fail",
    counts: Counts | None = None,
    validation_names: Collection[str] = (),
    keeps_rows: bool = False,
) -> Iterator[Rollout]:
    """Read the rollouts of some files, in order.

    Of a trajectory of several turns, whose outputs verl writes in sequence, only the last is returned.

    Args:
        sources: result of `data_sources_of`.
        on_error: "fail" raises at the first row that cannot be read; "skip" counts it and continues.
        validation_names: folders with validation dumps, besides those whose name begins with "val".
        keeps_rows: whether a rollout keeps the columns of its row.
    """
    counts = Counts() if counts is None else counts
    reader = _Reader(RowColumns(columns or Columns()), sources, counts)
    held: Rollout | None = None
    for file in files:
        is_validation = file.parent.name.startswith("val") or file.parent.name in validation_names
        for number, row in rows_of(file, {*TOLD, *reader.columns.top_level}):
            if isinstance(row, dict) and row.get(ROUTE) == DELEGATED:
                counts.n_delegated += 1
                continue
            try:
                rollout = reader.read(file, number, row, is_validation=is_validation, keeps_rows=keeps_rows)
            except RowError as error:
                message = f"{place_of(file, number)}: {error}"
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


@dataclass(frozen=True, slots=True)
class _Reader:
    columns: RowColumns
    sources: Mapping[str, str] | None
    counts: Counts

    def read(self, file: Path, number: int, row: Any, *, is_validation: bool, keeps_rows: bool) -> Rollout:
        row, get = require_object(row), self.columns.get
        text, target = self.columns.truth(row)
        step, prompt, index = _whole(get(row, "step")), self.columns.prompt(row), _exact(get(row, "index"))
        image = image_name(get(row, "image"))
        processed_wh = _size(get(row, "processed_wh") or [row.get("processed_w"), row.get("processed_h")])
        place, uid = (str(file.parent), step), get(row, "uid")
        if uid is None:  # hashes, since the texts are long
            identity = index, image, get(row, "image_id")
            self.counts.n_by_text += identity == (None, None, None)
            group, session = (
                (*place, hash(str(get(row, "prompt"))), hash(text), processed_wh, *map(str, identity)),
                None,
            )
        else:
            name, sample, _ = split_uid(uid)
            group, session = (*place, name), None if sample is None else (*place, name, sample)
        return Rollout(
            file=str(file),
            number=number,
            completion=self._completion(row),
            target=target,
            group=group,
            session=session,
            source=self._source(row, text, target),
            step=step,
            saved=_finite(get(row, "score")),
            processed_wh=processed_wh,
            n_tokens=_whole(get(row, "n_tokens")),
            prompt=prompt,
            index=index,
            image=image,
            numbers=self._numbers(row),
            is_validation=is_validation,
            row=row if keeps_rows else None,
        )

    def _completion(self, row: Mapping[str, Any]) -> str:
        completion = self.columns.required(row, "completion")
        if isinstance(completion, list) and all(isinstance(turn, dict) for turn in completion):  # TRL's messages
            completion = answer_text(completion)
        if not isinstance(completion, str):
            advice = "name the column: --column completion=NAME"
            raise RowError("completion", f"completion {start_of(completion)} is not text; {advice}")
        return completion

    def _source(self, row: Mapping[str, Any], truth: str, target: Target) -> str:
        source = self.columns.get(row, "data_source")
        if source is None and self.sources is not None:
            source = self.sources.get(truth)
            self.counts.n_unknown += source is None
        # Half a surrogate pair can be read, but not printed or written.
        return target.task if source is None else str(source).encode(errors="replace").decode()

    def _numbers(self, row: Mapping[str, Any]) -> dict[str, float]:
        named = self.columns.top_level
        found = {name: _finite(value) for name, value in row.items() if name not in named}
        return {name: value for name, value in found.items() if value is not None}


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
    names: list[str] = []
    for image in images if isinstance(images, list) else [images]:
        if isinstance(image, Mapping):
            image = image.get("bytes") or image.get("path") or image.get("image")
        if isinstance(image, bytes):
            image = f"sha256:{hashlib.sha256(image).hexdigest()}"
        if not isinstance(image, str):
            return None
        names.append(image)
    return "\n".join(names)


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 else None  # nan compares as False


def _exact(value: Any) -> int | None:
    """An integer of any size: `float` would round an index of 63 bits."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    number = _finite(value)
    return None if number is None or abs(number) >= 2**63 else int(number)


def _size(value: Any) -> tuple[int, int] | None:
    sides = [_whole(side) or 0 for side in value] if isinstance(value, list) else []
    return (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None
