"""Make a `Rollout` of one completion and its ground truth, from text or from a row of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from verl_visionr1.files import RowsError, read_bytes
from verl_visionr1.rewards.routing import DELEGATED, value_at
from verl_visionr1.rollouts.columns import Columns, question_at, require_row
from verl_visionr1.rollouts.dumps import rollout_files, rows_of
from verl_visionr1.rollouts.places import dumps_of
from verl_visionr1.rollouts.records import ROUTE, Counts, Rollout, image_name, read_rollouts
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


def read_text(path: Path) -> str:
    """Read a text file; RowsError if that fails."""
    return read_bytes(path).decode(errors="replace")


def target_of(spec: str) -> Target:
    """Read a target from JSON or from a file with JSON; an error has the reason and an example."""
    text = spec if spec.lstrip()[:1] in ("{", "[") else read_text(Path(spec))
    try:
        return Target.from_json(text)
    except TargetError as error:
        plain = decode_json(text)
        task = plain.get("task") if isinstance(plain, dict) else None
        example = EXAMPLES.get(str(task), EXAMPLES["detection"])
        raise TargetError(f"--target: {error} (a target looks like {example})") from None


def choose_dump(path: Path, step: int | None) -> tuple[Path, list[str]]:
    """Choose the file of one step (None: the last) of a dump, a folder of dumps (training first) or a run directory.

    Returns:
        The file, and notes on the choice.

    Raises:
        RowsError: no dump, or none of that step.
    """
    if step is None and not path.is_dir():
        return path, []
    dumps = sorted(dumps_of([path]), key=lambda dump: dump.is_validation)
    found = {dump.name: {file.name.partition(".")[0]: file for file in dump.files} for dump in dumps}
    steps = "; ".join(f"{name} has steps {', '.join(files)}" for name, files in found.items())
    if step is None:
        last = dumps[0].files[-1]
        return last, [f"{last}: the last step is explained ({steps}); --step N chooses another"]
    for files in found.values():
        if file := files.get(str(step)):
            return file, [f"{file}: step {step} is explained ({steps})"]
    raise RowsError(f"{path}: no dump of step {step}; {steps}")


def rollout_at(
    path: Path, row: int, columns: Columns, *, validation_names: Sequence[str] = (), keeps_rows: bool = False
) -> Rollout:
    """Read the rollout in one row (line from 1, in parquet row from 0) of a dump, or of any table of completions.

    Raises:
        RowsError, RowError: a file or row that cannot be read, or no such row.
    """
    (file,) = rollout_files([path])
    require_row(file, row)
    counts, last = Counts(wanted=row), 0
    kept = {"validation_names": validation_names, "keeps_rows": keeps_rows}
    for rollout in read_rollouts([file], columns=columns, on_error="skip", counts=counts, **kept):
        if rollout.number == row:
            return rollout
        last = rollout.number
        if last > row:
            break
    for unreadable in counts.examples:
        if f" {row}: " in unreadable:
            raise RowsError(
                unreadable + ("" if "--text" in unreadable else "; run visionr1 doctor on the training data")
            )
    hint = "it has no answer" if last > row else f"the last is {last}"
    hint += "; lines count from 1, rows of .parquet from 0"
    hint = "an earlier output of a trajectory is not scored" if counts.n_earlier and last > row else hint
    routes = ((number, value_at(it, (ROUTE,))) for number, it in rows_of(file, {ROUTE}))
    if counts.n_delegated and (row, DELEGATED) in routes:
        hint = counts.describe_delegated()
    raise RowsError(f"{file}: row {row} not found ({hint})")


def rollout_for(text: str, path: Path, row: int, columns: Columns) -> Rollout:
    """Make a rollout of an answer to one row's question; the row's own answer, if any, is not read."""
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
    unknown = dict.fromkeys(("group", "session", "step", "saved", "processed_wh", "n_tokens"))
    return Rollout(file="", number=0, completion=text, target=target, source=target.task, **unknown)
