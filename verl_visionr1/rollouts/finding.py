"""Match saved rollouts to rows of the training data.

verl's dumps hold the ground truth and the prompt as text, with the chat template around it, but neither the row's
index nor its image. So a row is found by its ground truth and its question, which must occur in the prompt; also by
index and image, in tables that have them.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Literal

import numpy as np

from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.rollouts.training_rows import NOTHING, TURN, Numbers, TrainingRows, bare, digest_of

Match = Literal["prompt", "truth"]
"""Match by everything in the dump ("prompt"), or only by ground truth."""
_FEW = 32
"""Most questions of one ground truth that are searched one by one."""
DIGEST = "sha256:"
"""Prefix of the name of an embedded image."""


class Finder:
    """Finds the rows that match a rollout; results are cached per prompt."""

    def __init__(self, rows: TrainingRows, match: Match = "prompt") -> None:
        self.rows = rows
        self.match: Match = match
        self._by_truth = np.lexsort((rows.questions, rows.truths))
        self._truths = rows.truths[self._by_truth]
        self._by_index = np.argsort(rows.indexes, kind="stable")
        self._indexes = rows.indexes[self._by_index]
        self._texts = tuple(rows.question_numbers)
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
        truth = self.rows.truth_numbers.get(digest)
        if truth is None:
            return None
        if index is not None and self._indexes[-1] != NOTHING:
            rows = _equal(self._by_index, self._indexes, index)
            rows = rows[self.rows.truths[rows] == truth]
            rows = rows[np.argsort(self.rows.questions[rows], kind="stable")]
        else:
            rows = _equal(self._by_truth, self._truths, truth)
        if prompt is not None:
            rows = self._asked_in(bare(prompt), rows)
        if image is not None:
            names = [self.rows.image_names[number] for number in self.rows.images[rows]]
            rows = rows[np.array([_may_be(image, name) for name in names], dtype=bool)]
        return tuple(np.unique(self.rows.prompts[rows]).tolist())

    def _asked_in(self, prompt: str, rows: Numbers) -> Numbers:
        """Of some rows, ordered by question, those with the longest question that the prompt contains."""
        questions = self.rows.questions[rows]
        numbers = np.unique(questions)
        if len(numbers) > _FEW:
            for before, after in self._templates:
                asked = prompt.removeprefix(before).removesuffix(after)
                number = self.rows.question_numbers.get(asked, NOTHING)
                if before + asked + after == prompt and len(same := _equal(rows, questions, number)):
                    return same
        held = [number for number in numbers.tolist() if self._holds(prompt, number)]
        if not held:
            return rows[:0]
        longest = max(len(self._texts[number]) for number in held)
        held = [number for number in held if len(self._texts[number]) == longest]
        if len(held) == 1 and TURN not in (text := self._texts[held[0]]):
            before, _, after = prompt.partition(text)
            if (before, after) not in self._templates:
                self._templates.append((before, after))
        return rows[np.isin(questions, held)]

    def _holds(self, prompt: str, question: int) -> bool:
        return all(turn in prompt for turn in self._texts[question].split(TURN))


def _equal(rows: Numbers, keys: Numbers, key: int) -> Numbers:
    """Rows with this key, from sorted keys."""
    return rows[np.searchsorted(keys, key, side="left") : np.searchsorted(keys, key, side="right")]


def _may_be(dumped: str, known: str | None) -> bool:
    """Whether an image named in a dump may be that of a row: paths may lack their first folders.

    >>> _may_be("images/1.png", "/data/images/1.png"), _may_be("2.png", "/data/1.png"), _may_be("2.png", None)
    (True, False, True)
    """
    if known is None or dumped.startswith(DIGEST) != known.startswith(DIGEST):
        return True
    return dumped == known or f"/{known}".endswith(f"/{dumped}") or f"/{dumped}".endswith(f"/{known}")
