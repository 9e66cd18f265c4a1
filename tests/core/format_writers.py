"""A writer for each answer format that holds places: items are (label, numbers)."""

from __future__ import annotations

import json
from collections.abc import Callable
from string import ascii_lowercase

from hypothesis import settings
from hypothesis import strategies as st

from verl_visionr1.answers import FORMATS

O, P, B, E = "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"  # noqa: E741
GLM, GLM_END = "<|begin_of_box|>", "<|end_of_box|>"


PLACES = [name for name in FORMATS if FORMATS[name].frames or name in ("list", "point")]
READING = [name for name in PLACES if name != "visionr1-released"]
FOR_BOXES = [name for name in READING if "points" not in name and name != "point"]


def write_molmo(items: list) -> str:
    return "".join(f'<point x="{x}" y="{y}" alt="{label}">{label}</point>' for label, (x, y) in items)


WRITERS: dict[str, Callable[[list], str]] = {
    "qwen-json": lambda items: json.dumps([{"bbox_2d": box, "label": label} for label, box in items]),
    "vlmr1-json": lambda items: (
        "<think>hm</think>\n<answer>\n```json\n"
        + json.dumps([{"bbox_2d": box, "label": label} for label, box in items])
        + "\n```\n</answer>"
    ),
    "qwen2-vl": lambda items: "".join(
        f"{O}{label}{P}{B}({x1},{y1}),({x2},{y2}){E}" for label, (x1, y1, x2, y2) in items
    ),
    "internvl": lambda items: "\n".join(
        f"<ref>{label}</ref><box>[[{', '.join(map(str, box))}]]</box>" for label, box in items
    ),
    "glm": lambda items: f"{GLM}{json.dumps([box for _, box in items])}{GLM_END}",
    "griffon": lambda items: "&".join(f"{label}-[{','.join(f'{v / 1000:.3f}' for v in box)}]" for label, box in items),
    "paligemma": lambda items: " ; ".join(
        f"<loc{y1:04}><loc{x1:04}><loc{y2:04}><loc{x2:04}> {label}" for label, (x1, y1, x2, y2) in items
    ),
    "gemma-json": lambda items: json.dumps(
        [{"box_2d": [y1, x1, y2, x2], "label": label} for label, (x1, y1, x2, y2) in items]
    ),
    "list": lambda items: json.dumps([box for _, box in items]),
    "qwen-points": lambda items: json.dumps([{"point_2d": box[:2], "label": label} for label, box in items]),
    "molmo-points": lambda items: write_molmo([(label, box[:2]) for label, box in items]),
    "point": lambda items: json.dumps([box[:2] for _, box in items]),
}

few = settings(max_examples=15)  # for each format
word = st.text(ascii_lowercase, min_size=1, max_size=6)
words = st.lists(word, min_size=1, max_size=2).map(" ".join).filter(lambda text: text not in ("nan", "inf"))
ordered = st.tuples(*[st.integers(0, 499)] * 2, *[st.integers(1, 499)] * 2).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
items_of_boxes = st.lists(st.tuples(words, ordered), min_size=1, max_size=6)
