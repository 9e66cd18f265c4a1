"""A run's alarms from its metrics: when they were on, with their numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from verl_visionr1.alarms import ALARMS
from verl_visionr1.tools.runs.steps import Step

_LOGGED = {"f1": "f1_50", "boxes_per_object": "boxes_per_target"}
"""Number of an alarm -> its name in training metrics, if different."""


@dataclass(frozen=True, slots=True)
class Span:
    """A period in which an alarm was on: first and last step, with their numbers."""

    name: str
    first: Step
    last: Step


def spans_of(steps: Sequence[Step]) -> list[Span]:
    """The alarms of a run, in order of their start. Steps without alarm metrics (step 0) do not end one."""
    spans: list[Span] = []
    going: dict[str, int] = {}
    for step in steps:
        if not step.has_alarm_metrics:
            continue
        going = {name: at for name, at in going.items() if name in step.alarms}
        for name in step.alarms:
            if name in going:
                spans[going[name]] = replace(spans[going[name]], last=step)
            else:
                going[name] = len(spans)
                spans.append(Span(name, step, step))
    return spans


def lines_of(step: Step, before: Collection[str]) -> Iterator[str]:
    """Lines for alarms that started or ended with a step; `before`: alarms of the step before."""
    for name in step.alarms:
        if name not in before:
            yield (
                f"[bold red]ALARM {name}[/bold red] at step {step.number}: {numbers_of(name, step)}"
                "  (commands to inspect it are in the run's log)"
            )
    for name in before:
        if step.has_alarm_metrics and name not in step.alarms:
            yield f"alarm {name} has ended at step {step.number}: {numbers_of(name, step)}"


def numbers_of(name: str, step: Step) -> str:
    """The numbers of an alarm in the batch of one step."""
    alarm = ALARMS.get(name)  # None: from another release
    wanted = [] if alarm is None else [(alarm.label, _LOGGED.get(alarm.number, alarm.number))]
    if name == "reward_without_f1":
        wanted.insert(0, ("reward", "value"))
    values = [(label, step.training(metric)) for label, metric in wanted]
    return ", ".join([f"{label} {value:.3g}" for label, value in values if value is not None])


def table_of(steps: Sequence[Step]) -> Table | None:
    """The alarms as a table; None if there was none."""
    spans = spans_of(steps)
    if not spans:
        return None
    table = Table(title="Alarms in training", title_justify="left")
    for heading in ("", "from step", "to step", "at its start", "at its end"):
        table.add_column(heading, justify="right" if heading.endswith(" step") else "left")
    last = max(step.number for step in steps)
    for span in spans:
        until = "(still on)" if span.last.number == last else str(span.last.number)
        numbers = [numbers_of(span.name, step) for step in (span.first, span.last)]
        table.add_row(span.name, str(span.first.number), until, *numbers)
    return table
