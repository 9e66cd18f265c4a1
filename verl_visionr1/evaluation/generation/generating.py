"""From a model and parquet files to a whole `predictions.jsonl`: the steps in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from verl_visionr1.evaluation.generation.answering import Progress, answer_rows
from verl_visionr1.evaluation.generation.checkpoints import Say, find_model
from verl_visionr1.evaluation.generation.engine import (
    Engine,
    EngineOptions,
    chosen_device,
    installed_versions,
    set_environment,
)
from verl_visionr1.evaluation.generation.prompts import Prompts, asked_rows, count_rows
from verl_visionr1.evaluation.generation.records import Made, PredictionFile, Sampling, data_fingerprints
from verl_visionr1.rollouts.records import OnError


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be generated.

    Attributes:
        model: see `checkpoints.find_model`.
        data: parquet files.
        out: folder of the predictions.
        sampling: how answers are drawn.
        min_pixels, max_pixels: `data.mm_processor_kwargs`; both or none.
        limit: first rows of each file; None: all.
        logprobs: whether to keep the probability of each token.
        batch: rows that are asked at once; so many images are in memory, twice.
        on_error: what to do with a row that cannot be asked.
        engine: how vLLM is run.

    Raises:
        ValueError: no data, or one of the two budgets alone.
    """

    model: str
    data: tuple[Path, ...]
    out: Path
    sampling: Sampling
    min_pixels: int | None = None
    max_pixels: int | None = None
    limit: int | None = None
    logprobs: bool = False
    batch: int = 256
    on_error: OnError = "fail"
    engine: EngineOptions

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("no data: name the parquet files to answer")
        if (self.min_pixels is None) != (self.max_pixels is None):
            raise ValueError(
                "--min-pixels and --max-pixels: give both or none; processors differ in what one alone does"
            )


def generate(
    task: Task, say: Say = lambda line: None, on_batch: Callable[[Progress], None] = lambda progress: None
) -> Progress:
    """Answer the rows that have no answers yet; vLLM is started only where there are such rows.

    Args:
        task: what is to be generated.
        say: told what takes time.
        on_batch: told after each batch.

    Returns:
        How much there was to do.

    Raises:
        RowsError: a model, a file, a row or a folder that cannot be used; see the parts.
        EngineError: vLLM cannot start or go on.
    """
    data = data_fingerprints(task.data)
    n_rows = count_rows(task.data, task.limit)
    device = chosen_device(task.engine.device)
    model = find_model(task.model, task.out, say)
    set_environment(device, model.folder)
    made = Made(
        model=task.model,
        model_type=model.model_type,
        weights=model.weights,
        sampling=task.sampling,
        min_pixels=task.min_pixels,
        max_pixels=task.max_pixels,
        logprobs=task.logprobs,
        data=data,
        device=device,
        versions=installed_versions(),
    )
    with PredictionFile(task.out, made) as out:
        names = {file.name for file in task.data}
        done = [row for name, row in out.rows_done if name in names and (task.limit is None or row < task.limit)]
        progress = Progress(n_rows, n_before=len(done))
        if not progress.n_left:
            return progress
        say(f"loading {model.folder} on {device}")
        prompts = Prompts(model.folder, task.min_pixels, task.max_pixels)
        answer_rows(
            asked_rows(task.data, task.limit),
            prompts.question,
            lambda: Engine(model.folder, prompts, task.sampling, task.engine, device, logprobs=out.made.logprobs),
            out,
            progress,
            batch=task.batch,
            on_error=task.on_error,
            on_batch=on_batch,
        )
    return progress
