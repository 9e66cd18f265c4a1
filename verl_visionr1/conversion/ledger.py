"""What happened to the rows of one conversion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from verl_visionr1.files import RowError
from verl_visionr1.images import RowImage


@dataclass(slots=True)
class Ledger:
    """What happened to the rows of one conversion: nothing is lost without a line here.

    Attributes:
        fail: raise at the first bad row (else count it and go on).
        skipped: kind of defect -> how many; `listed` has a line for each of them.
        left_out: filter asked for by an option -> how many rows or images it took.
        notes: change that lost nothing (a clipped box, a converted image) -> how many.
    """

    fail: bool = True
    skipped: Counter[str] = field(default_factory=Counter)
    listed: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def skip(self, error: RowError) -> None:
        """Count a bad row and list its message.

        Raises:
            RowError: `error` itself, where the policy is to fail.
        """
        if self.fail:
            raise error
        self.skipped[error.kind] += 1
        self.listed.append(str(error))

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Skip what cannot be used, told by a `RowError` of the block; without the policy to skip it is raised."""
        try:
            yield
        except RowError as error:
            self.skip(error)

    def note_image(self, image: RowImage) -> None:
        """Count what was changed in an image that went into rows, and where the frame of its boxes was a guess."""
        self.notes.update(f"image: {change}" for change in image.changes)
        if image.orientation != 1 and image.stored_wh == image.size_wh:
            self.notes["image turned by EXIF without a change of size: boxes taken as drawn upright"] += 1

    def losses(self) -> str:
        """All that was left out or skipped, in one line: the reason why no row is left."""
        losses = (self.left_out + self.skipped).most_common()
        return ", ".join(f"{count} x {kind}" for kind, count in losses) or "nothing was found"
