"""Answer all rows of some files in batches; answers are appended after each batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from verl_visionr1.evaluation.generation.checkpoints import Say, find_model
from verl_visionr1.evaluation.generation.engine import VERSIONED, Engine, chosen_device, set_environment
from verl_visionr1.evaluation.generation.prompts import Asked, Prompts, Question, asked_rows, count_rows
from verl_visionr1.evaluation.generation.records import (
    Made,
    PredictionFile,
    Sampling,
    data_fingerprints,
    open_predictions,
)
from verl_visionr1.files import RowError
from verl_visionr1.functions import installed_versions
from verl_visionr1.rollouts.records import Counts, OnError
from verl_visionr1.rollouts.run import Start


@dataclass(slots=True)
class Progress:
    """Rows requested, answered by an earlier run and by this one, and left out; seconds of this run's answers."""

    n_rows: int
    n_before: int = 0
    n_done: int = 0
    skipped: Counts = field(default_factory=Counts)
    seconds: float = 0.0

    def __str__(self) -> str:
        before = f", {self.n_before} answered before" if self.n_before else ""
        skipped = f", {self.skipped.n_skipped} left out" if self.skipped.n_skipped else ""
        rate = self.n_done / self.seconds if self.seconds else 0.0
        return f"{self.n_done} of {self.n_rows} rows answered ({rate:.2f} per second{before}{skipped})"


def answer_rows(
    rows: Iterator[Asked],
    question_of: Callable[[Asked], Question],
    start: Callable[[], Engine],
    out: PredictionFile,
    progress: Progress,
    *,
    batch: int,
    on_error: OnError = "fail",
    say: Say = lambda line: None,
) -> None:
    """Answer the rows that have no answers in `out`.

    At most two batches of images are in memory: the current one and the next.

    Args:
        start: makes the engine; called when the first question is ready.
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
            progress.skipped.skip(str(error))
            return []

    def next_batch() -> list[Question]:
        questions: list[Question] = []
        while len(questions) < batch and (some := list(islice(waiting, batch - len(questions)))):
            for row in some:
                questions += taken(partial(question_of, row))
        return questions

    done = frozenset(out.rows_done)
    waiting = (row for row in rows if row.key not in done)
    engine: Engine | None = None
    with ThreadPoolExecutor(1, "images") as reader:
        coming = reader.submit(next_batch)
        while questions := coming.result():
            coming = reader.submit(next_batch)
            engine = engine or start()
            began = time.monotonic()
            fitting = [one for question in questions for one in taken(partial(engine.fitting, question))]
            out.append(engine.answers(fitting) if fitting else [])
            progress.n_done += len(fitting)
            progress.seconds += time.monotonic() - began
            say(str(progress))


def generate(
    model: str,
    data: Sequence[Path],
    out: Path,
    *,
    sampling: Sampling,
    device: str = "auto",
    options: Mapping[str, Any],
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    run: Start | None = None,
    limit: int | None = None,
    logprobs: bool = False,
    batch: int = 256,
    on_error: OnError = "fail",
    say: Say = lambda line: None,
) -> None:
    """Answer the rows without answers; vLLM is started only if there are such rows.

    Args:
        device: "auto", "cpu" or "cuda"; see `chosen_device`.
        options: arguments of `vllm.LLM` that do not affect answers, except by rounding.
        min_pixels, max_pixels: budget of `data.mm_processor_kwargs`; both or none.
        run: the start of the run whose chat template arguments are used, and whose settings score the answers.
        limit: number of first rows of each file; None: all.
        batch: rows per batch; the images of two batches are in memory.

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
    progress = Progress(count_rows(data, limit))
    device = chosen_device(device)
    found = find_model(model, out, say)
    set_environment(device, found.folder)
    made = Made(
        model=model,
        model_type=found.model_type,
        weights=found.weights,
        sampling=sampling,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        chat_template_kwargs={} if run is None else run.chat_template_kwargs,
        run=run,
        logprobs=logprobs,
        data=fingerprints,
        device=device,
        versions=installed_versions(VERSIONED),
    )
    with open_predictions(out, made) as file:
        wanted = [row for name, row in file.rows_done if name in fingerprints and (limit is None or row < limit)]
        progress.n_before = len(wanted)
        if progress.n_before < progress.n_rows:
            say(f"loading {found.folder} on {device}")
            prompts = Prompts(found.folder, min_pixels, max_pixels, made.chat_template_kwargs)
            answer_rows(
                asked_rows(data, limit),
                prompts.question,
                lambda: Engine(found.folder, prompts, sampling, device, options, logprobs=file.made.logprobs),
                file,
                progress,
                batch=batch,
                on_error=on_error,
                say=say,
            )
        else:
            say(str(progress))
    for example in progress.skipped.examples:
        say(f"left out: {example}")
