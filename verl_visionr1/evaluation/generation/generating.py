"""From a model and parquet files to a whole `predictions.jsonl`: the steps in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from verl_visionr1.evaluation.generation.answering import Progress, answer_rows
from verl_visionr1.evaluation.generation.checkpoints import Say, find_model
from verl_visionr1.evaluation.generation.engine import (
    VERSIONED,
    Engine,
    EngineOptions,
    chosen_device,
    set_environment,
)
from verl_visionr1.evaluation.generation.prompts import Prompts, asked_rows, count_rows
from verl_visionr1.evaluation.generation.records import Made, PredictionFile, Sampling, data_fingerprints
from verl_visionr1.functions import installed_versions
from verl_visionr1.rollouts.records import OnError


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
    """Answer the rows that have no answers yet; vLLM is started only where there are such rows.

    Args:
        min_pixels, max_pixels: `data.mm_processor_kwargs`; both or none.
        limit: first rows of each file; None: all.
        batch: rows that are asked at once; so many images are in memory, twice.

    Returns:
        How much there was to do.

    Raises:
        ValueError: one of the two budgets alone; processors differ in what it does.
        RowsError: a model, a file, a row or a folder that cannot be used; see the parts.
        EngineError: vLLM cannot start or go on.
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
