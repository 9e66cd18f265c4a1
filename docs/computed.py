"""Rows of reference tables that are computed from examples: causes of a low reward, counts, sizes of models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from verl_visionr1 import FRAMES, PRESETS, Target, score
from verl_visionr1.rewards import ResponseContext
from verl_visionr1.tools.explain.diagnosis import Exam, Finding, findings_of
from verl_visionr1.tools.plan.choosing import NothingFitsError, plan
from verl_visionr1.tools.plan.memory import Machine, Run, total
from verl_visionr1.tools.plan.shape import KNOWN

COUNTS, OFF_BY = (3, 10, 50), (1, 2)


def counting_rewards() -> Iterator[tuple[str, list[str]]]:
    """Preset -> reward of a count that is off, for each true count. A list has the same criteria as a number."""
    for name in ("counting", "counting-fuzzy", "counting-mra"):
        targets = {count: Target(task="counting", size_wh=(9, 9), count=count) for count in COUNTS}
        rewards = [score(f"{n + off}", target, preset=name).value for n, target in targets.items() for off in OFF_BY]
        yield name, [f"{reward:.2f}" for reward in rewards]


# --- causes ----------------------------------------------------------------------------------------------------------

CAT, DOG = (200, 100, 1000, 400), (1200, 500, 1800, 1100)
DETECT = Target(task="detection", size_wh=(2000, 1200), boxes_xyxy=[CAT, DOG], labels=["cat", "dog"])
NEGATIVE = Target(task="detection", size_wh=(2000, 1200), categories=["cat"])
POINT = Target(task="pointing", size_wh=(2000, 1200), boxes_xyxy=[CAT], labels=["cat"])
COUNT, WORDS = Target(task="counting", size_wh=(9, 9), count=5), Target(task="text", answer="Paris")


def _boxes(*items: tuple[tuple[float, ...], str], key: str = "bbox_2d") -> str:
    return json.dumps([{key: list(numbers), "label": label} for numbers, label in items])


RIGHT = _boxes((CAT, "cat"), (DOG, "dog"))
GRID = _boxes(*(((x, y, x + 90, y + 90), "cat") for x in range(0, 2000, 100) for y in range(0, 1200, 100)))
ANSWERS: Mapping[str, tuple[str, Target, str]] = {
    "wrong frame": (_boxes(((100, 83, 500, 333), "cat"), ((600, 417, 900, 917), "dog")), DETECT, "visionr1"),
    "numbers 0-1": (_boxes(((0.1, 0.083, 0.5, 0.333), "cat")), DETECT, "visionr1"),
    "swapped axes": (_boxes(((100, 200, 400, 1000), "cat"), ((500, 1200, 1100, 1800), "dog")), DETECT, "visionr1"),
    "width and height": (_boxes(((200, 100, 800, 300), "cat"), ((1200, 500, 600, 600), "dog")), DETECT, "visionr1"),
    "other format": ("[200, 100, 1000, 400]", DETECT, "visionr1"),
    "wrong key": (RIGHT.replace("bbox_2d", "box"), DETECT, "visionr1"),
    "no list": ("I see a cat and a dog.", DETECT, "visionr1"),
    "malformed": (RIGHT.replace('"label"', "label"), DETECT, "visionr1"),
    "no count": ("3 or 4", COUNT, "counting"),
    "bad box": (RIGHT.replace("[200", "[1e999"), DETECT, "visionr1"),
    "inverted box": (_boxes(((1000, 100, 200, 400), "cat"), (DOG, "dog")), DETECT, "visionr1"),
    "several lists": (f"{_boxes((CAT, 'cat'))}\n{_boxes((DOG, 'dog'))}", DETECT, "visionr1"),
    "prose": (f"Here you are: {RIGHT}", DETECT, "visionr1"),
    "no fence": (RIGHT, DETECT, "vlmr1-ovd-released"),
    "points instead of boxes": (_boxes(((600, 250), "cat"), key="point_2d"), DETECT, "visionr1"),
    "boxes instead of a number": (RIGHT, COUNT, "counting"),
    "truncated": (RIGHT[:-20], DETECT, "visionr1"),
    "empty": ("", DETECT, "visionr1"),
    "unclosed reasoning": ("<think>Well, let me see", DETECT, "visionr1"),
    "only in the reasoning": (f"<think>{RIGHT}</think>", DETECT, "visionr1"),
    "wrong label": (_boxes((CAT, "kitty"), (DOG, "dog")), DETECT, "visionr1"),
    "no label": (json.dumps([{"bbox_2d": CAT}, {"bbox_2d": DOG}]), DETECT, "visionr1"),
    "outside": (_boxes((CAT, "cat"), ((1200, 500, 1800, 1260), "dog")), DETECT, "visionr1"),
    "off target": (_boxes(((200, 100, 390, 400), "cat"), (DOG, "dog")), DETECT, "visionr1"),
    "below the threshold": (_boxes(((200, 100, 580, 400), "cat"), (DOG, "dog")), DETECT, "visionr1"),
    "too many boxes": (GRID, DETECT, "visionr1"),
    "false alarm": (_boxes((CAT, "cat")), NEGATIVE, "visionr1"),
    "duplicate": (_boxes((CAT, "cat"), (CAT, "cat"), (DOG, "dog")), DETECT, "visionr1"),
    "junk": (_boxes((CAT, "cat"), (DOG, "dog"), ((0, 600, 300, 900), "cat")), DETECT, "visionr1"),
    "missed": (_boxes((CAT, "cat")), DETECT, "visionr1"),
    "loose box": (_boxes(((200, 100, 700, 400), "cat"), (DOG, "dog")), DETECT, "visionr1"),
    "off centre": (_boxes(((900, 350), "cat"), key="point_2d"), POINT, "point-distance"),
    "count off": ("7", COUNT, "counting"),
    "answer differs": ("Rome", WORDS, "text-exact"),
    "answer among other words": ("It is Paris.", WORDS, "text-exact"),
}
"""First words of `visionr1 explain` -> an answer in pixels for which it says so, target and preset."""


def causes() -> Iterator[tuple[str, Finding]]:
    """First words -> the costliest finding about the example.

    Raises:
        ValueError: the finding begins with other words.
    """
    for words, (text, target, name) in ANSWERS.items():
        preset = PRESETS[name]
        context = ResponseContext(FRAMES["original"])
        found = findings_of(Exam.of(text, target, preset, preset.schedule(0.0), context))[0]
        if not found.what.startswith(words):
            raise ValueError(
                f"docs/computed.py: {words}: explain says {found.what!r}; correct the words or the example"
            )
        yield words, found


# --- sizes of models -------------------------------------------------------------------------------------------------

MODELS = (
    "Qwen2.5-VL-3B",
    "Qwen3-VL-4B",
    "Qwen2.5-VL-7B",
    "Qwen3-VL-8B",
    "Qwen3.5-9B",
    "Qwen2.5-VL-32B",
    "Qwen2.5-VL-72B",
)
MACHINES = {
    "1 GPU, LoRA": (1, 1, 64),
    "1 GPU": (1, 1, 0),
    "2 GPUs": (2, 1, 0),
    "4 GPUs": (4, 1, 0),
    "8 GPUs": (8, 1, 0),
    "2 nodes x 8": (8, 2, 0),
    "4 nodes x 8": (8, 4, 0),
}
"""Heading -> GPUs of a node, nodes, rank of LoRA."""


def model_sizes() -> Iterator[tuple[str, list[str]]]:
    """Model -> GB of one GPU at the peak and of a node's memory, on each machine of 80 GB GPUs.

    "-": nothing fits; "†": Adam on the CPU.
    """
    for name in MODELS:
        yield name, [_memory(name, *machine) for machine in MACHINES.values()]


def _memory(name: str, gpus: int, nodes: int, rank: int) -> str:
    run = Run(max_prompt=1024, max_response=1024, answers=8, prompts=64, lora_rank=rank)
    try:
        step = (chosen := plan(KNOWN[name], Machine(gpus, nodes, 80.0, None, True), run)).step
    except NothingFitsError:
        return "-"
    peak = max(total(step.training()), total(chosen.generation))
    return f"{peak:.0f}; {total(step.host()):.0f}" + (" †" if step.settings.offload_always else "")
