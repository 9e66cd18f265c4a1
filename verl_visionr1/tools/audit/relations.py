"""What the probes of one scene must earn, compared with each other. Data: `checks` looks where both probes exist."""

from __future__ import annotations

from dataclasses import dataclass, replace

from verl_visionr1.tools.audit.probes import empty_probes
from verl_visionr1.tools.audit.scenes import list_scenes


@dataclass(frozen=True, slots=True)
class Relation:
    """What two probes of one scene must earn: `better` `sign` `worse`.

    Attributes:
        check: id of the check that it belongs to.
        better, worse: names of probes.
        sign: ">", ">=" or "==".
    """

    check: str
    better: str
    sign: str
    worse: str


_EMPTY = [name for name, _ in empty_probes("text")]
_COMMON = [
    *[Relation("nothing-is-free", "perfect", ">", name) for name in _EMPTY],
    *[
        Relation("outside-answer", f"wrong {where}", ">=", f"right {where}")
        for where in (
            *("only in reasoning", "in reasoning without end"),
            *("in reasoning, then silence", "in reasoning, then wrong"),
        )
    ],
    *[
        Relation("other-turns", f"wrong {where}", ">=", f"right {where}")
        for where in ("told to a tool", "in a tool's answer", "in an earlier turn, then silence")
    ],
    Relation(
        *("outside-answer", "wrong in a second reasoning without end"),
        *(">=", "right in a second reasoning without end"),
    ),
    Relation("blanks", "perfect", "==", "blanks around the answer"),
    Relation("hedging-costs", "perfect", ">", "another answer after"),
]
_ORDER = [
    Relation("order", "perfect", ">=", "one pixel off"),
    Relation("order", "one pixel off", ">=", "some missing"),
    Relation("order", "one pixel off", ">", "junk only"),
    Relation("order", "perfect", ">", "some missing"),
    Relation("order", "some missing", ">", "junk only"),
    Relation("order", "perfect", ">", "a third missing"),
    Relation("order", "a third missing", ">=", "junk only"),
    *[Relation("order", "junk only", ">=", name) for name in _EMPTY],
    *[Relation("permutation", "perfect", "==", name) for name in ("in reverse", "rotated", "targets in reverse")],
    Relation("permutation", "20 junk after", "==", "20 junk before"),
    Relation("permutation", "a mixture", "==", "the mixture in reverse"),
    Relation("duplicates-cost", "perfect", ">", "each 10 times"),
    *[
        Relation("junk-costs", "perfect", ">", name)
        for name in ("20 junk after", "20 junk before", "junk only", "10000 places", "right, then 10000 places")
    ],
    *[
        Relation("labels-cost", "perfect", ">", name)
        for name in ("all labels wrong", "unknown labels", "labels that hold the right one", "every label")
    ],
    *[Relation("label-spelling", "perfect", "==", f"labels in {form}") for form in ("capitals", "full-width letters")],
    *[
        Relation("negatives", "perfect", ">", name)
        for name in ("a false alarm", "three false alarms", "an unreadable false alarm")
    ],
    Relation("none-accepted", "perfect", "==", "says None"),
]
_LAST = Relation("last-wins", "perfect", ">", "another answer before")
BOXES = (
    *_COMMON,
    replace(_LAST, check="hedging-costs"),
    *_ORDER,
    Relation("order", "one pixel off", ">=", "IoU .8"),
    Relation("order", "IoU .8", ">=", "IoU .6"),
    Relation("order", "IoU .6", ">=", "junk only"),
    Relation("saturates", "perfect", ">", "IoU .6"),
    *[Relation("bad-boxes", "perfect", ">", name) for name in ("inverted", "inverted in x", "no area")],
    *[Relation("bad-boxes", "junk only", ">=", name) for name in ("inverted", "inverted in x", "no area")],
    *[
        Relation("scattergun", better, sign, worse)
        for better, sign, worse in (
            *(("perfect", ">", "the whole image"), ("perfect", ">", "boxes everywhere")),
            *(("perfect", ">", "the whole row"), ("perfect", ">", "a wide margin"), ("perfect", ">", "a corner")),
        )
    ],
    Relation("scattergun", "some missing", ">", "the whole image"),
    Relation("scattergun", "some missing", ">", "boxes everywhere"),
)
POINTS = (
    *_COMMON,
    replace(_LAST, check="hedging-costs"),
    *_ORDER,
    Relation("order", "one pixel off", ">=", "at the edge"),
    Relation("order", "at the edge", ">=", "just outside"),
    Relation("order", "just outside", ">=", "junk only"),
    Relation("order", "perfect", ">", "just outside"),
    Relation("scattergun", "perfect", ">", "points everywhere"),
    Relation("scattergun", "some missing", ">", "points everywhere"),
    Relation("nothing-is-free", "perfect", ">", "boxes instead"),
)
COUNTS = (
    *_COMMON,
    _LAST,
    *[Relation("order", "perfect", ">", name) for name in ("one too many", "one too few", "far too many", "none")],
    *[
        Relation("order", better, ">=", worse)
        for better, worse in (
            *(("one too many", "far too many"), ("a little too many", "far too many")),
            *(("one too few", "none"), ("a little too few", "none")),
        )
    ],
    *[Relation("order", "far too many", ">=", name) for name in _EMPTY],
    *[Relation("hedging-costs", "perfect", ">", name) for name in ("every number", "two numbers", "a range")],
)
WORDS = (
    *_COMMON,
    _LAST,
    Relation("order", "perfect", ">", "junk only"),
    Relation("order", "perfect", ">", "no word"),
    Relation("order", "perfect", ">", "a dot"),
    *[Relation("order", "junk only", ">=", name) for name in ("no word", "empty", "blanks only")],
    *[
        Relation("hedging-costs", "perfect", ">", f"hedge: {hedge}")
        for scene in list_scenes("text", "words")
        for hedge in scene.hedges
    ],
)


def list_relations(task: str) -> tuple[Relation, ...]:
    """What must hold between the probes of a task."""
    return {"pointing": POINTS, "counting": COUNTS, "text": WORDS}.get(task, BOXES)
