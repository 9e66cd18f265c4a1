"""CPU time of one row in a reward worker: our reward manager and verl's naive manager, in the same run.

    python benchmarks/manager_speed.py                         # 1, 10 and 50 boxes; needs verl; about half a minute
    python benchmarks/manager_speed.py --boxes 10 --rounds 60

Both get the same rows, built as verl's agent loop builds them (tokens of prompt and answer, M-RoPE positions, columns
of the parquet), and return a reward. Ours reads the size of the image, decodes, and scores with preset `visionr1`. The
naive one decodes and calls a function that returns 0.0: this is verl's own cost, without any reward.

Answers and targets are those of `reward_speed.py`. The time is that of the whole process, including the thread in which
the naive manager works. Compare the ratios: microseconds depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from reward_speed import LABELS, PROCESSED_WH, Case, detection_case, fastest
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from verl_visionr1.plugin.reward_manager import VisionR1RewardManager

N_BOXES = [1, 10, 50]
N_ROWS = 64
TOKENIZER = Path(__file__).parents[1] / "recipes" / "tiny" / "qwen3_vl_scenes"
"""Qwen's tokenizer with a small vocabulary."""
PATCH, MERGE = 14, 2
"""A token of Qwen2.5-VL covers MERGE x MERGE patches of PATCH pixels."""


def build_row(case: Case, tokenizer: Any, image_token: int) -> DataProto:
    """Build one row as `AgentLoopWorker._compute_score` sends it to a reward worker."""
    text, target = case
    width, height = (side // (PATCH * MERGE) for side in PROCESSED_WH)
    question = tokenizer.encode(f"Locate every {', '.join(LABELS)} in the image. Answer in JSON.")
    prompt, answer = [*question, *[image_token] * (width * height)], tokenizer.encode(text)
    input_ids = torch.tensor([prompt + answer])
    positions = torch.arange(input_ids.shape[1]).repeat(4, 1)
    image = slice(len(question), len(prompt))
    positions[2, image] = torch.arange(height).repeat_interleave(width) + len(question)
    positions[3, image] = torch.arange(width).repeat(height) + len(question)
    tensors = {
        "prompts": torch.tensor([prompt]),
        "responses": torch.tensor([answer]),
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "position_ids": positions[None],
    }
    columns: dict[str, Any] = {
        "data_source": "visionr1/benchmark",
        "reward_model": {"style": "rule", "ground_truth": target.to_json()},
        "extra_info": {"split": "train", "index": 0},
        "index": 0,
        "global_steps": 3,
        "__num_turns__": 2,
        "prompt_len": len(prompt),
        "response_len": len(answer),
    }
    batch = TensorDict(tensors, batch_size=1)
    return DataProto(batch=batch, non_tensor_batch={key: np.array([value]) for key, value in columns.items()})


def make_config(folder: Path, image_token: int) -> DictConfig:
    """Build the part of a run's config that the managers read; writes the model's `config.json` into `folder`."""
    vision = {"patch_size": PATCH, "spatial_merge_size": MERGE}
    model = {"model_type": "qwen2_5_vl", "image_token_id": image_token, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(model))
    return OmegaConf.create(
        {
            "actor_rollout_ref": {
                "actor": {"optim": {"total_training_steps": 10}},
                "model": {"path": str(folder)},
            },
            "data": {"max_response_length": 8192},
            "trainer": {"v1": {"trainer_mode": "sync", "sync": {"parameter_sync_step": 1}}},
            "reward": {"reward_kwargs": {"visionr1": {"preset": "visionr1"}}},
        }
    )


def make_caller(manager: Any, loop: asyncio.AbstractEventLoop) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that computes the rewards of rows, one after another in one call of the event loop."""

    async def reward_all(rows: tuple[DataProto, ...]) -> list[dict[str, Any]]:
        return [await manager.run_single(row) for row in rows]

    return lambda *rows: loop.run_until_complete(reward_all(rows))


def measure(n: int, rounds: int) -> dict[str, float]:
    """Return manager -> microseconds of CPU per row with `n` boxes."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    rows = tuple(build_row(detection_case(n, seed), tokenizer, image_token) for seed in range(N_ROWS))
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(Path(folder), image_token)
        ours = VisionR1RewardManager(config, tokenizer, None)
        make_naive: Any = NaiveRewardManager  # its decorator hides its parameters
        naive = make_naive(config, tokenizer, lambda **_: 0.0)
    subjects = {"visionr1": (make_caller(ours, loop), [rows]), "naive": (make_caller(naive, loop), [rows])}
    found = fastest(subjects, rounds)
    loop.close()
    return {name: spent / N_ROWS for name, spent in found.items()}


def main() -> None:
    """Print a table: microseconds per row, and the ratio to verl's naive manager."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", nargs="+", type=int, default=N_BOXES)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    columns = [measure(n, options.rounds) for n in options.boxes]
    lines = [f"{'us of CPU/row, ratio to naive':32}" + "".join(f"{f'{n} boxes':>18}" for n in options.boxes)]
    for name in ("naive", "visionr1"):
        cells = (f"{column[name]:10.1f} ({column[name] / column['naive']:.2f})" for column in columns)
        lines.append(f"{name:32}" + "".join(f"{cell:>18}" for cell in cells))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
