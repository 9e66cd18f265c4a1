"""Repair one thing about a completion and score it again."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TypeAlias

from msgspec.structs import replace

from verl_visionr1.answers import Answer, Defect
from verl_visionr1.answers.qwen import write_json
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.tools.explain.diagnosis.base import Exam, Finding, perfect_answer, quoted
from verl_visionr1.tools.explain.diagnosis.claims import answer_start, claims_in
from verl_visionr1.tools.explain.diagnosis.verdicts import Verdict, verdicts_of

WRAPPINGS: Mapping[str, str] = MappingProxyType(
    {
        "bare": "{}",
        "```json fence": "```json\n{}\n```",
        "<answer> tags": "<answer>{}</answer>",
        "<think> and <answer> tags": "<think>The objects stand out.</think>\n<answer>{}</answer>",
        "<think> and <answer> tags and ```json fence": "<think>The objects stand out.</think>\n"
        "<answer>\n```json\n{}\n```\n</answer>",
    }
)
"""Wrappings that a preset may need around an answer."""
Place: TypeAlias = tuple[float, ...]
"""Four numbers of a box, or two numbers of a point."""


def wrap_best(exam: Exam) -> Exam:
    """The examination of the answer in the wrapping that earns most; `exam` itself if none earns more."""
    return _find_wrapping(exam)[1]


def wrapping(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Find what the text around the answer costs: prose, a missing fence, missing tags."""
    name, best, gain = _find_wrapping(exam)
    if not name:
        return exam, []
    around = _ENVELOPE.sub(" ", " ... ".join(exam.completion.rsplit(body_of(exam) or "", 1))).strip(" .\n")
    if name == "bare" and any(char.isalnum() for char in around):
        it = "answer" if exam.target.task in ("counting", "text") else "list"
        what = f"prose around the {it}: {quoted(' '.join(around.split()))} is not part of it"
        fix = f"ask for the {it} alone (another prompt), or let training do it"
        return best, [Finding("prose", what, fix, gain)]
    cause = "wrapping" if name == "bare" else "no tags"
    if "fence" in name and "```json" not in exam.completion:
        cause = "no fence"
    what = f"{cause}: preset {exam.preset.name} needs the answer in another form: {name}"
    return best, [Finding(cause, what, "ask for that in the prompt, or use another preset", gain)]


_ENVELOPE = re.compile(r"```(?:json)?|</?(?:think|answer)>")


def _find_wrapping(exam: Exam) -> tuple[str, Exam, float]:
    """The best wrapping ("" for the present one), the examination in it, and what it gains.

    Criteria that read the text may give 0 to a wrong answer in any wrapping; a right answer is tried for them.
    """
    body = body_of(exam)
    if body is None or exam.to_full < 1e-9:
        return "", exam, 0.0
    right = write_answer(exam, perfect_answer(exam.target)) if reads_text(exam) else None
    shown = exam if right is None else exam.with_text(_replace_last(exam.completion, body, right))
    best_name, best_value = "", shown.value
    for name, around in WRAPPINGS.items():
        value = exam.with_text(around.replace("{}", body if right is None else right)).value
        if value > best_value + 1e-6:
            best_name, best_value = name, value
    if not best_name:
        return "", exam, 0.0
    return best_name, exam.with_text(WRAPPINGS[best_name].replace("{}", body)), best_value - shown.value


def reads_text(exam: Exam) -> bool:
    """Whether criteria of the preset read the raw text."""
    return "completion" in exam.preset.looks_at


def body_of(exam: Exam) -> str | None:
    """The answer without its wrapping, even if cut off; None if there is none."""
    text = exam.completion[answer_start(exam.completion) :]
    if exam.target.task == "text" or (exam.target.task == "counting" and exam.answer.count is not None):
        if Defect.TRUNCATED in exam.answer.defects:
            return None
        answered = exam.answer.text or (f"{exam.answer.count:g}" if exam.answer.count is not None else "")
        return answered if answered and answered in exam.completion else None
    claims = claims_in(text)
    if not claims:
        return "[]" if "[]" in text else None
    opening, closing = text.rfind("[", 0, claims[0].start + 1), text.find("]", claims[-1].end - 1)
    if opening < 0:
        return None
    if closing < 0:
        return text[opening:]
    if text[:opening].endswith("[") and text[closing + 1 :].startswith("]"):  # a list of lists
        opening, closing = opening - 1, closing + 1
    return text[opening : closing + 1]


def rewrite(exam: Exam, answer: Answer) -> list[str]:
    """Texts with another answer in place of the present one; without one, in every wrapping."""
    new, body = write_answer(exam, answer), body_of(exam)
    if new is None:
        return []
    if body is None:
        return [around.replace("{}", new) for around in WRAPPINGS.values()]
    return [_replace_last(exam.completion, body, new)]


def _replace_last(text: str, old: str, new: str) -> str:
    before, _, after = text.rpartition(old)
    return before + new + after


def write_answer(exam: Exam, answer: Answer) -> str | None:
    """Write a faultless answer as text; None for one with defects, or of a kind that cannot be written."""
    if answer.defects or answer.n_dropped:
        return None
    if exam.target.task in BOX_TASKS:
        # Presets that read only the text have no frame.
        sx, sy = exam.scale_xy if exam.preset.looks_at & {"answer", "matching", "grid_wh"} else (1.0, 1.0)
        boxes = [
            (_round(x1 / sx), _round(y1 / sy), _round(x2 / sx), _round(y2 / sy)) for x1, y1, x2, y2 in answer.boxes_xyxy
        ]
        return write_json(boxes, answer.labels)
    if exam.target.task == "counting" and answer.count is not None:
        return f"{answer.count:g}"
    return answer.text if exam.target.task == "text" else None


def _round(number: float) -> float:
    """Round to a whole number if close to one: some released parsers read only whole numbers."""
    whole = float(f"{number:.0f}") if abs(number) < 1e15 else number
    return int(whole) if abs(whole - number) < 0.01 else round(number, 3)


def repair_answer(exam: Exam, answer: Answer) -> Exam:
    """The examination of another answer, in original pixels.

    Criteria that read the text see the rewritten text, if the answer can be written.
    """
    tries = [exam.with_answer(answer)]
    if reads_text(exam):
        tries += [exam.with_text(text) for text in rewrite(exam, answer)]
    return max(tries, key=lambda tried: tried.value)


def gain_of(exam: Exam, answer: Answer) -> float:
    """How much the reward would rise with that answer; at least 0."""
    return max(0.0, repair_answer(exam, answer).value - exam.value)


def without(answer: Answer, verdicts: Collection[Verdict]) -> Answer:
    """The answer without some predictions (boxes, or points)."""
    gone = {verdict.index for verdict in verdicts}
    return _with_items(answer, [item for p, item in enumerate(_items(answer)) if p not in gone])


def with_labels(answer: Answer, label_of: Mapping[int, str]) -> Answer:
    """The answer with other labels for some predictions."""
    return _with_items(answer, [(place, label_of.get(p, old)) for p, (place, old) in enumerate(_items(answer))])


def with_places(answer: Answer, place_of: Mapping[int, Place]) -> Answer:
    """The answer with some boxes (or points) moved."""
    return _with_items(answer, [(place_of.get(p, old), label) for p, (old, label) in enumerate(_items(answer))])


def with_more(answer: Answer, more: Collection[tuple[Place, str]], *, n_dropped: int = 0) -> Answer:
    """The answer with more boxes (or points), in place of `n_dropped` dropped ones."""
    n_left = max(0, answer.n_dropped - n_dropped)
    gone = Defect.BAD_BOX if n_dropped and not n_left else None
    defects = tuple(defect for defect in answer.defects if defect is not gone)
    return _with_items(replace(answer, n_dropped=n_left, defects=defects), [*_items(answer), *more])


def with_missed(exam: Exam, answer: Answer) -> Answer:
    """The answer with the objects that were missed."""
    perfect = _items(perfect_answer(exam.target))
    return with_more(answer, [perfect[fate.index] for fate in verdicts_of(exam)[1] if fate.counted_as == "missed"])


def _items(answer: Answer) -> list[tuple[Place, str]]:
    """Place and label of each prediction."""
    places = answer.boxes_xyxy or answer.points_xy
    labels = answer.labels if len(answer.labels) == len(places) else ("",) * len(places)
    return list(zip(places, labels, strict=True))


def _with_items(answer: Answer, items: Collection[tuple[Place, str]]) -> Answer:
    """The answer with these boxes (4 numbers) or points (2 numbers)."""
    boxes = tuple(place for place, _ in items if len(place) == 4)
    points = tuple(place for place, _ in items if len(place) == 2)
    return replace(answer, boxes_xyxy=boxes, points_xy=points, labels=tuple(label for _, label in items))
