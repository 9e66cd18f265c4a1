"""The command line around a converter: arguments in, rows out, a summary at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from verl_visionr1.conversion.catalog import CONVERTERS
from verl_visionr1.conversion.converter import Converter
from verl_visionr1.conversion.flags import Flags
from verl_visionr1.conversion.writing import Report, quantiles
from verl_visionr1.files import RowError, RowsError


def command_of(converter: Converter) -> Callable[..., None]:
    """Build the command of a converter for typer. An error prints one line to stderr and exits with code 2."""

    def command(**values: Any) -> None:
        started = time.perf_counter()
        arguments = [values.pop(parameter.name) for parameter in (*converter.sources, _OUT)]
        console = Console()
        try:
            options = converter.options_type(**values)
            report = converter(*arguments, options, show_progress=console.is_terminal)
        except (RowsError, OSError) as error:
            hint = "\n(--on-error skip leaves such rows out and lists them)" if isinstance(error, RowError) else ""
            print(f"error: {error}{hint}", file=sys.stderr)  # noqa: T201 - the command's own message
            raise typer.Exit(2) from None
        print_report(report, time.perf_counter() - started, console)

    summary = f"Convert {CONVERTERS[converter.name]}." if converter.name in CONVERTERS else converter.name
    command.__doc__ = f"""{summary}

    Rows: {", ".join(converter.tasks)}.

    Example: visionr1 convert {converter.name} {converter.example}
    """
    arguments = [_argument(parameter) for parameter in converter.sources]
    # typer reads this signature instead of **values
    command.__signature__ = Signature([*arguments, _OUT, *_options(converter.options_type)])  # pyright: ignore[reportFunctionMemberAccess]
    return command


_OUT = Parameter(
    "out",
    Parameter.POSITIONAL_OR_KEYWORD,
    annotation=Annotated[Path, typer.Argument(help="File to write, <name>.parquet (see --to).", show_default=False)],
)


def _argument(source: Parameter) -> Parameter:
    """Turn a source into a typer argument: its annotation is a type and a line of help."""
    type_, text = get_args(source.annotation)
    return source.replace(annotation=Annotated[type_, typer.Argument(help=text, show_default=False)])


def _options(flags_type: Any) -> list[Parameter]:
    """Return the fields of a dataclass as parameters, the converter's own before the shared ones."""
    hints = get_type_hints(flags_type, include_extras=True)
    shared = {field.name for field in fields(Flags)}
    ordered = sorted(fields(flags_type), key=lambda field: field.name in shared)
    return [_option(field, *get_args(hints[field.name])) for field in ordered]


def _option(field: Field[Any], type_: Any, text: Any) -> Parameter:
    """Turn a field into an option: its annotation is a type and a help line or typer option. Flags have no `--no-`."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(text, str):
        names = [f"--{field.name.replace('_', '-')}"] if default is False else []
        text = typer.Option(*names, help=text, show_default=default != [])
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[type_, text])


def print_report(report: Report, seconds: float, console: Console) -> None:
    """Print rows, objects and tokens per row, what was skipped, left out or changed, and the output files."""
    table = Table("", "rows", "rows without an object", title="rows written", title_justify="left")
    for task, count in sorted(report.rows.items()):
        table.add_row(task, str(count), str(report.negatives[task]))
    console.print(table)
    console.print(_token_table(report))
    objects = sum(number * count for number, count in report.objects.items())
    lines = [f"objects {objects}; objects per row: {_histogram(report.objects)}"]
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
    written = report.written
    lines += [f"{written.rows} rows, {written.size_bytes / 2**20:.1f} MiB, {seconds:.1f} s:", f"  {written.file}"]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _token_table(report: Report) -> Table:
    """What to set `data.max_prompt_length` and `data.max_response_length` by."""
    tokens = report.tokens
    shown = {f"prompt, {family}": counts for family, counts in tokens.prompts.items()}
    shown[f"right answer, {f'by the tokenizer of {tokens.model}' if tokens.model else 'Qwen'}"] = tokens.answers
    table = Table("", "median", "99 %", "max", title="tokens per row, estimated", title_justify="left")
    for name, counts in shown.items():
        table.add_row(name, *map(str, quantiles(counts)))
    return table


def _histogram(objects: Counter[int]) -> str:
    bins = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 30), (31, sys.maxsize))
    parts = []
    for low, high in bins:
        count = sum(n for number, n in objects.items() if low <= number <= high)
        name = str(low) if low == high else f"{low}+" if high == sys.maxsize else f"{low}-{high}"
        parts += [f"{name}: {count}"] if count else []
    return ", ".join(parts)
