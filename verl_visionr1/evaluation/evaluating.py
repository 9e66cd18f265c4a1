"""Evaluate predictions: each data source and task by its own metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from verl_visionr1 import __version__
from verl_visionr1.answers import FORMATS, Answer
from verl_visionr1.evaluation.average_precision import MAX_DETS, N_ORDERS
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.reading import Read, RunRows, read_all
from verl_visionr1.evaluation.records import Evaluation, RowNumbers, Section
from verl_visionr1.evaluation.sections import TASK_FAMILIES, Measurement, rounded
from verl_visionr1.evaluation.settings import LEVEL, EvaluationError, EvaluationSettings
from verl_visionr1.frames import FRAMES, Extent, Frame, FrameError
from verl_visionr1.matching import match_class_agnostic
from verl_visionr1.processed import SizeError
from verl_visionr1.rewards.completion import in_original_pixels
from verl_visionr1.rollouts.bootstrap import Estimate, interval
from verl_visionr1.targets import NO_IMAGE

_CONFIDENCE = {
    "constant": "every box has the same confidence",
    "order": "the i-th of the n boxes of an answer has confidence 1 - i/n, i from 0",
    "logprob": "confidence is sqrt(p_box * p_label), p the geometric mean of the probabilities of their tokens",
}
_TIES = (
    f"boxes of different images with equal confidence rank in random orders: AP is the mean over {N_ORDERS} of them, "
    "and its interval holds their spread"
)
_STRAY = {
    "drop": "is left out",
    "own": "is a false alarm of its own category, if the data source has it",
    "every": "is a false alarm of its own category, else of all that were asked for",
}
MAX_READS = 100
"""Most answers of a data source that are read in every frame, evenly spread."""
FEWEST = 4
"""Least answers with boxes or points for a remark about the frame."""
NEAR = 0.05
"""Of frames whose fit differs by less than this, the likelier is named."""
FIT = 0.5
"""Fit that another frame must reach; it must also halve the gap to 1."""


def evaluate(
    predictions: Iterable[Prediction],
    settings: EvaluationSettings | None = None,
    *,
    model: str = "",
    run: RunRows | None = None,
) -> Evaluation:
    """Evaluate a model's answers.

    Args:
        predictions: answers of one model, of any tasks and data sources, in any order.
        run: for predictions of a run's dump, how the run scored them.

    Returns:
        Numbers with intervals, tables, correlations of reward and metric, and the numbers of each row.

    Raises:
        EvaluationError: nothing to evaluate, an invalid row, or a metric that applies to no row.
        RewardError: no such preset, or a missing package.
    """
    settings = settings or EvaluationSettings()
    reads = read_all(predictions, settings, run)
    groups: dict[tuple[str, str], list[Read]] = {}
    for read in reads:
        groups.setdefault((read.prediction.data_source, read.target.task), []).append(read)
    _require_families(groups, settings)
    measurements = [Measurement.of(group, settings) for group in groups.values()]
    sections: list[Section] = []
    for one in measurements:
        section, note = one.section(), frame_note(one.reads, settings)
        sections.append(msgspec.structs.replace(section, notes=[*filter(None, [note]), *section.notes]))
    return Evaluation(
        made_with={"verl-visionr1": __version__, "numpy": np.__version__},
        model=model,
        settings=settings,
        conventions=conventions_of(settings, measurements),
        sections=sections,
        averages=[*_averages(sections)],
        training=training_means(reads),
        rows=[_row(one, i) for one in measurements for i in range(len(one.reads))],
    )


def training_means(reads: Sequence[Read]) -> dict[str, dict[str, float]]:
    """Data source -> metric -> mean, as verl's validation reports it: `val-aux/<source>/<key>/mean@<samples>`.

    The mean over the samples of a prompt, then over prompts; a criterion that a row's preset lacks is 0.
    "reward" is the reward itself, "acc" is verl's `val-core`.
    """
    names: dict[str, dict[str, None]] = {}
    prompts: dict[str, dict[tuple[str, int], list[dict[str, float]]]] = {}
    for read in reads:
        prediction, metrics = read.prediction, read.score.metrics
        names.setdefault(prediction.data_source, {"reward": None, "acc": None}).update(dict.fromkeys(metrics))
        numbers = {**metrics, "reward": read.score.value, "acc": metrics["accuracy"]}
        groups = prompts.setdefault(prediction.data_source, {})
        groups.setdefault((prediction.file, prediction.row), []).append(numbers)
    return {
        source: {
            name: float(np.mean([np.mean([one.get(name, 0.0) for one in group]) for group in groups.values()]))
            for name in names[source]
        }
        for source, groups in prompts.items()
    }


def _row(measurement: Measurement, i: int) -> RowNumbers:
    read = measurement.reads[i]
    prediction = read.prediction
    return RowNumbers(
        file=prediction.file,
        row=prediction.row,
        sample=prediction.sample,
        uid=prediction.uid,
        data_source=prediction.data_source,
        task=read.target.task,
        image=read.image,
        preset=read.preset.name,
        reward=read.score.value,
        judged=read.score.metrics,
        measured=measurement.row_values(i),
        finish_reason=prediction.finish_reason,
    )


def _require_families(groups: dict[tuple[str, str], list[Read]], settings: EvaluationSettings) -> None:
    able = {family for _, task in groups for family in TASK_FAMILIES[task]}
    for family in settings.metrics:
        if family not in able:
            tasks = ", ".join(sorted({task for _, task in groups}))
            raise EvaluationError(f"metrics = {family!r}: it applies to no row; the rows' tasks are {tasks}")


def _averages(sections: Sequence[Section]) -> Iterable[Section]:
    """For each task with several data sources: the unweighted means of their common metrics."""
    for task in dict.fromkeys(section.task for section in sections):
        some = [section for section in sections if section.task == task]
        if len(some) < 2:
            continue
        names = [name for name in some[0].estimates if "/" not in name and all(name in one.estimates for one in some)]
        estimates: dict[str, Estimate] = {}
        draws: dict[str, list[float | None]] = {}
        for name in names:
            values = [section.estimates[name].value for section in some]
            known = [value for value in values if value is not None]
            value = float(np.mean(known)) if len(known) == len(some) else None
            drawn = [np.array(section.draws.get(name, []), dtype=np.float64) for section in some]
            mean = np.mean(drawn, axis=0) if all(one.size for one in drawn) else None
            low, high = interval(mean, LEVEL, value, metric=name)
            estimates[name] = Estimate(value=value, low=low, high=high, n=len(some))
            if mean is not None:
                draws[name] = rounded(mean)
        yield Section(
            source=f"mean of {len(some)} data sources",
            task=task,
            presets=sorted({preset for section in some for preset in section.presets}),
            n_rows=sum(section.n_rows for section in some),
            n_images=sum(section.n_images for section in some),
            units="+".join(section.units for section in some),
            estimates=estimates,
            draws=draws,
        )


def conventions_of(settings: EvaluationSettings, measurements: Sequence[Measurement]) -> list[str]:
    """List the conventions of all measured metrics."""
    families = {family for one in measurements for family in one.families}
    read_as = settings.answer_format or "the answer format of each preset"
    rule = "the strictest stage of the preset" if settings.stage == "final" else "the preset without a schedule"
    found = [
        f"Answers are read by the parser of the reward ({read_as}), in frame {settings.frame}, and converted to "
        "pixels of the original image without clipping. The complete objects of a cut-off answer count.",
        f"reward, F1@50 and mean IoU: as training reports them at validation, at {rule}.",
    ]
    found += [text for family, text in _families(settings).items() if family in families]
    if settings.resamples:
        found.append(
            f"Intervals: {LEVEL:.0%}, {settings.resamples} bootstrap resamples of images, percentiles; those of AP are "
            "shifted by the bootstrap's bias; none if only one or two images contribute."
        )
    return found


def _families(settings: EvaluationSettings) -> dict[str, str]:
    limits = ", ".join(map(str, MAX_DETS))
    confidence, stray = _CONFIDENCE[settings.confidence], _STRAY[settings.stray_labels]
    edge = "above" if settings.strict_iou else "at or above"
    which = f"the {settings.which_box} box of the answer"
    unread = "left out of MAE and RMSE" if settings.unreadable_count == "exclude" else "a 0 in MAE and RMSE"
    return {
        "ap": f"AP: COCO's, maxDets {limits} per image and category; {confidence}; {_TIES}; a box "
        f"whose label its row did not ask for {stray}; labels are compared without case; a category is scored on "
        "images where it was asked for; "
        "sizes are areas of boxes; regions to ignore are crowds of every category asked for.",
        "nms_ap": "NMS-AP: OVDEval's; of all boxes with IoU above .5 with a true box, of any label, the most "
        "confident is kept.",
        "rec": f"REC: {which}, right {edge} the IoU threshold; rows with exactly one referent.",
        "grec": "GREC: share of rows with F1 = 1 at IoU .5. N-acc: rows without a referent and without a box. T-acc: "
        "rows with a referent and with a box. An unreadable answer does not count as an empty one.",
        "negatives": "false alarms: share of the categories asked for and absent that got a box.",
        "counting": f"Counting: an answer without a count is wrong, and {unread}.",
        "pointing": "Pointing: a point hits in the mask, else in the box; points and objects are paired one to one.",
        "text": "Text: accuracy is that of the preset.",
    }


def frame_note(reads: Sequence[Read], settings: EvaluationSettings) -> str | None:
    """A remark if the answers fit another frame far better; else None.

    Args:
        reads: of one data source and task.
    """
    placed = [read for read in reads if _has_places(read) and read.target.size_wh != NO_IMAGE]
    placed = placed[:: max(1, len(placed) // MAX_READS)][:MAX_READS]
    if len(placed) < FEWEST:
        return None
    now = FRAMES[settings.frame]
    fits = {frame.name: _fit(placed, frame, settings) for frame in _likely_first(placed, now)}
    best = next(name for name, fit in fits.items() if fit >= max(fits.values()) - NEAR)
    before = fits[now.name]
    if fits[best] < FIT or fits[best] - before < 0.5 * (1.0 - before):
        return None
    measure = "mean IoU" if placed[0].answer.boxes_xyxy else "share of points on an object"
    numbers = f"{measure} {fits[best]:.2f} as {best}, {before:.2f} as {now.name} ({len(placed)} answers)"
    return f"wrong frame? Read in another frame, the answers fit: {numbers}; measure again with --frame {best}"


def _has_places(read: Read) -> bool:
    return bool(read.target.boxes_xyxy and (read.answer.boxes_xyxy or read.answer.points_xy))


def _likely_first(reads: Sequence[Read], now: Frame) -> Iterator[Frame]:
    """Frames in order: the given one, those of models that write the answers' format, the others."""
    usual = FORMATS[reads[0].preset.answer_format].frames or FORMATS["qwen-json"].frames
    names = dict.fromkeys([now.name, *(name for name in usual if name in FRAMES), *FRAMES])
    return (FRAMES[name] for name in names)


def _fit(reads: Sequence[Read], frame: Frame, settings: EvaluationSettings) -> float:
    """Mean fit of the answers in a frame, in [0, 1]; 0 if the frame is not applicable."""
    try:
        return float(np.mean([_fit_of_one(read, frame, settings) for read in reads]))
    except (FrameError, SizeError):
        return 0.0


def _fit_of_one(read: Read, frame: Frame, settings: EvaluationSettings) -> float:
    target, processed_wh = read.target, None
    if frame.extent is Extent.PROCESSED:
        processed_wh = read.prediction.processed_wh or settings.processing.size_wh(target.size_wh, frame)
    spoken = FORMATS[read.preset.answer_format].parse(read.prediction.output)
    answer = in_original_pixels(spoken, frame.size_wh(target.size_wh, processed_wh), target.size_wh)
    if answer.points_xy:
        return _share_on_objects(answer, target.boxes_xyxy)
    ious = match_class_agnostic(answer, target).ious
    return sum(ious) / max(1, min(len(answer.boxes_xyxy), len(target.boxes_xyxy)))


def _share_on_objects(answer: Answer, boxes_xyxy: Sequence[Sequence[float]]) -> float:
    hits = [any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes_xyxy) for x, y in answer.points_xy]
    return sum(hits) / len(hits)
