"""The declaration of a converter, from which the command line, the reader and the writer are made.

@converter("detection", "grounding", example="instances.json out.parquet")
def convert(annotations: Annotated[Path, "COCO json."], options: Options, ledger: Ledger) -> Reading: ...

convert(Path("instances.json"), Path("out.parquet"), Options(limit=100))     # from Python
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, get_type_hints

from verl_visionr1.conversion.flags import Flags
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import sha256_of
from verl_visionr1.conversion.writing import Report, write_items
from verl_visionr1.files import RowsError
from verl_visionr1.rows import METADATA_KEY, schema_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a reader returns.

    Attributes:
        items: future rows, with those of one image in succession; a generator reads while rows are written.
        files: the files read; their digest is part of the provenance of the rows.
        name: of the source, in the provenance; by default the names of the files. Never a path, so that the same data
            gives the same bytes on every machine.
        facts: further entries of the provenance.
        allow_none: some row asks for absent objects; every prompt then explains how to answer that.
        total: number of items, if known.
    """

    items: Iterable[Item]
    files: Sequence[Path]
    name: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    allow_none: bool = False
    total: int | None = None


@dataclass(frozen=True)
class Converter:
    """A converter of one family of data sets; call it with its sources, the file to write and options.

    Args:
        name: of its command, its script and its module in `datasets`.
        read: makes a `Reading` of the sources. Its parameters are the sources, annotated with a type and a line of
            help, then `options` (a dataclass over `Flags`) and `ledger`.
        tasks: tasks that its rows can have.
        example: arguments of the command, for its help.

    Raises:
        RowsError: at a call: a bad source, option or disk. RowError: a bad row, with `on_error="fail"`.
    """

    name: str
    read: Callable[..., Reading]
    tasks: tuple[str, ...]
    example: str

    def __call__(self, *arguments: Any, **named: Any) -> Report:
        """Convert the sources: `convert(*sources, out, options=None, show_progress=False)`."""
        given = self._signature.bind(*arguments, **named).arguments
        out, options = given.pop("out"), given.pop("options", None) or self.options_type()
        show_progress = given.pop("show_progress", False)
        ledger = Ledger(fail=options.on_error == "fail")
        reading = self.read(**given, options=options, ledger=ledger)
        if os.path.abspath(out) in map(os.path.abspath, reading.files):
            raise RowsError(f"{out}: is a source; name another file to write")
        if _is_foreign(Path(out)):  # perhaps the last source, and OUT was forgotten
            raise RowsError(f"{out}: is a parquet that visionr1 did not write; name another file, or remove it")
        name = reading.name or ", ".join(path.name for path in reading.files)
        return write_items(
            reading.items,
            out,
            options,
            ledger,
            made_by=f"visionr1 convert {self.name}",
            source={"source": name, "source_sha256": sha256_of(reading.files), **reading.facts},
            allow_none=reading.allow_none,
            total=reading.total,
            show_progress=show_progress,
        )

    @cached_property
    def sources(self) -> tuple[Parameter, ...]:
        """The sources, as annotated parameters."""
        hints = get_type_hints(self.read, include_extras=True)
        names = [name for name in signature(self.read).parameters if name not in ("options", "ledger")]
        return tuple(Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=hints[name]) for name in names)

    @cached_property
    def options_type(self) -> Callable[..., Flags]:
        """The dataclass of its options; every field has a default."""
        return get_type_hints(self.read)["options"]

    @cached_property
    def _signature(self) -> Signature:
        out, options = (Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("out", "options"))
        show_progress = Parameter("show_progress", Parameter.KEYWORD_ONLY, default=False)
        return Signature([*self.sources, out, options.replace(default=None), show_progress])


def _is_foreign(out: Path) -> bool:
    """Whether a file is a parquet without the metadata of `write_rows`."""
    with suppress(RowsError):  # missing, or not a parquet
        return out.suffix == ".parquet" and METADATA_KEY not in (schema_of(out).metadata or {})
    return False


def converter(*tasks: str, example: str) -> Callable[[Callable[..., Reading]], Converter]:
    """Turn a reader function into a `Converter`, named after its module.

    Args:
        tasks, example: as in `Converter`.
    """
    return lambda read: Converter(read.__module__.rpartition(".")[2], read, tasks, example)
