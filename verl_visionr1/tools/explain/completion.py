"""Make a `Rollout` of one completion and its ground truth, from text or from a row of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from verl_visionr1.files import RowsError
from verl_visionr1.rollouts.columns import Columns, question_at, require_row
from verl_visionr1.rollouts.dumps import rollout_files
from verl_visionr1.rollouts.places import Dump, dumps_of
from verl_visionr1.rollouts.records import Counts, Rollout, image_name, read_rollouts
from verl_visionr1.settings import SettingsError, refuse_unknown
from verl_visionr1.targets import Target, TargetError
from verl_visionr1.tools.explain.diagnosis.lists import decode_json

_BOXES = '"size_wh":[640,480],"boxes_xyxy":[[100,100,200,200]],"labels":["cat"]'
EXAMPLES: Mapping[str, str] = MappingProxyType(
    {task: f'{{"task":"{task}",{_BOXES}}}' for task in ("detection", "grounding", "pointing")}
    | {"counting": '{"task":"counting","size_wh":[640,480],"count":3}', "text": '{"task":"text","answer":"a dog"}'}
)
"""Task -> a minimal target."""
JUDGED_BY = ("stage", "match_iou", "progress", "route")
"""Numbers of a rollout about how it was scored, not what was found."""


def text_of(text: str | None, text_file: Path | None) -> str:
    """Return a text, or the text of a file.

    Raises:
        RowsError: a file that cannot be read.
    """
    return _file_text(text_file or Path()) if text is None else text


def target_of(spec: str) -> Target:
    """Read a target from JSON or from a file with JSON. Input that starts with a bracket is JSON.

    Raises:
        RowsError: a file that cannot be read.
        TargetError: JSON that is not a target; the message has the reason and an example.

    >>> target_of('{"task": "text", "answer": "a dog"}').answer
    'a dog'
    """
    text = spec if spec.lstrip()[:1] in ("{", "[") else _file_text(Path(spec))
    try:
        return Target.from_json(text)
    except TargetError as error:
        plain = decode_json(text)
        fields = plain if isinstance(plain, Mapping) else {}
        example = EXAMPLES.get(str(fields.get("task")), EXAMPLES["detection"])
        reason = _unknown_field(fields) or error
        raise TargetError(f"--target: {reason} (a target looks like {example})") from None


def _unknown_field(fields: Mapping[str, Any]) -> str:
    """Message about the first unknown field; "" if there is none."""
    try:
        refuse_unknown(fields, Target.__struct_fields__, "")
    except SettingsError as error:
        return str(error)
    return ""


def choose_dump(path: Path, step: int | None) -> tuple[Path, str]:
    """Choose the file of one step: the path itself, or the step's file in a folder (training before validation).

    Args:
        path: a dump, a folder of dumps, or a run directory.
        step: training step; None: the last one.

    Returns:
        The file, and a note on the choice; "" if there was none.

    Raises:
        RowsError: no dump, or none of that step.
    """
    if step is None and not path.is_dir():
        return path, ""
    dumps = sorted(dumps_of([path]), key=lambda dump: dump.is_validation)
    files = {_step_of(file): file for dump in reversed(dumps) for file in dump.files}  # the first dump wins
    steps = "; ".join(f"{dump.name} has {_list_steps(dump)}" for dump in dumps)
    if step is not None:
        if step not in files:
            raise RowsError(f"{path}: no dump of step {step}; {steps}")
        return files[step], "" if len(dumps) == 1 else f"step {step} of {files[step].parent.name} ({steps})"
    last = dumps[0].files[-1]
    return last, f"{last}: the last step is explained ({steps}); --step N chooses another" if len(files) > 1 else ""


def _step_of(file: Path) -> int | None:
    stem = file.name.partition(".")[0]
    return int(stem) if stem.isdecimal() else None


def _list_steps(dump: Dump) -> str:
    return "steps " + ", ".join(str(step) for file in dump.files if (step := _step_of(file)) is not None)


def rollout_at(
    path: Path,
    row: int,
    columns: Columns,
    target: str | None = None,
    *,
    validation_names: Sequence[str] = (),
    keeps_rows: bool = False,
) -> Rollout:
    """Read the rollout in one row of a dump, or of any table of completions.

    Args:
        row: line from 1, in parquet row from 0.
        target: replaces the row's ground truth.
        validation_names, keeps_rows: see `read_rollouts`.

    Raises:
        RowsError: a file that cannot be read, or no such row.
        RowError: a row that cannot be read.
    """
    (file,) = rollout_files([path])
    require_row(file, row)
    counts, last = Counts(wanted=row), 0
    kept = {"validation_names": validation_names, "keeps_rows": keeps_rows}
    for rollout in read_rollouts([file], columns=columns, on_error="skip", counts=counts, **kept):
        if rollout.number == row:
            return rollout if target is None else msgspec.structs.replace(rollout, target=target_of(target))
        last = rollout.number
        if last > row:
            break
    unreadable = next((line for line in counts.examples if f" {row}: " in line), None)
    if unreadable is not None:
        advice = "" if "--text" in unreadable else "; run visionr1 doctor on the training data"
        raise RowsError(unreadable + advice)
    hint = "it has no answer" if last > row else f"the last is {last}"
    hint += "; lines count from 1, rows of .parquet from 0"
    hint = "an earlier output of a trajectory is not scored" if counts.n_earlier else hint
    hint = counts.describe_delegated() if counts.n_delegated else hint
    raise RowsError(f"{file}: row {row} not found ({hint})")


def rollout_for(text: str, path: Path, row: int, columns: Columns) -> Rollout:
    """Make a rollout of an answer to one row's question; the row's own answer, if any, is not read.

    Args:
        path, row, columns: see `rollout_at`.

    Raises:
        RowsError: a file that cannot be read, or no such row. RowError: a row without ground truth.
    """
    (file,) = rollout_files([path])
    question = question_at(file, row, columns)
    rollout = rollout_of(text, question.target)
    images = image_name(question.image)
    return msgspec.structs.replace(rollout, file=str(file), number=row, prompt=question.prompt, image=images)


def answered_with(text: str, rollout: Rollout) -> Rollout:
    """Replace the answer of a rollout; the run's measurements of the old answer are dropped."""
    kept = {key: value for key, value in rollout.numbers.items() if key in JUDGED_BY}
    return msgspec.structs.replace(rollout, completion=text, saved=None, n_tokens=None, numbers=kept)


def rollout_of(text: str, target: Target) -> Rollout:
    """Make a rollout of a text without a run."""
    return Rollout(
        file="", number=0, completion=text, target=target, group=None, session=None, source=target.task, step=None,
        saved=None, processed_wh=None, n_tokens=None,
    )  # fmt: skip


def _file_text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise RowsError(f"{path}: cannot be read ({error.strerror or error})") from None
