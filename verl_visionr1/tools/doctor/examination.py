"""Run all checks on files: the problems, counted by kind, with a few examples of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec

from verl_visionr1.conversion.sources import read_json
from verl_visionr1.files import RowError, RowsError, walk
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import CONVERT_AGAIN
from verl_visionr1.tools.doctor.layouts import converter_of_file, converter_of_json, describe_command
from verl_visionr1.tools.doctor.parquet import structural_problems
from verl_visionr1.tools.doctor.pictures import picture_problems
from verl_visionr1.tools.doctor.problems import Problem, Severity
from verl_visionr1.tools.doctor.samples import Sample, framework_in, is_ours, samples_of
from verl_visionr1.tools.doctor.sets import (
    OVERLAP,
    Census,
    balance_problems,
    convention_problems,
    overlap_problems,
    repetition_problems,
)
from verl_visionr1.tools.doctor.truth import Budget, delegated_note, problem_of, truth_problems

N_EXAMPLES = 5
N_SHOWN = 24
"""Rows of a file that are kept for drawing."""
SUFFIXES = (".parquet", ".jsonl", ".json", ".ndjson", ".odgt", ".arrow")


@dataclass(slots=True)
class Group:
    """All problems of one kind in one file."""

    file: str
    kind: str
    severity: Severity
    count: int = 0
    examples: list[Problem] = field(default_factory=list)


def _rank(group: Group) -> tuple[object, ...]:
    """Sort the worst first, and problems of whole files before those of rows, which they often explain."""
    return -group.severity, group.file, group.examples[0].row is not None, -group.count, group.kind


@dataclass(slots=True)
class Examination:
    """The results of all checks.

    Attributes:
        groups: (file, kind) -> problems; `found` sorts them.
        censuses: the counts of each file.
        shown: file -> rows to draw, preferably those with a problem.
    """

    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    censuses: list[Census] = field(default_factory=list)
    shown: dict[str, list[tuple[Sample, list[Problem]]]] = field(default_factory=dict)

    def add(self, problem: Problem) -> None:
        """Count a problem."""
        key = (problem.file, problem.kind)
        group = self.groups.setdefault(key, Group(*key, problem.severity))
        group.count += 1
        group.severity = max(group.severity, problem.severity)
        if len(group.examples) < N_EXAMPLES:
            group.examples.append(problem)

    def add_all(self, problems: Iterable[Problem]) -> None:
        """Count problems."""
        for problem in problems:
            self.add(problem)

    @property
    def found(self) -> list[Group]:
        """The problems found, the worst first."""
        return sorted(self.groups.values(), key=_rank)

    @property
    def severity(self) -> Severity:
        """The worst severity found."""
        return max((group.severity for group in self.groups.values()), default=Severity.NOTE)


class _Scope(NamedTuple):
    """The options of an examination."""

    budget: Budget
    images: bool
    images_dir: Path | None
    delegate: Sequence[str]


def examine(
    files: Sequence[Path],
    validation: Sequence[Path] = (),
    *,
    budget: Budget | None = None,
    images: bool = True,
    images_dir: Path | None = None,
    delegate: Sequence[str] = (),
) -> Examination:
    """Check files, with one row in memory at a time.

    Args:
        files: .parquet, .arrow, .jsonl, .json, or folders of them.
        validation: validation files, among `files` or in addition; default: by the rows' own split.
        budget: token limits of a run.
        images: open the image files (their headers).
        images_dir: folder that the images of foreign files are relative to.
        delegate: data sources (globs) that verl's own reward scores: their ground truth is not checked.

    Raises:
        RowsError: nothing to check.
    """
    scope, examination = _Scope(budget or Budget(), images, images_dir, delegate), Examination()
    held_out = {path.resolve() for path in data_files(validation)}
    if files and held_out.issuperset(path.resolve() for path in data_files(files)):
        reason = "is both the training and the validation data; give --val another file"
        examination.add(Problem(", ".join(map(str, files)), None, reason, OVERLAP, Severity.WARNING))
    named = {*files, *validation}
    for path in dict.fromkeys([*data_files(files), *data_files(validation)]):
        try:
            _examine_file(path, examination, scope, is_named=path in named)
        except RowsError as error:
            reason = str(error).removeprefix(f"{path}: ")
            examination.add(Problem(str(path), None, reason, "unreadable file"))
    train, tested = [], []
    for census in examination.censuses:
        if held_out:
            census.side = Path(census.file).resolve() in held_out
        (tested if census.is_validation else train).append(census)
    examination.add_all(chain(overlap_problems(examination.censuses), repetition_problems(train)))
    return examination


def data_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files of paths; a folder means the data files in it.

    Raises:
        RowsError: no such path, a folder without data files, or a file of another kind.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            names = ((folder, name) for folder, names in walk(path) for name in names if not name.startswith("."))
            inside = sorted(Path(folder, name) for folder, name in names if name.endswith(SUFFIXES))
            if not inside:
                raise RowsError(f"{path}: no {', '.join(SUFFIXES)} in it; convert it with `visionr1 convert`")
            found += inside
        elif not path.exists():
            raise RowsError(f"{path}: no such file or folder; check the path")
        elif not path.name.endswith(SUFFIXES):
            converter = converter_of_file(path)
            advice = f"convert it with `visionr1 convert {converter}`" if converter else "is it the right file?"
            raise RowsError(
                f"{path}: unsupported kind of file; needs one of {', '.join(SUFFIXES)}, or a folder; {advice}"
            )
        else:
            found.append(path)
    return found


def _examine_file(path: Path, examination: Examination, scope: _Scope, *, is_named: bool) -> None:
    if path.suffix == ".json" and _is_object(path):
        converter = converter_of_json(read_json(path, dict[str, msgspec.Raw]))
        kind, severity = "layout", Severity.NOTE
        reason = f"not in verl's layout; `visionr1 convert {converter}` converts it, and reports what it leaves out"
        if not converter:
            kind, severity = "no data", Severity.ERROR if is_named else Severity.NOTE
            reason = "a JSON object without images or annotations: not checked"
        examination.add(Problem(str(path), None, reason, kind, severity))
        return
    census = Census(str(path), is_ours=is_ours(path))
    if census.is_ours and not framework_in(path):
        is_sound = True
        for problem in structural_problems(path, scope.images, scope.delegate):
            examination.add(problem)
            is_sound &= problem.row is not None or problem.severity is not Severity.ERROR
        if not is_sound:
            return
    _examine_rows(path, census, examination, scope)
    examination.add_all(chain(convention_problems(census), balance_problems(census)))
    if not census.is_ours and census.n_rows:
        severity = (
            Severity.WARNING if path.suffix == ".parquet" else Severity.NOTE
        )  # a parquet may be used for training unchanged
        reason = f"not in verl's layout; {describe_command(census, scope.images_dir)} converts it"
        examination.add(Problem(str(path), None, reason, "layout", severity))
    examination.censuses.append(census)


def _examine_rows(path: Path, census: Census, examination: Examination, scope: _Scope) -> None:
    sample, framework = None, framework_in(path)
    for sample in samples_of(path, scope.images_dir):
        if isinstance(sample, RowError):
            examination.add(Problem(str(path), None, str(sample), sample.kind))
            continue
        is_of_verl = is_delegated(scope.delegate, sample.data_source)
        problems = [delegated_note(sample)] if is_of_verl else [*truth_problems(sample, scope.budget)]
        if framework and sample.truth_error and not is_of_verl:  # for verl's rows, `parquet` reports it
            problems.append(problem_of(sample, "unreadable truth", f"{sample.truth_error}; {CONVERT_AGAIN}"))
        problems += census.add(sample)
        problems += picture_problems(sample) if scope.images else []
        examination.add_all(problems)
        _keep(sample, problems, examination.shown.setdefault(str(path), []))
    if sample is None and not census.is_ours:
        raise RowsError(f"{path}: has no row; fetch it again")


def _keep(sample: Sample, problems: list[Problem], shown: list[tuple[Sample, list[Problem]]]) -> None:
    """Keep rows for drawing: the first ones, replaced by rows with problems."""
    if len(shown) < N_SHOWN:
        shown.append((sample, problems))
    elif problems:
        clean = [i for i, (_, others) in enumerate(shown) if not others]
        if clean:
            shown[clean[-1]] = (sample, problems)


def _is_object(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{")
    except OSError:
        return False  # reading its records reports why
