"""Check the ground truth and the images of each row: boxes, labels, prompt, token budget, size and orientation."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from verl_visionr1.conversion.tokens import answer_tokens, image_tokens, prompt_tokens
from verl_visionr1.files import RowError
from verl_visionr1.images import EmbeddedImage, read_size
from verl_visionr1.targets import Target, normalize_label
from verl_visionr1.tools.doctor.problems import Problem, Severity
from verl_visionr1.tools.doctor.samples import MAX_SIDE, Sample

ASKS_FOR_NONE = ("none", "no such", "[]", "there is no", "not in the image", "answer 0", "output 0")
"""Words of a prompt that explain how to answer without objects."""
USUAL_PROMPT = 1024
"""`data.max_prompt_length` of the recipes: longer prompts are noted."""
_HEAD = 1 << 16  # bytes at the start and end of a file that identify it


@dataclass(frozen=True, slots=True)
class Scope:
    """What is checked.

    Attributes:
        max_response: `data.max_response_length`.
        max_prompt: `data.max_prompt_length`, image included; None: not known, `USUAL_PROMPT` is noted.
        family: model family whose image tokens are counted.
        images: open the image files (their headers).
        images_dir: folder that the images of foreign files are relative to.
        delegate: data sources (globs) that verl's own reward scores: their ground truth is not checked.
    """

    max_response: int = 1024
    max_prompt: int | None = None
    family: str = "qwen2.5-vl"
    images: bool = True
    images_dir: Path | None = None
    delegate: Sequence[str] = ()


def truth_problems(sample: Sample, scope: Scope) -> Iterator[Problem]:
    """Yield problems of one row's ground truth."""
    for key, boxes in sample.boxes.items() if sample.layout else ():
        yield from _box_problems(sample, key, boxes)
    target = sample.target
    if target is None:
        return
    if max(target.size_wh) >= MAX_SIDE:
        reason = f"size_wh = {str(target.size_wh)[:60]}: no image has it; correct it, or convert it again"
        yield sample.problem("another size", reason)
    if target.task not in ("text", "counting") and not target.n_objects:
        yield from _empty_problems(sample)
    if target.task not in ("counting", "text"):
        yield from _label_problems(sample, target)
    yield from _budget_problems(sample, target, scope)


def _box_problems(sample: Sample, key: str, boxes: Sequence[Sequence[float]]) -> Iterator[Problem]:
    """Yield invalid boxes of a converted row."""
    labels = sample.target.labels if sample.target is not None and key != "ignore_xyxy" else ()
    seen = set()
    for i, box in enumerate(boxes):
        where = f"{key}[{i}] = {[*box]}"
        if not all(map(math.isfinite, box)):
            yield sample.problem("box malformed", f"{where}: needs four finite numbers; correct or remove it")
        elif box[0] > box[2] or box[1] > box[3]:
            yield sample.problem("inverted box", f"{where}: x1 > x2 or y1 > y2; is it x, y, width, height?")
        elif box[0] == box[2] or box[1] == box[3]:
            yield sample.problem("zero-area box", f"{where}: has no area; drop it")
        elif sample.size_wh is not None and _is_outside(box, sample.size_wh):
            is_swapped = not _is_outside(box, sample.size_wh[::-1])
            advice = "are width and height swapped?" if is_swapped else "clip the box or correct the coordinates"
            reason = f"{where}: extends outside the image of {sample.size_wh}; {advice}"
            yield sample.problem("box outside its image", reason)
        named = (box, labels[i] if i < len(labels) else "")
        if named in seen and key != "ignore_xyxy":
            reason = f"{where}: is listed twice, so that one always counts as missed; drop one"
            yield sample.problem("duplicate box", reason, Severity.WARNING)
        seen.add(named)


def _is_outside(box: Sequence[float], size_wh: Sequence[int]) -> bool:
    return min(box[0], box[1]) < -1 or box[2] > size_wh[0] + 1 or box[3] > size_wh[1] + 1


def _empty_problems(sample: Sample) -> Iterator[Problem]:
    prompt = sample.prompt or ""
    if not any(words in prompt.lower() for words in ASKS_FOR_NONE):
        reason = f"the ground truth is empty, but the prompt does not say how to answer that: {prompt[-80:]!r}"
        advice = "convert again with --negatives (the prompts then explain it), or drop the row"
        yield sample.problem("empty truth", f"{reason}; {advice}", Severity.WARNING)


def _label_problems(sample: Sample, target: Target) -> Iterator[Problem]:
    """Yield labels that are not in the prompt: a model cannot know them, and loses reward if labels are compared."""
    prompt = normalize_label(sample.prompt or "")
    for label in dict.fromkeys(target.labels):
        if prompt and normalize_label(label) not in prompt:
            reason = f"label {label!r} is not in the prompt {(sample.prompt or '')[:80]!r}"
            advice = "name it in the prompt, or rename the label"
            yield sample.problem("label not in the prompt", f"{reason}; {advice}", Severity.WARNING)


def _budget_problems(sample: Sample, target: Target, scope: Scope) -> Iterator[Problem]:
    needed = answer_tokens(target)
    if needed > scope.max_response:
        reason = f"the right answer takes about {needed} tokens ({target.n_objects} objects), the response allows"
        advice = "raise data.max_response_length, or convert with a lower --max-instances"
        yield sample.problem("answer too long", f"{reason} {scope.max_response}; {advice}", Severity.WARNING)
    if sample.size_wh is not None:
        limit = scope.max_prompt or USUAL_PROMPT
        image = image_tokens(sample.size_wh, scope.family) * len(sample.images)
        n_tokens = prompt_tokens(sample.prompt or "") + image
        if n_tokens > limit:
            reason = (
                f"the prompt takes about {n_tokens} tokens, {image} of them for the image in {scope.family}: more than"
            )
            advice = "set it higher, or lower max_pixels in data.mm_processor_kwargs"
            severity = Severity.NOTE if scope.max_prompt is None else Severity.ERROR
            reason = f"{reason} data.max_prompt_length={limit} (--max-prompt); {advice}"
            yield sample.problem("prompt too long", reason, severity)


# ---------------------------------------------------------------------------------------------- images


class Seen(NamedTuple):
    """Size, EXIF orientation and digest of an image file, or why it cannot be read."""

    size_wh: tuple[int, int] | None
    orientation: int
    error: RowError | None
    digest: str


def inspect_image(image: str | bytes) -> Seen:
    """Inspect an image, a path or bytes; pixels are not decoded."""
    if isinstance(image, str):
        return _seen_file(image)
    return _seen(EmbeddedImage("embedded image", image), _digest(len(image), image[:_HEAD], image[-_HEAD:]))


@lru_cache(maxsize=200_000)
def _seen_file(path: str) -> Seen:
    try:
        with open(path, "rb") as file:
            head, length = file.read(_HEAD), os.fstat(file.fileno()).st_size
            file.seek(-min(length, _HEAD), os.SEEK_END)
            digest = _digest(length, head, file.read())
    except (OSError, ValueError):  # ValueError: an invalid name
        digest = ""
    return _seen(path, digest)


def _seen(image: str | EmbeddedImage, digest: str) -> Seen:
    try:
        size_wh, orientation = read_size(image)
    except RowError as error:
        return Seen(None, 1, error, digest)
    return Seen(size_wh, orientation, None, digest)


def _digest(length: int, head: bytes, tail: bytes) -> str:
    """Return a digest that is equal only for copies of a file."""
    return hashlib.blake2b(b"%d:%b%b" % (length, head, tail), digest_size=16).hexdigest()


def image_problems(sample: Sample) -> Iterator[Problem]:
    """Yield problems of one row's image files; `parquet` reports the missing ones of converted rows."""
    for i, image in enumerate(sample.images):
        if image is None:
            continue
        name = image if isinstance(image, str) else "embedded image"
        if isinstance(image, str) and not os.path.exists(image):
            if not sample.layout:
                reason = f"image {image[:300]!r}: no such file; check the folder of the images"
                yield sample.problem("no such image", reason)
            continue
        found = inspect_image(image)
        if found.error is not None:
            yield sample.problem(found.error.kind, str(found.error))
        elif found.orientation != 1:
            reason = f"{name}: has EXIF orientation {found.orientation}, which verl ignores; convert the data"
            advice = "with `visionr1 convert`, which writes an upright copy"
            severity = Severity.ERROR if sample.layout else Severity.WARNING
            yield sample.problem("rotated image", f"{reason} {advice}", severity)
        elif i == sample.image_index and sample.size_wh is not None and found.size_wh != sample.size_wh:
            reason = f"{name}: size is {found.size_wh}, but {sample.size_wh} in the row"
            advice = "its boxes are in another frame: convert it again from the images that were annotated"
            if found.size_wh == sample.size_wh[::-1]:
                advice = "width and height are swapped: convert it again with the right ones"
            yield sample.problem("another size", f"{reason}; {advice}")
