"""Resolve paths to dumps and checkpoints: given files and folders, and those in a run's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verl_visionr1.files import RowsError
from verl_visionr1.rollouts.dumps import is_dump, rollout_files
from verl_visionr1.rollouts.inference import RUN_FILE

METRICS_DIR = "metrics"  # folder of verl's `file` logger in a run directory, in recipes
TRACKER = "latest_checkpointed_iteration.txt"
"""verl's file beside the checkpoints, written after the rest of a step: the last complete step."""


@dataclass(frozen=True, slots=True)
class Dump:
    """Rollouts of one kind: training, validation, or one evaluation.

    Attributes:
        name: path below the folder that all dumps have in common.
        files: in the order of their steps.
        is_validation: found in a run's folder, under a name that begins with "val".
    """

    name: str
    files: tuple[Path, ...]
    is_validation: bool = False


def dumps_of(paths: Sequence[Path]) -> list[Dump]:
    """List the dumps of some paths; a run's folder gives the dumps in it."""
    found: list[tuple[Path, tuple[Path, ...]]] = []
    for path in paths:
        for place in _places(path):
            if place.resolve() not in [other.resolve() for other, _ in found]:
                found.append((place, tuple(rollout_files([place]))))
    above = os.path.commonpath([place.resolve().parent for place, _ in found])
    names = [os.path.relpath(place.resolve(), above).removesuffix(".jsonl") for place, _ in found]
    return [
        Dump(name, files, place.name.startswith("val") and place not in paths)
        for name, (place, files) in zip(names, found, strict=True)
    ]


def refuse_overwriting(out: Path, paths: Sequence[Path], data: Sequence[Path] = ()) -> None:
    """Raise if an output would overwrite an input, or be read as a dump later.

    Args:
        paths: see `dumps_of`.
        data: other input files.
    """
    files = [file for dump in dumps_of(paths) for file in dump.files]
    place = out.resolve()
    if place in {file.resolve() for file in (*files, *data)}:
        raise RowsError(f"--out {out}: would overwrite an input; write elsewhere")
    # Files given by name may have other files beside them, unless each is a step's dump.
    folders = {file.parent.resolve() for file in files if file not in paths or _is_of_a_step(file)}
    if place.parent in folders:
        raise RowsError(f"--out {out}: would be read as one of the dumps in this folder; write to another folder")


def run_dirs_of(paths: Sequence[Path]) -> list[Path]:
    """Those of the paths that are folders of runs with logged metrics."""
    return [path for path in paths if path.is_dir() and any((path / METRICS_DIR).glob("*.jsonl"))]


def latest_step(folder: Path) -> Path | None:
    """The last checkpoint below a run's `checkpoints` folder, by verl's tracker file; None if there is none."""
    tracker = folder / TRACKER
    step = folder / f"global_step_{tracker.read_text().strip()}" if tracker.is_file() else None
    return step if step is not None and step.is_dir() else None


def step_number(checkpoint: Path | None) -> int:
    """N of a checkpoint `global_step_N`; 0 without one, or for another name."""
    number = "" if checkpoint is None else checkpoint.name.rpartition("global_step_")[2]
    return int(number) if number.isdecimal() else 0


def _places(path: Path) -> list[Path]:
    """The path, or for a run's folder the folders of verl's dumps in it."""
    if not path.is_dir():
        return [path]
    has_own = any(map(_is_of_a_step, path.iterdir()))
    if has_own and not (path / RUN_FILE).is_file():  # a run's folder may also have its data
        return [path]
    places = [folder for folder in path.iterdir() if folder.is_dir() and any(map(_is_of_a_step, folder.iterdir()))]
    if not places and not has_own and (path / METRICS_DIR).is_dir():
        raise RowsError(
            f"{path}: this run has no dumps of rollouts; "
            "set trainer.validation_data_dir and trainer.rollout_data_dir to folders in it"
        )
    return sorted(places) or [path]


def _is_of_a_step(file: Path) -> bool:
    return is_dump(file) and file.name.partition(".")[0].isdecimal()
