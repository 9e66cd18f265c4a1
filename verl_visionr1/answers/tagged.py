"""Labels and boxes between special tokens, which a tokenizer may skip: Qwen2-VL and InternVL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from verl_visionr1.answers.base import Answer, AnswerFormat, Defect
from verl_visionr1.answers.draft import Draft, Group, is_cut_off, number_groups
from verl_visionr1.answers.envelope import empty_answer, unwrap

_LABEL = "\0"  # replaces the token that opens a label


@dataclass(frozen=True, slots=True)
class Tags:
    """The markup of a model family's boxes: the tokens around a label, and around a box or the list of a label's boxes.

    `as_corners`: a box is two points `(x1,y1),(x2,y2)`; else `[x1, y1, x2, y2]` in a list.
    """

    label: tuple[str, str]
    box: tuple[str, str]
    as_corners: bool
    bracket: str = field(init=False)
    any_tag: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bracket", "(" if self.as_corners else "[")
        object.__setattr__(self, "any_tag", re.compile("|".join(map(re.escape, (*self.label, *self.box)))))


QWEN2_VL_TAGS = Tags(("<|object_ref_start|>", "<|object_ref_end|>"), ("<|box_start|>", "<|box_end|>"), True)
INTERNVL_TAGS = Tags(("<ref>", "</ref>"), ("<box>", "</box>"), False)
_INTERNVL_PREAMBLE = "Sure, I will detect and label all objects in the image and mark their positions."


def parse_qwen2_vl(text: str) -> Answer:
    """Read Qwen2-VL's boxes: `<|object_ref_start|>cat<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>`.

    Objects follow each other; several boxes may follow one label. If the prompt names one phrase, the label may be
    missing. The text without tokens (`cat(x1,y1),(x2,y2)`) is well-formed too, since tokenizers may skip special
    tokens. `None` and `[]` are empty answers.
    """
    return _parse(text, QWEN2_VL_TAGS)


def parse_internvl(text: str) -> Answer:
    """Read InternVL's boxes: `<ref>cat</ref><box>[[x1, y1, x2, y2], ...]</box>`, one line per label.

    If the prompt names one phrase, the label may be missing. The tokens may be missing, as in `parse_qwen2_vl`. The
    first sentence that InternVL was trained to write is no prose. `None` and `[]` are empty answers.
    """
    return _parse(text.replace(_INTERNVL_PREAMBLE, "", 1), INTERNVL_TAGS)


def _parse(text: str, tags: Tags) -> Answer:
    body, defects = unwrap(text)
    empty = empty_answer(body, defects)
    if empty is not None:
        return empty
    draft = Draft(defects)
    has_labels = tags.label[0] in body
    untagged = tags.any_tag.sub("", body.replace("\0", "").replace(tags.label[0], _LABEL))
    groups, n_unread = number_groups(untagged)
    boxes = list(_corners(untagged, groups)) if tags.as_corners else groups
    draft.skip((n_unread + 1) // 2 if tags.as_corners else n_unread)
    position, label = 0, ""
    for box in boxes:
        gap = _Gap(untagged[position : box.start].strip(), is_first=position == 0, in_list=not tags.as_corners)
        label = label if gap.keeps_label else gap.label(draft, has_labels)
        draft.add_box(box.numbers, label)
        n_brackets = untagged.count(tags.bracket, box.start, box.end)
        if box.numbers and len(box.numbers) == 4 and n_brackets != (2 if tags.as_corners else 1):
            draft.add_defect(Defect.MALFORMED)
        position = box.end
    if not n_unread:
        _check_end(draft, untagged[position:].strip(), untagged, body, tags)
    if "" in draft.labels and any(draft.labels):
        draft.add_defect(Defect.NO_LABEL)
    return draft.answer()


def _corners(text: str, groups: list[Group]) -> Iterator[Group]:
    """Join points to boxes; a point without a partner stays a point, unless the text is cut off after it."""
    waiting: Group | None = None
    for group in groups:
        is_pair = waiting is not None and text[waiting.end : group.start].strip() == ","
        if waiting is not None:
            yield Group(waiting.start, group.end, _join(waiting, group)) if is_pair else waiting
        waiting = None
        if is_pair:
            continue
        if group.numbers is None or len(group.numbers) < 4:
            waiting = group
        else:
            yield group
    if waiting is not None and not text[waiting.end :].lstrip().startswith(","):
        yield waiting


def _join(a: Group, b: Group) -> tuple[float, ...] | None:
    """Return x1, y1, x2, y2; None unless both groups are points."""
    if a.numbers is None or b.numbers is None or not len(a.numbers) == len(b.numbers) == 2:
        return None
    return a.numbers + b.numbers


@dataclass(frozen=True, slots=True)
class _Gap:
    """The text between the previous box and a box."""

    text: str
    is_first: bool
    in_list: bool

    @property
    def keeps_label(self) -> bool:
        """Whether the box has the label of the previous box."""
        return not self.is_first and self.text in (",", "" if not self.in_list else ",")

    def label(self, draft: Draft, has_labels: bool) -> str:
        """Return the label in the gap, and add a defect for any other text."""
        text = self.text
        if self.in_list:
            if not (text.endswith("[") and (self.is_first or text.startswith("]"))):
                draft.add_defect(Defect.MALFORMED)
            text = text.removesuffix("[").removeprefix("" if self.is_first else "]")
        before, _, after = text.rpartition(_LABEL)
        if before.strip(" \n,;\0"):
            draft.add_defect(Defect.PROSE)
        elif has_labels and _LABEL not in text and text.strip():
            draft.add_defect(Defect.MALFORMED)
        return after.strip(" \t\r\n,;:")


def _check_end(draft: Draft, rest: str, untagged: str, body: str, tags: Tags) -> None:
    """Add the defects after the last box, and of the tokens."""
    opened, closed = (sum(body.count(pair[side]) for pair in (tags.label, tags.box)) for side in (0, 1))
    if not draft.labels and not draft.n_dropped:
        draft.add_defect(Defect.TRUNCATED if opened > closed or "[[" in rest else Defect.NO_LIST)
    elif opened > closed or rest.endswith(",") or is_cut_off(rest if tags.as_corners else untagged):
        draft.add_defect(Defect.TRUNCATED)
    elif rest != ("" if tags.as_corners else "]"):
        draft.add_defect(Defect.PROSE if rest.strip("] .,;") else Defect.MALFORMED)
    elif opened < closed:
        draft.add_defect(Defect.MALFORMED)


# InternVL's data format defines its grounding question and the start of its detection question; the rest is ours.
QWEN2_VL = AnswerFormat(
    "qwen2-vl",
    parse_qwen2_vl,
    "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>",
    {
        "detection": "Detect all objects of these categories in the image and output their bounding boxes: {phrases}.",
        "grounding": "Output the bounding box of {phrase} in the image.",
        "counting": "Detect every {phrase} in the image and output their bounding boxes.",
    },
    " If there is none, output None.",
    {"grounding": "Output the bounding box of what {phrases} describes in the image."},
    frames=("qwen2-vl",),
)
INTERNVL = AnswerFormat(
    "internvl",
    parse_internvl,
    "<ref>cat</ref><box>[[10, 20, 30, 40], [50, 60, 70, 80]]</box>",
    {
        "detection": "Please detect and label all objects of these categories in the following image and mark their "
        "positions: <ref>{phrases}</ref>",
        "grounding": "Please provide the bounding box coordinate of the region this sentence describes: "
        "<ref>{phrase}</ref>",
        "counting": "Please detect and label every <ref>{phrase}</ref> in the following image and mark their "
        "positions.",
    },
    "\nIf there is none, output None.",
    {
        "counting": "Please detect and label everything in the following image that <ref>{phrase}</ref> describes and "
        "mark their positions."
    },
    separator="</ref>, <ref>",
    frames=("internvl",),
)
