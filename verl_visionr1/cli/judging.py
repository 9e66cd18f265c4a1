"""How the commands score saved rollouts: as the run did, unless options override it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal, get_type_hints

from verl_visionr1.answers import FORMATS
from verl_visionr1.cli import rollouts as given
from verl_visionr1.cli.rollouts import option
from verl_visionr1.evaluation.generation.records import PREDICTIONS, SETTINGS, Made, read_made
from verl_visionr1.evaluation.settings import EvaluationError
from verl_visionr1.frames import MODEL_TYPE_FRAMES, frame_named
from verl_visionr1.rollouts.inference import INFERRED, RUN_FILE, frame_note, infer, sample_of, truth_note
from verl_visionr1.rollouts.judging import Judging, Moment, Processing
from verl_visionr1.rollouts.places import dumps_of
from verl_visionr1.rollouts.records import Columns, Rollout, read_rollouts
from verl_visionr1.rollouts.run import Run, run_of
from verl_visionr1.settings import needs_one_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the command line; None: the run's, else inferred from the dump, else the default."""

    preset: given.PresetName = None
    route: given.Route = None
    progress: Annotated[
        str | None, option("--progress", "fraction of training for the thresholds, or off; default: as in the run")
    ] = None
    stage: int | Literal["final", "off"] | None = None  # the words: of `visionr1 eval`
    total_steps: Annotated[
        int | None, option("--total-steps", "steps of the training: each row is scored as at its own step")
    ] = None
    frame: Annotated[str | None, option("--frame", "coordinates of the answers; default: the run's")] = None
    processed: Annotated[
        str | None, option("--processed", "size of every image as the model saw it; default: computed", metavar="WxH")
    ] = None
    min_pixels: given.MinPixels = None
    max_pixels: given.MaxPixels = None
    reasoning: given.ReasoningState = None
    max_tokens: Annotated[int | None, option("--max-tokens", "response budget, for criteria of length", min=1)] = None
    answer_format: str | None = None  # of `visionr1 eval`

    @property
    def moment(self) -> Moment | None:
        """The moment of training, if an option sets it."""
        if self.progress is None and self.stage is None and self.total_steps is None:
            return None
        if isinstance(self.stage, str):
            return Moment(1.0 if self.stage == "final" else None)
        try:
            progress = None if self.progress in (None, "off") else float(str(self.progress))
        except ValueError:
            raise ValueError(f"--progress {self.progress}: needs a fraction of training in [0, 1], or off") from None
        return Moment(progress, self.stage, self.total_steps)

    @property
    def processing(self) -> Processing | None:
        """The size of the images as the model saw them, if an option sets it."""
        if self.processed is None and self.min_pixels is None and self.max_pixels is None:
            return None
        return given.processing_of(self.processed, self.min_pixels, self.max_pixels)

    @property
    def named(self) -> list[str]:
        """The given options, as written."""
        found = {name: getattr(self, name) for name in self.__slots__}
        found["route"] = " ".join(self.route) if self.route else None
        return [f"--{name.replace('_', '-')} {value}" for name, value in found.items() if value is not None]

    def for_explain(self, *without: str) -> str:
        """The given options for `visionr1 explain` in a shell, each after a blank; `without` some fields."""
        given = {name: getattr(self, name) for name in self.__slots__ if name not in without}
        pairs = [(name, one) for name, value in given.items() for one in (value if name == "route" else [value]) or ()]
        return "".join(f" --{n.replace('_', '-')} {quote(str(value))}" for n, value in pairs if value is not None)


NO_OPTIONS = Options()
STAGE = Annotated[int | None, option("--stage", "stage of the schedule, from 0, for all rows")]
SPOKEN = ("frame", "processed", "min_pixels", "max_pixels", "reasoning")  # options of the response context


def takes(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameter `options` with some fields of `Options` as command-line options."""

    hints = get_type_hints(Options, include_extras=True) | {"stage": STAGE}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            options = Options(**{name: values.pop(name) for name in names})
            command(**values, options=options)

        parameters: list[Parameter] = []
        for parameter in signature(command, eval_str=True).parameters.values():
            taken = [Parameter(n, Parameter.KEYWORD_ONLY, default=None, annotation=hints[n]) for n in names]
            own = [parameter.replace(kind=Parameter.KEYWORD_ONLY)]
            parameters += taken if parameter.name == "options" else own
        vars(run)["__signature__"] = Signature(parameters)  # what typer reads
        return run

    return decorate


@dataclass(frozen=True, slots=True)
class ScoringSetup:
    """How to score, and where the settings come from.

    Attributes:
        notes: where the settings come from, one line each.
        run: the run record; None if there is none.
        overrides: options that are in place of the run's own settings.
    """

    judging: Judging
    notes: tuple[str, ...] = ()
    run: Run | None = None
    overrides: tuple[str, ...] = ()

    @property
    def data(self) -> list[Path]:
        """The run's data files that exist here."""
        files = [] if self.run is None else [*self.run.last.train_files, *self.run.last.val_files]
        return [Path(file) for file in files if file.endswith(".parquet") and Path(file).is_file()]

    @property
    def data_name(self) -> str:
        """How a note names the data files: those of the run."""
        return f"the run's data files ({', '.join(path.name for path in self.data)})" if self.data else "--data"

    @property
    def validation_names(self) -> list[str]:
        """Names of the run's folders of validation dumps."""
        folder = None if self.run is None else self.run.last.validation_dir
        return [Path(folder).name] if folder else []


def judging_for(paths: list[Path], options: Options, columns: Columns | None = None) -> ScoringSetup:
    """How to score the rollouts of some paths.

    Args:
        paths: dumps, folders of dumps, or run directories.
        columns: names of the dumps' columns, for inference from their rows.
    """
    found = run_of(paths)
    if found is not None:
        file, run = found
        judging = override(run.judging(), options)
        notes = [f"{file}: {run.last.describe()}", *(f"{option}: overrides the run's own" for option in options.named)]
        notes += _sample_notes(_sample(paths, columns), judging)
        return ScoringSetup(judging, tuple(notes), run, tuple(options.named))
    judging, notes = default_judging(), []
    chosen = {"frame": options.frame, "moment": options.moment, "preset": options.preset or options.route}
    fixed = frozenset(name for name, value in chosen.items() if value is not None)
    evaluation = evaluation_of(paths)
    if evaluation is not None:
        judging, notes = judging_of(evaluation[1]), _evaluation_notes(*evaluation, options)
        fixed |= {"frame"} if evaluation[1].model_type in MODEL_TYPE_FRAMES else set()
        fixed |= set(INFERRED) if evaluation[1].run is not None else set()
    judging, sample = override(judging, options), _sample(paths, columns)
    if len(fixed) < len(INFERRED):
        inferred = infer(sample, judging, fixed)
        judging = inferred.judging
        assumed = {
            "frame": f"frame {judging.frame.name} (--frame)",
            "moment": f"{judging.moment} (--progress, --stage, --total-steps)",
            "preset": f"preset {judging.preset.name} (--preset)",
        }
        words = ", ".join(text for name, text in assumed.items() if name not in fixed)
        notes.append("; ".join([f"no {RUN_FILE}: assumed {words}", *inferred.notes]))
    return ScoringSetup(judging, (*notes, *_sample_notes(sample, judging)))


def default_judging() -> Judging:
    """How answers are scored of which nothing is known."""
    return Judging(given.preset_of("visionr1"), frame_named("original"))


def is_described(path: Path) -> bool:
    """Whether a record of a run or of `visionr1 eval` is beside a dump."""
    return run_of([path]) is not None or evaluation_of([path]) is not None


def evaluation_of(paths: Sequence[Path]) -> tuple[Path, Made] | None:
    """The record of `visionr1 eval` beside the predictions of all paths; None if missing, or if they differ."""
    folders = [path if path.is_dir() else path.parent for path in paths if path.is_dir() or path.name == PREDICTIONS]
    files = [folder / SETTINGS for folder in folders if (folder / PREDICTIONS).is_file()]
    if not files or len(files) < len(paths) or not all(file.is_file() for file in files):
        return None
    made = [read_made(file) for file in files]
    spoken = {(one.model_type, one.min_pixels, one.max_pixels, one.sampling.max_tokens) for one in made}
    return (files[0], made[0]) if len(spoken) == 1 and all(one.run == made[0].run for one in made) else None


def judging_of(made: Made) -> Judging:
    """How the answers of an evaluation are scored: as at the last validation of its run, else by the defaults."""
    if made.run is not None:
        judging = made.run.judging(is_evaluation=True)
    else:
        judging = default_judging()
        frame = MODEL_TYPE_FRAMES.get(made.model_type)
        judging = judging if frame is None else replace(judging, frame=frame_named(frame))
    processing = Processing(None, made.min_pixels, made.max_pixels)
    return replace(judging, processing=processing, max_tokens=made.sampling.max_tokens)


def _evaluation_notes(file: Path, made: Made, options: Options) -> list[str]:
    """Notes: what an evaluation's record says, and which options override it."""
    frame = MODEL_TYPE_FRAMES.get(made.model_type) if made.run is None else made.run.frame
    parts = [] if frame is None else [f"frame {frame}"]
    parts += [] if made.run is None else [f"preset {made.run.names}"]
    parts += [] if made.max_pixels is None else [f"{made.min_pixels} to {made.max_pixels} pixels"]
    parts.append(f"at most {made.sampling.max_tokens} tokens")
    own = ("--frame", "--processed", "--min-pixels", "--max-pixels", "--max-tokens")
    overrides = [option for option in options.named if option.startswith(own)]
    return [
        f"{file}: {', '.join(parts)}",
        *(f"{option}: overrides the evaluation's own" for option in overrides),
    ]


def _sample_notes(sample: list[Rollout], judging: Judging) -> list[str]:
    """Notes that the ground truth, or the frame, does not fit the answers."""
    notes = [truth_note(sample)]
    with suppress(ValueError):  # the frame needs an unknown size, or a criterion failed: scoring reports it
        notes.append(frame_note(sample, judging))
    return list(filter(None, notes))


def _sample(paths: list[Path], columns: Columns | None) -> list[Rollout]:
    files = [file for dump in dumps_of(paths) for file in dump.files]
    return sample_of(read_rollouts(files, columns=columns, on_error="skip"))


def override(judging: Judging, options: Options) -> Judging:
    """A judging with the options applied to each of its starts."""
    routes = given.routes_of(options.route)
    if options.preset is not None or routes:
        own = judging.routes
        by_task = dict(judging.by_task if own is None else own.by_task) if options.preset is None else {}
        preset = judging.preset if options.preset is None else given.preset_of(options.preset)
        judging = replace(judging, preset=preset, by_task=by_task | routes, routes=None)
    if options.answer_format is not None:
        judging = _with_format(judging, options.answer_format)
    changes = {"moment": options.moment, "processing": options.processing, "max_tokens": options.max_tokens}
    changes |= {"reasoning": options.reasoning, "frame": None if options.frame is None else frame_named(options.frame)}
    changed = {name: value for name, value in changes.items() if value is not None}
    earlier = tuple((last, override(other, options)) for last, other in judging.earlier)
    return replace(judging, **changed, earlier=earlier)


def _with_format(judging: Judging, answer_format: str) -> Judging:
    """A judging whose default preset reads answers in another format; routed presets keep theirs."""
    if answer_format not in FORMATS:
        raise EvaluationError(f"answer_format = {answer_format!r}: {needs_one_of(answer_format, FORMATS)}")
    preset = replace(judging.preset, answer_format=answer_format)
    routes = None if judging.routes is None else replace(judging.routes, default=preset)
    return replace(judging, preset=preset, routes=routes)
