"""Records of an evaluation: a JSON report, and a file with one line per row beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from verl_visionr1.evaluation.correlation import Correlation
from verl_visionr1.evaluation.settings import EvaluationError, EvaluationSettings
from verl_visionr1.files import read_bytes, write_whole
from verl_visionr1.rollouts.bootstrap import Estimate

Cell: TypeAlias = str | float | int | None
Key: TypeAlias = tuple[str, int, int]
"""File, row and sample of an answer."""
ROWS_ENDING = ".rows.jsonl"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table of a report; the columns "low" and "high" are the interval of the column before them."""

    name: str
    columns: list[str]
    rows: list[list[Cell]]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one data source and task.

    Attributes:
        n_rows: samples included.
        units: digest of the list of images; sections with equal digests can be compared in pairs.
        estimates: metric -> value and interval; "<metric>/<category>" are those of the table by category.
        draws: metric -> values of the bootstrap resamples, in order (six digits; null: undefined).
        notes: what the numbers exclude, and how much.
    """

    source: str
    task: str
    presets: list[str]
    n_rows: int
    n_images: int
    units: str
    estimates: dict[str, Estimate]
    draws: dict[str, list[float | None]] = {}
    tables: list[Table] = []
    correlations: list[Correlation] = []
    notes: list[str] = []

    @property
    def key(self) -> tuple[str, str]:
        """Source and task, unique in an evaluation."""
        return self.source, self.task


class RowNumbers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The numbers of one answer.

    Attributes:
        judged: metrics of the reward, as training reports them at validation.
        measured: metrics of the evaluation for this row; null if not applicable.
    """

    file: str
    row: int
    sample: int
    uid: str
    data_source: str
    task: str
    image: str
    preset: str
    reward: float
    judged: dict[str, float]
    measured: dict[str, float | None]
    finish_reason: str = "stop"

    @property
    def key(self) -> Key:
        """File, row and sample."""
        return self.file, self.row, self.sample


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Results of an evaluation; everything but `rows` is in the JSON report.

    Attributes:
        version: of the JSON report; increased when the meaning of a field changes.
        model: the model as given; "" if unknown.
        sections: one per data source and task, in the order of the files.
        averages: for tasks with several data sources, the unweighted mean over them (as in ODinW).
        training: data source -> metric -> mean, as reported by training's validation (`val-aux/<source>/<key>/mean@1`).
    """

    version: Literal[1] = 1
    made_with: dict[str, str]
    model: str = ""
    settings: EvaluationSettings
    conventions: list[str]
    sections: list[Section]
    averages: list[Section] = []
    training: dict[str, dict[str, float]] = {}
    rows: list[RowNumbers] = []


def save(evaluation: Evaluation, report: Path) -> None:
    """Write the JSON report, and the rows beside it."""
    write_whole(report.with_suffix(ROWS_ENDING), msgspec.json.Encoder().encode_lines(evaluation.rows))
    plain = msgspec.to_builtins(evaluation)
    del plain["rows"]
    write_whole(report, msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n")


def load(report: Path) -> Evaluation:
    """Read a report, with its rows if their file is beside it.

    Raises:
        EvaluationError: not a report, or one of another version; names the file.
    """
    beside = report.with_suffix(ROWS_ENDING)
    data, lines = read_bytes(report), read_bytes(beside) if beside.is_file() else b""
    try:
        evaluation = msgspec.json.decode(data, type=Evaluation)
        rows = msgspec.json.Decoder(RowNumbers).decode_lines(lines)
        return msgspec.structs.replace(evaluation, rows=rows)
    except ValueError as error:  # msgspec's errors are ValueErrors, too
        raise EvaluationError(f"{report}: not a report of this version ({error}); evaluate again") from None
