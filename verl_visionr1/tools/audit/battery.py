"""The battery: answers of known quality about known scenes; `list_relations` has what they must earn."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from verl_visionr1.answers.writers import SIDE, Item, Language, Writer
from verl_visionr1.targets import Target
from verl_visionr1.tools.audit.scenes import JUNK, SIZES, Scene, centre, list_scenes

EVALUATED = "AUDIT_EVALUATED"
"""The environment variable that a completion sets if the reward evaluates it as Python."""
_CODE = f"__import__('os').environ.__setitem__('{EVALUATED}', 'yes')"
_PROMPTS = MappingProxyType(
    {
        "detection": "Locate every item from the category list in the image: cat, dog. Output JSON.",
        "grounding": "Locate every cat in the image and output the coordinates in JSON format.",
        "counting": "How many cats are in the image?",
        "pointing": "Point to every cat in the image.",
        "text": "What is in the image? Answer with one of the options, or with a word or a number.",
    }
)
UNREADABLE = ("<answer>", "</answer>", "<think>", "```json", "<banana", "{}", "null", "[[", "[{}]", "[null]", "{[(")
Texts: TypeAlias = Iterator[tuple[str, str]]
"""Names of probes, and their completions."""
Items: TypeAlias = Sequence[Item]
_OBJECTS = ("boxes_xyxy", "labels", "points_xy", "masks")
LONG_CHARS = 20_000
"""Probes of more characters have the longer time limit."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One completion about one scene; `name` is its kind."""

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


def battery(task: str, language: Language, *, scenes: Collection[str] = (), is_quick: bool = False) -> list[Probe]:
    """The probes of a task in an answer format.

    Args:
        scenes: names of the scenes to keep; empty: all.
        is_quick: leave out long and endless probes.
    """
    kind = language.writer.kind
    able = {probe.scene for probe in perfect_probes(task, language)}
    probes: list[Probe] = []
    for scene in list_scenes(task, kind):
        if scene.name not in able or (scenes and scene.name not in scenes):
            continue
        texts = dict(_scene_probes(task, scene, language, is_quick))
        probes += [Probe(scene.name, name, text, scene.target) for name, text in texts.items()]
        if len(scene.items) > 1 and task != "text":
            reverse = msgspec.structs.replace(
                scene.target, **{name: getattr(scene.target, name)[::-1] for name in _OBJECTS}
            )
            probes.append(Probe(scene.name, "targets in reverse", texts["perfect"], reverse))
    return [probe for probe in probes if not (is_quick and (probe.is_long or probe.is_endless))]


def _scene_probes(task: str, scene: Scene, language: Language, is_quick: bool) -> Texts:
    wrong = _wrong_items(task, scene, language.writer.kind)
    yield "perfect", language.answer(scene.items)
    if task == "text":
        yield from _word_probes(scene, language)
    elif task == "counting":
        yield from _count_probes(scene, language)
    else:
        yield from _list_probes(scene, language, is_quick)
    if scene.name == "many" or scene.name in SIZES:
        return
    yield from empty_probes(task)
    yield from _elsewhere_probes(scene.items, wrong, language)
    yield from _form_probes(scene.items, wrong, language)
    if scene.name in ("one", "choice", "number") and not is_quick:
        yield from _long_probes(scene.items, language)


def _wrong_items(task: str, scene: Scene, kind: str) -> tuple[Item, ...]:
    """A well-formed answer of the same length with every item wrong."""
    if task == "text":
        return (((), scene.wrong),)
    if task == "counting":
        return make_places(kind, 2 * len(scene.items) + 3)
    places = [centre(box) if kind == "points" else box for box in JUNK]
    label = scene.phrases[0] if scene.phrases else "cat"
    return tuple([(tuple(place), label) for place in places[: max(1, min(len(scene.items), len(places)))]])


def make_places(kind: str, n: int) -> tuple[Item, ...]:
    """Return `n` different boxes or points: an answer that counts by listing."""
    size = 2 if kind == "points" else 4
    places = [(5.0 + i % 95 * 10, 5.0 + i // 95 * 10, 12.0 + i % 95 * 10, 12.0 + i // 95 * 10) for i in range(n)]
    return tuple([(place[:size], "cat") for place in places])


def empty_probes(task: str) -> Texts:
    """Texts without an answer."""
    yield "empty", ""
    yield "blanks only", " \n\t "
    yield "prose", "I looked at it carefully, and it is very nice."
    yield "the prompt again", _PROMPTS[task]
    for text in UNREADABLE:
        yield f"only {text}", text
    yield "half a surrogate", "\ud800"
    yield "zero bytes", "\0\0"
    yield "code", _CODE


def _elsewhere_probes(right: Items, wrong: Items, language: Language) -> Texts:
    """The right answer where it does not count, each with a wrong one in the same place."""
    silence = language.form.wrap("I do not know.")
    for name, items in (("right", right), ("wrong", wrong)):
        text = language.writer.write(items)
        yield f"{name} only in reasoning", f"<think>{text}</think>"
        yield f"{name} in reasoning without end", f"<think>{text}"
        yield f"{name} in reasoning, then silence", language.form.reasoned(text, "I do not know.")
        yield f"{name} in reasoning, then wrong", language.form.reasoned(text, language.writer.write(wrong))
        yield f"{name} in a second reasoning without end", f"<think>Well.</think> Hm. <think>{text}"
        yield f"{name} told to a tool", f'<tool_call>{{"name": "look", "arguments": {text}}}</tool_call>'
        yield f"{name} in a tool's answer", f"<tool_response>\n{text}\n</tool_response>"
        turn = f"{text}\n<tool_call>look</tool_call>\nuser\n<tool_response>\n{text}\n</tool_response>\nassistant\n"
        yield f"{name} in an earlier turn, then silence", turn + silence


def _form_probes(right: Items, wrong: Items, language: Language) -> Texts:
    """Blanks, text after the answer, two answers, another script, broken spelling."""
    form, text = language.form, language.writer.write(right)
    perfect = form.wrap(text)
    yield "blanks around the answer", form.wrap(f" {text} ")
    yield "text after the answer", perfect + "\n\nI hope this helps! Ask me anything."
    yield "another answer after", f"{perfect}\n{language.answer(wrong)}"
    yield "another answer before", f"{language.answer(wrong)}\n{perfect}"
    yield "byte order mark", "\ufeff" + perfect
    yield "right to left", form.wrap("\u202e" + text + "\u202c")
    yield "zero-width blanks", form.wrap(text.replace("a", "a\u200b").replace("1", "1\u200b"))
    yield "combining accents", form.wrap(text.replace("a", "a\u0301"))
    yield "other digits", form.wrap(_replace(r"\d", 0x0660 - ord("0"), text))
    yield "surrogate inside", form.wrap(text[: len(text) // 2] + "\udfff" + text[len(text) // 2 :])
    yield "single quotes", form.wrap(text.replace('"', "'"))
    yield "last character missing", form.wrap(text[:-1])
    yield "cut in the middle", perfect[: len(perfect) // 2]
    yield "trailing comma", form.wrap(text[:-1] + "," + text[-1:])
    yield "wrong key", form.wrap(text.replace("bbox_2d", "box").replace("point_2d", "box"))
    yield "code inside", form.wrap(text.replace("125", _CODE, 1) if "125" in text else f"[{_CODE}]")


def _long_probes(right: Items, language: Language) -> Texts:
    """Texts of one megabyte that are slow to parse."""
    text, form = language.writer.write(right), language.form
    megabyte = 1_000_000
    pieces = {"letters": "a", "brackets": "[", "braces": '{"a":', "parentheses": "(", "digits": "7", "blanks": " "}
    pieces |= {"huge numbers": "1e308, ", "answers": "<answer>", "thoughts": "<think> ", "fences": "```json\n"}
    pieces |= {"lists of numbers": "[1, 2, 3, ", "fractions": "\\frac{", "right answers": text + ","}
    for name, piece in pieces.items():
        yield f"1 MB of {name}", form.wrap(piece * (megabyte // len(piece)))
    yield "1 MB of reasoning", form.reasoned("Hm, let me think. " * (megabyte // 18), text)
    yield "1 MB of text after", form.wrap(text) + " and so on" * (megabyte // 10)


def _list_probes(scene: Scene, language: Language, is_quick: bool) -> Texts:
    """Answers of boxes or points: too many, too few, in another order, with other labels, in other places."""
    answer, items = language.answer, scene.items
    is_point = language.writer.kind == "points"
    label = scene.phrases[0] if scene.phrases else "cat"
    junk: tuple[Item, ...] = tuple([(centre(box) if is_point else box, label) for box in JUNK])
    if not items:
        yield "says None", language.form.wrap("None")
        yield "a false alarm", answer(junk[:1])
        yield "three false alarms", answer(junk[:3])
        yield "an unreadable false alarm", answer(((("NaN",) * (2 if is_point else 4), label),))
        return
    yield "junk only", answer(junk[: len(items)])
    yield "20 junk after", answer((*items, *junk))
    yield "20 junk before", answer((*junk, *items))
    yield "each 10 times", answer([item for item in items for _ in range(10)])
    yield "right labels missing", answer([(xs, "") for xs, _ in items])
    yield from _order_probes(items, junk, language)
    if scene.target.is_multiclass and language.writer.has_labels:
        names = list(scene.phrases)
        following = dict(zip(names, names[1:] + names[:1], strict=True))
        yield "all labels wrong", answer([(xs, following[name]) for xs, name in items])
        yield "unknown labels", answer([(xs, "zebra") for xs, _ in items])
        yield "labels that hold the right one", answer([(xs, f"not a {name}") for xs, name in items])
        yield "labels in capitals", answer([(xs, name.upper()) for xs, name in items])
        yield "labels in full-width letters", answer([(xs, _replace("[A-Za-z]", 0xFEE0, name)) for xs, name in items])
        yield "every label", answer([(xs, name) for xs, _ in items for name in names])
    if scene.name != "many":
        yield from _point_probes(items, language) if is_point else _box_probes(scene, language)
    if scene.name == "one":
        yield from _number_probes(items, language)
        if not is_quick:
            yield from _flood_probes(items, language)


def _order_probes(items: Items, junk: Items, language: Language) -> Texts:
    if len(items) < 2:
        return
    answer = language.answer
    yield "in reverse", answer(items[::-1])
    yield "rotated", answer((*items[1:], items[0]))
    mixed = (*[(_move(xs, 20.0), label) for xs, label in items[:-1]], *junk[:3])
    yield "a mixture", answer(mixed)
    yield "the mixture in reverse", answer(mixed[::-1])
    if len(items) > 10:
        yield "a third missing", answer([item for i, item in enumerate(items) if i % 3])
    else:
        yield "some missing", answer(items[: (len(items) + 1) // 2])


def _replace(pattern: str, offset: int, text: str) -> str:
    """Move the code points of some characters: to Arabic digits, or to the full-width letters of East Asian text."""
    return re.sub(pattern, lambda found: chr(ord(found.group()) + offset), text)


def _move(xs: tuple, by: float) -> tuple:
    return tuple([x + by if i % 2 == 0 else x for i, x in enumerate(xs)])


def _point_probes(items: Items, language: Language) -> Texts:
    """Points in the wrong place, slightly or far off."""
    answer = language.answer
    for name, by in (("one pixel off", 1.0), ("at the edge", 120.0), ("just outside", 150.0)):
        yield name, answer([(_move(xs, by), label) for xs, label in items])
    places = [(25.0 + 50 * i, 25.0 + 50 * j) for i in range(20) for j in range(20)]
    labels = dict.fromkeys(label for _, label in items)
    yield "points everywhere", answer([(place, label) for label in labels for place in places])
    yield "boxes instead", language.form.wrap('[{"bbox_2d": [125, 125, 375, 375], "label": "cat"}]')


def _box_probes(scene: Scene, language: Language) -> Texts:
    """Boxes in the wrong place or of the wrong size, slightly or far off; offsets fit the frame's grid."""
    answer, items = language.answer, scene.items
    labels = dict.fromkeys(label for _, label in items)
    if scene.name not in SIZES:
        yield "one pixel off", answer([(_move(xs, 1.0), label) for xs, label in items])
        yield "IoU .8", answer([(_move(xs, _shift(xs, 0.8)), label) for xs, label in items])
        yield "IoU .6", answer([(_move(xs, _shift(xs, 0.6)), label) for xs, label in items])
        yield "inverted in x", answer([((xs[2], xs[1], xs[0], xs[3]), label) for xs, label in items])
    elif scene.name == "whole":
        yield "a corner", answer([((0, 0, SIDE / 4, SIDE / 4), label) for label in labels])
    else:
        x1, y1, x2, y2 = SIZES[scene.name]
        yield "the whole row", answer([((0, y1, SIDE, y2), label) for label in labels])
        yield "a wide margin", answer([((x1 - 50, y1 - 50, x2 + 50, y2 + 50), label) for label in labels])
    if scene.name != "whole":
        yield "the whole image", answer([((0, 0, SIDE, SIDE), label) for label in labels])
    yield "inverted", answer([((xs[2], xs[3], xs[0], xs[1]), label) for xs, label in items])
    yield "no area", answer([((xs[0], xs[1], xs[0], xs[1]), label) for xs, label in items])
    places = [(50.0 * i, 50.0 * j, 50.0 * i + 50, 50.0 * j + 50) for i in range(20) for j in range(20)]
    yield "boxes everywhere", answer([(place, label) for label in labels for place in places])


def _shift(xs: tuple, iou: float) -> float:
    """Horizontal offset at which a box has this IoU with itself."""
    return (xs[2] - xs[0]) * (1.0 - iou) / (1.0 + iou)


def _number_probes(items: Items, language: Language) -> Texts:
    answer, (xs, label) = language.answer, items[0]
    for number in ("NaN", "Infinity", "-Infinity", "1e309", "1e39", "-50", "5e-324", "9" * 400, "true", "[1]", '"125"'):
        shown = number if len(number) < 20 else "400 digits"
        yield f"{shown} as a coordinate", answer((((number, *xs[1:]), label), *items[1:]))
    yield "all coordinates NaN", answer(((("NaN",) * len(xs), label),))


def _flood_probes(items: Items, language: Language) -> Texts:
    answer, (xs, label) = language.answer, items[0]
    corners = [(float(i % 990), float(i // 990)) for i in range(10_000)]
    places: tuple[Item, ...] = tuple([((x, y, x + 5, y + 5)[: len(xs)], label) for x, y in corners])
    yield "10000 places", answer(places)
    yield "right, then 10000 places", answer((*items, *places))


def _count_probes(scene: Scene, language: Language) -> Texts:
    """Other counts, several at once, and invalid numbers."""
    n = len(scene.items)
    far = n > 20  # one more or less is close enough for a reward that is relative
    yield "a little too many" if far else "one too many", language.answer(make_places(language.writer.kind, n + 1))
    yield "far too many", language.answer(make_places(language.writer.kind, 2 * n + 3))
    if n > 1:
        yield "a little too few" if far else "one too few", language.answer(make_places(language.writer.kind, n - 1))
        yield "none", language.answer(())
    if language.writer.kind != "count":
        return
    wrap = language.form.wrap
    yield "every number", wrap(" ".join(map(str, range(2 * n + 2))))
    yield "two numbers", wrap(f"{n + 1} or {n}")
    yield "a range", wrap(f"{max(n - 1, 0)}-{n}")
    for number in ("NaN", "Infinity", "-Infinity", "1e309", f"-{n + 1}", "9" * 400, "1e-400", f"{n}.5", f"{n}e0"):
        yield f"the number {number if len(number) < 20 else 'of 400 digits'}", wrap(number)


def _word_probes(scene: Scene, language: Language) -> Texts:
    """Wrong words, hedges, and expressions too large to compute."""
    wrap = language.form.wrap
    right = scene.items[0][1]
    yield "junk only", wrap(scene.wrong)
    for hedge in scene.hedges:
        yield f"hedge: {hedge}", wrap(hedge)
    yield "no word", wrap("")
    yield "a dot", wrap(".")
    yield "the answer in capitals", wrap(right.upper())
    yield "a power tower", wrap("9^{9^{9^{9^{9}}}}")
    yield "a factorial tower", wrap("99999999!!!!!")
