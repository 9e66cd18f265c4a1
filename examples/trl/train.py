"""GRPO of a vision-language model with TRL and the rewards of verl-visionr1.

    visionr1 convert coco ANNOTATIONS IMAGES rows.parquet --to trl
    python examples/trl/train.py --model Qwen/Qwen3-VL-2B-Instruct --frame qwen3-vl --data rows.parquet --out run

Copy it and change what you like: the reward is one line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import Dataset, Image, List, load_dataset
from trl import GRPOConfig, GRPOTrainer

from verl_visionr1.integrations.trl import make_reward


def read_rows(file: Path) -> Dataset:
    """Columns `prompt`, `images` (opened), `ground_truth`; others stay, and reach the reward by name."""
    kind = "parquet" if file.suffix == ".parquet" else "json"
    rows = load_dataset(kind, data_files=str(file), split="train")
    assert isinstance(rows, Dataset)
    return rows.cast_column("images", List(Image()))


def main() -> None:
    """Train, and leave the log and the sampled completions in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder, or name on the hub (then --frame too)")
    parser.add_argument("--frame", help="coordinates the model speaks in; read from a model's folder")
    parser.add_argument("--data", required=True, type=Path, help="rows of `visionr1 convert ... --to trl`")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=8, help="prompts per step")
    parser.add_argument("--generations", type=int, default=8, help="completions a prompt")
    args = parser.parse_args()

    reward = make_reward(frame=args.frame) if args.frame else make_reward(model=args.model)
    has_gpu = torch.cuda.is_available()
    config = GRPOConfig(
        output_dir=str(args.out),
        max_steps=args.steps,
        per_device_train_batch_size=args.prompts * args.generations,
        num_generations=args.generations,
        max_completion_length=256,
        learning_rate=1e-6,
        logging_steps=1,
        log_completions=True,
        report_to="none",
        bf16=has_gpu,
        use_cpu=not has_gpu,
    )
    trainer = GRPOTrainer(model=args.model, reward_funcs=[reward], args=config, train_dataset=read_rows(args.data))
    trainer.train()
    trainer.state.save_to_json(str(args.out / "trainer_state.json"))


if __name__ == "__main__":
    main()
