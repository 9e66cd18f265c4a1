"""Vision-R1's own training data (JefferyZhan/Vision-R1-Data) -> parquet rows for verl: detection and grounding.

    visionr1 convert vision_r1 Vision-R1-Data vision_r1.parquet

Reads the .parquet files of the Hugging Face data set, or the .arrow files of `save_to_disk`: one file, or a folder of
them. Columns: `image` (bytes), `problem`, `solution` (JSON text `[["person", [[x1, y1, x2, y2],
...]], ...]`, pixels of the original image), `width`, `height`, `num_instances`, `target_id_maps` (JSON text
`{"person": 1, ...}`).

A problem has one of Griffon's three wordings, or one of Vision-R1's rewritings for Qwen. Its category list (detection)
or phrase (grounding) is extracted, and asked for in our wording. Categories are split at commas and a last "and"; if
`target_id_maps` or the solution name a category outside that list, their names are used instead. Rows without instances
are kept, and all prompts explain how to answer them; `--negatives 0` leaves them out, as upstream does.
`--max-instances 30` is upstream's filter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import BoxFlags, DataSource
from verl_visionr1.conversion.identity import path_name
from verl_visionr1.conversion.image_files import embedded_image
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.records.fields import boxes_of
from verl_visionr1.conversion.records.solutions import KeepPrompts, without_images
from verl_visionr1.conversion.sources import files_of, read_records
from verl_visionr1.conversion.values import size_of
from verl_visionr1.files import RowError
from verl_visionr1.targets import normalize_label

LISTS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"Examine the image for any objects from the category set\. Report the coordinates of each detected object\. "
        r"The category set includes (.+)",
        r"Locate every item from the category list in the image and output the coordinates in JSON format\. "
        r"The category set includes (.+)",
        r"Locate every instance that belongs to the following categories: '(.+)'\. "
        r"Report bbox coordinates in JSON format\.",
    )
)
"""Questions with a category list: Griffon's wording, and the two replacements for Qwen."""
PHRASES = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"Can you point out (.+) in the image and provide the coordinates of its location\?",
        r"Locate the exact position of (.+) in the picture, if you can\.",
        r"Locate every (.+) in the image and output the coordinates in JSON format\.",
    )
)
"""Questions with one phrase: Griffon's two wordings, and the replacement for Qwen."""


@dataclass(frozen=True, kw_only=True)
class Options(BoxFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/vision_r1_{task}"
    keep_prompts: KeepPrompts = False
    images_dir: Annotated[Path | None, "Folder of the images, if the rows have paths instead of bytes."] = None


def _items(where: str, record: Mapping[str, Any], options: Options, ledger: Ledger) -> Iterator[Item]:
    problem = record.get("problem")
    if not isinstance(problem, str) or not problem.strip():
        raise RowError("no problem", f"{where}: problem is {problem!r}: needs a text; correct or remove the row")
    problem = without_images(problem)
    pairs: list[tuple[str, Any]] = _decoded(where, "solution", record.get("solution"), list[tuple[str, Any]])
    solution = [(label, boxes_of(boxes, f"{where}: solution of {label!r}") or []) for label, boxes in pairs]
    ids = _decoded(where, "target_id_maps", record.get("target_id_maps") or {}, dict[str, int])
    task, phrases = _parse_problem(where, problem, [label for label, _ in solution], ids, options, ledger)
    labels = [it for label, boxes in solution for it in [_label(where, label, task, phrases, ledger)] * len(boxes)]
    written = options.convention("xyxy-abs")
    boxes = [written.as_corners(box) for _, some in solution for box in some]
    if record.get("num_instances") not in (None, len(boxes)):
        ledger.notes["num_instances differs from the number of boxes: boxes used"] += 1
    image = record.get("image")
    name = image.get("path") if isinstance(image, dict) else image
    yield Item(
        where=where,
        image=embedded_image(image, where, options.images_dir),
        task=task,
        phrases=phrases,
        prompt=problem if options.keep_prompts else None,
        annotated_wh=size_of(record.get("width"), record.get("height"), where),
        written=written,
        boxes_xyxy=boxes,
        labels=labels,
        image_id=Path(path_name(name)).stem if isinstance(name, str) else "",
        file_name=name if isinstance(name, str) else "",
        source_ann={"entry": where},
    )


def _parse_problem(
    where: str, problem: str, labels: Sequence[str], ids: Mapping[str, int], options: Options, ledger: Ledger
) -> tuple[str, tuple[str, ...]]:
    """Return the task, and the category list or the one phrase."""
    known = sorted(ids, key=lambda name: ids[name])
    for wording in LISTS:
        if (found := wording.fullmatch(problem)) and found[1].strip():
            return "detection", _categories(where, found[1].strip(), [*known, *labels], ledger)
    for wording in PHRASES:
        if (found := wording.fullmatch(problem)) and found[1].strip():
            return "grounding", (found[1].strip(),)
    if options.keep_prompts and known:
        return "detection" if len(known) > 1 else "grounding", tuple(known)
    advice = "correct it, or keep it with --keep-prompts (then the categories are those of target_id_maps)"
    raise RowError("unknown wording", f"{where}: problem {problem[:120]!r} has none of the known wordings; {advice}")


def split_list(listed: str) -> list[str]:
    """Split a list in words into names.

    >>> split_list("person, traffic light and dog.")
    ['person', 'traffic light', 'dog']
    """
    *names, last = listed.removesuffix(".").split(",")
    first, is_list, second = last.rpartition(" and ") if not last.startswith(" and ") else ("", "", last[5:])
    names += [first, second] if is_list else [second]
    return [name.strip() for name in names if name.strip()]


def _categories(where: str, listed: str, named: Sequence[str], ledger: Ledger) -> tuple[str, ...]:
    """Return the category list of the problem, unless its split cuts a known name."""
    names = list(dict.fromkeys(split_list(listed)))
    known = {normalize_label(name) for name in names}
    if all(normalize_label(name) in known for name in named):
        return tuple(names)
    apart = [name.strip() for name in listed.removesuffix(".").split(",")]  # "bow and arrow" at the end
    if all(normalize_label(name) in set(map(normalize_label, apart)) for name in named):
        return tuple(dict.fromkeys(apart))
    missing = next(name for name in named if normalize_label(name) not in known)
    if normalize_label(missing) not in normalize_label(listed):
        reason = f"{missing!r} is in solution or target_id_maps, but not in the category list {listed[:120]!r}"
        raise RowError("category not asked for", f"{where}: {reason}; correct it")
    ledger.notes["category list with commas inside names: names of target_id_maps used"] += 1
    once: dict[str, str] = {}
    for name in named:
        once.setdefault(normalize_label(name), name)
    return tuple(once.values())


def _label(where: str, label: str, task: str, phrases: Sequence[str], ledger: Ledger) -> str:
    """Return a label as spelled in the prompt."""
    for phrase in phrases:
        if normalize_label(phrase) == normalize_label(label):
            return phrase
    if task == "grounding":
        ledger.notes["label that differs from the phrase of the prompt: phrase used"] += 1
        return phrases[0]
    reason = f"solution has label {label!r}, which is not in the problem"
    raise RowError("category not asked for", f"{where}: {reason}; correct it")


def _decoded(where: str, column: str, value: Any, type: Any) -> Any:
    """Decode a column with JSON text, or check the decoded value."""
    try:
        return msgspec.json.decode(value, type=type) if isinstance(value, str) else msgspec.convert(value, type)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise RowError("malformed entry", f"{where}: {column} {str(value)[:80]!r}: {error}; correct it") from None


@converter("detection", "grounding", example="Vision-R1-Data vision_r1.parquet --negatives 0")
def convert(
    source: Annotated[Path, "A .parquet or .arrow file, or their folder."], options: Options, ledger: Ledger
) -> Reading:
    """The rows of the data set's files."""
    files = files_of(source, (".parquet", ".arrow"), options.split)
    entries = ((where, record, options, ledger) for path in files for where, record in read_records(path))
    return Reading(items=ledger.each(_items, entries), files=files, allow_none=options.negatives != 0)
