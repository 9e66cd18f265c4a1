"""Answer all rows of some files in batches; answers are appended after each batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

from verl_visionr1.evaluation.generation.checkpoints import Say, find_model
from verl_visionr1.evaluation.generation.engine import (
    VERSIONED,
    Engine,
    EngineOptions,
    chosen_device,
    set_environment,
)
from verl_visionr1.evaluation.generation.prompts import Asked, Prompts, Question, asked_rows, count_rows
from verl_visionr1.evaluation.generation.records import Made, PredictionFile, Sampling, data_fingerprints
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.files import RowError
from verl_visionr1.functions import installed_versions
from verl_visionr1.rollouts.records import N_EXAMPLES, OnError


class Answerer(Protocol):
    """The interface of `engine.Engine`."""

    def fitting(self, question: Question) -> Question:
        """Return the question; raise RowError if its prompt leaves no tokens for an answer."""
        ...

    def answers(self, questions: Sequence[Question]) -> list[Prediction]:
        """Return all answers to each question, in order."""
        ...


@dataclass(slots=True)
class Progress:
    """Progress of the work; passed to `on_batch` after each batch.

    Attributes:
        n_rows: number of requested rows of the files.
        n_before, n_done: rows answered by an earlier run, and by this run.
        n_skipped, examples: rows that could not be asked, and the reasons of the first `N_EXAMPLES`.
        n_tokens, seconds: totals of this run's answers.
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
        """Rows per second of this run."""
        return self.n_done / self.seconds if self.seconds else 0.0

    @property
    def n_left(self) -> int:
        """Rows still to be answered."""
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
    """Answer the rows that have no answers in `out`.

    At most two batches of images are in memory: the current one and the next.

    Args:
        start: makes the answerer; called when the first question is ready.
        out: file of the answers, written per batch.
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


def generate(
    model: str,
    data: Sequence[Path],
    out: Path,
    *,
    sampling: Sampling,
    engine: EngineOptions,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    limit: int | None = None,
    logprobs: bool = False,
    batch: int = 256,
    on_error: OnError = "fail",
    say: Say = lambda line: None,
    on_batch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Answer the rows without answers; vLLM is started only if there are such rows.

    Args:
        min_pixels, max_pixels: budget of `data.mm_processor_kwargs`; both or none.
        limit: number of first rows of each file; None: all.
        batch: rows per batch; the images of two batches are in memory.

    Returns:
        The progress at the end.

    Raises:
        ValueError: only one of the two budgets, which processors treat differently.
        RowsError: an unusable model, file, row or folder.
        EngineError: vLLM cannot start or continue.
    """
    if (min_pixels is None) != (max_pixels is None):
        raise ValueError("--min-pixels and --max-pixels: give both or none")
    if not data:
        raise ValueError("no data: name the parquet files to answer")
    fingerprints = data_fingerprints(data)
    n_rows = count_rows(data, limit)
    device = chosen_device(engine.device)
    found = find_model(model, out, say)
    set_environment(device, found.folder)
    made = Made(
        model=model,
        model_type=found.model_type,
        weights=found.weights,
        sampling=sampling,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        logprobs=logprobs,
        data=fingerprints,
        device=device,
        versions=installed_versions(VERSIONED),
    )
    with PredictionFile(out, made) as file:
        done = [row for name, row in file.rows_done if name in fingerprints and (limit is None or row < limit)]
        progress = Progress(n_rows, n_before=len(done))
        if not progress.n_left:
            return progress
        say(f"loading {found.folder} on {device}")
        prompts = Prompts(found.folder, min_pixels, max_pixels)
        answer_rows(
            asked_rows(data, limit),
            prompts.question,
            lambda: Engine(found.folder, prompts, sampling, engine, device, logprobs=file.made.logprobs),
            file,
            progress,
            batch=batch,
            on_error=on_error,
            on_batch=on_batch,
        )
    return progress
