"""Report on a run: validation before and after, a verdict, alarms, a figure, and the numbers as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from rich.table import Table

from verl_visionr1.files import write_whole
from verl_visionr1.rollouts.bootstrap import LEVEL, Estimate
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
    read_steps,
)
from verl_visionr1.tools.runs.validations import (
    RESAMPLES,
    Change,
    Section,
    Validation,
    compare,
    find_dumps,
    measure,
    read_validations,
    record_notes,
    validation_folder,
)

FIGURE, NUMBERS = "report.png", "report.json"
_COLORS = {"better": "green", "worse": "red"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run's first and last validation by data source; fewer steps and no sections if there are fewer."""

    steps: tuple[int, ...]
    sections: Sequence[Section]
    notes: Sequence[str]


def compare_run(run_dir: Path, validations: Mapping[int, Validation]) -> Comparison:
    """Compare the first and last validation of a run, paired by prompt; only means if a dump is missing."""
    steps = tuple(sorted({min(validations), max(validations)})) if validations else ()
    if len(steps) < 2:
        logged = f"only step {steps[0]} is validated" if steps else "no validation is logged"
        note = f"No comparison: {logged}; a second validation is needed (trainer.test_freq sets how often)."
        return Comparison(steps, (), [note])
    before, after = (validations[step] for step in steps)
    missing = [str(step) for step in steps if not validations[step].is_dumped]
    sections = [] if missing else compare(before, after)
    if sections:
        return Comparison(steps, sections, _notes(sections))
    reason = (
        f"no dump of step {' and '.join(missing)}; set trainer.validation_data_dir"
        if missing
        else f"the dumps of steps {steps[0]} and {steps[1]} share no prompt; validate on the same data"
    )
    note = f"No intervals: {validation_folder(run_dir)}: {reason}."
    return Comparison(steps, compare(before.averaged(), after.averaged()), [note])


def _notes(sections: Sequence[Section]) -> list[str]:
    names = {change.metric.name for section in sections for change in section.changes}
    judged = ", ".join(name for name in BY_STAGE if name in names)
    notes = list(dict.fromkeys(f"{judged}: {words}." for section in sections if (words := _thresholds(section))))
    if BOXES_PER_OBJECT.name in names:
        notes.append(f"{BOXES_PER_OBJECT.name}: nearer to 1 is better.")
    notes.append(
        f"Intervals: {100 * LEVEL:g} %, {RESAMPLES} bootstrap resamples of the prompts, paired by prompt. "
        "They do not cover how much a run with another seed differs."
    )
    return notes


def _thresholds(section: Section) -> str:
    """Thresholds that a section was scored at; "" if unknown."""
    before, after = (" and ".join(str(stage) for stage in sorted(each)) for each in section.stages)
    if not after:
        return ""
    if before != after or len(section.stages[1]) > 1:
        return f"scored at stage {before} before and {after} after: not comparable"
    xi = "" if section.match_iou is None else f" (xi0 {section.match_iou:g})"
    return f"scored without a schedule{xi}" if after == "-1" else f"scored at the thresholds of stage {after}{xi}"


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
        interval = format_interval(difference).replace("[", "\\[")
        table.add_row(*cells, *((interval, mark) if has_intervals else ()))
    return table


def table_of_validation(step: int, source: str, numbers: Mapping[str, Estimate]) -> Table:
    """One data source of one validation as a table."""
    table = Table(title=f"Held-out answers: {source}", title_justify="left")
    for heading in ("", f"step {step}", "95 % interval"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, number in numbers.items():
        table.add_row(name, f"{number.value:.3f}", format_interval(number).replace("[", "\\["))
    return table


def numbers_of(comparison: Comparison, verdicts: Sequence[str], curves: Curves) -> dict[str, Any]:
    """The report as plain values, for `report.json`."""
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
        "validations": [
            {
                "step": step,
                "sources": {
                    source: {
                        name: {"value": one.value, "low": one.low, "high": one.high} for name, one in numbers.items()
                    }
                    for source, numbers in sources.items()
                },
            }
            for step, sources in curves.items()
        ],
    }


def _plain(change: Change) -> dict[str, Any]:
    difference = change.difference
    return {
        **{"metric": change.metric.name, "key": change.metric.key, "before": change.before, "after": change.after},
        **{"difference": difference.value, "low": difference.low, "high": difference.high, "mark": change.mark},
    }


@dataclass(frozen=True, slots=True)
class Report:
    """A table and a verdict for each data source, the alarms if there were any, and the written files."""

    tables: Sequence[Table]
    verdicts: Sequence[str]
    notes: Sequence[str]
    figure: Path
    numbers: Path


def report(run_dir: Path) -> Report:
    """Compare a run's first and last validation; writes `run_dir/report.png` and `run_dir/report.json`.

    A single validation is reported alone. Without verl's `file` logger, the validation dumps are used.

    Raises:
        RunError: no step is logged yet, and no validation dumped. RowsError: a file that cannot be written.
    """
    try:
        steps = read_steps(run_dir)
    except RunError:
        steps: list[Step] = []
        if not find_dumps(run_dir):
            raise
    validations = read_validations(run_dir, steps)
    comparison = compare_run(run_dir, validations)
    curves = {step: measure(validation) for step, validation in validations.items()}
    tables = [table_of(comparison, section) for section in comparison.sections]
    if len(curves) == 1:
        ((step, sources),) = curves.items()
        tables = [table_of_validation(step, source, numbers) for source, numbers in sources.items()]
    alarms = alarms_of(steps)
    figure, numbers = run_dir / FIGURE, run_dir / NUMBERS
    is_mixed = len(comparison.sections) > 1
    verdicts = [write_verdict(section, names_source=is_mixed) for section in comparison.sections]
    write_whole(numbers, msgspec.json.format(msgspec.json.encode(numbers_of(comparison, verdicts, curves)), indent=1))
    draw(steps, figure, title=run_dir.resolve().name, curves=curves)
    notes = [*record_notes(run_dir), *comparison.notes]
    return Report([*tables, *([alarms] if alarms else [])], verdicts, notes, figure, numbers)


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

    >>> format_change(Change(F1, 0.4, 0.56, Estimate(value=0.16, low=0.12, high=0.2), "better"), digits=2)
    'F1@.5 +0.16 [0.12, 0.20]'
    """
    interval = format_interval(change.difference, digits)
    return f"{change.metric.name} {change.difference.value:+.{digits}f}" + (f" {interval}" if interval else "")


def format_interval(number: Estimate, digits: int = 3) -> str:
    """The ends of an interval; "" where there is none."""
    if number.low is None or number.high is None:
        return ""
    return f"[{number.low:.{digits}f}, {number.high:.{digits}f}]"
