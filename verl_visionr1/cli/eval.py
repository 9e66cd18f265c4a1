"""`visionr1 eval`: generate a model's answers to parquet files, and compute published metrics from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from msgspec.structs import replace

from verl_visionr1.cli import rollouts as given
from verl_visionr1.cli.judging import Options, default_judging, evaluation_of, judging_for, judging_of, override
from verl_visionr1.evaluation.generation.records import PREDICTIONS, SETTINGS, read_made
from verl_visionr1.evaluation.predictions import read_predictions
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
from verl_visionr1.rollouts.inference import RUN_FILE
from verl_visionr1.rollouts.numbers import saved_numbers
from verl_visionr1.rollouts.places import dumps_of
from verl_visionr1.rollouts.records import Counts, OnError, Rollout, no_row
from verl_visionr1.rollouts.run import Start, start_of_model

REPORT, MARKDOWN = "report.json", "report.md"
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
            help="a Hugging Face folder or name, or a checkpoint of verl (RUN_DIR, global_step_N), asked and scored as "
            "in its run; without data files a RUN_DIR gives the answers of its validation; with --recompute: a .jsonl "
            "of answers made elsewhere"
        ),
    ] = None,
    data: Annotated[list[Path] | None, typer.Argument(help="parquet files of a converter")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for predictions and report; run again to resume")] = None,
    run: Annotated[
        Path | None, typer.Option(help="RUN_DIR whose rewards, image and token budgets to use; default: MODEL's own")
    ] = None,
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
    try:
        # Check all options before generating.
        options = Options(
            preset=preset, route=route, frame=None if frame == "auto" else frame, reasoning=reasoning, stage=stage,
            min_pixels=min_pixels, max_pixels=max_pixels, max_tokens=max_tokens, answer_format=answer_format,
        )  # fmt: skip
        override(default_judging(), options)
        measuring = EvaluationSettings(
            answer_format=answer_format,
            metrics=tuple(cast("list[Family]", metrics or ())),
            confidence=confidence,
            stray_labels=stray_labels,
            which_box=which_box,
            strict_iou=strict_iou,
            unreadable_count=unreadable_count,
            resamples=resamples,
        )
        other = None if vs is None else load(vs / REPORT if vs.is_dir() else vs)
        if model is not None and not data and not recompute and _is_run(Path(model)):
            _refuse_given(context, _OF_GENERATION, f"the answers of {model} exist already, in their own format")
            _report(_of_run(Path(model), step, options, limit, on_error, measuring), other, out)
            return
        if model is not None and not data and not recompute and not Path(model).exists():
            raise RowsError(f"{model}: no such run, dump or model folder; a hub model needs data files after it")
        _refuse_given(context, ("step",), "it selects a run's validation, without data files")
        if out is None:
            raise ValueError("--out: needs a folder for predictions and report")
        if recompute and model is not None:
            _refuse_given(context, ("run",), "answers made elsewhere are scored by --preset and --route")
            _report(_of_elsewhere(Path(model), data, options, limit, measuring), other, out)
            return
        start = None if run is None else _start_of(run)
        if not recompute:
            from verl_visionr1.evaluation.generation.answering import generate
            from verl_visionr1.evaluation.generation.records import Sampling

            if model is None:
                raise ValueError("no model: visionr1 eval MODEL DATA.parquet ..., or --recompute for existing answers")
            start = start or _start_of(Path(model), is_needed=False)
            if start is not None:
                is_given = min_pixels is not None or max_pixels is not None
                min_pixels, max_pixels = (min_pixels, max_pixels) if is_given else (start.min_pixels, start.max_pixels)
                max_tokens = max_tokens or start.max_tokens
            generate(
                model,
                data or [],
                out,
                sampling=Sampling(n=n, temperature=temperature, max_tokens=max_tokens or 1024, seed=seed),
                device=device,
                options={
                    "gpu_memory_utilization": gpu_memory_utilization,
                    "tensor_parallel_size": tensor_parallel,
                    "max_model_len": max_model_len,
                },
                min_pixels=min_pixels,
                max_pixels=max_pixels,
                run=start,
                limit=limit,
                logprobs=logprobs or confidence == "logprob",
                batch=batch,
                on_error=on_error,
                say=lambda line: given.say([line]),
            )
        chosen = None if recompute else [file.name for file in data or ()]
        _report(_of_folder(out, chosen, limit, measuring, options, start), other, out)
    except KeyboardInterrupt:
        given.say([f"stopped; run the same command again to resume in {out}"])
        raise typer.Exit(130) from None


def _start_of(path: Path, *, is_needed: bool = True) -> Start | None:
    """The settings of the run that a model belongs to; None if there is no record, and none is needed."""
    found = start_of_model(path) if path.exists() else None
    if found is None and is_needed:
        raise RowsError(f"--run {path}: no {RUN_FILE} in it; give the folder of a run with this plug-in")
    if found is not None:
        given.say([f"{found[0]}: {found[1].describe()}"])
    return found and found[1]


def _is_run(path: Path) -> bool:
    """Whether a path is a run or dumps, not a model."""
    return path.exists() and not (path / "config.json").is_file()


def _refuse_given(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Raise for options that would be ignored."""
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

    file = _validation_dump(path, step)
    evaluated = evaluation_of([file])
    setup = judging_for([file], _at_the_end(options) if evaluated and evaluated[1].run is None else options)
    counts, names = Counts(), setup.validation_names
    given.say(setup.notes)
    with given.opened([file], setup.data, None, on_error, counts, validation_names=names) as stream:
        rollouts = list(islice(stream, limit))
    given.say(f"left out: {example}" for example in counts.examples)
    if not rollouts:
        raise RowsError(f"{file}: {no_row(counts)}")
    model = str(path) if setup.run is None else setup.run.last.model or str(path)
    evaluation = evaluate(rollouts, setup.judging, measuring, model=f"{model}, {file.name}")
    rewards = zip(rollouts, evaluation.rows, strict=True)  # both in the order of the file
    known = [(rollout.saved, row.reward) for rollout, row in rewards if rollout.saved is not None]
    found = saved_numbers([saved for saved, _ in known], [reward for _, reward in known])
    given.say(["it has no saved rewards" if found is None else found.describe()])
    return evaluation


def _at_the_end(options: Options) -> Options:
    """The options with the default stage of evaluations: thresholds of the end of training."""
    return dataclasses.replace(options, stage="final" if options.stage is None else options.stage)


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
    out: Path,
    data: list[str] | None,
    limit: int | None,
    measuring: EvaluationSettings,
    options: Options,
    start: Start | None,
) -> Evaluation:
    """Evaluate the answers in the folder of a generation, scored as in a run if there is one."""
    from verl_visionr1.evaluation.evaluating import evaluate

    made = read_made(out / SETTINGS)
    made = made if start is None else replace(made, run=start)
    is_unknown = made.run is None and made.model_type not in MODEL_TYPE_FRAMES
    if options.frame is None and is_unknown:
        unknown = f"the coordinates of model_type {made.model_type!r} are unknown"
        raise ValueError(f"--frame auto: {unknown} ({', '.join(MODEL_TYPE_FRAMES)}); give --frame")
    judging = override(judging_of(made), _at_the_end(options) if made.run is None else options)
    names = list(made.data) if data is None else data
    rollouts = (each.rollout() for each in read_predictions(out / PREDICTIONS) if each.file in names)
    return evaluate(_first(rollouts, limit), judging, measuring, model=made.model)


def _of_elsewhere(
    answers: Path, data: list[Path] | None, options: Options, limit: int | None, measuring: EvaluationSettings
) -> Evaluation:
    """Evaluate answers of another program, whose settings are unknown."""
    from verl_visionr1.evaluation.elsewhere import read_answers
    from verl_visionr1.evaluation.evaluating import evaluate

    if not answers.name.endswith(SUFFIXES):
        raise RowsError(f"{answers}: --recompute needs a file of answers, not a model ({', '.join(SUFFIXES)})")
    judging = override(default_judging(), _at_the_end(options))
    return evaluate(_first(read_answers(answers, data or []), limit), judging, measuring, model=str(answers))


def _first(rollouts: Iterable[Rollout], limit: int | None) -> Iterator[Rollout]:
    return (each for each in rollouts if limit is None or each.number < limit)


def _report(evaluation: Evaluation, other: Evaluation | None, out: Path | None) -> None:
    """Print the report, and save it if a folder is given."""
    from verl_visionr1.evaluation.markdown import markdown

    text = markdown(evaluation, other)
    if out is not None:
        save(evaluation, out / REPORT)
        write_whole(out / MARKDOWN, text.encode())
    typer.echo(text, nl=False)
