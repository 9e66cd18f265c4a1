"""What is wrong with a file, and how bad that is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How bad: the exit code of `visionr1 doctor` is the worst one's number."""

    NOTE = 0  # worth knowing; nothing is wrong
    WARNING = 1  # the run goes through, and its result is worth less
    ERROR = 2  # the run stops, or its reward is wrong


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a file cannot be trained on; `row` is None where it is the whole file's.

    Attributes:
        kind: short text, the same for all rows with this defect: what they are counted by.
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

    def __str__(self) -> str:
        return (
            f"{self.file}: {self.reason}" if self.row is None else f"{self.file}: {self.unit} {self.row}: {self.reason}"
        )
