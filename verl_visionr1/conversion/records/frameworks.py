"""Layouts of other frameworks' rows and of common tables: their columns and box formats by name.

Source: the readers and documents of the frameworks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from verl_visionr1.conversion.conventions import NAMED, Convention
from verl_visionr1.conversion.records.fields import Entry, Layout, columns_of
from verl_visionr1.conversion.records.solutions import read_solution, without_format, without_images
from verl_visionr1.conversion.values import ADVICE
from verl_visionr1.files import RowError

Record = Mapping[str, Any]
WARPED_WH = (840, 840)
"""Size to which Seg-Zero and VisionReasoner warp every image."""
CLICKS = ("click", "long_press", "moveto", "doubleclick", "rightclick")
"""Actions of GUI-R1 with one point on the screen."""
_CATEGORY = re.compile(r"belonging to the category '(.{1,200}?)' in the image")


def _problem(record: Record, where: str, key: str = "problem") -> str:
    """Return a row's prompt."""
    text = record.get(key)
    if not isinstance(text, str) or not without_images(text):
        raise RowError(f"no {key}", f"{where}: {key} is {str(text)[:60]!r}: needs a text; {ADVICE}")
    return without_images(text)


# ---------------------------------------------------------------------------------------------- image, problem, answer


def _easyr1(record: Record, where: str) -> Entry:
    """EasyR1: `images`: [path, bytes or {bytes}], `problem` with <image>, `answer`."""
    problem = _problem(record, where)
    images = record.get("images", record.get("image"))
    return Entry(image=images, question=without_format(problem), wording=problem, solution=record.get("answer"))


def _r1_v(record: Record, where: str) -> Entry:
    """R1-V: `solution` is `<answer> 3 </answer>`; a whole number is a count."""
    problem = _problem(record, where)
    made = Entry(image=record.get("image"), question=without_format(problem), wording=problem)
    solution = read_solution(record.get("solution"), where)
    if not solution.is_none and (solution.boxes is not None or solution.points is not None):
        made.solution = record.get("solution")
    elif re.fullmatch(r"\d{1,9}", solution.text):
        made.count = solution.text
    else:
        made.answer = solution.text
    return made


def _visual_rft(record: Record, where: str) -> Entry:
    """Visual-RFT: boxes in 0-1000 as Python literals, "No Objects", or a class in words."""
    problem = _problem(record, where)
    found = _CATEGORY.search(problem)
    made = Entry(image=record.get("image"), wording=problem, solution=record.get("solution"))
    made.phrase, made.question = (found[1], None) if found else (None, without_format(problem))
    return made


def _seg_zero(record: Record, where: str) -> Entry:
    """Seg-Zero and VisionReasoner: `problem` is the expression; boxes, and unused points, on 840 x 840."""
    problem = _problem(record, where)
    solution = read_solution(record.get("solution"), where)
    if solution.boxes is None:
        raise RowError("no box", f"{where}: solution {solution.text[:80]!r} holds no box; {ADVICE}")
    notes = ["point beside a box: box used"] * (solution.points is not None)
    if (record.get("img_width"), record.get("img_height")) != WARPED_WH:
        notes.append("image warped to 840 x 840 by its authors: used unchanged")
    made = Entry(image=record.get("image"), id=record.get("id"), phrase=problem, wording=problem)
    made.boxes, made.notes = solution.boxes, tuple(notes)
    return made


def _gui_r1(record: Record, where: str) -> Entry:
    """GUI-R1: `instruction`, `gt_action`, `gt_bbox` of two or four fractions: where to click."""
    action = str(record.get("gt_action", "click")).lower()
    if action not in CLICKS:
        return Entry(left_out=f"row of the action {action!r}, which is no place on the screen")
    instruction, history = _problem(record, where, "instruction"), record.get("history")
    question = f'Click on the element: "{instruction}".'
    if isinstance(history, str) and history.strip().lower() not in ("", "none", "null"):
        done = f"Done so far: {history.strip().rstrip('.')}."
        question = f'The task on this screen: "{instruction}". {done} Where is the next click?'
    place = record.get("gt_bbox")
    if not isinstance(place, Sequence) or len(place) not in (2, 4):
        raise RowError("no place", f"{where}: gt_bbox {str(place)[:60]}: needs two or four numbers; {ADVICE}")
    made = Entry(image=record.get("image"), id=record.get("id"), task="pointing", question=question)
    made.phrase = made.wording = instruction
    made.points, made.boxes = (place, None) if len(place) == 2 else (None, [place])
    return made


def _rex_thinker(record: Record, where: str) -> Entry:
    """Rex-Thinker's json lines: `image_name`, `referring`, `ans`: boxes on the original image."""
    if "image_name" not in record:
        reason = "no image_name: the parquet of Rex-Thinker has boxes of a resized image, without the original"
        raise RowError("box of a model's frame", f"{where}: {reason}; convert its json lines instead")
    ans = record.get("ans")
    return Entry(image=record["image_name"], phrase=record.get("referring"), boxes=[] if ans is None else ans)


# ---------------------------------------------------------------------------------------------- conversations

_REF, _BBOX = "<ref-object>", "<bbox>"
"""Placeholders of ms-swift."""


def _conversation(record: Record, where: str) -> Entry:
    """Read question (`wording`) and answer of `messages` or `conversations`; the answer may be in `solution`."""
    turns = record.get("messages") or record.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        shown = f"messages {str(turns)[:60]}"
        raise RowError("malformed conversation", f"{where}: {shown}: needs a list of turns; {ADVICE}")
    texts: dict[str, list[str]] = {"user": [], "assistant": [], "system": []}
    names = {"human": "user", "gpt": "assistant"}
    for turn in turns:
        role = str(turn.get("role", turn.get("from")))
        text = turn.get("content", turn.get("value"))
        texts.setdefault(names.get(role, role), []).append("" if text is None else str(text))
    answers = texts["assistant"] or [answer for answer in [record.get("solution")] if answer is not None]
    if len(texts["user"]) != 1 or len(answers) != 1:
        return Entry(left_out="conversation of several turns, or without an answer")
    made = Entry(image=record.get("images"), wording=without_images(texts["user"][0]), solution=answers[0])
    made.notes = ("system prompt dropped",) * bool(texts["system"])
    return made


def _llamafactory(record: Record, where: str) -> Entry:
    """LLaMA-Factory (sharegpt or openai turns) with `images`; boxes in an answer can be in any frame."""
    made = _conversation(record, where)
    made.question = without_format(made.wording or "") or None
    return made


class _Objects(msgspec.Struct):
    ref: list[str] | None = None
    bbox: list[Any] | None = None
    bbox_type: Literal["real", "norm1"] | None = None


def _ms_swift(record: Record, where: str) -> Entry:
    """ms-swift: `objects` {ref, bbox, bbox_type} fill the `<ref-object>` and `<bbox>` of `messages`; else words."""
    made = _conversation(record, where)
    asked, answer = made.wording or "", made.solution
    if made.left_out:
        return made
    if _BBOX in asked:
        return Entry(left_out="row that asks about a given box")
    try:
        objects = msgspec.convert(record.get("objects") or {}, _Objects)
    except msgspec.ValidationError as error:
        reason = f"objects {str(record['objects'])[:80]}: {error}"
        needed = "needs lists ref and bbox, bbox_type real or norm1"
        raise RowError("malformed objects", f"{where}: {reason}; {needed}") from None
    refs, boxes = objects.ref or [], objects.bbox or []
    wording = asked
    for ref in refs[: asked.count(_REF)]:
        wording = wording.replace(_REF, ref, 1)
    made.wording, made.question = wording, wording or None
    if not refs and not boxes:
        return made
    made.solution = None
    made.box_format = NAMED["xyxy-norm1" if objects.bbox_type == "norm1" else "xyxy-abs"]
    lengths = {len(box) if isinstance(box, list) else 0 for box in boxes} or {4}
    if lengths not in ({2}, {4}):
        shown = f"objects.bbox {str(boxes)[:80]}"
        raise RowError("box malformed", f"{where}: {shown}: needs all boxes, or all points; {ADVICE}")
    made.boxes, made.points = (boxes, None) if lengths == {4} else (None, boxes)
    if refs:
        named, made.label = _pair(where, asked, str(answer), refs, len(boxes))
    else:
        named = made.label = _written_labels(where, str(answer), len(boxes))
    if named:
        made.question, made.phrase = None, list(dict.fromkeys(named))
    return made


def _written_labels(where: str, answer: str, n_boxes: int) -> list[str]:
    """Return the labels that the answer's JSON gives to its `<bbox>`; [] if it gives none."""
    if not answer.count(_BBOX) or '"label"' not in answer.replace("'", '"'):
        return []
    filled = answer
    for number in range(answer.count(_BBOX)):  # distinct numbers for the boxes
        filled = filled.replace(_BBOX, f"[{number}, 0, {number + 1}, 1]", 1)
    labels = read_solution(filled, where).labels
    if len(labels) not in (0, n_boxes):
        reason = f"the answer has {len(labels)} labels, but objects has {n_boxes} boxes"
        raise RowError("box without a phrase", f"{where}: {reason}; {ADVICE}")
    return labels


def _pair(where: str, asked: str, answer: str, refs: list[str], n_boxes: int) -> tuple[list[str], list[str]]:
    """Return the phrases, and the phrase of each box: one for all, one each, or as the answer pairs them."""
    n_asked, wanted = asked.count(_REF), asked.count(_REF) + answer.count(_REF)
    if len(refs) < wanted:
        reason = f"{wanted} {_REF} in the messages, and {len(refs)} ref in objects"
        raise RowError("placeholder without a phrase", f"{where}: {reason}; {ADVICE}")
    groups, named = (
        [(len(refs), n_boxes)],
        list(refs),
    )  # an answer of boxes alone: they belong to the question's phrases
    if _REF in answer:
        refs = refs[:wanted]
        groups, named = _groups(answer), refs[n_asked:]
    paired = list[str]()
    for n_refs, n_of_them in groups:
        some, named = named[:n_refs], named[n_refs:]
        paired += some * n_of_them if len(some) == 1 else some if len(some) == n_of_them else []
    if len(paired) != n_boxes:
        reason = f"{len(refs)} ref and {n_boxes} bbox, without their pairing"
        raise RowError("box without a phrase", f"{where}: objects have {reason}; {ADVICE}")
    return refs, paired


def _groups(answer: str) -> list[tuple[int, int]]:
    """Return (phrases, boxes) of each related part of an answer: a JSON object, or phrases with their boxes.

    >>> _groups('[{"bbox_2d": <bbox>, "label": "<ref-object>"}, {"label": "<ref-object>", "bbox_2d": <bbox>}]')
    [(1, 1), (1, 1)]
    >>> _groups("<ref-object><bbox><bbox>, no <ref-object>"), _groups("<bbox> is a <ref-object>, <bbox> <ref-object>")
    ([(1, 2), (1, 0)], [(1, 1), (1, 1)])
    """
    groups: list[tuple[int, int]] = []
    for part in re.findall(r"\{[^{}]*\}", answer) or [answer]:
        letters = "".join("R" if tag == _REF else "B" for tag in re.findall(f"{_REF}|{_BBOX}", part))
        order = r"B+R*" if letters.startswith("B") else r"R+B*"
        groups += [(group.count("R"), group.count("B")) for group in re.findall(order, letters)]
    return groups


# ---------------------------------------------------------------------------------------------- the table

_CORNERS = "xmin,ymin,xmax,ymax"
PRESETS: Mapping[str, Layout] = MappingProxyType(
    {
        "easyr1": Layout(_easyr1),
        "ms-swift": Layout(_ms_swift),
        "visual-rft": Layout(_visual_rft, NAMED["xyxy-norm1000"]),
        "r1-v": Layout(_r1_v),
        "seg-zero": Layout(_seg_zero, Convention("xyxy", "840")),
        "gui-r1": Layout(_gui_r1, NAMED["xyxy-norm1"]),
        "llamafactory": Layout(_llamafactory),
        "rex-thinker": Layout(_rex_thinker, NAMED["xyxy-abs"]),
        "tf-csv": Layout(
            box_format=NAMED["xyxy-abs"],
            columns=columns_of("image=filename", "width=width", "height=height", "label=class", f"boxes={_CORNERS}"),
        ),
        "retinanet-csv": Layout(
            box_format=NAMED["xyxy-abs"],
            columns=columns_of("image=path", "label=class", "boxes=x1,y1,x2,y2"),
            header=("path", "x1", "y1", "x2", "y2", "class"),
        ),
        "imagefolder": Layout(columns=columns_of("image=file_name", "label=objects.categories", "boxes=objects.bbox")),
    }
)
"""Name -> preset."""
