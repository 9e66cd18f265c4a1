"""Evaluate answers: each data source and task by its own metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from verl_visionr1 import __version__
from verl_visionr1.evaluation.average_precision import MAX_DETS, N_ORDERS
from verl_visionr1.evaluation.reading import Read, read_all
from verl_visionr1.evaluation.records import Evaluation, RowNumbers, Section
from verl_visionr1.evaluation.sections import TASK_FAMILIES, Measurement, rounded
from verl_visionr1.evaluation.settings import EvaluationError, EvaluationSettings, Family
from verl_visionr1.rollouts.bootstrap import LEVEL, Estimate, interval
from verl_visionr1.rollouts.inference import frame_note, sample_of
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Rollout

_CONFIDENCE = {
    "constant": "every box has the same confidence",
    "order": "the i-th of the n boxes of an answer has confidence 1 - i/n, i from 0",
    "logprob": "confidence is sqrt(p_box * p_label), p the geometric mean of the probabilities of their tokens",
}
_STRAY = {
    "drop": "is left out",
    "own": "is a false alarm of its own category, if the data source has it",
    "every": "is a false alarm of its own category, else of all that were asked for",
}


def evaluate(
    rollouts: Iterable[Rollout], judging: Judging, settings: EvaluationSettings | None = None, *, model: str = ""
) -> Evaluation:
    """Evaluate a model's answers.

    Args:
        rollouts: answers of one model, of any tasks and data sources, in any order.
        settings: how they are measured; the report also describes the judging in them.

    Returns:
        Numbers with intervals, tables, correlations of reward and metric, and the numbers of each row.

    Raises:
        EvaluationError: nothing to evaluate, an invalid row, or a metric that applies to no row.
        RewardError: no such preset, or a missing package.
    """
    settings = (settings or EvaluationSettings()).describing(judging)
    reads = read_all(rollouts, judging)
    groups: defaultdict[tuple[str, str], list[Read]] = defaultdict(list)
    for read in reads:
        groups[read.rollout.source, read.target.task].append(read)
    _require_families({task for _, task in groups}, settings)
    measurements = [Measurement(group, settings) for group in groups.values()]
    sections = [_noted(one.section(), one.reads, judging) for one in measurements]
    return Evaluation(
        made_with={"verl-visionr1": __version__, "numpy": np.__version__},
        model=model,
        settings=settings,
        conventions=conventions_of(settings, {family for one in measurements for family in one.families}),
        sections=sections,
        averages=[*_averages(sections)],
        training=training_means(reads),
        rows=[_row(read, one.row_values(i)) for one in measurements for i, read in enumerate(one.reads)],
    )


def _noted(section: Section, reads: Sequence[Read], judging: Judging) -> Section:
    """The section, with a note if its boxes fit another frame."""
    note = frame_note(sample_of(read.rollout for read in reads), judging)
    return msgspec.structs.replace(section, notes=[note, *section.notes]) if note else section


def training_means(reads: Sequence[Read]) -> dict[str, dict[str, float]]:
    """Data source -> metric -> mean, as verl's validation reports it: `val-aux/<source>/<key>/mean@<samples>`.

    The mean over the samples of a prompt, then over prompts; a criterion that a row's preset lacks is 0.
    "reward" is the reward itself, "acc" is verl's `val-core`.
    """
    prompts: defaultdict[str, defaultdict[tuple[str, int], list[dict[str, float]]]]
    prompts = defaultdict(lambda: defaultdict(list))
    for read in reads:
        metrics, (file, row, _) = read.score.metrics, read.key
        numbers = {"reward": read.score.value, "acc": metrics["accuracy"], **metrics}
        prompts[read.rollout.source][file, row].append(numbers)
    return {source: _mean_over_prompts([*groups.values()]) for source, groups in prompts.items()}


def _mean_over_prompts(groups: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, float]:
    names = dict.fromkeys(name for group in groups for one in group for name in one)
    return {
        name: float(np.mean([np.mean([one.get(name, 0.0) for one in group]) for group in groups])) for name in names
    }


def _row(read: Read, measured: dict[str, float | None]) -> RowNumbers:
    file, row, sample = read.key
    return RowNumbers(
        file=file,
        row=row,
        sample=sample,
        uid=read.rollout.uid or read.rollout.where,
        data_source=read.rollout.source,
        task=read.target.task,
        image=read.image,
        preset=read.preset.name,
        reward=read.score.value,
        judged=read.score.metrics,
        measured=measured,
        finish_reason=read.finish_reason,
    )


def _require_families(tasks: set[str], settings: EvaluationSettings) -> None:
    able = {family for task in tasks for family in TASK_FAMILIES[task]}
    for family in settings.metrics:
        if family not in able:
            words = f"it applies to no row; the rows' tasks are {', '.join(sorted(tasks))}"
            raise EvaluationError(f"metrics = {family!r}: {words}")


def _averages(sections: Sequence[Section]) -> Iterable[Section]:
    """For each task with several data sources: the unweighted means of their common metrics (as in ODinW)."""
    for task in dict.fromkeys(section.task for section in sections):
        some = [section for section in sections if section.task == task]
        if len(some) < 2:
            continue
        estimates: dict[str, Estimate] = {}
        draws: dict[str, list[float | None]] = {}
        for name in some[0].estimates:
            if "/" in name or not all(name in one.estimates for one in some):
                continue
            values = np.array([one.estimates[name].value for one in some], dtype=np.float64)
            value = None if np.isnan(values).any() else float(values.mean())
            mean = None
            if all(one.draws.get(name) for one in some):
                mean = np.mean([np.array(one.draws[name], dtype=np.float64) for one in some], axis=0)
                draws[name] = rounded(mean)
            low, high = interval(mean, value, metric=name)
            estimates[name] = Estimate(value=value, low=low, high=high, n=len(some))
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


def conventions_of(settings: EvaluationSettings, families: set[Family]) -> list[str]:
    """List the conventions of the measured metrics."""
    read_as = settings.answer_format or "the answer format of each preset"
    rule = "the strictest stage of the preset" if settings.stage == "final" else "the preset without a schedule"
    found = [
        f"Answers are read by the parser of the reward ({read_as}), in frame {settings.frame}, and converted to "
        "pixels of the original image without clipping. The complete objects of a cut-off answer count.",
        f"reward, F1@50 and mean IoU: as training reports them at validation, at {rule}.",
    ]
    found += [text for family, text in _conventions(settings).items() if family in families]
    if settings.resamples:
        found.append(
            f"Intervals: {LEVEL:.0%}, {settings.resamples} bootstrap resamples of images, percentiles; those of AP are "
            "shifted by the bootstrap's bias; none if only one or two images contribute."
        )
    return found


def _conventions(settings: EvaluationSettings) -> dict[Family, str]:
    edge = "above" if settings.strict_iou else "at or above"
    unread = "left out of MAE and RMSE" if settings.unreadable_count == "exclude" else "a 0 in MAE and RMSE"
    return {
        "ap": f"AP: COCO's, maxDets {', '.join(map(str, MAX_DETS))} per image and category; "
        f"{_CONFIDENCE[settings.confidence]}; boxes of different images with equal confidence rank in random orders: "
        f"AP is the mean over {N_ORDERS} of them, and its interval holds their spread; a box "
        f"whose label its row did not ask for {_STRAY[settings.stray_labels]}; labels are compared without case; "
        "a category is scored on images where it was asked for; "
        "sizes are areas of boxes; regions to ignore are crowds of every category asked for.",
        "nms_ap": "NMS-AP: OVDEval's; of all boxes with IoU above .5 with a true box, of any label, the most "
        "confident is kept.",
        "rec": f"REC: the {settings.which_box} box of the answer, right {edge} the IoU threshold; rows with exactly "
        "one referent.",
        "grec": "GREC: share of rows with F1 = 1 at IoU .5. N-acc: rows without a referent and without a box. T-acc: "
        "rows with a referent and with a box. An unreadable answer does not count as an empty one.",
        "negatives": "false alarms: share of the categories asked for and absent that got a box.",
        "counting": f"Counting: an answer without a count is wrong, and {unread}.",
        "pointing": "Pointing: a point hits in the mask, else in the box; points and objects are paired one to one.",
        "text": "Text: accuracy is that of the preset.",
    }
