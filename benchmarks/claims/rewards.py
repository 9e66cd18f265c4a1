"""Measures which reward orders models like average precision: all presets of boxes score the same held-out answers.

No training: the answers of each run of the study are scored again. Two models are compared if the interval of the
difference of their APs, over the same resamples of scenes, excludes 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from verl_visionr1 import PRESETS, Target, score

FRAME = "qwen3-vl"
"""The coordinate frame of the study's model."""
NAMES = tuple(
    name
    for name, preset in PRESETS.items()
    if "detection" in preset.tasks and "rec" not in name and name != "vlmr1-ovd-released"
)
"""Presets of detection, except the one that needs VLM-R1's tags and pixels, which gives 0 for every answer."""
STAGES = (0.0, 1.0)
"""Progress: the thresholds of the first step and of the last one."""


def mean_rewards(predictions: Path, source: str) -> dict[str, list[float]]:
    """Return preset -> the mean reward of a model's answers to one held-out set, at each of `STAGES`.

    Args:
        predictions: `predictions.jsonl` of `visionr1 eval`.
        source: the data source of the set's rows.
    """
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    rows = [row for line in predictions.read_bytes().splitlines() if (row := decode(line))["data_source"] == source]
    cases = [(row["output"], Target.from_json(row["gts"])) for row in rows]
    return {name: [round(_mean_reward(cases, name, progress), 5) for progress in STAGES] for name in NAMES}


def _mean_reward(cases: Iterable[tuple[str, Target]], preset: str, progress: float) -> float:
    values = [score(text, target, preset=preset, frame=FRAME, progress=progress).value for text, target in cases]
    return float(np.mean(values))


def decided_pairs(draws: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Return the pairs of models (better, worse) whose values differ, by their draws over the same resamples."""
    pairs: list[tuple[int, int]] = []
    for a, b in combinations(range(len(draws)), 2):
        low, high = np.quantile(draws[a] - draws[b], [0.025, 0.975])
        if low > 0.0 or high < 0.0:
            pairs.append((a, b) if low > 0.0 else (b, a))
    return pairs


def share_in_order(values: Sequence[float], pairs: Sequence[tuple[int, int]]) -> float:
    """Return the share of pairs (better, worse) that the values order the same way; ties count as half.

    >>> share_in_order([0.1, 0.4, 0.4], [(1, 0), (2, 1)])
    0.75
    """
    return float(sum((np.sign(values[a] - values[b]) + 1.0) / 2.0 for a, b in pairs) / len(pairs))


def ranking_table(records: Sequence[Mapping[str, Any]], draws: Sequence[np.ndarray]) -> str:
    """Write a Markdown table: for each preset the share of pairs of runs that it orders as AP does.

    Args:
        records: records of `study.keep` with rewards.
        draws: AP in domain of each run, one value per resample.
    """
    pairs = decided_pairs(draws)
    if not pairs:
        return "no pair of runs differs in AP yet"
    lines = ["| reward | at the first step's thresholds | at the last step's |", "|---|---|---|"]
    shares: dict[str, list[float]] = {
        name: [share_in_order([record["rewards"][name][i] for record in records], pairs) for i in range(len(STAGES))]
        for name in NAMES
    }
    shares |= {key: [share_in_order([r["held_out"]["in_domain"][key] for r in records], pairs)] for key in ("f1_50",)}
    for name, found in sorted(shares.items(), key=lambda item: -item[1][-1]):
        lines.append(f"| `{name}` | {found[0]:.1%} | {found[-1]:.1%} |")
    return "\n".join([f"{len(records)} models, {len(pairs)} pairs that differ in AP.", "", *lines])
