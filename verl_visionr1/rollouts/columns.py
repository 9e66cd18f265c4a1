"""Columns of a row by meaning, under configurable names; ground truth and prompt of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from verl_visionr1.answers.transcript import turn_text
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rewards.routing import value_at
from verl_visionr1.rollouts.dumps import place_of, rows_of, start_of
from verl_visionr1.targets import Target, TargetError, read_target


class Columns(msgspec.Struct, frozen=True):
    """Names of each column; the first one present in a row is used. Dots separate nested columns.

    Attributes:
        completion: the model's text.
        ground_truth: `Target.to_json()`, or the same as nested columns.
        prompt: the prompt; identifies prompt groups if there is no uid.
        uid: "{sample}_{rollout}_{output}", or one id for all rollouts of a prompt.
        processed_wh: width and height of the image as the model saw it.
        n_tokens: length of the completion in tokens.
        index, image, image_id: row of the data, and image; without a uid, they identify prompt groups.
    """

    completion: tuple[str, ...] = ("output", "completion", "response")
    ground_truth: tuple[str, ...] = ("gts", "ground_truth", "reward_model.ground_truth")
    prompt: tuple[str, ...] = ("input", "prompt")
    uid: tuple[str, ...] = ("uid",)
    data_source: tuple[str, ...] = ("data_source",)
    step: tuple[str, ...] = ("step",)
    score: tuple[str, ...] = ("score", "reward", "visionr1")
    processed_wh: tuple[str, ...] = ("processed_wh",)
    n_tokens: tuple[str, ...] = ("n_tokens",)
    index: tuple[str, ...] = ("extra_info.index", "index")
    image: tuple[str, ...] = ("images", "image")
    image_id: tuple[str, ...] = ("extra_info.image_id", "image_id")


class RowColumns:
    """Gets values of rows by meaning; column names are parsed once."""

    def __init__(self, columns: Columns) -> None:
        self._paths = {
            name: tuple(tuple(path.split(".")) for path in getattr(columns, name)) for name in Columns.__struct_fields__
        }
        self.top_level = {path[0] for paths in self._paths.values() for path in paths}

    def get(self, row: Mapping[str, Any], column: str) -> Any:
        """The value of a column; None if missing."""
        for path in self._paths[column]:
            value = row.get(path[0]) if len(path) == 1 else value_at(row, path)
            if value is not None:
                return value
        return None

    def required(self, row: Mapping[str, Any], column: str) -> Any:
        """The value of a column."""
        value = self.get(row, column)
        if value is not None:
            return value
        advice = f"name it: --column {column}=NAME"
        if column == "completion" and "reward_model" in row:
            advice += "; an answer to a training row is explained with --text ANSWER"
        null = next((".".join(path) for path in self._paths[column] if path[-1] in _mapping(row, path[:-1])), None)
        if null is not None:
            raise RowError(f"no {column}", f"{null} is null: needs a value; or {advice}")
        names = " or ".join(map(".".join, self._paths[column]))
        found = ", ".join(map(str, row)) or "nothing"
        raise RowError(f"no {column}", f"no column {names} (found: {found}); {advice}")

    def truth(self, row: Mapping[str, Any]) -> tuple[str, Target]:
        """The ground truth of a row, as JSON and as a target."""
        truth = self.required(row, "ground_truth")
        try:
            text = truth if isinstance(truth, str) else msgspec.json.encode(truth).decode()
            return text, read_target(text)
        except TargetError as error:
            raise RowError("ground truth", str(error)) from None
        except (ValueError, TypeError) as error:  # nested columns that JSON cannot represent
            raise RowError("ground truth", f"ground truth {start_of(truth)}: {error}") from None

    def prompt(self, row: Mapping[str, Any]) -> str | None:
        """The prompt; None if the row does not have it."""
        prompt = self.get(row, "prompt")
        return None if prompt is None else "\n".join(prompt_turns(prompt))


class Question(NamedTuple):
    """The question of a row, with or without an answer."""

    target: Target
    prompt: str | None
    image: Any = None


def question_at(file: Path, number: int, columns: Columns) -> Question:
    """Read the question of one row: of the training data, of a dump, or of a table.

    Args:
        number: line from 1, in parquet row from 0.
    """
    require_row(file, number)
    reader = RowColumns(columns)
    last = None
    for last, row in rows_of(file, reader.top_level):
        if last != number:
            continue
        try:
            row = require_object(row)
            return Question(reader.truth(row)[1], reader.prompt(row), reader.get(row, "image"))
        except RowError as error:
            raise RowError(error.kind, f"{place_of(file, number)}: {error}") from None
    has = "it is empty" if last is None else f"the last is {last}"
    raise RowsError(f"{place_of(file, number)} not found ({has}); lines count from 1, rows from 0")


def require_row(file: Path, number: int) -> None:
    """Check that a number is not before the first row: 1 in a file of lines, 0 in a parquet file."""
    first = 0 if file.name.endswith(".parquet") else 1
    if number < first:
        counting = "lines count from 1, rows of .parquet from 0"
        raise RowsError(f"{file}: row {number} not found (the first is {first}; {counting})")


def require_object(row: Any) -> dict[str, Any]:
    """Return a row of `rows_of` that is an object."""
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, dict):
        raise RowError("not an object", f"{start_of(row)}: needs a JSON object")
    return row


def prompt_turns(prompt: Any) -> list[str]:
    """Texts of a prompt, one per turn: of a conversation, or of a plain text; "" for a turn without text.

    >>> prompt_turns([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}])
    ['Where?']
    """
    return [turn_text(turn) for turn in (prompt if isinstance(prompt, list) else [prompt])]


def _mapping(row: Any, path: Sequence[str]) -> Mapping[str, Any]:
    inner = value_at(row, path)
    return inner if isinstance(inner, Mapping) else {}
