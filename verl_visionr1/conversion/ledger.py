"""The report of one conversion: what was skipped, left out or changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from verl_visionr1.files import RowError
from verl_visionr1.images import RowImage

T = TypeVar("T")


@dataclass(slots=True)
class Ledger:
    """The report of one conversion; every lost or changed row has a line here.

    Attributes:
        fail: raise at the first bad row (else count it and continue).
        skipped: kind of defect -> number of rows; `listed` has a line for each of them.
        left_out: filter -> number of rows or images it removed.
        notes: harmless change (a clipped box, a converted image) -> number.
    """

    fail: bool = True
    skipped: Counter[str] = field(default_factory=Counter)
    listed: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def skip(self, error: RowError) -> None:
        """Count a bad row and list its message.

        Raises:
            RowError: `error` itself, if `fail` is set.
        """
        if self.fail:
            raise error
        self.skipped[error.kind] += 1
        self.listed.append(str(error))

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Skip an entry for which the block raises `RowError`; with `fail`, raise the error."""
        try:
            yield
        except RowError as error:
            self.skip(error)

    def each(self, make: Callable[..., Iterable[T]], entries: Iterable[Sequence[Any]]) -> Iterator[T]:
        """Yield what `make(*entry)` gives for each entry, without the entries for which it raises `RowError`."""
        for entry in entries:
            with self.skipping():
                yield from make(*entry)

    def note_image(self, image: RowImage) -> None:
        """Count the changes of an image that is used in rows, and whether the frame of its boxes was guessed."""
        self.notes.update(f"image: {change}" for change in image.changes)
        if image.orientation != 1 and image.stored_wh == image.size_wh:
            self.notes["image rotated by EXIF without a change of size: boxes assumed to be upright"] += 1

    def losses(self) -> str:
        """Everything left out or skipped, in one line: the reason why no row is left."""
        losses = (self.left_out + self.skipped).most_common()
        return ", ".join(f"{count} x {kind}" for kind, count in losses) or "nothing was found"
