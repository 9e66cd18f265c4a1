"""Match saved rollouts to rows of the training data.

verl's dumps hold the ground truth and the prompt as text, with the chat template around it, but neither the row's
index nor its image. So a row is found by its ground truth and its question, which must occur in the prompt; also by
index and image, in tables that have them.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Literal

from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.rollouts.training_rows import NOTHING, TURN, TrainingRows, bare, digest_of

Match = Literal["prompt", "truth"]
"""Match by everything in the dump ("prompt"), or only by ground truth."""
_FEW = 32  # most questions of one ground truth that are searched one by one
DIGEST = "sha256:"  # prefix of the name of an embedded image


class Finder:
    """Finds the rows that match a rollout; results are cached per prompt."""

    def __init__(self, rows: TrainingRows, match: Match = "prompt") -> None:
        self.rows = rows
        self.match: Match = match
        self._asked: dict[int, dict[int, list[int]]] = {}  # truth -> question -> rows
        for row, (truth, question) in enumerate(zip(rows.truths.tolist(), rows.questions.tolist(), strict=True)):
            self._asked.setdefault(truth, {}).setdefault(question, []).append(row)
        self._texts = tuple(rows.question_numbers)
        self._has_index = bool((rows.indexes != NOTHING).any())
        self._templates: deque[tuple[str, str]] = deque(maxlen=8)
        self._found = lru_cache(maxsize=8192)(self._find)

    def prompts_of(self, rollout: Rollout) -> tuple[int, ...] | None:
        """Find the prompts (see `TrainingRows.prompts`) that match a rollout; several: ambiguous.

        None: its ground truth is not in the data; `()`: it is, but with another question, image or index.
        """
        known = (None, None, None)
        if self.match == "prompt":
            known = (rollout.prompt or None, rollout.index, rollout.image)
        return self._found(digest_of(rollout.target), *known)

    def _find(self, digest: bytes, prompt: str | None, index: int | None, image: str | None) -> tuple[int, ...] | None:
        data, truth = self.rows, self.rows.truth_numbers.get(digest)
        if truth is None:
            return None
        asked = self._asked[truth]
        if index is not None and self._has_index:
            of_index = {number: [row for row in rows if data.indexes[row] == index] for number, rows in asked.items()}
            asked = {number: rows for number, rows in of_index.items() if rows}
        if prompt is not None:
            asked = self._asked_in(bare(prompt), asked)
        rows = [row for rows in asked.values() for row in rows]
        if image is not None:
            rows = [row for row in rows if _may_be(image, data.image_names[data.images[row]])]
        return tuple(sorted({int(data.prompts[row]) for row in rows}))

    def _asked_in(self, prompt: str, asked: dict[int, list[int]]) -> dict[int, list[int]]:
        """The longest questions that the prompt contains; of many, that of a known template is looked up."""
        for before, after in self._templates if len(asked) > _FEW else ():
            question = prompt.removeprefix(before).removesuffix(after)
            number = self.rows.question_numbers.get(question, NOTHING)
            if before + question + after == prompt and number in asked:
                return {number: asked[number]}
        held = [number for number in asked if self._holds(prompt, number)]
        longest = max((len(self._texts[number]) for number in held), default=0)
        held = [number for number in held if len(self._texts[number]) == longest]
        if len(held) == 1 and longest and TURN not in self._texts[held[0]]:
            before, _, after = prompt.partition(self._texts[held[0]])
            if (before, after) not in self._templates:
                self._templates.append((before, after))
        return {number: asked[number] for number in held}

    def _holds(self, prompt: str, question: int) -> bool:
        return all(turn in prompt for turn in self._texts[question].split(TURN))


def _may_be(dumped: str, known: str | None) -> bool:
    """Whether an image named in a dump may be that of a row: paths may lack their first folders.

    >>> _may_be("images/1.png", "/data/images/1.png"), _may_be("2.png", "/data/1.png"), _may_be("2.png", None)
    (True, False, True)
    """
    if known is None or dumped.startswith(DIGEST) != known.startswith(DIGEST):
        return True
    return dumped == known or f"/{known}".endswith(f"/{dumped}") or f"/{dumped}".endswith(f"/{known}")
