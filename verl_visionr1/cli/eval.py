"""`visionr1 eval`: generate a model's answers to parquet files, and compute published metrics from them."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from verl_visionr1.cli import rollouts as given
from verl_visionr1.cli.judging import Options, evaluation_of, judging_for
from verl_visionr1.evaluation.generation.records import PREDICTIONS, SETTINGS, read_made
from verl_visionr1.evaluation.predictions import Prediction, read_predictions
from verl_visionr1.evaluation.records import Evaluation, load, save
from verl_visionr1.evaluation.settings import (
    Confidence,
    EvaluationSettings,
    Family,
    Stage,
    StrayLabels,
    UnreadableCount,
    WhichBox,
)
from verl_visionr1.files import RowsError, write_whole
from verl_visionr1.frames import MODEL_TYPE_FRAMES
from verl_visionr1.rollouts.dumps import SUFFIXES
from verl_visionr1.rollouts.judging import Processing
from verl_visionr1.rollouts.numbers import saved_numbers
from verl_visionr1.rollouts.places import dumps_of
from verl_visionr1.rollouts.records import Counts, OnError, Rollout, no_row

if TYPE_CHECKING:
    from verl_visionr1.evaluation.generation.answering import Progress

REPORT, MARKDOWN = "report.json", "report.md"

_LINE_EVERY_S = 30.0  # without a terminal


_OF_GENERATION = (
    *("n", "temperature", "seed", "logprobs", "device", "batch", "gpu_memory_utilization", "tensor_parallel"),
    *("max_model_len", "answer_format"),
)
"""Options that do not apply to a run's own answers, which exist already, in the format of its presets."""


def eval(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="a Hugging Face folder or name, or a checkpoint of verl: RUN_DIR, global_step_N; without data files a "
            "RUN_DIR gives the answers of its validation; with --recompute: a .jsonl of answers made elsewhere"
        ),
    ] = None,
    data: Annotated[list[Path] | None, typer.Argument(help="parquet files of a converter")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for predictions and report; run again to resume")] = None,
    step: Annotated[int | None, typer.Option(help="step of a run's validation; default: the last")] = None,
    limit: Annotated[int | None, typer.Option(help="first rows of each file", min=1)] = None,
    n: Annotated[int, typer.Option("--n", help="answers to a row", min=1)] = 1,
    temperature: Annotated[
        float, typer.Option(help="0 is greedy, as in training's validation", min=0.0, max=10.0)
    ] = 0.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="most tokens of an answer (data.max_response_length); default: the run's, else 1024", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the sampling")] = 0,
    min_pixels: given.MinPixels = None,
    max_pixels: given.MaxPixels = None,
    frame: Annotated[str, typer.Option(help="coordinates of the model's answers; auto: by its model_type")] = "auto",
    reasoning: given.ReasoningState = None,
    preset: Annotated[
        str | None, typer.Option(help="a preset's name, or a YAML file of one; default: the run's, else visionr1")
    ] = None,
    route: given.Route = None,
    stage: Annotated[
        Stage | None, typer.Option(help="thresholds of the reward; default: as in the run, else final")
    ] = None,
    answer_format: Annotated[str | None, typer.Option("--format", help="the format of the answers")] = None,
    metrics: Annotated[list[str] | None, typer.Option(help="only these families of metrics (may repeat)")] = None,
    confidence: Annotated[Confidence, typer.Option(help="confidence of a box")] = "constant",
    stray_labels: Annotated[StrayLabels, typer.Option(help="boxes of categories not asked for")] = "drop",
    which_box: Annotated[WhichBox, typer.Option(help="the box that counts, of several for one expression")] = "first",
    strict_iou: Annotated[
        bool, typer.Option("--strict-iou", help="IoU must exceed the threshold, not just reach it")
    ] = False,
    unreadable_count: Annotated[
        UnreadableCount, typer.Option(help="answers without a count, in MAE and RMSE")
    ] = "exclude",
    resamples: Annotated[int, typer.Option(help="bootstrap resamples for the intervals; 0: none", min=0)] = 1000,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="keep the probability of each token")] = False,
    vs: Annotated[
        Path | None, typer.Option(help="compare with another evaluation: its report.json, or its folder")
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="only compute the metrics of the answers in --out")
    ] = False,
    on_error: given.OnBadRow = "fail",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="where vLLM runs")] = "auto",
    batch: Annotated[int, typer.Option(help="rows asked at once; twice as many images are in memory", min=1)] = 256,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="share of GPU memory for vLLM", min=0.01, max=1.0)
    ] = None,
    tensor_parallel: Annotated[int, typer.Option(help="GPUs that share the model", min=1)] = 1,
    max_model_len: Annotated[int | None, typer.Option(help="most tokens of prompt and answer", min=2)] = None,
) -> None:
    """Generate answers with vLLM and evaluate them; answers are kept, and a killed run resumes."""
    errors = Console(stderr=True, soft_wrap=True)
    try:
        # Check all options before generating.
        given.routes_of(route)
        measuring = EvaluationSettings(
            frame="original" if frame == "auto" else frame,
            preset=preset or "visionr1",
            routes={task: name for task, _, name in (item.partition("=") for item in route or ())},
            answer_format=answer_format,
            reasoning=reasoning or "auto",
            stage=stage or "final",
            metrics=tuple(cast("list[Family]", metrics or [])),
            confidence=confidence,
            stray_labels=stray_labels,
            which_box=which_box,
            strict_iou=strict_iou,
            unreadable_count=unreadable_count,
            resamples=resamples,
        )
        measuring.judging()
        other = None if vs is None else load(vs / REPORT if vs.is_dir() else vs)
        is_auto = frame == "auto"
        if model is not None and not data and not recompute and _is_run(Path(model)):
            _refuse_given(context, _OF_GENERATION, f"the answers of {model} exist already, in their own format")
            options = Options(
                preset=preset, route=route, frame=None if is_auto else frame, reasoning=reasoning,
                min_pixels=min_pixels, max_pixels=max_pixels, max_tokens=max_tokens, stage=stage,
            )  # fmt: skip
            _report(_of_run(Path(model), step, options, limit, on_error, measuring), other, out)
            return
        if model is not None and not data and not recompute and not Path(model).exists():
            raise RowsError(f"{model}: no such run, dump or model folder; a hub model needs data files after it")
        _refuse_given(context, ("step",), "it selects a run's validation, without data files")
        if out is None:
            raise ValueError("--out: needs a folder for predictions and report")
        if recompute and model is not None:
            processing = given.processing_of(None, min_pixels, max_pixels)
            measuring = replace(measuring, processing=processing, max_tokens=max_tokens)
            _report(_of_elsewhere(Path(model), data, limit, measuring), other, out)
            return
        if not recompute:
            from verl_visionr1.evaluation.generation.answering import generate
            from verl_visionr1.evaluation.generation.engine import EngineOptions
            from verl_visionr1.evaluation.generation.records import Sampling

            if model is None:
                raise ValueError("no model: visionr1 eval MODEL DATA.parquet ..., or --recompute for existing answers")
            make = partial(
                generate,
                model,
                data or [],
                out,
                sampling=Sampling(n=n, temperature=temperature, max_tokens=max_tokens or 1024, seed=seed),
                engine=EngineOptions(
                    device=device,
                    gpu_memory_utilization=gpu_memory_utilization,
                    tensor_parallel=tensor_parallel,
                    max_model_len=max_model_len,
                ),
                min_pixels=min_pixels,
                max_pixels=max_pixels,
                limit=limit,
                logprobs=logprobs or confidence == "logprob",
                batch=batch,
                on_error=on_error,
            )
            _generate(make, errors)
        _report(_of_folder(out, None if recompute else data, limit, measuring, is_auto=is_auto), other, out)
    except ValueError as error:
        raise given.stop("eval", error) from None
    except KeyboardInterrupt:
        errors.print(f"stopped; run the same command again to resume in {out}", markup=False)
        raise typer.Exit(130) from None


def _generate(generate: Callable[..., Progress], errors: Console) -> None:
    def say(line: str) -> None:
        errors.print(line, markup=False, highlight=False)

    with _shown(errors) as on_batch:
        progress = generate(say=say, on_batch=on_batch)
    for example in progress.examples:
        say(f"left out: {example}")
    skipped = f", {progress.n_skipped} left out" if progress.n_skipped else ""
    before = f", {progress.n_before} answered before" if progress.n_before else ""
    say(f"{progress.n_done} rows answered ({progress.rate:.2f} per second{before}{skipped})")


@contextmanager
def _shown(errors: Console) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal, else a line from time to time."""
    if not sys.stderr.isatty():
        last = -_LINE_EVERY_S

        def report(progress: Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= _LINE_EVERY_S:
                last = time.monotonic()
                errors.print(_line(progress), markup=False, highlight=False)

        yield report
        return
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total} rows"), TextColumn("{task.description}"))
    with Bar(*columns, TimeRemainingColumn(), console=errors, transient=True) as bar:
        shown = bar.add_task("", total=None)

        def advance(progress: Progress) -> None:
            done = progress.n_rows - progress.n_left
            bar.update(shown, completed=done, total=progress.n_rows, description=f"{progress.rate:.2f}/s")

        yield advance


def _line(progress: Progress) -> str:
    left = f"{progress.n_left / progress.rate:.0f} s left" if progress.rate else "..."
    return f"{progress.n_rows - progress.n_left}/{progress.n_rows} rows, {progress.rate:.2f} per second,  {left}"


def _is_run(path: Path) -> bool:
    """Whether a path is a run or dumps, not a model."""
    return path.exists() and not (path / "config.json").is_file()


def _refuse_given(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Raise for options that would be ignored.

    Raises:
        RowsError: one of them was given.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = next(each.opts[0] for each in context.command.params if each.name == name)
            raise RowsError(f"{option}: {why}; leave it out")


def _of_run(
    path: Path,
    step: int | None,
    options: Options,
    limit: int | None,
    on_error: OnError,
    measuring: EvaluationSettings,
) -> Evaluation:
    """Evaluate the answers of a run's validation, scored as in the run unless options override it."""
    from verl_visionr1.evaluation.evaluating import evaluate
    from verl_visionr1.evaluation.reading import RunRows

    file = _validation_dump(path, step)
    if measuring.confidence == "logprob":
        raise _no_logprobs(file)
    if options.stage is None and evaluation_of([file]) is not None:
        options = dataclasses.replace(options, stage="final")  # the default of evaluations
    setup = judging_for([file], options)
    judging, counts = setup.judging, Counts()
    given.say(setup.notes)
    with given.opened([file], setup.data, None, on_error, counts, validation_names=setup.validation_names) as rollouts:
        run = RunRows.of(judging, islice(rollouts, limit))
    given.say(f"left out: {example}" for example in counts.examples)
    if not run.rollouts:
        raise RowsError(f"{file}: {no_row(counts)}")
    settings = replace(
        measuring,
        frame=judging.frame.name,
        preset=judging.preset.name,
        reasoning=judging.reasoning,
        processing=judging.processing,
        max_tokens=judging.max_tokens,
    )
    model = str(path) if setup.run is None else setup.run.last.model
    evaluation = evaluate(run.predictions, settings, model=f"{model}, {file.name}", run=run)
    given.say([_saved_line(evaluation, run.rollouts)])
    return evaluation


def _saved_line(evaluation: Evaluation, by_key: Mapping[tuple[str, int, int], Rollout]) -> str:
    """Compare the run's rewards of these rows with those computed here."""
    saved = [(by_key[row.key].saved, row.reward) for row in evaluation.rows]
    known = [(one, other) for one, other in saved if one is not None]
    found = saved_numbers([one for one, _ in known], [other for _, other in known])
    return "it has no saved rewards" if found is None else found.describe()


def _validation_dump(path: Path, step: int | None) -> Path:
    """The dump of a step, else the last."""
    dumps = dumps_of([path])
    dumps = [dump for dump in dumps if dump.is_validation] or dumps
    files = [file for dump in dumps for file in dump.files]
    found = [file for file in files if step is None or file.name.partition(".")[0] == str(step)]
    if not found:
        raise RowsError(f"{path}: no dump of step {step}; found {', '.join(file.name for file in files)}")
    return found[-1]


def _of_folder(
    out: Path, data: list[Path] | None, limit: int | None, measuring: EvaluationSettings, *, is_auto: bool
) -> Evaluation:
    """Evaluate the answers in the folder of a generation."""
    from verl_visionr1.evaluation.evaluating import evaluate

    made = read_made(out / SETTINGS)
    if measuring.confidence == "logprob" and not made.logprobs:
        raise _no_logprobs(out)
    settings = replace(
        measuring,
        frame=_frame_of(made.model_type) if is_auto else measuring.frame,
        processing=Processing(None, made.min_pixels, made.max_pixels),
        max_tokens=made.sampling.max_tokens,
    )
    names = [file.name for file in data or ()] or list(made.data)
    predictions = (each for each in read_predictions(out / PREDICTIONS) if each.file in names)
    return evaluate(_first(predictions, limit), settings, model=made.model)


def _frame_of(model_type: str) -> str:
    if model_type not in MODEL_TYPE_FRAMES:
        known = ", ".join(MODEL_TYPE_FRAMES)
        raise ValueError(
            f"--frame auto: the coordinates of model_type {model_type!r} are unknown ({known}); give --frame"
        )
    return MODEL_TYPE_FRAMES[model_type]


def _of_elsewhere(
    answers: Path, data: list[Path] | None, limit: int | None, measuring: EvaluationSettings
) -> Evaluation:
    """Evaluate answers of another program, whose settings are unknown."""
    from verl_visionr1.evaluation.elsewhere import read_answers
    from verl_visionr1.evaluation.evaluating import evaluate

    if not answers.name.endswith(SUFFIXES):
        raise RowsError(f"{answers}: --recompute needs a file of answers, not a model ({', '.join(SUFFIXES)})")
    if measuring.confidence == "logprob":
        raise _no_logprobs(answers)
    return evaluate(_first(read_answers(answers, data or []), limit), measuring, model=str(answers))


def _no_logprobs(where: Path) -> RowsError:
    return RowsError(f"{where}: its answers have no token probabilities; --confidence logprob needs them (--logprobs)")


def _first(predictions: Iterable[Prediction], limit: int | None) -> Iterator[Prediction]:
    return (each for each in predictions if limit is None or each.row < limit)


def _report(evaluation: Evaluation, other: Evaluation | None, out: Path | None) -> None:
    """Print the report, and save it if a folder is given."""
    from verl_visionr1.evaluation.markdown import markdown

    text = markdown(evaluation, other)
    if out is not None:
        save(evaluation, out / REPORT)
        write_whole(out / MARKDOWN, text.encode())
    typer.echo(text, nl=False)
