"""PaliGemma: `<loc0010><loc0020><loc0030><loc0040> cat ; ...`, four of 1024 bins, y before x."""

from __future__ import annotations

import re

from verl_visionr1.answers.base import MAX_BOXES, Answer, AnswerFormat, Defect
from verl_visionr1.answers.draft import Draft
from verl_visionr1.answers.envelope import said_nothing, unwrap
from verl_visionr1.answers.wording import Wording

_LOCATION = re.compile(r"<loc([0-9]{4})>")
_SEGMENT = re.compile(r"<seg[0-9]{3}>")


def parse_paligemma(text: str) -> Answer:
    """Read `<loc....>` four times (y1, x1, y2, x2 in bins) and a label; ` ; ` between objects.

    Where one phrase is meant, the label may be left out. For nothing: `None`, `[]`, or no text at all, since the
    prompt's syntax (`detect cat`) has no room to ask for a word. Segmentation tokens are passed over.

    >>> parse_paligemma("<loc0010><loc0020><loc0030><loc0040> cat ; <loc0000><loc0000><loc0512><loc1023> dog")
    Answer(boxes_xyxy=((20.0, 10.0, 40.0, 30.0), (0.0, 0.0, 1023.0, 512.0)), labels=('cat', 'dog'), n_dropped=0, \
defects=(), points_xy=(), count=None, text='')
    """
    body, defects = unwrap(text)
    if not body and defects == (Defect.EMPTY,):
        return Answer()
    nothing = said_nothing(body, defects)
    if nothing is not None:
        return nothing
    draft = Draft(defects)
    pieces = body.split(";")
    if len(pieces) > MAX_BOXES:
        draft.skip(sum("<loc" in piece for piece in pieces[MAX_BOXES:]))
        del pieces[MAX_BOXES:]
    for i, piece in enumerate(pieces):
        _read_piece(draft, piece.strip(), is_last=i + 1 == len(pieces))
    if "" in draft.labels and any(draft.labels):
        draft.name(Defect.NO_LABEL)
    return draft.answer()


def _read_piece(draft: Draft, piece: str, *, is_last: bool) -> None:
    # Text before, between and after the bins: text, bin, text, bin, ..., text.
    before, *rest = _LOCATION.split(_SEGMENT.sub("", piece))
    bins, between, label = rest[::2], rest[1:-1:2], rest[-1].strip() if rest else ""
    if not bins:
        is_cut = not before or before.rfind("<") > before.rfind(">")
        draft.name(Defect.TRUNCATED if is_last and is_cut else Defect.NO_LIST)
        return
    if before.strip() or any(text.strip() for text in between):
        draft.name(Defect.PROSE)
    if is_last and len(bins) < 4 and (not label or label.startswith("<")):
        draft.name(Defect.TRUNCATED)
        return
    numbers = tuple(map(float, bins[:8]))
    if len(numbers) == 4:
        y1, x1, y2, x2 = numbers
        numbers = (x1, y1, x2, y2)
    draft.add_box(numbers, label)


PALIGEMMA = AnswerFormat(
    name="paligemma",
    parse=parse_paligemma,
    instruct=Wording(
        "paligemma",
        {"detection": "detect {phrases}", "grounding": "detect {phrase}", "counting": "detect {phrase}"},
        separator=" ; ",
    ),
    example="<loc0020><loc0010><loc0040><loc0030> cat ; <loc0060><loc0050><loc0080><loc0070> dog",
    frames=("paligemma",),
)
