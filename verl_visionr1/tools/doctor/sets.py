"""Checks of whole files and between files: coordinates, balance, repeated rows, shared images."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from verl_visionr1.conversion.conventions import FEWEST, UNITS, Convention, best_convention, better_convention
from verl_visionr1.conversion.identity import identity_of_name, is_bare_coco_name
from verl_visionr1.conversion.point_units import PointEvidence
from verl_visionr1.tools.doctor.problems import Problem, Severity
from verl_visionr1.tools.doctor.samples import MAX_SIDE, Box, Sample
from verl_visionr1.tools.doctor.truth import inspect_image

MAX_BOXES = 20_000
"""Most boxes per column that a guess uses."""
OURS = Convention("xyxy", "pixels")
"""Box convention of our rows."""
OVERLAP = "train/validation overlap"
BARE = "?"  # ends the identity of an image that is named only by COCO's twelve digits
TALLIES = ("tasks", "data sources", "splits", "empty", "labels", "counts", "answers")
"""Names of the tallies, in the order of display."""
FEW = 50
"""With fewer rows, balance is not checked."""


@dataclass(slots=True)
class Census:
    """Counts of one file.

    Attributes:
        layout: see `layout_of`.
        boxes: key in the record -> (boxes, sizes of their images), as written.
        points: key in the record -> statistics of its points.
        tallies: counts by value: labels of objects, answers of text rows, rows without objects by task ...
        columns: of the first row of a foreign file, with its value; `a.b` for nested keys.
        image_key: its column of images, or "".
    """

    file: str
    layout: str = ""
    n_rows: int = 0
    boxes: dict[str, tuple[list[Box], list[tuple[int, int]]]] = field(default_factory=dict)
    points: dict[str, PointEvidence] = field(default_factory=dict)
    tallies: dict[str, Counter[Any]] = field(default_factory=lambda: {name: Counter() for name in TALLIES})
    columns: Mapping[str, Any] = field(default_factory=dict)
    image_key: str = ""

    def add(self, sample: Sample) -> None:
        """Count a row."""
        self.n_rows += 1
        self.tallies["splits"][sample.split] += 1
        self.tallies["data sources"][sample.data_source] += 1
        if self.n_rows == 1 and not self.layout:
            nested = ((key, value) for key, value in sample.info.items() if isinstance(value, Mapping))
            inner = {f"{key}.{name}": it for key, value in nested for name, it in value.items()}
            self.columns, self.image_key = (
                {**inner, **{str(key): it for key, it in sample.info.items()}},
                sample.image_key,
            )
        self._add_boxes(sample)
        target = sample.target
        if target is None:
            return
        self.tallies["tasks"][target.task] += 1
        self.tallies["labels"].update(target.labels)
        if target.task == "counting" and target.count is not None:
            self.tallies["counts"][target.count] += 1
        if target.task == "text" and target.answer is not None:
            self.tallies["answers"][target.answer] += 1
        if target.task not in ("text", "counting") and not target.n_objects:  # a count of 0 is a count as any other
            self.tallies["empty"][target.task] += 1

    def _add_boxes(self, sample: Sample) -> None:
        for place in sample.boxes:
            self.boxes.setdefault(place, ([], []))
        size_wh = sample.size_wh
        if size_wh is None and sample.image is not None:
            size_wh = inspect_image(sample.image).size_wh
        if size_wh is None:
            return
        for place, boxes in sample.boxes.items():
            known, sizes = self.boxes[place]
            if len(known) < MAX_BOXES:
                known += (sound := [box for box in boxes if all(abs(value) < MAX_SIDE for value in box)])
                sizes += [size_wh] * len(sound)
        for place, points in sample.points.items():
            sound = [point for point in points if all(abs(value) < MAX_SIDE for value in point)]
            self.points.setdefault(place, PointEvidence()).add(sound, size_wh)

    @property
    def summary(self) -> str:
        """The number of rows, and the most frequent values of each tally, in one line."""
        shown = [f"{name}: {_shares(tally)}" for name, tally in self.tallies.items() if tally]
        return "; ".join([f"{self.n_rows} rows", *shown])


def _shares(tally: Counter[Any]) -> str:
    """Format the most frequent values of a tally, with their counts.

    >>> _shares(Counter({"cat": 3, "": 1}))
    'cat: 3 (75 %), (none): 1 (25 %)'
    """
    total = tally.total()
    parts = [f"{value if value != '' else '(none)'}: {n} ({100 * n // total} %)" for value, n in tally.most_common(12)]
    return ", ".join(parts) + (f", and {len(tally) - 12} more" if len(tally) > 12 else "")


def convention_problems(census: Census) -> Iterator[Problem]:
    """Report wrong coordinates in our rows, and the likely convention of foreign ones."""
    for place, (boxes, sizes) in census.boxes.items():
        if not census.layout:
            guessed = (
                f"format not checked: the image of {len(boxes)} boxes has a known size, {FEWEST} needed (--images-dir)"
            )
            if len(boxes) >= FEWEST:
                guessed = best_convention(boxes, sizes)
            yield Problem(census.file, None, f"{place}: {guessed}", "coordinates", Severity.NOTE)
            continue
        guess = better_convention(OURS, boxes, sizes)
        if guess is not None:
            found = guess.better.convention
            advice = f"the coordinates look like {found}; convert again with the right --box-format"
            if found.name:
                advice += f", or repair them: --fix OUT.parquet --boxes-are {found.name}"
            severity = Severity.ERROR if guess.declared.misfits else Severity.WARNING
            yield Problem(census.file, None, f"{place}: {guess.evidence}: {advice}", "coordinates", severity)
    for place, evidence in census.points.items():
        if unit := evidence.smaller_unit("pixels"):
            again = "convert again with the right --box-format" if census.layout else "convert with --box-format"
            severity = Severity.NOTE if not census.layout else Severity.ERROR if unit == "1" else Severity.WARNING
            reason = f"{place}: {evidence.shown(unit)}; {again} (xyxy-{UNITS[unit]})"
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
            reason = f"{count} of {total} {what} ({100 * count // total} %) are {value!r}"
            advice = f"always answering that is rewarded; {advice}, or report accuracy beside a constant answer"
            yield Problem(census.file, None, f"{reason}: {advice}", "unbalanced", Severity.WARNING)
    total, empty = census.tallies["tasks"].total(), census.tallies["empty"].total()
    if total >= FEW and 2 * empty > total:
        reason = f"{empty} of {total} rows ask for absent objects: always answering none is rewarded"
        yield Problem(census.file, None, f"{reason}; lower --negatives", "unbalanced", Severity.WARNING)


# ---------------------------------------------------------------------------------------------- between rows


@dataclass(slots=True)
class Repeats:
    """Questions and images of all files, each with the place where it is first.

    Attributes:
        questions: key of (image, prompt) -> (file, row, digest of its ground truth).
        trained: digest or identity of an image of training rows -> (file, row).
        held_out: (file, that key) of validation rows -> (row, place of the image in the row).
    """

    questions: dict[bytes, tuple[str, int, bytes]] = field(default_factory=dict)
    trained: dict[str, tuple[str, int]] = field(default_factory=dict)
    held_out: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def add(self, sample: Sample, *, is_validation: bool) -> Iterator[Problem]:
        """Keep a row; report it if it repeats the question of an earlier one, of any training file or its own."""
        images = [image for image in sample.images if image is not None]
        keys_of_images = [[*_keys_of(image, sample)] for image in images]
        for place, keys in enumerate(keys_of_images):
            for key in keys:
                if is_validation:
                    self.held_out.setdefault((sample.file, key), (sample.number, place))
                else:
                    self.trained.setdefault(key, (sample.file, sample.number))
        first_keys = [keys[0] for keys in keys_of_images if keys]
        if first_keys and sample.prompt is not None:
            # a source is not compared with its conversion
            scope = sample.file if is_validation else f"trained {bool(sample.layout)}"
            yield from self._add_question(sample, _digest(f"{scope}\0{first_keys}\0{sample.prompt}"))

    def _add_question(self, sample: Sample, question: bytes) -> Iterator[Problem]:
        truth = _digest(repr(sample.boxes) if sample.target is None else sample.target.to_json())
        file, row, other = self.questions.setdefault(question, (sample.file, sample.number, truth))
        if (file, row) == (sample.file, sample.number):
            return
        first = f"same question and image as {sample.unit} {row}" + ("" if file == sample.file else f" of {file}")
        if truth == other:
            yield sample.problem("repeated row", f"{first}; drop one", Severity.WARNING)
            return
        has_objects = any((*sample.boxes.values(), *sample.points.values()))
        advice = f"put all objects of a question into one {sample.unit}" if has_objects else "keep the right one"
        reason = f"{first}, but another ground truth; {advice}"
        yield sample.problem("other ground truth", reason, Severity.WARNING)

    def overlap_problems(self) -> Iterator[Problem]:
        """Report images of validation rows that are also in training rows, of the same or another file."""
        shared: dict[tuple[str, str], dict[tuple[int, int], int]] = defaultdict(dict)
        for (file, key), image in self.held_out.items():
            # two bare numbers may be of other data sets than COCO
            for same in (key.removesuffix(BARE),) if key.endswith(BARE) else (key, key + BARE):
                if same in self.trained:
                    trained, row = self.trained[same]
                    shared[file, trained].setdefault(image, row)
        for (file, trained), rows in shared.items():
            where = f"in {trained}" if trained != file else "among its training rows"
            images = "1 image is" if len(rows) == 1 else f"{len(rows)} images are"
            (row, _), other = next(iter(rows.items()))
            reason = f"{images} also {where}, the first: row {row} and {other}"
            advice = (
                "list them with `visionr1 convert exclusion` and convert the training data with --exclude-image-ids"
            )
            yield Problem(file, None, f"{reason}; {advice}", OVERLAP, Severity.WARNING)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()


def _keys_of(image: str | bytes, sample: Sample) -> Iterator[str]:
    """Yield the keys of an image: its digest, then identities from its names."""
    if digest := inspect_image(image).digest:
        yield digest
    for name in (str(sample.info.get("file_name") or ""), image if isinstance(image, str) else ""):
        identity = identity_of_name(name)
        if identity:
            yield identity + (BARE if is_bare_coco_name(name) else "")
