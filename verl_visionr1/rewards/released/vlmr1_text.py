"""VLM-R1's rewards of text as its released code (`grpo_jsonl.py`) computes them; known values in tests.

`target.answer` is the value of the dataset's row, which that code wraps in `<answer> ... </answer>`. It differs from
our own presets: choices in brackets are not found, and several letters are weighed by keywords. "yes" and "no" are
found inside words; two texts without either are equal. Numbers fall back to text similarity; LaTeX is lower-cased. The
length reward treats every answer as right, and rises again beyond 1024 tokens.

Where that code crashes the value is the lowest: 0.0, for repetition (a list of non-objects) -1.0. For repetition and
similarity only the first `MAX_CHARS` are read; mathematics longer than `MAX_MATH_CHARS` or slower than `SECONDS` is not
equal.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, cast

from verl_visionr1.answers import MAX_CHARS
from verl_visionr1.criteria import math_equality
from verl_visionr1.criteria.structure import distinct_share
from verl_visionr1.criteria.thresholds import needs
from verl_visionr1.rewards.base import Criterion, CriterionFn, Preset
from verl_visionr1.rewards.released.vlmr1_rec import answer_format, between, cleaned_answer
from verl_visionr1.targets import Target

SECONDS = 2.0
"""Deadline of one comparison by math-verify (5 s for each step in the released code)."""
COSINE_TOKENS = 1024
N_WORDS = 6
"""Words of an n-gram."""


def choice_released(completion: str, target: Target) -> float:
    """`mcq`: the letter of the first `<answer>` is that of the target."""
    gold, predicted = _letter(_gold(target)), _letter(_first_answer(completion))
    return 1.0 if gold is not None and predicted == gold else 0.0


def yes_no_released(completion: str, target: Target) -> float:
    """`yes_no`: both sides have the same first "yes" or "no" (also inside words), or neither has one."""
    gold, predicted = _YES_NO.search(_gold(target).lower()), _YES_NO.search(_first_answer(completion.lower()))
    return 1.0 if (gold and gold.group()) == (predicted and predicted.group()) else 0.0


_YES_NO = re.compile("yes|no")


def all_match_released(completion: str, target: Target) -> float:
    """`all_match`: the cleaned texts are equal."""
    return 1.0 if cleaned_answer(completion) == cleaned_answer(_wrapped(target)) else 0.0


@needs("math_verify", may_block=True)
def math_released(completion: str, target: Target) -> float:
    r"""`math`: the cleaned texts are equal as text, by math-verify, or in normal form (of what `\boxed{}` contains)."""
    predicted, gold = cleaned_answer(completion), cleaned_answer(_wrapped(target))
    if predicted == gold or _is_verified(predicted, gold):
        return 1.0
    answer = _last_boxed(predicted)
    return 1.0 if answer is not None and is_same_latex(answer, gold) else 0.0


@needs("math_verify", may_block=True)
def default_released(completion: str, target: Target) -> float:
    """`default`: math-verify; else equal numbers, a letter, or text similarity, depending on the target."""
    answers = list(between(completion, "<answer>", "</answer>"))
    predicted, gold = (answers[-1] if answers else completion).strip(), _gold(target)
    if _is_verified(predicted, gold):
        return 1.0
    if re.search(r"\d", gold):
        try:
            return 1.0 if float(cleaned_answer(predicted)) == float(cleaned_answer(gold)) else 0.0
        except ValueError:
            return _similarity(cleaned_answer(predicted), cleaned_answer(gold))
    gold_letter = _letter(gold)
    if gold_letter is not None:
        return 1.0 if _letter(predicted) == gold_letter else 0.0
    return _similarity(cleaned_answer(predicted), cleaned_answer(gold))


def length_cosine_released(n_tokens: int) -> float:
    """`length`: a cosine of the length with period 2048, in [.5, 1], for right and wrong answers."""
    return 1.0 - 0.5 * (1.0 - math.cos(n_tokens * math.pi / COSINE_TOKENS)) / 2.0


def repetition_released(completion: str) -> float:
    """`repetition`: minus the share of repeats among a JSON list's boxes, or else the 6-grams of words; in [-1, 0]."""
    text = completion[:MAX_CHARS]
    items = _items(_json_part(text))
    if not items:
        words = text.lower().split()
        return distinct_share(list(zip(*(words[i:] for i in range(N_WORDS)), strict=False))) - 1.0
    if not all(isinstance(item, dict | list | str) for item in items):
        return -1.0
    objects = [cast(dict[str, Any], item) for item in items if isinstance(item, dict)]
    boxes = [item for item in objects if "bbox_2d" in item and "label" in item]
    return distinct_share([f"{box['bbox_2d']}_{box['label']}" for box in boxes]) - 1.0


_DROPPED = ("\n", "\\!")
_REPLACED = (
    ("\\\\", "\\"),
    *(("tfrac", "frac"), ("dfrac", "frac")),
    *((word, "") for word in ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")),
)
_SQRT = re.compile(r"\\sqrt([^{])")
_FRAC = re.compile(r"\\frac([^{])(?:([^{])|(?=\{))")
_QUOTIENT = re.compile(r"(0|-?[1-9]\d*)/(0|-?[1-9]\d*)", re.ASCII)
_UNIT = "\\text{ "


def is_same_latex(predicted: str, gold: str) -> bool:
    """Whether the normal forms are equal; if one does not exist, whether the texts are."""
    try:
        return normal_latex(predicted) == normal_latex(gold)
    except ValueError:
        return predicted == gold


def normal_latex(text: str) -> str:
    """Normalize a LaTeX text for comparison; ValueError where the released code crashes: several units, an empty root
    or fraction, `a/b` without numbers.
    """
    form = text
    for dropped in _DROPPED:
        form = form.replace(dropped, "")
    for written, meant in _REPLACED:
        form = form.replace(written, meant)
    if form.count(_UNIT) > 1:
        raise ValueError(f"{text[:80]!r}: several units")
    form = form.partition(_UNIT)[0].replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not form:
        return form
    if form.startswith("."):
        form = "0" + form
    name, equals, value = form.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        form = value
    _refuse_empty(form, "\\sqrt")
    form = _SQRT.sub(r"\\sqrt{\1}", form).replace(" ", "")
    _refuse_empty(form, "\\frac")
    if not any(len(piece) == 1 and piece != "{" for piece in form.split("\\frac")[1:]):
        form = _FRAC.sub(lambda m: f"\\frac{{{m[1]}}}" + (f"{{{m[2]}}}" if m[2] else ""), form)
    if form == "0.5":
        return "\\frac{1}{2}"
    if form.count("/") == 1:
        _ = [int(number) for number in form.split("/")]
    quotient = _QUOTIENT.fullmatch(form)
    return f"\\frac{{{quotient[1]}}}{{{quotient[2]}}}" if quotient else form


def _refuse_empty(form: str, command: str) -> None:
    if not all(form.split(command)[1:]):
        raise ValueError(f"{form[:80]!r}: {command} without an argument")


def _wrapped(target: Target) -> str:
    return f"<answer> {target.answer or ''} </answer>"


def _gold(target: Target) -> str:
    """The target's answer as most functions read it: with several lines it keeps its tags."""
    answer = target.answer or ""
    return _wrapped(target) if "\n" in answer else answer.strip()


def _first_answer(text: str) -> str:
    return next(between(text, "<answer>", "</answer>"), text).strip()


_LETTER = re.compile(r"(?<![A-Z])([A-Z])(?=[.,?!:;]|$)")
_KEYWORDS = (
    *("答案", "选择", "正确", "是", "对", "认为", "应该", "觉得"),
    *("ANSWER", "CORRECT", "CHOOSE", "SELECT", "RIGHT", "THINK", "BELIEVE", "SHOULD"),
)


def _letter(text: str) -> str | None:
    """Return the letter that a text chooses; of several, the one with the most points around its first occurrence."""
    text = re.sub(r"\s+", " ", text.upper())
    times: dict[str, int] = {}
    for letter in _LETTER.findall(text):
        times[letter] = times.get(letter, 0) + 1
    if not times:
        return None
    return max(times, key=lambda letter: times[letter] * _points(text, letter))


def _points(text: str, letter: str) -> int:
    position = text.find(letter)
    around = text[max(0, position - 20) : position + 20]
    is_late = position > len(text) * 0.7
    is_followed = position < len(text) - 1 and text[position + 1] in "。.!！,，"  # noqa: RUF001
    return sum(keyword in around for keyword in _KEYWORDS) + 2 * is_late + is_followed


def _is_verified(predicted: str, gold: str) -> bool:
    if not predicted or not gold:
        return False
    math_equality.require_library()
    return math_equality.verified(predicted, gold, SECONDS, as_written=True)


def _last_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{}`; the whole text without one; None where the released code crashes."""
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    start = text.rfind("\\boxed")
    start = start if start >= 0 else text.rfind("\\fbox")
    if start < 0:
        return text
    depth = 0
    for brace in re.finditer(r"[{}]", text[start : start + MAX_CHARS]):
        depth += 1 if brace.group() == "{" else -1
        if not depth:
            opening = "\\boxed{"
            return text[start + len(opening) : start + brace.start()] if text.startswith(opening, start) else None
    return text


def _similarity(predicted: str, gold: str) -> float:
    """`Levenshtein.ratio`: 1 - insertions and deletions over both lengths."""
    try:
        from rapidfuzz.distance import Indel
    except ImportError:
        raise ValueError("vlmr1-default-released: needs rapidfuzz: pip install 'verl-visionr1[text]'") from None
    return Indel.normalized_similarity(predicted[:MAX_CHARS], gold[:MAX_CHARS])


_LIST_START = re.compile(r"\[\s*\{")
_LIST_END = re.compile(r"\}\s*\]")


def _json_part(text: str) -> str:
    """Return a ```json fence, else any ``` fence, else an apparent list of boxes; "" for none."""
    if (fenced := _fenced(text, "```json")) is not None:
        return fenced
    if fenced := _fenced(text, "```"):
        return fenced
    # The first "[{" suffices: if no list follows it, none follows a later one.
    opening = _LIST_START.search(text)
    box = text.find('"bbox_2d"', opening.end()) if opening is not None else -1
    label = text.find('"label"', box + len('"bbox_2d"')) if box >= 0 else -1
    closing = _LIST_END.search(text, label + len('"label"')) if label >= 0 else None
    return text[opening.start() : closing.end()] if opening is not None and closing is not None else ""


def _fenced(text: str, fence: str) -> str | None:
    start = text.find(fence)
    end = text.find("```", start + len(fence)) if start >= 0 else -1
    return text[start + len(fence) : end].strip() if end >= 0 else None


def _items(part: str) -> list[Any]:
    """Return the items of a JSON list; empty for other texts."""
    try:
        data: object = json.loads(part) if part else None
    except (ValueError, RecursionError):
        opening = _OPENING.search(part)  # json_repair skips text before it: the "JSON" of a ```JSON fence
        data = _repaired(part[opening.start() :]) if opening is not None and opening.group() == "[" else None
    return cast(list[Any], data) if isinstance(data, list) else []


_OPENING = re.compile(r"[\[{]")


_OBJECT = re.compile(r"\{[^{}]*\}?")


def _repaired(part: str) -> list[Any]:
    """Return the objects of a broken list: with single quotes, surplus commas, or a truncated end."""
    items: list[Any] = []
    for match in _OBJECT.finditer(part):
        chunk = _LAST_COMMA.sub(r"\1", match.group())
        endings = ("",) if chunk.endswith("}") else ("}", '"}', "]}")
        for attempt in (text + ending for text in (chunk, chunk.replace("'", '"')) for ending in endings):
            try:
                items.append(json.loads(attempt))
                break
            except (ValueError, RecursionError):
                continue
    return items


_LAST_COMMA = re.compile(r",\s*([\]}])")


PRESETS: tuple[Preset, ...] = tuple(
    Preset(
        f"vlmr1-{method}-released",
        criteria=(
            Criterion("format", answer_format),
            Criterion("correct", fn),
            Criterion("length", length_cosine_released, 0.0),
            Criterion("repetition", repetition_released, 0.0),
        ),
        tasks=("text",),
        answer_format="text",
        matching="none",
        is_sum=True,
        accuracy="correct",
        source="om-ai-lab/VLM-R1, src/open-r1-multimodal/src/open_r1/grpo_jsonl.py",
    )
    for method, fn in cast(
        tuple[tuple[str, CriterionFn], ...],
        (
            ("default", default_released),
            ("mcq", choice_released),
            ("yes-no", yes_no_released),
            ("all-match", all_match_released),
            ("math", math_released),
        ),
    )
)
"""One per accuracy method; a weight switches on "length" or "repetition", as `--reward_funcs` does there."""
