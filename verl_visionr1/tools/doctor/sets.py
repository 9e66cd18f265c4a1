"""Checks of whole files and between files: coordinates, repeated rows, shared images, balance."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from verl_visionr1.conversion.conventions import FEWEST, UNITS, Convention, best_convention, better_convention
from verl_visionr1.conversion.identity import identity_of_name, is_bare_coco_name
from verl_visionr1.conversion.point_units import PointEvidence
from verl_visionr1.targets import is_validation_split
from verl_visionr1.tools.doctor.pictures import inspect_image
from verl_visionr1.tools.doctor.problems import Problem, Severity
from verl_visionr1.tools.doctor.samples import MAX_SIDE, Box, Sample

MAX_BOXES = 20_000
"""Most boxes per column that a guess uses."""
OURS = Convention("xyxy", "pixels")
"""Box convention of our rows."""
OVERLAP = "train/validation overlap"
TALLIES = ("tasks", "data sources", "splits", "empty", "labels", "counts", "answers")
"""Names of the tallies, in the order of display."""
FEW = 50
"""With fewer rows, balance is not checked."""


class Shown(NamedTuple):
    """First row of an image and its place there; with size and digest if its key is ambiguous."""

    row: int
    place: int
    look: tuple[tuple[int, int], str] | None = None

    def is_other(self, shown: Shown) -> bool:
        """Whether two images with an ambiguous key differ: equal size, but other content."""
        if self.look is None or shown.look is None:
            return False
        return self.look != shown.look and self.look[0] == shown.look[0]


@dataclass(slots=True)
class Census:
    """Counts of one file.

    Attributes:
        boxes: key in the record -> (boxes, sizes of their images), as written.
        points: key in the record -> statistics of its points.
        images: split of the rows -> digest or identity of an image -> where it is shown first.
        side: whether all rows are for validation; None: by the rows' own split.
        questions: digest of (image, prompt) -> first row with it, and digest of its ground truth.
        tallies: counts by value: labels of objects, answers of text rows, rows without objects by task ...
        columns: of the first row of a foreign file; `a.b` for nested keys.
    """

    file: str
    unit: str = "row"
    is_ours: bool = True
    n_rows: int = 0
    boxes: dict[str, tuple[list[Box], list[tuple[int, int]]]] = field(default_factory=dict)
    points: dict[str, PointEvidence] = field(default_factory=dict)
    images: dict[str, dict[str, Shown]] = field(default_factory=dict)
    side: bool | None = None
    questions: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    tallies: dict[str, Counter[Any]] = field(default_factory=lambda: {name: Counter() for name in TALLIES})
    columns: frozenset[str] = frozenset()

    def add(self, sample: Sample) -> Iterator[Problem]:
        """Count a row; report it if it repeats the question of an earlier one."""
        self.n_rows += 1
        self.unit = sample.unit
        self.tallies["splits"][sample.split] += 1
        self.tallies["data sources"][sample.data_source] += 1
        if self.n_rows == 1 and sample.target is None:
            inner = {f"{key}.{it}" for key, value in sample.info.items() if isinstance(value, Mapping) for it in value}
            self.columns = frozenset(inner | set(map(str, sample.info)))
        keys_of_images = [[*_keys_of(image, sample)] for image in sample.images]
        shown = self.images.setdefault(sample.split, {})
        for i, each in enumerate(keys_of_images):
            for key in each:
                shown.setdefault(key, Shown(sample.number, i, _look(sample.images[i], sample) if ":" in key else None))
        first_keys = [each[0] for each in keys_of_images if each]
        if first_keys and sample.prompt is not None:
            yield from self._add_question(sample, f"{first_keys}\0{sample.prompt}")
        self._add_boxes(sample)
        self._add_truth(sample)

    def _add_question(self, sample: Sample, question: str) -> Iterator[Problem]:
        truth = _digest(repr(sample.boxes) if sample.target is None else sample.target.to_json())
        first, other = self.questions.setdefault(_digest(question).hex(), (sample.number, truth))
        if first == sample.number:
            return
        kind, reason = "repeated row", f"same question and image as {sample.unit} {first}; drop one"
        if truth != other:
            has_objects = any((*sample.boxes.values(), *sample.points.values()))
            advice = f"put all objects of a question into one {sample.unit}" if has_objects else "keep the right one"
            kind = "other ground truth"
            reason = f"same question and image as {sample.unit} {first}, but another ground truth; {advice}"
        yield Problem(sample.file, sample.number, reason, kind, Severity.WARNING, sample.unit)

    def _add_boxes(self, sample: Sample) -> None:
        size_wh = sample.size_wh
        if size_wh is None and sample.image is not None:
            size_wh = inspect_image(sample.image).size_wh
        if size_wh is None:
            return
        for place, boxes in sample.boxes.items():
            known, sizes = self.boxes.setdefault(place, ([], []))
            if len(known) < MAX_BOXES:
                known += (sound := [box for box in boxes if all(abs(value) < MAX_SIDE for value in box)])
                sizes += [size_wh] * len(sound)
        for place, points in sample.points.items():
            sound = [point for point in points if all(abs(value) < MAX_SIDE for value in point)]
            self.points.setdefault(place, PointEvidence()).add(sound, size_wh)

    def _add_truth(self, sample: Sample) -> None:
        target = sample.target
        if target is None:
            return
        self.tallies["tasks"][target.task] += 1
        self.tallies["labels"].update(target.labels)
        if target.task == "counting" and target.count is not None:
            self.tallies["counts"][target.count] += 1
        if target.task == "text" and target.answer is not None:
            self.tallies["answers"][target.answer] += 1
        if target.task != "text" and not target.n_objects and not target.count:
            self.tallies["empty"][target.task] += 1

    @property
    def counted(self) -> str:
        """The number of rows or lines, with the unit."""
        return f"{self.n_rows} {self.unit}{'' if self.n_rows == 1 else 's'}"

    @property
    def is_validation(self) -> bool:
        """Whether it is for validation: as given, or by the split of most rows."""
        if self.side is not None:
            return self.side
        return 2 * sum(n for split, n in self.tallies["splits"].items() if is_validation_split(split)) > self.n_rows

    def images_of(self, *, validation: bool) -> Iterator[tuple[str, Shown]]:
        """Yield (key, first place) of the images of one side; rows without a split follow the majority."""
        for split, shown in self.images.items():
            is_held_out = is_validation_split(split) if split and self.side is None else self.is_validation
            if is_held_out is validation:
                yield from shown.items()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()


def _keys_of(image: str | bytes, sample: Sample) -> list[str]:
    """Return the keys of an image: its digest, then identities from its names."""
    digest = inspect_image(image).digest
    identities = [identity for name in _names_of(image, sample) if (identity := identity_of_name(name))]
    return [*([digest] if digest else []), *dict.fromkeys(identities)]


def _names_of(image: str | bytes, sample: Sample) -> list[str]:
    return [str(sample.info.get("file_name") or ""), image if isinstance(image, str) else ""]


def _look(image: str | bytes, sample: Sample) -> tuple[tuple[int, int], str] | None:
    """Return size and digest of an image named only by twelve digits; None for other or unreadable ones."""
    names = [name for name in _names_of(image, sample) if identity_of_name(name)]
    seen = inspect_image(image)
    return (seen.size_wh, seen.digest) if seen.size_wh is not None and all(map(is_bare_coco_name, names)) else None


# ---------------------------------------------------------------------------------------------- one file


def convention_problems(census: Census) -> Iterator[Problem]:
    """Report wrong coordinates in our rows, and the likely convention of foreign ones."""
    for place, (boxes, sizes) in census.boxes.items():
        if census.is_ours:
            guess = better_convention(OURS, boxes, sizes)
            if guess is not None:
                found = guess.better.convention
                advice = f"the coordinates look like {found}; convert again with the right --box-format"
                if found.name:
                    advice += f", or repair them: --fix OUT.parquet --boxes-are {found.name}"
                severity = Severity.ERROR if guess.declared.misfits else Severity.WARNING
                reason = f"{place}: {guess.evidence}: {advice}"
                yield Problem(census.file, None, reason, "coordinates", severity)
        elif len(boxes) >= FEWEST:
            yield Problem(census.file, None, f"{place}: {best_convention(boxes, sizes)}", "coordinates", Severity.NOTE)
    yield from _point_problems(census)


def _point_problems(census: Census) -> Iterator[Problem]:
    """Report points in fractions or percent: wrong in our rows, and an option for the conversion of others."""
    for place, evidence in census.points.items():
        unit = evidence.smaller_unit("pixels")
        if unit:
            name = f"xyxy-{UNITS[unit]}"
            again = "convert again with the right --box-format" if census.is_ours else "convert with --box-format"
            severity = Severity.NOTE if not census.is_ours else Severity.ERROR if unit == "1" else Severity.WARNING
            reason = f"{place}: {evidence.shown(unit)}; {again} ({name})"
            yield Problem(census.file, None, reason, "coordinates", severity)


def balance_problems(census: Census) -> Iterator[Problem]:
    """Report one label, count or answer that dominates: a model learns to always give it."""
    for what, name, most, advice in (
        ("counting rows", "counts", 0.5, "leave out some rows of the frequent counts"),
        ("labelled objects", "labels", 0.8, "add images of other labels, or convert with --categories"),
        ("text answers", "answers", 0.8, "leave out some of those rows"),
    ):
        tally = census.tallies[name]
        total = tally.total()
        if total < FEW or len(tally) < 2:
            continue
        value, count = tally.most_common(1)[0]
        if count > most * total:
            reason = (
                f"{count} of {total} {what} ({100 * count // total} %) are {value!r}: always answering that is rewarded"
            )
            advice += ", or report accuracy beside a constant answer"
            yield Problem(census.file, None, f"{reason}; {advice}", "unbalanced", Severity.WARNING)
    total, empty = census.tallies["tasks"].total(), census.tallies["empty"].total()
    if total >= FEW and 2 * empty > total:
        reason = f"{empty} of {total} rows ask for absent objects: always answering none is rewarded"
        yield Problem(census.file, None, f"{reason}; lower --negatives", "unbalanced", Severity.WARNING)


# ---------------------------------------------------------------------------------------------- between files


def overlap_problems(censuses: Sequence[Census]) -> Iterator[Problem]:
    """Report images of validation rows that are also in training rows, of the same or another file."""
    by_key: dict[str, tuple[str, Shown]] = {}
    for census in censuses:
        for key, image in census.images_of(validation=False):
            by_key.setdefault(key, (census.file, image))
    for census in censuses:
        shared: dict[str, list[tuple[str, Shown, int]]] = defaultdict(list)
        for key, image in census.images_of(validation=True):
            file, other = by_key.get(key, ("", image))
            if file and not image.is_other(other):
                shared[file].append((key, image, other.row))
        for file, pairs in shared.items():
            n_images = len({(image.row, image.place) for _, image, _ in pairs})
            key, (number, *_), other = pairs[0]
            shown = f" ({key})" if ":" in key else ""
            where = f"in {file}" if file != census.file else "among its training rows"
            images = "1 image is" if n_images == 1 else f"{n_images} images are"
            reason = f"{images} also {where}, the first: {census.unit} {number} and {other}{shown}"
            advice = (
                "list them with `visionr1 convert exclusion` and convert the training data with --exclude-image-ids"
            )
            yield Problem(census.file, None, f"{reason}; {advice}", OVERLAP, Severity.WARNING)


def repetition_problems(train: Sequence[Census]) -> Iterator[Problem]:
    """Report rows of training files that an earlier file has too; a source is not compared with its conversion."""
    asked: dict[tuple[bool, str], tuple[str, int, bytes]] = {}
    for census in train:
        shared: dict[str, list[tuple[int, int, bool]]] = defaultdict(list)
        for question, (number, truth) in census.questions.items():
            file, other, known = asked.setdefault((census.is_ours, question), (census.file, number, truth))
            if file != census.file:
                shared[file].append((number, other, truth != known))
        for file, pairs in shared.items():
            number, other, _ = pairs[0]
            n_other = sum(is_other for _, _, is_other in pairs)
            reason = f"{len(pairs)} rows repeat question and image of rows in {file}"
            reason += f", the first: {census.unit} {number} and {other}; drop them"
            reason += f", except {n_other} with another ground truth: join their objects" if n_other else ""
            yield Problem(census.file, None, reason, "rows of another file", Severity.WARNING)
