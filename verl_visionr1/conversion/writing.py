"""Items -> parquet: prepares images in threads, writes rows in order, and reports what was done.

Memory grows only with the number of image names: it holds at most `LOOK_AHEAD` images per thread and one row group.
"""

from __future__ import annotations

import statistics
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from rich.progress import track

from verl_visionr1.conversion.flags import Flags
from verl_visionr1.conversion.identity import normal_spelling, path_tails
from verl_visionr1.conversion.image_files import may_be_one_image
from verl_visionr1.conversion.item_boxes import ItemBoxes, check_first_boxes
from verl_visionr1.conversion.items import Item, row_of
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.selection import selected
from verl_visionr1.conversion.tokens import FAMILIES, answer_tokens, image_tokens, load_answer_counter, prompt_tokens
from verl_visionr1.files import RowError, RowsError, write_whole
from verl_visionr1.images import RowImage, prepare_image
from verl_visionr1.row_layouts import LAYOUTS, VERL_FEATURES
from verl_visionr1.row_writer import Written, write_rows
from verl_visionr1.rows import Row
from verl_visionr1.targets import Target

LOOK_AHEAD = 4
"""How many images a thread may be ahead of the writer."""


@dataclass(slots=True)
class TokenCounts:
    """Tokens of each row: estimated for the prompt, by model family; and of the right answer."""

    count_answer: Callable[[Target], int] = answer_tokens
    model: str = ""  # whose tokenizer counts right answers; "" for an estimate
    prompts: dict[str, array[int]] = field(default_factory=lambda: {family: array("l") for family in FAMILIES})
    answers: array[int] = field(default_factory=lambda: array("l"))

    def add(self, row: Row) -> None:
        """Count a row."""
        text = prompt_tokens(row.question)
        for family, counts in self.prompts.items():
            counts.append(text + image_tokens(row.image.size_wh, family))
        self.answers.append(self.count_answer(row.target))


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one conversion."""

    written: Written
    rows: Counter[str]  # by task
    negatives: Counter[str]  # rows among them that ask for absent objects
    objects: Counter[int]  # objects in a row -> number of such rows
    tokens: TokenCounts
    ledger: Ledger
    skipped_list: Path | None  # file with a line for each skipped entry


def write_items(
    items: Iterable[Item],
    out: Path,
    flags: Flags,
    ledger: Ledger,
    *,
    made_by: str,
    source: Mapping[str, str],
    allow_none: bool = False,
    total: int | None = None,
    show_progress: bool = False,
) -> Report:
    """Write items in a stream, and the list of skipped entries to `<name>.skipped.txt`.

    Args:
        items: with those of one image in succession, so that it is prepared once.
        made_by: the command; with `source` and `flags` the provenance of the rows.
        source: facts that identify the source files, without paths: the same data gives the same bytes everywhere.
        allow_none: every prompt explains how to answer if there are no objects; for sets with such rows.
        total: number of items, for the progress bar.

    Raises:
        RowsError: as `write_rows`; no row left; boxes in another convention. RowError: a bad row, with
            `--on-error fail`.
    """
    tasks, negatives, objects = Counter[str](), Counter[str](), Counter[int]()
    tokens = TokenCounts()
    if flags.model is not None:
        tokens = TokenCounts(load_answer_counter(flags.model), flags.model.resolve().name)
    boxes = ItemBoxes(flags)
    chosen = selected(check_first_boxes(items, flags), flags, ledger)
    if show_progress:
        chosen = track(chosen, "rows", total=total if flags.limit is None else flags.limit, transient=True)
    first = next(rows := _rows_of(chosen, out, flags, ledger, boxes, allow_none=allow_none), None)
    if first is None:
        raise RowsError(f"{out}: no row is left to write ({ledger.losses()}); loosen the filters, or check the source")
    layout = VERL_FEATURES if flags.hf_images else LAYOUTS[flags.to]
    facts = {**_provenance(flags, made_by), **source}

    def counted() -> Iterator[Row]:
        for row in chain([first], rows):
            n_objects = row.target.count if row.target.count is not None else row.target.n_objects
            tasks[row.target.task] += 1
            negatives[row.target.task] += n_objects == 0 and row.target.task != "text"
            objects[n_objects] += 1
            tokens.add(row)
            yield row
        boxes.require(ledger)

    written = write_rows(counted(), out, embed=flags.embed, layout=layout, provenance=facts)
    if flags.excluded and not any("exclusion list" in reason for reason in +ledger.left_out):
        ledger.notes["--exclude-image-ids: no image of the data set is on the list; check how both name images"] += 1
    return Report(written, tasks, negatives, objects, tokens, ledger, _list_skipped(out, ledger))


def _provenance(flags: Flags, made_by: str) -> dict[str, object]:
    options = {key: value.name if isinstance(value, Path) else value for key, value in asdict(flags).items()}
    options["exclude_image_ids"] = sorted(flags.excluded.ids)
    del options["workers"], options["model"]  # do not affect the rows
    return {"made_by": f"{made_by}, verl-visionr1 {version('verl-visionr1')}", "options": options}


def _rows_of(
    items: Iterable[Item], out: Path, flags: Flags, ledger: Ledger, boxes: ItemBoxes, *, allow_none: bool
) -> Iterator[Row]:
    """Make the rows of items, in their order; bad ones go to the ledger, copies of images beside the output file."""
    how: dict[str, Any] = {"embed": flags.embed, "verify_decode": flags.verify_decode}
    prepare = partial(prepare_image, copies_dir=out.with_name(f"{out.stem}_images"), **how)
    groups = (list(group) for _, group in groupby(_check_names(items, ledger), key=lambda item: item.image))
    for group, prepared in _in_threads(groups, lambda group: prepare(group[0].image), flags.workers):
        try:
            image = prepared()
        except RowError as error:
            ledger.skip(RowError(error.kind, f"{group[0].where}: {error}"))
            ledger.notes["row of a skipped image"] += len(group)
            continue
        for item in group:
            boxes.add(item, item.annotated_wh or image.size_wh)
        made = []
        for item in group:
            with ledger.skipping():
                made.append(row_of(item, image, flags, ledger, allow_none=allow_none))
        if made:
            ledger.note_image(image)
        yield from made


def _check_names(items: Iterable[Item], ledger: Ledger) -> Iterator[Item]:
    """Yield items with UTF-8 names whose image file belongs to no other item; the others go to the ledger."""
    names: dict[str, tuple[str, str]] = {}
    for item in items:
        with ledger.skipping():
            name = f"{item.image if isinstance(item.image, Path) else ''}{item.file_name}{item.image_id}"
            if not name.isascii() and name != name.encode(errors="replace").decode():
                where, reason = ascii(item.where)[1:-1], f"file name {name!r} is not UTF-8, which rows need"
                raise RowError("file name not UTF-8", f"{where}: {reason}; rename the file")
            _check_owner(item, names)
            yield item


def _check_owner(item: Item, names: dict[str, tuple[str, str]]) -> None:
    """Refuse an image file found by part of its name if another item uses it under another name.

    `names`: image file -> its longest name so far, and the place of that name.
    """
    if not isinstance(item.image, Path) or not item.file_name:
        return
    known, where = names.get(path := str(item.image), ("", ""))
    if known == item.file_name:
        return
    tails = path_tails(item.file_name)
    own = normal_spelling(item.image.name)
    if not tails or tails[-1].casefold() != own.casefold():  # found otherwise, as in PixMo
        return
    if not may_be_one_image(item.file_name, known):
        reason = f"its image {item.file_name!r} was found only by the end of its name, as {item.image}"
        used = f"also used for {known!r} of {where}; fetch it"
        raise RowError("two names of one image file", f"{item.where}: {reason}, {used}")
    if len(tails) > len(path_tails(known)):
        names[path] = item.file_name, item.where


def _in_threads(
    groups: Iterable[list[Item]], prepare: Callable[[list[Item]], RowImage], workers: int
) -> Iterator[tuple[list[Item], Callable[[], RowImage]]]:
    """Yield (group, function that returns its image or raises), in order; threads work ahead of the caller."""
    if workers == 1:
        for group in groups:
            yield group, partial(prepare, group)
        return
    waiting: deque[tuple[list[Item], Future[RowImage]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    try:
        for group in groups:
            waiting.append((group, pool.submit(prepare, group)))
            if len(waiting) > workers * LOOK_AHEAD:
                done, future = waiting.popleft()
                yield done, future.result
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result
    finally:
        pool.shutdown(cancel_futures=True)


def _list_skipped(out: Path, ledger: Ledger) -> Path | None:
    path = out.with_name(f"{out.stem}.skipped.txt")
    if not ledger.listed:
        path.unlink(missing_ok=True)  # of an earlier run
        return None
    write_whole(path, "".join(f"{line}\n" for line in ledger.listed).encode(errors="backslashreplace"))
    return path


def quantiles(counts: array[int]) -> tuple[int, int, int]:
    """Median, 99th percentile and maximum.

    >>> quantiles(array("l", range(1, 101)))
    (50, 99, 100)
    """
    ordered = sorted(counts)
    return int(statistics.median_low(ordered)), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1]
