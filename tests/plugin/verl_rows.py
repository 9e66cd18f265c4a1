"""What verl's reward worker hands to the plug-in: a configuration, a tokenizer, and rows as it builds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from verl_visionr1 import Target

TARGET = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
ANSWER = '[{"bbox_2d": [100, 100, 200, 180], "label": "cat"}]'
IMAGE_TOKEN = 7
MODEL = {
    "model_type": "qwen2_5_vl",
    "image_token_id": IMAGE_TOKEN,
    "vision_config": {"patch_size": 14, "spatial_merge_size": 2},
}
GATED = {"schedule": {"kind": "gated", "gate": {"metric": "iou_mean", "window": 2, "bar": 0.5, "patience": 1}}}


class CharTokenizer:
    """Characters as ids: enough of a tokenizer for text that goes in and comes out."""

    name_or_path = None

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        return "".join(chr(int(i)) for i in ids)


def config_of(reward: dict | None = None, model: str | None = None, total: int = 10, **settings: object) -> Any:
    own = {"reward_kwargs": {"visionr1": {"frame": "original", **settings}}, **(reward or {})}
    return OmegaConf.create(
        {
            "actor_rollout_ref": {"actor": {"optim": {"total_training_steps": total}}, "model": {"path": model}},
            "trainer": {"v1": {"trainer_mode": "sync", "sync": {"parameter_sync_step": 1}}},
            "reward": own,
        }
    )


def model_folder(folder: Path, model_type: str = "qwen2_5_vl") -> str:
    (folder / "config.json").write_text(json.dumps(MODEL | {"model_type": model_type}))
    return str(folder)


def manager(compute_score: object = None, **more: Any) -> Any:
    from verl_visionr1.plugin.reward_manager import VisionR1RewardManager

    return VisionR1RewardManager(config_of(**more), CharTokenizer(), compute_score)


def trajectory(
    text: str, truth: object = TARGET, images_wh: tuple[tuple[int, int], ...] = ((2, 3),), **columns: object
) -> Any:
    """A DataProto as `AgentLoopWorker._compute_score` builds it: one padded row, columns as arrays, and M-RoPE
    positions of one or more images, in merged patches."""
    import torch
    from tensordict import TensorDict
    from verl import DataProto

    prompt: list[int] = []
    places: list[tuple[int, int]] = []  # row and column of each token
    for width, height in images_wh:
        start = len(prompt) + 1
        prompt += [1, *[IMAGE_TOKEN] * (width * height), 2]
        places += [(start, start), *[(start + i // width, start + i % width) for i in range(width * height)], (0, 0)]
    responses = torch.tensor([[*map(ord, text), *[0] * 5]])
    ids = torch.cat([torch.tensor([prompt], dtype=torch.long), responses], dim=1)
    attention_mask = torch.ones_like(ids)
    attention_mask[:, -5:] = 0
    positions = torch.arange(ids.shape[1]).repeat(4, 1)
    for axis in (2, 3):
        positions[axis, : len(places)] = torch.tensor([place[axis - 2] for place in places])
    tensors = {"responses": responses, "input_ids": ids, "attention_mask": attention_mask}
    truth = truth.to_json() if isinstance(truth, Target) else truth
    row = {"reward_model": {"style": "rule", "ground_truth": truth}, "index": 3, "data_source": "x", "global_steps": 1}
    return DataProto(
        batch=TensorDict({**tensors, "position_ids": positions[None]}, batch_size=1),
        non_tensor_batch={key: np.array([value]) for key, value in (row | columns).items()},
    )


def judged(reward_manager: Any, data: object) -> dict[str, Any]:
    """In the loop that the manager was made for, as in verl's worker."""
    return reward_manager.loop.run_until_complete(reward_manager.run_single(data))


def progress(total: int, **settings: Any) -> Any:
    from verl_visionr1.plugin.training_state import Progress

    return Progress(config_of(total=total, **settings))


def infos_of(unscored: float, n: int, **more: float) -> list[dict[str, float]]:
    return [{"value": 0.0, "unscored": unscored, "stage": 0.0, "match_iou": 0.5, **more} for _ in range(n)]


def write_rows(file: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Rows of (data source, ground truth, question)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = (
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": question}],
            "images": ["a.png"] * question.count("<image>"),
            "reward_model": {"style": "rule", "ground_truth": truth},
        }
        for source, truth, question in rows
    )
    pq.write_table(pa.Table.from_pylist(list(columns)), file)
    return file
