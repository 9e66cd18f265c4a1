"""One completion and its ground truth, from a text or from a row of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import msgspec

from verl_visionr1.files import RowsError
from verl_visionr1.rollouts.columns import Columns, question_at
from verl_visionr1.rollouts.dumps import rollout_files, rows_of
from verl_visionr1.rollouts.places import dumps_of
from verl_visionr1.rollouts.records import Counts, Rollout, read_rollouts
from verl_visionr1.settings import SettingsError, refuse_unknown
from verl_visionr1.targets import Target, TargetError

IMAGE_COLUMNS = ("images", "image")
"""Where a row may name its image."""
_BOXES = '"size_wh":[640,480],"boxes_xyxy":[[100,100,200,200]],"labels":["cat"]'
EXAMPLES: Mapping[str, str] = MappingProxyType(
    {task: f'{{"task":"{task}",{_BOXES}}}' for task in ("detection", "grounding", "pointing")}
    | {"counting": '{"task":"counting","size_wh":[640,480],"count":3}', "text": '{"task":"text","answer":"a dog"}'}
)
"""Task -> a minimal target."""


class Completion(NamedTuple):
    """What the model wrote, what is really there, and what the row says besides."""

    text: str
    target: Target
    processed_wh: tuple[int, int] | None = None
    n_tokens: int | None = None
    image: Path | None = None
    prompt: str | None = None
    rollout: Rollout | None = None


def completion_of(text: str | None, text_file: Path | None, target: str) -> Completion:
    """A completion that was given as a text, or in a file.

    Raises:
        RowsError: a file that cannot be read.
        TargetError: a target that is none.
    """
    return Completion(text_of(text, text_file), target_of(target))


def text_of(text: str | None, text_file: Path | None) -> str:
    """A text, or that of a file.

    Raises:
        RowsError: a file that cannot be read.
    """
    return _file_text(text_file or Path()) if text is None else text


def target_of(spec: str) -> Target:
    """A target: its JSON, or a file that holds it. What starts with a bracket is taken for JSON.

    Raises:
        RowsError: a file that cannot be read.
        TargetError: JSON that is no target; the message says why, and shows one.

    >>> target_of('{"task": "text", "answer": "a dog"}').answer
    'a dog'
    """
    text = spec if spec.lstrip()[:1] in ("{", "[") else _file_text(Path(spec))
    try:
        return Target.from_json(text)
    except TargetError as error:
        raise TargetError(f"--target: {_unknown_field(text) or error} ({_example(text)})") from None


def _unknown_field(text: str) -> str:
    """What is said of the first field that no target has; "" where there is none."""
    plain = _plain(text)
    try:
        refuse_unknown(plain if isinstance(plain, Mapping) else {}, Target.__struct_fields__, "")
    except SettingsError as error:
        return str(error)
    return ""


def _example(text: str) -> str:
    """The least that a target of that task needs."""
    plain = _plain(text)
    task = str(cast(Mapping[str, Any], plain).get("task")) if isinstance(plain, Mapping) else ""
    return f"a target looks like {EXAMPLES.get(task, EXAMPLES['detection'])}"


def _plain(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def dump_of_step(path: Path, step: int) -> Path:
    """The dump of a step in a run directory or a folder of dumps: that of training, where there is one.

    Raises:
        RowsError: no dump of that step.
    """
    dumps = sorted(dumps_of([path]), key=lambda dump: dump.is_validation)
    files = [file for dump in dumps for file in dump.files]
    found = next((file for file in files if file.name.partition(".")[0] == str(step)), None)
    if found is None:
        steps = sorted({int(stem) for file in files if (stem := file.name.partition(".")[0]).isdecimal()})
        raise RowsError(f"{path}: no dump of step {step}; there are those of {', '.join(map(str, steps)) or 'no step'}")
    return found


def completion_at(
    path: Path,
    row: int,
    columns: Columns,
    target: str | None = None,
    *,
    validation_names: Sequence[str] = (),
    keeps_rows: bool = False,
) -> Completion:
    """The completion in one row of a dump of rollouts, or of any table of completions.

    Args:
        path: `.jsonl`, `.jsonl.gz` or `.parquet`.
        row: line from 1, in parquet row from 0.
        columns: names of the columns.
        target: ground truth in place of the row's.
        validation_names, keeps_rows: see `read_rollouts`.

    Raises:
        RowsError: a file that cannot be read, or no such row.
        RowError: a row that cannot be read.
    """
    (file, *others) = rollout_files([path])
    if others:
        raise RowsError(f"{path}: holds {len(others) + 1} files; name one of them, for example {file}")
    counts = Counts(wanted=row)
    kept = {"validation_names": validation_names, "keeps_rows": keeps_rows}
    for rollout in read_rollouts([file], columns=columns, on_error="skip", counts=counts, **kept):
        if rollout.number == row:
            truth = rollout.target if target is None else target_of(target)
            image = _image(file, row, truth.image or 0)
            sizes = rollout.processed_wh, rollout.n_tokens
            rollout = msgspec.structs.replace(rollout, target=truth)
            return Completion(rollout.completion, truth, *sizes, image, rollout.prompt, rollout)
        if rollout.number > row:
            break
    unreadable = next((line for line in counts.examples if f" {row}: " in line), None)
    if unreadable is not None:
        raise RowsError(f"{unreadable}; visionr1 doctor on the data that was trained on says what is wrong with it")
    hint = "an earlier output of a trajectory is not judged" if counts.n_earlier else "lines count from 1, rows from 0"
    hint = counts.describe_delegated() if counts.n_delegated else hint
    raise RowsError(f"{file}: no row {row} that is judged ({hint})")


def completion_for(text: str, path: Path, row: int, columns: Columns) -> Completion:
    """An answer to the question of one row: of the data that was trained on, or of a dump, whose own answer is left.

    Args:
        text: the completion.
        path, row, columns: as of `completion_at`.

    Raises:
        RowsError: a file that cannot be read, or no such row. RowError: a row without ground truth.
    """
    (file, *others) = rollout_files([path])
    if others:
        raise RowsError(f"{path}: holds {len(others) + 1} files; name one of them, for example {file}")
    question = question_at(file, row, columns)
    image = _image(file, row, question.target.image or 0)
    return Completion(text, question.target, image=image, prompt=question.prompt)


def _image(file: Path, row: int, index: int) -> Path | None:
    """The image of a row that its ground truth speaks of, where the row names it and the file is there."""
    for number, fields in rows_of(file, IMAGE_COLUMNS):
        if number == row:
            return _path_in(fields, index) if isinstance(fields, Mapping) else None
    return None


def _path_in(fields: Mapping[str, Any], index: int) -> Path | None:
    for column in IMAGE_COLUMNS:
        value = fields.get(column)
        if isinstance(value, list):
            value = value[index] if index < len(value) else None
        if isinstance(value, Mapping):
            value = value.get("image") or value.get("path")
        if isinstance(value, str) and value:
            path = Path(value.removeprefix("file://"))
            return path if path.is_file() else None
    return None


def _file_text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise RowsError(f"{path}: cannot be read ({error.strerror or error})") from None
