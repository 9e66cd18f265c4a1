"""All rows of some files asked, in batches, and the answers appended as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Protocol

from verl_visionr1.evaluation.generation.prompts import Asked, Question
from verl_visionr1.evaluation.generation.records import PredictionFile
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.files import RowError
from verl_visionr1.rollouts.records import N_EXAMPLES, OnError


class Answerer(Protocol):
    """What answers: `engine.Engine`."""

    def fitting(self, question: Question) -> Question:
        """The question, or a RowError where its prompt leaves no room for an answer."""
        ...

    def answers(self, questions: Sequence[Question]) -> list[Prediction]:
        """All answers to each question, in order."""
        ...


@dataclass(slots=True)
class Progress:
    """How far the work is; given to `on_batch` after each batch.

    Attributes:
        n_rows: of the files, as far as they are asked for.
        n_before, n_done: rows that an earlier run, and that this run has answered.
        n_skipped, examples: rows that could not be asked, and why, of the first `N_EXAMPLES`.
        n_tokens, seconds: of the answers of this run.
    """

    n_rows: int
    n_before: int = 0
    n_done: int = 0
    n_skipped: int = 0
    n_tokens: int = 0
    seconds: float = 0.0
    examples: list[str] = field(default_factory=list)

    def skip(self, error: RowError) -> None:
        """Count a row that cannot be asked."""
        self.n_skipped += 1
        if len(self.examples) < N_EXAMPLES:
            self.examples.append(str(error))

    @property
    def rate(self) -> float:
        """Rows a second of this run."""
        return self.n_done / self.seconds if self.seconds else 0.0

    @property
    def n_left(self) -> int:
        """Rows that are still to be answered."""
        return self.n_rows - self.n_before - self.n_done - self.n_skipped


def answer_rows(
    rows: Iterator[Asked],
    question_of: Callable[[Asked], Question],
    start: Callable[[], Answerer],
    out: PredictionFile,
    progress: Progress,
    *,
    batch: int,
    on_error: OnError = "fail",
    on_batch: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Ask the rows that `out` has no answers to.

    Two batches of images are in memory at most: the one that is answered, and the next.

    Args:
        start: gives what answers; called when the first question is there.
        out: where the answers go, a batch at a time.
        on_error: what to do with a row that cannot be asked: "fail", or "skip", which counts it.

    Raises:
        RowError: a row that cannot be asked; names file and row.
        RowsError: a file that cannot be read or written.
    """

    def taken(make: Callable[[], Question]) -> list[Question]:
        try:
            return [make()]
        except RowError as error:
            if on_error == "fail":
                raise
            progress.skip(error)
            return []

    def next_batch() -> list[Question]:
        questions: list[Question] = []
        while len(questions) < batch and (some := list(islice(waiting, batch - len(questions)))):
            for row in some:
                questions += taken(partial(question_of, row))
        return questions

    done = frozenset(out.rows_done)
    waiting = (row for row in rows if row.key not in done)
    answerer: Answerer | None = None
    with ThreadPoolExecutor(1, "images") as reader:
        coming = reader.submit(next_batch)
        while questions := coming.result():
            coming = reader.submit(next_batch)
            answerer = answerer or start()
            began = time.monotonic()
            fitting = [one for question in questions for one in taken(partial(answerer.fitting, question))]
            predictions = answerer.answers(fitting) if fitting else []
            out.append(predictions)
            progress.n_done += len(fitting)
            progress.n_tokens += sum(prediction.n_tokens or 0 for prediction in predictions)
            progress.seconds += time.monotonic() - began
            on_batch(progress)
