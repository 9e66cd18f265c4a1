"""Plan the questions for boxes of a vocabulary: a category list, one phrase, a count; also for absent objects.

`plan` chooses the rows without opening an image; `items_of` makes the `Item`s; `plan_reading` does both.
"""

from __future__ import annotations

import bisect
import difflib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from verl_visionr1.conversion.box_check import MOST_CLIPPED
from verl_visionr1.conversion.conventions import NAMED, Convention
from verl_visionr1.conversion.converter import Reading
from verl_visionr1.conversion.flags import BoxFlags, checked_format, require_positive
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.vocabulary import BOX, CROWD, DUPLICATE, Annotations, Columns, visible_form
from verl_visionr1.files import RowsError

BOX_TASKS = ("detection", "grounding", "counting")


@dataclass(frozen=True, kw_only=True)
class VocabularyFlags(BoxFlags):
    """The flags of converters whose boxes carry categories; `--help` explains each."""

    task: Annotated[
        Literal["detection", "grounding", "counting", "both", "all"],
        "detection: every object of a category list; grounding: all objects of one phrase; counting: the number of "
        "objects of one phrase; both: detection and grounding; all: all three.",
    ] = "both"
    count_format: Annotated[str | None, "As --answer-format, for counting: count (a number), or boxes or points."] = (
        None
    )
    min_instances: Annotated[int, "Fewest objects per row; 0 also makes a row of every image without objects."] = 1
    categories: Annotated[list[str], "Ask only for this category; repeat the flag for more."] = field(
        default_factory=list
    )
    marked: Annotated[
        Literal["regions", "objects"],
        "Annotations marked as crowd (iscrowd), group, difficult or ignore: regions, in which no answer is "
        "right or wrong; or normal objects.",
    ] = "regions"
    max_categories: Annotated[
        int, "Detection: length of the category list, those in the image filled up with absent ones."
    ] = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_instances <= self.max_instances:
            both = f"--min-instances {self.min_instances} --max-instances {self.max_instances}"
            raise RowsError(f"{both}: no number fits both")
        if self.negatives and self.min_instances == 0:
            reason = "the latter already uses every empty image; give one of them"
            raise RowsError(f"--negatives with --min-instances 0: {reason}")
        require_positive("--max-categories", self.max_categories)
        if self.prompt_template is not None and self.task == "all":
            raise RowsError("--prompt-template with --task all: counting needs another question; convert it separately")
        for task in self.planned_tasks:
            self.format_of(task)

    def columns(
        self, name: str, names: Sequence[str], ledger: Ledger, own: Convention, most: float = MOST_CLIPPED
    ) -> Columns:
        """Return empty columns for a source, with the box convention of the data set; `most` as in `box_check`."""
        boxes = self.box_check(name, own if self.box_format is None else NAMED[self.box_format], most)
        return Columns(name, names, ledger, boxes, self.marked == "objects", self.excluded)

    @property
    def planned_tasks(self) -> tuple[str, ...]:
        """The tasks that rows are planned for."""
        return {"both": BOX_TASKS[:2], "all": BOX_TASKS}.get(self.task, (self.task,))

    @property
    def share_of_negatives(self) -> float | None:
        """None, since planning has already drawn them."""
        return None

    def format_of(self, task: str) -> str:
        """As `Flags.format_of`; counting has its own flag."""
        if task == "counting":
            return checked_format("--count-format", self.count_format, task)
        return super().format_of(task)

    def allow_none(self, data: Annotations) -> bool:
        """Whether an answer may be empty; then every prompt says so, because a difference would reveal the answer."""
        return bool(self.negatives) or self.min_instances == 0 or self.takes_own_negatives(data)

    def takes_own_negatives(self, data: Annotations) -> bool:
        """Whether all negatives of the data set itself are used."""
        return data.own_negatives and self.negatives is None


@dataclass(frozen=True, slots=True)
class Ask:
    """One planned row: an image, and the categories to ask for."""

    image: int
    task: str
    categories: tuple[int, ...]


def plan(data: Annotations, flags: VocabularyFlags, ledger: Ledger) -> list[Ask]:
    """Plan all rows in the order of images; the same seed and source give the same rows.

    Raises `RowsError`: an unknown category name.
    """
    planning = _Planning(data, flags, ledger)
    asks: list[Ask] = []
    for task in flags.planned_tasks:
        asks += planning.detection() if task == "detection" else planning.phrases(task)
    return sorted(asks, key=lambda ask: (ask.image, ask.task, ask.categories))


def items_of(data: Annotations, asks: list[Ask]) -> Iterator[Item]:
    """Make the items of a plan."""
    for ask in asks:
        entry, asked = data.images[ask.image], frozenset(ask.categories)
        found = [j for j in data.of_image(ask.image) if data.category[j] in asked]
        things = [j for j in found if data.kind[j] == BOX]
        crowds = [j for j in found if data.kind[j] == CROWD]
        yield Item(
            where=f"{data.name}: image id {entry.image_id}",
            image=entry.path,
            task=ask.task,
            phrases=tuple(data.names[c] for c in ask.categories),
            annotated_wh=entry.size_wh,
            boxes_xyxy=data.boxes_xyxy[things].tolist(),
            labels=[data.names[data.category[j]] for j in things],
            ignore_xyxy=data.boxes_xyxy[crowds].tolist(),
            count=len(things) if ask.task == "counting" else None,
            image_id=entry.image_id,
            file_name=entry.file_name,
            source_ann={"file": data.name, "annotation_ids": [data.annotation_ids[j] for j in found]},
        )


def plan_reading(data: Annotations, flags: VocabularyFlags, ledger: Ledger, files: Sequence[Path]) -> Reading:
    """Plan the rows of annotations that were read from these files; `RowsError` for an unknown category name."""
    asks = plan(data, flags, ledger)
    allow_none = flags.allow_none(data)
    return Reading(items=items_of(data, asks), files=files, name=data.name, allow_none=allow_none, total=len(asks))


def _requested_categories(data: Annotations, flags: VocabularyFlags) -> tuple[int, ...]:
    index = {visible_form(name): i for i, name in enumerate(data.names)}
    for name in flags.categories:
        if visible_form(name) not in index:
            close = difflib.get_close_matches(name, data.names, 3, 0.5) or data.names[:10]
            raise RowsError(f"--categories {name!r}: not in {data.name}; did you mean {', '.join(close)}?")
    if flags.categories:
        return tuple(sorted({index[visible_form(name)] for name in flags.categories}))
    return tuple(i for i in range(len(data.names)) if i not in data.never_asked)


class _Planning:
    """The choice of rows of one data set."""

    def __init__(self, data: Annotations, flags: VocabularyFlags, ledger: Ledger) -> None:
        self.data, self.flags, self.ledger = data, flags, ledger
        self.asked = _requested_categories(data, flags)
        self.rng = random.Random(flags.seed)
        self.takes_all_negatives = flags.takes_own_negatives(data)

    def detection(self) -> list[Ask]:
        """Plan one row for each image; negatives are drawn uniformly from images that lack enough categories.

        Every list has the same length with or without objects, so that its length reveals nothing. (In a federated set
        it is shorter if fewer categories were checked.)
        """
        flags, rng, left_out = self.flags, self.rng, self.ledger.left_out
        asks: list[Ask] = []
        candidates, too_few = [], 0
        for image in range(len(self.data.images)):
            askable = self.askable(image)
            length = min(flags.max_categories, len(askable))
            if not length:
                left_out["image without a category that was checked"] += 1
                continue
            boxes, present = self.present(image, askable)
            categories = askable
            if length < len(askable):
                found = rng.sample(sorted(boxes), min(len(boxes), length))
                absent = self.absent(image, askable)
                categories = tuple(sorted(found + rng.sample(absent, min(len(absent), length - len(found)))))
            objects = sum(boxes[c] for c in categories)
            if len(askable) - len(present) >= length:
                candidates.append(image)
            if objects > flags.max_instances:
                left_out[f"detection row with more than {flags.max_instances} objects (--max-instances)"] += 1
            elif objects >= flags.min_instances or (self.takes_all_negatives and not present):
                asks.append(Ask(image, "detection", categories))
            else:
                too_few += 1
        advice = "too few empty images (a smaller --max-categories makes more)"
        wanted = self.wanted_negatives("detection", len(asks), len(candidates), advice)
        for image in (chosen := rng.sample(candidates, wanted)):
            askable = self.askable(image)
            length = min(flags.max_categories, len(askable))
            asks.append(Ask(image, "detection", tuple(sorted(rng.sample(self.absent(image, askable), length)))))
        # an image whose whole list is asked for is a candidate only without objects
        too_few -= sum(len(self.askable(image)) <= flags.max_categories for image in chosen)
        left_out[f"detection row with fewer than {flags.min_instances} objects (--min-instances)"] += too_few
        return asks

    def phrases(self, task: str) -> list[Ask]:
        """Plan one row for each image and category in it; negatives are drawn uniformly from all absent pairs.

        A category with a crowd makes no counting row, because the number of objects in a crowd is unknown.
        """
        single = {c: (c,) for c in self.asked}
        asks: list[Ask] = []
        absent_before = [0]  # absent pairs of all images before the i-th
        for image in range(len(self.data.images)):
            askable = self.askable(image)
            boxes, present = self.present(image, askable)
            absent_before.append(absent_before[-1] + len(askable) - len(present))
            inexact = self.inexact(image) if task == "counting" else frozenset[int]()
            for category in sorted(present):
                if reason := self.reason_against(task, boxes[category], category in inexact):
                    self.ledger.left_out[reason] += 1
                else:
                    asks.append(Ask(image, task, single[category]))
        n_absent = absent_before[-1]
        wanted = self.wanted_negatives(task, len(asks), n_absent, "too few absent categories")
        for number in self.rng.sample(range(n_absent), n_absent if self.takes_all_negatives else wanted):
            image = bisect.bisect_right(absent_before, number) - 1
            absent = self.absent(image, self.askable(image))
            asks.append(Ask(image, task, single[absent[number - absent_before[image]]]))
        return asks

    def reason_against(self, task: str, n_boxes: int, is_inexact: bool) -> str:
        """Return why a category makes no row; "" if it does."""
        least, most = self.flags.min_instances, self.flags.max_instances
        if is_inexact:
            return "counting row for a category with a crowd or a bad box (--marked)"
        if n_boxes == 0:
            return f"{task} row for a category with only a crowd or bad box (--marked)"
        if n_boxes < least:
            return f"{task} row with fewer than {least} objects (--min-instances)"
        return f"{task} row with more than {most} objects (--max-instances)" if n_boxes > most else ""

    def wanted_negatives(self, task: str, n_positives: int, n_candidates: int, reason: str) -> int:
        """Return the number of negatives that makes them `--negatives` of all rows, or all that there are."""
        fraction = self.flags.negatives or 0
        wanted = round(fraction / (1 - fraction) * n_positives)
        self.ledger.notes[f"{task} negatives missing: {reason}"] += max(wanted - n_candidates, 0)
        return min(wanted, n_candidates)

    def askable(self, image: int) -> tuple[int, ...]:
        """Return the requested categories that are known to be present or absent on an image."""
        entry = self.data.images[image]
        if entry.checked is None:
            return tuple(c for c in self.asked if c not in entry.unsure) if entry.unsure else self.asked
        return tuple(sorted(entry.checked.intersection(self.asked) - entry.unsure))

    def present(self, image: int, askable: tuple[int, ...]) -> tuple[Counter[int], set[int]]:
        """Return usable boxes per category, and all categories with any annotation."""
        data, asked = self.data, frozenset(askable)
        annotations = [j for j in data.of_image(image) if data.category[j] in asked]
        boxes = Counter(data.category[j] for j in annotations if data.kind[j] == BOX)
        return boxes, {data.category[j] for j in annotations}

    def absent(self, image: int, askable: tuple[int, ...]) -> list[int]:
        """Return the categories without any annotation."""
        present = self.data.categories_on(image)
        return [category for category in askable if category not in present]

    def inexact(self, image: int) -> frozenset[int]:
        """Return the categories of an image whose boxes do not give the number of objects."""
        data = self.data
        return frozenset(data.category[j] for j in data.of_image(image) if data.kind[j] not in (BOX, DUPLICATE))
