"""The battery: answers of known quality about known scenes; `list_relations` has what they must earn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from verl_visionr1.targets import Target
from verl_visionr1.tools.audit.probes import (
    count_probes,
    empty_probes,
    form_probes,
    label_probes,
    list_probes,
    long_probes,
    make_places,
    reasoning_probes,
    turn_probes,
    word_probes,
)
from verl_visionr1.tools.audit.scenes import JUNK, SIZES, Scene, centre, list_scenes
from verl_visionr1.tools.audit.writers import Item, Language, Writer

LONG_CHARS = 20_000
"""Probes of more characters have the longer time limit."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One completion about one scene.

    Attributes:
        name: its kind.
    """

    scene: str
    name: str
    completion: str
    target: Target

    @property
    def is_long(self) -> bool:
        """Whether the longer time limit applies."""
        return len(self.completion) > LONG_CHARS

    @property
    def is_endless(self) -> bool:
        """Whether evaluating it never ends, so that only a deadline stops it."""
        return self.name.endswith("tower")


def perfect_probes(task: str, language: Language) -> list[Probe]:
    """Perfect answers for every scene that the format can express."""
    return [
        Probe(scene.name, "perfect", language.answer(scene.items), scene.target)
        for scene in list_scenes(task, language.writer.kind)
        if _can_say(task, scene, language.writer)
    ]


def _can_say(task: str, scene: Scene, writer: Writer) -> bool:
    if writer.is_single and len(scene.items) > 1:
        return False
    return task in ("counting", "text") or writer.has_labels or not scene.target.is_multiclass


def battery(task: str, language: Language, *, is_quick: bool = False) -> list[Probe]:
    """All probes of a task in an answer format; a quick battery has no long or endless ones."""
    kind = language.writer.kind
    able = {probe.scene for probe in perfect_probes(task, language)}
    probes: list[Probe] = []
    for scene in list_scenes(task, kind):
        if scene.name not in able:
            continue
        texts = dict(_list_probes(task, scene, language))
        probes += [Probe(scene.name, name, text, scene.target) for name, text in texts.items()]
        if len(scene.items) > 1 and task != "text":
            reverse = _reverse(scene.target)
            probes.append(Probe(scene.name, "targets in reverse", texts["perfect"], reverse))
    return [probe for probe in probes if not (is_quick and (probe.is_long or probe.is_endless))]


def _list_probes(task: str, scene: Scene, language: Language) -> Iterator[tuple[str, str]]:
    wrong = _wrong_items(task, scene, language.writer.kind)
    yield "perfect", language.answer(scene.items)
    if task == "text":
        yield from word_probes(scene, language)
    elif task == "counting":
        yield from count_probes(scene, language)
    else:
        yield from list_probes(scene, language)
        yield from label_probes(scene, language)
    if scene.name == "many" or scene.name in SIZES:
        return
    yield from empty_probes(task)
    yield from reasoning_probes(scene.items, wrong, language)
    yield from turn_probes(scene.items, wrong, language)
    yield from form_probes(scene.items, wrong, language)
    if scene.name in ("one", "choice", "number"):
        yield from long_probes(scene.items, language)


def _wrong_items(task: str, scene: Scene, kind: str) -> tuple[Item, ...]:
    """A well-formed answer of the same length with every item wrong."""
    if task == "text":
        return (((), scene.wrong),)
    if task == "counting":
        return make_places(kind, 2 * len(scene.items) + 3)
    places = [centre(box) if kind == "points" else box for box in JUNK]
    label = scene.phrases[0] if scene.phrases else "cat"
    return tuple([(tuple(place), label) for place in places[: max(1, min(len(scene.items), len(places)))]])


def _reverse(target: Target) -> Target:
    """The target with its objects in reverse order."""
    fields = {name: getattr(target, name) for name in target.__struct_fields__}
    for name in ("boxes_xyxy", "labels", "points_xy", "masks"):
        fields[name] = fields[name][::-1]
    return Target(**fields)
