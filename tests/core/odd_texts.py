"""Texts that are hardly an answer: pieces of JSON and of tags, and any JSON value."""

from __future__ import annotations

import json

from hypothesis import strategies as st

FRAGMENTS = [
    *["[", "]", "{", "}", ",", ":", '"', "'", " ", "\n", "-", "&", "\\", "```", "```json\n", "1", "0.500", "-0"],
    *["<think>", "</think>", "<answer>", "</answer>", '"bbox_2d"', '"label"', '"bbox_2d": [', "[0.1,0.2,0.3,0.4]"],
    *['{"bbox_2d": [1, 2, 3, 4], "label": "cat"}', "1e309", "NaN", "null", "true", "None", "\\ud800", "\ud800", "\0"],
    *["é", "😀", "\u2028"],
]
garbage = st.one_of(st.text(st.characters()), st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["bbox_2d", "label", "x"]), inner, max_size=3)
    ),
    max_leaves=20,
).map(json.dumps)
