"""What every converter shares: flags, the ledger of bad rows, the writing of rows, the summary, and the command around.

A converter is a script in this folder. It has a dataclass of its own flags on top of `Flags`; a function that makes
rows, gives what is wrong with them to a `Ledger` and hands the good ones to `write_rows`; and a `main` that `run` turns
into its command. coco.py is the example.
"""

from __future__ import annotations

import string
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import Enum
from functools import cached_property
from importlib.metadata import version
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from verl_visionr1.files import RowError, RowsError, write_whole
from verl_visionr1.images import RowImage
from verl_visionr1.rows import PLACEHOLDERS, Row, RowWriter, Written

# ------------------------------------------------------------------------------------------------ flags


class OnError(str, Enum):
    """What to do with a bad row."""

    fail = "fail"
    skip = "skip"


DataSource = Annotated[
    str, typer.Option(help="verl's name of the data set, by which it groups validation; {task} may stand in it.")
]


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags of every converter; `--help` explains each. A converter gives `data_source` a default of its own.

    Raises:
        RowsError: a value out of range, naming the flag.
    """

    data_source: DataSource
    split: Annotated[str, typer.Option(help="Name of the split, kept in extra_info.")] = "train"
    limit: Annotated[int | None, typer.Option(help="At most so many rows, drawn by seed.")] = None
    seed: Annotated[int, typer.Option(help="Of every draw; the same seed gives the same file.")] = 0
    prompt_template: Annotated[
        str | None, typer.Option(help="Prompt instead of the package's own; {phrases} stands for what is asked for.")
    ] = None
    embed: Annotated[
        bool, typer.Option("--embed", help="Store the image files in the parquet instead of their paths.")
    ] = False
    on_error: Annotated[OnError, typer.Option(help="At a bad row: stop, or leave it out, count it and list it.")] = (
        OnError.fail
    )
    shard_rows: Annotated[
        int | None, typer.Option(help="Rows a file: <name>-00000-of-00003.parquet, ... instead of one file.")
    ] = None
    exclude_image_ids: Annotated[
        Path | None, typer.Option(help="File of image ids to leave out (one a line, or a JSON list): test images.")
    ] = None
    verify_decode: Annotated[
        bool, typer.Option("--verify-decode", help="Decode every pixel (slow) instead of reading headers and ends.")
    ] = False

    def __post_init__(self) -> None:
        require_positive("--limit", self.limit)
        _check_template("--prompt-template", self.prompt_template or "{phrases}", "phrases", needed=True)
        if any(text in (self.prompt_template or "") for text in PLACEHOLDERS):
            raise RowsError(f"--prompt-template {self.prompt_template!r}: leave out <image>; it is put first anyway")
        _check_template("--data-source", self.data_source, "task", needed=False)

    @cached_property
    def excluded_ids(self) -> frozenset[str]:
        """What the file of `exclude_image_ids` lists; compare by `normal_image_id`.

        Raises:
            RowsError: the file cannot be read.
        """
        return read_image_ids(self.exclude_image_ids) if self.exclude_image_ids else frozenset()


def require_positive(flag: str, value: int | None) -> None:
    """Refuse a count below 1; None, a flag that was not given, is fine.

    Raises:
        RowsError: naming the flag.
    """
    if value is not None and value < 1:
        raise RowsError(f"{flag} {value}: needs at least 1")


def _check_template(flag: str, template: str, name: str, *, needed: bool) -> None:
    try:
        found = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise RowsError(f"{flag} {template!r}: {error}; write {{{{ and }}}} for braces") from None
    if not found <= {name} or (needed and not found):
        raise RowsError(f"{flag} {template!r}: its one field is {{{name}}}; write {{{{ and }}}} for braces")


def read_image_ids(path: Path) -> frozenset[str]:
    """Image ids to exclude: a JSON list, or text with one id a line (blank lines and # comments do not count).

    Raises:
        RowsError: missing file, or neither of the two.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RowsError(f"--exclude-image-ids {path}: cannot be read: {error}") from None
    if text.lstrip().startswith(("[", "{")):
        try:
            ids = msgspec.json.decode(text, type=list[int | str])
        except msgspec.DecodeError as error:
            raise RowsError(f"--exclude-image-ids {path}: needs a list of ids: {error}") from None
        return frozenset(map(str, ids))
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return frozenset(line for line in lines if line)


def normal_image_id(text: str) -> str:
    """An image id as it is compared: without the zeros that file names have in front.

    >>> normal_image_id("000000000139"), normal_image_id("000"), normal_image_id("0a")
    ('139', '0', '0a')
    """
    return text.lstrip("0") or "0" if text.isdigit() else text


# ------------------------------------------------------------------------------------------------ ledger


@dataclass(slots=True)
class Ledger:
    """What happened to the rows of one conversion: nothing is lost without a line here.

    Attributes:
        fail: raise at the first bad row (else count it and go on).
        skipped: kind of defect -> how many; `listed` holds a line for each.
        left_out: filter asked for by an option -> how many rows or images it took.
        notes: change that lost nothing (a clipped box, a converted image) -> how many.
    """

    fail: bool
    skipped: Counter[str] = field(default_factory=Counter)
    listed: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def skip(self, error: RowError) -> None:
        """Count a bad row and list its message.

        Raises:
            RowError: `error` itself, where the policy is to fail.
        """
        if self.fail:
            raise error
        self.skipped[error.kind] += 1
        self.listed.append(str(error))

    def note_image(self, image: RowImage) -> None:
        """Count what was changed in an image that went into rows, and where the frame of its boxes was a guess."""
        self.notes.update(f"image: {change}" for change in image.changes)
        if image.orientation != 1 and image.stored_wh == image.size_wh:
            self.notes["image turned by EXIF without a change of size: boxes taken as drawn upright"] += 1

    def losses(self) -> str:
        """All that was left out or skipped, in one line: the reason why no row is left."""
        losses = (self.left_out + self.skipped).most_common()
        return ", ".join(f"{count} x {kind}" for kind, count in losses) or "nothing was found"


# ------------------------------------------------------------------------------------------------ writing


@dataclass(frozen=True, slots=True)
class Report:
    """What one conversion did.

    Attributes:
        rows: task -> rows; `negatives`: task -> rows among them whose target is empty.
        objects: objects in a row -> how many rows have so many.
        skipped_list: file with a line for each skipped thing, where there is one.
    """

    written: Written
    rows: Counter[str]
    negatives: Counter[str]
    objects: Counter[int]
    ledger: Ledger
    skipped_list: Path | None


def write_rows(
    rows: Iterable[Row], out: Path, flags: Flags, ledger: Ledger, *, made_by: str, source: Mapping[str, str]
) -> Report:
    """Write rows as they come, and beside them `<name>.skipped.txt`, where the ledger lists what was skipped.

    Args:
        made_by: the converter, as the repository names it; with `source` and `flags` the provenance of the rows.
        source: facts that identify the source files; no paths, or the same data would give other bytes elsewhere.

    Raises:
        RowsError: as `RowWriter`.
    """
    options = {**asdict(flags), "exclude_image_ids": sorted(flags.excluded_ids)}
    made_by = f"{made_by}, verl-visionr1 {version('verl-visionr1')}"
    provenance = {"made_by": made_by, **source, "options": options}
    tasks, negatives, objects = Counter[str](), Counter[str](), Counter[int]()
    with RowWriter(out, embed=flags.embed, provenance=provenance, shard_rows=flags.shard_rows) as writer:
        for row in rows:
            writer.write(row)
            tasks[row.target.task] += 1
            negatives[row.target.task] += not row.target.boxes_xyxy
            objects[len(row.target.boxes_xyxy)] += 1
    assert writer.written is not None
    return Report(writer.written, tasks, negatives, objects, ledger, _list_skipped(out, ledger))


def _list_skipped(out: Path, ledger: Ledger) -> Path | None:
    path = out.with_name(f"{out.stem}.skipped.txt")
    if not ledger.listed:
        path.unlink(missing_ok=True)  # of an earlier run
        return None
    write_whole(path, "".join(f"{line}\n" for line in ledger.listed).encode())
    return path


# ------------------------------------------------------------------------------------------------ command


def run(main: Callable[..., Report]) -> None:
    """Run a converter from the command line: arguments in, summary out; exit code 1 and one line of stderr at an error.

    Args:
        main: its annotated parameters are the command's arguments, its docstring the help. The last one, `flags`, is
            of the converter's own dataclass over `Flags`, whose fields are the command's options.
    """
    typer.run(_command(main))


def _command(main: Callable[..., Report]) -> Callable[..., None]:
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
            print(f"error: {error}{hint}", file=sys.stderr)
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
    """Rows, boxes, objects per row, everything skipped, left out or changed, and where it was written."""
    table = Table("", "rows", "of them empty", title="written", title_justify="left")
    for task, count in sorted(report.rows.items()):
        table.add_row(task, str(count), str(report.negatives[task]))
    console.print(table)
    boxes = sum(number * count for number, count in report.objects.items())
    console.print(f"boxes {boxes}; objects a row: {_histogram(report.objects)}")
    ledger = report.ledger
    counted = {"skipped as bad": ledger.skipped, "left out": ledger.left_out, "noted": ledger.notes}
    lines = [
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


def _histogram(objects: Counter[int]) -> str:
    bins = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 30), (31, sys.maxsize))
    parts = []
    for low, high in bins:
        count = sum(n for number, n in objects.items() if low <= number <= high)
        name = str(low) if low == high else f"{low}+" if high == sys.maxsize else f"{low}-{high}"
        parts += [f"{name}: {count}"] if count else []
    return ", ".join(parts)
