"""Right answers as other frameworks write them into a text: boxes, points or words.

They come as JSON in a fence or not, as Python literals (Visual-RFT), in `<answer>` tags, in a model's own notation
(`notations`), or as "None"; coordinates that cannot be read are never words. Nothing is evaluated: literals are read by
`ast.literal_eval`, up to `MAX_CHARS`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from verl_visionr1.conversion.records.notations import read_notation, refuse_places
from verl_visionr1.conversion.values import numbers_of
from verl_visionr1.files import RowError

KeepPrompts = Annotated[bool, "Ask in the data set's own words, to the letter, instead of the package's."]
MAX_CHARS = 100_000
"""Of one answer; no right answer is as long."""
NOTHING = ("none", "no objects", "no object", "[]")
"""How an answer says that nothing is there; compared without case and a full stop."""
BOX_KEYS = ("bbox_2d", "bbox", "box", "Position", "position")
"""Keys that boxes have in objects."""
POINT_KEYS = ("point_2d", "point")
"""Keys that points have in objects."""
LABEL_KEYS = ("label", "category_name", "category", "name")
"""Keys that labels have in objects."""

_FENCE = "```"
_MARK = re.compile(r"(?:(?<=\s)|(?<![\s\S]))\(?([A-Z])[.):]\s+")
_FORMAT = re.compile(r"\s*(?:First output|Output|Please write) (?:the|your) thinking process\b.*", re.DOTALL)
_MEDIA = re.compile(r"\s*<(?:image|video|audio)>\s*")


class Solution(NamedTuple):
    """What an answer says.

    Attributes:
        boxes: four numbers each, in whatever frame the framework uses; None: it speaks of no boxes.
        labels: one a box or point; empty where it gives none.
        points: two numbers each; None: it speaks of no points.
        text: the answer without tags and fences.
    """

    boxes: list[list[float]] | None
    labels: list[str]
    points: list[list[float]] | None
    text: str

    @property
    def says_none(self) -> bool:
        """Whether it says that nothing is there."""
        return self.text.lower().rstrip(".") in NOTHING


def read_solution(value: Any, where: str) -> Solution:
    """An answer, as text or already decoded.

    Raises:
        RowError: empty, too long, or boxes that cannot be read.

    >>> read_solution("<answer>[{'Position': [1, 2, 3, 4], 'Confidence': 1}]</answer>", "row 1").boxes
    [[1.0, 2.0, 3.0, 4.0]]
    >>> read_solution("<answer> 3 </answer>", "row 1")
    Solution(boxes=None, labels=[], points=None, text='3')
    >>> read_solution("None", "row 1").boxes
    []
    """
    if isinstance(value, list | tuple | Mapping):
        return _structured(value, str(value), where)
    written = "" if value is None else str(value)
    if len(written) > MAX_CHARS:
        raise RowError(
            "answer too long", f"{where}: an answer of {len(written)} characters; correct or remove the entry"
        )
    text = without_tags(written)
    if not text:
        needed = "needs a right answer, [] where what is asked for is not in the image"
        raise RowError("no answer", f"{where}: the answer is {value!r}: {needed}; correct or remove the entry")
    if text.lower().rstrip(".") in NOTHING:
        return Solution([], [], None, text)
    data = _decoded(text) if text[0] in "[{" else None
    if isinstance(data, list | tuple | Mapping):
        return _structured(data, text, where)
    noted = read_notation(text, where)
    return Solution(None, [], None, text) if noted is None else Solution(noted.boxes, noted.labels, None, text)


def without_tags(text: str) -> str:
    """A text without `<answer>` tags (the last pair counts) and without a fence around it.

    >>> without_tags("<answer> ```json\\n[]\\n``` </answer>")
    '[]'
    """
    before, closed, _ = text.rpartition("</answer>")
    if closed and "<answer>" in before:
        text = before.rpartition("<answer>")[2]
    text = text.strip()
    if len(text) >= 2 * len(_FENCE) and text.startswith(_FENCE) and text.endswith(_FENCE):
        text = text.strip("`").removeprefix("json").strip()
    return text


def without_format(question: str) -> str:
    """A question without a framework's words on how to answer, and without placeholders of images.

    >>> without_format("<image>\\nWhat is it?  Output the thinking process in <think> </think> and ...")
    'What is it?'
    """
    return _FORMAT.sub("", _MEDIA.sub(" ", question)).strip()


def without_images(question: str) -> str:
    """A question without placeholders of images.

    >>> without_images("<image>\\nWhat is it?")
    'What is it?'
    """
    return _MEDIA.sub(" ", question).strip()


def options_of(question: str) -> tuple[str, ...]:
    """The options of a multiple-choice question, marked A, B, ... ("A. ", "(A) ", "A) " or "A: "); () for none.

    >>> options_of("What is it?\\nA. a cat\\nB. a dog\\nAnswer with the letter.")
    ('a cat', 'a dog')
    >>> options_of("Is plan A. good?")
    ()
    """
    marks = list(_MARK.finditer(question))
    starts = [i for i, mark in enumerate(marks) if mark[1] == "A"]
    if not starts:
        return ()
    run = [marks[starts[-1]]]
    run += [m for i, m in enumerate(marks[starts[-1] + 1 :], 1) if m[1] == chr(ord("A") + i)]
    ends = [mark.start() for mark in run[1:]] + [len(question)]
    texts = [question[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True)]
    texts = [*texts[:-1], texts[-1].partition("\n")[0].strip()]
    is_sound = len(run) >= 2 and all(texts) and len(set(texts)) == len(texts)
    return tuple(text.rstrip(",;") for text in texts) if is_sound else ()


def decoded_text(value: Any) -> Any:
    """What a text holds that is a list or an object, as tables hold them; anything else as it is.

    >>> decoded_text("[1, 2]"), decoded_text("a cat"), decoded_text(None)
    ([1, 2], 'a cat', None)
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")) or len(value) > MAX_CHARS:
        return value
    data = _decoded(value.strip())
    return value if data is None else data


# ---------------------------------------------------------------------------------------------- inside


def _decoded(text: str) -> Any:
    """JSON, or else a Python literal; None for neither."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _structured(data: Any, text: str, where: str) -> Solution:
    """Boxes or points of a decoded answer; what holds neither is words (a pair of numbers may be an interval)."""
    objects = [data] if isinstance(data, Mapping) or _is_numbers(data) else list(data) if _is_list(data) else []
    if objects and all(isinstance(it, Mapping) for it in objects) and any(map(_has_place, objects)):
        return _of_objects(objects, where, text)
    if objects and all(_is_numbers(it) and len(it) == 4 for it in objects):
        return Solution([numbers_of(it, 4, where, texts=True) for it in objects], [], None, text)
    refuse_places(text, where)
    return Solution([] if _is_list(data) and not data else None, [], None, text)


def _has_place(record: Mapping[str, Any]) -> bool:
    return _first(record, BOX_KEYS + POINT_KEYS) is not None


def _of_objects(objects: Sequence[Mapping[str, Any]], where: str, text: str) -> Solution:
    boxes = [_first(it, BOX_KEYS) for it in objects]
    points = [_first(it, POINT_KEYS) for it in objects]
    labels = [_first(it, LABEL_KEYS) for it in objects]
    kept = [label for label in labels if isinstance(label, str) and label.strip()]
    if kept and len(kept) != len(objects):
        number = next(i for i, label in enumerate(labels) if label not in kept)
        raise RowError(
            "label missing", f"{where}: object {number} of the answer has label {labels[number]!r}; correct it"
        )
    return Solution(boxes=_all_numbers(boxes, 4, where), labels=kept, points=_all_numbers(points, 2, where), text=text)


def _all_numbers(values: Sequence[Any], size: int, where: str) -> list[list[float]] | None:
    return (
        None
        if all(value is None for value in values)
        else [numbers_of(value, size, where, {2: "point", 4: "box"}[size], texts=True) for value in values]
    )


def _first(record: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((record[key] for key in keys if record.get(key) is not None), None)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_numbers(value: Any) -> bool:
    return _is_list(value) and bool(value) and all(isinstance(v, int | float) for v in value)
