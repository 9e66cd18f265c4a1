"""Report on a run: validation before and after, a verdict, alarms, a figure, and the numbers as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from rich.table import Table

from verl_visionr1.files import RowsError, write_whole
from verl_visionr1.tools.runs.alarms import table_of as alarms_of
from verl_visionr1.tools.runs.figure import Curves, draw
from verl_visionr1.tools.runs.steps import (
    ACCURACY,
    BOXES_PER_OBJECT,
    BY_STAGE,
    F1,
    REWARD,
    RunError,
    Step,
    has_box_numbers,
    list_metrics,
    read_steps,
)
from verl_visionr1.tools.runs.validations import (
    LEVEL,
    RESAMPLES,
    Change,
    Interval,
    Section,
    Validation,
    compare,
    dumped_means,
    find_dumps,
    measure,
    read_sources,
    read_validation,
    record_notes,
    validation_folder,
)

FIGURE, NUMBERS = "report.png", "report.json"
_COLORS = {"better": "green", "worse": "red"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run's first and last validation.

    Attributes:
        steps: of both; fewer if fewer are logged.
        sections: one per data source; empty if there is nothing to compare.
    """

    steps: tuple[int, ...]
    sections: Sequence[Section]
    notes: Sequence[str] = field(default_factory=tuple)


def read_validations(run_dir: Path, steps: Sequence[Step]) -> dict[int, Validation]:
    """Read the dumps of the logged validations, by step."""
    dumps = find_dumps(run_dir)
    logged = {step.number: step.validation() for step in steps if step.validation()}
    names = {source for numbers in logged.values() for source in numbers}
    sources = read_sources(run_dir) if len(names) > 1 else {}
    default = next(iter(names)) if len(names) == 1 else ""
    found: dict[int, Validation] = {}
    for number in sorted(logged.keys() & dumps.keys()):
        try:
            found[number] = read_validation(dumps[number], number, sources, default)
        except RowsError:
            continue
    return found


def compare_run(run_dir: Path, steps: Sequence[Step], validations: Mapping[int, Validation]) -> Comparison:
    """Compare the first and last validation of a run, paired by prompt; only means if a dump is missing."""
    logged = [step for step in steps if step.validation()]
    if len(logged) < 2:
        note = f"Nothing to compare: {len(logged)} validations logged; trainer.test_freq sets how often."
        return Comparison(tuple([step.number for step in logged]), (), [note])
    first, last = logged[0], logged[-1]
    numbers = first.number, last.number
    missing = [number for number in numbers if number not in validations]
    if not missing:
        sections = compare(validations[first.number], validations[last.number])
        if sections:
            return Comparison(numbers, sections, [*_notes(sections, steps)])
    folder = validation_folder(run_dir)
    reason = (
        f"no dump of step {' and '.join(map(str, missing))}; set trainer.validation_data_dir"
        if missing
        else f"the dumps of steps {numbers[0]} and {numbers[1]} share no prompt; validate on the same data"
    )
    return Comparison(numbers, compare_means(first, last), [f"No intervals: {folder}: {reason}."])


def compare_means(first: Step, last: Step) -> list[Section]:
    """Compare the logged means of two validations, without intervals."""
    before, after = first.validation(), last.validation()
    is_mixed = len(before) > 1
    sections: list[Section] = []
    for source in (source for source in before if source in after):
        old, new = before[source], after[source]
        both = [key for key in old if key in new]
        metrics = list_metrics(both, has_boxes=has_box_numbers(old) or has_box_numbers(new))
        if is_mixed:  # a criterion that a source's preset lacks is always 0
            metrics = [m for m in metrics if m.key == "reward" or old.get(m.key) or new.get(m.key)]
        metrics = [m for m in metrics if m.key in both]  # without the reward if none was logged
        changes = [Change(m, old[m.key], new[m.key], Interval(new[m.key] - old[m.key])) for m in metrics]
        sections.append(Section(source, None, changes))
    return sections


def _notes(sections: Sequence[Section], steps: Sequence[Step]) -> list[str]:
    names = {change.metric.name for section in sections for change in section.changes}
    judged = ", ".join(name for name in BY_STAGE if name in names)
    notes = list(dict.fromkeys(f"{judged}: {words}." for section in sections if (words := _thresholds(section, steps))))
    if BOXES_PER_OBJECT.name in names:
        notes.append(f"{BOXES_PER_OBJECT.name}: nearer to 1 is better.")
    notes.append(
        f"Intervals: {100 * LEVEL:g} %, {RESAMPLES} bootstrap resamples of the prompts, paired by prompt. "
        "They do not cover how much a run with another seed differs."
    )
    return notes


def _thresholds(section: Section, steps: Sequence[Step]) -> str:
    """Thresholds that a section was scored at; "" if unknown."""
    before, after = section.stages
    if not after:
        return ""
    if before != after or len(after) > 1:
        stages = [" and ".join(str(stage) for stage in sorted(each)) for each in (before, after)]
        return f"scored at stage {stages[0]} before and {stages[1]} after: not comparable"
    (stage,) = after
    same = [step for step in steps if step.training("stage") == stage]
    xi = same[-1].thresholds if same else None
    if xi is None or (section.match_iou is not None and abs(xi[0] - section.match_iou) > 1e-6):
        xi = None if section.match_iou is None else (section.match_iou,)
    values = "" if xi is None else " (" + ", ".join(f"xi{i} {value:g}" for i, value in enumerate(xi)) + ")"
    return f"scored without a schedule{values}" if stage < 0 else f"scored at the thresholds of stage {stage}{values}"


def table_of(comparison: Comparison, section: Section) -> Table:
    """One data source as a table."""
    prompts = "" if section.n is None else f", {section.n} prompts"
    table = Table(title=f"Held-out answers: {section.source}{prompts}", title_justify="left")
    table.add_column("", no_wrap=True)
    before, after = comparison.steps
    for heading in (f"before (step {before})", f"after (step {after})", "change"):
        table.add_column(heading, justify="right")
    has_intervals = section.n is not None
    if has_intervals:
        table.add_column("95 % interval", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    for change in section.changes:
        difference, color = change.difference, _COLORS.get(change.mark)
        cells = [change.metric.name, f"{change.before:.3f}", f"{change.after:.3f}", f"{difference.value:+.3f}"]
        mark = f"[{color}]{change.mark}[/{color}]" if color else change.mark
        interval = format_interval(difference.low, difference.high).replace("[", "\\[")
        table.add_row(*cells, *((interval, mark) if has_intervals else ()))
    return table


def table_of_validation(step: int, source: str, numbers: Mapping[str, Interval]) -> Table:
    """One data source of one validation as a table."""
    table = Table(title=f"Held-out answers: {source}", title_justify="left")
    for heading in ("", f"step {step}", "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, number in numbers.items():
        is_known = number.low is not None and number.high is not None
        interval = format_interval(number.low, number.high).replace("[", "\\[") if is_known else ""
        table.add_row(name, f"{number.value:.3f}", interval)
    return table


def verdicts_of(comparison: Comparison) -> list[str]:
    """One sentence for each data source."""
    is_mixed = len(comparison.sections) > 1
    return [write_verdict(section, names_source=is_mixed) for section in comparison.sections]


def numbers_of(comparison: Comparison, curves: Curves) -> dict[str, Any]:
    """The report as plain values, for `report.json`."""
    verdicts = verdicts_of(comparison)
    return {
        "steps": list(comparison.steps),
        "level": LEVEL,
        "sections": [
            {
                "source": section.source,
                "n_prompts": section.n,
                "outcome": judge_outcome(section),
                "verdict": verdict,
                "metrics": [_plain(change) for change in section.changes],
            }
            for section, verdict in zip(comparison.sections, verdicts, strict=True)
        ],
        "notes": list(comparison.notes),
        "validations": [{"step": step, "sources": sources} for step, sources in curves.items()],
    }


def curves_of(
    steps: Sequence[Step], validations: Mapping[int, Validation]
) -> dict[int, dict[str, dict[str, Interval]]]:
    """Step -> data source -> name of a metric -> its mean: with an interval where there is a dump, else as logged."""
    curves: dict[int, dict[str, dict[str, Interval]]] = {}
    for step in steps:
        if step.number in validations:
            curves[step.number] = measure(validations[step.number])
        elif step.validation():
            sections = compare_means(step, step)
            curves[step.number] = {
                section.source: {change.metric.name: Interval(change.after) for change in section.changes}
                for section in sections
            }
    return curves


def _plain(change: Change) -> dict[str, Any]:
    difference = change.difference
    return {
        **{"metric": change.metric.name, "key": change.metric.key, "before": change.before, "after": change.after},
        **{"difference": difference.value, "low": difference.low, "high": difference.high, "mark": change.mark},
    }


@dataclass(frozen=True, slots=True)
class Report:
    """Output of `report`.

    Attributes:
        tables: one per data source, then the alarms if there were any.
        verdicts: one sentence per data source.
        figure, numbers: files.
    """

    tables: Sequence[Table]
    verdicts: Sequence[str]
    notes: Sequence[str]
    figure: Path
    numbers: Path


def _steps_of(run_dir: Path) -> list[Step]:
    """The run's logged steps; without verl's `file` logger, the means of its validation dumps."""
    try:
        return read_steps(run_dir)
    except RunError:
        means = dumped_means(run_dir)
        if not means:
            raise
    return [
        Step(step, {f"val-aux/{source}/{name}/mean@1": value for source in at for name, value in at[source].items()})
        for step, at in sorted(means.items())
    ]


def report(run_dir: Path) -> Report:
    """Compare a run's first and last validation; writes `run_dir/report.png` and `run_dir/report.json`.

    A single validation is reported alone.

    Raises:
        RunError: no step is logged yet. RowsError: a file that cannot be written.
    """
    steps = _steps_of(run_dir)
    validations = read_validations(run_dir, steps)
    comparison = compare_run(run_dir, steps, validations)
    curves = curves_of(steps, validations)
    tables = [table_of(comparison, section) for section in comparison.sections]
    if len(comparison.steps) == 1:
        ((step, sources),) = curves.items()
        tables = [table_of_validation(step, source, numbers) for source, numbers in sources.items()]
    alarms = alarms_of(steps)
    figure, numbers = run_dir / FIGURE, run_dir / NUMBERS
    write_whole(numbers, msgspec.json.format(msgspec.json.encode(numbers_of(comparison, curves)), indent=1))
    draw(steps, figure, title=run_dir.resolve().name, curves=curves)
    notes = [*record_notes(run_dir), *comparison.notes]
    return Report([*tables, *([alarms] if alarms else [])], verdicts_of(comparison), notes, figure, numbers)


Outcome = Literal["better", "worse", "no change", "reward up, quality down", "unknown"]


def judge_outcome(section: Section) -> Outcome:
    """Judge the change of quality (F1@.5, or accuracy of tasks without boxes) and of the reward."""
    reward, quality = find_change(section, REWARD.key), find_quality(section)
    if reward is None or quality is None or not quality.mark:
        return "unknown"
    if quality.mark == "worse" and reward.mark == "better":
        return "reward up, quality down"
    return "better" if quality.mark == "better" else "worse" if quality.mark == "worse" else "no change"


def write_verdict(section: Section, *, names_source: bool = False) -> str:
    """Write the verdict as a sentence."""
    reward, quality = find_change(section, REWARD.key), find_quality(section)
    where = f" on {section.source}" if names_source else ""
    outcome = judge_outcome(section)
    if quality is None or reward is None:
        return f"Nothing to compare{where}: neither F1@.5 nor accuracy was reported."
    if outcome == "unknown":
        return f"No verdict{where}: without intervals a change cannot be distinguished from noise."
    change, over = format_change(quality), f"over {section.n} prompts"
    if outcome == "reward up, quality down":
        return (
            f"The reward rose while {quality.metric.name} fell{where}: {format_change(reward)}, {change} {over}. "
            "The reward may be gamed; look at the gallery."
        )
    words = {"better": "Held-out answers got better", "worse": "Held-out answers got worse"}
    verdict = f"{words.get(outcome, 'No significant change')}{where}: {change} {over}"
    if quality is not reward and reward.mark in ("better", "worse") and reward.mark != outcome:
        return f"{verdict}, while the reward {'rose' if reward.mark == 'better' else 'fell'}: {format_change(reward)}."
    return f"{verdict}."


def find_quality(section: Section) -> Change | None:
    """The change of the task's metric; of the reward if a dump has nothing else."""
    found = (find_change(section, key) for key in (F1.key, ACCURACY.key, REWARD.key))
    return next((change for change in found if change is not None), None)


def find_change(section: Section, key: str) -> Change | None:
    """The change of one metric."""
    return next((change for change in section.changes if change.metric.key == key), None)


def format_change(change: Change, digits: int = 3) -> str:
    """Format a difference with its interval.

    >>> from verl_visionr1.tools.runs.validations import Interval
    >>> format_change(Change(F1, 0.4, 0.56, Interval(0.16, 0.12, 0.2), "better"), digits=2)
    'F1@.5 +0.16 [0.12, 0.20]'
    """
    difference = change.difference
    interval = format_interval(difference.low, difference.high, digits)
    return f"{change.metric.name} {difference.value:+.{digits}f}" + (f" {interval}" if interval else "")


def format_interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """The ends of an interval; "" where there is none."""
    return "" if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"
