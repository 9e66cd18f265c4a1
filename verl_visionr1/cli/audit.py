"""`visionr1 audit`: test whether a reward can be cheated."""

from __future__ import annotations

import json
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verl_visionr1.tools.audit import CHECKS, AuditError, Limits, Report, Subject, TaskReport
from verl_visionr1.tools.audit import audit as run_audit

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
SHOWN = 3


def audit(
    place: Annotated[
        str, typer.Argument(metavar="REWARD", help="a preset, FILE.yaml, pkg.module:function or file.py:function")
    ],
    task: Annotated[
        list[str] | None, typer.Option(help="task (may repeat); default: the preset's tasks, else detection")
    ] = None,
    scene: Annotated[list[str] | None, typer.Option(help="only this scene of the battery (may repeat)")] = None,
    answer_format: Annotated[
        str | None, typer.Option("--format", help="the format to answer in, and for a preset to read")
    ] = None,
    progress: Annotated[float | None, typer.Option(help="score a preset at this fraction of training")] = None,
    ground_truth: Annotated[
        str, typer.Option(help="ground truth for callables: target-json, boxes-json or vlmr1")
    ] = "target-json",
    data_source: Annotated[str, typer.Option(help="data_source for verl's callables")] = "visionr1/audit",
    chat: Annotated[bool, typer.Option("--chat", help="give TRL's callables messages instead of texts")] = False,
    value_range: Annotated[str | None, typer.Option("--range", metavar="LOW,HIGH", help="the reward's range")] = None,
    limit_ms: Annotated[
        float, typer.Option(help="most milliseconds of a call; ten times as many for texts over 20 kB")
    ] = 10.0,
    deadline: Annotated[float, typer.Option(help="seconds until a call counts as hanging")] = 5.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="leave out 10,000 boxes, megabytes of text and towers of powers")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Try to cheat a reward. Exit code 1 if it can be cheated, 2 if it cannot be audited."""
    for name, value in (("limit-ms", limit_ms), ("deadline", deadline)):
        if not value > 0:
            raise AuditError(f"--{name} {value:g}: needs a number above 0")
    subject = Subject(place, answer_format, progress, ground_truth, data_source, chat)
    limits = Limits(limit_ms, _range(value_range))
    report = run_audit(subject, task or (), scenes=scene or (), limits=limits, deadline_s=deadline, is_quick=quick)
    if as_json:
        plain = json.dumps(msgspec.to_builtins(report))
        typer.echo(json.dumps(json.loads(plain, parse_constant=lambda _: None), indent=1))  # JSON has no NaN
    else:
        _show(report, Console())
    if report.failed:
        raise typer.Exit(1)


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise AuditError(f"range = {text!r}: needs the lower and the higher number, for example 0,1 or -1,1")
    return low, high


def _show(report: Report, console: Console) -> None:
    for task in report.tasks:
        console.print(_table(task))
        console.print(
            f"{task.n_probes} completions in {task.answer_format} ({task.form}); rewards {task.lowest:.3g} to "
            f"{task.highest:.3g}; slowest {task.slowest[1]:.1f} ms ({escape(task.slowest[0])})\n",
            highlight=False,
        )
    if report.failed:
        console.print(f"[red]{escape(report.subject)} fails: {', '.join(report.failed)}[/red]", soft_wrap=True)
    else:
        console.print(f"[green]{escape(report.subject)}: nothing found[/green]", soft_wrap=True)


def _table(task: TaskReport) -> Table:
    table = Table(title=f"{task.task} ({task.kind})", title_justify="left", box=None, pad_edge=False)
    for column in ("check", "verdict", "seen"):
        table.add_column(column, overflow="fold", no_wrap=column != "seen")
    for finding in task.findings:
        lines = [escape(line) for line in finding.seen[:SHOWN]]
        if len(finding.seen) > SHOWN:
            lines.append(f"... and {len(finding.seen) - SHOWN} more")
        colour = COLOURS[finding.verdict]
        about = f"[dim]{CHECKS[finding.check].about}[/dim]"
        table.add_row(finding.check, f"[{colour}]{finding.verdict}[/{colour}]", "\n".join([about, *lines]))
    return table
