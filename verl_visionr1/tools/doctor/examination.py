"""Run all checks on files: the problems, counted by kind, with a few examples of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from verl_visionr1.conversion.sources import read_json, read_records
from verl_visionr1.files import RowError, RowsError, walk
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.targets import is_validation_split
from verl_visionr1.tools.doctor.layouts import converter_of, describe_command, describe_run_file
from verl_visionr1.tools.doctor.parquet import file_problems, row_problems
from verl_visionr1.tools.doctor.problems import Problem, Severity
from verl_visionr1.tools.doctor.samples import TABLES, Sample, layout_of, samples_of
from verl_visionr1.tools.doctor.sets import OVERLAP, Census, Repeats, balance_problems, convention_problems
from verl_visionr1.tools.doctor.truth import Scope, image_problems, truth_problems

N_EXAMPLES = 5
N_SHOWN = 24
"""Rows of a file that are kept for drawing."""
SUFFIXES = (".parquet", ".jsonl", ".json", ".ndjson", ".odgt", ".arrow")
_SHOWN_CHARS = 40


@dataclass(slots=True)
class Group:
    """All problems of one kind in one file."""

    file: str
    kind: str
    severity: Severity
    count: int = 0
    examples: list[Problem] = field(default_factory=list)


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

    def add(self, *problems: Problem) -> None:
        """Count problems."""
        for problem in problems:
            key = (problem.file, problem.kind)
            group = self.groups.setdefault(key, Group(*key, problem.severity))
            group.count += 1
            group.severity = max(group.severity, problem.severity)
            if len(group.examples) < N_EXAMPLES:
                group.examples.append(problem)

    def show(self, sample: Sample, problems: list[Problem]) -> None:
        """Keep a row for drawing, or replace a kept one that has no problem."""
        shown = self.shown.setdefault(sample.file, [])
        if len(shown) < N_SHOWN:
            shown.append((sample, problems))
        elif problems and (clean := [i for i, (_, others) in enumerate(shown) if not others]):
            shown[clean[-1]] = (sample, problems)

    @property
    def found(self) -> list[Group]:
        """The problems, the worst first; those of whole files, which often explain the others, before those of rows."""
        return sorted(
            self.groups.values(),
            key=lambda it: (-it.severity, it.file, it.examples[0].row is not None, -it.count, it.kind),
        )

    @property
    def severity(self) -> Severity:
        """The worst severity found."""
        return max((group.severity for group in self.groups.values()), default=Severity.NOTE)


def examine(files: Sequence[Path], validation: Sequence[Path] = (), scope: Scope | None = None) -> Examination:
    """Check files, with one row in memory at a time.

    Args:
        files: .parquet, .arrow, .jsonl, .json, or folders of them; .csv and .tsv only by name.
        validation: validation files, among `files` or in addition; default: by the rows' own split.
        scope: what is checked; default: everything.

    Raises:
        RowsError: nothing to check.
    """
    scope, examination, repeats = scope or Scope(), Examination(), Repeats()
    trained, validated = data_files(files), data_files(validation)
    held_out = {path.resolve() for path in validated}
    if trained and held_out.issuperset(path.resolve() for path in trained):
        reason = "is both the training and the validation data; give --val another file"
        examination.add(Problem(", ".join(map(str, files)), None, reason, OVERLAP, Severity.WARNING))
    for path in dict.fromkeys([*trained, *validated]):
        side = path.resolve() in held_out if held_out else None
        is_named = path in {*files, *validation}
        try:
            if own := _describe_run_file(path, path if is_named else path.parent):
                examination.add(*(own,) * ((own.file, own.kind) not in examination.groups))
            elif path.suffix == ".json" and _is_object(path):
                examination.add(_judge_object(path, is_named=is_named))
            else:
                _examine_file(path, examination, repeats, scope, side)
        except RowsError as error:
            reason = str(error).removeprefix(f"{path}: ")
            examination.add(Problem(str(path), None, reason, "unreadable file"))
    examination.add(*repeats.overlap_problems())
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
        elif not path.name.endswith((*SUFFIXES, *TABLES)):
            kinds = ", ".join((*SUFFIXES, *TABLES))
            raise RowsError(f"{path}: needs one of {kinds}, or a folder; `visionr1 convert` reads other kinds of files")
        else:
            found.append(path)
    return found


def _is_object(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{")
    except OSError:
        return False  # reading its records reports why


def _describe_run_file(path: Path, shown: Path) -> Problem | None:
    """Name the command for a file that a run wrote, `shown` as itself or its folder; None for another file."""
    try:
        record = next((record for _, record in read_records(path)), None) if path.suffix == ".jsonl" else None
    except RowsError:  # the examination reports it
        return None
    own = describe_run_file(record, shown) if isinstance(record, Mapping) else ""
    severity = Severity.ERROR if shown == path else Severity.NOTE
    return Problem(str(shown), None, f"no training data, not checked: {own}", "no data", severity) if own else None


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} ..."


def _judge_object(path: Path, *, is_named: bool) -> Problem:
    """Name the converter of a JSON object."""
    if converter := converter_of(read_json(path, dict[str, msgspec.Raw])):
        reason = f"not in verl's layout; `visionr1 convert {converter}` converts it, and reports what it leaves out"
        return Problem(str(path), None, reason, "layout", Severity.NOTE)
    reason = "a JSON object of unknown layout: not checked; give the file of rows"
    return Problem(str(path), None, reason, "no data", Severity.ERROR if is_named else Severity.NOTE)


def _examine_file(path: Path, examination: Examination, repeats: Repeats, scope: Scope, side: bool | None) -> None:
    """Check a file of rows; `side`: whether it is for validation, None: by the rows' own split."""
    census = Census(str(path), layout_of(path))
    whole_file = file_problems(path) if census.layout == "verl" else []
    examination.add(*whole_file)
    if any(problem.severity is Severity.ERROR for problem in whole_file):
        return
    indexes: set[str] = set()
    for sample in samples_of(path, census.layout, scope.images_dir):
        if isinstance(sample, RowError):
            examination.add(Problem(str(path), None, str(sample), sample.kind))
            continue
        census.add(sample)
        problems = [*_problems_of(sample, indexes, scope)]
        is_validation = is_validation_split(sample.split) if side is None else side
        problems += repeats.add(sample, is_validation=is_validation)
        examination.add(*problems)
        examination.show(sample, problems)
    if not census.n_rows:
        raise RowsError(f"{path}: has no row; fetch it again")
    examination.add(*convention_problems(census), *balance_problems(census))
    if not census.layout:
        # a parquet may be used for training unchanged
        severity = Severity.WARNING if path.suffix == ".parquet" else Severity.NOTE
        command = describe_command(census, scope.images_dir)
        advice = " (replace the words in capitals)" if re.search(r"=[A-Z]+\b|FORMAT", command) else ""
        reason = f"not in verl's layout; {command} converts it{advice}"
        shown = ", ".join(f"{name} {_shorten(value)}" for name, value in census.columns.items())
        examination.add(Problem(str(path), None, shown, "columns", Severity.NOTE))
        examination.add(Problem(str(path), None, reason, "layout", severity))
    examination.censuses.append(census)


def _problems_of(sample: Sample, indexes: set[str], scope: Scope) -> Iterator[Problem]:
    """Yield the problems of one row."""
    if sample.layout:
        yield from row_problems(sample, indexes, images=scope.images, delegate=scope.delegate)
    if is_delegated(scope.delegate, sample.data_source):
        reason = f"verl's own reward scores data source {sample.data_source!r} (--delegate)"
        yield sample.problem("scored by verl", f"{reason}: its ground truth is not checked", Severity.NOTE)
    else:
        yield from truth_problems(sample, scope)
    if scope.images:
        yield from image_problems(sample)
