"""The supervised arm: verl's SFT trainer on the right answers to the questions of the recipe's RL run.

    python benchmarks/claims/supervised.py MODEL_DIR RUN_DIR --seed 1     # in the recipes' environment

Updates and questions per update are those of the recipe; the questions are drawn from the same training scenes. RL gets
8 answers of its own to each question; SFT gets the right one. Checkpoints have the recipe's folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from arms import ROOT

from verl_visionr1.conversion.tokens import write_answer
from verl_visionr1.frames import FRAMES
from verl_visionr1.targets import Target

STEPS, BATCH, SCENES = 22, 32, 2000
"""As in recipes/tiny_visionr1_cpu.sh."""
DATA_PREPROCESS = ROOT / "data_preprocess"


def draw_rows(folder: Path) -> Path:
    """Write the training rows of the recipe: the same scenes, converted in the same way."""
    scenes = folder / "scenes"
    rows = folder / "train.parquet"
    if not rows.is_file():
        draw = [DATA_PREPROCESS / "scenes.py", scenes, "--train", str(SCENES), "--val", "0", "--objects-min", "2"]
        annotations = scenes / "annotations" / "instances_train.json"
        convert = [DATA_PREPROCESS / "coco.py", annotations, scenes / "train", rows, "--split", "train"]
        for command in (draw, [*convert, "--task", "detection", "--negatives", "0"]):
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE)
    return rows


def write_conversations(rows: Path, seed: int, out: Path) -> None:
    """Write STEPS * BATCH of the rows, drawn without replacement, in the form of verl's SFT dataset."""
    table: list[dict[str, Any]] = pq.read_table(rows).to_pylist()
    chosen = np.random.default_rng(seed).permutation(len(table))[: STEPS * BATCH]
    pq.write_table(pa.Table.from_pylist([_conversation(table[i]) for i in chosen]), out)


def _conversation(row: dict[str, Any]) -> dict[str, Any]:
    target = Target.from_json(row["reward_model"]["ground_truth"])
    order = sorted(
        range(len(target.boxes_xyxy)), key=lambda i: target.boxes_xyxy[i]
    )  # from left to right: see the model card
    boxes, labels = [target.boxes_xyxy[i] for i in order], [target.labels[i] for i in order]
    sorted_target = Target(task=target.task, size_wh=target.size_wh, boxes_xyxy=boxes, labels=labels)
    answer = write_answer(sorted_target, FRAMES["qwen3-vl"])
    return {
        "messages": [*row["prompt"], {"role": "assistant", "content": answer}],
        "images": [{"image": str(path)} for path in row["images"]],
    }


def train(model_dir: Path, data: Path, run_dir: Path, seed: int, learning_rate: float) -> None:
    """Run verl's SFT trainer on one CPU process."""
    overrides = [
        f"data.train_files={data}",
        f"data.train_batch_size={BATCH}",
        f"data.micro_batch_size_per_gpu={BATCH}",
        "data.use_dynamic_bsz=False",
        "data.pad_mode=no_padding",
        "data.max_length=320",
        "data.num_workers=0",
        f"model.path={model_dir}",
        "model.use_remove_padding=False",
        "+model.override_config.attn_implementation=sdpa",
        "engine.strategy=fsdp2",
        "engine.use_torch_compile=False",
        f"optim.lr={learning_rate}",
        "optim.lr_scheduler_type=cosine",
        "optim.min_lr_ratio=0.1",
        "trainer.device=cpu",
        "trainer.total_epochs=1",
        f"trainer.total_training_steps={STEPS}",
        f"trainer.save_freq={STEPS}",
        f"trainer.seed={seed}",
        f"trainer.default_local_dir={run_dir / 'checkpoints'}",
        "trainer.logger=[console]",
        "trainer.project_name=claims",
        f"trainer.experiment_name=sft_{seed}",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m"]
    settings = {**os.environ, "VERL_PLATFORM": "cpu", "TORCH_COMPILE_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    with (run_dir / "train.log").open("w") as log:
        subprocess.run(
            [*command, "verl.trainer.sft_trainer", *overrides],
            check=True, stdout=log, stderr=subprocess.STDOUT, env=settings,
        )  # fmt: skip


def main(
    model_dir: Annotated[Path, typer.Argument(help="The model to start from.")],
    run_dir: Annotated[Path, typer.Argument(help="Folder of the run; made if missing.")],
    seed: Annotated[int, typer.Option(help="Seed of the questions and their order.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Falls to a tenth by a cosine.")] = 1.5e-4,
) -> None:
    """Train a model on right answers."""
    run_dir.mkdir(parents=True, exist_ok=True)
    conversations = run_dir / "sft.parquet"
    write_conversations(draw_rows(run_dir / "data"), seed, conversations)
    train(model_dir.resolve(), conversations, run_dir, seed, learning_rate)


if __name__ == "__main__":
    typer.run(main)
