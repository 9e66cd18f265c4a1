"""All checks on some files: what was found, counted by kind, with a few examples of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from verl_visionr1.conversion.coco_json import read_coco
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rows import CONVERT_AGAIN
from verl_visionr1.tools.doctor.parquet import structural_problems
from verl_visionr1.tools.doctor.pictures import picture_problems
from verl_visionr1.tools.doctor.problems import Problem, Severity
from verl_visionr1.tools.doctor.samples import Sample, is_ours, samples_of
from verl_visionr1.tools.doctor.sets import Census, balance_problems, convention_problems, overlap_problems
from verl_visionr1.tools.doctor.truth import Budget, truth_problems

N_EXAMPLES = 5
N_SHOWN = 24
"""Rows of a file that are kept to be drawn."""
SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".ndjson", ".odgt")


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
    """What the checks of some files gave.

    Attributes:
        groups: (file, kind) -> problems; the worst first when asked by `found`.
        censuses: what was counted, a file each.
        shown: file -> rows to be drawn: those with a problem first.
    """

    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    censuses: list[Census] = field(default_factory=list)
    shown: dict[str, list[tuple[Sample, list[Problem]]]] = field(default_factory=dict)

    def add(self, problem: Problem) -> None:
        """Count a problem."""
        group = self.groups.setdefault(
            (problem.file, problem.kind), Group(problem.file, problem.kind, problem.severity)
        )
        group.count += 1
        group.severity = max(group.severity, problem.severity)
        if len(group.examples) < N_EXAMPLES:
            group.examples.append(problem)

    @property
    def found(self) -> list[Group]:
        """What was found, the worst first."""
        return sorted(self.groups.values(), key=lambda group: (-group.severity, group.file, -group.count, group.kind))

    @property
    def severity(self) -> Severity:
        """The worst of what was found."""
        return max((group.severity for group in self.groups.values()), default=Severity.NOTE)


def examine(
    files: Sequence[Path], validation: Sequence[Path] = (), *, budget: Budget | None = None, images: bool = True
) -> Examination:
    """Look at some files, one row in memory at a time.

    Args:
        files: .parquet, .jsonl, .json, .csv, .tsv, or folders of them.
        validation: those among or beside `files` that are for validation; without them the rows' own split tells.
        budget: tokens that a run allows for.
        images: open the image files (their headers).

    Raises:
        RowsError: nothing to look at.
    """
    budget = budget or Budget()
    examination = Examination()
    held_out = {path.resolve() for path in data_files(validation)}
    for path in dict.fromkeys([*data_files(files), *data_files(validation)]):
        try:
            _examine_file(path, examination, budget, images)
        except RowsError as error:
            reason = str(error).removeprefix(f"{path}: ")
            examination.add(Problem(str(path), None, reason, "unreadable file"))
    censuses = examination.censuses
    is_held_out = [Path(it.file).resolve() in held_out if held_out else it.is_validation for it in censuses]
    train = [it for it, flag in zip(censuses, is_held_out, strict=True) if not flag]
    tested = [it for it, flag in zip(censuses, is_held_out, strict=True) if flag]
    for problem in overlap_problems(train, tested):
        examination.add(problem)
    return examination


def data_files(paths: Iterable[Path]) -> list[Path]:
    """The files behind some paths; a folder stands for the data files in it.

    Raises:
        RowsError: no such path, a folder without data files, or a file of another kind.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(it for it in path.rglob("*") if it.name.endswith(SUFFIXES) and not it.name.startswith("."))
            if not inside:
                raise RowsError(f"{path}: no {', '.join(SUFFIXES)} in it; convert it with a script of data_preprocess/")
            found += inside
        elif not path.exists():
            raise RowsError(f"{path}: no such file or folder; check the path")
        elif not path.name.endswith(SUFFIXES):
            raise RowsError(f"{path}: cannot be looked at; needs one of {', '.join(SUFFIXES)}, or a folder")
        else:
            found.append(path)
    return found


def _examine_file(path: Path, examination: Examination, budget: Budget, images: bool) -> None:
    if path.suffix == ".json" and _is_coco(path):
        _examine_coco(path, examination)
        return
    census = Census(str(path), is_ours=is_ours(path))
    if census.is_ours:
        stopped = False
        for problem in structural_problems(path, images):
            examination.add(problem)
            stopped |= problem.row is None
        if stopped:
            return  # its columns are not what the other checks look at
    for sample in samples_of(path):
        if isinstance(sample, RowError):
            examination.add(Problem(str(path), None, str(sample), sample.kind))
            continue
        problems = [*truth_problems(sample, budget), *census.add(sample)]
        problems += picture_problems(sample) if images else []
        for problem in problems:
            examination.add(problem)
        _keep(sample, problems, examination.shown.setdefault(str(path), []))
    for problem in chain(convention_problems(census), balance_problems(census)):
        examination.add(problem)
    if not census.is_ours and census.n_rows:
        reason = "not in verl's layout; data_preprocess/records.py, or the script of its data set, converts it"
        examination.add(Problem(str(path), None, reason, "layout", Severity.NOTE))
    examination.censuses.append(census)


def _keep(sample: Sample, problems: list[Problem], shown: list[tuple[Sample, list[Problem]]]) -> None:
    """Rows to be drawn: the first ones, replaced by ones with problems."""
    if len(shown) < N_SHOWN:
        shown.append((sample, problems))
    elif problems:
        clean = [i for i, (_, others) in enumerate(shown) if not others]
        if clean:
            shown[clean[-1]] = (sample, problems)


def _is_coco(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{")


def _examine_coco(path: Path, examination: Examination) -> None:
    """A COCO-format json: what its conversion would skip or change."""
    ledger = Ledger(fail=False)
    images_dir = next(
        (
            it
            for it in (path.parent / "images", path.parent.parent / path.stem.split("_")[-1], path.parent)
            if it.is_dir()
        ),
        path.parent,
    )
    data = read_coco(path, images_dir, ledger)
    for error in ledger.errors:
        examination.add(Problem(str(path), None, str(error), error.kind))
    for kind, count in ledger.notes.items():
        if count:
            examination.add(Problem(str(path), None, f"{count} x {kind}", "changed by conversion", Severity.NOTE))
    missing = [image for image in data.images if not image.path.exists()]
    if missing:
        reason = f"{len(missing)} of {len(data.images)} image files are not below {images_dir}"
        reason += f", the first {missing[0].file_name}"
        examination.add(Problem(str(path), None, f"{reason}; {CONVERT_AGAIN}", "no such image"))
