"""Run the reward through ms-swift's own reward computation; prints what it found as JSON.

    PYTHONPATH=<ms-swift unpacked>:. python tests/swift_contract.py

A script: ms-swift patches the libraries that it imports. `test_other_frameworks.py` reads it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from framework_answers import SIZES_WH, largest_difference, make_answers  # noqa: E402
from swift.rewards import ORM, orms  # noqa: E402
from swift.rl_core.data import GRPOSample  # noqa: E402
from swift.rl_core.grpo_algorithm import compute_rewards_per_func  # noqa: E402

from verl_visionr1.functions import load_function  # noqa: E402
from verl_visionr1.integrations.ms_swift import make_orm  # noqa: E402
from verl_visionr1.processed import PROCESSORS, size_by_loader  # noqa: E402
from verl_visionr1.schedule import progress_at  # noqa: E402

TOTAL_STEPS = 10


def rewards(name: str, rows: list[Any], **state: int) -> list[float]:
    """The rewards of rows as the trainer computes them, by a name that stands in `orms`."""
    samples = []
    for target, text in rows:
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]
        columns = {"solution": target.to_json(), "data_source": "x", "extra_info": {"split": "train"}}
        samples.append(GRPOSample.from_row({"messages": messages, **columns}))
    trainer_state = SimpleNamespace(**state) if state else None
    functions = [orms[name](args=SimpleNamespace())]
    return compute_rewards_per_func(samples, functions, [None], torch.device("cpu"), trainer_state)[:, 0].tolist()


def main() -> None:
    """Print the findings as one line of JSON."""
    found: dict[str, Any] = {}
    load_function(f"{ROOT / 'examples' / 'ms_swift' / 'plugin.py'}:make_orm")  # as --external_plugins does
    found["registered"] = [orms["visionr1"].__name__, issubclass(orms["visionr1"], ORM)]
    orms["processed"] = make_orm(frame="qwen2.5-vl")
    orms["recall"] = make_orm(frame="qwen3-vl", metric="recall")

    def processed(size_wh: tuple[int, int]) -> tuple[int, int]:
        return size_by_loader(size_wh, PROCESSORS["qwen2.5-vl"], {})

    rows = make_answers("qwen2.5-vl", processed)
    given = rewards("processed", rows, global_step=0, max_steps=TOTAL_STEPS)
    found["perfect"] = given[: len(SIZES_WH)]
    found["processed"] = largest_difference(given, rows, "qwen2.5-vl", processed, progress=0.0)
    rows = make_answers("qwen3-vl", processed)
    for step in (1, 5, 6, 10):
        when = {"global_step": step - 1, "max_steps": TOTAL_STEPS}
        told: Any = (rows, "qwen3-vl", processed)
        for name, reward, metric in (("step", "visionr1", "value"), ("recall", "recall", "recall")):
            given = rewards(reward, rows, **when)
            progress = progress_at(step, TOTAL_STEPS)
            found[f"{name} {step}"] = largest_difference(given, *told, metric=metric, progress=progress)
    try:
        rewards("visionr1", rows[:1])
    except ValueError as error:
        found["missing"] = type(error).__name__
    print(json.dumps(found))


if __name__ == "__main__":
    main()
