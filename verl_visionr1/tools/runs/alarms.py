"""A run's alarms, from its metrics: when they were on, and what they were about."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from verl_visionr1.tools.runs.metrics import BOXES_PER_OBJECT, F1, REWARD
from verl_visionr1.tools.runs.steps import Step

NUMBERS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "reward_without_f1": ((REWARD.name, REWARD.training_key), (F1.name, F1.training_key)),
    "box_flood": ((BOXES_PER_OBJECT.name, BOXES_PER_OBJECT.training_key),),
    "repetition": (("share of distinct boxes", "distinct_share"),),
    "length_growth": (("tokens an answer", "n_tokens"),),
    "length_collapse": (("tokens an answer", "n_tokens"),),
    "empty_answers": (("share of empty answers", "empty"),),
    "frac_reward_zero_std": (("share of prompts without gradient", "frac_reward_zero_std"),),
    "truncation": (("share of answers cut off", "clipped"),),
    "unscored": (("share of rows without a score", "unscored"),),
}
"""Alarm -> (label, metric) of what it is about."""


@dataclass(frozen=True, slots=True)
class Span:
    """One time that an alarm was on: the first and the last step, and the numbers at these."""

    name: str
    first: Step
    last: Step


def spans_of(steps: Sequence[Step]) -> list[Span]:
    """The alarms of a run, in order of their start. Steps that say nothing of alarms (step 0) do not end one."""
    spans: list[Span] = []
    going: dict[str, int] = {}
    for step in steps:
        if not step.tells_alarms:
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
    """What has started or ended with a step, where those of the step before are known."""
    for name in step.alarms:
        if name not in before:
            yield (
                f"[bold red]ALARM {name}[/bold red] at step {step.number}: {numbers_of(name, step)}"
                "  (the run's log has the command to look)"
            )
    for name in before:
        if step.tells_alarms and name not in step.alarms:
            yield f"alarm {name} has ended at step {step.number}: {numbers_of(name, step)}"


def numbers_of(name: str, step: Step) -> str:
    """What an alarm is about, in the batch of one step."""
    values = [(label, step.training(metric)) for label, metric in NUMBERS.get(name, ())]
    return ", ".join([f"{label} {value:.3g}" for label, value in values if value is not None])


def table_of(steps: Sequence[Step]) -> Table | None:
    """The alarms as a table; None where there was none."""
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
