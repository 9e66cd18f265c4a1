"""Findings about the text itself: reasoning, other kinds of answers, and each defect that the parser names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from msgspec.structs import replace

from verl_visionr1.answers import FORMATS, MAX_BOXES, MAX_CHARS, Answer, Defect
from verl_visionr1.answers.transcript import REASONING_TAGS
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.targets import normalize_text
from verl_visionr1.tools.explain.diagnosis.base import (
    BOX,
    LEARN,
    POINT,
    Exam,
    Finding,
    numbered,
    perfect_answer,
    plural,
    quoted,
)
from verl_visionr1.tools.explain.diagnosis.claims import Claim, answer_start, claims_in
from verl_visionr1.tools.explain.diagnosis.repairs import Place, gain_of, with_labels, with_missed, with_more
from verl_visionr1.tools.explain.diagnosis.verdicts import verdicts_of

ASK = "ask for this form in the prompt"
SHORTER = "lower data.max_response_length"
OBJECT = ("object", "objects")
WORDS: Mapping[Defect, tuple[str, str]] = MappingProxyType(
    {
        Defect.EMPTY: ("empty: there is no answer", ""),
        Defect.NO_LIST: ("no list: the answer is not a JSON list", ASK),
        Defect.NO_ANSWER: ("unclosed reasoning: <think> was never closed, so there is no answer", ""),
        Defect.PROSE: ("prose: there is text around the answer", "ask for the answer alone"),
        Defect.MALFORMED: ("malformed: the answer does not have the required form", ASK),
        Defect.TRUNCATED: ("truncated: the answer is cut off", ""),
        Defect.BAD_BOX: (
            "bad box: needs four finite numbers with x1 < x2 and y1 < y2 (a point: two finite numbers)",
            f"ask for bare numbers in one flat list, with an example in the prompt; else {LEARN}",
        ),
        Defect.NO_LABEL: ("no label: each object needs a label", "ask for a label in the prompt"),
        Defect.OUTSIDE: (
            "outside: the answer reaches over the edge of the image",
            "check the frame; see the coordinates",
        ),
        Defect.TOO_LONG: (f"too long: at most {MAX_CHARS} characters are read", SHORTER),
        Defect.TOO_MANY: (f"too many: at most {MAX_BOXES} boxes are matched", SHORTER),
        Defect.NO_COUNT: ("no count: the answer has no number, several different ones, or one below 0", ASK),
        Defect.NO_TEXT: ("no text: the answer has no words", ASK),
        Defect.WRONG_KIND: ("wrong kind: boxes or points instead of another kind of answer", ASK),
    }
)
"""Defect -> (description, beginning with its kind; what to do, "" if it depends on the response budget)."""


def named_defects(exam: Exam) -> tuple[Defect, ...]:
    """Defects of the answer. Released formats have only "malformed"; for them, the usual parser names the defect."""
    defects = exam.answer.defects
    if Defect.MALFORMED not in defects or not exam.preset.answer_format.endswith("-released"):
        return defects
    return FORMATS["qwen-json"].parse(exam.completion).defects or defects


def answer_claims(exam: Exam) -> list[Claim]:
    """The claims of the answer, after its reasoning."""
    return claims_in(exam.completion, answer_start(exam.completion))


def describe_defect(defect: Defect, exam: Exam, claims: list[Claim]) -> tuple[str, str, str]:
    """Describe a defect in this text: kind, description (beginning with the kind), what to do."""
    words, fix = WORDS[defect]
    kind = words.partition(":")[0]
    fix = ask_for(exam) if fix == ASK else fix
    if not fix:
        fix = to_close(exam) if defect is Defect.NO_ANSWER else exam.cut_off_fix
    detail = _DETAIL[defect](exam, claims) if defect in _DETAIL else ""
    return kind, f"{kind}: {detail}" if detail else words, fix


def ask_for(exam: Exam) -> str:
    """What to ask for in the prompt: an example of the answer format."""
    own = exam.preset.answer_format
    return f"{ASK}: {quoted(FORMATS['qwen-json' if own.endswith('-released') else own].example, 200)}"


def _body(exam: Exam) -> str:
    return exam.completion[answer_start(exam.completion) :].strip()


def _truncated(exam: Exam, claims: list[Claim]) -> str:
    if exam.target.task == "text" or (exam.target.task == "counting" and not claims):
        return ""
    end = claims[-1].end if claims else answer_start(exam.completion)
    rest = exam.completion[end:].strip()
    stop = f"; it stops at {quoted(rest[-40:])}" if rest else ""
    n_read = plural(exam.answer.n_predicted, *(POINT if exam.answer.points_xy else BOX))
    return f"after {n_read} the list is cut off{stop}"


def _no_list(exam: Exam, claims: list[Claim]) -> str:
    if claims:
        return f"{plural(len(claims), *OBJECT)} in the text, but no JSON list [...] around them"
    return f"the answer is prose or a single value: {quoted(_body(exam))}"


def _malformed(exam: Exam, claims: list[Claim]) -> str:
    return f"{quoted(_body(exam))} does not have the required form"


def _bad_box(exam: Exam, claims: list[Claim]) -> str:
    n = 4 if exam.target.task in BOX_TASKS or any(claim.box for claim in claims) else 2
    faults = {i: fault for i, claim in enumerate(claims) if (fault := _fault(claim, n))}
    if not faults:
        return ""
    return f"{numbered(OBJECT, faults)} in the text not read ({next(iter(faults.values()))})"


def _fault(claim: Claim, n: int) -> str:
    """Why a claim is not a box (n = 4) or not a point (n = 2)."""
    if n == 4 or not claim.numbers:
        return claim.fault
    return "" if len(claim.numbers) == n else f"{plural(len(claim.numbers), 'number')} instead of {n}"


def _outside(exam: Exam, claims: list[Claim]) -> str:
    frame = exam.response.frame
    frame_wh = frame.size_wh(exam.target.size_wh, exam.response.processed_wh)
    for p, place in enumerate(exam.answer.boxes_xyxy or exam.answer.points_xy):
        spoken = [number / scale for number, scale in zip(place, exam.scale_xy * 2, strict=False)]
        if any(not -0.01 * edge <= number <= 1.01 * edge for number, edge in zip(spoken, frame_wh * 2, strict=False)):
            shown = ", ".join(f"{number:g}" for number in spoken)
            reach = f"0-{frame_wh[0]:g} x 0-{frame_wh[1]:g}"
            return f"object {p + 1} ({shown}) reaches over the edge of frame {frame.name} ({reach})"
    return ""


_DETAIL: Mapping[Defect, Callable[[Exam, list[Claim]], str]] = MappingProxyType(
    {
        Defect.TRUNCATED: _truncated,
        Defect.NO_LIST: _no_list,
        Defect.MALFORMED: _malformed,
        Defect.BAD_BOX: _bad_box,
        Defect.OUTSIDE: _outside,
    }
)
"""Defect -> its description in a text; "" if only the general one applies."""


def writing_findings(exam: Exam, explained: frozenset[str]) -> list[Finding]:
    """Find what the form of the text costs; causes found before explain some defects."""
    claims, task = answer_claims(exam), exam.target.task
    n_read = len(exam.answer.boxes_xyxy) or len(exam.answer.points_xy)
    if not n_read and "other format" in explained:
        return []
    alone = None
    if not n_read or task in ("counting", "text"):
        alone = _other_kind(exam, claims) or only_reasoned(exam) or _wrong_key(exam, claims)
    return [alone] if alone is not None else [*_inverted(exam, claims), *_defects(exam, claims, explained)]


def _other_kind(exam: Exam, claims: list[Claim]) -> Finding | None:
    """Boxes or points instead of what the task asks for."""
    task, n = exam.target.task, 2 if exam.target.task in BOX_TASKS else 4
    is_other = Defect.WRONG_KIND in exam.answer.defects
    given = "points" if n == 2 else "boxes"
    if task in (*BOX_TASKS, "pointing"):
        wanted = "boxes" if n == 2 else "points"
        is_other |= bool(claims) and all(len(claim.numbers) == n for claim in claims)
        if not is_other and exam.answer.defects and not any(len(claim.numbers) == 6 - n for claim in claims):
            is_other = any(it.points_xy if n == 2 else it.boxes_xyxy for it in _well_formed(exam))
    else:
        counted = "boxes" if '_2d"' in FORMATS[exam.preset.answer_format].example else "a number"
        wanted = counted if task == "counting" else "words"
        given = "points" if claims and len(claims[0].numbers) == 2 else "boxes"
        if Defect.NO_COUNT in exam.answer.defects:  # a bare box
            is_other |= any(it.boxes_xyxy for it in _well_formed(exam))
    if not is_other:
        return None
    cause = f"{given} instead of {wanted}"
    other = "counting-list counts a list" if task == "counting" else f"train on task {_TASK_OF[given]}"
    what = f"{cause}: the answer has {given}, preset {exam.preset.name} reads {wanted}"
    fix = f"ask for {wanted} in the prompt" + ("" if task == "counting" and wanted == "boxes" else f", or {other}")
    return Finding(cause, what, fix, exam.to_full)


def _well_formed(exam: Exam) -> Iterator[Answer]:
    """The answer as each format reads it without a defect."""
    answers = (it.parse(exam.completion) for it in FORMATS.values())
    return (answer for answer in answers if not answer.defects)


_TASK_OF = {"points": "pointing", "boxes": "detection"}


def _wrong_key(exam: Exam, claims: list[Claim]) -> Finding | None:
    """Boxes under a key unknown to the format."""
    example = FORMATS[exam.preset.answer_format].example
    key = "box_2d" if '"box_2d"' in example else "bbox_2d" if exam.target.task in BOX_TASKS else "point_2d"
    keys = {claim.key for claim in claims if not claim.fault} - {key, ""}
    if not keys or key not in example + FORMATS["qwen-json"].example:
        return None
    what = f"wrong key: the boxes have the key {quoted(min(keys))} instead of {quoted(key)}"
    return Finding("wrong key", what, ask_for(exam), exam.to_full)


def _inverted(exam: Exam, claims: list[Claim]) -> Iterator[Finding]:
    """Boxes that are valid with their corners swapped."""
    faulty = {i: claim for i, claim in enumerate(claims) if claim.fault.startswith("inverted")}
    n_claimed = sum(claim.box is not None for claim in claims)
    if not faulty or exam.target.task not in BOX_TASKS or len(exam.answer.boxes_xyxy) >= n_claimed:
        return
    sx, sy = exam.scale_xy
    swapped: list[tuple[Place, str]] = []
    for claim in faulty.values():
        x1, y1, x2, y2 = claim.numbers
        if x1 != x2 and y1 != y2:
            box = (min(x1, x2) * sx, min(y1, y2) * sy, max(x1, x2) * sx, max(y1, y2) * sy)
            swapped.append((box, claim.label))
    gain = gain_of(exam, with_more(exam.answer, swapped, n_dropped=len(swapped)))
    first = next(iter(faulty.values())).fault.removeprefix("inverted: ")
    what = f"inverted box: {numbered(OBJECT, faulty)} in the text not read ({first})"
    fix = f"ask for x1, y1, x2, y2 with x1 < x2 and y1 < y2; else {LEARN}"
    yield Finding("inverted box", what, fix, max(gain, _shared_gain(exam)))


def _defects(exam: Exam, claims: list[Claim], explained: frozenset[str]) -> Iterator[Finding]:
    """One finding for each defect."""
    shared = _shared_gain(exam)
    is_unread = not exam.answer.is_parsed or not exam.completion.strip()
    has_inverted = any(claim.fault.startswith("inverted") for claim in claims)
    for defect in named_defects(exam):
        if defect is Defect.PROSE and explained & {"prose", "wrapping"}:
            continue
        if defect is Defect.BAD_BOX and has_inverted:
            continue
        gain = exam.to_full if is_unread else max(shared, gain_of(exam, _repair(exam, defect)))
        yield Finding(*describe_defect(defect, exam, claims), gain)


def _shared_gain(exam: Exam) -> float:
    """Each defect's share of their total cost; with several defects, no single repair gains anything."""
    answer = exam.answer
    return gain_of(exam, replace(answer, defects=())) / len(answer.defects) if answer.defects else 0.0


def _repair(exam: Exam, defect: Defect) -> Answer:
    """Repair one defect: a cut-off answer gets the missing objects, unlabelled objects get labels."""
    gone = defect if defect in exam.answer.defects else Defect.MALFORMED
    answer = replace(exam.answer, defects=tuple(one for one in exam.answer.defects if one is not gone))
    if defect is Defect.BAD_BOX:
        return replace(answer, n_dropped=0)
    if defect is Defect.TRUNCATED:
        return _complete(exam, answer)
    if defect is Defect.NO_LABEL and exam.target.labels:
        bare = [v for v in verdicts_of(exam)[0] if v.target is not None and not v.label.strip()]
        return with_labels(answer, {v.index: exam.target.labels[v.target] for v in bare if v.target is not None})
    return answer


def _complete(exam: Exam, answer: Answer) -> Answer:
    """Complete a cut-off answer with all missing objects."""
    target, perfect = exam.target, perfect_answer(exam.target)
    if target.task == "counting":
        return replace(answer, count=max(float(target.count or 0), answer.stated_count))
    if target.task == "text":
        return replace(answer, text=perfect.text)
    return with_missed(exam, answer)


MAX_LOOKED_AT = 20_000
"""Most characters of a text that are searched for the answer."""
_NO_THINKING = "+data.apply_chat_template_kwargs.enable_thinking=false turns it off"


def to_close(exam: Exam) -> str:
    """What to do about unclosed reasoning."""
    fix = exam.cut_off_fix
    return f"{fix}; the prompt opens <think>: {_NO_THINKING}" if exam.response.reasoning_opened else fix


def opened_in_prompt(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Find reasoning that the prompt opened without the reward's knowledge: the text only closes it."""
    text = exam.completion
    is_closed_only = any(closing in text and opening not in text for opening, closing in REASONING_TAGS)
    if exam.response.reasoning_opened or not is_closed_only:
        return exam, []
    reread = exam.with_text(text, replace(exam.response, reasoning_opened=True))
    gain = reread.value - exam.value
    if gain <= 1e-6:
        return exam, []
    what = "reasoning opened in the prompt: the text closes <think> and never opens it"
    fix = "set reasoning=opened (--reasoning opened); auto reads the prompt, which this row does not have"
    return reread, [Finding("reasoning opened in the prompt", what, fix, gain)]


def only_reasoned(exam: Exam) -> Finding | None:
    """A finding if the answer is in the reasoning and no readable one follows; else None."""
    start = answer_start(exam.completion)
    if exam.target.task in ("counting", "text"):
        expected = words_of(exam.expected)
        reasoned = words_of(exam.completion[:start][-MAX_LOOKED_AT:])
        found = "the right answer" if expected.strip() and expected in reasoned and not exam.answer.is_parsed else ""
    else:
        found = _places_in(exam, start)
    if not found:
        return None
    is_closed = "</think>" in exam.completion
    where = "no readable answer after it" if is_closed else "which was never closed"
    fix = "the answer must follow </think>: require that in the prompt" if is_closed else to_close(exam)
    what = f"only in the reasoning: {found} in the reasoning, {where}"
    return Finding("only in the reasoning", what, fix, exam.to_full)


def _places_in(exam: Exam, start: int) -> str:
    """Describe the boxes or points of the reasoning; "" if the answer has some, or if the target has no objects."""
    meant = [claim for claim in claims_in(exam.completion, 0, start) if len(claim.numbers) in (2, 4)]
    if not meant or claims_in(exam.completion, start) or not exam.target.n_objects:
        return ""
    return plural(len(meant), *(BOX if meant[0].box else POINT))


def words_of(text: str) -> str:
    """Letters and digits between single blanks, so that only whole words are found."""
    return f" {' '.join(''.join(char if char.isalnum() else ' ' for char in normalize_text(text)).split())} "
