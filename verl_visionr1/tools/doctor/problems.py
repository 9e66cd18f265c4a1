"""Problems of a file, and their severity."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """Severity of a problem; the worst one is the exit code of `visionr1 doctor`."""

    NOTE = 0  # worth knowing; nothing is wrong
    WARNING = 1  # the run completes, with a worse result
    ERROR = 2  # the run stops, or its reward is wrong


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a file is unfit for training; `row` is None for the whole file.

    Attributes:
        kind: short name of the defect, by which problems are counted.
        unit: what `row` counts.

    >>> print(Problem("train.parquet", 3, "reward_model.ground_truth is empty"))
    train.parquet: row 3: reward_model.ground_truth is empty
    """

    file: str
    row: int | None
    reason: str
    kind: str = "unfit row"
    severity: Severity = Severity.ERROR
    unit: str = "row"

    @property
    def where(self) -> str:
        """The row, as a start of a line; "" for the whole file."""
        return "" if self.row is None else f"{self.unit} {self.row}: "

    def __str__(self) -> str:
        return f"{self.file}: {self.where}{self.reason}"
