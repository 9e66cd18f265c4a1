"""The command line around a converter: arguments in, rows out, a summary at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, fields
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from verl_visionr1.conversion.flags import Flags
from verl_visionr1.conversion.writing import Report, quantiles
from verl_visionr1.files import RowError, RowsError


def run(main: Callable[..., Report]) -> None:
    """Run a converter from the command line; exit code 1 and one line of stderr at an error.

    Args:
        main: its annotated parameters are the command's arguments, its docstring the help. The last one, `flags`, is
            of the converter's own dataclass over `Flags`, whose fields are the command's options.
    """
    typer.run(command_of(main))


def command_of(main: Callable[..., Report]) -> Callable[..., None]:
    """What `run` runs: a function whose parameters typer reads."""
    parameters = dict(signature(main).parameters)
    hints = get_type_hints(main, include_extras=True)
    flags_type = hints[parameters.pop("flags").name]
    arguments = [parameter.replace(annotation=hints[name]) for name, parameter in parameters.items()]

    def command(**values: Any) -> None:
        started = time.perf_counter()
        given = {name: values[name] for name in parameters}
        try:
            report = main(**given, flags=flags_type(**{k: v for k, v in values.items() if k not in given}))
        except RowsError as error:
            hint = "\n(--on-error skip leaves such rows out and lists them)" if isinstance(error, RowError) else ""
            print(f"error: {error}{hint}", file=sys.stderr)  # noqa: T201 - the command's own message
            raise typer.Exit(1) from None
        print_report(report, time.perf_counter() - started, Console())

    command.__doc__ = main.__doc__
    # what typer reads instead of **values
    command.__signature__ = Signature(arguments + _options(flags_type))  # pyright: ignore[reportFunctionMemberAccess]
    return command


def _options(flags_type: type[Flags]) -> list[Parameter]:
    """The fields of a dataclass as parameters; the converter's own before those that all share."""
    hints = get_type_hints(flags_type, include_extras=True)
    shared = {field.name for field in fields(Flags)}
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=field.default if field.default_factory is MISSING else field.default_factory(),
            annotation=hints[field.name],
        )
        for field in sorted(fields(flags_type), key=lambda field: field.name in shared)
    ]


def print_report(report: Report, seconds: float, console: Console) -> None:
    """Rows, objects and tokens a row, everything skipped, left out or changed, and where it was written."""
    table = Table("", "rows", "rows without an object", title="written", title_justify="left")
    for task, count in sorted(report.rows.items()):
        table.add_row(task, str(count), str(report.negatives[task]))
    console.print(table)
    objects = sum(number * count for number, count in report.objects.items())
    lines = [f"objects {objects}; objects a row: {_histogram(report.objects)}", *_token_lines(report)]
    ledger = report.ledger
    counted = {"skipped as bad": ledger.skipped, "left out": ledger.left_out, "noted": ledger.notes}
    lines += [
        f"{title}: {count} x {kind}"
        for title, counts in counted.items()
        for kind, count in counts.most_common()
        if count
    ]
    lines += [f"  {line}" for line in ledger.listed[:10]]
    if report.skipped_list is not None:
        lines.append(f"all {len(ledger.listed)} skipped: {report.skipped_list}")
    lines.append(f"{report.written.rows} rows, {report.written.size_bytes / 2**20:.1f} MiB, {seconds:.1f} s:")
    lines += [f"  {file}" for file in report.written.files]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _token_lines(report: Report) -> list[str]:
    """What to set `data.max_prompt_length` and `data.max_response_length` by."""
    shown = {f"prompt, {family}": counts for family, counts in report.tokens.prompts.items()}
    answers, model = report.tokens.answers, report.tokens.model
    if not model:
        shown["right answer"] = answers
    parts = ["{}: {} / {} / {}".format(name, *quantiles(counts)) for name, counts in shown.items()]
    lines = [f"tokens a row, estimated (median / 99 % / most): {'; '.join(parts)}"]
    if model:
        lines.append(
            f"tokens of a right answer by the tokenizer of {model}: {min(answers)} to {max(answers)} "
            "(median {} / 99 % {}); data.max_response_length has to hold the most".format(*quantiles(answers))
        )
    return lines


def _histogram(objects: Counter[int]) -> str:
    bins = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 30), (31, sys.maxsize))
    parts = []
    for low, high in bins:
        count = sum(n for number, n in objects.items() if low <= number <= high)
        name = str(low) if low == high else f"{low}+" if high == sys.maxsize else f"{low}-{high}"
        parts += [f"{name}: {count}"] if count else []
    return ", ".join(parts)
