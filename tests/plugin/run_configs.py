"""verl's own configuration of a run, and parquet files of rows."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from verl_visionr1 import Target
from verl_visionr1.rewards.context import STATE_FILE
from verl_visionr1.rollouts.places import TRACKER

SPEC = importlib.util.find_spec("verl")
CONFIGS = Path(str(SPEC.origin)).parent / "trainer" / "config" if SPEC is not None else Path()
OURS = Path(__file__).parents[2] / "verl_visionr1" / "config" / "visionr1" / "progressive.yaml"
RUN = (
    *("actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.model.path=Qwen/Qwen2.5-VL-7B-Instruct"),
    *("data.train_batch_size=8", "data.max_prompt_length=512", "actor_rollout_ref.actor.ppo_mini_batch_size=8"),
    *("actor_rollout_ref.rollout.n=4", "algorithm.adv_estimator=grpo", "trainer.total_epochs=2"),
    *("actor_rollout_ref.actor.use_dynamic_bsz=true", "trainer.default_local_dir=/no/checkpoints"),
    *("data.train_files=/no/train.parquet", "data.val_files=/no/val.parquet"),
)


def config_of(*overrides: str) -> DictConfig:
    """verl's own configuration, with the flag and some overrides; without Hydra, whose composition takes long."""
    plain = [_as_yaml(override.lstrip("+")) for override in overrides]
    return OmegaConf.merge(base(), OmegaConf.from_dotlist(plain))  # type: ignore[return-value]


def _as_yaml(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key}={value.replace(':', ': ')}" if value.startswith("{") and ": " not in value else override


@lru_cache(maxsize=1)
def base() -> DictConfig:
    own = OmegaConf.load(CONFIGS / "_generated_ppo_trainer.yaml")
    return OmegaConf.merge(own, OmegaConf.load(OURS), OmegaConf.from_dotlist([*RUN]))  # type: ignore[return-value]


def row(
    size_wh: tuple[int, int] = (100, 100), n_images: int = 1, question: str = "Where is the cat?"
) -> dict[str, Any]:
    target = Target(task="detection", size_wh=size_wh, boxes_xyxy=[[1, 1, 9, 9]], labels=["cat"])
    return {
        "data_source": "x",
        "prompt": [{"role": "user", "content": "<image>" * n_images + question}],
        "images": ["a.png"] * n_images,
        "reward_model": {"style": "rule", "ground_truth": target.to_json()},
    }


def write(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.Table.from_pylist([row()]).schema), file)
    return str(file)


def checkpoint(folder: Path, step: int, total_steps: int | None = None) -> Path:
    """An empty checkpoint of a step, the one that verl would resume from."""
    (folder / f"global_step_{step}" / "actor").mkdir(parents=True)
    (folder / TRACKER).write_text(str(step))
    if total_steps is not None:
        state = {"total_steps": total_steps, "step": step}
        (folder / f"global_step_{step}" / STATE_FILE).write_text(json.dumps(state))
    return folder / f"global_step_{step}"
