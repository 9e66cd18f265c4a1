"""Read right answers that other frameworks write as text: boxes, points or words.

Accepted are JSON with or without a fence, Python literals (`ast.literal_eval`), `<answer>` tags, a model's own notation
(boxes between special tokens), and "None". Unreadable coordinates are an error, never words.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from verl_visionr1.answers import Answer, parse_glm, parse_griffon, parse_internvl, parse_qwen2_vl
from verl_visionr1.conversion.values import numbers_of
from verl_visionr1.files import RowError

KeepPrompts = Annotated[bool, "Use the data set's exact prompts instead of the package's."]
MAX_CHARS = 100_000
"""Longest answer that is read; right answers are shorter."""
_NOTHING = ("none", "no objects", "no object", "[]")
_BOX_KEYS = ("bbox_2d", "bbox", "box", "Position", "position")
_POINT_KEYS = ("point_2d", "point")
_LABEL_KEYS = ("label", "category_name", "category", "name")
_ADVICE = "correct or remove the entry"

_NUMBER = r"\s{0,8}[-+]?\d{1,9}(?:\.\d{0,20})?\s{0,8}"
_FOUR = rf"[\[(<]{_NUMBER}(?:,{_NUMBER}){{3}}(?:(?:,{_NUMBER}){{4}})?[\])>]"
_TWO_POINTS = rf"[\[(]{_NUMBER},{_NUMBER}[\])]\s{{0,8}}(?:,\s{{0,8}})?[\[(]{_NUMBER},{_NUMBER}[\])]"
_AND = r"[,;|/\s]"
_ALONE = rf"\A[\[(<]?{_NUMBER}(?:{_AND}{_NUMBER}){{3}}(?:(?:{_AND}{_NUMBER}){{4}})?[\])>]?\Z"
_YOLO = r"\A\d{1,4}(?:\s{1,8}(?:0?\.\d{1,20}|[01](?:\.0{1,20})?)){4}\Z"
_TOKENS = "|".join(
    (
        r"<\|(?:box|quad|object_ref|point)_(?:start|end)\|>|<\|(?:begin|end)_of_box\|>|<\|/?(?:ref|det|grounding)\|>",
        r"</?(?:ref|box|quad|bbox|points?|poly|ref-object)\b[^<>]{0,200}>|<(?:loc_?|bin_|patch_index_)?\d{1,4}>",
        r"\b(?:bbox|box|point)_2d\b|\b(?:start|end)_box\b|[\"'](?:bbox|box|point|[Pp]osition)[\"']\s{0,8}:",
        r"\bx_?min\b\W{1,4}\d|\bx_?1\b\W{1,4}\d[\d.]{0,20}\W{1,6}y_?1\b",
    )
)
_PLACES = re.compile(f"{_TOKENS}|{_FOUR}")
_COORDINATES = re.compile(f"{_TOKENS}|{_FOUR}|{_TWO_POINTS}|{_ALONE}|{_YOLO}")
_PAIRS = re.compile(_TWO_POINTS)
_POINTS = re.compile(r"<points?>[^<>]{0,200}</points?>")
_TAGGED = re.compile(r"<box>|<\|box_start\|>")
_LABELLED = re.compile(r"<ref>|<\|object_ref_start\|>")
_CORNERS = re.compile(rf"<box>{_TWO_POINTS}</box>")
_QWEN_VL = {
    "<ref>": "<|object_ref_start|>",
    "</ref>": "<|object_ref_end|>",
    "<box>": "<|box_start|>",
    "</box>": "<|box_end|>",
}
"""Qwen-VL's tokens (also used by Seg-Zero) -> those of Qwen2-VL."""

_FENCE = "```"
_MARK = re.compile(r"(?:(?<=\s)|(?<![\s\S]))\(?([A-Z])[.):]\s+")
_FORMAT = re.compile(r"\s*(?:First output|Output|Please write) (?:the|your) thinking process\b.*", re.DOTALL)
_MEDIA = re.compile(r"\s*<(?:image|video|audio)>\s*")


class Solution(NamedTuple):
    """The content of an answer. Boxes and points are in the framework's frame; None: not an answer of them."""

    boxes: list[list[float]] | None
    labels: list[str]  # one per box or point, or empty
    points: list[list[float]] | None
    text: str  # without tags and fences

    @property
    def is_none(self) -> bool:
        """Whether it means that there is no object."""
        return self.text.lower().rstrip(".") in _NOTHING


def read_solution(value: Any, where: str) -> Solution:
    """Read an answer, as text or already decoded.

    Raises `RowError`: empty, too long, or with unreadable boxes.

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
        raise RowError("answer too long", f"{where}: an answer of {len(written)} characters; {_ADVICE}")
    text = without_tags(written)
    if not text:
        needed = "needs a right answer ([] if no object fits)"
        raise RowError("no answer", f"{where}: the answer is {value!r}: {needed}; {_ADVICE}")
    words = Solution(None, [], None, text)
    if words.is_none:
        return words._replace(boxes=[])
    data = _decoded(text) if text[0] in "[{" else None
    if isinstance(data, list | tuple | Mapping):
        return _structured(data, text, where)
    return _read_notation(words, where)


def without_tags(text: str) -> str:
    """Return a text without `<answer>` tags (the last pair counts) and without a fence around it.

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
    """Return a question without a framework's format instructions and image placeholders.

    >>> without_format("<image>\\nWhat is it?  Output the thinking process in <think> </think> and ...")
    'What is it?'
    """
    return _FORMAT.sub("", _MEDIA.sub(" ", question)).strip()


def without_images(question: str) -> str:
    """Return a question without image placeholders."""
    return _MEDIA.sub(" ", question).strip()


def options_of(question: str) -> tuple[str, ...]:
    """Return the options of a multiple-choice question, marked A, B, ... ("A. ", "(A) ", "A) " or "A: ").

    >>> options_of("What is it?\\nA. a cat\\nB. a dog\\nAnswer with the letter.")
    ('a cat', 'a dog')
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
    """Decode a text with a list or an object, as in tables; return anything else unchanged.

    >>> decoded_text("[1, 2]"), decoded_text("a cat"), decoded_text(None)
    ([1, 2], 'a cat', None)
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")) or len(value) > MAX_CHARS:
        return value
    data = _decoded(value.strip())
    return value if data is None else data


# ---------------------------------------------------------------------------------------------- inside


def _decoded(text: str) -> Any:
    """Decode JSON, or else a Python literal; None for neither."""
    for decode in (msgspec.json.decode, ast.literal_eval):
        try:
            return decode(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def _structured(data: Any, text: str, where: str) -> Solution:
    """Read boxes or points of a decoded answer; without both it is words (a pair of numbers may be an interval)."""
    objects = [data] if isinstance(data, Mapping) or _is_numbers(data) else list(data)
    has_place = any(_values_at([it], _BOX_KEYS + _POINT_KEYS) != [None] for it in objects if isinstance(it, Mapping))
    if has_place and all(isinstance(it, Mapping) for it in objects):
        return _of_objects(objects, where, text)
    if objects and all(_is_numbers(it) and len(it) == 4 for it in objects):
        return Solution([numbers_of(it, 4, where, texts=True) for it in objects], [], None, text)
    _refuse(_PLACES, text, where)  # pairs of numbers may be anything
    return Solution(None if objects else [], [], None, text)


def _of_objects(objects: Sequence[Mapping[str, Any]], where: str, text: str) -> Solution:
    labels = _values_at(objects, _LABEL_KEYS)
    kept = [label for label in labels if isinstance(label, str) and label.strip()]
    if kept and len(kept) != len(objects):
        number = next(i for i, label in enumerate(labels) if label not in kept)
        reason = f"object {number} of the answer has label {labels[number]!r}; correct it"
        raise RowError("label missing", f"{where}: {reason}")
    boxes, points = _values_at(objects, _BOX_KEYS), _values_at(objects, _POINT_KEYS)
    return Solution(_all_numbers(boxes, 4, "box", where), kept, _all_numbers(points, 2, "point", where), text)


def _all_numbers(values: Sequence[Any], size: int, what: str, where: str) -> list[list[float]] | None:
    if all(value is None for value in values):
        return None
    return [numbers_of(value, size, where, what, texts=True) for value in values]


def _values_at(objects: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Any]:
    """Return the first value of each object under these keys; None if it has none."""
    return [next((it[key] for key in keys if it.get(key) is not None), None) for it in objects]


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, int | float) for v in value)


# ---------------------------------------------------------------------------------------------- notations of models


def _read_notation(words: Solution, where: str) -> Solution:
    """Read boxes in the notation of Qwen-VL, Qwen2-VL, InternVL, GLM or Griffon; refuse any other coordinates."""
    text = _POINTS.sub("", words.text) if "<box>" in words.text else words.text  # Seg-Zero also writes points
    for parse, spelled in _candidates(text):
        answer = parse(spelled)
        labels = list(answer.labels) if any(answer.labels) else []
        is_prose = bool(labels and _TAGGED.search(text) and not _LABELLED.search(text))  # words before the token
        if answer.boxes_xyxy and not answer.defects and not answer.n_dropped and not is_prose:
            return words._replace(boxes=[list(box) for box in answer.boxes_xyxy], labels=labels)
    _refuse(_COORDINATES, text, where)
    return words


def _candidates(text: str) -> list[tuple[Callable[[str], Answer], str]]:
    """Return parsers that may read a text, each with the text in its spelling."""
    if _CORNERS.search(text):
        for token, name in _QWEN_VL.items():
            text = text.replace(token, name)
    if "<|begin_of_box|>" in text:
        return [(parse_glm, text)]
    if _COORDINATES.search(text) is None:
        return []
    return [(parse_qwen2_vl, text), (parse_internvl, text), (parse_griffon, text)]


def refuse_pairs(text: str, where: str) -> None:
    """Refuse two pairs of numbers in brackets, which may be corners, in an answer that should be boxes (`RowError`)."""
    _refuse(_PAIRS, text, where)


def _refuse(pattern: re.Pattern[str], text: str, where: str) -> None:
    found = pattern.search(unicodedata.normalize("NFKC", text))
    if found is not None:
        reason = f"the answer {text[:80]!r} has coordinates ({found[0].strip()[:40]}) in an unknown notation"
        advice = "write [x1, y1, x2, y2], or a JSON list of bbox_2d and label; if it is words, remove the coordinates"
        raise RowError("answer unreadable", f"{where}: {reason}; {advice}")
