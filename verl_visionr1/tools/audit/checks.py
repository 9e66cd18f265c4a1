"""The checks of a sound reward, and their verdicts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from verl_visionr1.tools.audit.battery import Probe, empty_probes
from verl_visionr1.tools.audit.isolation import Outcome
from verl_visionr1.tools.audit.scenes import list_scenes

EPSILON = 1e-6
"""Rewards closer than this are equal."""


class Relation(NamedTuple):
    """Order of the rewards of two probes of one scene: `better` `sign` (">", ">=" or "==") `worse`."""

    check: str
    better: str
    sign: str
    worse: str


def _read(table: str) -> Iterator[Relation]:
    """Parse lines such as `check: a >= b > c | d`: a chain whose members may be several probes."""
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
    """The relations between the probes of a task."""
    own = {"pointing": _PLACES + _POINTS, "counting": _COUNTS, "text": _WORDS}
    return _COMMON + own.get(task, _PLACES + _BOXES)


class Check(NamedTuple):
    """One check; advice only warns."""

    about: str
    is_advice: bool = False


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "no-exception": Check("no text raises an exception"),
        "no-hang": Check("every call returns: no hang, no crash of the process"),
        "no-eval": Check("no text is run as code"),
        "time": Check("no text takes longer than the limit"),
        "bounds": Check("the reward is a finite number in its range"),
        "deterministic": Check("the same text earns the same reward, in any order of calls"),
        "perfect-is-full": Check("a perfect answer earns full reward, on every scene"),
        "perfect-is-best": Check("no other text earns more than a perfect answer"),
        "order": Check("better answers earn more: perfect, some missing, junk, nothing"),
        "permutation": Check("the order of predictions and of targets does not matter"),
        "duplicates-cost": Check("repeating a prediction ten times costs"),
        "junk-costs": Check("junk costs, before and after the right answer"),
        "labels-cost": Check("wrong labels cost, and so does every label at once"),
        "bad-boxes": Check("inverted boxes and boxes without area earn no more than junk"),
        "scattergun": Check("covering the image earns less than finding some of the objects"),
        "negatives": Check("without the object in the image, an empty answer earns more than a box"),
        "nothing-is-free": Check("no text without an answer earns as much as a right one"),
        "outside-answer": Check("an answer only in the reasoning earns nothing"),
        "other-turns": Check("an answer in a tool call, a tool response or an earlier turn earns nothing"),
        "hedging-costs": Check("two answers, or all of them, earn less than the right one"),
        "last-wins": Check("a corrected answer earns less than a direct one", is_advice=True),
        "blanks": Check("blanks around the answer do not matter"),
        "label-spelling": Check("case and Unicode form of a label do not matter", is_advice=True),
        "none-accepted": Check("'None' is as good as an empty list", is_advice=True),
        "saturates": Check("a box at IoU .6 earns less than a perfect one", is_advice=True),
    }
)
"""All checks by id."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one check: "ok", "fail" or "warn", and what broke it."""

    check: str
    verdict: str
    seen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One probe, its outcome, and that of a second call in another order."""

    probe: Probe
    outcome: Outcome
    again: Outcome | None = None

    @property
    def where(self) -> str:
        """Scene and probe, for the report."""
        return f"{self.probe.scene}/{self.probe.name}"

    @property
    def value(self) -> float | None:
        """The reward, if it is a comparable number."""
        value = self.outcome.value
        return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of time and range.

    Attributes:
        ms: most milliseconds of a call; ten times as many for texts over `LONG_CHARS`.
        bounds: the range of the reward; None: any finite number.
        full: the value of a perfect answer; None: the best one seen.
    """

    ms: float = 10.0
    bounds: tuple[float, float] | None = None
    full: float | None = None

    def of(self, probe: Probe) -> float:
        """Time limit of a probe; none for an endless one, which `no-hang` checks by the deadline."""
        if probe.is_endless:
            return math.inf
        return 10.0 * self.ms if probe.is_long else self.ms


def findings(task: str, runs: list[Run], limits: Limits) -> list[Finding]:
    """The verdicts of all checks that apply to a task."""
    scenes: dict[str, dict[str, Run]] = {}
    for run in runs:
        scenes.setdefault(run.probe.scene, {})[run.probe.name] = run
    full = _full(scenes, limits)
    # The scenes that a reward supports: all, but only kinds of question with full reward for a right answer.
    judged = {name: it for name, it in scenes.items() if task != "text" or _is_full(it["perfect"], full)}
    broken: dict[str, list[str]] = {check: [] for check in _ALWAYS}
    for check, seen in (
        *_each_run(runs, limits),
        *_perfect(task, scenes, judged, full),
        *_relations(task, judged),
    ):
        broken.setdefault(check, []).extend([seen] if seen else [])
    if not judged:
        broken["perfect-is-full"].append(f"a right answer to none of {', '.join(scenes)} earns {full:g}")
    warned = {check: "warn" if CHECKS[check].is_advice else "fail" for check in CHECKS}
    verdicts = {check: warned[check] if seen else "ok" for check, seen in broken.items()}
    return [Finding(check, verdicts[check], tuple(broken[check])) for check in CHECKS if check in broken]


_ALWAYS = (
    *("no-exception", "no-hang", "no-eval", "time", "bounds", "deterministic"),
    *("perfect-is-full", "perfect-is-best"),
)


def _each_run(runs: list[Run], limits: Limits) -> Iterator[tuple[str, str]]:
    low, high = limits.bounds or (-math.inf, math.inf)
    for run in runs:
        outcome, limit = run.outcome, limits.of(run.probe)
        if outcome.evaluated:
            yield "no-eval", f"{run.where}: its Python was run"
        if outcome.is_lost:
            yield "no-hang", f"{run.where}: {outcome.error}"
        elif outcome.error:
            yield "no-exception", f"{run.where}: {outcome.error}"
        elif outcome.ms > limit:
            yield "time", f"{run.where}: {outcome.ms:.0f} ms, limit {limit:g}"
        if outcome.value is not None and not (math.isfinite(outcome.value) and low <= outcome.value <= high):
            yield "bounds", f"{run.where}: {outcome.value:g}"
        if run.again is not None and not _same(outcome.value, run.again.value):
            yield "deterministic", f"{run.where}: {_shown(outcome)}, then {_shown(run.again)}"


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


def _shown(outcome: Outcome) -> str:
    return outcome.error or f"{outcome.value:.4g}"


def _full(scenes: Mapping[str, Mapping[str, Run]], limits: Limits) -> float:
    """Full reward: the known one, else the best of all perfect answers."""
    if limits.full is not None:
        return limits.full
    values = [scene["perfect"].value for scene in scenes.values()]
    return max((value for value in values if value is not None), default=math.nan)


def _is_full(run: Run, full: float) -> bool:
    return run.value is not None and abs(run.value - full) <= EPSILON


def _perfect(
    task: str, scenes: Mapping[str, Mapping[str, Run]], judged: Mapping[str, Mapping[str, Run]], full: float
) -> Iterator[tuple[str, str]]:
    for perfect in [scene["perfect"] for scene in scenes.values() if task != "text"]:
        if not _is_full(perfect, full):
            yield "perfect-is-full", f"{perfect.where}: {_shown(perfect.outcome)}, elsewhere {full:g}"
    for scene in judged.values():
        best = scene["perfect"].value
        for run in scene.values():
            if best is not None and run.value is not None and run.value > best + EPSILON:
                yield "perfect-is-best", f"{run.where} {run.value:.4g} > perfect {best:.4g}"


def _relations(task: str, scenes: Mapping[str, Mapping[str, Run]]) -> Iterator[tuple[str, str]]:
    """Check every applicable relation; yields (check, what broke it, or "")."""
    for check, good, sign, bad in list_relations(task):
        for scene in scenes.values():
            better, worse = scene.get(good), scene.get(bad)
            if better is None or worse is None or better.value is None or worse.value is None:
                continue
            difference = better.value - worse.value
            holds = {
                ">": difference > EPSILON,
                ">=": difference >= -EPSILON,
                "==": abs(difference) <= EPSILON,
            }[sign]
            yield check, "" if holds else f"{better.where} {better.value:.4g} is not {sign} {bad} {worse.value:.4g}"
