"""What the probes of one scene must earn, compared with each other. Data: `checks` looks where both probes exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from verl_visionr1.tools.audit.probes import empty_probes
from verl_visionr1.tools.audit.scenes import list_scenes


@dataclass(frozen=True, slots=True)
class Relation:
    """What two probes of one scene must earn: `better` `sign` `worse`.

    Attributes:
        sign: ">", ">=" or "==".
    """

    check: str
    better: str
    sign: str
    worse: str


def _read(table: str) -> Iterator[Relation]:
    """The relations of some lines `check: a >= b > c | d`: a chain, whose members may be several.

    >>> [(it.better, it.sign, it.worse) for it in _read("order: a >= b > c | d")]
    [('a', '>=', 'b'), ('b', '>', 'c'), ('b', '>', 'd')]
    """
    for line in filter(None, map(str.strip, table.splitlines())):
        check, _, chain = line.partition(": ")
        members = re.split(r" (>=|>|==) ", chain)
        for (better, worse), sign in zip(pairwise(members[::2]), members[1::2], strict=True):
            yield from (Relation(check, a, sign, b) for a in better.split(" | ") for b in worse.split(" | "))


_EMPTY = [name for name, _ in empty_probes("text")]
_COMMON = (
    *(Relation("nothing-is-free", "perfect", ">", name) for name in _EMPTY),
    *_read("""
    outside-answer: wrong only in reasoning >= right only in reasoning
    outside-answer: wrong in reasoning without end >= right in reasoning without end
    outside-answer: wrong in reasoning, then silence >= right in reasoning, then silence
    outside-answer: wrong in reasoning, then wrong >= right in reasoning, then wrong
    outside-answer: wrong in a second reasoning without end >= right in a second reasoning without end
    other-turns: wrong told to a tool >= right told to a tool
    other-turns: wrong in a tool's answer >= right in a tool's answer
    other-turns: wrong in an earlier turn, then silence >= right in an earlier turn, then silence
    blanks: perfect == blanks around the answer
    hedging-costs: perfect > another answer after
    """),
)
_PLACES = (
    *(Relation("order", "junk only", ">=", name) for name in _EMPTY),
    *_read("""
    hedging-costs: perfect > another answer before
    order: perfect >= one pixel off >= some missing > junk only
    order: one pixel off > junk only
    order: perfect > some missing | a third missing
    order: a third missing >= junk only
    permutation: perfect == in reverse | rotated | targets in reverse
    permutation: 20 junk after == 20 junk before
    permutation: a mixture == the mixture in reverse
    duplicates-cost: perfect > each 10 times
    junk-costs: perfect > 20 junk after | 20 junk before | junk only | 10000 places | right, then 10000 places
    labels-cost: perfect > all labels wrong | unknown labels | labels that hold the right one | every label
    label-spelling: perfect == labels in capitals | labels in full-width letters
    negatives: perfect > a false alarm | three false alarms | an unreadable false alarm
    none-accepted: perfect == says None
    """),
)
_BOXES = tuple(
    _read("""
    order: one pixel off >= IoU .8 >= IoU .6 >= junk only
    saturates: perfect > IoU .6
    bad-boxes: perfect > inverted | inverted in x | no area
    bad-boxes: junk only >= inverted | inverted in x | no area
    scattergun: perfect > the whole image | boxes everywhere | the whole row | a wide margin | a corner
    scattergun: some missing > the whole image | boxes everywhere
    """)
)
_POINTS = tuple(
    _read("""
    order: one pixel off >= at the edge >= just outside >= junk only
    order: perfect > just outside
    scattergun: perfect | some missing > points everywhere
    nothing-is-free: perfect > boxes instead
    """)
)
_COUNTS = (
    *(Relation("order", "far too many", ">=", name) for name in _EMPTY),
    *_read("""
    last-wins: perfect > another answer before
    order: perfect > one too many | one too few | far too many | none
    order: one too many | a little too many >= far too many
    order: one too few | a little too few >= none
    hedging-costs: perfect > every number | two numbers | a range
    """),
)
_WORDS = (
    *_read("""
    last-wins: perfect > another answer before
    order: perfect > junk only | no word | a dot
    order: junk only >= no word | empty | blanks only
    """),
    *(
        Relation("hedging-costs", "perfect", ">", f"hedge: {hedge}")
        for scene in list_scenes("text", "words")
        for hedge in scene.hedges
    ),
)


def list_relations(task: str) -> tuple[Relation, ...]:
    """What must hold between the probes of a task."""
    own = {"pointing": _PLACES + _POINTS, "counting": _COUNTS, "text": _WORDS}
    return _COMMON + own.get(task, _PLACES + _BOXES)
