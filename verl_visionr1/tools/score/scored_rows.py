"""Re-scored rows as a file: one row for each rollout, with its place, its value and its metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from verl_visionr1.files import RowsError, atomic_write
from verl_visionr1.rewards import Preset, Score
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.tools.score.rescore import OnRow


@contextmanager
def scored_rows(path: Path, presets: Sequence[Preset]) -> Iterator[OnRow]:
    """A writer of re-scored rows; the file appears whole when the `with` block ends well, or not at all.

    Args:
        path: ends in `.jsonl`.
        presets: those that may score a row; all of their metrics become keys, null where a row has none.

    Raises:
        RowsError: another ending, or the disk full.
    """
    if path.suffix != ".jsonl":
        raise RowsError(f"--out {path}: needs a name that ends in .jsonl")
    no_metrics = {name: None for preset in presets for name in preset.metrics}
    with atomic_write(path) as file:

        def write(rollout: Rollout, preset: Preset, score: Score, other: Score | None) -> None:
            row = {
                "file": rollout.file,
                "data_source": rollout.source,
                "task": rollout.target.task,
                "preset": preset.name,
                "number": rollout.number,
                "step": rollout.step,
                "value": score.value,
                "saved": rollout.saved,
                "other": None if other is None else other.value,
            }
            file.write(json.dumps({**row, **no_metrics, **score.metrics, **row}).encode() + b"\n")

        yield write
