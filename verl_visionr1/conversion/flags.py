"""Options of every converter, and their checks."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

from verl_visionr1.answers import FORMATS
from verl_visionr1.conversion.box_check import MOST_CLIPPED, BoxCheck
from verl_visionr1.conversion.conventions import NAMED, Convention
from verl_visionr1.conversion.identity import Exclusion, read_exclusion
from verl_visionr1.files import RowsError
from verl_visionr1.rewards import PRESETS, TASK_PRESETS
from verl_visionr1.rows import PLACEHOLDERS
from verl_visionr1.settings import choices_of, needs_one_of

DataSource = Annotated[str, "verl's name of the data set, by which it groups validation; may contain {task}."]
Split = Annotated[str, "Name of the split, kept in extra_info; selects the split if the data set has several."]
MaxInstances = Annotated[int, "Most objects per row (counting: largest count); long answers exceed the response."]
ASKABLE = [name for name, answer_format in FORMATS.items() if answer_format.tasks]
"""Formats that a prompt can ask for."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags of every converter; `--help` explains each. A converter gives `data_source` a default of its own."""

    data_source: DataSource
    split: Split = "train"
    limit: Annotated[int | None, "At most this many rows, drawn at random with --seed."] = None
    seed: Annotated[int, "Seed of every random draw; the same seed gives the same file."] = 0
    max_instances: MaxInstances = 30
    negatives: Annotated[
        float | None,
        "Fraction of rows that ask for absent objects; all prompts then allow for that. Default: none if they "
        "have to be drawn, all if the data set has its own.",
    ] = None
    prompt_template: Annotated[
        str | None, "Prompt instead of the package's own; {phrases} is replaced by the requested phrases."
    ] = None
    answer_format: Annotated[
        str | None, f"Answer format that the prompts ask for: {', '.join(ASKABLE)}. Default: that of the task's preset."
    ] = None
    embed: Annotated[bool, "Store the image files in the parquet instead of their paths."] = False
    on_error: Annotated[Literal["fail", "skip"], "At a bad row: stop, or leave it out and list it."] = "fail"
    workers: Annotated[int, "Threads that read images; use more for network disks."] = 1
    to: Annotated[
        Literal["verl", "easyr1", "ms-swift", "trl"],
        "Framework that reads the rows (same ground truth); except for verl, OUT may be .jsonl.",
    ] = "verl"
    hf_images: Annotated[
        bool, "Images as Hugging Face Image features, which verl reads from 0.5 on (decoded early)."
    ] = False
    exclude_image_ids: Annotated[
        Path | None, "List of images to leave out (one per line, or JSON), made by `visionr1 convert exclusion`."
    ] = None
    model: Annotated[
        Path | None, "Folder of the model: counts right answers with its tokenizer instead of an estimate."
    ] = None
    verify_decode: Annotated[bool, "Decode every pixel (slow) instead of reading only the header and the end."] = False

    def __post_init__(self) -> None:
        self._require_choices()
        require_positive("--limit", self.limit)
        require_positive("--workers", self.workers)
        if self.max_instances < 0:
            raise RowsError(f"--max-instances {self.max_instances}: needs at least 0")
        if self.negatives is not None and not 0 <= self.negatives < 1:
            raise RowsError(f"--negatives {self.negatives}: needs a fraction of all rows, from 0 to below 1")
        if self.answer_format is not None and self.answer_format not in ASKABLE:
            raise RowsError(f"--answer-format {self.answer_format}: {needs_one_of(self.answer_format, ASKABLE)}")
        if self.hf_images and self.to != "verl":
            raise RowsError(f"--hf-images with --to {self.to}: is for verl alone; leave it out")
        template = "{phrases}" if self.prompt_template is None else self.prompt_template
        check_template("--prompt-template", template, "phrases", needed=True)
        if any(text in template for text in PLACEHOLDERS):
            raise RowsError(f"--prompt-template {self.prompt_template!r}: leave out <image>; it is put first anyway")
        check_template("--data-source", self.data_source, "task", needed=False)

    def _require_choices(self) -> None:
        """Refuse values outside a field's choices; only the command line has checked them already."""
        for name, choices in _choices_of(type(self)).items():
            given = getattr(self, name)
            if given is not None and given not in choices:
                raise RowsError(f"--{name.replace('_', '-')} {given}: {needs_one_of(given, choices)}")

    @property
    def share_of_negatives(self) -> float | None:
        """The share to which the data set's own negatives are reduced; None: keep all."""
        return self.negatives

    @cached_property
    def excluded(self) -> Exclusion:
        """The images listed in the file `exclude_image_ids`. Raises RowsError if it cannot be read."""
        return read_exclusion(self.exclude_image_ids) if self.exclude_image_ids else Exclusion()

    def format_of(self, task: str) -> str:
        """The answer format that the prompts of a task ask for. Raises RowsError if it cannot answer the task."""
        return checked_format("--answer-format", self.answer_format, task)


@dataclass(frozen=True, kw_only=True)
class BoxFlags(Flags):
    """The flags of converters of boxes; `--help` explains each."""

    box_format: Annotated[str | None, f"Box convention, if it differs from the data set's: {', '.join(NAMED)}."] = None
    max_clipped: Annotated[
        float | None,
        "Share of boxes that may extend outside their image (they are clipped); more is an error. Default: "
        f"{MOST_CLIPPED}.",
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box_format is not None and self.box_format not in NAMED:
            raise RowsError(f"--box-format {self.box_format}: {needs_one_of(self.box_format, NAMED)}")
        if self.max_clipped is not None and not 0 <= self.max_clipped <= 1:
            raise RowsError(f"--max-clipped {self.max_clipped}: needs a share of all boxes, 0 to 1")

    def convention(self, own: str) -> Convention:
        """The box convention: `--box-format`, else that of the data set."""
        return NAMED[self.box_format or own]

    def box_check(self, name: str, convention: Convention, most: float = MOST_CLIPPED) -> BoxCheck:
        """A check whether boxes fit a convention.

        Args:
            name: of the source, for messages.
            most: share of boxes that may extend outside; `--max-clipped` overrides it.
        """
        given = self.max_clipped
        return BoxCheck(name, convention, self.box_format is not None, most if given is None else given)


@cache
def _choices_of(flags_type: type[Flags]) -> dict[str, tuple[str, ...]]:
    """Return the choices of each field that has some. Resolving the annotations takes a millisecond or more."""
    return {name: found for name, hint in get_type_hints(flags_type).items() if (found := choices_of(hint))}


@cache
def checked_format(flag: str, name: str | None, task: str) -> str:
    """Return the named format, else that of the task's preset. Raises RowsError if it cannot answer the task."""
    name = name or PRESETS[TASK_PRESETS[task]].answer_format
    able = [known for known in ASKABLE if task in FORMATS[known].tasks]
    if name not in able:
        raise RowsError(f"{flag} {name}: cannot answer {task}; {needs_one_of(name, able)}")
    return name


def require_positive(flag: str, value: int | None) -> None:
    """Refuse a count below 1, with RowsError; None (flag not given) is accepted."""
    if value is not None and value < 1:
        raise RowsError(f"{flag} {value}: needs at least 1")


def check_template(flag: str, template: str, name: str, *, needed: bool) -> None:
    """Refuse a template with other fields than `name`, with RowsError."""
    try:
        found = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise RowsError(f"{flag} {template!r}: {error}; write {{{{ and }}}} for braces") from None
    if not found <= {name} or (needed and not found):
        raise RowsError(f"{flag} {template!r}: its one field is {{{name}}}; write {{{{ and }}}} for braces")
